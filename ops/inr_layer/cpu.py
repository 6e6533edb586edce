"""Chains of 1x1 layers on CPUs without gradients, in C++: tiles of pixels that stay in the cache.

`inr_layer` is a chain of one layer, `inr_block` one of a few layers and to-RGB. Sums are float32
also for bfloat16, where features are rounded only when they leave the chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ops import _dispatch
from ops.bias_act import activation_funcs
from ops.bias_act.kernels import LEAKY_SLOPES
from ops.inr_layer.inputs import AxisTaps, CoordFeatures, PointTaps

# As inr_tiles.h: so many weights it has fields for.
_MAX_LAYERS = 4
_WEIGHTS = ("weight0", "weight1", "weight2", "weight3")
_BIASES = ("bias0", "bias1", "bias2", "bias3")

_DTYPES = (torch.float32, torch.float64, torch.bfloat16)


class Chain(NamedTuple):
    """A chain of layers as `inr_block` describes it; without `rgb` there is no image.

    Attributes:
        layers, biases, rgb, rgb_bias, x, img, taps, coords, act, gain, clamp: As of
            `ops.inr_block.inr_block`; biases may be None.
    """

    layers: Sequence[Tensor]
    biases: Sequence[Tensor | None]
    rgb: Tensor | None = None
    rgb_bias: Tensor | None = None
    x: Tensor | None = None
    img: Tensor | None = None
    taps: tuple[AxisTaps, ...] | tuple[PointTaps] | None = None
    coords: CoordFeatures | None = None
    act: str = "lrelu"
    gain: float | None = None
    clamp: float | None = None

    def sum_dtype(self) -> torch.dtype:
        """Type of sums, of the image and of weights of taps."""
        return torch.float64 if self.layers[0].dtype == torch.float64 else torch.float32

    def resolved_gain(self) -> float:
        """The gain, or the activation's default."""
        return activation_funcs[self.act].def_gain if self.gain is None else float(self.gain)

    def size(self) -> tuple[int, ...]:
        """(H, W) of the output."""
        if self.taps is not None:
            return tuple(axis.index.shape[0] for axis in self.taps)
        return self.coords.grid_size() if self.x is None else tuple(self.x.shape[2:])

    def tensors(self) -> list[Tensor | None]:
        """All tensors, also those that describe points; None for what is absent."""
        axes = () if self.taps is None else self.taps
        taps = [tensor for axis in axes for tensor in (axis.index, axis.weight)]
        ends = (self.rgb, self.rgb_bias, self.x, self.img)
        return [*self.layers, *self.biases, *ends, *taps, *(self.coords or ())]

    def unsupported(self) -> list[str]:
        """Why the C++ function cannot compute this, one sentence each; empty = it can."""
        dtype = self.layers[0].dtype
        parts = [] if self.coords is None else self.coords.parts()
        alike = [*self.layers, *self.biases, *parts, self.rgb, self.x]
        sums = [self.rgb_bias, self.img]
        reasons = []
        present = [tensor for tensor in [*alike, *sums] if tensor is not None]
        if _dispatch.device_types(present) != {"cpu"}:
            reasons.append("it needs tensors on the CPU")
        if dtype not in _DTYPES:
            reasons.append("it computes in float32, float64 and bfloat16")
        elif {t.dtype for t in alike if t is not None} != {dtype} or not (
            {t.dtype for t in sums if t is not None} <= {self.sum_dtype()}
        ):
            reasons.append("tensors have different dtypes")
        if self.act not in LEAKY_SLOPES:
            reasons.append(f"it knows the activations {', '.join(LEAKY_SLOPES)}")
        if len(self.layers) > _MAX_LAYERS:
            reasons.append(f"it takes up to {_MAX_LAYERS} layers")
        if not self._is_plane():
            reasons.append("it takes grids along two axes")
        return reasons

    def _is_plane(self) -> bool:
        if self.taps is not None:
            if len(self.taps) != 2:
                return False
            if self.taps[0].index.shape[1] != self.taps[1].index.shape[1]:
                return False
        has_slices = self.coords is not None and self.coords.slices is not None
        return len(self.size()) == 2 and not has_slices


class ChainCall:
    """`inr_tiles_forward` for chains with tensors of the same shapes.

    Args:
        library: The C++ library of `inr_layer`.
        chain: One of them, which `Chain.unsupported` has nothing against.
        want_features: Whether the features are wanted.
    """

    def __init__(self, library: Any, chain: Chain, want_features: bool) -> None:
        first, last, (height, width) = chain.layers[0], chain.layers[-1], chain.size()
        batch, self._sums = first.shape[0], chain.sum_dtype()
        self._features = self._image = None
        if want_features:
            self._features = (batch, last.shape[1], height, width)
        if chain.rgb is not None:
            self._image = (batch, chain.rgb.shape[1], height, width)
        self._forward = library.bind("inr_tiles_forward", **chain_constants(chain))

    def __call__(self, chain: Chain) -> tuple[Tensor | None, Tensor | None]:
        """Features [N, O, H, W] and image [N, C, H, W], None where not wanted. No gradients."""
        first, features, image = chain.layers[0], None, None
        if self._features is not None:
            features = first.new_empty(self._features)
        if self._image is not None:
            image = first.new_empty(self._image, dtype=self._sums)
        self._forward(features=features, image=image, **chain_fields(chain))
        return features, image


