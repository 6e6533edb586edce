"""training.dataset: pictures, labels, subset and flips, worker processes, and what it refuses."""

from __future__ import annotations

import io
import json
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import dnnlib
from training.dataset import Dataset, DatasetError, ImageFolderDataset
from training.dataset_files import PictureFiles, decode_picture, is_picture, picture_shape


def pictures(count: int, height: int = 8, width: int = 8, channels: int = 3) -> np.ndarray:
    """Distinct random pictures, uint8 [count, height, width, channels]."""
    return np.random.RandomState(count).randint(0, 256, [count, height, width, channels], np.uint8)


def encode(pixels: np.ndarray | Image.Image, kind: str = "png", **options: Any) -> bytes:
    buffer = io.BytesIO()
    if isinstance(pixels, np.ndarray):
        pixels = Image.fromarray(pixels.squeeze())
    pixels.save(buffer, format=kind, **options)
    return buffer.getvalue()


def make_set(
    path: Path, images: Any, labels: Any = None, extra: dict[str, bytes] | None = None
) -> Path:
    """Writes pictures as 0/000.png, 0/001.png, ... to a folder, or to an archive (.zip)."""
    files = {f"0/{i:03d}.png": encode(image) for i, image in enumerate(images)}
    if labels is not None:
        pairs = [[name, label] for name, label in zip(files, labels)]
        files["dataset.json"] = json.dumps({"labels": pairs}).encode()
    files.update(extra or {})
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    else:
        for name, data in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    return path


def is_one_sentence(error: BaseException) -> bool:
    return "\n" not in str(error) and len(str(error)) > 20


