"""`explore.py render`."""

from __future__ import annotations

from fractions import Fraction

import click

import dnnlib.cli
from analysis.options import DrawingOptions, drawing_options, lod_option


@dnnlib.cli.command("render")
@drawing_options(seeds="0")
@click.option(
    "--projected-w",
    metavar="FILE.npz",
    type=click.Path(),
    help="Draw these ws instead of seeds: array w [N, num_ws, w_dim], as projector.py writes it.",
)
@click.option(
    "--size",
    type=dnnlib.cli.SIZE,
    help="Of the picture: side, or WIDTHxHEIGHT, of any size.  [default: the training size]",
)
@click.option(
    "--region",
    type=dnnlib.cli.REGION,
    default="0,0,1,1",
    metavar="X0,Y0,X1,Y1",
    help="Part of the plane to draw; 0,0,1,1 is the whole image.",
)
@lod_option
@click.option(
    "--format",
    "format_name",
    type=click.Choice(["png", "tiff", "deepzoom"]),
    default="png",
    help="png: one file; tiff: tiles in one file, a BigTIFF beyond 4 GB (needs tifffile); "
    "deepzoom: a folder of tiles at every zoom, for viewers in the browser.",
)
def command(
    options: DrawingOptions,
    projected_w: str | None,
    size: tuple[int, int] | None,
    region: tuple[Fraction, Fraction, Fraction, Fraction],
    lod: str,
    format_name: str,
) -> None:
    """Draw pictures of any size, also larger than the memory: they are written as they are drawn.

    Beside each picture goes a JSON file with what it shows and how long it took.
    """
    from analysis import streaming
    from analysis.records import write_json
    from analysis.subjects import open_generator, subjects
    from networks.sampling import check_dtype

    streaming.check_request(size, format_name)
    G = open_generator(options.network, options.device, options.allow_code)
    if projected_w is None:
        found = subjects(G, options.seeds, options.classes, options.psi)
    else:
        found = streaming.projected_subjects(G, projected_w)
    dtype = check_dtype(G, options.dtype)
    folder = dnnlib.cli.make_outdir(options.outdir)
    view = streaming.View(size or G.img_shape[1:], region, lod, dtype=dtype)
    for subject in found:
        record = streaming.render_subject(G, subject, view, folder, format_name)
        write_json(folder / f"{subject.name}.json", record)
        print(
            f"Wrote {folder / record['file']}: {record['width']}x{record['height']} pixels in "
            f"{record['seconds']:.1f} s"
        )
