"""`explore.py extrapolate`."""

from __future__ import annotations

from fractions import Fraction

import click

import dnnlib
import dnnlib.cli
from analysis.options import SPAN, DrawingOptions, drawing_options


@dnnlib.cli.command("extrapolate")
@drawing_options(seeds="0-3")
@click.option(
    "--range",
    "spans",
    type=SPAN,
    multiple=True,
    default=("0,1", "-0.3,1.3", "-0.5,1.5"),
    metavar="LOW,HIGH",
    help="Ends of a square along both axes; 0,1 is the image. Extended to whole pixels. May be "
    "repeated.",
)
@click.option(
    "--zoom", type=click.IntRange(1, 64), default=1, help="Samples per pixel of the training grid."
)
def command(
    options: DrawingOptions, spans: tuple[tuple[Fraction, Fraction], ...], zoom: int
) -> None:
    """Draw images beyond their border.

    The border of the image is drawn in; pixels keep their size.
    """
    from analysis import extrapolate
    from analysis.records import write_csv
    from analysis.subjects import check_pixels, open_subjects, write_picture
    from dnnlib.progress import progress
    from networks.sampling import check_dtype

    G, subjects = open_subjects(options)
    sizes = [extrapolate.whole_pixels(G.img_shape, span, zoom)[1] for span in spans]
    total = (max(height for height, _ in sizes) * len(subjects), sum(width for _, width in sizes))
    check_pixels(total, "--range with all seeds")
    dtype = check_dtype(G, options.dtype)
    folder = dnnlib.cli.make_outdir(options.outdir)
    rows = []
    for subject in progress(subjects, desc="Extrapolating", unit="image"):
        rows.append([extrapolate.extrapolate(G, subject, span, zoom, dtype) for span in spans])
        for index, view in enumerate(rows[-1]):
            write_picture(view.picture, folder / f"{view.name}-range{index}.png")
    write_picture(extrapolate.sheet(rows), folder / "extrapolate.png")
    write_csv(
        folder / "extrapolate.csv", [extrapolate.measure(view) for row in rows for view in row]
    )
    print(
        f"Wrote extrapolate.png, extrapolate.csv and {len(rows) * len(spans)} pictures to {folder}"
    )
