"""Where in an image is this picture? Found by gradients through pixel positions.

The generator draws F(p) at any points p and tells how F changes with them (Skorokhodov et al.,
"Adversarial Generation of Continuous Images", section 5: backpropagation through coordinates). A
target picture laid over the plane of an image has its pixels at p = c + M q, q = position in the
target; c and M are found by least squares, F(p) against the target's colours, with the steps of
Levenberg and Marquardt, first on few large pixels, then on smaller ones.

Positions and lengths are in metric units here: 1 = the image's shorter side, the image's upper left
corner at 0. In the target, 1 = its width and 0 its centre. Then a rotation is a rotation, whatever
the aspect ratios.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.lattice import UNIT_SQUARE
from networks.render import render_points

KINDS = {"crop": 3, "similarity": 4, "affine": 6}
"""Numbers that are searched for: position and size; also an angle; or any linear map."""

_FIRST_SIDE = 8
_LARGEST_SUPERSAMPLING = 8
_CHUNK_POINTS = 2**15
_MAX_DAMPING = 1e6
# A level is finished when a step moves no pixel farther than this, in pixels of the level.
_SMALL_STEP = 1e-3


@dataclass(frozen=True)
class Placement:
    """How a target lies over an image.

    Attributes:
        kind: A name of `KINDS`.
        params: float64 [3, 4 or 6]: c_x, c_y, then a of M = [[a, 0], [0, a]], a and b of
            [[a, -b], [b, a]], or all of M row by row.
        img_shape: (C, H, W) of the image.
        aspect: Height of the target / its width.
    """

    kind: str
    params: Tensor
    img_shape: tuple[int, int, int]
    aspect: float

    def matrix(self) -> Tensor:
        """M, float64 [2, 2]."""
        rest = self.params[2:]
        if self.kind == "crop":
            return rest * torch.eye(2, dtype=rest.dtype)
        if self.kind == "similarity":
            a, b = rest
            return torch.stack([a, -b, b, a]).unflatten(0, (2, 2))
        return rest.unflatten(0, (2, 2))

    def scales(self) -> Tensor:
        """Image width and height in metric units, float64 [2]."""
        return _metric_scales(self.img_shape)

    def points(self, q: Tensor) -> Tensor:
        """Points of the target [P, 2] as points of the image, whose unit square it is."""
        return (self.params[:2] + q @ self.matrix().t()) / self.scales()

    def basis(self, q: Tensor) -> Tensor:
        """Derivatives of metric positions to params [P, 2, k]; positions are linear in them."""
        x, y = q.unbind(1)
        one, zero = torch.ones_like(x), torch.zeros_like(x)
        rows = {
            "crop": ([one, zero, x], [zero, one, y]),
            "similarity": ([one, zero, x, -y], [zero, one, y, x]),
            "affine": ([one, zero, x, y, zero, zero], [zero, one, zero, zero, x, y]),
        }[self.kind]
        return torch.stack([torch.stack(row, 1) for row in rows], 1)

    def corners(self) -> list[list[float]]:
        """Upper left, upper right, lower right and lower left corner in units of the image."""
        half = 0.5 * self.aspect
        q = torch.tensor([[-0.5, -half], [0.5, -half], [0.5, half], [-0.5, half]])
        return self.points(q.double()).tolist()

    def describe(self) -> dict[str, Any]:
        """The placement as plain numbers.

        `matrix` [2][3] maps (u, v, 1), u and v in 0..1 over the target, to the image's unit square;
        `width` and `angle_degrees` (clockwise) are those of the target's upper edge, the width in
        units of the image's shorter side.
        """
        matrix, scales = self.matrix(), self.scales()
        upper_left, upper_right, _, lower_left = torch.tensor(self.corners(), dtype=torch.float64)
        edges = torch.stack([upper_right - upper_left, lower_left - upper_left, upper_left], 1)
        return {
            "kind": self.kind,
            "centre": (self.params[:2] / scales).tolist(),
            "width": float(matrix[:, 0].norm()),
            "angle_degrees": math.degrees(math.atan2(matrix[1, 0], matrix[0, 0])),
            "corners": self.corners(),
            "matrix": edges.tolist(),
        }


def _metric_scales(img_shape: tuple[int, int, int]) -> Tensor:
    _, height, width = img_shape
    return torch.tensor([width, height], dtype=torch.float64) / min(height, width)


def start_placement(
    kind: str,
    img_shape: tuple[int, int, int],
    target_size: tuple[int, int],
    region: Sequence[int | float | Fraction] = UNIT_SQUARE,
    angle_degrees: float = 0.0,
) -> Placement:
    """A placement around the middle of a region, as wide or as high as it, whichever is smaller.

    Args:
        kind: A name of `KINDS`.
        img_shape: (C, H, W) of the image.
        target_size: (H, W) of the target.
        region: (x0, y0, x1, y1) in units of the image.
        angle_degrees: Rotation, clockwise; not for "crop".

    Raises:
        ValueError: No such kind, or a rotated crop.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if kind == "crop" and angle_degrees:
        raise ValueError(f"a crop has no angle, got {angle_degrees}")
    aspect = target_size[0] / target_size[1]
    placement = Placement(kind, torch.zeros(2 + 1), img_shape, aspect)
    corners = torch.tensor([float(edge) for edge in region], dtype=torch.float64).unflatten(
        0, (2, 2)
    )
    corners = corners * placement.scales()
    extent = corners[1] - corners[0]
    width = float(torch.minimum(extent[0], extent[1] / aspect))
    a, b = (width * f(math.radians(angle_degrees)) for f in (math.cos, math.sin))
    rest = {"crop": [a], "similarity": [a, b], "affine": [a, -b, b, a]}[kind]
    params = torch.cat([corners.mean(0), torch.tensor(rest, dtype=torch.float64)])
    return Placement(kind, params, img_shape, aspect)


