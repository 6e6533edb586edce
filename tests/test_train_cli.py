"""train.py from outside: printout, run directories, and what happens with bad input."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import train

ROOT = Path(__file__).resolve().parents[1]


def png(shape: tuple[int, ...], seed: int) -> bytes:
    pixels = np.random.RandomState(seed).randint(0, 256, shape, dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


def make_zip(
    path: Path, num: int = 12, shape: tuple[int, ...] = (16, 16, 3), labels: bool = False
) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(num):
            archive.writestr(f"{i:03d}.png", png(shape, i))
        if labels:
            entries = [[f"{i:03d}.png", i % 3] for i in range(num)]
            archive.writestr("dataset.json", json.dumps({"labels": entries}))
    return path


def run(*arguments: object):
    return CliRunner().invoke(train.main, [str(a) for a in arguments])


def listing(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(p), p.stat().st_size) for p in folder.rglob("*"))


def refused(tmp_path: Path, *arguments: object) -> str:
    """The error message of a command that must fail without leaving a trace."""
    before = listing(tmp_path)
    result = run(f"--outdir={tmp_path / 'runs'}", *arguments)
    assert result.exit_code == 2, result.output
    assert listing(tmp_path) == before
    message = result.stderr.strip()
    assert message.startswith("Error: ") and "\n" not in message, message
    assert "Traceback" not in result.output
    return message


def test_dry_run_prints_the_configuration_and_writes_nothing(tmp_path):
    data = make_zip(tmp_path / "ds.zip", num=24, labels=True)
    before = listing(tmp_path)
    result = run(
        f"--outdir={tmp_path / 'runs'}", f"--data={data}", "--cond=1", "--subset=20",
        "--mirror=1", "--gamma=5", "--kimg=1", "--batch=8", "--aug=ada", "--target=0.7",
        "--augpipe=bg", "--resume=ffhq256", "--freezed=2", "-n",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert listing(tmp_path) == before
    run_dir = (
        f"{tmp_path}/runs/00000-ds-cond-subset20-mirror-auto1-gamma5-kimg1-batch8-ada"
        "-target0.7-bg-resumeffhq256-freezed2"
    )
    start, rest = result.stdout.split("{", 1)
    assert start == "\nTraining options:\n"
    options, length = json.JSONDecoder().raw_decode("{" + rest)
    assert ("{" + rest)[:length] == json.dumps(options, indent=2)
    assert options["run_dir"] == run_dir
    assert ("{" + rest)[length:].startswith(
        f"\n\nOutput directory:   {run_dir}\n"
        f"Training data:      {data}\n"
        "Training duration:  1 kimg\n"
        "Number of GPUs:     1\n"
        "Number of images:   20\n"
        "Image resolution:   16\n"
        "Conditional model:  True\n"
        "Dataset x-flips:    True\n\n"
    )
    assert "given: --gamma" in result.stdout
    assert result.stdout.endswith("\n\nDry run; exiting.\n")


def test_run_directories_are_numbered(tmp_path):
    assert train.next_run_dir(str(tmp_path / "new"), "x") == str(tmp_path / "new" / "00000-x")
    for name in ("00003-a", "7-b", "notes", "00012"):
        (tmp_path / name).mkdir()
    (tmp_path / "00099-file").write_text("")
    assert train.next_run_dir(str(tmp_path), "x-y") == str(tmp_path / "00013-x-y")


def test_both_spellings_of_options(tmp_path):
    data = make_zip(tmp_path / "ds.zip")
    arguments = [f"--outdir={tmp_path}", f"--data={data}", "--dry-run"]
    plain = run(*arguments, "--map-depth=3", "--allow-tf32=1", "--z-dim=32")
    assert plain.exit_code == 0 and '"allow_tf32": true' in plain.stdout
    assert run(*arguments, "--map_depth=3", "--allow_tf32=1", "--z_dim=32").stdout == plain.stdout


def test_help_is_quick_and_needs_no_torch():
    code = (
        "import sys, train\n"
        "try: train.main(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for option in ("--outdir", "--generator", "--batch-gpu", "--style-mixing-prob", "--desc"):
        assert option in done.stdout


def test_missing_dataset(tmp_path):
    assert "nothing.zip" in refused(tmp_path, f"--data={tmp_path / 'nothing.zip'}")
    assert "nothing" in refused(tmp_path, f"--data={tmp_path / 'nothing'}")


def test_empty_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "empty" in refused(tmp_path, f"--data={tmp_path / 'empty'}")


def test_pictures_that_are_not_square(tmp_path):
    data = make_zip(tmp_path / "wide.zip", shape=(16, 32, 3))
    message = refused(tmp_path, f"--data={data}", "--generator=stylegan2")
    assert "32x16" in message and "--transform=center-crop" in message
    result = run(f"--outdir={tmp_path / 'runs'}", f"--data={data}", "-n")
    assert result.exit_code == 0, result.output
    assert "Image resolution:   32x16 (width x height)\n" in result.stdout
    data = make_zip(tmp_path / "odd.zip", shape=(22, 34, 3))
    message = refused(tmp_path, f"--data={data}")
    assert "34x22" in message and "--transform=pad --width=36 --height=24" in message


def test_labels_that_are_text(tmp_path):
    data = make_zip(tmp_path / "ds.zip", num=2)
    with zipfile.ZipFile(data, "a") as archive:
        labels = [["000.png", "cat"], ["001.png", "dog"]]
        archive.writestr("dataset.json", json.dumps({"labels": labels}))
    assert run(f"--outdir={tmp_path}", f"--data={data}", "-n").exit_code == 0
    message = refused(tmp_path, f"--data={data}", "--cond=1", "-n")
    assert '"cat" of "000.png"' in message and "is text; number the classes" in message


def test_mixed_pictures(tmp_path):
    data = make_zip(tmp_path / "mixed.zip")
    with zipfile.ZipFile(data, "a") as archive:
        archive.writestr("grey.png", png((16, 16), 0))
    assert "grey.png" in refused(tmp_path, f"--data={data}")


def test_no_labels(tmp_path):
    message = refused(tmp_path, f"--data={make_zip(tmp_path / 'ds.zip')}", "--cond=1")
    assert "ds.zip" in message and "dataset.json" in message


def test_corrupt_zip(tmp_path):
    data = make_zip(tmp_path / "ds.zip")
    (tmp_path / "cut.zip").write_bytes(data.read_bytes()[:-100])
    assert "cut.zip" in refused(tmp_path, f"--data={tmp_path / 'cut.zip'}")
    (tmp_path / "text.zip").write_text("not an archive")
    assert "text.zip" in refused(tmp_path, f"--data={tmp_path / 'text.zip'}")


def test_empty_outdir_is_not_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = make_zip(tmp_path / "ds.zip")
    before = listing(tmp_path)
    result = run("--outdir=", f"--data={data}")
    assert result.exit_code == 2
    assert result.stderr.strip().startswith("Error: --outdir= names no folder")
    assert listing(tmp_path) == before


def test_outdir_that_cannot_be_written(tmp_path):
    data = make_zip(tmp_path / "ds.zip")
    (tmp_path / "file").write_text("in the way")
    before = listing(tmp_path)
    for outdir in ("file", "file/below/it", "x" * 300):
        errors = set()
        for dry in ([], ["--dry-run"]):
            result = run(f"--outdir={tmp_path / outdir}", f"--data={data}", "--kimg=1", *dry)
            assert result.exit_code == 2 and listing(tmp_path) == before
            errors.add(result.stderr)
        (error,) = errors
        assert error.startswith("Error: --outdir") and error.count("\n") == 1


def test_outdir_without_permission(tmp_path, monkeypatch):
    data = make_zip(tmp_path / "ds.zip")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    message = refused(tmp_path, f"--data={data}", "--dry-run")
    assert message.startswith("Error: --outdir") and "Permission denied" in message


def test_names_that_are_too_long(tmp_path):
    data = make_zip(tmp_path / "ds.zip")
    room = 255 - len("00000-ds-auto1-")
    fits = run(f"--outdir={tmp_path}", f"--data={data}", f"--desc={'x' * room}", "-n")
    assert fits.exit_code == 0, fits.output
    message = refused(tmp_path, f"--data={data}", f"--desc={'x' * (room + 2)}", "-n")
    assert message.startswith("Error: --desc=xxxx") and "shorten it by 2." in message
    data = make_zip(tmp_path / ("d" * 251 + ".zip"))
    assert refused(tmp_path, f"--data={data}").startswith("Error: --data: its name")


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("--cfg=huge", "tiny"),
        ("--generator=dcgan", "inr-gan-bil"),
        ("--aug=some", "noaug"),
        ("--augpipe=xyz", "bgcfnc"),
        ("--device=tpu", "cuda"),
        ("--gpus=0", "--gpus"),
        ("--gpus=two", "two"),
        ("--p=1.5", "1.5"),
        ("--gamma=-1", "--gamma"),
        ("--gamma=nan", "--gamma"),
        ("--glr=inf", "--glr"),
        ("--aug=fixed --p=nan", "nan"),
        ("--tick=inf", "--tick"),
        ("--mirror=maybe", "maybe"),
        ("--snap=0", "--snap"),
        ("--metrics=fid50", "pr50k3_full"),
        ("--detector=vgg16=missing.pt", "missing.pt"),
        ("--detector=vgg=x", "vgg16"),
        ("--frobnicate=1", "--frobnicate"),
        ("--batch=7 --gpus=2", "--batch=8"),
        ("--batch=32 --batch-gpu=5", "--batch-gpu=5"),
        ("--batch=6", "--mbstd-group=3"),
        ("--subset=13", "12"),
        ("--seed=-1", "--seed"),
        ("--resume=missing.pkl", "missing.pkl"),
    ],
)
def test_unknown_or_unfitting_values(tmp_path, option, hint):
    data = make_zip(tmp_path / "ds.zip")
    assert hint in refused(tmp_path, f"--data={data}", "--device=cpu", *option.split())


def test_required_options():
    assert "--data" in run("--outdir=x").stderr and run("--outdir=x").exit_code == 2
    assert "--outdir" in run("--data=x").stderr and run("--data=x").exit_code == 2


def test_resume_file_that_is_no_snapshot(tmp_path):
    data = make_zip(tmp_path / "ds.zip")
    (tmp_path / "bad.pkl").write_bytes(b"no pickle at all")
    message = refused(tmp_path, f"--data={data}", f"--resume={tmp_path / 'bad.pkl'}")
    assert "bad.pkl" in message


def test_missing_gpu_is_reported(tmp_path):
    import torch

    data = make_zip(tmp_path / "ds.zip")
    count = torch.cuda.device_count()
    message = refused(tmp_path, f"--data={data}", "--device=cuda", f"--gpus={count + 1}")
    assert "cuda" in message or "GPUs" in message
