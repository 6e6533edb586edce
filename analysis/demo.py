"""The whole path in ten minutes on a CPU: real images, training, generation (`make demo`).

Every step is an ordinary command of this project, printed before it runs, so that it can be
repeated with other options. Everything is written to demo-out/ in the checkout; what an earlier
demo left there is removed first. The exit code is 0 only if the samples reach the targets below.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

import dnnlib
import dnnlib.cli
from analysis import digits, sheets

TRAIN_KIMG = 22
"""Length of the training in thousands of real images: under three minutes on two CPU cores."""

PATH_LENGTH_WEIGHT = 2
"""Path length regularisation (off by default for `inr-*`) keeps the picture sensitive to z, so that
a class does not shrink to one picture while the network learns the labels."""

RECOGNISED_TARGET = 0.95
"""Smallest share of samples that the judge must take for the class asked for."""

DIVERSITY_TARGET = 0.6
"""Smallest spread of a class relative to its real digits, on average over the classes."""

_ROOT = Path(__file__).resolve().parent.parent
_SHEET_SEEDS = range(10)
_SHOWN_SEED = 0
_SHOWN_CLASSES = (0, 3, 5, 8)
_JUDGED_SEEDS = range(100, 200)
_LARGE_SIZE = 512
_VIEW = (-0.5, -0.5, 1.5, 1.5)


@dataclasses.dataclass
class Timer:
    """Seconds that each named step took, in order."""

    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Announce a step and measure it."""
        print(f"\n== {name} ==", flush=True)
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start


@dnnlib.cli.command()
def main() -> None:
    """Prepare handwritten digits, train on them, generate, and judge the samples."""
    out = _ROOT / "demo-out"
    timer = Timer()
    with timer.step("Real images"):
        shutil.rmtree(out, ignore_errors=True)
        real, real_labels = _prepare_data(out)
    with timer.step("Training"):
        snapshot = _train(out)
    with timer.step("Generation"):
        _generate(out, snapshot)
    with timer.step("Judgement"):
        report = _judge(out, real, real_labels)
    report |= {"snapshot": str(snapshot), "seconds": timer.seconds, "train_kimg": TRAIN_KIMG}
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    _print_report(out, snapshot, report)
    sys.exit(0 if report["recognised_met"] and report["diversity_met"] else 1)


def _prepare_data(out: Path) -> tuple[np.ndarray, np.ndarray]:
    """Unpack the digits and pack them as a dataset; returns images and labels."""
    number = digits.write_digits(out / "digits")
    print(f"Wrote {number} handwritten digits from scikit-learn to {_short(out / 'digits')}")
    _run(
        "dataset_tool.py",
        f"--source={_short(out / 'digits')}",
        f"--dest={_short(out / 'digits32.zip')}",
        "--labels-from-folders",
    )
    return digits.load_digits()


def _train(out: Path) -> Path:
    """Train the default generator with the small base configuration; returns the snapshot."""
    _run(
        "train.py",
        f"--outdir={_short(out / 'runs')}",
        f"--data={_short(out / 'digits32.zip')}",
        "--cfg=tiny",
        "--cond=1",
        f"--kimg={TRAIN_KIMG}",
        f"--pl-weight={PATH_LENGTH_WEIGHT}",
        # The demo judges its samples itself, and needs no network.
        "--metrics=none",
    )
    snapshots = sorted((out / "runs").glob("*/network-snapshot-*.pkl"))
    if not snapshots:
        raise dnnlib.UserError(f"Training left no network snapshot in {out / 'runs'}.")
    return snapshots[-1]


