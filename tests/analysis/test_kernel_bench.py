"""The benchmark of kernels in miniature on a CPU: every section runs, and its numbers add up."""

from __future__ import annotations

import itertools
import math
import os

import pytest
import torch

from analysis import generator_bench, kernel_bench, kernel_report
from analysis.kernel_bench import Bench, LayerShape, Row, Scale
from analysis.op_check import Check
from analysis.published_order import without_kernels
from analysis.timing import Timing
from ops import _dispatch
from ops.inr_layer import inr_layer
from ops.inr_layer.inputs import CoordFeatures
from ops.registry_inr import doubling_taps
from tests.compare import assert_same_numbers

CPU = torch.device("cpu")
TINY = Scale(
    precision="bf16",
    copy_bytes=2**16,
    matrix=32,
    fmm=((2, 16, 8),),
    layers=(LayerShape(8, 4, 2, coords=8),),
    samples=1,
    sample_seconds=0,
    compile_backend="eager",
    resolution=16,
    batches=(1,),
    memory_batch=2,
    width=8,
    train_batch=4,
)


def tiny_bench(**changes: object) -> Bench:
    return Bench(CPU, TINY, **changes)


def variants(bench: Bench, section: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in bench.rows:
        if row.section == section:
            # On a machine without a compiler there is none.
            assert row.note in ("", kernel_bench.NO_KERNEL)
            assert row.memory is not None or row.seconds > 0, row
            found.setdefault(row.case, set()).add(row.variant)
    return found


def test_ops_are_measured() -> None:
    bench = tiny_bench()
    kernel_bench.measure_ceilings(bench)
    kernel_bench.measure_fmm(bench)
    kernel_bench.measure_layers(bench)
    assert variants(bench, "ceilings") == {
        "device copy": {"copy"},
        "matrix product": {"fp32", "bf16"},
    }
    for names in variants(bench, "fmm").values():
        assert names == {"kernel", "definition"}
    layers = variants(bench, "inr_layer")
    assert len(layers) == 3
    assert layers["hidden, 8->8 at 4x4, batch 2"] == {
        "kernel",
        "torch.bmm",
        "PyTorch",
        "torch.compile",
    }
    assert bench.notes == []


def test_generators_are_measured() -> None:
    bench = tiny_bench()
    generator_bench.measure_generators(bench)
    assert len(variants(bench, "generator")) == len(generator_bench.PRESETS)
    for section in ("generator", "memory"):
        for names in variants(bench, section).values():
            assert names == {"kernels", "plain PyTorch, no compiler", "plain order"}


def test_training_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    from analysis import bench as training_bench

    monkeypatch.setattr(training_bench, "STEPS_PER_CYCLE", 1)
    bench = tiny_bench()
    generator_bench.measure_training(bench)
    assert [row.variant for row in bench.rows] == ["kernels", "plain order"]
    assert all(row.images == 4 and row.seconds > 0 for row in bench.rows)


def test_all_ways_to_draw_give_the_same_picture() -> None:
    bench = tiny_bench()
    G = generator_bench.make_generator(bench, "inr-gan")
    pictures: list[torch.Tensor] = []
    for function, context in generator_bench.ways(bench, G, 2).values():
        with context():
            torch.manual_seed(1)
            pictures.append(function())
            assert not torch.equal(function(), pictures[-1])  # another z
    assert len(pictures) == 3
    for one, other in itertools.combinations(pictures, 2):
        assert_same_numbers(one, other, 0.05)
        assert not torch.equal(one, other)


def test_without_kernels_the_switch_is_back_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    for before in (None, "auto"):
        if before is None:
            monkeypatch.delenv("GAN_OPS", raising=False)
        else:
            monkeypatch.setenv("GAN_OPS", before)
        with pytest.raises(KeyError), without_kernels():
            assert os.environ["GAN_OPS"] == "plain"
            raise KeyError
        assert os.environ.get("GAN_OPS") == before


@pytest.mark.parametrize("mode", [None, "nearest"])
def test_the_layer_that_is_compiled_is_the_same_layer(mode: str | None) -> None:
    taps = doubling_taps(2, mode or "nearest")
    tables = CoordFeatures(cols=torch.randn(2, 4), shared=torch.randn(3, 4, 4))
    x = torch.randn(2, 6, 4, 4) if mode is None else torch.randn(2, 6, 2, 2)
    weight, bias = torch.randn(2, 5, 11), torch.randn(5)
    expected = inr_layer(
        weight,
        x,
        bias,
        taps=(taps, taps) if mode else None,
        coords=tables,
        act="lrelu",
        clamp=kernel_bench.CLAMP,
    )
    actual = kernel_bench.plain_layer(weight, x, bias, tables.dense(1, 4, 4), mode)
    assert_same_numbers(actual, expected)


def test_what_there_is_no_time_for_is_named() -> None:
    bench = tiny_bench(out_of_time=lambda: True)
    kernel_bench.measure_fmm(bench)
    generator_bench.measure_generators(bench)
    generator_bench.measure_training(bench)
    assert bench.rows == [] and all("left out, the time is up" in note for note in bench.notes)
    assert {note.split(":")[0] for note in bench.notes} == {
        "fmm",
        "generator",
        "memory",
        "training",
    }


def test_a_variant_that_fails_does_not_cost_the_others_their_numbers() -> None:
    def fail() -> None:
        raise NotImplementedError("no such kernel\nand more")

    bench = tiny_bench()
    bench.compare("fmm", "case", {"good": lambda: None, "bad": fail})
    good, bad = bench.rows
    assert good.seconds is not None and good.note == ""
    assert bad.seconds is None and bad.note == "NotImplementedError: no such kernel"


def test_it_is_said_if_no_kernel_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dispatch, "_kernels", {})
    _dispatch.register_kernel("blend", "cpp", lambda: "module")
    with_kernel = lambda: _dispatch.choose("blend", [torch.ones(1)])  # noqa: E731
    assert kernel_bench.which_ran("kernel", with_kernel) == ""
    assert kernel_bench.which_ran("kernel", lambda: None) == "no kernel ran"
    assert kernel_bench.which_ran("torch.bmm", lambda: None) == ""


