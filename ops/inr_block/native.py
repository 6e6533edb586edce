"""`inr_block` on tensor cores: which calls the kernel takes, and how it is launched.

Inference only; there is no gradient. Nothing here waits for the device or depends on values.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from ops import _dispatch
from ops._native import native_op
from ops.bias_act import activation_funcs
from ops.bias_act.kernels import PIECEWISE_LINEAR
from ops.inr_block.plan import KIB, TILES, Limits, Plan, device_limits, make_plan
from ops.inr_layer.inputs import AxisTaps, CoordFeatures, PointTaps

MAX_LAYERS = 4
MAX_RGB_CHANNELS = 8
DTYPES = (torch.float16, torch.bfloat16)

_ALIGNED = 8  # elements of 16 bytes
_MOST = 2**31 - 1


def supports(
    layers: Sequence[Tensor],
    biases: Sequence[Tensor],
    rgb: Tensor,
    rgb_bias: Tensor,
    x: Tensor | None = None,
    img: Tensor | None = None,
    *,
    taps: tuple[AxisTaps, ...] | tuple[PointTaps] | None = None,
    coords: CoordFeatures | None = None,
    act: str = "lrelu",
    gain: float | None = None,
    clamp: float | None = None,
) -> str | None:
    """Why the kernel does not take a call of `inr_block`; None = it does.

    Args: as of `ops.inr_block.api.inr_block`, whose shapes fit each other.
    """
    weight = layers[0]
    parts = [] if coords is None else coords.parts()
    values = [*layers, *biases, rgb, *parts] + ([] if x is None else [x])
    colors = [rgb_bias] + ([] if img is None else [img])
    limits = device_limits(weight.device)
    checks = [
        (act not in PIECEWISE_LINEAR, f"the kernel knows {', '.join(PIECEWISE_LINEAR)}, not {act}"),
        (clamp is not None and clamp < 0, f"the clamp must not be negative, got {clamp}"),
        (weight.dtype not in DTYPES, f"no kernel for {weight.dtype}"),
        (any(t.dtype != weight.dtype for t in values), "tensors of several dtypes"),
        (any(t.dtype != torch.float32 for t in colors), "an image that is not float32"),
        (any(t.device != weight.device for t in values + colors), "tensors on several devices"),
        (any(t.numel() == 0 for t in values + colors), "an empty tensor"),
        (
            weight.dtype == torch.bfloat16 and not limits.has_bfloat16,
            "tensor cores without bfloat16",
        ),
        (len(layers) > MAX_LAYERS, f"more than {MAX_LAYERS} layers"),
        (rgb.shape[1] > MAX_RGB_CHANNELS, f"more than {MAX_RGB_CHANNELS} channels of the image"),
        (any(w.shape[1] != weight.shape[1] for w in layers), "layers of several widths"),
        (not _is_plane(x, img, coords), "points of one or three coordinates"),
    ]
    for applies, reason in checks:
        if applies:
            return reason
    return _why_not_grid(x, img, taps, coords) or _why_not_size(
        layers, rgb, x, taps, coords, limits
    )


def _is_plane(x: Tensor | None, img: Tensor | None, coords: CoordFeatures | None) -> bool:
    if any(tensor is not None and tensor.ndim != 4 for tensor in (x, img)):
        return False
    return coords is None or (coords.slices is None and len(coords.grid_size()) == 2)


def _why_not_grid(
    x: Tensor | None,
    img: Tensor | None,
    taps: tuple[AxisTaps, ...] | tuple[PointTaps] | None,
    coords: CoordFeatures | None,
) -> str | None:
    size = _grid_size(x, taps, coords)
    if taps is not None:
        if isinstance(taps[0], PointTaps) or len(taps) != 2:
            return "taps of single points"
        if len({axis.index.shape[1] for axis in taps} | {1, 2}) > 2 or (
            taps[0].index.shape[1] != taps[1].index.shape[1]
        ):
            return "taps that are neither nearest nor bilinear along both axes"
        lattice = tuple(axis.size for axis in taps)
        if any(t is not None and tuple(t.shape[2:]) != lattice for t in (x, img)):
            return "taps of a lattice of another size"
    elif img is not None and tuple(img.shape[2:]) != size:
        return "an image on another grid"
    if coords is not None and tuple(coords.grid_size()) != size:
        return "features and coordinates of different grids"
    return None


def _why_not_size(
    layers: Sequence[Tensor],
    rgb: Tensor,
    x: Tensor | None,
    taps: tuple[AxisTaps, ...] | None,
    coords: CoordFeatures | None,
    limits: Limits,
) -> str | None:
    batch, channels = layers[0].shape[:2]
    height, width = _grid_size(x, taps, coords)
    depth = _dense_depth(x, taps, coords)
    if max(channels, depth, rgb.shape[1]) * height * width > _MOST:
        return "an image of more than 2**31 values"
    if x is not None and x.shape[2] * x.shape[3] > _MOST // channels:
        return "a lattice below of more than 2**31 values"
    plan = make_plan(channels, depth, len(layers), rgb.shape[1], height * width, batch, limits)
    if channels > TILES[-1].rows:
        return f"{channels} channels, more than {TILES[-1].rows}"
    if plan is None:
        kib = limits.shared_bytes // KIB
        return f"{channels} channels from {depth} inputs do not fit {kib} KiB of shared memory"
    return None if plan.num_blocks <= _MOST else "too many tiles"


def _grid_size(
    x: Tensor | None,
    taps: tuple[AxisTaps, ...] | tuple[PointTaps] | None,
    coords: CoordFeatures | None,
) -> tuple[int, int]:
    """(H, W) of the points."""
    if taps is not None and not isinstance(taps[0], PointTaps):
        return len(taps[0].index), len(taps[-1].index)
    return tuple(coords.grid_size() if x is None or taps is not None else x.shape[2:])


def _dense_depth(
    x: Tensor | None, taps: tuple[AxisTaps, ...] | None, coords: CoordFeatures | None
) -> int:
    """Channels that the first layer reads per point: all but the context and the axis tables."""
    dense = [x] if taps is None else []
    if coords is not None:
        dense += [None if coords.shared is None else coords.shared[None], coords.own]
    return sum(part.shape[1] for part in dense if part is not None)


def block_forward(
    impl: str,
    layers: Sequence[Tensor],  # [N, O, I (+ E)] each
    biases: Sequence[Tensor],  # [O] or [N, O] each
    rgb: Tensor,  # [N, C, O]
    rgb_bias: Tensor,  # [C]
    x: Tensor | None = None,  # [N, I, h, w]
    img: Tensor | None = None,  # [N, C, h, w]
    *,
    taps: tuple[AxisTaps, AxisTaps] | None = None,
    coords: CoordFeatures | None = None,
    act: str = "lrelu",
    gain: float | None = None,
    clamp: float | None = None,
    want_features: bool = True,
) -> tuple[Tensor | None, Tensor]:  # [N, O, H, W], [N, C, H, W]
    """`inr_block` on the kernel, for calls that `supports` has no objection to.

    Args: as of `ops.inr_block.api.inr_block`; impl as `ops._dispatch.choose` named it.
    """
    parts = coords or CoordFeatures()
    inputs = [x, img, parts.cols, parts.rows, parts.shared, parts.own]
    lattice = []
    for axis in taps or ():
        inputs += [axis.index, axis.weight]
        lattice.append(axis.size)
    gain = activation_funcs[act].def_gain if gain is None else gain
    limit = -1.0 if clamp is None else float(clamp)
    results = _run(
        list(layers),
        list(biases),
        rgb,
        rgb_bias,
        inputs,
        lattice,
        act,
        float(gain),
        limit,
        want_features,
        impl,
    )
    return results[1] if want_features else None, results[0]


class _Inputs(NamedTuple):
    """What the operator's list of inputs stands for."""

    x: Tensor | None
    img: Tensor | None
    coords: CoordFeatures | None
    taps: tuple[AxisTaps, AxisTaps] | None


