"""`ops.fma`: numbers by hand, broadcasting, mixed precision."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ops.fma import fma

shapes = st.lists(st.sampled_from([1, 3]), max_size=3)


def test_by_hand() -> None:
    a, b, c = torch.tensor([1.0, 2.0]), torch.tensor([[3.0], [4.0]]), torch.tensor(10.0)
    assert fma(a, b, c).tolist() == [[13, 16], [14, 18]]


@given(a=shapes, b=shapes, c=shapes)
def test_broadcasts_and_its_gradients_have_the_arguments_shapes(a, b, c) -> None:
    args = [torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in (a, b, c)]
    y = fma(*args)
    expected = args[0] * args[1] + args[2]
    torch.testing.assert_close(y, expected)
    gradients = torch.autograd.grad(y.sum(), args)
    for actual, wanted in zip(gradients, torch.autograd.grad(expected.sum(), args)):
        torch.testing.assert_close(actual, wanted)


def test_mixed_precision_promotes() -> None:
    y = fma(torch.ones(2).half(), torch.ones(2), torch.ones(2).half())
    assert y.dtype == torch.float32


def test_messages() -> None:
    one = torch.ones(1)
    with pytest.raises(ValueError, match="fma: impl must be one of .* got 'fast'"):
        fma(one, one, one, impl="fast")
