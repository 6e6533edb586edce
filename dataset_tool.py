"""Turns a folder, zip archive or known dataset into a set of equal PNG files to train on."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator

import click

from dnnlib import UserError, cli

_HELP = """Convert SOURCE into a dataset for train.py.

SOURCE may be

\b
  DIR                          pictures in DIR and its sub-folders
  FILE.zip                     pictures in the archive
  *_lmdb                       an LSUN database
  cifar-10-python.tar.gz       CIFAR-10
  train-images-idx3-ubyte.gz   MNIST, with the label file beside it

Labels are taken from dataset.json at the root of a folder or archive:
{"labels": [["a/b.png", 6], ...]}, or from --labels-from-folders.

DEST ending in .zip becomes an uncompressed archive, anything else a folder, which must be new or
empty. It appears when it is complete, and not at all if anything goes wrong.

Pictures may come out in any size, but must all be equal. Training takes heights and widths of which
both can be halved until the shorter one has 4 to 7 pixels (96x64, 1280x768, ...); --transform=pad
makes such pictures. The generators stylegan2 and *-published need squares with a power of two as
side.
"""


@cli.command(help=_HELP)
@click.option("--source", help="Folder or archive to read", required=True, metavar="PATH")
@click.option("--dest", help="Folder or .zip file to write", required=True, metavar="PATH")
@click.option(
    "--max-images",
    help="Look only at the first N pictures of the source  [default: all]",
    type=int,
    metavar="N",
)
@click.option(
    "--resize-filter",
    help="Filter for resizing",
    type=click.Choice(["box", "lanczos"]),
    default="lanczos",
)
@click.option(
    "--transform",
    help="Cropping before resizing: to the aspect of the result, or 'wide' with black bars. 'pad': "
    "no cropping, black (with alpha: transparent) borders up to --width and --height, or up to the "
    "next size that can be trained; pictures larger than that are shrunk",
    type=click.Choice(["center-crop", "center-crop-wide", "pad"]),
)
@click.option("--width", help="Width of the result  [default: as it is]", type=int, metavar="PX")
@click.option("--height", help="Height of the result  [default: as it is]", type=int, metavar="PX")
@click.option(
    "--resolution",
    help="Both in one: WIDTHxHEIGHT, or one number for squares",
    type=cli.SIZE,
    metavar="WxH",
)
@click.option(
    "--labels-from-folders",
    help="Name of the first sub-folder = class",
    is_flag=True,
)
@click.option(
    "--force-channels",
    help="Convert to grey (1), RGB (3; transparent parts become white) or RGBA (4)  "
    "[default: keep; a mixed source is refused]",
    type=click.Choice(["1", "3", "4"]),
)
@click.option(
    "--on-error",
    help="At a broken or odd picture: stop, or leave it out and list it at the end",
    type=click.Choice(["stop", "skip"]),
    default="stop",
)
@click.option(
    "--workers",
    help="Threads; the result is the same for any number  [default: one per CPU core]",
    type=int,
    metavar="N",
)
def main(
    source: str,
    dest: str,
    max_images: int | None,
    resize_filter: str,
    transform: str | None,
    width: int | None,
    height: int | None,
    resolution: tuple[int, int] | None,
    labels_from_folders: bool,
    force_channels: str | None,
    on_error: str,
    workers: int | None,
) -> None:
    """Parses the command line, converts, and says what came out."""
    # Imported here, so that --help answers at once.
    from training.dataset_transform import Transform
    from training.dataset_writer import ConvertOptions, convert

    if resolution is not None:
        if width is not None or height is not None:
            raise UserError("give either --resolution or --width and --height, not both")
        height, width = resolution
    options = ConvertOptions(
        source=source,
        dest=dest,
        max_images=max_images,
        transform=Transform(
            kind=transform, width=width, height=height, resize_filter=resize_filter
        ),
        labels_from_folders=labels_from_folders,
        channels=None if force_channels is None else int(force_channels),
        skip_errors=on_error == "skip",
        workers=workers,
    )
    with _clean_up_when_terminated():
        report = convert(options)
    click.echo("\n".join(report.lines()))


@contextlib.contextmanager
def _clean_up_when_terminated() -> Iterator[None]:
    """Makes SIGTERM an exception, so that an unfinished result is removed as with Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


if __name__ == "__main__":
    main()
