"""Mix the styles of seeds: each picture has some of its layers' w from another seed.

Writes one picture per pair of a row and a column seed, one per seed, and all of them on grid.png.

Examples:
    python style_mixing.py --network=net.pkl --rows=85,100,75 --cols=55,821 --outdir=out
    python style_mixing.py --network=net.pkl --rows=0-3 --cols=4-9 --styles=0-3 --outdir=out
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

import dnnlib
import dnnlib.cli

if TYPE_CHECKING:
    import torch

DEFAULT_STYLES = range(7)
# All pictures are held in memory, and again on the sheet: about 1 GB each at this size in RGB.
MAX_PIXELS = 16384 * 16384


@dnnlib.cli.command()
@click.option(
    "--network", "network_pkl", metavar="FILE|URL", required=True, help="Network snapshot."
)
@click.option(
    "--rows",
    "row_seeds",
    type=dnnlib.cli.SEEDS,
    required=True,
    help="Seeds that give the other layers; numbers and ranges, e.g. 1,4-6.",
)
@click.option(
    "--cols",
    "col_seeds",
    type=dnnlib.cli.SEEDS,
    required=True,
    help="Seeds that give the layers of --styles.",
)
@click.option("--outdir", metavar="DIR", type=click.Path(), required=True, help="Made if missing.")
@click.option(
    "--styles",
    "styles",
    metavar="LAYERS",
    type=dnnlib.cli.LAYERS,
    default=None,
    show_default="0-6",
    help="Layers that take the w of the column's seed, 0 = the coarsest.",
)
@click.option(
    "--trunc",
    "psi",
    metavar="PSI",
    type=dnnlib.cli.FINITE_FLOAT,
    default=1.0,
    help="Truncation; 0 = average image.",
)
@click.option(
    "--class", "label", metavar="INDEX", type=int, help="Class of all pictures (conditional)."
)
@click.option(
    "--noise-mode",
    type=click.Choice(["const", "random", "none"]),
    default="const",
    help="Per-pixel noise of networks that have it.",
)
@dnnlib.cli.dtype_option
@dnnlib.cli.device_option
@dnnlib.cli.allow_code_option
def main(
    network_pkl: str,
    row_seeds: list[int],
    col_seeds: list[int],
    outdir: str,
    styles: list[int] | None,
    psi: float,
    label: int | None,
    noise_mode: str,
    dtype: str | None,
    device: str,
    allow_code: bool,
) -> None:
    """Mix the styles of seeds: a picture for each row and column, and a sheet of all."""
    from dnnlib.progress import progress
    from networks import sampling
    from networks.snapshot_file import read_generator
    from torch_utils import host_memory, misc
    from torch_utils.images import write_image

    torch_device = misc.resolve_device(device)
    host_memory.keep_freed_memory()
    G = read_generator(network_pkl, allow_code=allow_code).to(torch_device)
    styles = check_styles(G, styles)
    sampling.check_truncation(G, psi)
    label = sampling.check_class(G, label)
    _channels, height, width = sampling.image_shape(G)
    if (len(row_seeds) + 1) * (len(col_seeds) + 1) * height * width > MAX_PIXELS:
        raise dnnlib.UserError(
            f"{len(row_seeds)} rows of {len(col_seeds)} pictures of {width}x{height} pixels are "
            f"too many for one sheet of at most {MAX_PIXELS:,} pixels; choose fewer seeds."
        )
    precision = sampling.check_dtype(G, dtype)
    folder = dnnlib.cli.make_outdir(outdir)

    seeds = dict.fromkeys([*row_seeds, *col_seeds])
    ws = {seed: sampling.ws_of_seed(G, seed, label, psi) for seed in seeds}
    pairs = dict.fromkeys(
        [(seed, seed) for seed in seeds] + [(row, col) for row in row_seeds for col in col_seeds]
    )
    images = {}
    for row, col in progress(list(pairs), desc="Generating", unit="image"):
        mixed = mix(ws[row], ws[col], styles)
        images[row, col] = sampling.draw_image(G, mixed, row, noise_mode, dtype=precision)
        write_image(folder / f"{row}-{col}.png", images[row, col])
    write_image(folder / "grid.png", mixing_grid(images, row_seeds, col_seeds))
    print(f"Wrote {len(images)} images and grid.png to {folder}")


def check_styles(G: torch.nn.Module, styles: list[int] | None) -> list[int]:
    """Indices of the layers that take the column's w.

    Args:
        G: Generator.
        styles: What the user chose; None = the first seven, or fewer where there are not as many.

    Raises:
        dnnlib.UserError: The network has no such layer.
    """
    if styles is None:
        if len(DEFAULT_STYLES) >= G.num_ws:
            dnnlib.cli.warn(
                f"This network has only {G.num_ws} layers, all of which take the styles of the "
                f"column's seed; choose fewer with --styles, e.g. --styles=0-{G.num_ws // 2}."
            )
        return list(DEFAULT_STYLES[: G.num_ws])
    if max(styles) >= G.num_ws:
        raise dnnlib.UserError(
            f"--styles={max(styles)} does not exist: the layers of this network are 0 to "
            f"{G.num_ws - 1}."
        )
    return styles


def mix(row_ws: torch.Tensor, col_ws: torch.Tensor, styles: list[int]) -> torch.Tensor:
    """Row's ws with the layers `styles` of the column's: [1, num_ws, w_dim]."""
    mixed = row_ws.clone()
    mixed[:, styles] = col_ws[:, styles]
    return mixed


def mixing_grid(
    images: dict[tuple[int, int], torch.Tensor], row_seeds: list[int], col_seeds: list[int]
) -> torch.Tensor:
    """Lay out one sheet: the seeds' own pictures along the top and the left, mixtures between.

    Args:
        images: uint8 [C, H, W] for each (row, column) and each (seed, seed).
        row_seeds: From top to bottom.
        col_seeds: From left to right.

    Returns:
        uint8 [C, (rows + 1) H, (columns + 1) W]; black at the top left.
    """
    import torch

    from torch_utils.images import tile_grid

    corner = torch.zeros_like(next(iter(images.values())))
    if len(corner) in (2, 4):
        corner[-1] = 255  # black, not transparent
    tiles = [corner, *(images[col, col] for col in col_seeds)]
    for row in row_seeds:
        tiles += [images[row, row], *(images[row, col] for col in col_seeds)]
    return tile_grid(torch.stack(tiles), (len(col_seeds) + 1, len(row_seeds) + 1))


if __name__ == "__main__":
    main()
