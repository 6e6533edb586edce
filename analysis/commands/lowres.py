"""`explore.py lowres`."""

from __future__ import annotations

import click

import dnnlib
import dnnlib.cli
from analysis.options import IntegerList, ModelOptions, model_options, outdir_option


@dnnlib.cli.command("lowres")
@model_options
@outdir_option
@click.option(
    "--sizes",
    type=IntegerList(1, 4096),
    help="Longer sides, at most the training size.  [default: R/16, R/8, ..., R]",
)
@click.option("--batch", type=click.IntRange(1, 1024), default=1, help="Images drawn together.")
@click.option("--repeats", type=click.IntRange(1), default=5, help="Timed drawings; the median.")
@dnnlib.cli.dtype_option
def command(
    model: ModelOptions,
    outdir: str,
    sizes: tuple[int, ...] | None,
    batch: int,
    repeats: int,
    dtype: str | None,
) -> None:
    """Work and time of small pictures.

    Against their size, and beside drawing the whole image and making it smaller.
    """
    from analysis import lowres
    from analysis.bench import describe_machine
    from analysis.records import text_table, write_csv, write_json
    from analysis.subjects import open_model, write_picture
    from dnnlib.progress import progress
    from metrics.provenance import generator_dtype
    from networks.sampling import check_dtype, device_of

    G = open_model(model)
    longer = max(G.img_shape[1:])
    sizes = tuple(sorted(set(sizes or lowres.default_sizes(G))))
    if max(sizes) > longer:
        raise dnnlib.UserError(
            f"--sizes={max(sizes)} is larger than the image, {longer} pixels; lowres is about "
            "smaller pictures."
        )
    precision = check_dtype(G, dtype)
    folder = dnnlib.cli.make_outdir(outdir)
    total = lowres.num_drawings(sizes, repeats)
    with progress(total, desc="Measuring", unit="drawing") as bar:
        rows = lowres.study(G, sizes, batch, repeats, on_drawing=bar.update, dtype=precision)
    machine = describe_machine(device_of(G))
    used = generator_dtype(G, {"dtype": precision}, device_of(G))
    name = getattr(G, "preset", type(G.synthesis).__name__)
    write_picture(lowres.plot(rows, f"{name}, {longer} pixels"), folder / "lowres.png")
    write_csv(folder / "lowres.csv", rows)
    about = {"generator": name, "img_shape": list(G.img_shape), "batch": batch, "dtype": used}
    write_json(folder / "lowres.json", {**about, "machine": machine, "rows": rows})
    table = [["method", "size", "GMAC", "of the whole image", "ms"]]
    for row in rows:
        numbers = f"{row['macs_split'] / 1e9:.3f}", f"{row['share']:.3f}"
        size = f"{row['width']}x{row['height']}"
        table.append([row["method"], size, *numbers, f"{row['seconds'] * 1e3:.1f}"])
    print(f"{name}: MACs by the convention split, per image; {machine}, batch {batch}, {used}")
    print(text_table(table))
    print(f"Wrote lowres.png, lowres.csv and lowres.json to {folder}")
