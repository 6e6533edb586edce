"""The digits and the judge of the demo."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from analysis import digits

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def real() -> tuple[np.ndarray, np.ndarray]:
    return digits.load_digits()


def test_digits_are_the_enlarged_scans(real: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = real
    assert images.shape == (1797, 32, 32)
    assert images.dtype == np.uint8
    assert np.array_equal(np.unique(labels), np.arange(10))
    # The mean of each 4x4 block stays close to the scan's pixel; not equal: bicubic smooths.
    from sklearn.datasets import load_digits

    scans = load_digits().images.reshape(1797, -1) / 16
    assert np.corrcoef(digits.features(images).ravel(), scans.ravel())[0, 1] > 0.97


def test_written_files_are_in_their_class_folder(
    tmp_path, real: tuple[np.ndarray, np.ndarray]
) -> None:
    images, labels = real
    assert digits.write_digits(tmp_path) == 1797
    files = sorted(tmp_path.rglob("*.png"))
    assert len(files) == 1797
    for index in (0, 1000, 1796):
        file = tmp_path / str(labels[index]) / f"digit{index:04d}.png"
        picture = Image.open(file)
        assert picture.mode == "L"
        assert np.array_equal(np.asarray(picture), images[index])


def test_judge_knows_real_digits_but_not_wrong_labels(
    real: tuple[np.ndarray, np.ndarray],
) -> None:
    images, labels = real
    judge = digits.train_judge(images, labels)
    assert judge.holdout_accuracy > 0.97
    assert judge.recognition_rate(images, labels) > 0.98
    assert judge.recognition_rate(images, (labels + 1) % 10) < 0.01
    # Pictures of nothing get some answer, so a network that draws nothing is right by chance only.
    blank = np.zeros_like(images[:100])
    assert judge.recognition_rate(blank, np.arange(100) % 10) <= 0.1


def test_features_refuse_other_sizes() -> None:
    with pytest.raises(ValueError, match=r"\(3, 16, 16\)"):
        digits.features(np.zeros([3, 16, 16], np.uint8))


def test_diversity_is_one_for_the_real_digits_and_zero_for_a_single_picture(
    real: tuple[np.ndarray, np.ndarray],
) -> None:
    images, labels = real
    assert digits.diversity_ratios(images, labels, images, labels) == pytest.approx(np.ones(10))
    first = np.stack([images[labels == label][0] for label in range(10)])
    same = digits.diversity_ratios(first[labels], labels, images, labels)
    assert same == pytest.approx(np.zeros(10))
    # Half the contrast is half the spread; rounding to integers costs less than 2 %.
    half = digits.diversity_ratios(images // 2, labels, images, labels)
    assert half == pytest.approx(np.full(10, 0.5), rel=0.02)
