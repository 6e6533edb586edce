"""`explore.py video`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import dnnlib
import dnnlib.cli
from analysis.options import lod_option, trunc_option

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

    from analysis.camera import View
    from analysis.film import Key

_BITRATE = "12M"


@dataclasses.dataclass(frozen=True)
class VideoOptions:
    """The options of the command; see their help texts."""

    network: str
    seeds: list[int] | None
    projected_w: tuple[str, ...]
    classes: list[int] | None
    psi: float
    shuffle_seed: int | None
    grid: tuple[int, int]
    num_keyframes: int | None
    w_frames: int
    output: str
    fps: int
    regions: tuple[tuple[Fraction, ...], ...]
    easing: str
    returns: bool
    overscan: float
    size: tuple[int, int] | None
    lod: str
    dtype: str | None
    device: str
    allow_code: bool


@dnnlib.cli.command("video")
@click.option("--network", metavar="FILE|URL", required=True, help="Network snapshot.")
@click.option(
    "--seeds", type=dnnlib.cli.SEEDS, help="Keyframes: numbers and ranges, e.g. 0-7 or 1,4-6."
)
@click.option(
    "--projected-w",
    metavar="FILE",
    multiple=True,
    help="In place of --seeds: keyframes from the files of projector.py; may be repeated.",
)
@click.option(
    "--class",
    "classes",
    metavar="INDEX",
    type=dnnlib.cli.CLASSES,
    help="Class of a conditional network; several (0-9) are taken in turn, as the seeds are.",
)
@trunc_option
@click.option(
    "--shuffle-seed",
    type=click.IntRange(0, 2**32 - 1),
    metavar="N",
    help="Mix the keyframes.  [default: leave the order]",
)
@click.option(
    "--grid",
    type=dnnlib.cli.SIZE,
    metavar="WxH",
    default="1x1",
    help="Films side by side, columns x rows; the first seeds are the first film's.",
)
@click.option(
    "--num-keyframes",
    type=click.IntRange(1, 100_000),
    metavar="N",
    help="Per film of the grid.  [default: number of seeds / cells of the grid]",
)
@click.option(
    "--w-frames", type=click.IntRange(1, 100_000), default=120, help="From keyframe to keyframe."
)
@click.option(
    "--output",
    metavar="FILE.mp4|DIR",
    type=click.Path(),
    required=True,
    help="The film; a folder: its frames as PNG files.",
)
@click.option("--fps", type=click.IntRange(1, 240), default=60, help="Frames per second.")
@click.option(
    "--region",
    "regions",
    metavar="X0,Y0,X1,Y1",
    type=dnnlib.cli.REGION,
    multiple=True,
    help="What the camera sees, in units of the image; several: it travels from one to the next, "
    "zooming exponentially.  [default: 0,0,1,1]",
)
@click.option(
    "--easing",
    type=click.Choice(["linear", "smooth"]),
    default="linear",
    help="smooth = the camera rests for a moment at every --region.",
)
@click.option(
    "--return", "returns", is_flag=True, help="The camera goes back to the first --region."
)
@click.option(
    "--overscan",
    type=dnnlib.cli.FiniteRange(min=0, max=16),
    metavar="SHARE",
    default=0.0,
    help="Show more on every side, by this part of the frame; frames grow, pixels stay.",
)
@click.option(
    "--size",
    type=dnnlib.cli.SIZE,
    help="Of a frame before --overscan: side, or WIDTHxHEIGHT.  [default: as many pixels per unit "
    "as trained, in the first --region]",
)
@lod_option
@dnnlib.cli.dtype_option
@dnnlib.cli.device_option
@dnnlib.cli.allow_code_option
def command(**values: Any) -> None:
    """Film a closed path through w and a camera path.

    The options of StyleGAN3's gen_video.py, --class, and for continuous networks a camera.
    """
    options = VideoOptions(**values)
    from analysis import film
    from analysis.records import write_json
    from analysis.subjects import check_pixels, open_generator
    from dnnlib.progress import progress
    from metrics.provenance import generator_dtype
    from networks.sampling import check_dtype, device_of

    camera = bool(options.regions or options.size or options.overscan or options.lod != "fixed")
    output = _check_output(options.output)
    G = open_generator(options.network, options.device, options.allow_code, continuous=False)
    if camera and not hasattr(G.synthesis, "render"):
        raise dnnlib.UserError(
            f"--network={options.network} is not a continuous generator: it draws one pixel grid "
            "only, without --region, --size, --overscan and --lod."
        )
    rows, columns = options.grid
    keys, given = _keys(G, options)
    plan = film.plan_keys(keys, rows * columns, options.num_keyframes, options.shuffle_seed)
    total = len(plan[0]) * options.w_frames
    path, size = _camera(G, options, total) if camera else (None, _image_size(G))
    check_pixels((size[0] * rows, size[1] * columns), "--grid with this size of a frame")
    keyframes = film.keyframe_ws(G, plan, options.psi, given)
    view = {"size": size, "lod": options.lod} if camera else None
    dtype = check_dtype(G, options.dtype)
    folder = dnnlib.cli.make_outdir(str(output.parent), "--output")
    with progress(total, desc="Filming", unit="frame") as bar:
        drawn = film.frames(G, keyframes, options.w_frames, (columns, rows), view, path, dtype)
        written = _write(output, _counted(drawn, bar), options.fps)
    report = folder / f"{output.stem}.json"
    write_json(
        report,
        {
            "network": options.network,
            "fps": options.fps,
            "frames": total,
            "frame_size": [size[1] * columns, size[0] * rows],
            "grid": [columns, rows],
            "w_frames": options.w_frames,
            "truncation_psi": options.psi,
            "dtype": generator_dtype(G, {"dtype": dtype}, device_of(G)),
            "keyframes": [[key._asdict() for key in keys] for keys in plan],
            "views": None if path is None else [[float(edge) for edge in v] for v in path],
        },
    )
    print(f"Wrote {total} frames, {total / options.fps:.1f} s, to {written}, and {report}")


def _check_output(text: str) -> Path:
    """The film's file, or the folder of its frames."""
    output = Path(text)
    if output.suffix not in (".mp4", ""):
        raise dnnlib.UserError(
            f"--output={text}: a film ends in .mp4; a name without ending is a folder of frames."
        )
    if output.is_dir() and (output.suffix or any(output.glob("frame*.png"))):
        what = "is a folder" if output.suffix else "holds frames of another film"
        raise dnnlib.UserError(f"--output={text} {what}; choose another name.")
    return output