def _generate(out: Path, snapshot: Path) -> None:
    """Draw everything with generate.py, then arrange it on sheets."""
    network = f"--network={_short(snapshot)}"
    every_class = f"--class=0-{digits.CLASSES - 1}"
    shown = "--class=" + ",".join(map(str, _SHOWN_CLASSES))

    def run(seeds: str, classes: str, folder: str, *options: str) -> None:
        outdir = f"--outdir={_short(out / folder)}"
        _run("generate.py", network, f"--seeds={seeds}", classes, *options, outdir)

    large = f"--size={_LARGE_SIZE}"
    run(f"{_SHEET_SEEDS[0]}-{_SHEET_SEEDS[-1]}", every_class, "samples")
    run(f"{_SHOWN_SEED}", shown, "large", large)
    run(f"{_SHOWN_SEED}", shown, "zoom-out", large, "--region=" + ",".join(map(str, _VIEW)))
    run(f"{_JUDGED_SEEDS[0]}-{_JUDGED_SEEDS[-1]}", every_class, "judged")

    def read(folder: str, seed: int, label: int) -> Image.Image:
        return Image.open(out / folder / f"seed{seed:04d}-class{label:02d}.png")

    classes = range(digits.CLASSES)
    samples = sheets.sample_sheet(
        [[read("samples", seed, label) for seed in _SHEET_SEEDS] for label in classes]
    )
    small, enlarged, zoomed = (
        [read(folder, _SHOWN_SEED, label) for label in _SHOWN_CLASSES]
        for folder in ("samples", "large", "zoom-out")
    )
    superres = sheets.comparison_sheet(small, enlarged)
    zoom_out = sheets.zoom_sheet(zoomed, _VIEW)
    samples.save(out / "samples.png")
    superres.save(out / "superres.png")
    zoom_out.save(out / "zoom-out.png")
    sheets.overview(samples, superres, zoom_out).save(out / "demo.png")


def _judge(out: Path, real: np.ndarray, real_labels: np.ndarray) -> dict[str, object]:
    """Let a classifier that saw real digits only name the generated ones."""
    judge = digits.train_judge(real, real_labels)
    files = sorted((out / "judged").glob("seed*-class*.png"))
    images = np.stack([np.asarray(Image.open(file).convert("L")) for file in files])
    labels = np.array([int(file.stem.rpartition("class")[2]) for file in files])
    recognised = judge.recognition_rate(images, labels)
    ratios = digits.diversity_ratios(images, labels, real, real_labels)
    return {
        "samples": len(files),
        "judge_accuracy": judge.holdout_accuracy,
        "recognised": recognised,
        "recognised_met": recognised >= RECOGNISED_TARGET,
        "diversity_min": float(ratios.min()),
        "diversity_mean": float(ratios.mean()),
        "diversity_met": bool(ratios.mean() >= DIVERSITY_TARGET),
    }


def _print_report(out: Path, snapshot: Path, report: dict) -> None:
    verdict = {True: "met", False: "NOT MET"}
    seconds = report["seconds"]
    steps = ", ".join(f"{name.lower()} {value:.0f} s" for name, value in seconds.items())
    lines = [
        ("Pictures", f"{_short(out / 'demo.png')}  all of them on one sheet"),
        ("", f"{_short(out / 'samples.png')}  {len(_SHEET_SEEDS)} samples of each class"),
        ("", f"{_short(out / 'superres.png')}  32x32, and the same functions at {_LARGE_SIZE}"),
        ("", f"{_short(out / 'zoom-out.png')}  beyond the border of the image (the frame)"),
        ("Snapshot", _short(snapshot)),
        ("Log", _short(snapshot.parent / "log.txt")),
        ("Judge", f"recognises {report['judge_accuracy']:.1%} of the real digits it has not seen"),
        (
            "Samples",
            f"{report['recognised']:.1%} of {report['samples']} recognised as the class asked for; "
            f"target {RECOGNISED_TARGET:.0%}: {verdict[report['recognised_met']]}",
        ),
        (
            "Diversity",
            f"{report['diversity_mean']:.2f} on average (real digits: 1), "
            f"{report['diversity_min']:.2f} in the least varied class; "
            f"target {DIVERSITY_TARGET}: {verdict[report['diversity_met']]}",
        ),
        ("Time", f"{sum(seconds.values()):.0f} s: {steps}"),
    ]
    print("\n== Result ==")
    for name, text in lines:
        print(f"{name:<10} {text}", flush=True)


def _run(script: str, *options: str) -> None:
    """Run a command of this project in the checkout, showing it first.

    Raises:
        dnnlib.UserError: it failed; its own message is on the terminal already.
    """
    print("$ " + shlex.join(["python", script, *options]), flush=True)
    status = subprocess.run([sys.executable, script, *options], cwd=_ROOT, check=False).returncode
    if status:
        raise dnnlib.UserError(f"{script} ended with exit code {status}; its message is above.")


def _short(path: Path) -> str:
    """The path as a user in the checkout would type it."""
    return path.relative_to(_ROOT).as_posix()


if __name__ == "__main__":
    main()