def _unpack(inputs: Sequence[Tensor | None], lattice: Sequence[int]) -> _Inputs:
    x, img, cols, rows, shared, own = inputs[:6]
    coords = CoordFeatures(cols, rows, shared, own)
    taps = None
    if lattice:
        pairs = (inputs[6:8], inputs[8:10])
        taps = tuple(AxisTaps(*pair, size) for pair, size in zip(pairs, lattice))
    return _Inputs(x, img, coords if coords.parts() else None, taps)


def _results(
    layers: Sequence[Tensor],
    biases: Sequence[Tensor],
    rgb: Tensor,
    rgb_bias: Tensor,
    inputs: Sequence[Tensor | None],
    lattice: Sequence[int],
    act: str,
    gain: float,
    clamp: float,
    want_features: bool,
    impl: str,
) -> list[Tensor]:
    """New memory for the image, and for the features if they are wanted."""
    x, _img, coords, taps = _unpack(inputs, lattice)
    batch, channels = layers[0].shape[:2]
    size = _grid_size(x, taps, coords)
    results = [rgb_bias.new_empty([batch, rgb.shape[1], *size])]
    return results + ([layers[0].new_empty([batch, channels, *size])] if want_features else [])


@functools.lru_cache(maxsize=256)
def _plan(*sizes: int | Limits) -> Plan:
    return make_plan(*sizes)


