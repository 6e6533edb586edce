"""Generate images with a trained network: one PNG file per seed.

Continuous generators draw the same image at any size and any part of the plane (--size, --region).

Examples:
    python generate.py --network=net.pkl --seeds=0-35 --outdir=out
    python generate.py --network=net.pkl --seeds=1,4-6 --trunc=0.7 --size=1024 --outdir=out
    python generate.py --network=net.pkl --seeds=3 --class=7 --region=-1/2,-1/2,3/2,3/2 --outdir=out
    python generate.py --network=net.pkl --projected-w=projected_w.npz --outdir=out
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import dnnlib
import dnnlib.cli

if TYPE_CHECKING:
    import torch

# A picture is held in memory as a whole: about 10 GB at this size.
MAX_PIXELS = 16384 * 16384


@dataclasses.dataclass(frozen=True)
class Job:
    """One image to draw: its file name and what determines it.

    Attributes:
        filename: without folder.
        seed: of z and of random noise; None = projected.
        label: class index; None = unconditional.
        row: index into the projected ws; None = from seed.
    """

    filename: str
    seed: int | None = None
    label: int | None = None
    row: int | None = None


@dnnlib.cli.command()
@click.option(
    "--network", "network_pkl", metavar="FILE|URL", required=True, help="Network snapshot."
)
@click.option("--seeds", type=dnnlib.cli.SEEDS, help="Numbers and ranges, e.g. 1,4-6.")
@click.option(
    "--trunc",
    "psi",
    metavar="PSI",
    type=dnnlib.cli.FINITE_FLOAT,
    default=1.0,
    help="Truncation; 0 = average image.",
)
@click.option(
    "--class",
    "classes",
    metavar="INDEX",
    type=dnnlib.cli.CLASSES,
    help="Class of a conditional network; several (0-9) draw every seed once per class.",
)
@click.option(
    "--noise-mode",
    type=click.Choice(["const", "random", "none"]),
    default="const",
    help="Per-pixel noise of networks that have it.",
)
@click.option(
    "--projected-w",
    metavar="FILE.npz",
    type=click.Path(),
    help="Draw these ws instead of seeds: array w [N, num_ws, w_dim].",
)
@click.option("--outdir", metavar="DIR", type=click.Path(), required=True, help="Made if missing.")
@click.option("--size", type=dnnlib.cli.SIZE, help="Continuous networks: side, or WIDTHxHEIGHT.")
@click.option(
    "--region",
    type=dnnlib.cli.REGION,
    help="Continuous networks: x0,y0,x1,y1; 0,0,1,1 is the whole image.",
)
@click.option(
    "--lod",
    type=click.Choice(["fixed", "scaled"]),
    help="Continuous networks: sample the trained function (fixed, the default), or shrink its "
    "lattices with the size.",
)
@click.option("--grid", is_flag=True, help="Also put all images on one sheet, grid.png.")
@dnnlib.cli.dtype_option
@dnnlib.cli.device_option
@dnnlib.cli.allow_code_option
def main(
    network_pkl: str,
    seeds: list[int] | None,
    psi: float,
    classes: list[int] | None,
    noise_mode: str,
    projected_w: str | None,
    outdir: str,
    size: tuple[int, int] | None,
    region: tuple[Fraction, Fraction, Fraction, Fraction] | None,
    lod: str | None,
    grid: bool,
    dtype: str | None,
    device: str,
    allow_code: bool,
) -> None:
    """Generate images with a trained network, one PNG file per seed."""
    if seeds is None and projected_w is None:
        raise dnnlib.UserError("Name the images to draw: --seeds=0-35, or --projected-w=FILE.npz.")
    if size is not None and size[0] * size[1] > MAX_PIXELS:
        raise dnnlib.UserError(
            f"--size={size[1]}x{size[0]} is too large a picture for the memory; up to "
            f"{MAX_PIXELS:,} pixels (16384x16384) are drawn here, more by explore.py render."
        )

    from networks import sampling
    from networks.snapshot_file import read_generator
    from torch_utils import host_memory, misc

    torch_device = misc.resolve_device(device)
    host_memory.keep_freed_memory()
    G = read_generator(network_pkl, allow_code=allow_code).to(torch_device)
    view = {"size": size, "region": region, "lod": lod}
    view = {name: value for name, value in view.items() if value is not None}
    if view and not hasattr(G.synthesis, "render"):
        _channels, height, width = sampling.image_shape(G)
        raise dnnlib.UserError(
            f"--{next(iter(view))} is for continuous generators; {network_pkl} can draw only "
            f"{width}x{height} pixels."
        )
    projected = None
    if projected_w is not None:
        if seeds is not None:
            dnnlib.cli.warn("--seeds is not used with --projected-w.")
        projected = sampling.load_ws(projected_w, G).to(torch_device)
        jobs = [Job(f"proj{row:02d}.png", row=row) for row in range(len(projected))]
    else:
        sampling.check_truncation(G, psi)
        jobs = list(_seed_jobs(seeds or [], sampling.check_classes(G, classes)))
    precision = sampling.check_dtype(G, dtype)
    folder = dnnlib.cli.make_outdir(outdir)

    images = (draw(G, job, projected, psi, noise_mode, view, precision) for job in jobs)
    _write_images(jobs, images, folder, grid)


def draw(
    G: torch.nn.Module,
    job: Job,
    projected: torch.Tensor | None,
    psi: float,
    noise_mode: str,
    view: dict[str, Any],
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Draw one image: uint8 [C, H, W] on the CPU.

    The result depends on the arguments only, not on what was drawn before.

    Args:
        G: generator.
        job: seed and class, or row of `projected`.
        projected: [N, num_ws, w_dim], float32, or None.
        psi: truncation; 1 = none.
        noise_mode: "const", "random" or "none"; ignored by networks without noise.
        view: arguments of `synthesis.render`; empty = the training grid.
        dtype: precision of the blocks; None = each block's own.
    """
    from networks import sampling

    if job.row is not None:
        ws, noise_seed = projected[job.row : job.row + 1], job.row
    else:
        ws, noise_seed = sampling.ws_of_seed(G, job.seed, job.label, psi), job.seed
    return sampling.draw_image(G, ws, noise_seed, noise_mode, view, dtype)


def _seed_jobs(seeds: list[int], classes: list[int] | None) -> Iterator[Job]:
    """File names as StyleGAN2-ADA's; only several classes need one that names the class."""
    for label in classes or [None]:
        suffix = f"-class{label:02d}" if classes and len(classes) > 1 else ""
        for seed in seeds:
            yield Job(f"seed{seed:04d}{suffix}.png", seed=seed, label=label)


def _write_images(
    jobs: list[Job], images: Iterator[torch.Tensor], folder: Path, grid: bool
) -> None:
    """Write each image as soon as it is drawn, and at the end the sheet if wanted."""
    import math

    import torch

    from dnnlib.progress import progress
    from torch_utils.images import tile_grid, write_image

    kept = []
    for job, image in zip(progress(jobs, desc="Generating", unit="image"), images, strict=True):
        write_image(folder / job.filename, image)
        if grid:
            kept.append(image)
    if grid:
        labels = len({job.label for job in jobs})
        # One row per class; without classes about as many rows as columns.
        columns = len(kept) // labels if labels > 1 else math.ceil(math.sqrt(len(kept)))
        rows = math.ceil(len(kept) / columns)
        write_image(folder / "grid.png", tile_grid(torch.stack(kept), (columns, rows)))
    print(f"Wrote {len(jobs)} images to {folder}")


if __name__ == "__main__":
    main()
