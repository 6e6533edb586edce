"""Looks at what a training run starts from: the device, the images, the snapshot to resume from."""

from __future__ import annotations

import zipfile
from typing import Any

import torch
from torch import nn

import dnnlib
from dnnlib import UserError
from networks.presets import PRESETS
from networks.snapshot_file import read_snapshot
from torch_utils import misc
from training.base_configs import RESUME_ALIASES
from training.config import DatasetFacts, ResumeFacts
from training.options import TrainOptions

# Arguments of the generator that options, data or other facts stand for.
_NOT_PASSED_ON = {
    "z_dim",
    "c_dim",
    "w_dim",
    "img_resolution",
    "img_channels",
    "img_shape",
    "mapping_kwargs",
    "preset",
    "channel_base",
    "channel_max",
    "num_fp16_res",
    "conv_clamp",
    "fp16_channels_last",
}


def choose_device(name: str, num_processes: int) -> torch.device:
    """Turn ``--device`` into a device that exists, often enough for all processes.

    Args:
        name: "auto" = CUDA if there is any, else the CPU. MPS has to be asked for: it lacks
            operations that augmentation and R1 need.
        num_processes: Every process gets its own GPU; on a CPU they share the cores.

    Raises:
        UserError: There is no such device, or there are too few.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = misc.resolve_device(name)
    if num_processes > 1:
        if device.type == "mps" or device.index is not None:
            raise UserError(f"--device={name} is one device; --gpus={num_processes} needs more.")
        if device.type == "cuda" and torch.cuda.device_count() < num_processes:
            raise UserError(
                f"--gpus={num_processes}: this machine has only {torch.cuda.device_count()} GPUs."
            )
    return device


def inspect_dataset(options: TrainOptions) -> DatasetFacts:
    """Open the training images, check every file's header, and describe them.

    Raises:
        UserError: Nothing readable there, or images of different shapes.
    """
    try:
        dataset = dnnlib.util.construct_class_by_name(
            class_name="training.dataset.ImageFolderDataset",
            path=options.data,
            use_labels=bool(options.cond),
        )
        facts = DatasetFacts(
            name=dataset.name,
            image_shape=tuple(dataset.image_shape),
            num_images=len(dataset),
            label_dim=dataset.label_dim if dataset.has_labels else 0,
        )
        dataset.verify()
        dataset.close()
    except (OSError, UserError, zipfile.BadZipFile) as error:
        raise UserError(f"--data={options.data}: {error}") from error
    return facts


def load_snapshot(name: str, allow_code: bool = False) -> dict[str, Any]:
    """Read a network snapshot.

    Args:
        name: Alias of ``--resume``, file name or URL.
        allow_code: Run the file's own code if it contains something unknown.

    Returns:
        G, D, G_ema (modules), augment_pipe (module or None), training_set_kwargs.

    Raises:
        UserError: Missing, damaged, or not a snapshot.
    """
    source = RESUME_ALIASES.get(name, name)
    data = read_snapshot(source, option="--resume", allow_code=allow_code)
    if data["G"] is None or data["D"] is None:
        raise UserError(f"--resume={name}: the file does not hold the networks G, D and G_ema.")
    return data


def inspect_snapshot(name: str, may_download: bool = True, allow_code: bool = False) -> ResumeFacts:
    """Find out the architecture inside a snapshot.

    Args:
        name: Alias, file name or URL.
        may_download: False = answer from the name alone where the file is not on this machine.
        allow_code: Run the file's own code if it contains something unknown.

    Raises:
        UserError: The file is missing, not a snapshot, or its networks cannot be trained here.
    """
    # The files behind the aliases are known without looking into them.
    if name in RESUME_ALIASES or (dnnlib.util.is_url(name) and not may_download):
        return ResumeFacts(preset="stylegan2")
    data = load_snapshot(name, allow_code)
    try:
        return snapshot_facts(data["G_ema"], data["D"], name)
    except AttributeError as error:
        # Only networks of this project are sure to have all that is asked for.
        raise UserError(
            f"--resume={name}: a {type(data['G_ema']).__name__} of the file's own code can be "
            f"used but not trained here ({error})."
        ) from error


def snapshot_facts(G: nn.Module, D: nn.Module, name: str) -> ResumeFacts:
    """Describe the architecture of both networks.

    Args:
        G: The generator.
        D: The discriminator.
        name: Where it came from, for the error message.

    Raises:
        UserError: The architecture is none of ours.
    """
    preset = getattr(G, "preset", "stylegan2")
    if preset not in PRESETS:
        raise UserError(f"--resume={name}: this version cannot train a {preset} generator.")
    given = dict(G.init_kwargs)
    # Arguments of the synthesis network may be given either way.
    synthesis = {**(given.pop("synthesis_kwargs", None) or {}), **given}
    return ResumeFacts(
        preset=preset,
        image_size=tuple(G.img_shape[1:]),
        img_channels=G.img_channels,
        c_dim=G.c_dim,
        z_dim=G.z_dim,
        w_dim=G.w_dim,
        map_depth=G.mapping.num_layers,
        channel_base=synthesis.get("channel_base"),
        channel_max=synthesis.get("channel_max"),
        # Layers that the new D has and the file's has not would silently start from nothing.
        d_architecture=getattr(D, f"b{D.img_resolution}").architecture,
        d_map_depth=D.mapping.num_layers if D.c_dim > 0 else None,
        synthesis={name: v for name, v in synthesis.items() if name not in _NOT_PASSED_ON},
    )
