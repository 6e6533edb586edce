"""`ops.upfirdn2d`: numbers by hand, golden files, algebraic laws, choice of method, messages."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ops.upfirdn2d import (
    downsample2d,
    filter2d,
    plain,
    reference,
    setup_filter,
    upfirdn2d,
    upsample2d,
)
from tests.compare import assert_same_numbers
from tests.golden_files import arguments, cases

factors = st.tuples(st.integers(1, 3), st.integers(1, 3)).map(list)
paddings = st.lists(st.integers(-2, 4), min_size=4, max_size=4)
filters = st.one_of(
    st.lists(st.integers(-4, 4), min_size=1, max_size=4),
    st.lists(st.lists(st.integers(-4, 4), min_size=3, max_size=3), min_size=1, max_size=4),
)


def prepared(taps: list, separable: bool = False) -> torch.Tensor:
    separable = separable and not isinstance(taps[0], list)
    return setup_filter(taps, normalize=False, separable=separable)


def test_by_hand_one_axis() -> None:
    x = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    f = torch.tensor([[1.0, 10.0]])
    # A true convolution meets the taps in reverse: y[o] = 10 x[o] + x[o + 1].
    assert upfirdn2d(x, f).tolist() == [[[[12, 23]]]]
    assert upfirdn2d(x, f, flip_filter=True).tolist() == [[[[21, 32]]]]
    # Zeros come after each pixel: 1 0 2 0 3 0.
    assert upfirdn2d(x, f, up=[2, 1]).tolist() == [[[[10, 2, 20, 3, 30]]]]
    assert upfirdn2d(x, f, padding=[1, 0, 0, 0], down=[2, 1], gain=2).tolist() == [[[[2, 46]]]]
    assert upfirdn2d(x, None, padding=[-1, 1, 0, 0]).tolist() == [[[[2, 3, 0]]]]


def test_by_hand_both_axes() -> None:
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    box = setup_filter([1, 1])
    assert filter2d(x, box).tolist() == [[[[0.25, 0.75], [1, 2.5]]]]
    assert downsample2d(x, box).tolist() == [[[[2.5]]]]
    doubled = [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    assert upsample2d(x, box).tolist() == [[doubled]]


@pytest.mark.parametrize("impl", ["auto", "ref", "cuda"])
@pytest.mark.parametrize("index", range(6))
def test_golden(index: int, impl: str) -> None:
    data = dict(cases("upfirdn2d"))[str(index)]
    x, f = torch.from_numpy(data["x"]), torch.from_numpy(data["f"])
    args = arguments(data)
    flip, gain = args["flip_filter"], args["gain"]
    results = {
        "y": upfirdn2d(x, f, impl=impl, **args),
        "filter2d": filter2d(x, f, padding=1, flip_filter=flip, gain=gain, impl=impl),
        "upsample2d": upsample2d(x, f, flip_filter=flip, impl=impl),
        "downsample2d": downsample2d(x, f, flip_filter=flip, impl=impl),
    }
    for name, result in results.items():
        assert_same_numbers(result, torch.from_numpy(data[name]), 1e-6, name)


@given(
    taps=filters,
    separable=st.booleans(),
    up=factors,
    down=factors,
    padding=paddings,
    flip=st.booleans(),
    channels=st.sampled_from([1, 3, 16]),
    size=st.tuples(st.integers(4, 9), st.integers(4, 9)),
)
def test_any_arguments_equal_the_definition(
    taps, separable, up, down, padding, flip, channels, size
) -> None:
    x = torch.randn(2, channels, *size, dtype=torch.float64, requires_grad=True)
    f = prepared(taps, separable)
    results = []
    for impl in ("auto", "ref"):
        try:
            y = upfirdn2d(x, f, up, down, padding, flip, 1.7, impl)
        except (ValueError, RuntimeError) as error:
            results.append((str(error),))
            continue
        v = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y).requires_grad_()
        (gx,) = torch.autograd.grad(y, x, v, create_graph=True)
        (gv,) = torch.autograd.grad(gx, v, torch.cos(x.detach()))
        results.append((y, gx, gv))
    assert len(results[0]) == len(results[1])
    if len(results[0]) == 3:
        for actual, expected in zip(*results):
            assert_same_numbers(actual, expected, 1e-12)


@given(taps=filters, up=factors, down=factors, a=st.floats(-2, 2), b=st.floats(-2, 2))
def test_linear(taps, up, down, a, b) -> None:
    x, y = torch.randn(2, 1, 2, 7, 8, dtype=torch.float64)

    def op(image: torch.Tensor) -> torch.Tensor:
        return upfirdn2d(image, prepared(taps), up=up, down=down, padding=2)

    assert torch.allclose(op(a * x + b * y), a * op(x) + b * op(y), atol=1e-10)


@given(taps=filters, up=factors, down=factors, padding=paddings)
def test_the_gradient_is_the_adjoint(taps, up, down, padding) -> None:
    x = torch.randn(1, 2, 7, 8, dtype=torch.float64, requires_grad=True)
    y = upfirdn2d(x, prepared(taps), up=up, down=down, padding=padding)
    v = torch.randn_like(y)
    (gx,) = torch.autograd.grad(y, x, v)
    assert torch.allclose((y * v).sum(), (x * gx).sum(), atol=1e-9)


@given(first=st.lists(st.integers(-3, 3), min_size=1, max_size=4), down=st.integers(1, 3))
def test_two_filters_in_a_row_are_their_convolution(first, down) -> None:
    second = [1, 2, -1]
    x = torch.randn(1, 1, 13, 12, dtype=torch.float64)
    both = np.convolve(first, second).tolist()
    once = upfirdn2d(x, prepared(both), down=down)
    twice = upfirdn2d(upfirdn2d(x, prepared(first)), prepared(second), down=down)
    assert torch.allclose(once, twice, atol=1e-9)


@pytest.mark.parametrize("method", ["dense", "matmul", "depthwise"])
def test_every_method_computes_the_same(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 3, 6, 7, dtype=torch.float64, requires_grad=True)
    f = setup_filter([1, 3, 2, 1])
    args = dict(up=[2, 3], down=[3, 2], padding=[3, 2, -1, 4], gain=2)
    expected = reference.upfirdn2d(x, f, **args)
    v = torch.randn_like(expected)
    (expected_gradient,) = torch.autograd.grad(expected, x, v)
    monkeypatch.setattr(plain, "_fir_method", lambda *_: method)
    actual = upfirdn2d(x, f, **args)
    assert_same_numbers(actual, expected, 1e-6)
    assert_same_numbers(torch.autograd.grad(actual, x, v)[0], expected_gradient, 1e-6)


def test_methods_for_typical_layers() -> None:
    blur = tuple(setup_filter([1, 3, 3, 1]).flatten().tolist()), 4, 2
    skew = tuple(float(n * n) for n in range(9)), 3, 2
    assert plain._fir_method(blur, 128, (8, 8, 4, 4), (1, 1)) == "dense"
    assert plain._fir_method(blur, 64, (16, 16, 32, 32), (2, 2)) == "matmul"
    assert plain._fir_method(blur, 64, (32, 32, 33, 33), (1, 1)) == "depthwise"
    assert plain._fir_method(skew, 128, (8, 8, 4, 4), (1, 1)) == "depthwise"


def test_works_without_data() -> None:
    x = torch.empty(2, 3, 8, 8, device="meta")
    f = setup_filter([1, 3, 3, 1], device="meta")
    assert upsample2d(x, f).shape == (2, 3, 16, 16)


class TestSetupFilter:
    def test_outer_product_below_eight_taps(self) -> None:
        assert setup_filter([1, 3]).tolist() == [[1 / 16, 3 / 16], [3 / 16, 9 / 16]]
        assert setup_filter([1.0] * 8).shape == (8,)
        assert setup_filter([1.0] * 8, separable=False).shape == (8, 8)

    def test_no_filter_is_one_tap(self) -> None:
        assert setup_filter(None).tolist() == [[1]]
        assert setup_filter(5, normalize=False).tolist() == [[25]]

    def test_gain_counts_once_for_both_axes(self) -> None:
        assert setup_filter([[1, 1]], gain=4).sum() == 4
        assert setup_filter([1.0] * 8, gain=4).sum() == 2
        assert setup_filter([1, 2], normalize=False, flip_filter=True)[0, 0] == 4

    @pytest.mark.parametrize("kind", ["tensor", "array"])
    def test_the_argument_is_not_modified_nor_shared(self, kind: str) -> None:
        taps = torch.tensor([[1.0, 3.0]]) if kind == "tensor" else np.float32([[1, 3]])
        f = setup_filter(taps)
        same = setup_filter(taps, normalize=False)
        same += 1
        assert f.sum() == 1 and taps.tolist() == [[1, 3]]

    @pytest.mark.parametrize("taps", [[], [[[1.0]]]])
    def test_bad_shapes(self, taps: list) -> None:
        with pytest.raises(ValueError, match="1-D or 2-D"):
            setup_filter(taps)
        with pytest.raises(ValueError, match="needs a 1-D filter"):
            setup_filter([[1.0]], separable=True)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.ones(3, 4, 4)}, ValueError, r"\[N, C, H, W\], got \[3, 4, 4\]"),
        ({"x": torch.ones(1, 1, 4, 4, dtype=torch.int32)}, TypeError, "torch.int32"),
        ({"f": torch.ones(1, 1, 1)}, ValueError, r"\[1, 1, 1\]"),
        ({"f": torch.ones(2, 2, device="meta")}, ValueError, "on cpu like x, got meta"),
        ({"f": torch.ones(2, 2, requires_grad=True)}, ValueError, "no gradient for f"),
        ({"up": 0}, ValueError, "got 0"),
        ({"down": [1, 2, 3]}, ValueError, r"\[1, 2, 3\]"),
        ({"padding": [1, 2, 3]}, ValueError, r"\[1, 2, 3\]"),
        ({"padding": -2}, ValueError, "nothing left of 4x4 pixels"),
        ({"impl": "fast"}, ValueError, "auto, ref, cuda, cpp, got 'fast'"),
        (
            {"impl": "cpp", "x": torch.ones(1, 1, 4, 4).half()},
            RuntimeError,
            "cpp kernel does not compute in float16",
        ),
    ],
)
def test_messages(change: dict, error: type[Exception], message: str) -> None:
    args = {"x": torch.ones(1, 1, 4, 4), "f": torch.ones(2, 2)} | change
    with pytest.raises(error, match=message):
        upfirdn2d(**args)
