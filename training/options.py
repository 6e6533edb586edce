"""The options of ``train.py``: one typed field each, from which the command line is generated.

A value of None means "not given": the base configuration, the preset or the data decides, and the
run directory's name does not mention it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import click

from dnnlib.cli import DEVICE, FiniteRange, allow_code_option, detector_option
from metrics.names import METRIC_NAMES
from networks.presets import DEFAULT_PRESET, FMM_ACTIVATION_NAMES, PRESETS
from training.base_configs import AUGMENT_PIPES, CONFIG_NAMES, RESUME_ALIASES

_POSITIVE = click.IntRange(min=1)
_NON_NEGATIVE = FiniteRange(min=0)
_UNIT = FiniteRange(min=0, max=1)

DEFAULT_METRICS = "fid50k_full"
"""StyleGAN2-ADA's choice, so that the same command reports the same numbers."""


def _option(
    kind: Any,
    text: str,
    *,
    unset: str | None = None,
    default: Any = None,
    required: bool = False,
    metavar: str | None = None,
) -> Any:
    """A dataclass field that also describes a click option.

    Args:
        kind: The click type.
        text: Help text.
        unset: What happens if the option is not given; shown as the default.
        default: Default value, shown in the help text unless it is None.
        required: Whether the option must be given.
        metavar: Name of the value in the help text, with its unit.
    """
    metadata = {
        "kind": kind,
        "text": text,
        "unset": unset,
        "required": required,
        "metavar": metavar,
    }
    return field(metadata=metadata) if required else field(default=default, metadata=metadata)


