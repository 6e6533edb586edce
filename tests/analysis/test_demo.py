"""The demo around its commands: what it asks for, what it reports, and its exit code.

The commands themselves are replaced by copies of real digits; `make demo` runs them.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import dnnlib
from analysis import demo, digits

pytest.importorskip("sklearn")


class FakeCommands:
    """Does what the demo's commands would do, with real digits in place of generated ones."""

    def __init__(self, root: Path, varied: bool) -> None:
        self.root = root
        self.varied = varied
        self.commands: list[tuple[str, dict[str, str]]] = []
        images, labels = digits.load_digits()
        self.pools = [images[labels == label] for label in range(10)]

    def __call__(self, script: str, *options: str) -> None:
        parsed = dict(option.removeprefix("--").partition("=")[::2] for option in options)
        self.commands.append((script, parsed))
        if script == "train.py":
            run_dir = self.root / parsed["outdir"] / "00000-digits32-cond-tiny"
            run_dir.mkdir(parents=True)
            for name in ("network-snapshot-000000.pkl", "network-snapshot-000040.pkl", "log.txt"):
                (run_dir / name).touch()
        elif script == "generate.py":
            self.generate(parsed)

    def generate(self, options: dict[str, str]) -> None:
        outdir = self.root / options["outdir"]
        outdir.mkdir(parents=True)
        side = int(options.get("size", "32"))
        for seed in dnnlib.cli.SEEDS.convert(options["seeds"], None, None):
            for label in dnnlib.cli.SEEDS.convert(options["class"], None, None):
                pool = self.pools[label]
                picture = Image.fromarray(pool[seed % len(pool) if self.varied else 0])
                name = f"seed{seed:04d}-class{label:02d}.png"
                picture.resize((side, side)).save(outdir / name)


def run_demo(
    monkeypatch: pytest.MonkeyPatch, root: Path, varied: bool
) -> tuple[FakeCommands, object]:
    fake = FakeCommands(root, varied)
    monkeypatch.setattr(demo, "_ROOT", root)
    monkeypatch.setattr(demo, "_run", fake)
    return fake, CliRunner().invoke(demo.main, [])


def test_demo_reports_success(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    leftover = tmp_path / "demo-out" / "runs" / "00000-old" / "network-snapshot-000099.pkl"
    leftover.parent.mkdir(parents=True)
    leftover.touch()
    fake, result = run_demo(monkeypatch, tmp_path, varied=True)
    assert result.exit_code == 0, result.output
    assert not leftover.exists()
    report = json.loads((tmp_path / "demo-out" / "report.json").read_text())
    assert report["samples"] == 1000
    assert report["recognised"] > 0.95
    assert report["diversity_min"] > 0.8
    newest = "demo-out/runs/00000-digits32-cond-tiny/network-snapshot-000040.pkl"
    assert f"Snapshot   {newest}" in result.output
    assert "NOT MET" not in result.output
    for name in ("demo.png", "samples.png", "superres.png", "zoom-out.png"):
        assert np.asarray(Image.open(tmp_path / "demo-out" / name)).std() > 0
    scripts = [script for script, _options in fake.commands]
    assert scripts[:2] == ["dataset_tool.py", "train.py"]
    training = fake.commands[1][1]
    assert training["cfg"] == "tiny"
    assert training["kimg"] == str(demo.TRAIN_KIMG)
    assert "generator" not in training  # the default preset is what is shown


def test_demo_fails_if_samples_of_a_class_are_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _fake, result = run_demo(monkeypatch, tmp_path, varied=False)
    assert result.exit_code == 1
    assert "target 0.6: NOT MET" in result.output
    report = json.loads((tmp_path / "demo-out" / "report.json").read_text())
    assert report["diversity_min"] == 0


def test_failing_command_ends_the_demo(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fails.py").write_text("raise SystemExit(3)\n")
    monkeypatch.setattr(demo, "_ROOT", tmp_path)
    with pytest.raises(dnnlib.UserError, match="exit code 3"):
        demo._run("fails.py", "--name=a b")
    assert "$ python fails.py '--name=a b'" in capsys.readouterr().out
