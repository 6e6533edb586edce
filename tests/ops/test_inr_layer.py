"""inr_layer and lattice_upsample: the fast path equals the definition, to second order."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from networks.fourier import axis_taps
from networks.lattice import Sampling, axis_levels, grid_points
from ops.inr_layer import AxisTaps, CoordFeatures, PointTaps, inr_layer, lattice_upsample

CPU = torch.device("cpu")


def make_taps(upsampling, lattices, start=0, stop=1, count=None, dtype=torch.float32) -> AxisTaps:
    points = grid_points(Fraction(start), Fraction(stop), count or lattices[-1])
    taps = axis_taps(axis_levels(points, lattices, Sampling(upsampling))[-1].taps, CPU)
    return taps._replace(weight=taps.weight.to(dtype))


def make_coords(n=2, height=3, width=5, dtype=torch.float32, grad=False) -> CoordFeatures:
    shapes = ([2, width], [3, height], [4, height, width], [n, 1, height, width])
    return CoordFeatures(*[torch.randn(s, dtype=dtype, requires_grad=grad) for s in shapes])


def test_upsampling_by_hand():
    x = torch.tensor([[[[0.0, 4.0]]]])
    row = AxisTaps(torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1), 1)
    bilinear = AxisTaps(torch.tensor([[0, 1]] * 3), torch.tensor([[1, 0], [0.5, 0.5], [0, 1]]), 2)
    y = lattice_upsample(x, row, bilinear._replace(weight=bilinear.weight.float()))
    torch.testing.assert_close(y, torch.tensor([[[[0.0, 2.0, 4.0]]]]))


@pytest.mark.parametrize("upsampling", ["nearest", "bilinear"])
@pytest.mark.parametrize(
    "lattices,start,stop,count",
    [
        pytest.param((4, 8), 0, 1, None, id="small-doubling"),
        pytest.param((32, 64), 0, 1, None, id="large-doubling"),
        pytest.param((32, 64), Fraction(-1, 3), Fraction(7, 5), 101, id="large-any"),
        pytest.param((40, 50), 0, 1, 13, id="fewer-points-than-cells"),
        pytest.param((1, 2), 0, 1, 1, id="one-point"),
    ],
)
def test_upsampling_equals_definition(upsampling, lattices, start, stop, count):
    rows = make_taps(upsampling, lattices, start, stop, count)
    cols = make_taps(upsampling, lattices, 0, 1, 17)
    for vertical, horizontal in ((rows, cols), (rows, rows), (cols, rows)):
        x = torch.randn(2, 3, vertical.size, horizontal.size)
        expected = lattice_upsample(x, vertical, horizontal, impl="ref")
        actual = lattice_upsample(x, vertical, horizontal)
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


@given(
    st.sampled_from(["nearest", "bilinear"]),
    st.fractions(-2, 2, max_denominator=50),
    st.integers(1, 40),
)
def test_upsampling_keeps_constants_and_is_linear(upsampling, start, count):
    taps = make_taps(upsampling, (32, 64), start, start + 1, count)
    x, y = torch.randn(2, 1, 2, taps.size, taps.size).unbind(0)
    ones = lattice_upsample(torch.ones_like(x), taps, taps)
    torch.testing.assert_close(ones, torch.ones_like(ones))
    torch.testing.assert_close(
        lattice_upsample(2 * x - y, taps, taps),
        2 * lattice_upsample(x, taps, taps) - lattice_upsample(y, taps, taps),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("act,clamp", [("lrelu", None), ("lrelu", 0.7), ("tanh", None)])
@pytest.mark.parametrize("with_coords", [False, True])
@pytest.mark.parametrize("with_taps", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (31, 37)])
def test_layer_equals_definition(act, clamp, with_coords, with_taps, size):
    height, width = size
    taps = None
    x = torch.randn(2, 6, height, width)
    if with_taps:
        taps = tuple(make_taps("bilinear", (20, 40), 0, Fraction(1, 3), n) for n in size)
        x = torch.randn(2, 6, taps[0].size, taps[1].size)
    coords = make_coords(2, height, width) if with_coords else None
    weight = torch.randn(2, 7, 6 + (10 if with_coords else 0))
    kwargs = {"taps": taps, "coords": coords, "act": act, "clamp": clamp}
    bias = torch.randn(7)
    actual = inr_layer(weight, x, bias, **kwargs)
    assert actual.shape == (2, 7, height, width)
    torch.testing.assert_close(
        actual,
        inr_layer(weight, x, bias, impl="ref", **kwargs),
        rtol=1e-4,
        atol=2e-5,  # sums of up to 16 products in another order
    )


@pytest.mark.parametrize("act,gain", [("relu", 1), ("relu", None), ("linear", None)])
@pytest.mark.parametrize(
    "with_features,with_coords,upsampling",
    [
        *[(True, coords, up) for coords in ("no", "own", "all") for up in (None, "nearest")],
        (True, "no", "bilinear"),
        (True, "all", "bilinear"),
        (False, "own", None),
        (False, "all", None),
    ],
)
def test_bias_per_image(act, gain, with_features, with_coords, upsampling):
    taps = upsampling and tuple(make_taps(upsampling, (8, 16), 0, 1, n) for n in (3, 5))
    coords = {"no": None, "own": make_coords()._replace(cols=None, rows=None, shared=None)}
    coords = coords.get(with_coords, make_coords())
    x = None
    if with_features:
        x = torch.randn(2, 6, taps[0].size, taps[1].size) if taps else torch.randn(2, 6, 3, 5)
    num_inputs = (6 if with_features else 0) + (coords.num_channels() if coords else 0)
    weight, bias = torch.randn(2, 7, num_inputs), torch.randn(2, 7)
    kwargs = {"taps": taps, "coords": coords, "act": act, "gain": gain}
    actual = inr_layer(weight, x, bias, **kwargs)
    expected = inr_layer(weight, x, bias, impl="ref", **kwargs)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=2e-5)
    one_by_one = [
        inr_layer(
            weight[i : i + 1],
            None if x is None else x[i : i + 1],
            bias[i],
            impl="ref",
            **{**kwargs, "coords": coords and coords._replace(own=coords.own[i : i + 1])},
        )
        for i in range(2)
    ]
    torch.testing.assert_close(actual, torch.cat(one_by_one), rtol=1e-4, atol=2e-5)


def test_layer_of_coordinates_only_and_sliced_features():
    coords = make_coords(2, 3, 5)
    weight = torch.randn(2, 7, 10)
    torch.testing.assert_close(
        inr_layer(weight, None, None, coords=coords),
        inr_layer(weight, None, None, coords=coords, impl="ref"),
        rtol=1e-5,
        atol=1e-5,
    )
    own = CoordFeatures(own=coords.own)
    torch.testing.assert_close(
        inr_layer(weight[:, :, :1], None, torch.ones(7), coords=own),
        inr_layer(weight[:, :, :1], None, torch.ones(7), coords=own, impl="ref"),
    )
    x = torch.randn(2, 4, 9, 11)[:, 1:, 2:5, ::2]
    torch.testing.assert_close(
        inr_layer(weight[:, :, :3], x), inr_layer(weight[:, :, :3], x.contiguous())
    )


@pytest.mark.parametrize("upsampling", ["nearest", "bilinear"])
def test_gradients_of_first_and_second_order(upsampling):
    double = torch.float64
    taps = (
        make_taps(upsampling, (4, 8), 0, Fraction(3, 8), 3, double),
        make_taps(upsampling, (4, 8), 0, Fraction(5, 8), 5, double),
    )
    coords = make_coords(2, 3, 5, double, grad=True)
    x = torch.randn(2, 2, taps[0].size, taps[1].size, dtype=double, requires_grad=True)
    weight = torch.randn(2, 3, 12, dtype=double, requires_grad=True)
    bias = torch.randn(3, dtype=double, requires_grad=True)

    def call(weight, x, bias, *parts):
        return inr_layer(weight, x, bias, taps=taps, coords=CoordFeatures(*parts), act="lrelu")

    assert torch.autograd.gradcheck(call, (weight, x, bias, *coords))
    assert torch.autograd.gradgradcheck(call, (weight, x, bias, *coords))


def test_bfloat16_is_no_worse_than_the_definition_in_bfloat16():
    taps = (make_taps("bilinear", (8, 16)),) * 2
    x = torch.randn(2, 32, taps[0].size, taps[1].size, dtype=torch.float64)
    coords = make_coords(2, 16, 16, torch.float64)
    weight, bias = torch.randn(2, 16, 42, dtype=torch.float64) / 6, torch.randn(16).double()
    kwargs = {"taps": taps, "act": "lrelu"}
    exact = inr_layer(weight, x, bias, coords=coords, impl="ref", **kwargs)

    def rounded(impl):
        low = torch.bfloat16
        y = inr_layer(
            weight.to(low),
            x.to(low),
            bias.to(low),
            coords=coords.to_dtype(low),
            impl=impl,
            **kwargs,
        )
        return (y.double() - exact).square().mean().sqrt().item()

    assert rounded("auto") <= 2 * rounded("ref")


def test_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="needs features"):
        inr_layer(torch.zeros(1, 2, 3))
    with pytest.raises(ValueError, match="5 input channels"):
        inr_layer(torch.zeros(1, 2, 3), torch.zeros(1, 5, 4, 4))
    with pytest.raises(ValueError, match=r"bias \[3\] for weight"):
        inr_layer(torch.zeros(1, 2, 5), torch.zeros(1, 5, 4, 4), torch.zeros(3))
    taps = make_taps("nearest", (4, 8))
    with pytest.raises(ValueError, match="4 x 4 lattice"):
        lattice_upsample(torch.zeros(1, 1, 5, 5), taps, taps)


def test_taps_matrix_is_the_same_map():
    taps = make_taps("bilinear", (6, 11), Fraction(-1, 7), Fraction(9, 8), 9)
    x = np.random.RandomState(0).randn(taps.size).astype(np.float32)
    expected = (taps.weight.numpy() * x[taps.index.numpy()]).sum(axis=1)
    np.testing.assert_allclose(
        taps.matrix(torch.float32).numpy() @ x, expected, rtol=1e-5, atol=1e-6
    )


def make_point_taps(num_taps, size=12, num_points=7, dtype=torch.float32):
    weight = torch.rand(num_points, num_taps, dtype=dtype) + 0.1
    weight = weight / weight.sum(1, keepdim=True)
    return PointTaps(torch.randint(size, [num_points, num_taps]), weight, size)


@pytest.mark.parametrize("num_taps", [1, 4])
def test_reading_at_points_equals_definition(num_taps):
    taps = make_point_taps(num_taps)
    x = torch.randn(2, 5, 3, 4)
    y = lattice_upsample(x, taps)
    assert y.shape == (2, 5, 1, 7)
    torch.testing.assert_close(y, lattice_upsample(x, taps, impl="ref"))
    by_hand = sum(x.flatten(2)[1, 2, i] * w for i, w in zip(taps.index[3], taps.weight[3]))
    torch.testing.assert_close(y[1, 2, 0, 3], by_hand)


@pytest.mark.parametrize("impl", ["auto", "ref"])
def test_layer_at_points_to_second_order(impl):
    taps = make_point_taps(4, dtype=torch.float64)
    shapes = ([2, 3, 9], [2, 5, 3, 4], [3], [4, 1, 7])
    tensors = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]
    share = taps.weight.clone().requires_grad_()

    def layer(weight, x, bias, shared, share):
        coords = CoordFeatures(shared=shared)
        reads = (taps._replace(weight=share),)
        return inr_layer(weight, x, bias, taps=reads, coords=coords, act="tanh", impl=impl)

    assert layer(*tensors, share).shape == (2, 3, 1, 7)
    assert torch.autograd.gradcheck(layer, (*tensors, share))
    assert torch.autograd.gradgradcheck(layer, (*tensors, share))


def test_refuses_taps_of_points_of_another_lattice():
    with pytest.raises(ValueError, match="12 values"):
        lattice_upsample(torch.zeros(1, 1, 3, 5), make_point_taps(4))


@pytest.mark.parametrize("num_axes", [1, 3])
@pytest.mark.parametrize("upsampling", ["nearest", "bilinear"])
@pytest.mark.parametrize("lattices", [(6, 12), (32, 64)])
def test_one_and_three_axes(num_axes, upsampling, lattices):
    taps = tuple(
        make_taps(upsampling, lattices, Fraction(1, 9), Fraction(1, 3), n) for n in (3, 4, 5)
    )[-num_axes:]
    size = [3, 4, 5][-num_axes:]
    x = torch.randn(2, 6, *[axis.size for axis in taps])
    y = lattice_upsample(x, *taps)
    assert y.shape == (2, 6, *size)
    torch.testing.assert_close(y, lattice_upsample(x, *taps, impl="ref"), rtol=1e-5, atol=1e-6)
    by_hand = x[1, 2].double()
    for axis in taps:  # each turn reads the first axis and puts it last
        by_hand = torch.tensordot(by_hand, axis.matrix(torch.float64), dims=([0], [1]))
    torch.testing.assert_close(y[1, 2].double(), by_hand, rtol=1e-5, atol=1e-6)

    tables = [torch.randn(2, n) for n in reversed(size)]  # cols, rows, slices
    cols, rows, slices = [*tables, None, None][:3]
    coords = CoordFeatures(cols, rows, torch.randn(4, *size), torch.randn(2, 1, *size), slices)
    dense = coords.dense(2, *size)
    assert coords.grid_size() == tuple(size) and coords.num_channels() == dense.shape[1]
    for axis, table in enumerate(tables):
        row = dense[1, 2 * axis].movedim(-1 - axis, -1).flatten(0, -2) if num_axes > 1 else dense[1]
        torch.testing.assert_close(row[0], table[0])
    weight, bias = torch.randn(2, 7, 6 + coords.num_channels()), torch.randn(7)
    kwargs = {"taps": taps, "coords": coords, "act": "lrelu"}
    actual = inr_layer(weight, x, bias, **kwargs)
    assert actual.shape == (2, 7, *size)
    expected = inr_layer(weight, x, bias, impl="ref", **kwargs)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=3e-5)
    tables_only = CoordFeatures(cols, rows, slices=slices)
    y = inr_layer(weight[:, :, : 2 * num_axes], coords=tables_only)
    assert y.shape == (2, 7, *size)


@pytest.mark.parametrize("clamp", [0.7, 0.3, 1.1])
def test_what_is_clipped_has_no_gradient_in_bfloat16(clamp: float):
    # No such limit is a bfloat16: what is stored is a little more or less.
    weight = torch.ones(1, 1, 1, dtype=torch.bfloat16)
    x = torch.linspace(-3, 3, 40).to(torch.bfloat16).reshape(1, 1, 4, 10).requires_grad_()
    y = inr_layer(weight, x, act="lrelu", gain=1, clamp=clamp)
    y.sum().backward()
    clipped = y.detach().abs() == torch.tensor(clamp).to(torch.bfloat16)
    assert clipped.any() and torch.equal(x.grad == 0, clipped)
