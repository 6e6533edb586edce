"""Compile every kernel without a GPU (`make cuda-check`); warnings are errors, registers counted.

nvcc compiles each `.cu` file of `ops/` to machine code of each architecture, one object at a time,
g++ each `.cpp`. What ptxas says of every kernel ends in a table. Nothing is linked, kept or run.
Needs Python and compilers only, neither torch nor click: it is a check for bare machines too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from analysis.records import text_table

ROOT = Path(__file__).resolve().parents[1]

ARCHITECTURES = (75, 80, 90, 100, 120)
"""Compute capabilities, times ten, that kernels are compiled for where the toolkit knows them."""

PROCESSORS = ("native", "x86-64", "x86-64-v3", "sapphirerapids")
"""Processors that C++ is compiled for where the compiler knows them: code for AVX-512 or AMX has to
compile on machines without them too."""

# Those of ops/_native/registration.py, and all warnings; but vectors as arguments of functions that
# are inlined anyway are no matter of the ABI.
CXX_FLAGS = (
    *("-std=c++17", "-O3", "-fopenmp", "-fvisibility=hidden", "-fPIC"),
    *("-fno-math-errno", "-fno-trapping-math"),
    *("-Wall", "-Wextra", "-Werror", "-Wno-psabi"),
)
NVCC_FLAGS = (
    *("-std=c++17", "-O3", "--extended-lambda", "-Werror", "all-warnings"),
    *("-Xcompiler", "-fPIC,-Wall,-Wextra,-Werror", "--resource-usage", "--display-error-number"),
)
_LOG_LINES = 40


@dataclass(frozen=True)
class Job:
    """One object file to be.

    Attributes:
        source: A `.cu` or `.cpp` file, relative to the repository.
        target: "sm_90", or a name of `PROCESSORS`.
        command: Compiler and arguments, without the output.
    """

    source: str
    target: str
    command: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.source} {self.target}"


@dataclass(frozen=True)
class Usage:
    """What one kernel takes on one architecture, as ptxas reports it.

    Attributes:
        kernel: Demangled name with template arguments, without parameters.
        architecture: Compute capability times ten.
        registers: Per thread.
        spills: Bytes of registers stored to memory, per thread.
        stack: Bytes of local memory per thread, spilled registers included.
        shared: Bytes of static shared memory per block; what a launch adds is not in it.
    """

    kernel: str
    architecture: int
    registers: int
    spills: int
    stack: int
    shared: int


@dataclass(frozen=True)
class Outcome:
    """What came of a `Job`: whether it compiled, the compilers' words, seconds."""

    job: Job
    ok: bool
    log: str
    seconds: float


