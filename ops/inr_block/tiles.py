"""`inr_block` on CPUs without gradients: in C++, or in plain PyTorch row tile by row tile.

C++: see `ops.inr_layer.cpu`. In plain PyTorch, the same algebra as layer by layer, with activations
that stay in the cache: W_x x once on the lattice below, then per tile of rows the products with the
coordinate features, the other layers and to-RGB, in two buffers that all tiles share. What the
processor has no instructions to multiply is multiplied in float32.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ops import _dispatch
from ops.bias_act.kernels import LEAKY_SLOPES
from ops.inr_layer.cpu import Chain, run_chain
from ops.inr_layer.inputs import AxisTaps
from ops.inr_layer.plain import lattice_upsample
from torch_utils.precision import cpu_bfloat16

TILE_BYTES = 2**21
"""Of the output of one layer for one tile and all images of the batch."""


class _Prepared(NamedTuple):
    """What all tiles of a block have in common; gains are part of weights and biases.

    Attributes:
        layers: Weights of all layers, those of the first one without columns that `context`,
            `cols` and `rows` stand for.
        biases: [N or 1, O, 1] each.
        rgb: [N, C, O].
        context: W_x x + b on the lattice below, [N, O, h, w], or None.
        cols, rows: What the features of one axis add, [N, O, 1, W] and [N, O, H, 1], or None.
    """

    layers: list[Tensor]
    biases: list[Tensor]
    rgb: Tensor
    context: Tensor | None
    cols: Tensor | None
    rows: Tensor | None


def supports(chain: Chain) -> bool:
    """Whether `block_on_cpu` computes this."""
    return not _dispatch.is_traced() and chain.resolved_gain() > 0 and not chain.unsupported()


def block_on_cpu(chain: Chain, want_features: bool) -> tuple[Tensor | None, Tensor | None]:
    """Computes a block that `supports` allows, the fastest way that this machine has.

    Args and returns: as of `run_tiles`.
    """
    library = find_library(chain)
    if library is None:
        return run_tiles(chain, want_features)
    return run_chain(library, chain, want_features)


def find_library(chain: Chain) -> Any | None:
    """The C++ library if it is the fastest way to a chain that `supports` allows, else None."""
    if chain.layers[0].dtype == torch.bfloat16 and cpu_bfloat16():
        # C++ multiplies in float32, which such processors do at a fraction of the speed.
        return None
    chosen, _reasons = _dispatch.choose("inr_layer", [*chain.layers, chain.x])
    if chosen != "cpp":
        return None
    library = _dispatch.kernel_module("inr_layer", "cpp")
    return library if library.has("inr_tiles_forward") else None


def product_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that tiles are computed in: bfloat16 only where products of it are fast."""
    return torch.float32 if dtype == torch.bfloat16 and not cpu_bfloat16() else dtype


