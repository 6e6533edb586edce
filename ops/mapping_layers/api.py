"""Public face of the op `mapping_layers`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ops import _dispatch
from ops._native import register_native
from ops.bias_act.kernels import LEAKY_SLOPES
from ops.mapping_layers import autograd, kernels, reference

register_native(
    "mapping_layers",
    cpu_sources=("mapping_layers_cpu.cpp",),
    dtypes=(torch.float32, torch.float64),
    unsupported=kernels.why_not,
)


def mapping_layers(
    z: Tensor | None,  # [N, Z]
    c: Tensor | None,  # [N, C]
    embed: tuple[Tensor, Tensor] | None,  # [E, C] and [E]
    layers: Sequence[tuple[Tensor, Tensor]],  # K of [O, I] and [O]
    act: str = "lrelu",
    lr_multiplier: float = 1,
    impl: str = "auto",
) -> Tensor:  # [N, O_K]
    """StyleGAN2's mapping network (Karras et al. 2019): latents and labels to w.

    x_0 = [norm(z); norm(W_e c / sqrt(C) + b_e)] with norm(v) = v / sqrt(mean(v^2) + 1e-8), then
    x_k = act(lr (W_k x_{k-1} / sqrt(I_k) + b_k)), with the activation's default gain.

    On a CPU all of it runs as one kernel forward and one backward, for batches up to 128 and the
    activations "linear" and "lrelu".

    Gradients: 1st order by the kernel where it runs, higher ones composed.

    Args:
        z: Latents, floating point; None = no latent.
        c: Labels of the same dtype; None = unconditional.
        embed: W_e and b_e; None goes with c None.
        layers: W_k and b_k; there may be none.
        act: Activation of the layers, a key of `ops.bias_act.activation_funcs`.
        lr_multiplier: lr; the embedding has none.
        impl: "auto", "ref" or "cpp", see `ops._dispatch.choose`.

    Returns:
        x_K, or x_0 without layers.

    Raises:
        ValueError: If the shapes do not fit each other, or z and c are missing.
        RuntimeError: impl="cpp", and the kernel does not take the call.
    """
    # A number: a tensor may change between two calls that look the same.
    lr_multiplier = float(lr_multiplier)
    if _dispatch.is_traced():
        if impl == "cpp":
            where = "under autocast or torch.compile"
            raise RuntimeError(f"mapping_layers: impl='cpp' cannot run {where}")
        _check_shapes(z, c, embed, layers)
    else:
        weights, biases = ([layer[part] for layer in layers] for part in (0, 1))
        tensors = [z, c, *((None, None) if embed is None else embed), *weights, *biases]

        def find_call() -> kernels.MappingCall | None:
            _check_shapes(z, c, embed, layers)
            return _find_call(tensors, kernels.MappingOptions(act, lr_multiplier), impl)

        question = (impl, act, lr_multiplier, len(layers))
        call = _dispatch.remembered("mapping_layers", question, tensors, find_call)
        if call is not None:
            return autograd.native_mapping(call, tensors)
    return reference.mapping_layers(z, c, embed, layers, act, lr_multiplier, impl)


def _find_call(
    tensors: Sequence[Tensor | None], options: kernels.MappingOptions, impl: str
) -> kernels.MappingCall | None:
    """The kernels bound to calls with tensors like these; None = they are not what runs."""
    reasons = []
    if options.act not in LEAKY_SLOPES:
        reasons.append(f"it knows the activations {', '.join(LEAKY_SLOPES)}")
    labels = tensors[1]
    if torch.is_grad_enabled() and labels is not None and labels.requires_grad:
        reasons.append("it has no gradient of labels")
    if reasons and impl == "cpp":
        raise RuntimeError(f"mapping_layers: impl='cpp' cannot run: {'; '.join(reasons)}")
    if reasons or _dispatch.choose("mapping_layers", tensors, impl)[0] != "cpp":
        return None
    return kernels.MappingCall(tensors, options)


def _check_shapes(
    z: Tensor | None,
    c: Tensor | None,
    embed: tuple[Tensor, Tensor] | None,
    layers: Sequence[tuple[Tensor, Tensor]],
) -> None:
    if z is None and c is None:
        raise ValueError("mapping_layers needs latents z, labels c, or both")
    if (c is None) != (embed is None):
        raise ValueError("mapping_layers: labels c and their embedding go together")
    if z is not None and c is not None and z.shape[0] != c.shape[0]:
        raise ValueError(
            f"z and c must have the same batch size, not {z.shape[0]} and {c.shape[0]}."
        )
    width = 0 if z is None else z.shape[1]
    if c is not None:
        weight, bias = embed
        if tuple(weight.shape) != (bias.numel(), c.shape[1]):
            raise ValueError(
                f"mapping_layers: an embedding {list(weight.shape)}, {list(bias.shape)} of labels "
                f"{list(c.shape)}"
            )
        width += bias.shape[0]
    for index, (weight, bias) in enumerate(layers):
        if tuple(weight.shape) != (bias.numel(), width) or bias.ndim != 1:
            raise ValueError(
                f"mapping_layers: layer {index} of {width} features has the weight "
                f"{list(weight.shape)} and the bias {list(bias.shape)}"
            )
        width = bias.shape[0]
