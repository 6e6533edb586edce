"""fourier: definition, gradients (also of the coordinates), refusals."""

from __future__ import annotations

import math

import pytest
import torch

from networks.fourier import grid_waves, point_waves
from ops.fourier import fourier


def test_hand_computed_case():
    u, v = torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0, 2.0])
    rows = torch.tensor([[math.pi / 2, math.pi]])
    sin, cos = fourier(u, v, rows)
    torch.testing.assert_close(
        sin, torch.tensor([[0.0, 1.0], [0.0, -1.0], [0.0, 1.0]]), rtol=0, atol=1e-6
    )
    torch.testing.assert_close(
        cos, torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]]), rtol=0, atol=1e-6
    )


def test_per_image_rows_and_phases_equal_one_call_per_image():
    u, v = torch.linspace(-1, 1, 5), torch.linspace(-1, 1, 3)
    rows, phase = torch.randn(4, 7, 2), torch.randn(4, 7)
    together = fourier(u, v, rows, phase)
    assert together.shape == (4, 14, 3, 5)
    apart = torch.stack([fourier(u, v, r, p) for r, p in zip(rows, phase)])
    torch.testing.assert_close(together, apart, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(5, 2), (2, 5, 2)])
@pytest.mark.parametrize("has_phase", [False, True])
def test_equals_the_definition_with_gradients(shape, has_phase):
    u, v = torch.linspace(-1, 3, 7), torch.linspace(-2, 1, 4)
    rows = (10 * torch.randn(shape)).requires_grad_()
    phase = torch.randn(shape[:-1]) if has_phase else None
    seen = torch.randn(*shape[:-2], 10, 4, 7)
    results = []
    for impl in ("auto", "ref"):
        y = fourier(u, v, rows, phase, impl=impl)
        results.append((y, *torch.autograd.grad((y * seen).sum(), rows)))
    for actual, expected in zip(*results):
        # Phases reach 100 radians, of which float32 keeps 1e-5.
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    exact = fourier(
        u.double(), v.double(), rows.double(), None if phase is None else phase.double()
    )
    assert (results[0][0] - exact).abs().max() <= 2 * (results[1][0] - exact).abs().max()


def test_gradients_of_first_and_second_order():
    inputs = [
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ([3], [2], [2, 2, 2], [2, 2])
    ]
    assert torch.autograd.gradcheck(fourier, inputs)
    assert torch.autograd.gradgradcheck(fourier, inputs)


@pytest.mark.parametrize(
    "u,v,rows,phase,words",
    [
        ([3], [2], [4, 3], None, "rows"),
        ([3], [2], [4, 2], [3], "does not fit"),
        ([3, 1], [2], [4, 2], None, "1-D"),
    ],
)
def test_refuses_shapes_that_do_not_fit(u, v, rows, phase, words):
    with pytest.raises(ValueError, match=words):
        fourier(
            torch.zeros(u),
            torch.zeros(v),
            torch.zeros(rows),
            None if phase is None else torch.zeros(phase),
        )


@pytest.mark.parametrize("batch", [(), (2,)])
def test_waves_of_one_and_three_coordinates(batch):
    """`networks.fourier.grid_waves` against the sines of every single point."""
    for num_coords in (1, 2, 3):
        coords = [torch.randn(n) for n in (4, 3, 2)][:num_coords]
        rows, phase = torch.randn(*batch, 5, num_coords), torch.randn(*batch, 5)
        waves = grid_waves(coords, rows, phase)
        grid = torch.stack(torch.meshgrid(*reversed(coords), indexing="ij")[::-1], -1)
        angle = rows @ grid.flatten(0, -2).t() + phase[..., None]
        expected = torch.cat([angle.sin(), angle.cos()], -2).unflatten(-1, grid.shape[:-1])
        torch.testing.assert_close(waves, expected, rtol=0, atol=1e-5)
        without = grid_waves(coords, rows)
        angle = angle - phase[..., None]
        expected = torch.cat([angle.sin(), angle.cos()], -2).unflatten(-1, grid.shape[:-1])
        torch.testing.assert_close(without, expected, rtol=0, atol=1e-5)
        points = [c[torch.randint(len(c), [6])] for c in coords]
        at = point_waves(points, rows, phase)
        assert at.shape == (*batch, 10, 1, 6)
        angle = rows @ torch.stack(points) + phase[..., None]
        torch.testing.assert_close(at[..., :5, 0, :], angle.sin(), rtol=0, atol=1e-5)
