"""`explore.py frequencies`."""

from __future__ import annotations

import dnnlib.cli
from analysis.options import DrawingOptions, drawing_options


@dnnlib.cli.command("frequencies")
@drawing_options(seeds="0-127", any_precision=False)
def command(options: DrawingOptions) -> None:
    """Histograms of coordinate frequencies.

    What each block reads, fixed frequencies and those predicted for each image.
    """
    from analysis import frequencies
    from analysis.records import text_table, write_json
    from analysis.subjects import open_subjects, write_picture
    from dnnlib.progress import progress

    G, subjects = open_subjects(options)
    images = progress(subjects, desc="Reading", unit="image")
    found = frequencies.block_frequencies(G, images)
    folder = dnnlib.cli.make_outdir(options.outdir)
    summaries = [frequencies.summary(block) for block in found]
    write_json(
        folder / "frequencies.json",
        {"unit": "cycles per image", "images": len(subjects), "blocks": summaries},
    )
    write_picture(frequencies.plot(found), folder / "frequencies.png")
    table = [["block", "lattice", "fixed rows", "lowest", "highest", "predicted", "median"]]
    for block in summaries:
        fixed, predicted = block["fixed"], block["predicted"]
        cells = [""] * 5
        if fixed:
            cells[:3] = [str(len(fixed)), f"{fixed[0]:.2f}", f"{fixed[-1]:.2f}"]
        if predicted:
            cells[3:] = [str(predicted["rows_per_image"]), f"{predicted['percentile_50']:.2f}"]
        table.append([block["block"], str(block["lattice"]), *cells])
    print("Cycles per image")
    print(text_table(table))
    print(f"Wrote frequencies.png and frequencies.json to {folder}")