@native_op("inr_block_forward", fake=_results)
def _run(
    layers: Sequence[Tensor],
    biases: Sequence[Tensor],
    rgb: Tensor,
    rgb_bias: Tensor,
    inputs: Sequence[Optional[Tensor]],  # noqa: UP045 (types that torch.library reads)
    lattice: Sequence[int],
    act: str,
    gain: float,
    clamp: float,
    want_features: bool,
    impl: str,
) -> list[Tensor]:
    results = _results(
        layers, biases, rgb, rgb_bias, inputs, lattice, act, gain, clamp, want_features, impl
    )
    x, img, coords, taps = _unpack(inputs, lattice)
    batch, rgb_channels, height, width = results[0].shape
    channels = layers[0].shape[1]
    plan = _plan(
        channels,
        _dense_depth(x, taps, coords),
        len(layers),
        rgb_channels,
        height * width,
        batch,
        device_limits(rgb.device),
    )
    fields = _first_layer(layers[0], x, taps, coords)
    weights = [fields.pop("weight"), *layers[1:]]
    for index, (weight, bias) in enumerate(zip(weights, biases)):
        fields.update(_operand(weight, lambda part, index=index: f"weight{part}{index}"))
        fields[f"bias{index}"] = bias.contiguous()
        fields[f"bias_batch{index}"] = channels if bias.ndim == 2 else 0
    fields.update(_operand(rgb, lambda part: f"rgb{part}"))
    _dispatch.kernel_module("inr_block", impl).call(
        "inr_block_forward",
        **fields,
        **_reads(taps),
        rgb_bias=rgb_bias.contiguous(),
        img=None if img is None else img.contiguous(),
        image=results[0],
        features=results[1] if want_features else None,
        n=batch,
        channels=channels,
        rgb_channels=rgb_channels,
        num_layers=len(layers),
        height=height,
        width=width,
        **plan._asdict(),
        dtype=layers[0].dtype,
        gain=gain,
        slope=PIECEWISE_LINEAR[act],
        clamp=clamp,
    )
    return results


def _first_layer(
    weight: Tensor,  # [N, O, I + E]
    x: Tensor | None,
    taps: tuple[AxisTaps, AxisTaps] | None,
    coords: CoordFeatures | None,
) -> dict:
    """Fields about the first layer's inputs; `weight` keeps the columns of the dense ones.

    What the kernel adds to its product is multiplied here: the features below on their lattice,
    functions of one coordinate on their axis.
    """
    fields: dict = {}
    num_features = 0 if x is None else x.shape[1]
    tables = [None, None] if coords is None else [coords.cols, coords.rows]
    sizes = [num_features, *(0 if table is None else len(table) for table in tables)]
    parts = weight.split([*sizes, weight.shape[2] - sum(sizes)], dim=2)
    dense = [parts[3]] if parts[3].shape[2] else []
    if x is not None and taps is None:
        fields.update(x=x.contiguous(), x_channels=num_features)
        dense = [parts[0], *dense] if sum(sizes) > num_features else [weight]
    elif x is not None:
        fields["context"] = torch.bmm(parts[0], x.flatten(2))
    for name, part, table in zip(("cols", "rows"), parts[1:3], tables):
        if table is not None:
            fields[name] = torch.matmul(part, table)
    if coords is not None and coords.shared is not None:
        fields.update(shared=coords.shared.contiguous(), shared_channels=len(coords.shared))
    if coords is not None and coords.own is not None:
        fields.update(own=coords.own.contiguous(), own_channels=coords.own.shape[1])
    # Without dense inputs nothing of it is read.
    fields["weight"] = weight if not dense else dense[0] if len(dense) == 1 else torch.cat(dense, 2)
    return fields


def _operand(weight: Tensor, name: Callable[[str], str]) -> dict:
    """Fields about a weight [N, M, K], whose rows are made to begin at multiples of 16 bytes."""
    aligned = (
        weight.stride(2) == 1
        and not any(size % _ALIGNED for size in (*weight.stride()[:2], weight.shape[2]))
        and weight.data_ptr() % 16 == 0
    )
    if not aligned:
        weight = F.pad(weight, [0, -weight.shape[2] % _ALIGNED]).contiguous()
    return {
        name(""): weight,
        name("_batch"): weight.stride(0),
        name("_row"): weight.stride(1),
    }


def _reads(taps: tuple[AxisTaps, AxisTaps] | None) -> dict:
    if taps is None:
        return {}
    rows, cols = taps
    return {
        "row_index": rows.index.contiguous(),
        "col_index": cols.index.contiguous(),
        "row_weight": rows.weight.float().contiguous(),
        "col_weight": cols.weight.float().contiguous(),
        "num_taps": rows.index.shape[1],
        "low_height": rows.size,
        "low_width": cols.size,
    }
