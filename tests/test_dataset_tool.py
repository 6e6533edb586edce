"""dataset_tool.py: every source and option, the written format, errors, and all-or-nothing."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import dataset_tool
from training import dataset_output, dataset_writer
from training.dataset import ImageFolderDataset
from training.dataset_files import DatasetError
from training.dataset_transform import Transform, force_channels

ROOT = Path(dataset_tool.__file__).parent


def noise(height: int = 12, width: int = 16, channels: int = 3, seed: int = 0) -> np.ndarray:
    pixels = np.random.RandomState(seed).randint(0, 256, [height, width, channels], np.uint8)
    return pixels[:, :, 0] if channels == 1 else pixels


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of three classes with four pictures each, 16x12 RGB."""
    for i in range(12):
        save(tmp_path / "in" / ["b", "a", "c"][i % 3] / f"{i:02d}.png", noise(seed=i))
    return tmp_path / "in"


def tool(*args: Any) -> Result:
    return CliRunner().invoke(dataset_tool.main, [str(arg) for arg in args])


def convert(source: Path, dest: Path, *args: Any) -> Result:
    result = tool("--source", source, "--dest", dest, *args)
    assert result.exit_code == 0, result.output
    return result


def refused(result: Result) -> str:
    """The one sentence of a refusal."""
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if not line.startswith("Converting")]
    assert len(lines) == 1 and lines[0].startswith("Error: "), result.output
    return lines[0]


