"""`explore.py cost`: its JSON, its tables, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import explore
from analysis import cost


def run(*options: str) -> Result:
    return CliRunner().invoke(explore.main, ["cost", *options])


def read(folder: Path) -> dict:
    return json.loads((folder / "cost.json").read_text())


def test_the_default_is_counted_beside_stylegan2(tmp_path: Path) -> None:
    result = run("--resolution=64", f"--outdir={tmp_path}")
    assert result.exit_code == 0, result.output
    data = read(tmp_path)
    assert data["generator"] == "inr-gan-bil" and data["convention"] == "full"
    assert list(data["generators"]) == ["inr-gan-bil", "stylegan2"]
    table = data["generators"]["inr-gan-bil"]
    assert data["total"] == table["total"]
    assert data["total"]["macs"] == sum(layer["full"] for layer in table["layers"])
    assert data["total"]["params"] == sum(layer["params"] for layer in table["layers"])
    assert sum(layer["split"] for layer in table["layers"]) < data["total"]["macs"]
    assert f"{data['total']['params']:,}" in result.output


def test_the_papers_table(tmp_path: Path) -> None:
    result = run("--convention=paper", f"--outdir={tmp_path}")
    assert result.exit_code == 0, result.output
    data = read(tmp_path)
    published = {name: table["published_gmacs"] for name, table in data["generators"].items()}
    assert len(published) == 6
    for name, gmacs in published.items():
        macs = data["generators"][name]["total"]["macs"]
        assert macs / 1e9 == pytest.approx(gmacs, rel=0.01)
    assert "not a sum over this project's modules" in result.output


def test_several_generators_in_either_spelling(tmp_path: Path) -> None:
    options = ("--resolution=32", "--cmax=16", f"--outdir={tmp_path}")
    result = run("--generator=stylegan2,inr-gan", "--generator=inr-fmm", *options)
    assert result.exit_code == 0, result.output
    assert list(read(tmp_path)["generators"]) == ["stylegan2", "inr-gan", "inr-fmm"]


def test_the_three_conventions_are_those_of_one_module() -> None:
    sizes = cost.Architecture(64)
    full, split, paper = (cost.count("inr-gan", sizes, name) for name in ("full", "split", "paper"))
    assert split.macs < full.macs and full.params == split.params == paper.params
    assert split.macs == sum(layer["split"] for layer in full.layers)
    assert "rule applied to the module" in paper.note


def test_widths_and_depth_can_be_chosen() -> None:
    wide = cost.count("inr-gan", cost.Architecture(64), "full")
    small = cost.count("inr-gan", cost.Architecture(64, 8192, 32, 1, 64), "full")
    assert small.params < wide.params / 50
    assert sum(layer["layer"].startswith("mapping.") for layer in small.layers) == 1


def test_a_size_that_only_the_baseline_cannot_draw() -> None:
    result = run("--resolution=100")
    assert result.exit_code == 0, result.output
    assert "Warning: stylegan2 does not draw 100x100 pixels." in result.output


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--generator=inr", "'inr' is not one of inr-gan-bil, "),
        ("--resolution=0", "0 is not in the range"),
        ("--convention=real", "'real' is not one of"),
    ],
)
def test_bad_options(option: str, sentence: str, tmp_path: Path) -> None:
    result = run(option, f"--outdir={tmp_path / 'out'}")
    assert result.exit_code == 2
    assert sentence in result.output and result.output.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_size_that_the_generator_cannot_draw(tmp_path: Path) -> None:
    result = run("--generator=stylegan2", "--resolution=100", f"--outdir={tmp_path / 'out'}")
    assert result.exit_code == 2
    assert "--generator=stylegan2 with --resolution=100: img_resolution must be a power of two" in (
        result.output
    )
    assert not (tmp_path / "out").exists()
