"""From the options of an experiment to a network and the images to look at."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import nn

import dnnlib
from analysis import cost
from analysis.options import DrawingOptions, ModelOptions
from networks import sampling
from networks.presets import get_preset
from networks.snapshot_file import read_generator
from torch_utils import host_memory, misc
from torch_utils.images import to_uint8, write_image

MAX_PIXELS = 16384 * 16384
"""Pictures and sheets are held in memory as a whole."""


@dataclass(frozen=True)
class Subject:
    """One image to look at.

    Attributes:
        name: For file names, `seed0003` or `seed0003-class07`.
        seed: Of z.
        label: Class; None = unconditional.
        ws: [1, num_ws, w_dim] where the weights of the network are.
    """

    name: str
    seed: int
    label: int | None
    ws: torch.Tensor


def open_generator(
    network: str, device: str, allow_code: bool, continuous: bool = True
) -> nn.Module:
    """Reads the generator of a snapshot.

    Args:
        network: File or URL.
        device: A choice of `--device`.
        allow_code: Whether the snapshot may run code of its own.
        continuous: Whether only continuous generators will do.

    Returns:
        The generator on the device, in evaluation mode, without gradients.

    Raises:
        dnnlib.UserError: No such snapshot or device, or a generator that is not continuous.
    """
    torch_device = misc.resolve_device(device)
    host_memory.keep_freed_memory()
    G = read_generator(network, allow_code=allow_code)
    if continuous and not hasattr(G.synthesis, "render"):
        raise dnnlib.UserError(
            f"--network={network} is not a continuous generator: it draws one pixel grid only; "
            "use a network trained with one of the inr-* generators."
        )
    return G.to(torch_device)


def open_model(options: ModelOptions, continuous: bool = True) -> nn.Module:
    """The network that `analysis.options.model_options` named; without snapshot, an untrained one.

    Args:
        options: What was asked for.
        continuous: Whether only continuous generators will do.

    Raises:
        dnnlib.UserError: As `open_generator`; both or neither of --network and --generator; a size
            that the preset does not draw.
    """
    if (options.network is None) == (options.generator is None):
        raise dnnlib.UserError(
            "Name one network: --network=FILE, or --generator=PRESET for an untrained one."
        )
    if options.network is not None:
        return open_generator(options.network, options.device, options.allow_code, continuous)
    name = options.generator
    if continuous and not get_preset(name).continuous:
        raise dnnlib.UserError(
            f"--generator={name} is not a continuous generator: it draws one pixel grid only; use "
            "one of the inr-* generators."
        )
    return build_untrained(name, options.resolution, misc.resolve_device(options.device))


def build_untrained(preset: str, resolution: int, device: torch.device) -> nn.Module:
    """The generator of a preset at full width, RGB, with the same random weights every time.

    Raises:
        dnnlib.UserError: The preset does not draw this size.
    """
    host_memory.keep_freed_memory()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        G = cost.build(preset, cost.Architecture(resolution), "cpu")
    return G.eval().to(device)


def subjects(
    G: nn.Module, seeds: tuple[int, ...], classes: tuple[int, ...] | None, psi: float
) -> list[Subject]:
    """The images that `--seeds`, `--class` and `--trunc` name, seed by seed within a class.

    Raises:
        dnnlib.UserError: A class that does not exist, or a network that cannot truncate.
    """
    sampling.check_truncation(G, psi)
    labels = sampling.check_classes(G, classes)
    found = []
    for label in labels or [None]:
        suffix = f"-class{label:02d}" if labels and len(labels) > 1 else ""
        for seed in seeds:
            ws = sampling.ws_of_seed(G, seed, label, psi)
            found.append(Subject(f"seed{seed:04d}{suffix}", seed, label, ws))
    return found


def open_subjects(options: DrawingOptions) -> tuple[nn.Module, list[Subject]]:
    """The network and the images that `analysis.options.drawing_options` gathered.

    Raises:
        dnnlib.UserError: As `open_generator` and `subjects`.
    """
    G = open_generator(options.network, options.device, options.allow_code)
    return G, subjects(G, options.seeds, options.classes, options.psi)


def to_picture(image: torch.Tensor) -> Image.Image:
    """uint8 [C, H, W], or float [C, H, W] about [-1, 1], as a picture of 1, 3 or 4 channels."""
    pixels = image if image.dtype == torch.uint8 else to_uint8(image)
    array = pixels.permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def write_picture(picture: Image.Image, path: str | os.PathLike[str]) -> None:
    """Write a picture; the suffix names the format. A crash leaves no half file."""
    write_image(path, np.asarray(picture))


def check_pixels(size: tuple[int, int], what: str) -> None:
    """Raises a `dnnlib.UserError` if pictures of (height, width) do not fit into the memory."""
    height, width = size
    if height * width > MAX_PIXELS:
        raise dnnlib.UserError(
            f"{what} makes pictures of {width}x{height} pixels; up to {MAX_PIXELS:,} pixels "
            "(16384x16384) fit on one."
        )
