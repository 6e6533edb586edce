"""Train a generative network on a folder or zip of images.

Example: ``python train.py --outdir=runs --data=images.zip --gpus=1``. The first lines printed are
the complete configuration; ``--dry-run`` stops after them.
"""

from __future__ import annotations

import errno
import json
import os
import re
from typing import Any

import click

from dnnlib import UserError, cli
from training.config import TrainConfig
from training.explain import explain
from training.options import TrainOptions, click_options
from training.resolve import is_resume, resolve

LONGEST_NAME = 255
"""Bytes of one file name that all usual file systems take."""


def make_config(options: TrainOptions, dry_run: bool) -> TrainConfig:
    """Look at the data, the device and the snapshot, and fill in what the options leave open.

    Args:
        options: What the user typed.
        dry_run: Do not download a snapshot only to look at it.

    Raises:
        UserError: Something the options name is missing or does not fit.
    """
    # These import torch, which would delay --help and mistyped options by seconds.
    from training import inputs

    device = inputs.choose_device(options.device, options.gpus)
    facts = inputs.inspect_dataset(options)
    resume = None
    if is_resume(options.resume):
        resume = inputs.inspect_snapshot(
            options.resume, may_download=not dry_run, allow_code=options.allow_code
        )
    return resolve(options, facts, resume, device.type)


def next_run_dir(outdir: str, description: str) -> str:
    """``<outdir>/<number>-<description>``; the number is one above the largest there is."""
    names = []
    if os.path.isdir(outdir):
        names = [entry.name for entry in os.scandir(outdir) if entry.is_dir()]
    numbers = [int(match[0]) for match in (re.match(r"\d+", name) for name in names) if match]
    return os.path.join(outdir, f"{max(numbers, default=-1) + 1:05d}-{description}")


def check_run_dir(run_dir: str, desc: str | None) -> None:
    """Refuse a run directory that cannot be made, before anything is printed or written.

    Args:
        run_dir: The folder to be made.
        desc: The value of ``--desc``, which is part of its name.

    Raises:
        UserError: Its name is too long, or its parent is not a folder that can be written.
    """
    size = len(os.fsencode(os.path.basename(run_dir)))
    if size > LONGEST_NAME:
        culprit = f"--desc={desc[:20]}... ({len(desc)} letters)" if desc else "--data: its name"
        raise UserError(
            f"{culprit} makes the name of the run directory {size} bytes long, but {LONGEST_NAME} "
            f"are possible; shorten it by {size - LONGEST_NAME}."
        )
    folder = os.path.dirname(os.path.abspath(run_dir))
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in folder.split(os.sep)):
        raise _unwritable(run_dir, errno.ENAMETOOLONG)
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        raise _unwritable(run_dir, errno.ENOTDIR)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _unwritable(run_dir, errno.EACCES)


def _unwritable(run_dir: str, reason: int | None) -> UserError:
    text = "unknown reason" if reason is None else os.strerror(reason)
    return UserError(f"--outdir: {run_dir} cannot be written ({text}); name a folder that can.")


def print_config(config: TrainConfig, kwargs: dict[str, Any]) -> None:
    """Print the options as JSON, a summary, and where the derived numbers come from."""
    training_set = config.training_set
    summary = {
        "Output directory": kwargs["run_dir"],
        "Training data": training_set.path,
        "Training duration": f"{config.total_kimg} kimg",
        "Number of GPUs": config.options.gpus,
        "Number of images": training_set.max_size,
        "Image resolution": training_set.size_text,
        "Conditional model": training_set.use_labels,
        "Dataset x-flips": training_set.xflip,
    }
    print()
    print("Training options:")
    print(json.dumps(kwargs, indent=2))
    print()
    for label, value in summary.items():
        print(f"{label + ':':<20}{value}")
    print()
    for line in explain(config):
        print(line)
    print()


def create_run_dir(kwargs: dict[str, Any]) -> None:
    """Create the run directory with ``training_options.json`` in it.

    Raises:
        UserError: The folder cannot be written.
    """
    run_dir = kwargs["run_dir"]
    try:
        os.makedirs(run_dir)
        path = os.path.join(run_dir, "training_options.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(kwargs, file, indent=2)
    except OSError as error:
        raise _unwritable(run_dir, error.errno) from error


@cli.command()
@click_options
@click.option("-n", "--dry-run", is_flag=True, help="Print the configuration and stop")
def main(dry_run: bool, **values: Any) -> None:
    """Train a generative network on a folder or zip of images.

    \b
    Examples:
      # One GPU, or the CPU where there is none; dataset_tool.py makes the zip.
      python train.py --outdir=runs --data=photos.zip --gpus=1
      # Small pictures on a laptop, one class per label of dataset.json.
      python train.py --outdir=runs --data=digits.zip --cfg=tiny --cond=1
      # StyleGAN2's own generator with the published settings of its authors.
      python train.py --outdir=runs --data=ffhq.zip --gpus=8 --generator=stylegan2 --cfg=paper256

    \b
    Base configurations (--cfg):
      auto       numbers from formulas of resolution and number of GPUs; good start for new data
      tiny       small networks and batches for pictures up to about 64x64 on a CPU
      stylegan2  StyleGAN2's config F at 1024x1024
      paper256   FFHQ and LSUN at 256x256
      paper512   BreCaHAD and AFHQ at 512x512
      paper1024  MetFaces at 1024x1024
      cifar      CIFAR-10 at 32x32
    """
    options = TrainOptions(**values)
    cli.require_outdir(options.outdir)
    config = make_config(options, dry_run)
    kwargs = config.to_dict(next_run_dir(options.outdir, config.description))
    check_run_dir(kwargs["run_dir"], options.desc)
    print_config(config, kwargs)
    if dry_run:
        print("Dry run; exiting.")
        return

    print("Creating output directory...")
    create_run_dir(kwargs)
    print("Launching processes...")
    from training.launch import launch_training

    launch_training(kwargs)


if __name__ == "__main__":
    main()