def read_zip(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        assert names[-1] == "dataset.json"
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        images = {n: np.asarray(Image.open(io.BytesIO(archive.read(n)))) for n in names[:-1]}
        return images, json.loads(archive.read("dataset.json"))


def test_folder_to_zip(source, tmp_path):
    result = convert(source, tmp_path / "new" / "out.zip")
    images, content = read_zip(tmp_path / "new" / "out.zip")
    assert list(images) == [f"00000/img{i:08d}.png" for i in range(12)]
    files = sorted(source.rglob("*.png"))
    for image, file in zip(images.values(), files):
        np.testing.assert_array_equal(image, np.asarray(Image.open(file)))
    assert content["labels"] is None and "class_names" not in content
    assert "12 pictures, 16x12 RGB" in result.stdout
    assert "stylegan2 needs square" in result.stdout
    assert os.listdir(tmp_path / "new") == ["out.zip"]


def test_names_count_in_thousands(tmp_path):
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for i in range(1002):
            archive.writestr(f"{i:04d}.png", dataset_writer._png(np.full([2, 2, 1], i % 256, "u1")))
    convert(tmp_path / "in.zip", tmp_path / "out.zip")
    images, _content = read_zip(tmp_path / "out.zip")
    assert list(images)[999:] == [
        "00000/img00000999.png",
        "00001/img00001000.png",
        "00001/img00001001.png",
    ]
    assert (images["00001/img00001001.png"] == 1001 % 256).all()


def test_zip_to_folder_and_back_is_the_same(source, tmp_path):
    convert(source, tmp_path / "a.zip", "--labels-from-folders", "--resolution=8")
    convert(tmp_path / "a.zip", tmp_path / "folder")
    convert(tmp_path / "folder", tmp_path / "b.zip")
    (images_a, content_a), (images_b, content_b) = (
        read_zip(tmp_path / name) for name in ("a.zip", "b.zip")
    )
    assert list(images_a) == list(images_b)
    assert all((images_a[name] == images_b[name]).all() for name in images_a)
    for key in ("labels", "class_names"):
        assert content_a[key] == content_b[key]
    assert content_a["provenance"]["sha256"] == content_b["provenance"]["sha256"]


@pytest.mark.parametrize("dest", ["out.zip", "out"])
def test_bytes_do_not_depend_on_workers_or_time(source, tmp_path, dest, monkeypatch):
    results = []
    for workers in (1, 2, 5):
        monkeypatch.setattr(time, "time", lambda offset=workers * 1e7: 1.7e9 + offset)
        out = tmp_path / str(workers) / dest
        convert(source, out, "--labels-from-folders", "--width=8", "--workers", workers)
        files = sorted(p for p in [out, *out.rglob("*")] if p.is_file())
        results.append([(p.relative_to(out), p.read_bytes()) for p in files])
    assert results[0] == results[1] == results[2]
    assert len(results[0]) == (1 if dest == "out.zip" else 13)


def test_labels_from_folders(source, tmp_path):
    result = convert(source, tmp_path / "out.zip", "--labels-from-folders")
    _images, content = read_zip(tmp_path / "out.zip")
    assert content["class_names"] == ["a", "b", "c"]
    assert [label for _name, label in content["labels"]] == [0] * 4 + [1] * 4 + [2] * 4
    assert "3 classes (a, b, c)" in result.stdout
    dataset = ImageFolderDataset(tmp_path / "out.zip", use_labels=True)
    assert dataset.label_shape == [3] and dataset.get_details(5).raw_label == 1


def test_labels_from_folders_needs_folders(source, tmp_path):
    save(source / "loose.png", noise())
    message = refused(tool("--source", source, "--dest", tmp_path / "o", "--labels-from-folders"))
    assert "loose.png" in message and "no sub-folder" in message


@pytest.mark.parametrize("labels", [[3, 0, 1], [[0.5, 1], [2, 3], [4, 5]]], ids=["int", "vector"])
def test_labels_of_the_source_are_kept(tmp_path, labels):
    names = ["x/a.png", "x/b.png", "y/c.png"]
    for i, name in enumerate(names):
        save(tmp_path / "in" / name, noise(seed=i))
    pairs = list(reversed(list(zip(names, labels))))
    (tmp_path / "in" / "dataset.json").write_text(json.dumps({"labels": pairs}))
    convert(tmp_path / "in", tmp_path / "out.zip")
    _images, content = read_zip(tmp_path / "out.zip")
    assert [label for _name, label in content["labels"]] == labels


def test_incomplete_labels_are_not_kept_and_it_says_so(tmp_path):
    for name in ("a.png", "b.png"):
        save(tmp_path / "in" / name, noise())
    (tmp_path / "in" / "dataset.json").write_text('{"labels": [["a.png", 1]]}')
    result = convert(tmp_path / "in", tmp_path / "out.zip")
    assert read_zip(tmp_path / "out.zip")[1]["labels"] is None
    assert "1 pictures have no label" in result.stdout and "b.png" in result.stdout


def test_provenance_is_recorded(source, tmp_path):
    convert(
        source,
        tmp_path / "out.zip",
        "--max_images=5",
        "--resize_filter=box",
        "--transform=center-crop",
        "--resolution=8x4",
    )
    provenance = read_zip(tmp_path / "out.zip")[1]["provenance"]
    assert provenance["resize_filter"] == "box" and provenance["transform"] == "center-crop"
    assert (provenance["width"], provenance["height"]) == (8, 4)
    assert provenance["shape"] == [3, 4, 8] and provenance["num_images"] == 5
    assert provenance["source"] == "in" and provenance["source_kind"] == "folder"


def cifar(tmp_path: Path) -> tuple[Path, np.ndarray, list[int]]:
    images = np.random.RandomState(0).randint(0, 256, [10, 3, 32, 32], np.uint8)
    labels = [9, 1, 2, 3, 4, 5, 6, 7, 8, 0]
    contents = {
        f"data_batch_{i + 1}": {
            "data": images[2 * i : 2 * i + 2].reshape(2, -1),
            "labels": labels[2 * i : 2 * i + 2],
        }
        for i in range(5)
    }
    contents["test_batch"] = {"data": images[:1].reshape(1, -1), "labels": [0]}
    contents["batches.meta"] = {"label_names": [f"class{i}" for i in range(10)]}
    path = tmp_path / "cifar-10-python.tar.gz"
    write_tar(path, {name: pickle.dumps(value, protocol=2) for name, value in contents.items()})
    return path, images.transpose(0, 2, 3, 1), labels


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_cifar10(tmp_path):
    path, expected, labels = cifar(tmp_path)
    convert(path, tmp_path / "out.zip")
    images, content = read_zip(tmp_path / "out.zip")
    np.testing.assert_array_equal(np.stack(list(images.values())), expected)
    assert [label for _name, label in content["labels"]] == labels
    assert content["class_names"][3] == "class3"


def test_cifar10_archive_cannot_run_code(tmp_path):
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "evil"),)

    path = tmp_path / "cifar-10-python.tar.gz"
    write_tar(path, {"data_batch_1": pickle.dumps({"data": Evil(), "labels": []})})
    message = refused(tool("--source", path, "--dest", tmp_path / "out.zip"))
    assert "mkdir" in message and os.listdir(tmp_path) == [path.name]


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes())


