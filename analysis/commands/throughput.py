"""`explore.py throughput`."""

from __future__ import annotations

import click

import dnnlib.cli
from analysis.options import IntegerList, ModelOptions, model_options, outdir_option

_PRECISIONS = ("fp32", "bf16", "fp16")


@dnnlib.cli.command("throughput")
@model_options
@outdir_option
@click.option(
    "--precision",
    "precisions",
    type=dnnlib.cli.CommaList(_PRECISIONS),
    default="fp32",
    help="Of all blocks: fp32, bf16, fp16 (not on a CPU); several separated by commas.",
)
@click.option(
    "--batch",
    "batches",
    type=IntegerList(1, 4096),
    default="4",
    help="Images drawn together; of several (1,4,16) the fastest is named.",
)
@click.option("--warmup", type=click.IntRange(3), default=3, help="Drawings before the clock runs.")
@click.option("--repeats", type=click.IntRange(1), default=10, help="Drawings that are timed.")
def command(
    model: ModelOptions,
    outdir: str,
    precisions: list[str],
    batches: tuple[int, ...],
    warmup: int,
    repeats: int,
) -> None:
    """Measure images per second.

    Of any generator, mapping network included.
    """
    if not precisions:
        raise dnnlib.UserError(f"--precision names nothing; choose from {', '.join(_PRECISIONS)}.")

    from analysis.bench import describe_machine
    from analysis.records import text_table, write_json
    from analysis.subjects import open_model
    from analysis.throughput import check_precision, throughput
    from dnnlib.progress import progress
    from networks.sampling import device_of

    G = open_model(model, continuous=False)
    device = device_of(G)
    for precision in precisions:
        check_precision(precision, device)
    folder = dnnlib.cli.make_outdir(outdir)
    runs = [(precision, batch) for precision in precisions for batch in batches]
    rows = [
        throughput(G, batch, precision, warmup, repeats)
        for precision, batch in progress(runs, desc="Measuring", unit="run")
    ]
    name = getattr(G, "preset", type(G.synthesis).__name__)
    best = max(rows, key=lambda row: row["images_per_second"])
    machine = describe_machine(device)
    report = {
        "generator": name,
        "img_shape": list(G.img_shape),
        "machine": machine,
        "warmup": warmup,
        "repeats": repeats,
        "best": {key: best[key] for key in ("precision", "batch", "images_per_second")},
        "runs": rows,
    }
    write_json(folder / "throughput.json", report)
    table = [["precision", "batch", "images/s"]]
    for row in rows:
        rate = f"{row['images_per_second']:.2f}"
        table.append([row["precision"], str(row["batch"]), rate])
    print(f"{name}, {G.img_shape[2]}x{G.img_shape[1]}; {machine}")
    print(text_table(table))
    print(
        f"Best: {best['images_per_second']:.2f} images/s in {best['precision']} at batch "
        f"{best['batch']}. Wrote throughput.json to {folder}"
    )
