"""metrics.pictures: transparent pixels are the same colour as in the data sets and the films."""

from __future__ import annotations

import numpy as np
import torch

from metrics.pictures import to_rgb
from training.dataset_transform import force_channels


def test_white_under_transparency_is_that_of_the_data_sets() -> None:
    """All 65,536 pairs of colour and alpha, to the last bit; floating point likewise if rounded."""
    colour, alpha = np.meshgrid(np.arange(256), np.arange(256))
    picture = np.stack([colour, colour, 255 - colour, alpha], axis=-1).astype(np.uint8)
    images = torch.from_numpy(picture).permute(2, 0, 1)[None]
    expected = torch.from_numpy(force_channels(picture, 3).copy()).permute(2, 0, 1)[None]
    assert torch.equal(to_rgb(images), expected)
    assert torch.equal(to_rgb(images.to(torch.float64)).round().to(torch.uint8), expected)
