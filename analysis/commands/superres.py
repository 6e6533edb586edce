"""`explore.py superres`."""

from __future__ import annotations

import click

import dnnlib.cli
from analysis.options import DrawingOptions, drawing_options, lod_option


@dnnlib.cli.command("superres")
@drawing_options(seeds="0-3")
@click.option(
    "--size",
    type=dnnlib.cli.SIZE,
    help="Of the large pictures: side, or WIDTHxHEIGHT.  [default: 4 times the training size]",
)
@lod_option
def command(options: DrawingOptions, size: tuple[int, int] | None, lod: str) -> None:
    """Enlarge images by interpolation and by F.

    Nearest, bilinear, bicubic, and the continuous network itself on a denser grid.
    """
    from analysis import superres
    from analysis.records import write_csv
    from analysis.subjects import check_pixels, open_subjects, write_picture
    from dnnlib.progress import progress
    from networks.sampling import check_dtype

    G, subjects = open_subjects(options)
    height, width = size or tuple(4 * side for side in G.img_shape[1:])
    check_pixels((height * len(subjects), width * len(superres.COLUMNS)), "--size with all seeds")
    dtype = check_dtype(G, options.dtype)
    folder = dnnlib.cli.make_outdir(options.outdir)
    found = []
    for subject in progress(subjects, desc="Enlarging", unit="image"):
        enlargement = superres.enlarge(G, subject, (height, width), lod, dtype)
        found.append(enlargement)
        write_picture(enlargement.small, folder / f"{enlargement.name}.png")
        for method, picture in enlargement.large.items():
            write_picture(picture, folder / f"{enlargement.name}-{method.lower()}.png")
    write_picture(superres.sheet(found), folder / "superres.png")
    rows = [row for enlargement in found for row in superres.measure(enlargement)]
    write_csv(folder / "superres.csv", rows)
    print(f"Wrote superres.png, superres.csv and {5 * len(found)} pictures to {folder}")