def _shared_option(decorator: Callable[[Callable], Callable], default_factory: Callable) -> Any:
    """A dataclass field for an option that other commands have too.

    Args:
        decorator: Adds the option to a command, under the field's name.
        default_factory: Makes the value of an option that is not given.
    """
    return field(default_factory=default_factory, metadata={"decorator": decorator})


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainOptions:
    """Everything a user can say on the command line of ``train.py``, as typed."""

    # General.
    outdir: str = _option(str, "Parent folder of the run directories", required=True, metavar="DIR")
    gpus: int = _option(_POSITIVE, "Number of GPUs (on a CPU: of processes)", default=1)
    snap: int = _option(_POSITIVE, "Ticks between snapshots", default=50, metavar="TICKS")
    metrics: str = _option(
        str,
        f"Metrics evaluated at every snapshot: none, or some of {', '.join(METRIC_NAMES)}",
        default=DEFAULT_METRICS,
        metavar="NAMES",
    )
    detectors: dict[str, str] = _shared_option(detector_option, dict)
    seed: int = _option(click.IntRange(0, 2**32 - 1), "Random seed", default=0)
    device: str = _option(
        DEVICE,
        "Where to compute; auto = cuda if there is one, else cpu",
        default="auto",
    )
    desc: str | None = _option(str, "Text put at the end of the run directory's name")

    # Data.
    data: str = _option(str, "Training images: folder or zip", required=True, metavar="PATH")
    cond: bool | None = _option(
        bool, "Train a conditional model on the labels in dataset.json", unset="0"
    )
    subset: int | None = _option(
        _POSITIVE, "Train on N randomly chosen images", unset="all", metavar="N"
    )
    mirror: bool | None = _option(
        bool, "Double the images by x-flips", unset="0; --cfg=paper-inr: 1"
    )
    workers: int | None = _option(
        click.IntRange(min=0), "Processes that load images", unset="3, on a CPU 0"
    )

    # Base configuration.
    cfg: str = _option(
        click.Choice(CONFIG_NAMES),
        "Base configuration; tiny = small images on a CPU",
        default="auto",
    )
    generator: str | None = _option(
        click.Choice(list(PRESETS)), "Generator architecture", unset=DEFAULT_PRESET
    )
    gamma: float | None = _option(_NON_NEGATIVE, "Weight of R1", unset="from --cfg")
    kimg: int | None = _option(
        _POSITIVE, "Length of the training", unset="from --cfg", metavar="KIMG"
    )
    tick: float | None = _option(
        FiniteRange(min=0, min_open=True),
        "Time between status lines",
        unset="4; tiny: 1",
        metavar="KIMG",
    )
    batch: int | None = _option(_POSITIVE, "Images per step, all GPUs", unset="from --cfg")
    batch_gpu: int | None = _option(
        _POSITIVE, "Images a GPU holds at a time; the rest is accumulated", unset="from --cfg"
    )
    mbstd_group: int | None = _option(
        _POSITIVE, "Group of the minibatch standard deviation", unset="from --cfg"
    )
    glr: float | None = _option(
        _NON_NEGATIVE,
        "Learning rate of G; of hypernetworks that of their shared weights",
        unset="from --cfg; hypernetworks: 0.0005",
    )
    dlr: float | None = _option(_NON_NEGATIVE, "Learning rate of D", unset="from --cfg")
    cbase: int | None = _option(
        _POSITIVE, "Channels at resolution r: min(cbase / r, cmax)", unset="from --cfg"
    )
    cmax: int | None = _option(_POSITIVE, "Most channels of a layer", unset="from --cfg")
    z_dim: int | None = _option(_POSITIVE, "Size of the latent z", unset="from --cfg")
    w_dim: int | None = _option(
        _POSITIVE, "Size of the latent w", unset="from --cfg; hypernetworks: 1024"
    )
    map_depth: int | None = _option(
        _POSITIVE, "Layers of the mapping network", unset="from --cfg; hypernetworks: 3"
    )
    fmm_rank: int | None = _option(
        _POSITIVE, "Rank of factorised modulation", unset="10, or the snapshot's"
    )
    fmm_activation: str | None = _option(
        click.Choice(FMM_ACTIVATION_NAMES),
        "Activation of factorised modulation",
        unset="inr-gan*: demod, hypernetworks: sigmoid, or the snapshot's",
    )
    pl_weight: float | None = _option(
        _NON_NEGATIVE, "Weight of path length regularisation", unset="inr-*: 0, else from --cfg"
    )
    style_mixing_prob: float | None = _option(
        _UNIT, "Probability of style mixing", unset="inr-*: 0, else from --cfg"
    )

    # Discriminator augmentation.
    aug: str | None = _option(
        click.Choice(["noaug", "ada", "fixed"]),
        "Augmentation mode",
        unset="ada; --cfg=paper-inr: noaug",
    )
    p: float | None = _option(_UNIT, "Augmentation probability for --aug=fixed")
    target: float | None = _option(_UNIT, "Target value of ADA", unset="0.6")
    augpipe: str | None = _option(
        click.Choice(list(AUGMENT_PIPES)), "Augmentation pipeline", unset="bgc"
    )

    # Transfer learning.
    resume: str | None = _option(
        str,
        f"Start from a snapshot: file, URL, or one of {', '.join(RESUME_ALIASES)}, noresume",
        unset="noresume",
        metavar="PKL",
    )
    allow_code: bool = _shared_option(allow_code_option, bool)
    freezed: int | None = _option(
        click.IntRange(min=0), "Freeze-D: frozen layers of D", unset="0", metavar="LAYERS"
    )

    # Performance.
    fp32: bool | None = _option(
        bool,
        "No mixed precision; 0 asks an inr-* generator for it",
        unset="inr-*: G only; --cfg=paper-inr: 1",
    )
    nhwc: bool | None = _option(bool, "Channels-last layout for float16", unset="0")
    nobench: bool | None = _option(bool, "Switch cuDNN's benchmarking off", unset="0")
    allow_tf32: bool | None = _option(bool, "Allow TF32 inside matmul and convolution", unset="0")


def click_options(command: Callable) -> Callable:
    """Decorator: add one click option per field of `TrainOptions`."""
    for option in reversed(fields(TrainOptions)):
        info = option.metadata
        if "decorator" in info:
            command = info["decorator"](command)
            continue
        keywords: dict[str, Any] = {} if info["required"] else {"default": option.default}
        command = click.option(
            f"--{option.name.replace('_', '-')}",
            option.name,
            type=info["kind"],
            help=info["text"],
            required=info["required"],
            metavar=info["metavar"],
            # click shows a string in place of the value.
            show_default=info["unset"] or option.default is not None,
            **keywords,
        )(command)
    return command
