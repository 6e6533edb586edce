"""The same short training with several ranks or activations of the modulation, and its curves.

Skorokhodov et al., "Adversarial Generation of Continuous Images", figure 8 (rank) and table 2
(activation). Each training is a run of train.py as any other; runs that have ended are used again.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

import dnnlib
from analysis import plots

_TRAIN = Path(__file__).resolve().parents[1] / "train.py"
# Where it is written, and what does not change the numbers.
_NOT_COMPARED = ("run_dir", "data_loader_kwargs", "device", "detectors", "allow_code")

# Wide enough for the names of six activations beside the title.
_PICTURE_SIZE = (860, 480)

Curve = list[tuple[int, float]]
"""Points (kimg, value) in order."""


@dataclass(frozen=True)
class Plan:
    """What all runs have in common.

    Attributes:
        option: What differs: "fmm-rank" or "fmm-activation".
        values: Its values, one run each.
        metric: Name of the metric that is plotted.
        kimg: Length of the runs.
        points: Evaluations after the first one, which is of the untrained network; <= kimg.
        arguments: Further options of train.py.
        folder: Parent of the run directories.
    """

    option: str
    values: tuple[str, ...]
    metric: str
    kimg: int
    points: int
    arguments: tuple[str, ...]
    folder: Path

    def command(self, value: str) -> list[str]:
        """The arguments of train.py for one run."""
        return [
            *self.arguments,
            f"--outdir={self.folder}",
            f"--metrics={self.metric}",
            f"--kimg={self.kimg}",
            f"--tick={self.kimg / self.points:g}",
            "--snap=1",
            f"--{self.option}={value}",
        ]


def run_train(arguments: Sequence[str], quiet: bool = False) -> tuple[int, str, str]:
    """Run train.py.

    After Ctrl-C, which it gets too, this waits for its last snapshot.

    Args:
        arguments: Its command line.
        quiet: Return what it prints instead of showing it.

    Returns:
        Exit code, standard output, standard error; both empty unless quiet.
    """
    pipe = subprocess.PIPE if quiet else None
    command = [sys.executable, str(_TRAIN), *arguments]
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)
    interrupt = None
    while True:
        try:
            output, errors = process.communicate()
            break
        except KeyboardInterrupt as request:
            interrupt = request
    if interrupt is not None:
        raise interrupt
    return process.returncode, output or "", errors or ""


def expected_options(plan: Plan, value: str) -> dict[str, Any]:
    """What training_options.json of a run will hold; nothing is written.

    Raises:
        dnnlib.UserError: train.py refuses the options; the message is its own.
    """
    code, output, errors = run_train([*plan.command(value), "--dry-run"], quiet=True)
    if code != 0:
        refused = re.findall(r"^Error: (.*)$", errors, re.MULTILINE)
        reason = refused[-1] if refused else f"it ended with exit code {code}"
        raise dnnlib.UserError(f"train.py: {reason}")
    text = output.partition("Training options:\n")[2]
    return json.JSONDecoder().raw_decode(text)[0]


def finished_run(plan: Plan, options: Mapping[str, Any]) -> Path | None:
    """The latest run directory with these options that has been trained and evaluated to the end.

    Args:
        plan: Of the runs.
        options: As from `expected_options`.
    """
    for path in sorted(plan.folder.glob("*/training_options.json"), reverse=True):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if _compared(found) != _compared(options):
            continue
        curve = read_curve(path.parent, plan.metric)
        if curve and curve[-1][0] >= plan.kimg:
            return path.parent
    return None


def read_curve(run_dir: Path, metric: str) -> Curve:
    """The values of a metric over a run, from its metric-<name>.jsonl; of a snapshot the last one.

    Lines without a number, such as those of a metric that is not finite, are left out.
    """
    path = run_dir / f"metric-{metric}.jsonl"
    if not path.is_file():
        return []
    found: dict[int, float] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
            value = float(entry["results"][metric])
            match = re.search(r"network-snapshot-(\d+)\.\w+$", entry["snapshot_pkl"])
        except (ValueError, KeyError, TypeError):
            continue
        if match is not None and math.isfinite(value):
            found[int(match[1])] = value
    return sorted(found.items())


def train(plan: Plan, value: str, options: Mapping[str, Any]) -> tuple[Path, bool]:
    """The finished run of a value, trained unless it is there.

    Args:
        plan: Of the runs.
        value: Of the option.
        options: As from `expected_options`.

    Returns:
        The run directory, and whether it was there already.

    Raises:
        dnnlib.UserError: The training failed, or ended early.
    """
    run_dir = finished_run(plan, options)
    if run_dir is not None:
        return run_dir, True
    code, _output, _errors = run_train(plan.command(value))
    run_dir = finished_run(plan, options)
    if run_dir is None:
        how = "was stopped early, or its metric failed" if code == 0 else "failed"
        raise dnnlib.UserError(
            f"The training with --{plan.option}={value} {how}, see log.txt in {plan.folder}; the "
            "same command goes on with the runs that are missing."
        )
    return run_dir, False


def plot(curves: Mapping[str, Curve], metric: str, title: str) -> Image.Image:
    """The curves over each other, the metric on a logarithmic axis if any value is positive.

    Args:
        curves: Name -> points; at least one point in all.
        metric: Label of the axis.
        title: Above the diagram.
    """
    points = [point for curve in curves.values() for point in curve]
    values = [value for _kimg, value in points]
    positive = [value for value in values if value > 0]
    if positive:
        y_axis = plots.axis_over(positive, metric, is_log=True)
    else:
        y_axis = plots.Axis(metric, min(values) - 1, max(values) + 1)
    x_axis = plots.axis_over([kimg for kimg, _value in points], "thousands of real images (kimg)")
    return plots.line_plot(curves, x_axis, y_axis, title, _PICTURE_SIZE)


def _compared(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those options that decide about the numbers."""
    return {name: value for name, value in options.items() if name not in _NOT_COMPARED}
