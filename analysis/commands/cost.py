"""`explore.py cost`."""

from __future__ import annotations

import click

import dnnlib.cli
from networks.paper_cost import PAPER_PRESETS
from networks.presets import DEFAULT_PRESET, PRESETS

MAX_RESOLUTION = 65536
_CONVENTIONS = ("full", "split", "paper")


@dnnlib.cli.command("cost")
@click.option(
    "--generator",
    "generators",
    type=dnnlib.cli.CommaList(tuple(PRESETS)),
    multiple=True,
    metavar="PRESET[,PRESET...]",
    help=f"What to count, beside stylegan2; may be repeated. One of {', '.join(PRESETS)}.  "
    "[default: inr-gan-bil; with --convention=paper all rows of the paper's table]",
)
@click.option(
    "--resolution", type=click.IntRange(4, MAX_RESOLUTION), default=256, help="Side of the image."
)
@click.option(
    "--convention",
    type=click.Choice(_CONVENTIONS),
    default="full",
    help="full: plain order of operations (split is shown beside it); split: features multiplied "
    "before they are upsampled, the work really done; paper: formula behind the paper's table 1.",
)
@click.option("--cbase", type=click.IntRange(1), default=32768, help="Widths: cbase / resolution.")
@click.option("--cmax", type=click.IntRange(1), default=512, help="Largest width.")
@click.option("--w-dim", type=click.IntRange(1), help="Length of w.  [default: the preset's]")
@click.option(
    "--map-depth",
    type=click.IntRange(1),
    help="Layers of the mapping network.  "
    "[default: the preset's; 8 for stylegan2, 2 for other ones without their own]",
)
@click.option("--outdir", metavar="DIR", type=click.Path(), help="Also write cost.json there.")
def command(
    generators: tuple[list[str], ...],
    resolution: int,
    convention: str,
    cbase: int,
    cmax: int,
    w_dim: int | None,
    map_depth: int | None,
    outdir: str | None,
) -> None:
    """Count work (MACs) and parameters.

    Multiply-accumulates per image, layer by layer, beside stylegan2.
    """
    names = list(dict.fromkeys(name for group in generators for name in group))
    if not names:
        names = list(PAPER_PRESETS) if convention == "paper" else [DEFAULT_PRESET]

    from analysis import cost
    from analysis.records import write_json

    sizes = cost.Architecture(resolution, cbase, cmax, map_depth, w_dim)
    tables = [cost.count(name, sizes, convention) for name in names]
    if cost.BASELINE not in names:
        try:
            tables.append(cost.count(cost.BASELINE, sizes, convention))
        except dnnlib.UserError:
            dnnlib.cli.warn(f"{cost.BASELINE} does not draw {resolution}x{resolution} pixels.")
    if outdir is not None:
        folder = dnnlib.cli.make_outdir(outdir)
        write_json(folder / "cost.json", cost.report(tables, sizes, convention))
    for table in tables:
        print(f"{table.name}, {resolution}x{resolution}, one image")
        print(cost.layer_text(table) + "\n")
    print(cost.summary_text(tables))
    for note in dict.fromkeys(table.note for table in tables if table.note):
        print(f"\n{note}")
