"""`explore.py interpolate`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

import dnnlib
import dnnlib.cli
from analysis.options import DrawingOptions, drawing_options

if TYPE_CHECKING:
    import numpy as np
    import torch

_SPACES = ("z", "w", "theta", "pixels")


@dnnlib.cli.command("interpolate")
@drawing_options(seeds="0,1")
@click.option(
    "--space",
    "spaces",
    type=dnnlib.cli.CommaList(_SPACES),
    default="z,w,theta,pixels",
    help="Where the straight line runs: z, w, theta (the weights of the function), pixels.",
)
@click.option("--steps", type=click.IntRange(2, 1000), default=10, help="Pictures of a strip.")
@click.option("--size", type=dnnlib.cli.SIZE, help="Side, or WIDTHxHEIGHT.  [default: as trained]")
@click.option("--video", is_flag=True, help="Also write a film per space (imageio-ffmpeg).")
@click.option(
    "--frames", type=click.IntRange(2, 100_000), default=60, help="Of a film, per pair of images."
)
@click.option("--fps", type=click.IntRange(1, 240), default=30, help="Of a film.")
def command(
    options: DrawingOptions,
    spaces: list[str],
    steps: int,
    size: tuple[int, int] | None,
    video: bool,
    frames: int,
    fps: int,
) -> None:
    """Draw the way from one image to the next.

    In z, in w, between the weights of the functions, and between pixels.
    """
    if not spaces:
        raise dnnlib.UserError(f"--space names nothing; choose from {', '.join(_SPACES)}.")

    from analysis import interpolate, sheets
    from analysis.records import write_csv
    from analysis.subjects import check_pixels, open_subjects, to_picture, write_picture
    from analysis.video import INSTALL_HINT, can_write_video, write_video
    from dnnlib.progress import progress
    from networks.sampling import check_dtype

    if video and not can_write_video():
        raise dnnlib.UserError(f"--video needs a film encoder that is missing: {INSTALL_HINT}")
    G, subjects = open_subjects(options)
    if len(subjects) < 2:
        raise dnnlib.UserError(
            "interpolate needs at least two images: several --seeds (0,1) or several classes."
        )
    pairs = len(subjects) - 1
    height, width = size or G.img_shape[1:]
    check_pixels((height * pairs * len(spaces), width * steps), "--steps with all seeds and spaces")
    how = (options.psi, size, check_dtype(G, options.dtype))
    folder = dnnlib.cli.make_outdir(options.outdir)
    rows, strips, names = [], [], []
    with progress(len(spaces) * pairs, desc="Interpolating", unit="strip") as bar:
        for first, second in zip(subjects, subjects[1:]):
            for space in spaces:
                drawn = interpolate.frames(G, [first, second], space, steps, *how)
                pictures = list(drawn)
                path = {"from": first.name, "to": second.name}
                rows += [{**path, **row} for row in interpolate.measure(pictures, space)]
                strips.append([sheets.enlarged(to_picture(picture), 64) for picture in pictures])
                names.append(space)
                bar.update()
    write_picture(sheets.labelled_sheet(strips, names=names), folder / "interpolate.png")
    write_csv(folder / "interpolate.csv", rows)
    if video:
        for space in spaces:
            drawn = interpolate.frames(G, subjects, space, frames, *how)
            total = pairs * (frames - 1) + 1
            with progress(total, desc=f"Film in {space}", unit="frame") as bar:
                write_video(folder / f"interpolate-{space}.mp4", _film(drawn, bar), fps=fps)
    films = f" and {len(spaces)} films" if video else ""
    print(f"Wrote interpolate.png, interpolate.csv{films} to {folder}")


def _film(pictures: Iterator[torch.Tensor], bar: Any) -> Iterator[np.ndarray]:
    """The pictures as frames, each counted by the progress bar."""
    from analysis.interpolate import as_video_frame

    for picture in pictures:
        bar.update()
        yield as_video_frame(picture)