def test_mnist(tmp_path):
    images = np.random.RandomState(0).randint(0, 256, [6, 28, 28], np.uint8)
    labels = np.array([5, 0, 4, 1, 9, 2], np.uint8)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(idx(images))
    message = refused(tool("--source", path, "--dest", tmp_path / "out.zip"))
    assert "train-labels-idx1-ubyte.gz" in message and "missing" in message
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(idx(labels))
    convert(path, tmp_path / "out.zip", "--max-images=5")
    written, content = read_zip(tmp_path / "out.zip")
    assert len(written) == 5
    for i, image in enumerate(written.values()):
        assert image.shape == (32, 32)
        np.testing.assert_array_equal(image, np.pad(images[i], 2))
    assert [label for _name, label in content["labels"]] == [5, 0, 4, 1, 9]
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(idx(labels[:3]))
    assert "do not match" in refused(tool("--source", path, "--dest", tmp_path / "o.zip"))
    path.write_bytes(path.read_bytes()[:100])
    assert "download it again" in refused(tool("--source", path, "--dest", tmp_path / "o.zip"))


def test_lsun(tmp_path):
    lmdb = pytest.importorskip("lmdb")
    path = tmp_path / "cat_lmdb"
    env = lmdb.open(str(path), map_size=1 << 20)
    with env.begin(write=True) as txn:
        for i in range(4):
            buffer = io.BytesIO()
            Image.fromarray(noise(seed=i)).save(buffer, "webp", lossless=True)
            txn.put(f"key{i}".encode(), buffer.getvalue() if i != 1 else b"broken")
    env.close()
    message = refused(tool("--source", path, "--dest", tmp_path / "out.zip"))
    assert "key1" in message
    convert(path, tmp_path / "out.zip", "--on-error=skip", "--max-images=3")
    images, _content = read_zip(tmp_path / "out.zip")
    assert list(images) == ["00000/img00000000.png", "00000/img00000002.png"]
    np.testing.assert_array_equal(images["00000/img00000002.png"], noise(seed=2))


