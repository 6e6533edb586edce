"""`explore.py upsampled-fid`: enlarged images against real ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image

import dnnlib
from analysis import plots, upsampled_fid
from metrics import draws
from metrics.detectors import load_detector
from metrics.frechet_inception_distance import frechet_distance
from metrics.pictures import to_rgb
from tests.analysis.tiny_networks import assert_refused, explore_run, make, names
from tests.metrics import tiny_detectors
from torch_utils.images import to_uint8

INCEPTION = "inception-2015-12-05"


@pytest.fixture(autouse=True)
def cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty cache, the tiny detectors, no network."""
    tiny_detectors.make(tmp_path / "detectors")
    monkeypatch.setenv("GAN_DETECTOR_DIR", str(tmp_path / "detectors"))
    dnnlib.util.set_cache_dir(str(tmp_path / "cache"))
    yield
    dnnlib.util.set_cache_dir(None)


def pictures(folder: Path, side: int, channels: int = 3, labels: int = 0) -> np.ndarray:
    """Write 40 pictures to `folder / "real"`; returns them, uint8 [40, side, side, C]."""
    random = np.random.RandomState(1)
    coarse = random.randint(0, 256, [40, 4, 4, channels], np.uint8)
    large = coarse.repeat(side // 4, 1).repeat(side // 4, 2)
    (folder / "real").mkdir()
    for index, pixels in enumerate(large):
        squeezed = pixels[:, :, 0] if channels == 1 else pixels
        Image.fromarray(squeezed).save(folder / "real" / f"{index:03d}.png")
    if labels:
        listed = [[f"{index:03d}.png", index % labels] for index in range(40)]
        (folder / "real" / "dataset.json").write_text(json.dumps({"labels": listed}))
    return large


def run(folder: Path, preset: str, *options: str, **kwargs: int) -> Result:
    common = [f"--data={folder / 'real'}", "--num-fake=24"]
    return explore_run("upsampled-fid", folder, preset, *common, *options, **kwargs)


@pytest.mark.parametrize("method", ["nearest", "bilinear", "bicubic"])
def test_interpolation_is_that_of_pillow(method: str) -> None:
    # Contrasts that do not overshoot: Pillow cuts off between its two passes.
    pixels = np.random.RandomState(0).randint(90, 170, [8, 10, 3], np.uint8)
    how = getattr(Image.Resampling, method.upper())
    expected = np.asarray(Image.fromarray(pixels).resize((20, 24), how)).astype(int)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1
    found = to_uint8(upsampled_fid.interpolate(image, (24, 20), method))[0].permute(1, 2, 0)
    assert np.abs(found.numpy() - expected).max() <= 1


def test_interpolation_cuts_off_first() -> None:
    image = torch.tensor([[[[-9.0, 9.0]]]])
    found = upsampled_fid.interpolate(image, (1, 4), "bilinear")
    assert torch.allclose(found, torch.tensor([[[[-1.0, -0.5, 0.5, 1.0]]]]))


def test_the_numbers_are_those_of_a_literal_computation(tmp_path: Path) -> None:
    real = pictures(tmp_path, 32)
    result = run(tmp_path, "inr-gan-bil", "--seed=7", "--trunc=0.8")
    assert result.exit_code == 0, result.output
    assert names(tmp_path) == ["upsampled-fid.json", "upsampled-fid.png"]
    report = json.loads((tmp_path / "out" / "upsampled-fid.json").read_text())
    assert report["scale"] == 2 and report["size"] == [32, 32]
    assert list(report["fid"]) == list(upsampled_fid.METHODS)

    detector = load_detector(INCEPTION, "cpu")

    def moments(images: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        features = detector(images, return_features=True).double().numpy()
        return features.mean(0), np.cov(features, rowvar=False, bias=True)

    G = make("inr-gan-bil")
    z = draws.normal(7, draws.LATENT, range(24), 8)
    ws = G.mapping(z, None, truncation_psi=0.8)
    small = [Image.fromarray(p.permute(1, 2, 0).numpy()) for p in to_uint8(G.synthesis(ws))]
    fakes = {"inr": to_uint8(G.synthesis.render(ws, size=32))}
    for method in ("nearest", "bilinear", "bicubic"):
        how = getattr(Image.Resampling, method.upper())
        enlarged = np.stack([np.asarray(picture.resize((32, 32), how)) for picture in small])
        fakes[method] = torch.from_numpy(enlarged).permute(0, 3, 1, 2)
    real_moments = moments(torch.from_numpy(real).permute(0, 3, 1, 2))
    for method, images in fakes.items():
        expected = frechet_distance(*real_moments, *moments(images))
        # Pillow rounds the small picture first.
        assert report["fid"][method] == pytest.approx(expected, rel=1e-2), method
    best = min(value for method, value in report["fid"].items() if method != "inr")
    assert report["gain_of_inr"] == pytest.approx(1 - report["fid"]["inr"] / best)
    assert report["provenance"]["num_real"] == 40 and report["provenance"]["num_fake"] == 24


def test_images_that_repeat_pixels_are_enlarged_without_loss(tmp_path: Path) -> None:
    """Real images that are the network's own, every pixel doubled: FID 0 for nearest only."""
    G = make("inr-gan")
    z = draws.normal(0, draws.LATENT, range(24), 8)
    (tmp_path / "real").mkdir()
    for index, image in enumerate(to_uint8(G(z, None))):
        doubled = image.permute(1, 2, 0).numpy().repeat(2, 0).repeat(2, 1)
        Image.fromarray(doubled).save(tmp_path / "real" / f"{index:03d}.png")
    result = run(tmp_path, "inr-gan", "--methods=nearest,bilinear", "--batch=24")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "upsampled-fid.json").read_text())
    assert abs(report["fid"]["nearest"]) < 1e-6 < report["fid"]["bilinear"]
    assert report["gain_of_inr"] is None


