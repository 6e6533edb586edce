"""`ops.conv2d`: weight gradients are skipped while the switch says so, and only then."""

from __future__ import annotations

import importlib.util

import pytest
import torch
import torch.nn.functional as F

from ops.conv2d import conv2d, conv_transpose2d, gradfix, no_weight_gradients


@pytest.fixture
def enabled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradfix, "enabled", True)


def leaves() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    shapes = (2, 3, 5, 6), (3, 3, 3, 3), (3,)
    return tuple(torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in shapes)


def test_by_hand(enabled: None) -> None:
    x = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    w = torch.tensor([[[[10.0, 1.0]]]], requires_grad=True)
    assert conv2d(x, w).tolist() == [[[[12, 23]]]]
    assert conv_transpose2d(x, w).tolist() == [[[[10, 21, 32, 3]]]]
    assert conv2d(x, w[:, :, :, :1], padding="same").tolist() == [[[[10, 20, 30]]]]


def test_off_by_default() -> None:
    # A fresh copy of the module: training loops of other tests have switched the shared one on.
    spec = importlib.util.spec_from_file_location("fresh_gradfix", gradfix.__file__)
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    assert fresh.enabled is False
    assert fresh.weight_gradients_disabled is False


@pytest.mark.parametrize("op", [conv2d, conv_transpose2d])
def test_backward_inside_leaves_only_the_weight_without_gradient(op, enabled: None) -> None:
    x, w, b = leaves()
    y = op(x, w, b, padding=1)
    expected = torch.autograd.grad(y.square().sum(), (x, b), retain_graph=True)
    with no_weight_gradients():
        y.square().sum().backward(retain_graph=True)
    assert w.grad is None
    assert torch.equal(x.grad, expected[0]) and torch.equal(b.grad, expected[1])
    y.square().sum().backward()
    assert w.grad is not None


def test_forward_and_backward_inside_need_no_switch() -> None:
    x, w, b = leaves()
    with no_weight_gradients():
        conv2d(x, w, b).sum().backward()
    assert w.grad is None and x.grad is not None


def test_penalty_of_input_gradients_still_reaches_the_weight(enabled: None) -> None:
    gradients = []
    for op in (conv2d, F.conv2d):
        torch.manual_seed(0)
        x, w, b = leaves()
        y = torch.tanh(op(x, w, b, stride=2)).sum()
        with no_weight_gradients():
            (gx,) = torch.autograd.grad(y, x, create_graph=True)
        gx.square().sum().backward()
        gradients.append((x.grad, w.grad, b.grad))
    for actual, expected in zip(*gradients):
        torch.testing.assert_close(actual, expected)


def test_the_switch_returns_after_an_exception_and_nests() -> None:
    with pytest.raises(KeyError), no_weight_gradients():
        raise KeyError("stop")
    assert gradfix.weight_gradients_disabled is False
    with no_weight_gradients():
        with no_weight_gradients(disable=False):
            assert gradfix.weight_gradients_disabled is True
        assert gradfix.weight_gradients_disabled is True
    with no_weight_gradients(disable=False):
        assert gradfix.weight_gradients_disabled is False


@pytest.mark.parametrize("size", [5, 6, 7, 8])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_sizes_that_a_stride_does_not_divide(size: int, stride: int, enabled: None) -> None:
    x = torch.randn(1, 2, size, size + 1, dtype=torch.float64, requires_grad=True)
    w = torch.randn(3, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    actual = torch.autograd.grad(conv2d(x, w, stride=stride).square().sum(), (x, w))
    expected = torch.autograd.grad(F.conv2d(x, w, stride=stride).square().sum(), (x, w))
    for one, other in zip(actual, expected):
        torch.testing.assert_close(one, other)
