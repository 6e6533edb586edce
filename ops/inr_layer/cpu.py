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


def run_chain(library: Any, chain: Chain, want_features: bool) -> tuple[Tensor | None, Tensor]:
    """Computes a chain that `Chain.unsupported` has nothing against. No gradients.

    Args:
        library: The C++ library of `inr_layer`.
        chain: What to compute.
        want_features: Whether the features are wanted.

    Returns:
        Features [N, O, H, W] or None, and the image [N, C, H, W], None without `rgb`.
    """
    first, last, sums = chain.layers[0], chain.layers[-1], chain.sum_dtype()
    height, width = chain.size()
    batch = first.shape[0]
    features = image = None
    if want_features:
        features = first.new_empty([batch, last.shape[1], height, width])
    if chain.rgb is not None:
        image = first.new_empty([batch, chain.rgb.shape[1], height, width], dtype=sums)
    fields = _layer_fields(chain) | tap_fields(chain.taps, sums) | coord_fields(chain.coords)
    x, img = (None if part is None else part.contiguous() for part in (chain.x, chain.img))
    low = chain.x if chain.x is not None else chain.img
    library.call(
        "inr_tiles_forward",
        x=x,
        img=img,
        rgb=None if chain.rgb is None else chain.rgb.contiguous(),
        rgb_bias=None if chain.rgb_bias is None else chain.rgb_bias.contiguous(),
        features=features,
        image=image,
        dtype=first.dtype,
        batch=batch,
        in_channels=0 if x is None else x.shape[1],
        colours=0 if image is None else image.shape[1],
        height=height,
        width=width,
        low_height=0 if low is None else low.shape[2],
        low_width=0 if low is None else low.shape[3],
        threads=torch.get_num_threads(),
        slope=LEAKY_SLOPES[chain.act],
        gain=chain.resolved_gain(),
        clamp=-1.0 if chain.clamp is None else chain.clamp,
        **fields,
    )
    return features, image


def _layer_fields(chain: Chain) -> dict[str, Any]:
    fields: dict[str, Any] = {"layers": len(chain.layers)}
    for index, (weight, bias) in enumerate(zip(chain.layers, chain.biases, strict=True)):
        fields[f"weight{index}"] = weight.contiguous()
        fields[f"out{index}"] = weight.shape[1]
        if bias is not None:
            fields[f"bias{index}"] = bias.contiguous()
            fields[f"bias_stride{index}"] = weight.shape[1] if bias.ndim == 2 else 0
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