def _keys(G: nn.Module, options: VideoOptions) -> tuple[list[Key], torch.Tensor | None]:
    """The keyframes that were named, and their ws if they came from files."""
    import torch

    from analysis.film import Key
    from networks import sampling

    if (options.seeds is None) == (not options.projected_w):
        raise dnnlib.UserError("Name the keyframes, with either --seeds or --projected-w.")
    if options.projected_w:
        if options.classes is not None:
            dnnlib.cli.warn("--class is not used with --projected-w.")
        if options.psi != 1:
            dnnlib.cli.warn("--trunc is not used with --projected-w.")
        given = torch.cat([sampling.load_ws(name, G) for name in options.projected_w])
        return [Key(index, None) for index in range(len(given))], given
    sampling.check_truncation(G, options.psi)
    labels = sampling.check_classes(G, options.classes) or [None]
    # As many keyframes as there are seeds or classes, whichever are more; both are taken in turn.
    count = max(len(options.seeds), len(labels))
    pairs = ((options.seeds[i % len(options.seeds)], labels[i % len(labels)]) for i in range(count))
    return [Key(seed, label) for seed, label in pairs], None


def _image_size(G: nn.Module) -> tuple[int, int]:
    from networks import sampling

    return sampling.image_shape(G)[1:]


def _camera(G: nn.Module, options: VideoOptions, total: int) -> tuple[list[View], tuple[int, int]]:
    """The view of every frame, and the size of a frame."""
    from analysis import camera

    views = [tuple(region) for region in options.regions] or [
        (Fraction(0),) * 2 + (Fraction(1),) * 2
    ]
    aspects = [(x1 - x0) / (y1 - y0) for x0, y0, x1, y1 in views]
    for view, aspect in zip(views, aspects):
        if aspect != aspects[0]:
            text = ",".join(str(edge) for edge in view)
            raise dnnlib.UserError(
                f"--region={text} is {float(aspect):g} times as wide as high, the first one "
                f"{float(aspects[0]):g} times; all views of a film need the same shape."
            )
    size = options.size or camera.frame_size(views[0], _image_size(G))
    views, size = camera.overscan(views, size, options.overscan)
    return camera.path(views, total, size[1], options.easing, options.returns), size


def _counted(frames: Iterable[np.ndarray], bar: Any) -> Iterable[np.ndarray]:
    for frame in frames:
        bar.update()
        yield frame


def _write(output: Path, frames: Iterable[np.ndarray], fps: int) -> Path:
    """Write the film, or its frames where that was asked for or nothing can write films."""
    from analysis import video
    from torch_utils.images import write_image

    if output.suffix and video.can_write_video():
        video.write_video(output, frames, fps, _BITRATE)
        return output
    folder = output
    if output.suffix:
        folder = output.with_name(f"{output.stem}-frames")
        dnnlib.cli.warn(
            f"No film encoder is installed ({video.INSTALL_HINT}); {folder} gets the frames."
        )
    folder.mkdir(parents=True, exist_ok=True)
    for index, frame in enumerate(frames):
        write_image(folder / f"frame{index:06d}.png", frame)
    return folder