def test_grey_conditional_and_not_continuous(tmp_path: Path) -> None:
    pictures(tmp_path, 48, channels=1, labels=3)
    options = ("--methods=bicubic", "--num-real=10")
    result = run(tmp_path, "stylegan2", *options, c_dim=3, img_channels=1)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "upsampled-fid.json").read_text())
    assert report["scale"] == 3 and report["provenance"]["num_real"] == 10


def test_transparent_images(tmp_path: Path) -> None:
    real = pictures(tmp_path, 32, channels=4)
    assert to_rgb(torch.from_numpy(real).permute(0, 3, 1, 2)).shape[1] == 3
    result = run(tmp_path, "inr-gan", "--methods=inr", img_channels=4)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("side", "channels", "options", "sentence"),
    [
        (16, 3, (), "the images are 16x16, the network's 16x16; real images of the larger size"),
        (32, 1, (), "the images are 32x32 with 1 channels, but the network makes 3"),
        (32, 3, ("--methods=none",), "--methods names nothing"),
        (32, 3, ("--methods=lanczos",), "'lanczos' is not one of nearest"),
        (32, 3, ("--num-fake=0",), "0 is not in the range"),
        (32, 3, ("--detector=inception-2015-12-05=no.pt",), "there is no file 'no.pt'"),
    ],
)
def test_refused(
    side: int, channels: int, options: tuple[str, ...], sentence: str, tmp_path: Path
) -> None:
    pictures(tmp_path, side, channels)
    assert_refused(run(tmp_path, "inr-gan", *options), sentence, tmp_path)


def test_refused_networks_and_folders(tmp_path: Path) -> None:
    assert_refused(run(tmp_path, "inr-gan"), "--data=", tmp_path)
    pictures(tmp_path, 32)
    result = run(tmp_path, "stylegan2")
    assert_refused(result, "is not a continuous generator", tmp_path)
    result = run(tmp_path, "inr-gan", c_dim=3)
    assert_refused(result, "the labels have dimension 0, but the network needs 3", tmp_path)


def test_without_a_detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path, 32)
    monkeypatch.delenv("GAN_DETECTOR_DIR")
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert_refused(run(tmp_path, "inr-gan"), "the detector 'inception-2015-12-05'", tmp_path)


def test_bars_are_as_high_as_their_values() -> None:
    axis = plots.Axis("FID", 0, 10)
    picture = plots.bar_plot({"low": 2, "high": 8}, axis)
    pixels = np.asarray(picture)
    heights = [
        int((pixels == np.array(colour)).all(2).any(1).sum()) for colour in plots.COLOURS[:2]
    ]
    # Both edges of a bar are drawn.
    assert heights[1] - 1 == pytest.approx(4 * (heights[0] - 1), abs=4)


def test_the_precision_is_noted_and_used(tmp_path: Path) -> None:
    pictures(tmp_path, 32)
    reports = {}
    for dtype in ("fp32", "bf16"):
        result = run(tmp_path, "inr-gan-bil", f"--dtype={dtype}")
        assert result.exit_code == 0, result.output
        reports[dtype] = json.loads((tmp_path / "out" / "upsampled-fid.json").read_text())
    found = [report["provenance"]["dtype"] for report in reports.values()]
    assert found == ["float32", "bfloat16+float32"]
    for method, fid in reports["fp32"]["fid"].items():
        assert reports["bf16"]["fid"][method] not in (fid, pytest.approx(fid, rel=1e-9)), method
