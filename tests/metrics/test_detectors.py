"""Detectors: where they are looked for, how they are verified, what is said if they are missing."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import dnnlib
from dnnlib import UserError
from dnnlib.errors import FileError
from metrics import detectors as module
from metrics.detectors import (
    DETECTOR_URLS,
    DetectorUnavailable,
    file_sha256,
    get_feature_detector,
    get_feature_detector_name,
    load_detector,
)

IMAGES = torch.randint(0, 256, [2, 3, 8, 12], dtype=torch.uint8)


def no_network(url: str, **_kwargs: Any) -> str:
    raise FileError(f"cannot download {url!r} after 3 attempts: no route to host")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dnnlib.util, "open_url", no_network)


def test_override_comes_first(
    detectors: dict[str, str], offline: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vgg16.pt").write_bytes(b"not this one")
    monkeypatch.setenv(module.DETECTOR_DIR_VARIABLE, str(tmp_path))
    found = load_detector("vgg16", "cpu", detectors)
    assert found.name == "vgg16" and found.sha256 == file_sha256(detectors["vgg16"])
    assert found(IMAGES, return_features=True).shape == (2, 16)
    assert load_detector("vgg16", "cpu", detectors).module is found.module
    assert not any(param.requires_grad for param in found.module.parameters())


def test_gradients_reach_the_images(detectors: dict[str, str]) -> None:
    images = IMAGES.to(torch.float32).requires_grad_()
    detector = load_detector("vgg16", torch.device("cpu"), detectors)
    detector(images, resize_images=False, return_lpips=True).square().sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0


def test_folder_of_the_environment(
    detectors: dict[str, str], offline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(detectors["vgg16"]).parent
    monkeypatch.setenv(module.DETECTOR_DIR_VARIABLE, str(folder))
    for name, url in DETECTOR_URLS.items():
        for spelling in (name, url):
            found = get_feature_detector(spelling)
            assert (found.name, found.sha256) == (name, file_sha256(detectors[name]))


@pytest.mark.parametrize("name", list(DETECTOR_URLS))
def test_nowhere(name: str, offline: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(module.DETECTOR_DIR_VARIABLE, str(tmp_path))
    with pytest.raises(DetectorUnavailable) as caught:
        load_detector(name, "cpu")
    message = str(caught.value)
    assert isinstance(caught.value, UserError) and "\n" not in message
    for cure in (f"--detector={name}=PATH", module.DETECTOR_DIR_VARIABLE, "connect this machine"):
        assert cure in message
    assert DETECTOR_URLS[name] in message


def test_wrong_files(tmp_path: Path) -> None:
    with pytest.raises(DetectorUnavailable, match="--detector=vgg16=/not/there: there is no"):
        load_detector("vgg16", "cpu", {"vgg16": "/not/there"})
    text = tmp_path / "x.pt"
    text.write_text("no network")
    with pytest.raises(DetectorUnavailable, match=r"x.pt', .* 'vgg16', is no TorchScript file"):
        load_detector("vgg16", "cpu", {"vgg16": str(text)})
    with pytest.raises(DetectorUnavailable, match="no detector 'vgg'; known are inception"):
        load_detector("vgg", "cpu")


@pytest.mark.parametrize(
    ("name", "other", "unknown"),
    [("vgg16", "inception-2015-12-05", "resize_images"), ("inception-2015-12-05", "vgg16", "bias")],
)
def test_a_detector_under_the_name_of_another(
    name: str, other: str, unknown: str, detectors: dict[str, str]
) -> None:
    """Else an FID through VGG16 would be called FID."""
    load_detector(other, "cpu", detectors)
    with pytest.raises(DetectorUnavailable, match=f"is not the detector '{name}': .*{unknown}"):
        load_detector(name, "cpu", {name: detectors[other]})


def test_published_files_are_downloaded_with_their_checksum(
    detectors: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {}

    def open_url(url: str, sha256: str | None = None, **kwargs: Any) -> str:
        assert kwargs["return_filename"]
        asked[url] = sha256
        return detectors[get_feature_detector_name(url)]

    monkeypatch.setattr(dnnlib.util, "open_url", open_url)
    for name in DETECTOR_URLS:
        load_detector(name, "cpu", verbose=False)
    assert set(asked) == set(DETECTOR_URLS.values())
    assert all(digest is not None and len(digest) == 64 for digest in asked.values())


def test_other_files_must_stay_what_they_were(
    detectors: dict[str, str], cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checksum of an unknown file is noted at its first download."""
    url = "https://host.name/files/other.pt"
    asked = []

    def open_url(_url: str, sha256: str | None = None, **_kwargs: Any) -> str:
        asked.append(sha256)
        return str(tmp_path / "other.pt")

    monkeypatch.setattr(dnnlib.util, "open_url", open_url)
    (cache_dir / "downloads").mkdir(parents=True)
    shutil.copy(detectors["vgg16"], tmp_path / "other.pt")
    assert load_detector(url, "cpu").name == "other"
    load_detector(url, "cpu")
    assert asked == [None, file_sha256(detectors["vgg16"])]


def test_loading_is_silent(detectors: dict[str, str]) -> None:
    module._loaded.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_detector("vgg16", "cpu", detectors)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        (DETECTOR_URLS["vgg16"], "vgg16"),
        ("vgg16", "vgg16"),
        ("/a/b.c/inception-2015-12-05.pt", "inception-2015-12-05"),
    ],
)
def test_name_of_a_url(url: str, name: str) -> None:
    assert get_feature_detector_name(url) == name