def run_tiles(
    chain: Chain, want_features: bool, tile_bytes: int = TILE_BYTES
) -> tuple[Tensor | None, Tensor | None]:
    """Computes a chain that `Chain.unsupported` has nothing against. No gradients.

    Args:
        chain: What to compute.
        want_features: Whether the features are wanted.
        tile_bytes: See `TILE_BYTES`.

    Returns:
        Features [N, O, H, W] or None, and the image [N, C, H, W], None without `rgb`.
    """
    ready = _prepare(chain)
    first, last = chain.layers[0], chain.layers[-1]
    batch, (height, width) = first.shape[0], chain.size()
    features = image = None
    if want_features:
        features = first.new_empty([batch, last.shape[1], height, width])
    if chain.rgb is not None:
        image = chain.rgb_bias.new_empty([batch, chain.rgb.shape[1], height, width])
    widest = max(weight.shape[1] for weight in chain.layers)
    row_bytes = batch * widest * width * first.element_size()
    # An even number: rows of a lattice below are read twice.
    step = min(height, max(2, tile_bytes // row_bytes // 2 * 2))
    dtype = ready.layers[0].dtype
    buffers = [first.new_empty(batch * widest * step * width, dtype=dtype) for _ in range(2)]
    for top in range(0, height, step):
        bottom = min(top + step, height)
        y = _first_layer(chain, ready, top, bottom, buffers[0])
        for index, weight in enumerate(ready.layers[1:], start=1):
            out = _view(buffers[index % 2], batch, weight.shape[1], bottom - top, width)
            torch.bmm(weight, y.flatten(2), out=out.flatten(2))
            y = _activate(out, ready.biases[index], chain)
        if features is not None:
            features[:, :, top:bottom] = y
        if image is not None:
            image[:, :, top:bottom] = _to_rgb(chain, ready, y, top, bottom)
    return features, image


def _prepare(chain: Chain) -> _Prepared:
    dtype, gain = product_dtype(chain.layers[0].dtype), chain.resolved_gain()
    layers = [weight.to(dtype) * gain for weight in chain.layers]
    biases = [
        weight.new_zeros([1, weight.shape[1], 1])
        if bias is None
        else (bias.to(dtype) * gain).reshape(-1, weight.shape[1], 1)
        for weight, bias in zip(layers, chain.biases, strict=True)
    ]
    coords, context, tables = chain.coords, None, [None, None]
    num_features = 0 if chain.x is None else chain.x.shape[1]
    head, tail = layers[0][:, :, :num_features], layers[0][:, :, num_features:]
    if chain.taps is not None and chain.x is not None:
        x = chain.x.to(dtype).flatten(2)
        context = torch.baddbmm(biases[0], head, x).unflatten(2, chain.x.shape[2:])
        head = head[:, :, :0]
    if coords is not None:
        for axis, table in enumerate((coords.cols, coords.rows)):
            if table is not None:
                used, tail = tail.split([table.shape[0], tail.shape[2] - table.shape[0]], 2)
                terms = used @ table.to(dtype)
                tables[axis] = terms[:, :, None] if axis == 0 else terms[..., None]
    layers[0] = torch.cat([head, tail], 2)
    rgb = None if chain.rgb is None else chain.rgb.to(dtype)
    return _Prepared(layers, biases, rgb, context, *tables)


def _first_layer(chain: Chain, ready: _Prepared, top: int, bottom: int, buffer: Tensor) -> Tensor:
    """Features [N, O, rows, W] after the first layer, for rows [top, bottom)."""
    batch, channels = ready.layers[0].shape[:2]
    y = _view(buffer, batch, channels, bottom - top, chain.size()[1])
    if ready.context is not None:
        y.copy_(_read_rows(ready.context, chain.taps, top, bottom))
    else:
        y.copy_(ready.biases[0][..., None].expand_as(y))
    if ready.cols is not None:
        y += ready.cols
    if ready.rows is not None:
        y += ready.rows[:, :, top:bottom]
    start, flat = 0, y.flatten(2)
    coords = chain.coords
    parts = [
        None if chain.taps is not None else chain.x,
        None if coords is None else coords.shared,
        None if coords is None else coords.own,
    ]
    for part in parts:
        if part is None:
            continue
        num = part.shape[-3]
        weight = ready.layers[0][:, :, start : start + num]
        rows = part[..., top:bottom, :].to(y.dtype)
        if part.ndim == 3:
            # One product serves the whole batch.
            weight = weight.reshape(batch * channels, num)
            flat.view(batch * channels, -1).addmm_(weight, rows.flatten(1))
        else:
            flat.baddbmm_(weight, rows.flatten(2))
        start += num
    return _activate(y, None, chain)


def _activate(y: Tensor, bias: Tensor | None, chain: Chain) -> Tensor:
    """Bias, activation and clamp, in place."""
    if bias is not None:
        y += bias[..., None]
    if LEAKY_SLOPES[chain.act] != 1:
        F.leaky_relu_(y, LEAKY_SLOPES[chain.act])
    return y if chain.clamp is None else y.clamp_(-chain.clamp, chain.clamp)


def _to_rgb(chain: Chain, ready: _Prepared, y: Tensor, top: int, bottom: int) -> Tensor:
    image = torch.bmm(ready.rgb, y.flatten(2)).unflatten(2, y.shape[2:])
    image = image.to(chain.rgb_bias.dtype) + chain.rgb_bias[:, None, None]
    if chain.clamp is not None:
        image.clamp_(-chain.clamp, chain.clamp)
    if chain.img is not None:
        if chain.taps is None:
            image += chain.img[:, :, top:bottom]
        else:
            image += _read_rows(chain.img, chain.taps, top, bottom)
    return image


def _read_rows(x: Tensor, taps: tuple[AxisTaps, AxisTaps], top: int, bottom: int) -> Tensor:
    """Rows [top, bottom) of the upsampled lattice."""
    rows, cols = taps
    index = rows.index[top:bottom]
    first, last = int(index.min()), int(index.max()) + 1
    doubling = None if rows.doubling is None else rows.doubling + top - 2 * first
    part = AxisTaps(index - first, rows.weight[top:bottom], last - first, doubling)
    return lattice_upsample(x[:, :, first:last], part, cols)


def _view(buffer: Tensor, *shape: int) -> Tensor:
    count = 1
    for size in shape:
        count *= size
    return buffer[:count].view(shape)
