"""Films of a generator: a closed curve through several w, in every cell of a grid.

As StyleGAN3's gen_video: each cell has as many keyframes, and w runs along a cubic spline through
them that ends where it began. StyleGAN3 interpolates over the keyframes repeated five times, which
is the periodic spline up to what its far ends contribute; here it is the periodic spline itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import dnnlib
from analysis.camera import View
from metrics.pictures import to_rgb
from networks import sampling
from torch_utils.images import tile_grid


class Key(NamedTuple):
    """What a keyframe is drawn from.

    Attributes:
        seed: Of z; of a given w, its index.
        label: Class; None = unconditional, or a given w.
    """

    seed: int
    label: int | None


def plan_keys(
    keys: Sequence[Key],
    cells: int,
    num_keyframes: int | None = None,
    shuffle_seed: int | None = None,
) -> list[list[Key]]:
    """Distribute keyframes over the cells of a grid, the first ones to the first cell.

    Args:
        keys: At least one; repeated from the start if there are not enough.
        cells: Cells of the grid.
        num_keyframes: Per cell; None = all keys are used once.
        shuffle_seed: Mix them first, with numpy's `RandomState`; None = leave the order.

    Returns:
        [cells][num_keyframes].

    Raises:
        dnnlib.UserError: Without `num_keyframes`, the keys do not fill all cells alike.
    """
    if num_keyframes is None:
        if len(keys) % cells:
            raise dnnlib.UserError(
                f"{len(keys)} keyframes cannot be divided among the {cells} cells of --grid; give "
                f"a multiple of {cells}, or --num-keyframes."
            )
        num_keyframes = len(keys) // cells
    order = np.arange(cells * num_keyframes) % len(keys)
    if shuffle_seed is not None:
        np.random.RandomState(shuffle_seed).shuffle(order)
    return [
        [keys[i] for i in order[start : start + num_keyframes]]
        for start in range(0, len(order), num_keyframes)
    ]


class PeriodicSpline:
    """The cubic spline through values at times 0, 1, ..., K - 1 that repeats itself after K.

    With second derivatives m, continuity of the first ones asks m[i-1] + 4 m[i] + m[i+1] =
    6 (y[i-1] - 2 y[i] + y[i+1]), indices modulo K: a circular convolution, which the discrete
    Fourier transform solves.

    Args:
        values: [K, ...], K of at least 1.
    """

    def __init__(self, values: np.ndarray) -> None:
        y = np.asarray(values, np.float64)
        angles = 2 * np.pi * np.arange(len(y) // 2 + 1) / len(y)
        divisors = (4 + 2 * np.cos(angles)).reshape(-1, *[1] * (y.ndim - 1))
        bends = 6 * (np.roll(y, 1, 0) - 2 * y + np.roll(y, -1, 0))
        self._values = y
        self._bends = np.fft.irfft(np.fft.rfft(bends, axis=0) / divisors, len(y), axis=0)

    def __call__(self, time: float) -> np.ndarray:
        """The value at any time, float64 [...]."""
        before = int(np.floor(time))
        i, j = before % len(self._values), (before + 1) % len(self._values)
        b = time - before
        a = 1 - b
        straight = a * self._values[i] + b * self._values[j]
        return straight + ((a**3 - a) * self._bends[i] + (b**3 - b) * self._bends[j]) / 6


def keyframe_ws(
    G: nn.Module, plan: Sequence[Sequence[Key]], psi: float, given: Tensor | None = None
) -> Tensor:
    """The ws of all keyframes: float32 [cells, num_keyframes, num_ws, w_dim] on the CPU.

    Args:
        G: Generator.
        plan: As from `plan_keys`.
        psi: Truncation.
        given: ws [N, num_ws, w_dim] that the keys' seeds are indices of; None = draw them.
    """
    rows = []
    for keys in plan:
        if given is None:
            ws = [sampling.ws_of_seed(G, key.seed, key.label, psi)[0].cpu() for key in keys]
        else:
            ws = [given[key.seed] for key in keys]
        rows.append(torch.stack(ws))
    return torch.stack(rows)


def frames(
    G: nn.Module,
    keyframes: Tensor,
    w_frames: int,
    grid: tuple[int, int],
    view: dict[str, Any] | None = None,
    path: Sequence[View] | None = None,
    dtype: torch.dtype | None = None,
) -> Iterator[np.ndarray]:
    """Draws the film frame by frame.

    Args:
        G: Generator.
        keyframes: [cells, num_keyframes, num_ws, w_dim].
        w_frames: Frames from one keyframe to the next.
        grid: (columns, rows).
        view: Arguments of `synthesis.render` other than the region; None = the training grid.
        path: One region per frame; None = the whole image.
        dtype: Precision of the blocks; None = each block's own.

    Returns:
        uint8 [H, W, 3]; transparent pixels on white, one channel repeated.
    """
    device = sampling.device_of(G)
    spline = PeriodicSpline(np.moveaxis(keyframes.numpy(), 1, 0))  # of all cells at once
    for index in range(keyframes.shape[1] * w_frames):
        ws = spline(index / w_frames)
        seen = None if view is None else dict(view)
        if seen is not None and path is not None:
            seen["region"] = path[index]
        cells = [
            sampling.draw_image(G, w[None].to(device), noise_seed=0, view=seen, dtype=dtype)
            for w in torch.from_numpy(ws).to(torch.float32)
        ]
        yield tile_grid(to_rgb(torch.stack(cells)), grid).permute(1, 2, 0).numpy()
