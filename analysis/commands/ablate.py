"""`explore.py ablate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import dnnlib
import dnnlib.cli
from analysis.options import IntegerList, outdir_option
from metrics.names import METRIC_NAMES
from networks.presets import DEFAULT_PRESET, FMM_ACTIVATION_NAMES, PRESETS

_MAX_RUNS = 6
_METRICS = [name for name in METRIC_NAMES if name.startswith(("fid", "kid"))]


@dnnlib.cli.command("ablate")
@click.option("--data", metavar="PATH", required=True, help="Training images: folder or zip.")
@outdir_option
@click.option(
    "--fmm-rank", "ranks", type=IntegerList(1, 4096), help="Ranks to compare, e.g. 1,3,5,10,20."
)
@click.option(
    "--fmm-activation",
    "activations",
    type=dnnlib.cli.CommaList(FMM_ACTIVATION_NAMES),
    help=f"In place of --fmm-rank: activations to compare, of {', '.join(FMM_ACTIVATION_NAMES)}.",
)
@click.option(
    "--generator",
    type=click.Choice([name for name, preset in PRESETS.items() if preset.has_fmm]),
    default=DEFAULT_PRESET,
    help="Architecture of all runs.",
)
@click.option("--kimg", type=click.IntRange(min=1), required=True, help="Length of each run.")
@click.option(
    "--points",
    type=click.IntRange(min=1),
    help="Evaluations per run, besides the one at the start.  [default: 10, at most --kimg]",
)
@click.option(
    "--metric",
    metavar="NAME",
    type=click.Choice(_METRICS),
    default="fid5k",
    help=f"What is plotted: {', '.join(_METRICS)}.",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, help="Of all runs.")
@dnnlib.cli.detector_option
@dnnlib.cli.device_option
@click.argument("train_options", metavar="[-- TRAIN_OPTIONS...]", nargs=-1)
def command(
    ranks: tuple[int, ...] | None, activations: list[str] | None, outdir: str, **options: Any
) -> None:
    """Train with several ranks or activations of FMM and plot FID or KID.

    All runs have the same data, length and seed. Options of train.py for all of them come after
    two dashes: `-- --cfg=tiny --cond=1`. The same command continues where it was stopped: runs
    that have ended, in the folder runs/ of --outdir, are not trained again.
    """
    if (ranks is None) == (activations is None):
        raise dnnlib.UserError("Name what to compare, with either --fmm-rank or --fmm-activation.")
    option = "fmm-rank" if activations is None else "fmm-activation"
    values = tuple(dict.fromkeys(str(value) for value in ranks or activations or ()))
    if not 0 < len(values) <= _MAX_RUNS:
        raise dnnlib.UserError(f"--{option} names {len(values)} values; 1 to {_MAX_RUNS} fit.")
    points = options["points"] or min(10, options["kimg"])
    if points > options["kimg"]:
        raise dnnlib.UserError(
            f"--points={points} is more than --kimg={options['kimg']}: snapshots are at least one "
            "kimg apart."
        )

    from analysis.ablation import Plan, expected_options
    from metrics.detectors import find_detector

    common = [f"--{name}={options[name]}" for name in ("data", "generator", "seed", "device")]
    common += [f"--detector={name}={path}" for name, path in options["detectors"].items()]
    plan = Plan(
        option=option,
        values=values,
        metric=options["metric"],
        kimg=options["kimg"],
        points=points,
        arguments=(*options["train_options"], *common),
        folder=Path(outdir) / "runs",
    )
    expected = {value: expected_options(plan, value) for value in values}
    find_detector("inception-2015-12-05", options["detectors"])
    _run(plan, expected, dnnlib.cli.make_outdir(outdir), options["generator"])


def _run(plan: Any, expected: dict[str, dict[str, Any]], folder: Path, generator: str) -> None:
    """Train one after the other; the picture and the numbers grow with every run."""
    from analysis import ablation
    from analysis.records import text_table, write_json
    from analysis.subjects import write_picture

    report: dict[str, Any] = {
        "option": plan.option,
        "generator": generator,
        "metric": plan.metric,
        "kimg": plan.kimg,
        "runs": {},
    }
    curves = {}
    for index, value in enumerate(plan.values, 1):
        print(f"Run {index} of {len(plan.values)}: --{plan.option}={value}", flush=True)
        run_dir, was_there = ablation.train(plan, value, expected[value])
        if was_there:
            print(f"{run_dir} has it already.")
        curves[value] = ablation.read_curve(run_dir, plan.metric)
        kimg, numbers = zip(*curves[value])
        report["runs"][value] = {"run_dir": str(run_dir), "kimg": kimg, plan.metric: numbers}
        write_json(folder / "ablate.json", report)
        title = f"{generator}, {plan.option}"
        write_picture(ablation.plot(curves, plan.metric, title), folder / "ablate.png")
    table = [[plan.option, "kimg", plan.metric, "best"]]
    for value, curve in curves.items():
        last = curve[-1]
        best = min(number for _kimg, number in curve)
        table.append([value, str(last[0]), f"{last[1]:.4g}", f"{best:.4g}"])
    print(text_table(table))
    print(f"Wrote ablate.json and ablate.png to {folder}")
