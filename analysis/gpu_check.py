"""Build, check and time all kernels on a machine with a GPU (`make gpu-check`).

Needs a Python with torch >= 2.6 and numpy, nvcc, a C++ compiler and ninja; nothing is installed or
fetched. In this order: builds all kernels at once; compares every call of `ops.registry`, values,
first and second derivatives, with its definition in float64; runs the tests marked `gpu` if pytest
is there; measures the machine's ceilings, single ops and whole generators. What there is no time
for is left out and named. Results are in OUTDIR/gpu-check.md and .json, rewritten after every step.
Exit code: 0, 1 if something is wrong, 2 if there is no GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from analysis import kernel_bench, kernel_report, op_check
from analysis.generator_bench import measure_generators, measure_training
from ops import _dispatch
from ops.registry import CASES

ROOT = Path(__file__).resolve().parents[1]
STEPS = ("build", "ops", "tests", "bench")
SCALES = {"cuda": kernel_bench.GPU, "cpu": kernel_bench.CPU}

# Shares of the time that may have passed when a step ends.
_OPS_UNTIL, _TESTS_UNTIL, _BENCH_UNTIL = 0.4, 0.6, 0.95

_BUILD_ONE = """
import sys
from ops import _dispatch
_dispatch.status()
_dispatch.kernel_module(*sys.argv[1:])
"""


class Run:
    """One run of the command: what was found so far, and how much time is left.

    Args:
        device: Where the kernels run; "cpu" checks the C++ kernels.
        ops: Folders of `ops/` that are built and checked; none = all.
        outdir: Where the reports are written.
        seconds: Time for everything.
    """

    def __init__(
        self, device: torch.device, ops: Sequence[str], outdir: Path, seconds: float
    ) -> None:
        self.device = device
        self.ops = list(ops)
        self.outdir = outdir
        self.seconds = seconds
        self.start = time.monotonic()
        self.checks: list[op_check.Check] = []
        self.builds: list[tuple[str, str, str]] = []
        self.tests = "not run"
        self.failed: list[str] = []
        self.bench = kernel_bench.Bench(
            device, SCALES[device.type], lambda: self.passed() > _BENCH_UNTIL
        )

    def passed(self) -> float:
        """Share of the time that is over."""
        return (time.monotonic() - self.start) / self.seconds

    def build(self) -> None:
        """Builds every kernel in a process of its own, all at once."""
        impl = "cuda" if self.device.type == "cuda" else "cpp"
        names = [op for op, kind in _dispatch.registered() if kind == impl]
        names = [op for op in names if not self.ops or op in self.ops]
        with ThreadPoolExecutor(max(1, len(names))) as pool:
            self.builds = list(pool.map(lambda op: build_one(op, impl, self.left()), names))
        for op, seconds, result in self.builds:
            print(f"  {op:<16} {seconds:>6} s  {result}")
            if result != "built":
                self.failed.append(f"{op} does not build: {result}")

    def check_ops(self) -> None:
        """Compares all calls of the registry with their definitions."""
        cases = [case for case in CASES if not self.ops or case.op in self.ops]
        done = op_check.check_cases(
            cases, self.device, out_of_time=lambda: self.passed() > _OPS_UNTIL
        )
        self.checks = done
        expected = len(cases) * len(op_check.PRECISIONS)
        ran = len({(check.case, check.precision) for check in done})
        if ran < expected:
            self.bench.notes.append(f"correctness: {expected - ran} calls left out: no time")
        wrong = [check for check in done if not check.ok]
        print(f"  {len(done) - len(wrong)} of {len(done)} comparisons passed")
        if wrong:
            self.failed.append(f"{len(wrong)} comparisons of ops failed")

    def run_tests(self) -> None:
        """Runs the tests marked `gpu` in a process of their own."""
        lacking = [name for name in ("pytest", "hypothesis") if not has_module(name)]
        if self.device.type != "cuda":
            self.tests = "not run: they are for a GPU"
        elif lacking:
            self.tests = f"not run: {' and '.join(lacking)} not installed here"
        else:
            seconds = self.seconds * (_TESTS_UNTIL - self.passed())
            self.tests, ok = run_pytest(max(30.0, seconds), self.ops)
            if not ok:
                self.failed.append(f"the tests failed: {self.tests}")
        print(f"  {self.tests}")

    def measure(self) -> None:
        """Ceilings, ops, generators, training; the report is written after each."""
        sections = (
            kernel_bench.measure_ceilings,
            kernel_bench.measure_fmm,
            kernel_bench.measure_layers,
            measure_generators,
            measure_training,
        )
        for section in sections:
            try:
                section(self.bench)
            except Exception as error:  # the other sections' numbers are worth having
                note = f"{section.__name__}: {kernel_bench.first_line(error)}"
                self.bench.notes.append(note)
                self.failed.append(note)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.write()

    def left(self) -> float:
        """Seconds until the time is up."""
        return max(1.0, self.seconds - (time.monotonic() - self.start))

    def write(self) -> None:
        """Writes both reports."""
        seconds = round(time.monotonic() - self.start)
        state = f"{len(self.failed)} problems" if self.failed else "no problems"
        report: dict[str, Any] = {
            "machine": describe_machine(self.device),
            "device": self.device.type,
            "precision": self.bench.scale.precision,
            "summary": f"{state} after {seconds} s",
            "seconds": seconds,
            "builds": self.builds,
            "tests": self.tests,
            "failed": self.failed,
            "notes": [*self.failed, *self.bench.notes],
        }
        rows = self.bench.rows
        self.outdir.mkdir(parents=True, exist_ok=True)
        numbers = json.dumps(kernel_report.to_json(report, self.checks, rows), indent=1)
        (self.outdir / "gpu-check.json").write_text(numbers + "\n", encoding="utf-8")
        text = kernel_report.to_markdown(report, self.checks, rows)
        (self.outdir / "gpu-check.md").write_text(text, encoding="utf-8")


def build_one(op: str, impl: str, seconds: float) -> tuple[str, str, str]:
    """Builds one kernel in another process: (op, seconds, "built" or why not)."""
    start = time.monotonic()
    command = [sys.executable, "-c", _BUILD_ONE, op, impl]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False
        )
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        result = "built" if done.returncode == 0 else short_failure(lines)
    except subprocess.TimeoutExpired:
        result = f"not ready after {seconds:.0f} s"
    return op, f"{time.monotonic() - start:.1f}", result


def short_failure(lines: Sequence[str]) -> str:
    """What matters of the end of a traceback: the compiler's first error, or the exception."""
    errors = [line.strip() for line in lines if "error:" in line or "error :" in line]
    causes = [line.strip() for line in lines if line.startswith(("  * ", "torch_utils."))]
    return "; ".join((errors or causes or list(lines[-1:]) or ["no reason given"])[:3])


