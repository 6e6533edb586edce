"""How the kernel of `inr_block` divides its work: tiles, shared memory, thread blocks."""

from __future__ import annotations

from typing import NamedTuple

import torch

_DEPTH = 32  # input channels of a weight tile in shared memory
_PAD = 8  # elements between rows of shared memory
KIB = 1024
_RESERVED = KIB  # bytes of shared memory that the system takes per thread block
_THREADS = 384  # per multiprocessor as far as registers go; a thread block may have 512

# KiB of shared memory that a thread block may have, by compute capability (CUDA C++ Programming
# Guide, table of technical specifications).
_SHARED_KIB = {
    (7, 5): 64,
    (8, 0): 163,
    (8, 6): 99,
    (8, 7): 163,
    (8, 9): 99,
    (9, 0): 227,
    (10, 0): 227,
    (10, 3): 227,
    (11, 0): 227,
    (12, 0): 99,
    (12, 1): 99,
}
_SHARED_KIB_OF_OTHERS = 99


class Limits(NamedTuple):
    """What a device offers.

    Attributes:
        shared_bytes: Shared memory of a thread block.
        multiprocessors: Their number.
        has_bfloat16: Whether its tensor cores multiply bfloat16.
    """

    shared_bytes: int
    multiprocessors: int
    has_bfloat16: bool = True


class Tile(NamedTuple):
    """Channels and points that a thread block works on, see the table of inr_block.cu."""

    rows: int
    points: int
    threads: int


TILES = (
    Tile(32, 128, 64),
    Tile(64, 128, 128),
    Tile(128, 256, 512),
    Tile(128, 128, 256),
    Tile(128, 64, 128),
    Tile(256, 128, 512),
    Tile(256, 64, 256),
    Tile(256, 32, 256),
)
"""In the order of inr_block.cu; among those with as many rows the largest first."""


class Plan(NamedTuple):
    """How a block is launched.

    Attributes:
        tile: Index into `TILES`.
        stages: Weight tiles in shared memory.
        shared_bytes: Shared memory of a thread block.
        num_blocks: Thread blocks.
    """

    tile: int
    stages: int
    shared_bytes: int
    num_blocks: int


def device_limits(device: torch.device) -> Limits:
    """The limits of a device; of the CPU, on which the kernel may be emulated, an H100's."""
    if device.type != "cuda":
        return Limits(227 * KIB, 2)
    found = torch.cuda.get_device_properties(device)
    kib = _SHARED_KIB.get((found.major, found.minor), _SHARED_KIB_OF_OTHERS)
    return Limits(kib * KIB, found.multi_processor_count, found.major >= 8)


def make_plan(
    channels: int,
    depth: int,
    num_layers: int,
    rgb_channels: int,
    points: int,
    batch: int,
    limits: Limits,
) -> Plan | None:
    """Chooses tile and weight stages.

    The largest tile wins, as every tile reads all weights, but for grids so small that smaller
    tiles occupy more multiprocessors. Stages are as many as leave room for the most threads: all
    weights (they then stay for all tiles of an image) or a ring of 3 or 2.

    Args:
        channels: O of all layers.
        depth: Input channels of the first layer on the grid itself.
        num_layers, rgb_channels: Of the block.
        points: Points per image.
        batch: Images.
        limits: Of the device.

    Returns:
        The plan, or None if no tile fits.
    """
    fitting = [tile.rows for tile in TILES if tile.rows >= channels]
    if not fitting:
        return None
    steps = -(-depth // _DEPTH) + (num_layers - 1) * -(-channels // _DEPTH)
    best = None
    for index, tile in enumerate(TILES):
        enough = best is not None and best.num_blocks >= limits.multiprocessors
        if tile.rows != fitting[0] or enough:
            continue
        total = batch * -(-points // tile.points)
        most = 0
        for stages in (max(steps, 2), 3, 2):
            size = _shared_bytes(tile, depth, stages, rgb_channels)
            at_once = (limits.shared_bytes + _RESERVED) // (size + _RESERVED)
            at_once = min(at_once, max(1, _THREADS // tile.threads))
            slots = at_once * limits.multiprocessors
            # All weights stay for the tiles to come, if there are any.
            if at_once > most and (stages <= 3 or total > slots):
                num_blocks = min(total, slots) if stages >= steps else total
                best, most = Plan(index, stages, size, num_blocks), at_once
    return best


def _shared_bytes(tile: Tile, depth: int, stages: int, rgb_channels: int) -> int:
    """As `BlockShape::shared_bytes`: activations, weight tiles and to-RGB, 2 bytes each."""
    inputs = max(tile.rows, -(-depth // _DEPTH) * _DEPTH) * (tile.points + _PAD)
    return 2 * (inputs + stages * tile.rows * (_DEPTH + _PAD) + rgb_channels * (tile.rows + _PAD))
