"""3x3 convolutions on the CPU with a quarter of the multiplications (Winograd's F(4 x 4, 3 x 3)).

A tile of 4 x 4 results is a polynomial product evaluated at 6 points per axis (Lavin and Gray
2016, arXiv:1509.09308): y = A^T [(G w G^T) * (B^T d B)] A with the 6 x 6 pixels d that the tile
reads. For all tiles and channels the middle is 36 matrix products. The map is linear in d and in w,
so that both gradients are the same steps, transposed:

    result           y = A^T [sum_i U_oi * (B^T d_i B)] A         U = G w G^T
    gradient of d    the same with w turned by 180 degrees, in- and outputs exchanged
    gradient of w    G^T [sum_tiles (A dy_o A^T) * (B^T d_i B)] G

The points 0, +-sqrt(1/2), +-sqrt(2) and infinity keep rounding errors within about twice those of a
direct float32 convolution (the usual 0, +-1, +-2: five times).
"""

from __future__ import annotations

import functools
import math

import torch

from ops import _dispatch
from ops._native import register_native

_MIN_PRODUCTS = 1 << 21
"""Multiplications of the direct algorithm below which the steps' overhead outweighs the gain."""

_CHUNK = 16384
"""Elements of one coefficient's matrix that stay in the cache: tiles times channels, about."""

_POINTS = (0.0, math.sqrt(0.5), -math.sqrt(0.5), math.sqrt(2.0), -math.sqrt(2.0))


register_native(
    "conv2d",
    cpu_sources=("conv2d_cpu.cpp",),
    header="conv2d.h",
    dtypes=(torch.float32,),
)


