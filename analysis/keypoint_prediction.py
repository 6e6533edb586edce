"""How linear the geometry of images is in the latent code: keypoint prediction loss (KPL).

Skorokhodov et al., "Adversarial Generation of Continuous Images", algorithm 1 and table 3: a linear
map with intercept from codes to the keypoints of their images is fitted by least squares to many
generated images, and scored by the squared error on others. Keypoints are in units of the image, so
that the size of the picture does not count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

import dnnlib
from analysis import plots
from analysis.keypoint_examples import Examples

RANDOM = "random"
CONSTANT = "constant"


@dataclass(frozen=True)
class LinearMap:
    """y = x @ weight + intercept.

    Attributes:
        weight: [D, P].
        intercept: [P].
    """

    weight: np.ndarray
    intercept: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """[N, D] -> [N, P]."""
        return x @ self.weight + self.intercept


def fit(x: np.ndarray, y: np.ndarray) -> LinearMap:
    """The linear map with intercept of the least squared error.

    Args:
        x: [N, D]; where its columns depend on each other, the smallest weights are taken.
        y: [N, P].
    """
    x_mean, y_mean = x.mean(0), y.mean(0)
    weight = np.linalg.lstsq(x - x_mean, y - y_mean, rcond=None)[0]
    return LinearMap(weight, y_mean - x_mean @ weight)


def squared_errors(predicted: np.ndarray, keypoints: np.ndarray) -> dict[str, float]:
    """Both readings of the loss.

    Args:
        predicted: [N, 2 K].
        keypoints: [N, K, 2].

    Returns:
        sum_squared_error: over images and coordinates, as algorithm 1 writes it.
        mean_squared_error: over images and coordinates, the size of the numbers in table 3.
    """
    errors = np.square(predicted - keypoints.reshape(len(keypoints), -1))
    return {"sum_squared_error": float(errors.sum()), "mean_squared_error": float(errors.mean())}


def study(
    train: Examples, test: Examples, spaces: Sequence[str], control: bool = True, seed: int = 0
) -> list[dict[str, Any]]:
    """One row per space, then the controls.

    Args:
        train, test: Examples without nan.
        spaces: Which codes to use.
        control: Also fit to codes that were given to the wrong images ("random z", "random w").
            What remains above the loss of "constant", the mean keypoints, is overfitting.
        seed: Of the permutation.

    Returns:
        Rows of space, dimension (of the codes), see `squared_errors` for the test's numbers, and
        train_mean_squared_error.
    """
    targets = train.keypoints.reshape(len(train), -1)
    order = np.random.default_rng(seed).permutation(len(train))
    cases = [(space, space, slice(None)) for space in spaces]
    if control:
        cases += [(f"{RANDOM} {space}", space, order) for space in spaces]
    rows = []
    for name, space, rearranged in cases:
        codes = train.codes[space].astype(np.float64)[rearranged]
        model = fit(codes, targets)
        rows.append(
            {
                "space": name,
                "dimension": codes.shape[1],
                **squared_errors(model(test.codes[space].astype(np.float64)), test.keypoints),
                "train_mean_squared_error": float(np.square(model(codes) - targets).mean()),
            }
        )
    mean = targets.mean(0)
    rows.append(
        {
            "space": CONSTANT,
            "dimension": 0,
            **squared_errors(np.tile(mean, [len(test), 1]), test.keypoints),
            "train_mean_squared_error": float(np.square(targets - mean).mean()),
        }
    )
    return rows


def check_number(found: int, spaces: Sequence[str], dimensions: Mapping[str, int]) -> None:
    """Raises a `dnnlib.UserError` if there are too few examples for a fit to mean anything."""
    for space in spaces:
        if found <= dimensions[space] + 1:
            raise dnnlib.UserError(
                f"{found} training images with keypoints are too few to fit a linear map of the "
                f"{dimensions[space]} numbers of {space}; use a larger --num-train."
            )


def plot(rows: Sequence[dict[str, Any]], title: str) -> Image.Image:
    """One bar per row: the mean squared error."""
    heights = {row["space"]: row["mean_squared_error"] for row in rows}
    axis = plots.Axis("mean squared error", 0.0, 1.12 * max(heights.values()) or 1.0)
    return plots.bar_plot(heights, axis, title)
