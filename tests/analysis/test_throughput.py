"""`explore.py throughput`: images per second of any generator."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import explore
from analysis import throughput
from tests.analysis.tiny_networks import assert_refused, explore_run, make, names


@pytest.mark.parametrize("preset", ["stylegan2", "inr-gan-bil", "inr-gan-vanilla"])
def test_report(preset: str, tmp_path: Path) -> None:
    options = ("--precision=fp32,bf16", "--batch=1,3", "--repeats=2")
    result = explore_run("throughput", tmp_path, preset, *options, c_dim=2)
    assert result.exit_code == 0, result.output
    assert names(tmp_path) == ["throughput.json"]
    data = json.loads((tmp_path / "out" / "throughput.json").read_text())
    assert data["generator"] == preset and data["img_shape"] == [3, 16, 16]
    runs = data["runs"]
    assert [(run["precision"], run["batch"]) for run in runs] == [
        ("fp32", 1),
        ("fp32", 3),
        ("bf16", 1),
        ("bf16", 3),
    ]
    for run in runs:
        assert len(run["seconds"]) == 2
        assert run["images_per_second"] == pytest.approx(2 * run["batch"] / sum(run["seconds"]))
    assert data["best"]["images_per_second"] == max(run["images_per_second"] for run in runs)
    assert "device cpu" in data["machine"] and "threads" in data["machine"]


def test_warm_up_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    clock = iter(range(1000))
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(throughput, "synchronize", lambda device: calls.append("wait"))
    monkeypatch.setattr(throughput, "forward", lambda *args: lambda: calls.append("draw"))
    result = throughput.throughput(make("inr-gan"), 8, "fp32", warmup=3, repeats=2)
    assert calls == ["draw"] * 3 + ["wait", "draw", "wait"] * 2
    assert result["seconds"] == [1, 1] and result["images_per_second"] == 8


def test_precisions_reach_the_network() -> None:
    G = make("inr-gan-bil")
    fp32, bf16 = (throughput.forward(G, 2, precision)() for precision in ("fp32", "bf16"))
    assert fp32.shape == (2, 3, 16, 16) and bf16.dtype == torch.float32
    error = (fp32 - bf16).abs().max()
    assert 0 < error < 0.1


def test_an_untrained_generator(tmp_path: Path) -> None:
    command = ["throughput", "--generator=stylegan2", "--resolution=8", "--repeats=1", "--batch=1"]
    result = CliRunner().invoke(explore.main, [*command, f"--outdir={tmp_path / 'out'}"])
    assert result.exit_code == 0, result.output
    assert "stylegan2, 8x8; torch" in result.output


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--precision=fp16", "--precision=fp16 runs in float32 on the device cpu"),
        ("--precision=fp64", "'fp64' is not one of fp32, bf16, fp16"),
        ("--precision=none", "--precision names nothing"),
        ("--batch=0", "0 is not in the range"),
        ("--warmup=1", "1 is not in the range"),
    ],
)
def test_refused(option: str, sentence: str, tmp_path: Path) -> None:
    assert_refused(explore_run("throughput", tmp_path, "inr-gan", option), sentence, tmp_path)


def test_a_size_that_the_preset_does_not_draw(tmp_path: Path) -> None:
    command = ["throughput", "--generator=stylegan2", "--resolution=100"]
    result = CliRunner().invoke(explore.main, [*command, f"--outdir={tmp_path / 'out'}"])
    assert_refused(result, "img_resolution must be a power of two", tmp_path)