@pytest.mark.parametrize("target", ["faces", "faces.zip", "faces.ZIP"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pictures_in_order_of_name(tmp_path, target, channels):
    images = pictures(5, channels=channels)
    path = make_set(tmp_path / target.lower(), images).rename(tmp_path / target)
    dataset = ImageFolderDataset(str(path))
    assert dataset.name == "faces"
    assert len(dataset) == 5
    assert dataset.image_shape == [channels, 8, 8]
    assert dataset.num_channels == channels
    assert dataset.resolution == 8
    for i in range(5):
        image, label = dataset[i]
        assert image.dtype == np.uint8 and label.dtype == np.float32
        assert label.shape == (0,)
        np.testing.assert_array_equal(image, images[i].transpose(2, 0, 1))
    assert dataset.label_shape == [0] and dataset.label_dim == 0
    assert not dataset.has_labels and not dataset.has_onehot_labels


def test_any_nesting_and_other_files(tmp_path):
    images = pictures(3)
    make_set(tmp_path / "s", images[1:2], extra={"notes.txt": b"x", "report.pdf": b"x"})
    make_set(tmp_path / "s" / "z" / "y", images[2:])
    (tmp_path / "s" / "0" / "._000.png").write_bytes(b"file attributes of macOS")
    Image.fromarray(images[0]).save(tmp_path / "s" / "0" / "-.PNG")
    dataset = ImageFolderDataset(tmp_path / "s")
    got = [dataset[i][0].transpose(1, 2, 0) for i in range(len(dataset))]
    np.testing.assert_array_equal(got, images)
    assert not is_picture("__MACOSX/a.png") and is_picture("a/b.JPeG")


def test_given_picture_is_a_copy(tmp_path):
    dataset = ImageFolderDataset(make_set(tmp_path / "s.zip", pictures(2)))
    first = dataset[0][0]
    before = first.copy()
    first[:] = 0
    np.testing.assert_array_equal(dataset[0][0], before)


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_cache_changes_no_value(tmp_path, cache_bytes):
    images = pictures(4)
    dataset = ImageFolderDataset(make_set(tmp_path / "s.zip", images), cache_bytes=cache_bytes)
    for _ in range(2):
        for i in [3, 0, 1, 2]:
            np.testing.assert_array_equal(dataset[i][0], images[i].transpose(2, 0, 1))
    assert len(dataset._cache) == (4 if cache_bytes else 0)
    assert pickle.loads(pickle.dumps(dataset))._cache == {}


def test_set_larger_than_the_cache_is_not_cached(tmp_path):
    path = make_set(tmp_path / "s.zip", pictures(4))
    assert ImageFolderDataset(path, cache_bytes=4 * 192)._caching
    assert not ImageFolderDataset(path, cache_bytes=4 * 192 - 1)._caching
    assert ImageFolderDataset(path, cache_bytes=2 * 192, max_size=2, xflip=True)._caching


def test_subset_is_the_seeded_choice_in_order(tmp_path):
    images = pictures(20)
    path = make_set(tmp_path / "s.zip", images)
    expected = np.arange(20)
    np.random.RandomState(7).shuffle(expected)
    expected = np.sort(expected[:6])
    dataset = ImageFolderDataset(path, max_size=6, random_seed=7)
    assert [dataset.get_details(i).raw_idx for i in range(6)] == expected.tolist()
    np.testing.assert_array_equal(dataset[2][0], images[expected[2]].transpose(2, 0, 1))
    assert len(ImageFolderDataset(path, max_size=20, random_seed=7)) == 20
    whole = ImageFolderDataset(path, max_size=99, random_seed=7)
    assert [whole.get_details(i).raw_idx for i in range(20)] == list(range(20))


def test_xflip_doubles_after_the_subset(tmp_path):
    dataset = ImageFolderDataset(
        make_set(tmp_path / "s", pictures(6, width=10), labels=range(6)),
        max_size=4,
        xflip=True,
        use_labels=True,
    )
    assert len(dataset) == 8
    for i in range(4):
        np.testing.assert_array_equal(dataset[i + 4][0], dataset[i][0][:, :, ::-1])
        np.testing.assert_array_equal(dataset[i + 4][1], dataset[i][1])
        plain, flipped = dataset.get_details(i), dataset.get_details(i + 4)
        assert plain.raw_idx == flipped.raw_idx and plain.raw_label == flipped.raw_label
        assert plain.xflip is False and flipped.xflip is True


def test_class_ids_become_onehot(tmp_path):
    path = make_set(tmp_path / "s.zip", pictures(4), labels=[2, 0, 4, 0])
    dataset = ImageFolderDataset(path, use_labels=True)
    assert dataset.has_labels and dataset.has_onehot_labels
    assert dataset.label_shape == [5] and dataset.label_dim == 5
    assert dataset[0][1].tolist() == [0, 0, 1, 0, 0]
    assert dataset.get_label(2).tolist() == [0, 0, 0, 0, 1]
    assert dataset.get_details(2).raw_label == 4
    unasked = ImageFolderDataset(path)
    assert not unasked.has_labels and unasked.label_dim == 0


def test_number_of_classes_does_not_depend_on_the_subset(tmp_path):
    path = make_set(tmp_path / "s.zip", pictures(9), labels=range(9))
    assert ImageFolderDataset(path, use_labels=True, max_size=2).label_dim == 9


def test_vectors_are_given_as_they_are(tmp_path):
    vectors = [[0.5, -1, 2], [0, 0, 0], [1, 1, 0.25]]
    dataset = ImageFolderDataset(
        make_set(tmp_path / "s", pictures(3), labels=vectors), use_labels=True
    )
    assert dataset.has_labels and not dataset.has_onehot_labels
    assert dataset.label_shape == [3]
    assert dataset[2][1].dtype == np.float32 and dataset[2][1].tolist() == vectors[2]
    dataset[0][1][:] = 9
    assert dataset.get_label(0).tolist() == vectors[0]


def test_non_square(tmp_path):
    dataset = ImageFolderDataset(make_set(tmp_path / "s", pictures(2, height=6, width=10)))
    assert dataset.image_shape == [3, 6, 10]
    assert dataset[0][0].shape == (3, 6, 10)
    assert dataset.resolution == 10
    path = tmp_path / "s"
    assert ImageFolderDataset(path, resolution=[6, 10]).image_shape == [3, 6, 10]
    for wrong, text in ((10, "10x10"), (6, "6x6"), ((10, 6), "6x10")):
        with pytest.raises(DatasetError, match=f"10x6.*{text} was asked for") as caught:
            ImageFolderDataset(path, resolution=wrong)
        assert is_one_sentence(caught.value)


def test_resolution_is_checked(tmp_path):
    path = make_set(tmp_path / "s", pictures(1))
    assert ImageFolderDataset(path, resolution=8).resolution == 8
    with pytest.raises(DatasetError, match="8x8.*16x16 was asked for"):
        ImageFolderDataset(path, resolution=16)


def corrupt_zip(tmp_path: Path) -> Path:
    path = make_set(tmp_path / "s.zip", pictures(3))
    path.write_bytes(path.read_bytes()[:-30])
    return path


def only_text(tmp_path: Path) -> Path:
    return make_set(tmp_path / "s", [], extra={"a.txt": b"a"})


def plain_file(tmp_path: Path) -> Path:
    (tmp_path / "a.png").write_bytes(encode(pictures(1)[0]))
    return tmp_path / "a.png"


def first_broken(tmp_path: Path) -> Path:
    return make_set(tmp_path / "s", pictures(1), extra={"0/000.png": b"nothing"})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda tmp_path: tmp_path / "none", "does not exist"),
        (lambda tmp_path: tmp_path / "none.zip", "does not exist"),
        (lambda tmp_path: tmp_path, "no pictures"),
        (only_text, "no pictures .* among the 1 files"),
        (plain_file, "neither a folder nor a .zip"),
        (corrupt_zip, "cannot be read as a zip"),
        (first_broken, "cannot decode picture .*000.png"),
    ],
)
def test_refuses_unusable_path(tmp_path, make, words):
    path = make(tmp_path)
    with pytest.raises(DatasetError, match=words) as caught:
        ImageFolderDataset(str(path))
    assert is_one_sentence(caught.value) and str(path) in str(caught.value)
    assert isinstance(caught.value, OSError) and isinstance(caught.value, dnnlib.UserError)


