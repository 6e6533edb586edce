"""Statistics of real images on disk: reused exactly as long as they are right."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dnnlib
from metrics import feature_collection, stats_cache
from metrics.detectors import INCEPTION_URL, VGG16_URL
from metrics.feature_stats import FeatureStats
from metrics.fingerprint import dataset_fingerprint, recorded_resize_filter
from metrics.options import MetricOptions
from tests.metrics import tiny_world


class Counter:
    """Counts the images that pass a detector."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.images = 0
        original = feature_collection.to_rgb

        def counting(images: Any) -> Any:
            self.images += len(images)
            return original(images)

        monkeypatch.setattr(feature_collection, "to_rgb", counting)

    def new(self) -> int:
        """Images since the last call."""
        images, self.images = self.images, 0
        return images


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    return Counter(monkeypatch)


def collect(
    dataset_kwargs: dict[str, Any],
    detectors: dict[str, str],
    url: str = INCEPTION_URL,
    cache: bool = True,
    output: str = "return_features",
    **kwargs: Any,
) -> FeatureStats:
    opts = MetricOptions(dataset_kwargs=dataset_kwargs, detectors=detectors, cache=cache)
    stats_kwargs = {"capture_mean_cov": True, **kwargs}
    return feature_collection.compute_feature_stats_for_dataset(
        opts, url, {output: True}, **stats_kwargs
    )


def test_hit(tmp_path: Path, detectors: dict[str, str], counter: Counter, cache_dir: Path) -> None:
    kwargs = tiny_world.write_pictures(tmp_path / "set.zip")
    first = collect(kwargs, detectors)
    assert counter.new() == 21
    (file,) = (cache_dir / "gan-metrics").iterdir()
    assert file.name.startswith("set-inception-2015-12-05-") and file.suffix == ".npz"
    second = collect(kwargs, detectors)
    assert counter.new() == 0
    for a, b in zip(first.get_mean_cov(), second.get_mean_cov()):
        assert np.array_equal(a, b)
    collect(kwargs, detectors, cache=False)
    assert counter.new() == 21
    # What lies there counts, not where it lies.
    moved = shutil.copy(kwargs["path"], tmp_path / "moved.zip")
    (cache_dir / "gan-metrics" / file.name).rename(
        cache_dir / "gan-metrics" / file.name.replace("set-", "moved-")
    )
    collect({**kwargs, "path": str(moved)}, detectors)
    assert counter.new() == 0


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_everything_that_counts_is_in_the_key(
    tmp_path: Path, detectors: dict[str, str], counter: Counter
) -> None:
    kwargs = tiny_world.write_pictures(tmp_path / "set.zip")
    collect(kwargs, detectors)
    assert counter.new() == 21
    other_file = tmp_path / "other.pt"  # the same network from a file of another content
    copy = torch.jit.load(detectors["inception-2015-12-05"])
    torch.jit.save(copy, other_file, _extra_files={"note": "other"})
    other_detectors = {**detectors, "inception-2015-12-05": str(other_file)}
    for num_images, changes in (
        (9, {"max_items": 9}),
        (42, {"dataset_kwargs": {**kwargs, "xflip": True}}),
        (5, {"dataset_kwargs": {**kwargs, "max_size": 5}}),
        (21, {"output": "no_output_bias"}),
        (21, {"capture_all": True}),
        (21, {"url": VGG16_URL}),
        (21, {"detectors": other_detectors}),
    ):
        arguments = {"dataset_kwargs": kwargs, "detectors": detectors, **changes}
        collect(**arguments)
        assert counter.new() == num_images, changes
        collect(**arguments)
        assert counter.new() == 0, changes
    collect(kwargs, detectors, max_items=10**6)  # no more than there are: the first file again
    assert counter.new() == 0


@pytest.mark.parametrize("name", ["set.zip", "set"])
def test_changed_content(
    name: str, tmp_path: Path, detectors: dict[str, str], counter: Counter
) -> None:
    kwargs = tiny_world.write_pictures(tmp_path / name, seed=0)
    before = collect(kwargs, detectors).get_mean_cov()[0]
    counter.new()
    if name == "set":
        shutil.rmtree(kwargs["path"])
    tiny_world.write_pictures(tmp_path / name, seed=1)
    after = collect(kwargs, detectors).get_mean_cov()[0]
    assert counter.new() == 21 and not np.allclose(before, after)


