"""`explore.py align`."""

from __future__ import annotations

from fractions import Fraction

import click

import dnnlib
import dnnlib.cli
from analysis.options import DrawingOptions, drawing_options

_FPS = 8


@dnnlib.cli.command("align")
@drawing_options(seeds="0", any_precision=False)
@click.option(
    "--target",
    "target_path",
    metavar="FILE",
    type=click.Path(),
    required=True,
    help="Picture to look for in the image.",
)
@click.option(
    "--transform",
    "kind",
    type=click.Choice(["crop", "similarity", "affine"]),
    default="similarity",
    help="crop: position and zoom; similarity: also a rotation; affine: any linear map.",
)
@click.option(
    "--start",
    type=dnnlib.cli.REGION,
    default="0,0,1,1",
    metavar="X0,Y0,X1,Y1",
    help="About where the picture lies in the image, whose square is 0,0,1,1.",
)
@click.option(
    "--angle",
    type=dnnlib.cli.FiniteRange(-360, 360),
    default=0.0,
    help="About how far it is turned, clockwise in degrees.",
)
@click.option(
    "--max-side",
    type=click.IntRange(8, 1024),
    default=128,
    help="The picture is reduced to this many pixels at most.",
)
@click.option(
    "--steps", "max_steps", type=click.IntRange(1), default=30, help="Most steps at each size."
)
@click.option("--save-video", is_flag=True, help="Film the way there (needs imageio-ffmpeg).")
def command(
    options: DrawingOptions,
    target_path: str,
    kind: str,
    start: tuple[Fraction, Fraction, Fraction, Fraction],
    angle: float,
    max_side: int,
    max_steps: int,
    save_video: bool,
) -> None:
    """Find where in an image a picture lies, by gradients through the positions of its pixels.

    Writes a picture and the numbers of the crop, zoom and rotation, as JSON, for every image.
    """
    from analysis import align, align_pictures, video
    from analysis.records import write_json
    from analysis.subjects import open_subjects, write_picture
    from analysis.targets import read_channels
    from dnnlib.progress import progress

    if kind == "crop" and angle:
        raise dnnlib.UserError(f"--angle={angle:g} is for --transform=similarity or affine.")
    if save_video and not video.can_write_video():
        raise dnnlib.UserError(f"--save-video needs a video encoder: {video.INSTALL_HINT}.")
    G, subjects = open_subjects(options)
    target, values = align_pictures.as_target(read_channels(target_path, G.img_shape[0]))
    place = align.start_placement(kind, G.img_shape, tuple(target.shape[1:]), start, angle)
    folder = dnnlib.cli.make_outdir(options.outdir)
    for subject in subjects:
        with progress(None, desc=f"Aligning {subject.name}", unit="step") as bar:
            steps = align.align(
                G.synthesis,
                subject.ws,
                values,
                place,
                max_side=max_side,
                max_steps=max_steps,
                on_step=lambda step, bar=bar: (bar.set_postfix(rms=step.rms), bar.update()),
            )
        parts = (G.synthesis, subject, target, steps)
        record = align_pictures.report(*parts)
        write_json(folder / f"{subject.name}-align.json", record)
        write_picture(align_pictures.overview(*parts), folder / f"{subject.name}-align.png")
        if save_video:
            film = align_pictures.frames(*parts)
            video.write_video(folder / f"{subject.name}-align.mp4", film, fps=_FPS)
        x, y = record["centre"]
        print(
            f"{subject.name}: centre {x:.4f},{y:.4f}, width {record['width']:.4f}, "
            f"angle {record['angle_degrees']:.2f} degrees, rms {steps[-1].rms:.4g}"
        )
    print(f"Wrote pictures and numbers to {folder}")