def find_nvcc() -> str | None:
    """nvcc on PATH, in $CUDA_HOME or in /usr/local/cuda; None if there is none."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    folders = [os.path.join(home, "bin") for home in homes if home]
    return shutil.which("nvcc") or shutil.which("nvcc", path=os.pathsep.join(folders))


def known_architectures(nvcc: str) -> list[int]:
    """Those of `ARCHITECTURES` that this nvcc can compile for."""
    done = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True)
    listed = {int(number) for number in re.findall(r"compute_(\d+)\b", done.stdout)}
    return [number for number in ARCHITECTURES if number in listed]


def known_processors(cxx: Sequence[str]) -> list[str]:
    """Those of `PROCESSORS` that this C++ compiler can compile for."""
    test = ("-E", "-x", "c++", os.devnull)
    return [
        name
        for name in PROCESSORS
        if subprocess.run([*cxx, f"-march={name}", *test], capture_output=True).returncode == 0
    ]


def sources(names: Sequence[str], suffix: str) -> list[str]:
    """Files below `ops/` that end in `suffix`, relative to the repository.

    Args:
        names: Folders below `ops/`; none = all.
        suffix: ".cu" or ".cpp".
    """
    folders = [ROOT / "ops" / name for name in names]
    if not names:
        # What ops/_native has is compiled with an op, not alone.
        folders = [path for path in (ROOT / "ops").iterdir() if not path.name.startswith("_")]
    files = [path for folder in folders for path in folder.rglob(f"*{suffix}")]
    return sorted(path.relative_to(ROOT).as_posix() for path in files)


def make_jobs(names: Sequence[str], nvcc: str | None, cxx: str | None) -> list[Job]:
    """All that is to be compiled; files whose compiler is None are left out."""
    jobs = []
    for number in [] if nvcc is None else known_architectures(nvcc):
        target = f"arch=compute_{number},code=sm_{number}"
        command = (str(nvcc), *NVCC_FLAGS, "-gencode", target, "-c")
        jobs += [Job(name, f"sm_{number}", (*command, name)) for name in sources(names, ".cu")]
    if cxx is not None:
        for processor in known_processors(cxx.split()):
            command = (*cxx.split(), *CXX_FLAGS, f"-march={processor}", "-c")
            jobs += [Job(name, processor, (*command, name)) for name in sources(names, ".cpp")]
    # The same file for all targets in turn: what fails, fails in one place.
    return sorted(jobs, key=lambda job: job.source)


def compile_one(job: Job) -> Outcome:
    """Runs the compiler in the repository; the object is thrown away."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="cuda-check-") as folder:
        command = [*job.command, "-o", os.path.join(folder, "out.o")]
        done = subprocess.run(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    return Outcome(job, done.returncode == 0, done.stdout, time.perf_counter() - start)


def parse_usage(log: str, demangler: str | None = None) -> list[Usage]:
    """Finds the kernels in what `ptxas -v` prints.

    Args:
        log: Output of nvcc --resource-usage.
        demangler: cu++filt or c++filt; None = names stay mangled.
    """
    entry = re.compile(
        r"Compiling entry function '(?P<name>[^']+)' for 'sm_(?P<architecture>\d+)\w?'"
        r"(?P<rest>.*?)(?=Compiling entry function|\Z)",
        re.DOTALL,
    )
    found = [match.groupdict() for match in entry.finditer(log)]
    names = demangle([match["name"] for match in found], demangler)
    return [
        Usage(
            kernel=short_name(name),
            architecture=int(match["architecture"]),
            registers=_number(r"Used (\d+) registers", match["rest"]),
            spills=_number(r"(\d+) bytes spill stores", match["rest"]),
            stack=_number(r"(\d+) bytes stack frame", match["rest"]),
            shared=_number(r"(\d+) bytes smem", match["rest"]),
        )
        for name, match in zip(names, found)
    ]


def _number(pattern: str, text: str) -> int:
    match = re.search(pattern, text)
    return int(match[1]) if match else 0


def demangle(names: list[str], demangler: str | None) -> list[str]:
    """C++ names of symbols; the symbols themselves without a demangler."""
    if demangler is None or not names:
        return names
    text = "\n".join(names) + "\n"
    done = subprocess.run([demangler], input=text, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def short_name(name: str) -> str:
    """A kernel's demangled name without return type, anonymous namespaces and parameters."""
    name = re.sub(r"\(anonymous namespace\)::|_GLOBAL__N__\w+?::", "", name)
    depth = 0
    for position in range(len(name) - 1, -1, -1):  # the last pair of parentheses at depth zero
        depth += (name[position] == ")") - (name[position] == "(")
        if depth == 0 and name[position] == "(":
            name = name[:position]
            break
    return re.sub(r"^void ", "", name)


def usage_table(rows: Iterable[Usage]) -> list[list[str]]:
    """One line per kernel, one column per architecture: "registers / spills / stack / shared"."""
    by_kernel: dict[str, dict[int, Usage]] = {}
    for row in rows:
        by_kernel.setdefault(row.kernel, {})[row.architecture] = row
    numbers = sorted({number for row in by_kernel.values() for number in row})
    table = [["kernel", *(f"sm_{number}" for number in numbers)]]
    for kernel, row in by_kernel.items():
        cells = [
            f"{use.registers} / {use.spills} / {use.stack} / {use.shared}" if use else "-"
            for use in map(row.get, numbers)
        ]
        table.append([kernel, *cells])
    return table


def report_failures(failed: Sequence[Outcome]) -> None:
    """Prints what the compilers say, once where they say the same for several architectures."""
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in failed:
        lines = [line for line in outcome.log.splitlines() if not line.startswith("ptxas info")]
        text = "\n".join(f"  {line}" for line in lines[:_LOG_LINES])
        groups.setdefault((outcome.job.source, text), []).append(outcome)
    for (_source, text), outcomes in groups.items():
        print(f"\nFAILED {', '.join(str(outcome.job) for outcome in outcomes)}")
        print(f"  {' '.join(outcomes[0].job.command)}\n{text}")


def run(jobs: Sequence[Job], workers: int) -> list[Outcome]:
    """Compiles everything, `workers` objects at a time, and says so line by line."""
    outcomes = []
    with ThreadPoolExecutor(workers) as pool:
        for outcome in pool.map(compile_one, jobs):
            state = "ok" if outcome.ok else "FAILED"
            print(f"  {state:<6} {outcome.seconds:6.1f} s  {outcome.job}", flush=True)
            outcomes.append(outcome)
    return outcomes


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command."""
    parser = argparse.ArgumentParser(prog="python -m analysis.cuda_check", description=__doc__)
    parser.add_argument("ops", nargs="*", metavar="OP", help="folders below ops/; default: all")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="objects compiled at a time"
    )
    parser.add_argument(
        "--max-spill",
        type=int,
        default=None,
        metavar="BYTES",
        help="fail if a kernel spills more than this per thread (default: only report)",
    )
    parser.add_argument("--json", default=None, metavar="FILE", help="write the usage there too")
    arguments = parser.parse_args(argv)
    unknown = [name for name in arguments.ops if not (ROOT / "ops" / name).is_dir()]
    if unknown:
        parser.error(f"there is no folder ops/{unknown[0]}")
    if arguments.jobs < 1:
        parser.error(f"--jobs must be at least 1, got {arguments.jobs}")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Compiles, prints, and returns the exit code: 0, or 1 if something does not compile."""
    arguments = parse_arguments(argv)
    nvcc = find_nvcc()
    cxx = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if nvcc is None:
        print("nvcc is not found (PATH, CUDA_HOME): the .cu files are not compiled")
    if cxx is None:
        print("no C++ compiler is found (PATH, CXX): the .cpp files are not compiled")
    outcomes = run(make_jobs(arguments.ops, nvcc, cxx), arguments.jobs)
    demangler = shutil.which("cu++filt") or shutil.which("c++filt")
    usage = [row for outcome in outcomes for row in parse_usage(outcome.log, demangler)]
    if usage:
        print("\nPer thread: registers / bytes spilled / bytes of stack; static shared memory")
        print(text_table(usage_table(usage)))
    if arguments.json is not None:
        text = json.dumps([asdict(row) for row in usage], indent=1) + "\n"
        Path(arguments.json).write_text(text, encoding="utf-8")
    failed = [outcome for outcome in outcomes if not outcome.ok]
    report_failures(failed)
    spilling = [] if arguments.max_spill is None else too_spilling(usage, arguments.max_spill)
    print(*spilling, sep="\n", end="\n" if spilling else "")
    print(f"{len(outcomes) - len(failed)} of {len(outcomes)} objects compiled without a warning")
    return 1 if failed or spilling else 0


def too_spilling(usage: Sequence[Usage], limit: int) -> list[str]:
    """One sentence for every kernel that spills more than `limit` bytes per thread."""
    return [
        f"{row.kernel} spills {row.spills} bytes on sm_{row.architecture}, allowed are {limit}"
        for row in usage
        if row.spills > limit
    ]


if __name__ == "__main__":
    sys.exit(main())
