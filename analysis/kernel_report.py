"""What `gpu_check` found, as JSON and as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from analysis.kernel_bench import Row, ceilings
from analysis.op_check import Check

BASELINES = {
    "fmm": "definition",
    "inr_layer": "torch.bmm",
    "generator": "plain order",
    "memory": "plain order",
    "training": "plain order",
}
"""What the other variants of a section are compared with."""

TITLES = {
    "fmm": "fmm: composing weights",
    "inr_layer": "inr_layer: single layers",
    "generator": "Generators: inference",
    "memory": "Generators: peak memory",
    "training": "Training",
}

_FAILURES_SHOWN = 30


def floor_seconds(row: Row, rows: Sequence[Row], precision: str) -> float | None:
    """The time that the work of a row takes at the machine's measured ceilings.

    Args:
        row: With operations, bytes, or both.
        rows: All, ceilings among them.
        precision: In which the operations are done.

    Returns:
        max(operations / rate, bytes / bandwidth), or None if a ceiling is missing.
    """
    bandwidth, rates = ceilings(list(rows))
    floors = []
    if row.flops:
        if precision not in rates:
            return None
        floors.append(row.flops / rates[precision])
    if row.bytes:
        if bandwidth is None:
            return None
        floors.append(row.bytes / bandwidth)
    return max(floors, default=None)


def find(rows: Sequence[Row], section: str, case: str, variant: str) -> Row | None:
    """The row of that name."""
    wanted = (section, case, variant)
    return next((row for row in rows if (row.section, row.case, row.variant) == wanted), None)


def ratio(rows: Sequence[Row], row: Row, other: str) -> float | None:
    """How many times better (faster, smaller) than another variant of the same case a row is."""
    base = find(rows, row.section, row.case, other)
    if base is None:
        return None
    if row.section == "memory":
        return base.memory / row.memory if base.memory and row.memory else None
    return base.seconds / row.seconds if base.seconds and row.seconds else None


@dataclass(frozen=True)
class Target:
    """What a kernel is to reach on an H100.

    Attributes:
        section: Of the rows that it is about.
        case: Text that their cases begin with.
        other: Variant that the kernel is compared with; "floor" = the measured ceilings.
        limit: Ratio to reach.
        text: In words.
        end: Text that their cases end with.
    """

    section: str
    case: str
    other: str
    limit: float
    text: str
    end: str = ""


TARGETS = (
    Target("fmm", "", "floor", 0.7, "70 % of the bandwidth of a copy", end=", forward"),
    Target("inr_layer", "hidden, 5", "torch.bmm", 1 / 1.15, "at most 1.15x torch.bmm's time"),
    Target("inr_layer", "hidden, 2", "torch.bmm", 1 / 1.15, "at most 1.15x torch.bmm's time"),
    Target("inr_layer", "hidden, 1", "torch.bmm", 1 / 1.15, "at most 1.15x torch.bmm's time"),
    Target("inr_layer", "", "torch.compile", 1.5, "1.5x as fast as torch.compile"),
    Target("generator", "inr-gan-published", "plain order", 5.0, "5x the plain order's images/s"),
    Target(
        "memory", "inr-gan-published", "plain order", 5.0, "a fifth of the plain order's memory"
    ),
    Target("training", "", "plain order", 1.5, "1.5x the plain order's images/s"),
)


def reached(rows: Sequence[Row], precision: str) -> list[tuple[str, str, float, float]]:
    """Every target with what was measured: (case, target, ratio, limit), as far as it was."""
    found = []
    for target in TARGETS:
        for row in rows:
            is_kernel = row.section == target.section and row.variant in ("kernel", "kernels")
            if not (
                is_kernel and row.case.startswith(target.case) and row.case.endswith(target.end)
            ):
                continue
            if target.other == "floor":
                floor = floor_seconds(row, rows, precision)
                value = floor / row.seconds if floor and row.seconds else None
            else:
                value = ratio(rows, row, target.other)
            if value is not None:
                found.append((f"{row.section}: {row.case}", target.text, value, target.limit))
    return found


def to_json(report: dict[str, Any], checks: Sequence[Check], rows: Sequence[Row]) -> dict[str, Any]:
    """Everything as numbers.

    Args:
        report: What else is known: machine, device, precision, summary, builds, tests, notes.
        checks, rows: What was compared and measured.
    """
    bandwidth, rates = ceilings(list(rows))
    return {
        **report,
        "ceilings": {"bytes_per_second": bandwidth, "operations_per_second": rates},
        "checks": [{**asdict(check), "ok": check.ok} for check in checks],
        "rows": [asdict(row) for row in rows],
        "targets": [
            {"case": case, "target": text, "ratio": value, "limit": limit, "met": value >= limit}
            for case, text, value, limit in _targets(report, rows)
        ],
    }


def to_markdown(report: dict[str, Any], checks: Sequence[Check], rows: Sequence[Row]) -> str:
    """Everything as tables for people; arguments as `to_json`."""
    precision = report["precision"]
    parts = [f"# Kernels on {report['machine']}", report["summary"]]
    parts += ["## Ceilings", _table(_ceiling_rows(rows))] if rows else []
    parts += ["## Builds", _table([["op", "seconds", "result"], *report["builds"]])]
    parts += ["## Correctness", _correctness(checks)] if checks else []
    parts += ["## Tests", report["tests"]]
    met = _targets(report, rows)
    if met:
        lines = [
            [case, text, f"{value:.2f}", f"{limit:.2f}", "yes" if value >= limit else "no"]
            for case, text, value, limit in met
        ]
        parts += ["## Targets", _table([["case", "target", "ratio", "limit", "reached"], *lines])]
    for section, title in TITLES.items():
        table = section_table(rows, section, precision)
        parts += [f"## {title}", _table(table)] if len(table) > 1 else []
    if report["notes"]:
        parts += ["## Notes", "\n".join(f"* {note}" for note in report["notes"])]
    return "\n\n".join(parts) + "\n"


def _targets(report: dict[str, Any], rows: Sequence[Row]) -> list[tuple[str, str, float, float]]:
    """The targets are for GPUs."""
    return reached(rows, report["precision"]) if report["device"] == "cuda" else []


def _ceiling_rows(rows: Sequence[Row]) -> list[list[str]]:
    table = [["what", "rate"]]
    for row in rows:
        if row.section == "ceilings" and row.seconds:
            rate = f"{row.bytes / row.seconds / 1e9:.0f} GB/s read and written"
            if row.flops:
                rate = _operations(row.flops / row.seconds)
            table.append([f"{row.case}, {row.variant}", rate])
    return table


def section_table(rows: Sequence[Row], section: str, precision: str) -> list[list[str]]:
    """One line per row: time, rate, share of the ceilings, how much better than the baseline.

    Args:
        rows: All, ceilings among them.
        section: Whose rows the table has.
        precision: In which operations are done.
    """
    part = [row for row in rows if row.section == section]
    baseline = BASELINES[section]
    measure = "memory, MiB" if section == "memory" else "time, ms"
    table = [["case", "variant", measure, "rate", "share of ceiling", f"vs {baseline}", "note"]]
    for row in part:
        floor = floor_seconds(row, rows, precision)
        better = ratio(rows, row, baseline)
        amount = "-"
        if row.seconds:
            amount = f"{row.seconds * 1e3:.3f}"
        elif row.memory is not None:
            amount = f"{row.memory / 2**20:.0f}"
        share = f"{100 * floor / row.seconds:.0f} %" if floor and row.seconds else "-"
        how = "" if row.timing is None or row.timing.how == "calls" else row.timing.how
        cells = [row.case, row.variant, amount, _rate(row), share]
        table.append([*cells, f"{better:.2f}x" if better else "-", row.note or how])
    return table


def _rate(row: Row) -> str:
    if not row.seconds:
        return "-"
    if row.images:
        return f"{row.images / row.seconds:.1f} img/s"
    if row.flops:
        return _operations(row.flops / row.seconds)
    return f"{row.bytes / row.seconds / 1e9:.0f} GB/s"


def _operations(rate: float) -> str:
    """Operations per second with a fitting unit."""
    return f"{rate / 1e9:.1f} GFLOP/s" if rate < 1e12 else f"{rate / 1e12:.1f} TFLOP/s"


def _correctness(checks: Sequence[Check]) -> str:
    """A line per op and precision, then what failed."""
    groups: dict[tuple[str, str], list[Check]] = {}
    for check in checks:
        groups.setdefault((check.case.split("-")[0], check.precision), []).append(check)
    table = [["op", "precision", "ran", "passed", "worst error / allowed"]]
    for (op, precision), members in groups.items():
        impls = "+".join(sorted({part for check in members for part in check.impl.split("+")}))
        worst = max((c.error / c.allowed for c in members if c.allowed), default=float("nan"))
        passed = f"{sum(check.ok for check in members)} of {len(members)}"
        table.append([op, precision, impls, passed, f"{worst:.2f}"])
    failed = [check for check in checks if not check.ok]
    lines = [
        f"* {c.case}, {c.precision}, {c.what} ({c.impl}): "
        + (c.problem or f"error {c.error:.2e}, allowed {c.allowed:.2e}")
        for c in failed[:_FAILURES_SHOWN]
    ]
    if len(failed) > _FAILURES_SHOWN:
        lines.append(f"* and {len(failed) - _FAILURES_SHOWN} more")
    return "\n\n".join([_table(table), *(["\n".join(lines)] if lines else [])])


def _table(rows: Sequence[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(str(cell).replace("|", "/") for cell in row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join(lines)