@pytest.mark.parametrize("max_size", [0, -3])
def test_refuses_empty_subset(tmp_path, max_size):
    with pytest.raises(DatasetError, match=f"max_size is {max_size}"):
        ImageFolderDataset(make_set(tmp_path / "s", pictures(2)), max_size=max_size)


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (encode(pictures(1, height=9)[0]), r"0/002.png.*\[3, 9, 8\].*0/000.png.*\[3, 8, 8\]"),
        (encode(pictures(1, channels=1)[0]), r"0/002.png.*\[1, 8, 8\].*0/000.png.*\[3, 8, 8\]"),
        (encode(pictures(1)[0])[:-40], "0/002.png"),
        (b"", "0/002.png.*not a picture"),
    ],
    ids=["size", "channels", "truncated", "empty"],
)
@pytest.mark.parametrize("target", ["s", "s.zip"])
def test_names_odd_and_broken_pictures(tmp_path, odd, words, target):
    path = make_set(tmp_path / target, pictures(2), extra={"0/002.png": odd})
    dataset = ImageFolderDataset(path)
    assert dataset[1][0].shape == (3, 8, 8)
    with pytest.raises(DatasetError, match=words) as caught:
        dataset[2]
    assert is_one_sentence(caught.value)
    if odd[-12:] == encode(pictures(1)[0])[-12:] or not odd:  # headers tell, except truncation
        with pytest.raises(DatasetError, match=words):
            dataset.verify()


def test_damaged_data_inside_an_archive_is_named(tmp_path):
    path = make_set(tmp_path / "s.zip", pictures(2))
    data = bytearray(path.read_bytes())
    data[data.index(encode(pictures(2)[1])) + 60] ^= 1
    path.write_bytes(data)
    with pytest.raises(DatasetError, match="0/001.png.*CRC"):
        ImageFolderDataset(path)[1]