def test_lsun_without_lmdb(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    (tmp_path / "cat_lmdb").mkdir()
    message = refused(tool("--source", tmp_path / "cat_lmdb", "--dest", tmp_path / "out.zip"))
    assert "pip install lmdb" in message


@pytest.mark.parametrize("name", ["box", "lanczos"])
def test_resize_filters(name):
    pixels = noise(8, 8)
    small = Transform(width=4, height=4, resize_filter=name)(pixels)
    resample = {"box": Image.Resampling.BOX, "lanczos": Image.Resampling.LANCZOS}[name]
    np.testing.assert_array_equal(small, Image.fromarray(pixels).resize((4, 4), resample))
    if name == "box":
        means = pixels.reshape(4, 2, 4, 2, 3).mean(axis=(1, 3))
        assert np.abs(small - means).max() <= 1  # rounded twice: after rows and after columns


def test_each_side_alone_keeps_the_other():
    assert Transform(width=4)(noise(6, 10)).shape == (6, 4, 3)
    assert Transform(height=4)(noise(6, 10)).shape == (4, 10, 3)


@pytest.mark.parametrize(("height", "width"), [(6, 11), (11, 6), (7, 7)])
def test_center_crop_takes_the_middle_square(height, width):
    pixels = noise(height, width)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    middle = pixels[top : top + side, left : left + side]
    cropped = Transform(kind="center-crop", width=side, height=side)(pixels)
    np.testing.assert_array_equal(cropped, middle)
    resized = Transform(kind="center-crop", width=4, height=4)(pixels)
    expected = Image.fromarray(middle).resize((4, 4), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(resized, expected)


def test_center_crop_keeps_the_aspect_of_the_result():
    pixels = noise(12, 16)
    cropped = Transform(kind="center-crop", width=16, height=4)(pixels)
    np.testing.assert_array_equal(cropped, pixels[4:8])
    cropped = Transform(kind="center-crop", width=6, height=12)(pixels)
    np.testing.assert_array_equal(cropped, pixels[:, 5:11])


def test_center_crop_wide_pads_with_black_and_drops_small():
    wide = Transform(kind="center-crop-wide", width=16, height=8)
    pixels = noise(12, 16)
    out = wide(pixels)
    assert out.shape == (16, 16, 3)
    assert not out[:4].any() and not out[12:].any()
    # As wide as the target: all 12 rows stay, and are resized to 8.
    expected = Image.fromarray(pixels).resize((16, 8), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(out[4:12], expected)
    # Twice as wide: round(16 * 24 / 32) = 12 rows from the middle, rows 6 to 18.
    pixels = noise(24, 32)
    expected = Image.fromarray(pixels[6:18]).resize((16, 8), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(wide(pixels)[4:12], expected)
    assert wide(noise(12, 15)) is None
    assert wide(noise(7, 16)) is None


def test_dropped_pictures_leave_gaps(tmp_path):
    for i, width in enumerate([16, 10, 16]):
        save(tmp_path / "in" / f"{i}.png", noise(12, width))
    options = ["--transform=center-crop-wide", "--width=16", "--height=12"]
    result = convert(tmp_path / "in", tmp_path / "out.zip", *options)
    images, _content = read_zip(tmp_path / "out.zip")
    assert list(images) == ["00000/img00000000.png", "00000/img00000002.png"]
    assert "Dropped as smaller than the target: 1" in result.stdout
    assert "stylegan2" not in result.stdout  # 16x16 is fine for it


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_uniform_channels_are_kept(tmp_path, channels):
    for i in range(2):
        save(tmp_path / "in" / f"{i}.png", noise(8, 8, channels, seed=i))
    convert(tmp_path / "in", tmp_path / "out.zip")
    assert ImageFolderDataset(tmp_path / "out.zip").image_shape == [channels, 8, 8]


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """RGB, grey and RGBA pictures of equal size, and one of another."""
    for name, channels in [("0rgb", 3), ("1grey", 1), ("2rgba", 4), ("4rgb", 3)]:
        save(tmp_path / "in" / f"{name}.png", noise(8, 8, channels))
    return tmp_path / "in"


def test_mixed_channels_are_refused_by_name(mixed, tmp_path):
    message = refused(tool("--source", mixed, "--dest", tmp_path / "out.zip"))
    assert "0rgb.png" in message and "1grey.png" in message and "--force-channels" in message
    assert os.listdir(tmp_path) == ["in"]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_mixed_channels_are_converted_on_request(mixed, tmp_path, channels):
    convert(mixed, tmp_path / "out.zip", f"--force-channels={channels}")
    dataset = ImageFolderDataset(tmp_path / "out.zip")
    assert dataset.image_shape == [channels, 8, 8] and len(dataset) == 4
    dataset.verify()


def test_channel_rules():
    red = np.array([[[255, 0, 0]]], np.uint8)
    assert force_channels(red, 1).tolist() == [[[76]]]  # round(0.299 * 255)
    assert force_channels(red, 4).tolist() == [[[255, 0, 0, 255]]]
    assert force_channels(np.array([[[7]]], np.uint8), 3).tolist() == [[[7, 7, 7]]]
    invisible = np.array([[[1, 2, 3, 0]]], np.uint8)
    assert force_channels(invisible, 3).tolist() == [[[255, 255, 255]]]
    assert force_channels(invisible, 1).tolist() == [[[255]]]
    assert force_channels(red, 3) is red


def test_other_size_is_refused_by_name(mixed, tmp_path):
    save(mixed / "3wide.png", noise(8, 9))
    options = ["--force-channels=3", "--dest", tmp_path / "out.zip"]
    message = refused(tool("--source", mixed, *options))
    assert "3wide.png" in message and "9x8" in message and "0rgb.png" in message
    assert "--width" in message
    assert os.listdir(tmp_path) == ["in"]


@pytest.mark.parametrize("dest", ["out.zip", "out"])
def test_broken_picture_stops_or_is_skipped(mixed, tmp_path, dest):
    (mixed / "3bad.jpg").write_bytes(b"this is no picture")
    options = ["--source", mixed, "--dest", tmp_path / dest, "--force-channels=3"]
    message = refused(tool(*options))
    assert "3bad.jpg" in message and "--on-error=skip" in message
    assert os.listdir(tmp_path) == ["in"]
    result = tool(*options, "--on-error=skip")
    assert result.exit_code == 0
    assert "Skipped: 1" in result.stdout and "3bad.jpg" in result.stdout
    assert len(ImageFolderDataset(tmp_path / dest)) == 4


def test_nothing_left(tmp_path):
    save(tmp_path / "in" / "a.png", noise(4, 4))
    (tmp_path / "in" / "b.png").write_bytes(b"")
    options = ["--transform=center-crop-wide", "--resolution=16x8", "--on-error=skip"]
    message = refused(tool("--source", tmp_path / "in", "--dest", tmp_path / "out.zip", *options))
    assert "1 pictures skipped" in message and "1 dropped" in message
    (tmp_path / "in" / "b.png").unlink()
    message = refused(tool("--source", tmp_path / "in", "--dest", tmp_path / "out.zip", *options))
    assert "smaller than 16x8" in message
    assert os.listdir(tmp_path) == ["in"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--max-images=0"], "--max-images=0"),
        (["--max-images=-2"], "--max-images=-2"),
        (["--workers=0"], "--workers=0"),
        (["--width=0"], "--width=0"),
        (["--height=-8"], "--height=-8"),
        (["--transform=center-crop"], "needs --width and --height"),
        (["--transform=center-crop", "--width=8"], "needs --width and --height"),
        (["--transform=center-crop-wide", "--resolution=8x16"], "--height <= --width"),
        (["--transform=squash"], "squash"),
        (["--resize-filter=cubic"], "cubic"),
        (["--force-channels=2"], "'2'"),
        (["--on-error=ignore"], "ignore"),
        (["--resolution=8", "--width=8"], "either --resolution or"),
        (["--resolution=8by8"], "8by8"),
        (["--no-such-option"], "no-such-option"),
    ],
)
def test_bad_option_values(source, tmp_path, options, words):
    message = refused(tool("--source", source, "--dest", tmp_path / "new" / "out.zip", *options))
    assert words in message
    assert os.listdir(tmp_path) == ["in"]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("missing", None, "does not exist"),
        ("missing.zip", None, "does not exist"),
        ("a.zip", b"PK\x03\x04 cut off", "cannot be read as a zip"),
        ("a.rar", b"Rar!", "not of a known kind"),
        ("cifar-10-python.tar.gz", b"no tar", "download it again"),
        ("train-images-idx3-ubyte.gz", b"no gzip", "download it again"),
    ],
)
def test_unusable_source(tmp_path, name, data, words):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    before = os.listdir(tmp_path)
    message = refused(tool("--source", tmp_path / name, "--dest", tmp_path / "new" / "out.zip"))
    assert words in message and name in message
    assert os.listdir(tmp_path) == before


def test_unusable_destination(source, tmp_path):
    def message(dest: Path) -> str:
        return refused(tool("--source", source, "--dest", dest))

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("mine")
    assert "must be new or empty" in message(tmp_path / "full")
    (tmp_path / "file").write_text("mine")
    assert "is a file" in message(tmp_path / "file")
    (tmp_path / "folder.zip").mkdir()
    assert "is a folder" in message(tmp_path / "folder.zip")
    assert "is the source itself" in message(source)
    assert "must not be empty" in refused(tool("--source", source, "--dest", ""))
    under_a_file = message(tmp_path / "file" / "out.zip")
    assert "cannot write" in under_a_file and "file" in under_a_file
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.zip", "full", "in"]
    assert (tmp_path / "file").read_text() == "mine"


def test_empty_folder_may_be_the_destination(source, tmp_path):
    (tmp_path / "out").mkdir()
    convert(source, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]
    assert len(ImageFolderDataset(tmp_path / "out")) == 12


def test_empty_source(tmp_path):
    (tmp_path / "in").mkdir()
    assert "no pictures" in refused(tool("--source", tmp_path / "in", "--dest", tmp_path / "o.zip"))


def test_too_little_space_is_noticed_at_the_start(source, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 5000})()
    monkeypatch.setattr(dataset_writer.shutil, "disk_usage", lambda path: usage)
    assert "are free" in refused(tool("--source", source, "--dest", tmp_path / "out.zip"))
    assert os.listdir(tmp_path) == ["in"]