def suits(
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> bool:
    """Whether the algorithm applies to this convolution (or to its transpose) and pays.

    Args:
        x: [N, I, H, W], the input.
        weight: [O, I, 3, 3], or of a transposed convolution [I, O, 3, 3].
        stride, padding, dilation: (y, x).
        groups: Groups of channels.
    """
    if (
        x.device.type != "cpu"
        or weight.device.type != "cpu"
        or x.dtype != torch.float32
        or weight.dtype != torch.float32
        or list(weight.shape[2:]) != [3, 3]
        or groups != 1
        or list(stride) != [1, 1]
        or list(dilation) != [1, 1]
        or not all(0 <= side <= 2 for side in padding)
        or min(x.shape[2:]) < 3
        or torch.compiler.is_compiling()
    ):
        return False
    n, _, h, w = x.shape
    tiles = math.ceil(h / 4) * math.ceil(w / 4)
    # Tiles that reach beyond the image compute for nothing.
    if 16 * tiles > 1.7 * h * w or n * h * w * weight.numel() < _MIN_PRODUCTS:
        return False
    return min(weight.shape[:2]) >= 8 and _dispatch.choose("conv2d", (x, weight))[0] == "cpp"


def convolve(
    x: torch.Tensor, weight: torch.Tensor, padding: list[int], transposed: bool = False
) -> torch.Tensor:
    """The convolution itself, without derivatives.

    Args:
        x: [N, I, H, W] float32.
        weight: [O, I, 3, 3], or transposed [I, O, 3, 3].
        padding: (y, x), 0 to 2; of the transposed convolution: what it crops.
        transposed: Compute the transpose of the convolution O -> I instead.

    Returns:
        [N, O, H', W'] with H' = H + 2 padding - 2, or transposed H + 2 - 2 padding.
    """
    if transposed:
        padding = [2 - padding[0], 2 - padding[1]]
        matrices = _weight_matrices(weight.flip([2, 3]))  # [36, I, O]
    else:
        matrices = _weight_matrices(weight).transpose(1, 2)
    n, channels, h, w = x.shape
    out_channels = matrices.shape[2]
    x = x.contiguous()
    y = x.new_empty([n, out_channels, h + 2 * padding[0] - 2, w + 2 * padding[1] - 2])
    tiles = _tiles(y)
    chunk = _chunk_size(n, tiles, max(channels, out_channels))
    sources = _matrices(x, chunk * tiles[0] * tiles[1], channels)
    products = x.new_empty(36 * chunk * tiles[0] * tiles[1] * out_channels)
    for first in range(0, n, chunk):
        images = x[first : first + chunk]
        rows = len(images) * tiles[0] * tiles[1]
        source = sources[:, :rows]
        # A result with gaps would make PyTorch's matrix product copy.
        product = products[: 36 * rows * out_channels].view(36, rows, out_channels)
        _transform("conv2d_input_coefficients", images, source, tiles, padding)
        torch.bmm(source, matrices, out=product)
        _transform("conv2d_from_coefficients", y[first : first + chunk], product, tiles)
    return y


def weight_gradient(x: torch.Tensor, grad_y: torch.Tensor, padding: list[int]) -> torch.Tensor:
    """d <grad_y, convolve(x, w)> / d w: x [N, I, H, W], grad_y [N, O, H', W'] -> [O, I, 3, 3]."""
    n, channels = x.shape[:2]
    out_channels = grad_y.shape[1]
    x, grad_y = x.contiguous(), grad_y.contiguous()
    tiles = _tiles(grad_y)
    chunk = _chunk_size(n, tiles, max(channels, out_channels))
    sources = _matrices(x, chunk * tiles[0] * tiles[1], channels)
    results = _matrices(x, chunk * tiles[0] * tiles[1], out_channels)
    total = x.new_zeros([36, out_channels, channels])
    for first in range(0, n, chunk):
        images = x[first : first + chunk]
        rows = len(images) * tiles[0] * tiles[1]
        source, result = sources[:, :rows], results[:, :rows]
        _transform("conv2d_input_coefficients", images, source, tiles, padding)
        _transform("conv2d_result_coefficients", grad_y[first : first + chunk], result, tiles)
        total.baddbmm_(result.transpose(1, 2), source)
    points = _points(x.dtype)
    weight = (points.t() @ total.flatten(1)).view(9, out_channels, channels)
    return weight.permute(1, 2, 0).contiguous().view(out_channels, channels, 3, 3)


@functools.lru_cache(maxsize=2)
def _points(dtype: torch.dtype) -> torch.Tensor:
    """G (x) G: [36, 9], from the taps of a 3 x 3 kernel to its values at the 36 points."""
    rows = []
    for i, point in enumerate(_POINTS):
        scale = math.prod(point - other for j, other in enumerate(_POINTS) if j != i)
        rows.append([1 / scale, point / scale, point**2 / scale])
    rows.append([0, 0, 1])  # the point at infinity
    # A tensor made in inference mode could not be used for training later.
    with torch.inference_mode(False):
        matrix = torch.tensor(rows, dtype=torch.float64)
        return torch.kron(matrix, matrix).to(dtype)


def _weight_matrices(weight: torch.Tensor) -> torch.Tensor:
    """G w G^T: [A, B, 3, 3] -> [36, A, B]."""
    a, b = weight.shape[:2]
    return (_points(weight.dtype) @ weight.reshape(a * b, 9).t()).view(36, a, b)


def _tiles(y: torch.Tensor) -> tuple[int, int]:
    """Tiles along y and x that cover the results."""
    return math.ceil(y.shape[2] / 4), math.ceil(y.shape[3] / 4)


def _chunk_size(images: int, tiles: tuple[int, int], channels: int) -> int:
    """Images whose coefficients stay in the cache, with rows enough for a fast matrix product."""
    rows = max(_CHUNK // channels, 128)
    return max(1, min(images, rows // (tiles[0] * tiles[1])))


def _matrices(like: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Uninitialised [36, rows, columns], not apart by a power of two (one place in a cache)."""
    stride = rows * columns + 16
    return like.new_empty(36 * stride).as_strided([36, rows, columns], [stride, columns, 1])


def _transform(
    name: str,
    image: torch.Tensor,
    coefficients: torch.Tensor,
    tiles: tuple[int, int],
    padding: list[int] | tuple[int, int] = (0, 0),
) -> None:
    """One step between an image [N, C, H, W] and its coefficients [36, N * tiles, C]."""
    n, c, h, w = image.shape
    back = name == "conv2d_from_coefficients"
    _dispatch.kernel_module("conv2d", "cpp").call(
        name,
        image=None if back else image,
        result=image if back else None,
        source=coefficients if back else None,
        coefficients=None if back else coefficients,
        n=n,
        c=c,
        h=h,
        w=w,
        image_stride=c * h * w,
        tiles_y=tiles[0],
        tiles_x=tiles[1],
        pad_y=padding[0],
        pad_x=padding[1],
        coefficient_stride=coefficients.stride(0),
    )
