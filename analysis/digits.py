"""A real image set that ships inside a package, and an independent judge of generated images.

The images are scikit-learn's handwritten digits: 1,797 scans of 8x8 pixels with values 0 to 16,
from the test part of the UCI "Optical Recognition of Handwritten Digits" set. They are enlarged to
32x32. The judge is a support vector machine on the 8x8 block averages; it sees real digits only.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image

import dnnlib

SIZE = 32
"""Side of the enlarged digits in pixels."""

CLASSES = 10
_SCAN_SIZE = 8
_SCAN_MAX = 16


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Load the digits, enlarged with a bicubic filter (Lanczos rings more around the strokes).

    Returns:
        images: uint8 [1797, 32, 32], 0 = background, 255 = ink.
        labels: int64 [1797], 0 to 9.

    Raises:
        dnnlib.UserError: scikit-learn is not installed.
    """
    scans = _sklearn("sklearn.datasets").load_digits()
    grey = np.rint(scans.images * (255 / _SCAN_MAX)).astype(np.uint8)
    enlarged = [Image.fromarray(i).resize((SIZE, SIZE), Image.Resampling.BICUBIC) for i in grey]
    return np.stack([np.asarray(i) for i in enlarged]), scans.target.astype(np.int64)


def write_digits(dest: Path) -> int:
    """Write the digits as greyscale PNG files, one sub-folder per class: `dest/7/digit0042.png`.

    Args:
        dest: folder, made if missing.

    Returns:
        Number of files.
    """
    images, labels = load_digits()
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = dest / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"digit{index:04d}.png")
    return len(images)


@dataclasses.dataclass(frozen=True)
class Judge:
    """A classifier of digits that was trained on real digits only.

    Attributes:
        model: a fitted scikit-learn classifier of `features` rows.
        holdout_accuracy: share of real digits recognised among those left out of its training.
    """

    model: object
    holdout_accuracy: float

    def classify(self, images: np.ndarray) -> np.ndarray:
        """Name the digit in each image: uint8 [N, 32, 32] -> int64 [N]."""
        return self.model.predict(features(images))

    def recognition_rate(self, images: np.ndarray, labels: np.ndarray) -> float:
        """Share (0 to 1) of images, uint8 [N, 32, 32], that are taken for their label, int [N]."""
        return float(np.mean(self.classify(images) == labels))


def train_judge(
    images: np.ndarray, labels: np.ndarray, holdout: float = 0.2, seed: int = 0
) -> Judge:
    """Fit the judge: a support vector machine with a radial basis function kernel.

    Args:
        images: real digits, uint8 [N, 32, 32].
        labels: int [N].
        holdout: share of each class that is left out of the training and measures the accuracy.
        seed: of the split.
    """
    split = _sklearn("sklearn.model_selection").train_test_split(
        features(images), labels, test_size=holdout, stratify=labels, random_state=seed
    )
    seen, unseen, seen_labels, unseen_labels = split
    model = _sklearn("sklearn.svm").SVC(kernel="rbf", C=10.0, gamma="scale")
    model.fit(seen, seen_labels)
    return Judge(model, float(model.score(unseen, unseen_labels)))


def features(images: np.ndarray) -> np.ndarray:
    """Averages over 4x4 blocks, 0 to 1: uint8 [N, 32, 32] -> float64 [N, 64], the scans' size.

    Raises:
        ValueError: images of another size.
    """
    if images.ndim != 3 or images.shape[1:] != (SIZE, SIZE):
        raise ValueError(f"digits are [N, {SIZE}, {SIZE}] arrays, got {images.shape}")
    block = SIZE // _SCAN_SIZE
    blocks = images.reshape(-1, _SCAN_SIZE, block, _SCAN_SIZE, block)
    return blocks.mean(axis=(2, 4)).reshape(len(images), -1) / 255


def diversity_ratios(
    generated: np.ndarray, generated_labels: np.ndarray, real: np.ndarray, real_labels: np.ndarray
) -> np.ndarray:
    """How varied the generated digits of each class are, relative to the real ones.

    For each class: the standard deviation of every pixel over the samples, averaged over the
    pixels, generated divided by real. 1 = as varied as the real digits, 0 = always one picture.

    Args:
        generated, real: uint8 [N, 32, 32].
        generated_labels, real_labels: int [N]; every class of the generated images needs at least
            one image in both.

    Returns:
        float64 [number of classes in generated_labels], in ascending order of the class.
    """

    def spread(images: np.ndarray, labels: np.ndarray, label: int) -> float:
        return float(images[labels == label].astype(np.float64).std(axis=0).mean())

    return np.array(
        [
            spread(generated, generated_labels, label) / spread(real, real_labels, label)
            for label in np.unique(generated_labels)
        ]
    )


def _sklearn(module: str) -> object:
    """Import a part of scikit-learn when it is needed: only the demo does."""
    import importlib

    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise dnnlib.UserError(
            "The demo needs scikit-learn, which is not installed: pip install -r requirements.txt"
        ) from error
