"""`ops.grid_sample`: numbers by hand, gradients of the grid, adjointness, messages."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from ops.grid_sample import grid_sample


def test_by_hand() -> None:
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    # Centres of the pixels are at -1/2 and 1/2; outside is zero.
    points = torch.tensor([[-0.5, -0.5], [0.5, -0.5], [0.0, 0.5], [0.0, 0.0], [1.0, 0.5], [9, 9]])
    assert grid_sample(x, points[None, None]).flatten().tolist() == [1, 2, 3.5, 2.5, 2, 0]


@given(seed=st.integers(0, 100), size=st.tuples(st.integers(1, 6), st.integers(1, 6)))
def test_the_gradient_is_the_adjoint(seed, size) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64, requires_grad=True)
    grid = torch.rand(2, 4, 5, 2, generator=generator, dtype=torch.float64) * 3 - 1.5
    y = grid_sample(x, grid)
    v = torch.randn(y.shape, generator=generator, dtype=torch.float64, requires_grad=True)
    (gx,) = torch.autograd.grad(y, x, v, create_graph=True)
    assert torch.allclose((y * v).sum(), (gx * x).sum())
    (back,) = torch.autograd.grad(gx, v, torch.ones_like(gx), create_graph=True)
    assert torch.allclose(back, grid_sample(torch.ones_like(x), grid))
    assert not back.requires_grad


def test_third_order_through_a_nonlinear_function() -> None:
    x = torch.randn(1, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    grid = torch.rand(1, 3, 3, 2, dtype=torch.float64) * 2 - 1

    def gradient(image: torch.Tensor) -> torch.Tensor:
        y = grid_sample(image, grid).pow(4).sum()
        return torch.autograd.grad(y, image, create_graph=True)[0]

    assert torch.autograd.gradgradcheck(gradient, x)


def test_gradients_of_the_grid() -> None:
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    grid = (torch.rand(1, 3, 3, 2, dtype=torch.float64) * 1.6 - 0.8).requires_grad_()
    assert torch.autograd.gradcheck(grid_sample, (x, grid))
    y = F.grid_sample(x, grid, align_corners=False).square().sum()
    expected = torch.autograd.grad(y, grid)[0]
    actual = torch.autograd.grad(grid_sample(x, grid).square().sum(), grid)[0]
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(
    ("x", "grid", "message"),
    [
        (torch.ones(1, 2, 3), torch.ones(1, 2, 2, 2), r"\[N, C, H, W\], got \[1, 2, 3\]"),
        (torch.ones(2, 1, 3, 3), torch.ones(1, 2, 2, 2), r"\[2, H, W, 2\], got \[1, 2, 2, 2\]"),
        (torch.ones(1, 1, 3, 3), torch.ones(1, 2, 2, 3), r"got \[1, 2, 2, 3\]"),
    ],
)
def test_messages(x: torch.Tensor, grid: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grid_sample(x, grid)
