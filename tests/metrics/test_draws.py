"""Random numbers that belong to samples, and images as detectors take them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dnnlib import UserError
from metrics import draws
from metrics.pictures import to_rgb


def test_numbers_belong_to_samples() -> None:
    whole = draws.normal(5, draws.LATENT, range(10), 7)
    assert whole.shape == (10, 7) and whole.dtype == torch.float32
    assert torch.equal(draws.normal(5, draws.LATENT, [8, 2], 7), whole[[8, 2]])
    for seed, purpose in ((6, draws.LATENT), (5, draws.LATENT_END)):
        assert not torch.isin(draws.normal(seed, purpose, range(10), 7), whole).any()
    assert not torch.isin(whole[1:], whole[:1]).any()


def test_distributions() -> None:
    normal = draws.normal(0, draws.LATENT, range(500), 40).double()
    assert abs(normal.mean()) < 0.03 and abs(normal.std() - 1) < 0.03
    uniform = draws.uniform(0, draws.POSITION, range(4000)).double()
    assert uniform.min() >= 0 and uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 0.03 and abs(uniform.var() - 1 / 12) < 0.005


def test_labels_are_those_of_random_items() -> None:
    class Labels:
        def __len__(self) -> int:
            return 6

        def get_label(self, index: int) -> np.ndarray:
            return np.eye(6, dtype=np.float32)[index]

    found = draws.labels(0, range(600), Labels())
    assert torch.equal(draws.labels(0, [17], Labels()), found[17:18])
    assert (found.sum(dim=0) - 100).abs().max() < 40


def test_noise_belongs_to_samples() -> None:
    state = torch.get_rng_state()
    with draws.SampleNoise(0, [3, 4, 3]):
        first = torch.randn(3, 1, 5, 5)
        second = torch.randn([3, 1, 5, 5], device="cpu")
        third = torch.randn(size=(3,), dtype=torch.float64)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first[0], first[2]) and not torch.equal(first[0], first[1])
    assert not torch.equal(first, second)
    assert third.shape == (3,) and third.dtype == torch.float64
    with draws.SampleNoise(0, [4]):
        assert torch.equal(torch.randn(1, 1, 5, 5), first[1:2])
    assert abs(torch.cat([first, second]).std() - 1) < 0.3


def test_other_random_numbers_pass() -> None:
    with draws.SampleNoise(0, [3, 4, 3]) as noise:
        assert torch.randn(2, 2).shape == (2, 2)
        found = torch.randn(3, 2, generator=torch.Generator().manual_seed(9))
        assert not noise.used
        torch.randn(3, 2)
        assert noise.used
    assert torch.equal(found, torch.randn(3, 2, generator=torch.Generator().manual_seed(9)))


def test_grey_is_repeated_and_rgb_stays() -> None:
    grey = torch.randint(0, 256, [2, 1, 3, 5], dtype=torch.uint8)
    assert torch.equal(to_rgb(grey), grey.expand(2, 3, 3, 5))
    colour = torch.rand(2, 3, 3, 5)
    assert to_rgb(colour) is colour


@given(st.integers(0, 255), st.integers(0, 255))
def test_transparency_is_laid_over_white(value: int, alpha: int) -> None:
    pixels = torch.tensor([value, value, value, alpha], dtype=torch.uint8).reshape(1, 4, 1, 1)
    exact = (value * alpha + 255 * (255 - alpha)) / 255
    found = to_rgb(pixels)
    assert found.dtype == torch.uint8 and abs(found[0, 0].item() - exact) <= 0.5
    found = to_rgb(pixels.to(torch.float32))
    assert torch.allclose(found, torch.full([1, 3, 1, 1], exact), atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 2, 4, 4), (3, 4, 4), (1, 5, 4, 4)])
def test_other_images_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="1, 3 or 4 channels"):
        to_rgb(torch.zeros(shape))
