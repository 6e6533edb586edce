"""The benchmark of single ops: what it times, its table, its errors."""

from __future__ import annotations

import os

import pytest
import torch
from click.testing import CliRunner

from analysis import op_bench
from ops.registry import CASES, OpCase
from tests.compare import assert_same_numbers

CPU = torch.device("cpu")
CASE = OpCase("fma", "tiny", {"a": (2, 3), "b": (2, 3), "c": (2, 3)}, small=False)


@pytest.mark.parametrize("op", ["conv_layer", "fma", "grid_sample"])
def test_both_passes_compute_the_op(op: str) -> None:
    case = next(case for case in CASES if case.op == op)
    forward, trained = op_bench.passes(case, CPU)
    tensors = case.inputs()
    assert_same_numbers(forward(), case.bind(reference=True)(**tensors), 1e-6)
    gradients = trained()
    shapes = [shape for name, shape in case.shapes.items() if name not in case.constant]
    assert [tuple(gradient.shape) for gradient in gradients] == shapes
    for first, second in zip(gradients, trained()):
        assert torch.equal(first, second)


def test_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GAN_OPS", raising=False)
    ways = []
    monkeypatch.setattr("ops.registry.CASES", [CASE])
    monkeypatch.setattr(
        op_bench,
        "passes",
        lambda case, device: (lambda: ways.append(os.environ.get("GAN_OPS")),) * 2,
    )
    result = CliRunner().invoke(op_bench.main, ["fma", "--samples=2", "--device=cpu"])
    assert result.exit_code == 0, result.output
    cells = result.output.splitlines()[-1].split()
    assert cells[0] == "fma-tiny" and len(cells) == 5
    assert all(cell.endswith("x") for cell in cells[2::2])
    assert set(ways) == {None, "plain"}


def test_an_op_that_does_not_exist() -> None:
    result = CliRunner().invoke(op_bench.main, ["conv"])
    assert result.exit_code == 2
    assert "no op conv; there are affine, bias_act" in result.output