def test_verify_accepts_equal_pictures_of_any_format(tmp_path):
    extra = {
        "1.jpg": encode(pictures(1)[0], "jpeg"),
        "2.png": encode(Image.fromarray(pictures(1)[0]).convert("P")),
        "3.webp": encode(pictures(1)[0], "webp"),
    }
    dataset = ImageFolderDataset(make_set(tmp_path / "s.zip", pictures(2), extra=extra))
    dataset.verify()
    assert [dataset[i][0].shape for i in range(5)] == [(3, 8, 8)] * 5


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "has no labels.*labels-from-folders"),
        ({"labels": None}, "has no labels"),
        ({"labels": [["0/000.png", 1]]}, "no label for 1 of 2 pictures.*0/001.png"),
        ({"labels": [["0/000.png", 1], ["0/001.png", -2]]}, "class id -2 of .*0/001.png"),
        ({"labels": [["0/000.png", 1.5], ["0/001.png", 2]]}, "class id 1.5 of .*0/000.png"),
        ({"labels": [["0/000.png", 0], ["0/001.png", [1]]]}, "all class ids .* or all vectors"),
        ({"labels": [["0/000.png", [1, 2]], ["0/001.png", [1]]]}, "vectors of one length"),
        ({"labels": [["0/000.png", "cat"], ["0/001.png", "dog"]]}, '"cat" of "0/000.png".* text'),
        ({"labels": [["0/000.png", [1]], ["0/001.png", [float("nan")]]]}, "finite"),
        ({"labels": [["0/000.png"]]}, "list of pairs"),
        ({"labels": 5}, "list of pairs"),
        ([], "must be an object"),
    ],
)
def test_refuses_bad_labels(tmp_path, content, words):
    extra = {} if content is None else {"dataset.json": json.dumps(content).encode()}
    dataset = ImageFolderDataset(
        make_set(tmp_path / "s.zip", pictures(2), extra=extra), use_labels=True
    )
    with pytest.raises(DatasetError, match=words) as caught:
        dataset[0]
    assert is_one_sentence(caught.value)


def test_refuses_broken_label_file_and_hints_at_a_misplaced_one(tmp_path):
    path = make_set(tmp_path / "s", pictures(1), extra={"dataset.json": b"{"})
    with pytest.raises(DatasetError, match="not valid JSON"):
        _ = ImageFolderDataset(path, use_labels=True).label_shape
    path = make_set(tmp_path / "t", pictures(1), extra={"0/dataset.json": b"{}"})
    with pytest.raises(DatasetError, match='there is one at "0/dataset.json"'):
        _ = ImageFolderDataset(path, use_labels=True).label_shape


def test_has_labels_can_be_asked_of_a_set_without(tmp_path):
    assert not ImageFolderDataset(make_set(tmp_path / "s", pictures(1)), use_labels=True).has_labels


def test_pickling_drops_what_a_new_process_must_open_itself(tmp_path):
    path = make_set(tmp_path / "s.zip", pictures(3), labels=[0, 1, 2])
    dataset = ImageFolderDataset(path, use_labels=True, xflip=True)
    assert dataset[2][1].tolist() == [0, 0, 1]
    clone = pickle.loads(pickle.dumps(dataset))
    assert clone._files._zip is None and clone._raw_labels is None
    np.testing.assert_array_equal(clone[5][0], dataset[5][0])
    assert clone[5][1].tolist() == [0, 0, 1]
    dataset.close()
    clone.close()
    np.testing.assert_array_equal(clone[0][0], dataset[0][0])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_read_the_same_archive(tmp_path, method):
    if method == "fork" and sys.platform == "win32":
        pytest.skip("no fork on this platform")
    images = pictures(64, height=16, width=16)
    path = make_set(tmp_path / "s.zip", images, labels=range(64))
    dataset = ImageFolderDataset(path, use_labels=True, cache_bytes=0)
    dataset[0]  # the archive is open when the workers start
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=4,
        num_workers=2 if method == "fork" else 1,  # a spawned worker takes seconds to start
        multiprocessing_context=method,
    )
    for _ in range(5 if method == "fork" else 1):
        batches = list(loader)
        got = torch.cat([image for image, _label in batches]).numpy()
        np.testing.assert_array_equal(got, images.transpose(0, 3, 1, 2))
        assert torch.cat([label for _image, label in batches]).argmax(1).tolist() == [*range(64)]