def run_pytest(seconds: float, ops: Sequence[str]) -> tuple[str, bool]:
    """Runs the tests marked `gpu`: (pytest's last line, whether they passed)."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    command += gpu_test_files()
    if has_module("xdist"):
        command += ["-n", "4"]
    if ops:
        command += ["-k", " or ".join(ops)]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return f"not ready after {seconds:.0f} s", False
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    failures = [line for line in lines if line.startswith(("FAILED", "ERROR"))][:10]
    return "; ".join([*(lines[-1:] or ["pytest says nothing"]), *failures]), done.returncode == 0


def gpu_test_files() -> list[str]:
    """Test files that mention the mark; the others need not even be imported."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    marked = [path for path in files if "mark.gpu" in path.read_text(encoding="utf-8")]
    return [path.relative_to(ROOT).as_posix() for path in marked]


def has_module(name: str) -> bool:
    """Whether this Python could import it."""
    return importlib.util.find_spec(name) is not None


def describe_machine(device: torch.device) -> str:
    """Device, versions, commit."""
    name = platform.processor() or platform.machine()
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        name = f"{torch.cuda.get_device_name(device)} (compute capability {major}.{minor})"
    commit = ""
    if shutil.which("git"):
        command = ["git", "rev-parse", "--short", "HEAD"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        commit = done.stdout.strip()
    versions = (
        f"torch {torch.__version__}, CUDA {torch.version.cuda}, Python {platform.python_version()}"
    )
    threads = f"{torch.get_num_threads()} threads"
    return ", ".join(filter(None, [name, versions, threads, commit]))


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command."""
    parser = argparse.ArgumentParser(prog="python -m analysis.gpu_check", description=__doc__)
    parser.add_argument("ops", nargs="*", metavar="OP", help="folders below ops/; default: all")
    parser.add_argument("--steps", default=",".join(STEPS), help=f"of {','.join(STEPS)}")
    parser.add_argument("--outdir", type=Path, default=ROOT / "gpu-check-out", metavar="DIR")
    parser.add_argument("--minutes", type=float, default=7.5, help="time for everything")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu: the C++ kernels instead"
    )
    arguments = parser.parse_args(argv)
    arguments.steps = arguments.steps.split(",")
    for step in arguments.steps:
        if step not in STEPS:
            parser.error(f"--steps: {step!r} is not one of {', '.join(STEPS)}")
    for op in arguments.ops:
        if not (ROOT / "ops" / op).is_dir():
            parser.error(f"there is no folder ops/{op}")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the steps and returns the exit code."""
    arguments = parse_arguments(argv)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        built = "no GPU is found" if torch.version.cuda else "this torch is built without CUDA"
        print(f"gpu-check needs a GPU: {built} (torch {torch.__version__})", file=sys.stderr)
        return 2
    run = Run(
        torch.device(arguments.device), arguments.ops, arguments.outdir, 60 * arguments.minutes
    )
    print(describe_machine(run.device))
    actions = {
        "build": run.build,
        "ops": run.check_ops,
        "tests": run.run_tests,
        "bench": run.measure,
    }
    for step in STEPS:
        if step in arguments.steps:
            print(f"{step} ...", flush=True)
            actions[step]()
            run.write()
    print(*run.failed, sep="\n", end="\n" if run.failed else "")
    print(f"Wrote {arguments.outdir / 'gpu-check.md'} and gpu-check.json")
    return 1 if run.failed else 0


if __name__ == "__main__":
    sys.exit(main())
