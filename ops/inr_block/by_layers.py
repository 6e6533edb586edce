"""`inr_block` where its own kernel has no room: layer by layer, the last one with its image.

On CUDA, inference only. What is spared is to read the last features again for to-RGB, and to write
them where nobody wants them.
"""

from __future__ import annotations

from torch import Tensor

from ops import _dispatch
from ops.bias_act import bias_act
from ops.inr_layer import autograd, inr_layer, lattice_upsample
from ops.inr_layer.cpu import Chain
from ops.inr_layer.kernels import MAX_COLORS

_MOST = 2**31 - 1


def find_impl(chain: Chain) -> str | None:
    """Whose kernels `block_by_layers` uses, "cuda" or emulated "cpp"; None = they do not take it.

    Args:
        chain: A call of `inr_block` whose shapes fit each other and that wants no gradient.
    """
    weight, rgb = chain.layers[0], chain.rgb
    if rgb.shape[1] > MAX_COLORS:
        return None
    alike = [*chain.layers, *chain.biases, rgb]
    if any(t.dtype != weight.dtype or t.device != weight.device for t in alike):
        return None
    options = {"act": chain.act, "gain": chain.gain, "clamp": chain.clamp}
    options |= {"taps": chain.taps, "coords": chain.coords}
    if autograd.supports(weight, chain.x, chain.biases[0], **options) is not None:
        return None
    height, width = chain.size()
    widest = max(t.shape[1] for t in chain.layers)
    if any(t.numel() == 0 for t in alike) or widest * height * width > _MOST:
        return None
    parts = [] if chain.coords is None else chain.coords.parts()
    chosen, _reasons = _dispatch.choose("inr_layer", [*alike, chain.x, *parts])
    if chosen == "ref":
        return None
    library = _dispatch.kernel_module("inr_layer", chosen)
    return chosen if library.has("inr_layer_forward") else None


def block_by_layers(
    impl: str, chain: Chain, want_features: bool
) -> tuple[Tensor | None, Tensor]:  # [N, O, H, W], [N, C, H, W]
    """Computes a block.

    Args:
        impl: What `find_impl` answers.
        chain: The call.
        want_features: Whether the features are wanted.

    Returns:
        As `ops.inr_block.api.inr_block`.
    """
    options = {"act": chain.act, "gain": chain.gain, "clamp": chain.clamp}
    x, first = chain.x, {"taps": chain.taps, "coords": chain.coords}
    for weight, bias in zip(chain.layers[:-1], chain.biases[:-1]):
        x = inr_layer(weight, x, bias, **first, **options)
        first = {}
    features, image = autograd.layer_with_image(
        impl,
        chain.rgb,
        chain.layers[-1],
        x,
        chain.biases[-1],
        **first,
        **options,
        want_features=want_features,
    )
    image = bias_act(image.to(chain.rgb_bias.dtype), chain.rgb_bias, clamp=chain.clamp)
    if chain.img is not None:
        taps = chain.taps
        image = image + (chain.img if taps is None else lattice_upsample(chain.img, *taps))
    return features, image