@pytest.mark.parametrize("dest", ["new/deep/out.zip", "new/deep/out"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_interruption_leaves_nothing(source, tmp_path, monkeypatch, dest, error):
    written = []
    write = dataset_output.AtomicOutput.write

    def failing_write(self: Any, name: str, data: bytes) -> None:
        if len(written) == 7:
            raise error
        write(self, name, data)
        written.append(name)

    monkeypatch.setattr(dataset_output.AtomicOutput, "write", failing_write)
    result = tool("--source", source, "--dest", tmp_path / dest)
    if isinstance(error, OSError):
        assert "No space left on device" in refused(result)
    else:
        assert result.exit_code == 1
    assert len(written) == 7
    assert os.listdir(tmp_path) == ["in"]


def test_failure_keeps_an_older_archive(source, tmp_path):
    convert(source, tmp_path / "out.zip", "--resolution=8")
    before = (tmp_path / "out.zip").read_bytes()
    (source / "a" / "bad.png").write_bytes(b"broken")
    refused(tool("--source", source, "--dest", tmp_path / "out.zip"))
    assert (tmp_path / "out.zip").read_bytes() == before
    (source / "a" / "bad.png").unlink()
    convert(source, tmp_path / "out.zip")
    assert ImageFolderDataset(tmp_path / "out.zip").image_shape == [3, 12, 16]


@pytest.mark.skipif(sys.platform == "win32", reason="signals differ there")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminated"])
def test_signal_leaves_nothing(tmp_path, number):
    data = dataset_writer._png(noise(64, 64))
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for i in range(2000):
            archive.writestr(f"{i:05d}.png", data)
    options = ["--source=in.zip", "--dest=new/out.zip", "--resolution=600", "--workers=2"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "dataset_tool.py"), *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        partial = list(tmp_path.glob("new/.*.partial"))
        if partial and partial[0].stat().st_size > 0:
            break
        time.sleep(0.01)
    process.send_signal(number)
    _out, err = process.communicate(timeout=60)
    assert process.returncode == (1 if number == signal.SIGINT else 128 + number), err
    assert b"Traceback" not in err
    assert os.listdir(tmp_path) == ["in.zip"]


def test_help_is_quick_and_needs_no_torch():
    code = (
        "import sys, dataset_tool\n"
        "try: dataset_tool.main(['--help'])\n"
        "except SystemExit as done: assert done.code == 0\n"
        "heavy = {'torch', 'numpy', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "--labels-from-folders" in run.stdout


def test_conversion_does_not_load_torch(source, tmp_path):
    code = (
        "import sys, dataset_tool\n"
        f"args = ['--source', {str(source)!r}, '--dest', {str(tmp_path / 'out.zip')!r}]\n"
        "dataset_tool.main(args, standalone_mode=False)\n"
        "assert 'torch' not in sys.modules\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_options_are_checked_for_callers_too(tmp_path):
    with pytest.raises(DatasetError, match="--transform=squash"):
        Transform(kind="squash")
    with pytest.raises(DatasetError, match="--resize-filter=cubic"):
        Transform(resize_filter="cubic")
    with pytest.raises(DatasetError, match="--force-channels=2"):
        dataset_writer.ConvertOptions(source="a", dest="b", channels=2)