def timed(section: str, case: str, variant: str, seconds: float, **work: float) -> Row:
    timing = Timing(seconds, seconds, seconds, 1, "graph")
    return Row(section, case, variant, seconds, timing, **work)


ROWS = [
    timed("ceilings", "device copy", "copy", 1e-3, bytes=2e9),
    timed("ceilings", "matrix product", "fp16", 1e-3, flops=1e12),
    timed("fmm", "8 x 4 x 4, forward", "kernel", 4e-3, bytes=4e9),
    timed("fmm", "8 x 4 x 4, forward", "definition", 1e-2, bytes=4e9),
    timed("inr_layer", "hidden, 512->512", "kernel", 2e-3, flops=1e12, bytes=1e9),
    timed("inr_layer", "hidden, 512->512", "torch.bmm", 1e-3, flops=1e12, bytes=1e9),
    timed("inr_layer", "hidden, 512->512", "torch.compile", 4e-3, flops=1e12, bytes=1e9),
    Row("memory", "inr-gan-published", "kernels", memory=10 * 2**20),
    Row("memory", "inr-gan-published", "plain order", memory=60 * 2**20),
    timed("generator", "inr-gan-published, batch 8", "kernels", 1e-3, flops=5e11, images=8),
    Row("generator", "inr-gan-published, batch 8", "plain order", note="RuntimeError: no memory"),
]


def test_floors_and_ratios() -> None:
    floor = kernel_report.floor_seconds(ROWS[2], ROWS, "fp16")
    assert floor == pytest.approx(2e-3)
    assert kernel_report.floor_seconds(ROWS[4], ROWS, "fp16") == pytest.approx(1e-3)
    assert kernel_report.floor_seconds(ROWS[4], ROWS, "bf16") is None
    assert kernel_report.ratio(ROWS, ROWS[4], "torch.bmm") == pytest.approx(0.5)
    assert kernel_report.ratio(ROWS, ROWS[7], "plain order") == pytest.approx(6)
    assert kernel_report.ratio(ROWS, ROWS[9], "plain order") is None


def test_targets() -> None:
    found = {
        text: (value, limit) for _case, text, value, limit in kernel_report.reached(ROWS, "fp16")
    }
    assert found == {
        "70 % of the bandwidth of a copy": (pytest.approx(0.5), 0.7),
        "at most 1.15x torch.bmm's time": (pytest.approx(0.5), 1 / 1.15),
        "1.5x as fast as torch.compile": (pytest.approx(2), 1.5),
        "a fifth of the plain order's memory": (pytest.approx(6), 5),
    }


def test_the_reports() -> None:
    checks = [
        Check("fmm-odd", "fp16", "values", "cuda", 1e-4, 1e-3),
        Check("fmm-odd", "fp16", "first order", "cuda", math.nan, 1e-3),
        Check("fmm-even", "fp16", "run", "-", math.nan, 0.0, "RuntimeError: illegal address"),
    ]
    report = {
        "machine": "a machine",
        "device": "cuda",
        "precision": "fp16",
        "summary": "2 problems after 3 s",
        "builds": [("fmm", "4.2", "built")],
        "tests": "5 passed",
        "notes": ["something | else"],
    }
    data = kernel_report.to_json(report, checks, ROWS)
    assert data["ceilings"]["bytes_per_second"] == pytest.approx(2e12)
    assert [check["ok"] for check in data["checks"]] == [True, False, False]
    assert [target["met"] for target in data["targets"]] == [False, False, True, True]
    on_cpu = {**report, "device": "cpu"}
    assert kernel_report.to_json(on_cpu, checks, ROWS)["targets"] == []
    assert "## Targets" not in kernel_report.to_markdown(on_cpu, checks, ROWS)
    text = kernel_report.to_markdown(report, checks, ROWS)
    for line in (
        "# Kernels on a machine",
        "| device copy, copy | 2000 GB/s read and written |",
        "| fmm | 4.2 | built |",
        "* fmm-odd, fp16, first order (cuda): error nan, allowed 1.00e-03",
        "* fmm-even, fp16, run (-): RuntimeError: illegal address",
        "| 8 x 4 x 4, forward | kernel | 4.000 | 1000 GB/s | 50 % | 2.50x | graph |",
        "| inr-gan-published, batch 8 | kernels | 1.000 | 8000.0 img/s | 50 % | - | graph |",
        "| inr-gan-published | kernels | 10 | - | - | 6.00x |  |",
        "* something | else",
    ):
        assert line in text.splitlines(), line