def test_error_in_a_worker_process_is_still_one_sentence(tmp_path):
    path = make_set(tmp_path / "s.zip", pictures(2), extra={"0/002.png": b"broken"})
    loader = torch.utils.data.DataLoader(ImageFolderDataset(path), num_workers=1)
    with pytest.raises(DatasetError, match="^cannot decode picture .*0/002.png") as caught:
        list(loader)
    assert is_one_sentence(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_endless_sampler_feeds_it(tmp_path):
    misc = pytest.importorskip("torch_utils.misc")
    dataset = ImageFolderDataset(make_set(tmp_path / "s.zip", pictures(6)), xflip=True)
    sampler = misc.InfiniteSampler(dataset=dataset, rank=0, num_replicas=1, seed=0)
    loader = iter(torch.utils.data.DataLoader(dataset, sampler=sampler, batch_size=4))
    drawn = torch.cat([next(loader)[0] for _ in range(6)])
    assert drawn.shape == (24, 3, 8, 8)
    assert len({image.numpy().tobytes() for image in drawn[:12]}) > 6


def test_subclass_supplies_pictures_and_labels():
    class Ramp(Dataset):
        def _load_raw_image(self, raw_idx: int) -> np.ndarray:
            return np.full([1, 4, 4], raw_idx, np.uint8)

        def _load_raw_labels(self) -> np.ndarray:
            return np.arange(3, dtype=np.int64)

    dataset = Ramp(name="ramp", raw_shape=[3, 1, 4, 4], use_labels=True)
    assert dataset[2][0].max() == 2 and dataset[2][1].tolist() == [0, 0, 1]
    wrong = Ramp(name="ramp", raw_shape=[4, 1, 4, 4], use_labels=True)
    with pytest.raises(ValueError, match="3 labels for 4 pictures"):
        _ = wrong.label_dim
    with pytest.raises(NotImplementedError, match="_load_raw_image"):
        Dataset(name="none", raw_shape=[1, 1, 2, 2])[0]


@pytest.mark.parametrize(
    ("image", "channels"),
    [
        (Image.new("1", (3, 2)), 1),
        (Image.new("L", (3, 2)), 1),
        (Image.new("I;16", (3, 2)), 1),
        (Image.new("LA", (3, 2)), 4),
        (Image.new("P", (3, 2)), 3),
        (Image.new("RGB", (3, 2)), 3),
        (Image.new("RGBA", (3, 2)), 4),
    ],
    ids=lambda value: getattr(value, "mode", None),
)
def test_colour_modes(image, channels):
    data = encode(image)
    assert decode_picture(data, "a").shape == (2, 3, channels)
    assert decode_picture(data, "a").dtype == np.uint8
    assert picture_shape(data, "a") == (2, 3, channels)


def test_rules_of_colour_conversion():
    black_white = decode_picture(encode(Image.new("1", (1, 1), 1)), "a")
    assert black_white.tolist() == [[[255]]]
    deep = Image.fromarray(np.array([[0, 128, 129, 32768, 65535]], np.uint16))
    expected = [[0], [0], [1], [128], [255]]  # round(value * 255 / 65535)
    assert decode_picture(encode(deep), "a")[0].tolist() == expected
    palette = Image.new("P", (1, 1), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert decode_picture(encode(palette), "a").tolist() == [[[10, 20, 30]]]
    transparent = decode_picture(encode(palette, transparency=1), "a")
    assert transparent.tolist() == [[[10, 20, 30, 0]]]
    cmyk = decode_picture(encode(Image.new("CMYK", (8, 8)), "tiff"), "a")
    assert cmyk.shape == (8, 8, 3) and (cmyk == 255).all()
    with pytest.raises(DatasetError, match="colour mode F"):
        decode_picture(encode(Image.new("F", (2, 2)), "tiff"), "a.tif")
    with pytest.raises(DatasetError, match="outside 0..65535"):
        decode_picture(encode(Image.new("I", (2, 2), 70000), "tiff"), "a.tif")


def test_photo_orientation_is_applied():
    pixels = np.zeros([8, 16, 3], np.uint8)
    pixels[:, 8:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to look at it
    data = encode(pixels, "jpeg", exif=exif, quality=95)
    turned = decode_picture(data, "a.jpg")
    assert turned.shape == picture_shape(data, "a.jpg") == (16, 8, 3)
    assert turned[:8].max() < 50 and turned[8:].min() > 200


def test_pyspng_and_pillow_agree(tmp_path, monkeypatch):
    pytest.importorskip("pyspng")
    for channels in (1, 3, 4):
        path = make_set(tmp_path / f"{channels}.zip", pictures(2, channels=channels))
        with_it = ImageFolderDataset(path)[1][0]
        with monkeypatch.context() as patch:
            patch.setattr("training.dataset.pyspng", None)
            np.testing.assert_array_equal(ImageFolderDataset(path)[1][0], with_it)


def test_missing_member_is_named(tmp_path):
    for target in ("s", "s.zip"):
        files = PictureFiles(make_set(tmp_path / target, pictures(1)))
        with pytest.raises(DatasetError, match="nowhere.png"):
            files.read("nowhere.png")
