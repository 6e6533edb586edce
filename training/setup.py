"""The parts of a training run, built before its first step."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

import dnnlib
from dnnlib import UserError
from ops.conv2d import gradfix
from torch_utils import distributed, misc, training_stats
from torch_utils.host_memory import keep_freed_memory
from torch_utils.images import from_uint8
from training import registry  # noqa: F401 - AugmentPipe must be persistent before it is built
from training.ada import AdaController
from training.inputs import load_snapshot
from training.interrupt import leave_stopping_to_the_trainer

if TYPE_CHECKING:
    from training.dataset import Dataset

_MOST_CHANNELS = 4


def prepare_process(
    seed: int, num_gpus: int, rank: int, device: torch.device, benchmark: bool, allow_tf32: bool
) -> None:
    """Seed numpy and torch, and set the process-wide switches of torch's backends.

    Args:
        seed: Seed of the run; every process draws from its own stream.
        num_gpus: Number of processes.
        rank: Of this process.
        device: Where it computes.
        benchmark: Let cuDNN try its algorithms.
        allow_tf32: Allow 10-bit mantissas in matrix products and convolutions.

    Raises:
        ValueError: There are fewer processes in the group than ``num_gpus`` says.
    """
    if distributed.world_size() != num_gpus:
        raise ValueError(
            f"num_gpus is {num_gpus}, but the process group has {distributed.world_size()} members"
        )
    stream = (seed * num_gpus + rank) % 2**32  # all that numpy takes
    np.random.seed(stream)
    torch.manual_seed(stream)
    if device.type == "cpu":
        keep_freed_memory()
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = benchmark
        torch.backends.cuda.matmul.allow_tf32 = allow_tf32
        torch.backends.cudnn.allow_tf32 = allow_tf32
    gradfix.enabled = True


def construct_dataset(training_set_kwargs: Mapping[str, Any]) -> Dataset:
    """Open the training set described by ``class_name`` and its arguments.

    Raises:
        UserError: Its images have more channels than a picture can have.
    """
    training_set = dnnlib.util.construct_class_by_name(**training_set_kwargs)
    if not 1 <= training_set.num_channels <= _MOST_CHANNELS:
        raise UserError(
            f"the images of {training_set.name} have {training_set.num_channels} channels, but "
            "only 1 (grey), 2 (grey, alpha), 3 (RGB) and 4 (RGBA) can be augmented and drawn."
        )
    return training_set


def print_dataset(training_set: Dataset) -> None:
    """Print size and shapes of the training set, on process 0."""
    distributed.print0()
    distributed.print0("Num images: ", len(training_set))
    distributed.print0("Image shape:", training_set.image_shape)
    distributed.print0("Label shape:", training_set.label_shape)
    distributed.print0()


class RealImages:
    """Endless stream of real images and labels, the share of one process.

    Args:
        training_set: Where they come from.
        rank: Of this process.
        num_gpus: Number of processes.
        batch_size: Images per step of all processes together.
        seed: Seed of the order.
        loader_kwargs: For `torch.utils.data.DataLoader`; what is of no use is left out.
        device: Where the images are put.
    """

    def __init__(
        self,
        training_set: Dataset,
        rank: int,
        num_gpus: int,
        batch_size: int,
        seed: int,
        loader_kwargs: Mapping[str, Any],
        device: torch.device,
    ) -> None:
        kwargs = dict(loader_kwargs)
        if device.type != "cuda":
            kwargs["pin_memory"] = False
        if kwargs.get("num_workers", 0) == 0:
            kwargs.pop("prefetch_factor", None)
        kwargs.setdefault("worker_init_fn", leave_stopping_to_the_trainer)
        sampler = misc.InfiniteSampler(training_set, rank=rank, num_replicas=num_gpus, seed=seed)
        self._device = device
        self._batches: Iterator[Any] = iter(
            torch.utils.data.DataLoader(
                training_set, sampler=sampler, batch_size=batch_size // num_gpus, **kwargs
            )
        )

    def next(self, batch_gpu: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The next step's images, float32 [-1, 1], and labels, in rounds of ``batch_gpu``."""
        images, labels = next(self._batches)
        images = from_uint8(images.to(self._device, non_blocking=True))
        labels = labels.to(self._device, non_blocking=True)
        return images.split(batch_gpu), labels.split(batch_gpu)


class Latents:
    """Draws what the generator needs for all phases of one step.

    Args:
        training_set: Labels are those of random images of it.
        z_dim: Size of the latents.
        batch_size: Images per step of all processes together.
        num_gpus: Number of processes.
        device: Where the tensors are put.
    """

    def __init__(
        self,
        training_set: Dataset,
        z_dim: int,
        batch_size: int,
        num_gpus: int,
        device: torch.device,
    ) -> None:
        self._training_set = training_set
        self._z_dim = z_dim
        self._batch_size = batch_size
        self._share = batch_size // num_gpus
        self._device = device

    def next(
        self, num_phases: int, batch_gpu: int
    ) -> list[tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]:
        """For every phase: z [batch_gpu, z_dim] and c [batch_gpu, c_dim] of every round.

        As many are drawn as all processes need, so that the phases' random streams do not depend
        on the number of processes; this process uses the first part.
        """
        total = num_phases * self._batch_size
        all_z = torch.randn([total, self._z_dim], device=self._device)
        indices = np.random.randint(len(self._training_set), size=total)
        labels = np.stack([self._training_set.get_label(index) for index in indices])
        all_c = torch.from_numpy(labels).to(self._device)
        return [
            (z[: self._share].split(batch_gpu), c[: self._share].split(batch_gpu))
            for z, c in zip(all_z.split(self._batch_size), all_c.split(self._batch_size))
        ]


