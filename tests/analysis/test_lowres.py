"""`explore.py lowres`: three ways to a small picture, their work and their time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from PIL import Image

import explore
from analysis import lowres
from networks import cost, sampling
from tests.analysis.tiny_networks import (
    CONTINUOUS,
    assert_refused,
    explore_run,
    make,
    names,
    read_csv,
)


@pytest.mark.parametrize("preset", CONTINUOUS)
def test_files_and_numbers(preset: str, tmp_path: Path) -> None:
    result = explore_run("lowres", tmp_path, preset, "--sizes=16,4", "--repeats=1", "--batch=2")
    assert result.exit_code == 0, result.output
    assert names(tmp_path) == ["lowres.csv", "lowres.json", "lowres.png"]
    rows = read_csv(tmp_path / "out" / "lowres.csv")
    assert [(row["method"], row["side"]) for row in rows] == [
        (method, side) for side in ("4", "16") for method in lowres.METHODS
    ]
    G = make(preset)
    assert int(rows[0]["macs_full"]) == cost.total(cost.render_cost(G, 4), "full")
    assert int(rows[1]["macs_split"]) == cost.total(cost.render_cost(G, 4, lod="scaled"), "split")
    whole = [row for row in rows if row["method"] == lowres.WHOLE]
    assert {row["macs_full"] for row in whole} == {str(cost.total(cost.render_cost(G)))}
    assert float(rows[0]["share"]) < 1 and float(whole[0]["share"]) == 1
    assert all(float(row["seconds"]) > 0 for row in rows)
    data = json.loads((tmp_path / "out" / "lowres.json").read_text())
    assert data["img_shape"] == [3, 16, 16] and data["batch"] == 2
    assert "device cpu" in data["machine"] and len(data["rows"]) == 6


def test_what_is_timed_is_what_it_says() -> None:
    G = make("inr-gan-bil")
    ws = sampling.ws_of_seed(G, 0)
    drawn = {method: lowres.drawing(G, ws, 8, method)() for method in lowres.METHODS}
    assert torch.equal(drawn["fixed"], G.synthesis.render(ws, size=8))
    assert torch.equal(drawn["scaled"], G.synthesis.render(ws, size=8, lod="scaled"))
    whole = F.avg_pool2d(G.synthesis(ws), 2)
    assert torch.allclose(drawn[lowres.WHOLE], whole, atol=1e-6)


def test_every_drawing_is_announced() -> None:
    calls: list[int] = []
    rows = lowres.study(make("inr-gan"), (4, 8), repetitions=2, on_drawing=lambda: calls.append(1))
    assert len(calls) == lowres.num_drawings((4, 8), 2) == 2 * 3 * 3
    assert [row["side"] for row in rows] == [4] * 3 + [8] * 3


def test_sizes_follow_the_shape() -> None:
    class Wide:
        """As much of a generator as sizes need."""

        img_shape = (3, 32, 64)

    assert lowres.default_sizes(Wide()) == (4, 8, 16, 32, 64)
    assert lowres.picture_size(Wide(), 10) == (5, 10)


def test_an_untrained_generator(tmp_path: Path) -> None:
    options = ("--generator=inr-fmm", "--resolution=8", "--sizes=4,8", "--repeats=1")
    result = CliRunner().invoke(
        explore.main, ["lowres", *options, f"--outdir={tmp_path / 'out'}", "--device=cpu"]
    )
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out" / "lowres.json").read_text())["generator"] == "inr-fmm"
    assert Image.open(tmp_path / "out" / "lowres.png").size == (640, 840)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--sizes=32", "--sizes=32 is larger than the image, 16 pixels"),
        ("--sizes=0", "0 is not in the range 1 to 4096"),
        ("--sizes=4,x", "'4,x' is not a list of integers"),
        ("--generator=inr-gan", "Name one network"),
    ],
)
def test_refused(option: str, sentence: str, tmp_path: Path) -> None:
    assert_refused(explore_run("lowres", tmp_path, "inr-gan", option), sentence, tmp_path)


def test_not_continuous(tmp_path: Path) -> None:
    result = explore_run("lowres", tmp_path, "stylegan2")
    assert_refused(result, "stylegan2.pkl is not a continuous generator", tmp_path)
    command = ["lowres", "--generator=stylegan2", f"--outdir={tmp_path / 'out'}"]
    result = CliRunner().invoke(explore.main, command)
    assert_refused(result, "--generator=stylegan2 is not a continuous generator", tmp_path)
    result = CliRunner().invoke(explore.main, ["lowres", f"--outdir={tmp_path / 'out'}"])
    assert_refused(result, "Name one network", tmp_path)
