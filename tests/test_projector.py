"""projector.py on small networks: files, film, picture formats, and what it refuses."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

import generate
import projector
from analysis import video
from analysis.targets import read_picture
from metrics import detectors
from networks.snapshot_file import read_generator, write_snapshot
from projector import fit_picture, project, run_projection
from tests.metrics import tiny_detectors
from tests.small_networks import make_generator, snapshot


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nets")


@pytest.fixture(scope="module")
def vgg16(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_detectors.make(tmp_path_factory.mktemp("detectors"))["vgg16"]


def draw_target(network: Path, folder: Path, *options: str) -> Path:
    """A picture that the network draws itself."""
    arguments = [f"--network={network}", f"--outdir={folder}", "--seeds=5", "--device=cpu"]
    result = CliRunner().invoke(generate.main, [*arguments, *options])
    assert result.exit_code == 0, result.output
    return folder / "seed0005.png"


def run(network: Path, target: Path, outdir: Path, vgg16: str, *options: str) -> Result:
    arguments = [f"--network={network}", f"--target={target}", f"--outdir={outdir}"]
    detector = [f"--detector=vgg16={vgg16}", "--device=cpu"]
    return CliRunner().invoke(run_projection, [*arguments, *detector, *options])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_all_files(nets: Path, tmp_path: Path, vgg16: str) -> None:
    network = snapshot(nets)
    target = draw_target(network, tmp_path / "target")
    out = tmp_path / "out"
    result = run(network, target, out, vgg16, "--num-steps=40")
    assert result.exit_code == 0, result.output
    assert names(out) == ["proj.mp4", "proj.png", "projected_w.npz", "target.png"]
    assert np.array_equal(read(out / "target.png"), read(target))

    with np.load(out / "projected_w.npz") as archive:
        assert archive.files == ["w"]
        w = archive["w"]
    G = make_generator()
    assert (w.shape, w.dtype) == ((1, G.num_ws, 8), np.float32)
    again = CliRunner().invoke(
        generate.main,
        [f"--network={network}", f"--projected-w={out / 'projected_w.npz'}", f"--outdir={out}"],
    )
    assert again.exit_code == 0, again.output
    found = read(out / "proj.png")
    assert np.array_equal(read(out / "proj00.png"), found)

    # The picture found resembles the target more than the one where the search starts.
    error = np.square(found.astype(float) - read(target)).mean()
    psnr = 10 * np.log10(255**2 / error)
    assert f"PSNR {psnr:.2f} dB" in result.output
    assert "distance" in result.output
    assert "Projecting: 40/40 (100%)" in result.stderr
    with imageio.get_reader(out / "proj.mp4") as film:
        frames = [np.asarray(frame) for frame in film]
        assert film.get_meta_data()["fps"] == 10
        assert film.get_meta_data()["codec"] == "h264"
    assert len(frames) == 40
    assert frames[0].shape == (16, 32, 3)
    start = np.square(frames[0][:, 16:].astype(float) - frames[0][:, :16]).mean()
    assert error < 0.5 * start
    # Half of the colour resolution and the encoder's quantisation are lost.
    assert np.abs(frames[-1][:, :16].mean((0, 1)) - read(target).mean((0, 1))).max() < 6
    assert np.abs(frames[-1][:, 16:].mean((0, 1)) - found.mean((0, 1))).max() < 6


@pytest.mark.parametrize("preset", ["inr-gan", "stylegan2"])
def test_a_seed_repeats(nets: Path, tmp_path: Path, vgg16: str, preset: str) -> None:
    network = snapshot(nets, preset)
    target = draw_target(network, tmp_path / "target")
    options = ["--num-steps=3", "--save-video=false"]
    for folder, seed in (("a", 303), ("b", 303), ("c", 304)):
        result = run(network, target, tmp_path / folder, vgg16, *options, f"--seed={seed}")
        assert result.exit_code == 0, result.output
        assert names(tmp_path / folder) == ["proj.png", "projected_w.npz", "target.png"]
    a, b, c = ((tmp_path / folder / "projected_w.npz").read_bytes() for folder in "abc")
    assert a == b != c


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_channels(nets: Path, tmp_path: Path, vgg16: str, channels: int, mode: str) -> None:
    network = snapshot(nets, img_channels=channels)
    target = draw_target(network, tmp_path / "target")
    result = run(network, target, tmp_path / "out", vgg16, "--num-steps=2")
    assert result.exit_code == 0, result.output
    for name in ("target.png", "proj.png"):
        picture = Image.open(tmp_path / "out" / name)
        assert (picture.mode, picture.size) == (mode, (16, 16))
    assert imageio.mimread(tmp_path / "out" / "proj.mp4")[0].shape == (16, 32, 3)


def test_network_and_film_of_odd_sides(nets: Path, tmp_path: Path, vgg16: str) -> None:
    network = snapshot(nets, img_resolution=15, img_shape=(3, 15, 11))
    Image.new("RGB", (40, 30), (200, 100, 0)).save(tmp_path / "target.png")
    result = run(network, tmp_path / "target.png", tmp_path / "out", vgg16, "--num-steps=2")
    assert result.exit_code == 0, result.output
    assert read(tmp_path / "out" / "target.png").shape == (15, 11, 3)
    assert read(tmp_path / "out" / "proj.png").shape == (15, 11, 3)
    assert imageio.mimread(tmp_path / "out" / "proj.mp4")[0].shape == (16, 22, 3)


@pytest.mark.parametrize("space", ["w", "z"])
def test_class(nets: Path, tmp_path: Path, vgg16: str, space: str) -> None:
    network = snapshot(nets, c_dim=3)
    target = draw_target(network, tmp_path / "target", "--class=2")
    options = ["--num-steps=2", "--save-video=0", f"--space={space}"]
    for label in (1, 2):
        result = run(network, target, tmp_path / str(label), vgg16, *options, f"--class={label}")
        assert result.exit_code == 0, result.output
    first, second = (read(tmp_path / str(label) / "proj.png") for label in (1, 2))
    assert not np.array_equal(first, second)


def test_safetensors_and_the_spelling_with_underscores(
    nets: Path, tmp_path: Path, vgg16: str
) -> None:
    network = tmp_path / "net.safetensors"
    G = read_generator(str(snapshot(nets)))
    write_snapshot(str(network), {"G_ema": G})
    target = draw_target(network, tmp_path / "target")
    options = ["--num_steps=1", "--save_video=no"]
    result = run(network, target, tmp_path / "out", vgg16, *options)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("missing", ["imageio.v2", "imageio_ffmpeg"])
def test_without_encoder_some_steps_become_pictures(
    nets: Path, tmp_path: Path, vgg16: str, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    real_import = importlib.import_module

    def without(name: str, *arguments: object) -> object:
        if name == missing:
            raise ImportError(name)
        return real_import(name, *arguments)

    monkeypatch.setattr(importlib, "import_module", without)
    monkeypatch.setattr(projector, "MAX_FRAME_FILES", 3)
    network = snapshot(nets)
    target = draw_target(network, tmp_path / "target")
    result = run(network, target, tmp_path / "out", vgg16, "--num-steps=7")
    assert result.exit_code == 0, result.output
    assert names(tmp_path / "out")[:2] == ["proj-frames", "proj.png"]
    frames = tmp_path / "out" / "proj-frames"
    assert names(frames) == ["step0000.png", "step0003.png", "step0006.png"]
    last = read(frames / "step0006.png")
    assert np.array_equal(last, np.hstack([read(target), read(tmp_path / "out" / "proj.png")]))
    warning = result.stderr.strip().splitlines()[-1]
    assert "pip install imageio-ffmpeg" in warning and "3 of 7 steps" in warning


def test_encoder_that_fails_costs_the_film_only(
    nets: Path, tmp_path: Path, vgg16: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object, **_options: object) -> None:
        raise OSError("the encoder died")

    monkeypatch.setattr(imageio, "get_writer", broken)
    network = snapshot(nets)
    target = draw_target(network, tmp_path / "target")
    result = run(network, target, tmp_path / "out", vgg16, "--num-steps=2")
    assert result.exit_code == 0, result.output
    assert "the encoder died" in result.stderr
    assert names(tmp_path / "out" / "proj-frames") == ["step0000.png", "step0001.png"]
    assert not [name for name in names(tmp_path / "out") if name.endswith(".mp4")]


def test_film_of_odd_frames(tmp_path: Path) -> None:
    frames = [np.full([7, 9, 3], level, np.uint8) for level in (0, 100, 200)]
    video.write_video(tmp_path / "film.mp4", frames)
    shown = imageio.mimread(tmp_path / "film.mp4")
    assert [frame.shape for frame in shown] == [(8, 10, 3)] * 3
    assert np.abs([frame.mean() - level for frame, level in zip(shown, (0, 100, 200))]).max() < 4
    padded = video.even_sides(np.arange(15, dtype=np.uint8).reshape(5, 3, 1))
    assert padded.shape == (6, 4, 1)
    assert padded[5].tolist() == padded[4].tolist() == [[12], [13], [14], [14]]


@pytest.mark.parametrize(
    ("mode", "size", "colour", "expected"),
    [
        ("RGB", (32, 16), (10, 20, 30), [10, 20, 30]),
        ("L", (16, 40), 77, [77, 77, 77]),
        ("RGBA", (16, 16), (10, 20, 30, 0), [255, 255, 255]),
        ("LA", (20, 16), (50, 255), [50, 50, 50]),
        ("1", (16, 16), 1, [255, 255, 255]),
        ("CMYK", (16, 16), (0, 0, 0, 255), [0, 0, 0]),
    ],
)
def test_picture_formats(
    tmp_path: Path, mode: str, size: tuple[int, int], colour: object, expected: list[int]
) -> None:
    path = tmp_path / "picture.tif"
    Image.new(mode, size, colour).save(path)
    target = fit_picture(read_picture(str(path)), (3, 16, 16))
    assert (target.shape, target.dtype) == ((3, 16, 16), torch.uint8)
    assert target.permute(1, 2, 0).reshape(-1, 3).unique(dim=0).tolist() == [expected]


def test_the_middle_is_cut_out_and_resized_with_lanczos() -> None:
    picture = np.random.RandomState(0).randint(0, 256, [30, 50, 3], dtype=np.uint8)
    target = fit_picture(picture, (3, 16, 16)).permute(1, 2, 0).numpy()
    middle = Image.fromarray(picture[:, 10:40]).resize((16, 16), Image.Resampling.LANCZOS)
    assert np.array_equal(target, np.asarray(middle))
    wide = fit_picture(picture, (1, 8, 32))
    crop = Image.fromarray(picture[9:21]).convert("L")
    assert np.array_equal(
        wide[0].numpy(), np.asarray(crop.resize((32, 8), Image.Resampling.LANCZOS))
    )
    assert fit_picture(picture[:, :, :1], (4, 8, 8))[3].unique().tolist() == [255]


@pytest.mark.parametrize(
    ("c_dim", "options", "message"),
    [
        (0, ["--num-steps=0"], "--num-steps"),
        (0, ["--num-steps=-5"], "--num-steps"),
        (0, ["--seed=-1"], "--seed"),
        (0, ["--space=w+"], "w+"),
        (0, ["--save-video=maybe"], "--save-video"),
        (0, ["--target=missing.png"], "--target=missing.png"),
        (0, ["--target=."], "--target=."),
        (0, ["--detector=vgg16=missing.pt"], "missing.pt"),
        (0, ["--detector=vgg19=missing.pt"], "vgg16"),
        (0, ["--network=missing.pkl"], "--network=missing.pkl"),
        (3, [], "--class=0 to --class=2"),
        (3, ["--class=3"], "--class=3 does not exist"),
        (3, ["--class=-1"], "--class=-1 does not exist"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    nets: Path, tmp_path: Path, vgg16: str, c_dim: int, options: list[str], message: str
) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "target.png")
    network = snapshot(nets, c_dim=c_dim)
    result = run(network, tmp_path / "target.png", tmp_path / "out", vgg16, *options)
    assert result.exit_code == 2, result.output
    errors = result.stderr.strip().splitlines()
    assert len(errors) == 1 and errors[0].startswith("Error: ")
    assert message in errors[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["empty", "text", "truncated"])
def test_target_that_is_no_picture(nets: Path, tmp_path: Path, vgg16: str, content: str) -> None:
    target = tmp_path / "target.png"
    noise = np.random.RandomState(0).randint(0, 256, [64, 64, 3], dtype=np.uint8)
    Image.fromarray(noise).save(target)
    size = {"empty": 0, "text": 0, "truncated": target.stat().st_size // 2}[content]
    target.write_bytes(b"text" if content == "text" else target.read_bytes()[:size])
    result = run(snapshot(nets), target, tmp_path / "out", vgg16)
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert f"--target={target}" in result.stderr and "give another picture" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_result_that_cannot_be_written(nets: Path, tmp_path: Path, vgg16: str) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "target.png")
    (tmp_path / "out" / "projected_w.npz").mkdir(parents=True)
    result = run(snapshot(nets), tmp_path / "target.png", tmp_path / "out", vgg16, "--num-steps=1")
    assert result.exit_code == 2 and "projected_w.npz': Is a directory" in result.stderr


def test_detector_that_is_not_to_be_had(
    nets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(detectors.DETECTOR_URLS, "vgg16", "http://127.0.0.1:1/vgg16.pt")
    monkeypatch.delenv("GAN_DETECTOR_DIR", raising=False)
    Image.new("RGB", (16, 16)).save(tmp_path / "target.png")
    arguments = [f"--network={snapshot(nets)}", f"--target={tmp_path / 'target.png'}"]
    result = CliRunner().invoke(run_projection, [*arguments, f"--outdir={tmp_path / 'out'}"])
    assert result.exit_code == 2, result.output
    assert "--detector" in result.stderr and "GAN_DETECTOR_DIR" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_class_of_an_unconditional_network_is_ignored_with_a_warning(
    nets: Path, tmp_path: Path, vgg16: str
) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "target.png")
    options = ["--class=1", "--num-steps=1", "--save-video=false"]
    result = run(snapshot(nets), tmp_path / "target.png", tmp_path / "out", vgg16, *options)
    assert result.exit_code == 0, result.output
    assert "Warning: --class is not used" in result.stderr


def test_outdir_that_cannot_be_made(nets: Path, tmp_path: Path, vgg16: str) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "target.png")
    result = run(snapshot(nets), tmp_path / "target.png", tmp_path / "target.png" / "out", vgg16)
    assert result.exit_code == 2
    assert "--outdir" in result.stderr


def test_names_that_scripts_import() -> None:
    from analysis import projection

    assert project is projection.project
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        projector.other  # noqa: B018
    code = "import sys, projector; sys.exit('torch' in sys.modules)"
    root = Path(projector.__file__).parent
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0


def test_snapshot_with_nothing_but_a_generator(nets: Path, tmp_path: Path, vgg16: str) -> None:
    network = tmp_path / "net.pkl"
    network.write_bytes(pickle.dumps({"G_ema": make_generator()}))
    Image.new("RGB", (16, 16)).save(tmp_path / "target.png")
    options = ["--num-steps=1", "--save-video=false"]
    result = run(network, tmp_path / "target.png", tmp_path / "out", vgg16, *options)
    assert result.exit_code == 0, result.output