@dataclass(frozen=True)
class Step:
    """One step of the search.

    Attributes:
        side: Longer side of the target on this level, in pixels.
        rms: Root mean square difference of F and the target on this level, values in [-1, 1].
        placement: Where the target was then.
    """

    side: int
    rms: float
    placement: Placement


def align(
    synthesis: nn.Module,
    ws: Tensor,
    target: Tensor,
    start: Placement,
    max_side: int = 128,
    max_steps: int = 30,
    on_step: Callable[[Step], object] | None = None,
) -> list[Step]:
    """Finds where in an image a picture lies.

    Where F is continuous, its gradients at the points come by backpropagation. An image of several
    lattices that are read by the nearest cell is piecewise smooth; what happens at the cells' edges
    is seen in differences of neighbouring pixels, which take the gradients' place there.

    Args:
        synthesis: A continuous synthesis network.
        ws: [1, num_ws, w_dim].
        target: float [C, h, w] in [-1, 1].
        start: Where the search begins, for example `start_placement`.
        max_side: Longer side in pixels to which the target is reduced at most, >= 8.
        max_steps: Steps on each level.
        on_step: Called after every step that makes the difference smaller.

    Returns:
        The start of every level and every step that made the difference smaller; the last one is
        the result.
    """
    steps: list[Step] = []
    placement = start
    for level in _levels(target.to(ws.device), max_side):
        for step in _search_level(synthesis, ws, level, placement, max_steps):
            steps.append(step)
            if on_step is not None:
                on_step(step)
        placement = steps[-1].placement
    return steps