@pytest.mark.parametrize("damage", ["short", "empty", "text", "other key"])
def test_damaged_file(
    damage: str,
    tmp_path: Path,
    detectors: dict[str, str],
    counter: Counter,
    cache_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kwargs = tiny_world.write_pictures(tmp_path / "set.zip")
    good = collect(kwargs, detectors).get_mean_cov()
    (file,) = (cache_dir / "gan-metrics").iterdir()
    if damage == "other key":
        with np.load(file) as archive:
            arrays = {**archive, "key": np.array("another one")}
        np.savez(file, **arrays)
    else:
        data = {"short": file.read_bytes()[:-50], "empty": b"", "text": b"hello" * 99}[damage]
        file.write_bytes(data)
    counter.new()
    capsys.readouterr()
    again = collect(kwargs, detectors).get_mean_cov()
    said = capsys.readouterr().out
    assert counter.new() == 21 and np.array_equal(good[1], again[1])
    assert said.count("\n") == 1 and "computed again" in said and str(file) in said
    collect(kwargs, detectors)
    assert counter.new() == 0 and capsys.readouterr().out == ""


def test_cache_that_cannot_be_written(
    tmp_path: Path, detectors: dict[str, str], cache_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache_dir.write_text("a file where the folder should be")
    kwargs = tiny_world.write_pictures(tmp_path / "set.zip")
    assert collect(kwargs, detectors).num_items == 21
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "are not kept" in said


def test_key_is_readable_and_ignores_what_is_not_given() -> None:
    facts: dict[str, Any] = {
        "dataset_kwargs": {"class_name": "a.B", "path": "/x", "max_size": None},
        "fingerprint": "f",
        "detector_sha256": "d",
        "detector_kwargs": {},
        "num_items": 3,
        "stats_kwargs": {"capture_all": True},
        "resize_filter": "box",
    }
    key = stats_cache.cache_key(**facts)
    assert json.loads(key)["dataset_kwargs"] == {"class_name": "a.B"}
    for name, value in (("fingerprint", "g"), ("resize_filter", None), ("num_items", 4)):
        assert stats_cache.cache_key(**{**facts, name: value}) != key
    path = stats_cache.cache_path(key, "my set/1", "vgg16")
    assert os.path.basename(path).startswith("my_set_1-vgg16-")


def test_fingerprint_of_a_folder(tmp_path: Path) -> None:
    kwargs = tiny_world.write_pictures(tmp_path / "set", labels=True)
    path = tmp_path / "set"
    seen = {dataset_fingerprint(None, kwargs)}
    assert seen == {dataset_fingerprint(None, kwargs)}
    (path / ".hidden").write_text("no picture")
    assert seen == {dataset_fingerprint(None, kwargs)}

    def check_new() -> None:
        found = dataset_fingerprint(None, kwargs)
        assert found not in seen
        seen.add(found)

    (path / "000.png").rename(path / "renamed.png")
    check_new()
    os.utime(path / "001.png", ns=(1, 1))
    check_new()
    stat = (path / "dataset.json").stat()
    labels = (path / "dataset.json").read_text()
    (path / "dataset.json").write_text(labels.replace(", 0]", ", 1]"))
    os.utime(path / "dataset.json", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    check_new()
    (path / "sub").mkdir()
    shutil.copy(path / "001.png", path / "sub")
    check_new()


def test_fingerprint_of_an_archive_does_not_depend_on_order_or_time(tmp_path: Path) -> None:
    kwargs = tiny_world.write_pictures(tmp_path / "set.zip")
    first = dataset_fingerprint(None, kwargs)
    with zipfile.ZipFile(kwargs["path"]) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "other.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in reversed(files):
            archive.writestr(zipfile.ZipInfo(name, (2001, 2, 3, 4, 5, 6)), files[name])
    assert dataset_fingerprint(None, {"path": str(tmp_path / "other.zip")}) == first


class InMemory:
    """A set that is no file."""

    def __init__(self, value: int, label: int = 0) -> None:
        self.value, self.label = value, label

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return np.full([3, 2, 2], self.value, np.uint8), np.float32([self.label])


def test_fingerprint_of_anything_else() -> None:
    sets = [InMemory(1), InMemory(2), InMemory(1, label=1)]
    found = [dataset_fingerprint(each, {"class_name": "a.B"}) for each in sets]
    assert len(set(found)) == 3
    assert dataset_fingerprint(InMemory(1), {"path": "/not/there"}) == found[0]


def test_recorded_resize_filter(tmp_path: Path) -> None:
    for name in ("set", "set.zip"):
        tiny_world.write_pictures(tmp_path / name)
        assert recorded_resize_filter(tmp_path / name) == "lanczos"
    (tmp_path / "set" / "dataset.json").write_text('{"labels": null}')
    assert recorded_resize_filter(tmp_path / "set") is None
    (tmp_path / "set" / "dataset.json").write_text("[")
    assert recorded_resize_filter(tmp_path / "set") is None
    assert recorded_resize_filter("/not/there") is None


def test_cache_dir_is_the_tests_own(cache_dir: Path) -> None:
    assert dnnlib.make_cache_dir_path() == str(cache_dir)