def run_chain(
    library: Any, chain: Chain, want_features: bool
) -> tuple[Tensor | None, Tensor | None]:
    """A single call of `ChainCall`."""
    return ChainCall(library, chain, want_features)(chain)


def chain_constants(chain: Chain) -> dict[str, Any]:
    """What the C++ functions' params say of all chains with tensors of the same shapes."""
    height, width = chain.size()
    below = chain.x if chain.x is not None else chain.img
    if below is not None:
        low_height, low_width = below.shape[2:]
    else:
        low_height, low_width = (axis.size for axis in chain.taps) if chain.taps else (0, 0)
    fields = {
        "layers": len(chain.layers),
        "dtype": chain.layers[0].dtype,
        "batch": chain.layers[0].shape[0],
        "in_channels": 0 if chain.x is None else chain.x.shape[1],
        "colours": 0 if chain.rgb is None else chain.rgb.shape[1],
        "height": height,
        "width": width,
        "low_height": low_height,
        "low_width": low_width,
        "threads": torch.get_num_threads(),
        "slope": LEAKY_SLOPES[chain.act],
        "gain": chain.resolved_gain(),
        "clamp": -1.0 if chain.clamp is None else chain.clamp,
    }
    for index, (weight, bias) in enumerate(zip(chain.layers, chain.biases, strict=True)):
        fields[f"out{index}"] = weight.shape[1]
        per_image = bias is not None and bias.ndim == 2
        fields[f"bias_stride{index}"] = weight.shape[1] if per_image else 0
    return fields


def chain_fields(chain: Chain) -> dict[str, Any]:
    """The fields of the C++ functions' params that hold a chain's tensors."""
    parts = {"x": chain.x, "img": chain.img, "rgb": chain.rgb, "rgb_bias": chain.rgb_bias}
    parts.update(zip(_WEIGHTS, chain.layers))
    parts.update(zip(_BIASES, chain.biases))
    fields = {name: part if part is None else part.contiguous() for name, part in parts.items()}
    fields.update(tap_fields(chain.taps, chain.sum_dtype()))
    fields.update(coord_fields(chain.coords))
    return fields


def tap_fields(
    taps: tuple[AxisTaps, AxisTaps] | None, sums: torch.dtype
) -> dict[str, Tensor | int]:
    """The fields of the C++ functions' params that describe taps; sums: type of their weights."""
    if taps is None:
        return {}
    fields: dict[str, Tensor | int] = {"taps": taps[0].index.shape[1]}
    for name, axis in zip(("row", "col"), taps, strict=True):
        fields[f"{name}_index"] = axis.index.contiguous()
        weight = axis.weight if axis.weight.dtype == sums else axis.weight.to(sums)
        fields[f"{name}_weight"] = weight.contiguous()
    return fields


def coord_fields(coords: CoordFeatures | None) -> dict[str, Tensor | int]:
    """The fields of the C++ functions' params that describe coordinate features."""
    if coords is None:
        return {}
    fields: dict[str, Tensor | int] = {}
    counts = {"cols": "col_channels", "rows": "row_channels"}
    for part in ("cols", "rows", "shared", "own"):
        tensor = getattr(coords, part)
        if tensor is not None:
            fields[part] = tensor.contiguous()
            fields[counts.get(part, f"{part}_channels")] = tensor.shape[1 if part == "own" else 0]
    return fields


def upsample(library: Any, x: Tensor, taps: tuple[AxisTaps, AxisTaps]) -> Tensor:
    """`lattice_upsample` in C++, without gradients, equal to what `run_chain` does with images.

    Args:
        library: The C++ library of `inr_layer`.
        x: [N, C, h, w], float32 or float64.
        taps: Vertical and horizontal taps, of as many entries each.
    """
    sizes = [axis.index.shape[0] for axis in taps]
    y = x.new_empty([*x.shape[:2], *sizes])
    library.call(
        "inr_tiles_upsample",
        x=x.contiguous(),
        y=y,
        dtype=x.dtype,
        planes=x.shape[0] * x.shape[1],
        height=sizes[0],
        width=sizes[1],
        low_height=x.shape[2],
        low_width=x.shape[3],
        threads=torch.get_num_threads(),
        **tap_fields(taps, x.dtype),
    )
    return y