def _levels(target: Tensor, max_side: int) -> list[Tensor]:
    """The target at growing sizes, averages over pixels; the last one has its size or max_side."""
    longest = max(target.shape[1:])
    last = min(longest, max_side)
    sides = [last]
    while sides[0] > _FIRST_SIDE:
        sides.insert(0, max(_FIRST_SIDE, sides[0] // 2))
    sizes = [[max(2, round(length * s / longest)) for length in target.shape[1:]] for s in sides]
    return [F.interpolate(target[None], size=size, mode="area")[0] for size in sizes]


def _search_level(
    synthesis: nn.Module, ws: Tensor, target: Tensor, start: Placement, max_steps: int
) -> Iterator[Step]:
    side = max(target.shape[1:])
    placement, damping = start, 1e-3
    residual, jacobian = _residual(synthesis, ws, target, placement)
    yield Step(side, _rms(residual), placement)
    for _ in range(max_steps):
        normal, slope = jacobian.t() @ jacobian, jacobian.t() @ residual
        while damping < _MAX_DAMPING:
            damped = normal + torch.diag(damping * normal.diagonal() + 1e-12)
            change = torch.linalg.solve(damped, -slope)
            tried = Placement(
                placement.kind, placement.params + change, placement.img_shape, placement.aspect
            )
            if _is_sensible(tried, start):
                found = _residual(synthesis, ws, target, tried)
                if _rms(found[0]) < _rms(residual):
                    break
            damping *= 4
        else:
            return
        damping = max(damping / 8, 1e-9)
        placement, (residual, jacobian) = tried, found
        yield Step(side, _rms(residual), placement)
        # The target is 1 wide: change moves its pixels by about as much.
        if float(change.abs().max()) * side < _SMALL_STEP * float(placement.matrix().norm()):
            return


def _rms(residual: Tensor) -> float:
    return float(residual.square().mean().sqrt())


def _is_sensible(placement: Placement, start: Placement) -> bool:
    """Whether the target is neither mirrored nor of quite another size than at the start."""
    area = float(torch.linalg.det(placement.matrix()) / torch.linalg.det(start.matrix()))
    return 1 / 64 < area < 64


def _residual(
    synthesis: nn.Module, ws: Tensor, target: Tensor, placement: Placement
) -> tuple[Tensor, Tensor]:
    """F - target [C h w], and its derivatives [C h w, k], float64 on the CPU.

    A pixel of the target is an average over its area, so F is averaged over as many points as the
    pixel covers pixels of the image.
    """
    channels, height, width = target.shape
    _, img_height, img_width = placement.img_shape
    pixel = float(placement.matrix().norm()) / 2**0.5 / width * min(img_height, img_width)
    times = min(max(round(pixel), 1), _LARGEST_SUPERSAMPLING)
    q = pixel_positions(height * times, width * times)
    values, gradients = _values_and_gradients(synthesis, ws, placement.points(q))
    gradients = gradients / placement.scales()
    shape = (channels, height, times, width, times)
    residual = values.reshape(shape).mean((2, 4)) - target.cpu().double()
    if _is_smooth(synthesis):
        per_point = torch.einsum("cpi,pik->cpk", gradients, placement.basis(q))
        jacobian = per_point.reshape(*shape, -1).mean((2, 4))
    else:
        drawn = residual + target.cpu().double()
        spacing = 1 / width
        down, across = torch.gradient(drawn, spacing=spacing, dim=(1, 2))
        # From derivatives along the target to those along the image: d/dp = M^-T d/dq.
        along = torch.stack([across, down], -1).flatten(1, 2) @ placement.matrix().inverse()
        basis = placement.basis(pixel_positions(height, width))
        jacobian = torch.einsum("cpi,pik->cpk", along, basis)
    return residual.flatten(), jacobian.reshape(residual.numel(), -1)


def _is_smooth(synthesis: nn.Module) -> bool:
    """Whether F is continuous: bilinear, or a function of p with no lattices below."""
    single = len(synthesis.block_resolutions) == 1 and not synthesis.has_tables
    return single or synthesis.sampling.upsampling == "bilinear"


def _values_and_gradients(
    synthesis: nn.Module, ws: Tensor, points: Tensor
) -> tuple[Tensor, Tensor]:
    """F [C, P] and its gradients [C, P, 2] at points [P, 2], float64 on the CPU."""
    values, gradients = [], []
    for part in points.split(_CHUNK_POINTS):
        part = part.detach().requires_grad_()
        with torch.enable_grad():
            # As files hold it, with colours that are clipped.
            drawn = render_points(synthesis, ws.detach(), part)[0].clamp(-1, 1)
            # F at a point depends on no other point: one sum gives the gradients at all of them.
            slopes = [torch.autograd.grad(c.sum(), part, retain_graph=True)[0] for c in drawn]
        values.append(drawn.detach().cpu().double())
        gradients.append(torch.stack(slopes).cpu().double())
    return torch.cat(values, 1), torch.cat(gradients, 1)


def pixel_positions(height: int, width: int) -> Tensor:
    """Pixel centres of a target of h x w pixels, row by row, float64 [h w, 2]; its width is 1."""
    x = (torch.arange(width, dtype=torch.float64) + 0.5) / width - 0.5
    y = (torch.arange(height, dtype=torch.float64) + 0.5 - 0.5 * height) / width
    return torch.stack(torch.broadcast_tensors(x[None, :], y[:, None]), -1).flatten(0, 1)


@torch.inference_mode()
def draw_placed(
    synthesis: nn.Module, ws: Tensor, placement: Placement, size: tuple[int, int]
) -> Tensor:
    """The part of an image where the target lies, as a picture: float32 [C, H, W]."""
    points = placement.points(pixel_positions(*size))
    return render_points(synthesis, ws, points)[0].unflatten(1, size)
