"""What a run leaves for people and other programs: image grids and network snapshots."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from torch_utils import distributed, misc
from torch_utils.images import save_image_grid
from training.checkpoint import write_atomically

if TYPE_CHECKING:
    from training.dataset import Dataset

__all__ = [
    "FakeGrid",
    "RunSnapshots",
    "equalise",
    "save_image_grid",
    "save_network_snapshot",
    "setup_snapshot_image_grid",
]


def setup_snapshot_image_grid(
    training_set: Dataset, random_seed: int = 0
) -> tuple[tuple[int, int], np.ndarray, np.ndarray]:
    """Choose the real images of ``reals.png``; their labels are used for the generated ones too.

    About 8K pixels wide and 4K high, but at least 7x4 and at most 32x32 images. Without labels:
    images in random order. With labels: every row shows one class, classes in turn.

    Args:
        training_set: The data set.
        random_seed: Seed of the choice.

    Returns:
        Grid size (columns, rows); images uint8 [columns * rows, C, H, W], row by row; their labels
        float32 [columns * rows, label_dim].
    """
    rng = np.random.RandomState(random_seed)
    _, height, width = training_set.image_shape
    columns = int(np.clip(7680 // width, 7, 32))
    rows = int(np.clip(4320 // height, 4, 32))
    if training_set.has_labels:
        indices = _indices_by_label(training_set, rng, columns, rows)
    else:
        order = list(range(len(training_set)))
        rng.shuffle(order)
        indices = [order[i % len(order)] for i in range(columns * rows)]
    images, labels = zip(*[training_set[i] for i in indices])
    return (columns, rows), np.stack(images), np.stack(labels)


def _indices_by_label(
    training_set: Dataset, rng: np.random.RandomState, columns: int, rows: int
) -> list[int]:
    groups: dict[tuple, list[int]] = {}
    for index in range(len(training_set)):
        raw_label = training_set.get_details(index).raw_label
        # Reversed, so that classes are ordered by the last entry of a vector first.
        groups.setdefault(tuple(raw_label.flat[::-1]), []).append(index)
    labels = sorted(groups)
    for label in labels:
        rng.shuffle(groups[label])
    indices: list[int] = []
    for row in range(rows):
        group = groups[labels[row % len(labels)]]
        start = (row // len(labels)) * columns
        indices += [group[(start + x) % len(group)] for x in range(columns)]
    return indices


class FakeGrid:
    """The same latents and labels, drawn by the generator at different times of the training.

    Args:
        grid_size: (columns, rows).
        labels: float32 [columns * rows, label_dim].
        z_dim: Size of the latents.
        batch: Images generated at a time.
        device: Where the generator is.
    """

    def __init__(
        self,
        grid_size: tuple[int, int],
        labels: np.ndarray,
        z_dim: int,
        batch: int,
        device: torch.device,
    ) -> None:
        self.grid_size = grid_size
        self._z = torch.randn([labels.shape[0], z_dim], device=device).split(batch)
        self._c = torch.from_numpy(labels).to(device).split(batch)

    @torch.no_grad()
    def save(self, G: nn.Module, path: str) -> None:
        """Generate all images and write them as one picture."""
        images = [
            G(z=z, c=c, noise_mode="const").cpu() for z, c in zip(self._z, self._c, strict=True)
        ]
        save_image_grid(torch.cat(images).numpy(), path, drange=(-1, 1), grid_size=self.grid_size)


def _frozen_copy(module: nn.Module | None) -> nn.Module | None:
    if module is None:
        return None
    return copy.deepcopy(module).eval().requires_grad_(False).cpu()


def equalise(modules: Sequence[nn.Module | None]) -> None:
    """Make the modules of all processes those of process 0, after checking that they agree.

    Everything must have stayed equal by itself except running averages, which every process takes
    over its own images. Collective: every process has to call it. Nothing to do for one process.

    Raises:
        AssertionError: A parameter or buffer has drifted apart.
    """
    if distributed.world_size() == 1:
        return
    for module in modules:
        if module is not None:
            misc.check_ddp_consistency(module, ignore_regex=r".*\.w_avg")
            distributed.broadcast_module(module)


def save_network_snapshot(
    path: str, training_set_kwargs: Mapping[str, Any], modules: Mapping[str, nn.Module | None]
) -> None:
    """Pickle copies of the networks on the CPU, in evaluation mode, replacing ``path`` atomically.

    Args:
        path: File name.
        training_set_kwargs: Arguments of the data set the networks were trained on.
        modules: G, D, G_ema and augment_pipe (None without augmentation).
    """
    data: dict[str, Any] = {"training_set_kwargs": dict(training_set_kwargs)}
    for name in ("G", "D", "G_ema", "augment_pipe"):
        data[name] = _frozen_copy(modules[name])
    write_atomically(path, lambda file: pickle.dump(data, file))


class RunSnapshots:
    """The pictures and network files in a run directory.

    Every process has one; only process 0 draws and writes.

    Args:
        run_dir: The folder.
        training_set: The data set, for ``reals.png`` and the labels of the generated images.
        training_set_kwargs: Its arguments, which network snapshots carry along.
        modules: G, D, G_ema and augment_pipe (None without augmentation).
        batch: Images generated at a time.
        device: Where the networks are.
    """

    def __init__(
        self,
        run_dir: str,
        training_set: Dataset,
        training_set_kwargs: Mapping[str, Any],
        modules: Mapping[str, nn.Module | None],
        batch: int,
        device: torch.device,
    ) -> None:
        self._run_dir = run_dir
        self._training_set_kwargs = training_set_kwargs
        self._modules = modules
        self._grid: FakeGrid | None = None
        if distributed.is_main():
            grid_size, images, labels = setup_snapshot_image_grid(training_set)
            path = os.path.join(run_dir, "reals.png")
            save_image_grid(images, path, drange=(0, 255), grid_size=grid_size)
            self._grid = FakeGrid(grid_size, labels, modules["G_ema"].z_dim, batch, device)

    @property
    def generator(self) -> nn.Module:
        """G_ema as it is; just after `save_networks`, what was written."""
        return self._modules["G_ema"]

    def save_images(self, name: str) -> None:
        """Draw the grid of generated images and write it as ``<name>.png``."""
        if self._grid is not None:
            self._grid.save(self._modules["G_ema"], os.path.join(self._run_dir, f"{name}.png"))

    def save_networks(self, cur_nimg: int) -> str:
        """Write the network snapshot after ``cur_nimg`` images; return its name. Collective."""
        path = os.path.join(self._run_dir, f"network-snapshot-{cur_nimg // 1000:06d}.pkl")
        equalise(list(self._modules.values()))
        if distributed.is_main():
            save_network_snapshot(path, self._training_set_kwargs, self._modules)
        return path