def build_networks(
    G_kwargs: Mapping[str, Any],
    D_kwargs: Mapping[str, Any],
    training_set: Dataset,
    device: torch.device,
) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Build G and D (training mode) and G_ema (evaluation mode) without gradients."""
    common = {
        "c_dim": training_set.label_dim,
        "img_resolution": training_set.resolution,
        "img_channels": training_set.num_channels,
    }
    _, height, width = training_set.image_shape
    if height != width:  # network classes of other people need not know the argument
        common["img_shape"] = tuple(training_set.image_shape)
    G, D = (
        dnnlib.util.construct_class_by_name(**kwargs, **common)
        .train()
        .requires_grad_(False)
        .to(device)
        for kwargs in (G_kwargs, D_kwargs)
    )
    return G, D, copy.deepcopy(G).eval()


def resume_networks(name: str, modules: Mapping[str, nn.Module], allow_code: bool = False) -> None:
    """Copy parameters and buffers of a snapshot into modules of the same names, on process 0.

    Tensors that the file lacks keep their values; `equalise_networks` passes all of them on.

    Args:
        name: File name or URL of the snapshot.
        modules: G, D and G_ema.
        allow_code: Run the file's own code if it contains something unknown.

    Raises:
        UserError: The file is no snapshot, or a tensor has another shape.
    """
    if not distributed.is_main():
        return
    print(f'Resuming from "{name}"')
    data = load_snapshot(name, allow_code)
    for key, module in modules.items():
        try:
            misc.copy_params_and_buffers(data[key], module, require_all=False)
        except ValueError as error:
            raise UserError(f"--resume={name} does not fit: in {key}, {error}.") from error


def print_networks(G: nn.Module, D: nn.Module, batch: int, device: torch.device) -> None:
    """Print a table of each network's layers, on process 0."""
    if not distributed.is_main():
        return
    z = torch.zeros([batch, G.z_dim], device=device)
    c = torch.zeros([batch, G.c_dim], device=device)
    images = misc.print_module_summary(G, [z, c])
    misc.print_module_summary(D, [images, c])


class Augmentation:
    """The augmentation pipe and what controls its probability p.

    Args:
        augment_kwargs: ``class_name`` and arguments of the pipe; None = no augmentation.
        augment_p: Initial p.
        ada_target: Target of ADA; None = p stays as it is.
        ada_interval: Steps between two adjustments.
        ada_kimg: Thousands of images in which p can move from 0 to 1.
        batch_size: Images per step of all processes together.
        device: Where the pipe works.

    Attributes:
        pipe: The pipe; None if it would never do anything.
        controller: ADA's controller; None with a fixed p.
    """

    def __init__(
        self,
        augment_kwargs: Mapping[str, Any] | None,
        augment_p: float,
        ada_target: float | None,
        ada_interval: int,
        ada_kimg: float,
        batch_size: int,
        device: torch.device,
    ) -> None:
        self.pipe: nn.Module | None = None
        self.controller: AdaController | None = None
        self._p = augment_p
        if augment_kwargs is None or (augment_p == 0 and ada_target is None):
            return
        pipe = dnnlib.util.construct_class_by_name(**augment_kwargs)
        self.pipe = pipe.train().requires_grad_(False).to(device)
        self.pipe.p.fill_(augment_p)
        if ada_target is not None:
            self.controller = AdaController(
                ada_target, ada_interval, ada_kimg, batch_size, augment_p
            )
            self._signs = training_stats.Collector(regex="Loss/signs/real")

    @property
    def p(self) -> float | None:
        """Current probability; None without augmentation."""
        if self.pipe is None:
            return None
        return self._p if self.controller is None else self.controller.p

    def update(self, batch_idx: int) -> None:
        """Let ADA adjust p if it is time after ``batch_idx`` steps. Collective."""
        if self.pipe is None or self.controller is None or not self.controller.is_due(batch_idx):
            return
        self._signs.update()
        self.pipe.p.fill_(self.controller.update(self._signs["Loss/signs/real"]))


def build_loss(
    loss_kwargs: Mapping[str, Any], modules: Mapping[str, nn.Module | None], device: torch.device
) -> Any:
    """Construct the loss on G, D and the augmentation."""
    G = modules["G"]
    return dnnlib.util.construct_class_by_name(
        device=device,
        G_mapping=G.mapping,
        G_synthesis=G.synthesis,
        D=modules["D"],
        augment_pipe=modules["augment_pipe"],
        **loss_kwargs,
    )


def equalise_networks(*modules: nn.Module | None) -> None:
    """Give all processes the parameters and buffers of process 0 (they seed differently)."""
    for module in modules:
        if module is not None:
            distributed.broadcast_module(module)
