"""Compute metrics such as FID of a trained network.

Examples:
    python calc_metrics.py --network=runs/00000-photos-auto1/network-snapshot-000100.pkl
    python calc_metrics.py --network=net.pkl --metrics=fid50k_full,kid50k_full --data=photos.zip
    python calc_metrics.py --network=net.pkl --metrics=fid5k --gpus=2 --device=cpu \
        --detector=inception-2015-12-05=inception-2015-12-05.pt
"""

from __future__ import annotations

from typing import Any

import click

import dnnlib
import dnnlib.cli
from metrics.names import METRIC_NAMES, parse_metrics


@dnnlib.cli.command()
@click.option("--network", metavar="FILE|URL", required=True, help="Network snapshot.")
@click.option(
    "--metrics",
    metavar="NAMES",
    default="fid50k_full",
    help=f"Some of {', '.join(METRIC_NAMES)}, separated by commas.",
)
@click.option(
    "--data",
    metavar="PATH",
    show_default="the network's training images",
    help="Real images: folder or zip.",
)
@click.option(
    "--mirror",
    type=bool,
    metavar="BOOL",
    show_default="as in the training",
    help="Double the real images by x-flips, for the metrics that allow it.",
)
@click.option(
    "--gpus",
    type=click.IntRange(min=1),
    metavar="N",
    default=1,
    help="Number of GPUs (on a CPU: of processes).",
)
@click.option("--verbose", type=bool, metavar="BOOL", default=True, help="Print what is going on.")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    metavar="N",
    default=0,
    help="Of the generated images; the same seed gives the same numbers.",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    metavar="N",
    show_default="the metric's own",
    help="Images at a time; the results do not depend on it.",
)
@click.option(
    "--trunc",
    "psi",
    metavar="PSI",
    type=dnnlib.cli.FINITE_FLOAT,
    default=1.0,
    help="Truncation of the generated images; published numbers have none (1).",
)
@dnnlib.cli.detector_option
@dnnlib.cli.dtype_option
@dnnlib.cli.device_option
@dnnlib.cli.allow_code_option
def main(metrics: str, **options: Any) -> None:
    """Compute metrics of a trained network and print each result as a line of JSON.

    A network that lies in its run directory gets the results appended to metric-NAME.jsonl there.
    """
    names = parse_metrics(metrics)
    if not names:
        raise dnnlib.UserError(
            f"--metrics={metrics} names no metric; choose from {', '.join(METRIC_NAMES)}."
        )
    # This imports torch, which would delay --help and mistyped options by seconds.
    from analysis.evaluation import Evaluation, evaluate

    evaluate(Evaluation(metrics=names, **options))


if __name__ == "__main__":
    main()
