"""ContinuousField: the contract of the continuous image with one, two and three coordinates."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch

from networks.field import ContinuousField
from networks.inr import INRSynthesis
from networks.render import render_image, render_tiles

SHAPES = {1: (2, 24), 2: (2, 12, 16), 3: (2, 6, 8, 12)}
CASES = [(d, up) for d in SHAPES for up in ("nearest", "bilinear")]
CLOSE = {"rtol": 0, "atol": 2e-5}  # sums in another order; values are of the order of 1


def make(num_coords, upsampling="bilinear", **options):
    torch.manual_seed(num_coords)
    shape = SHAPES[num_coords]
    kwargs = {"channel_max": 8, "upsampling": upsampling, "largest_first": 8, **options}
    field = ContinuousField(6, shape, **kwargs).requires_grad_(False)
    for name, parameter in field.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter.data)
    return field


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def field(request):
    return make(*request.param)


def make_ws(field, count=2):
    return torch.randn(count, field.num_ws, 6, generator=torch.Generator().manual_seed(5))


def sides(field):
    return field.img_shape[1:]


def literal_value(field, theta, sample, point):
    """F at one point (x, y, z) of fractions, straight from the definition. Returns [C].

    Shares only the weights with the code under test.
    """
    unit = max(sides(field)) if field.blocks()[0].unit == "longest" else min(sides(field))
    extents = [Fraction(side, unit) for side in reversed(sides(field))]
    lattices = [tuple(reversed(cells)) for cells in zip(*field.lattices())]

    def block_value(level, p):
        block, weights = field.blocks()[level], theta[level]
        u = [float((2 * at - 1) * extent) for at, extent in zip(p, extents)]
        scales = [2.0**m * math.pi / 2 for m in range(block.octaves)]
        values = [f(s * along) for along in u for f in (math.sin, math.cos) for s in scales]
        angles = [sum(r * along for r, along in zip(row, u)) for row in block.shared_rows.tolist()]
        values += [f(angle) for f in (math.sin, math.cos) for angle in angles]
        if weights.rows is not None:
            rows, phases = weights.rows[sample].tolist(), weights.phase[sample].tolist()
            angles = [sum(r * a for r, a in zip(row, u)) + b for row, b in zip(rows, phases)]
            values += [f(angle) for f in (math.sin, math.cos) for angle in angles]
        h, signal = np.array(values), np.zeros(field.img_channels)
        if level > 0:
            below = lattices[level - 1]
            taps = []
            for at, cells in zip(p, below):
                if field.upsampling == "nearest":
                    taps.append([(math.floor(at * cells), 1.0)])
                    continue
                position = at * cells - Fraction(1, 2)
                first = math.floor(position)
                taps.append([(first, float(1 - position + first)), (first + 1, position - first)])
            context = 0
            for corner in product(*taps):
                share = math.prod(float(weight) for _cell, weight in corner)
                centre = [
                    Fraction(2 * cell + 1, 2 * cells) for (cell, _), cells in zip(corner, below)
                ]
                features, value = block_value(level - 1, centre)
                context, signal = context + share * features, signal + share * value
            h = np.concatenate([context, h])
        for layer, weight in zip(block.layers, weights.layers):
            h = weight[sample].double().numpy() @ h + layer.bias.double().numpy()
            h = np.where(h > 0, h, 0.2 * h) * math.sqrt(2)
        return h, signal + weights.rgb[sample].double().numpy() @ h + block.torgb.bias.numpy()

    return block_value(len(lattices) - 1, point)[1]


@pytest.mark.parametrize("unit", ["shortest", "longest"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_is_the_definition(case, unit):
    field = make(*case, unit=unit)
    ws, theta = make_ws(field), field.compose(make_ws(field))
    point = [Fraction(5, 7), Fraction(-1, 9), Fraction(1, 3)][: case[0]]
    tiny = Fraction(1, 1000)
    region = [p - tiny for p in point] + [p + tiny for p in point]
    drawn = field.render(ws, region, size=1)
    assert drawn.shape == (2, 2, *[1] * case[0])
    at = torch.tensor([[float(p) for p in point]], dtype=torch.float64)
    by_point = field.render(ws, points=at)[:, :, 0]
    for sample in range(2):
        expected = literal_value(field, theta, sample, point)
        np.testing.assert_allclose(drawn[sample].flatten(), expected, rtol=0, atol=1e-4)
        np.testing.assert_allclose(by_point[sample], expected, rtol=0, atol=1e-4)


def test_the_whole_at_training_size(field):
    ws = make_ws(field)
    signal = field(ws)
    assert signal.shape == (2, *field.img_shape) and signal.dtype == torch.float32
    assert torch.equal(field.render(ws), signal)
    torch.testing.assert_close(field.render(ws[1:]), signal[1:], **CLOSE)
    assert 0.05 < signal.std() < 20


def test_a_denser_grid_contains_the_coarser_one(field):
    ws = make_ws(field)
    dense = field.render(ws, size=[3 * side for side in sides(field)])
    middle = dense[(..., *[slice(1, None, 3)] * len(sides(field)))]
    torch.testing.assert_close(middle, field(ws), **CLOSE)
    before = dense[(..., *[slice(0, None, 3)] * len(sides(field)))]
    assert (before - middle).abs().max() > 1e-2  # not the same samples three times


def test_a_part_of_a_larger_evaluation_equals_that_part(field):
    ws, num = make_ws(field), len(sides(field))
    size = (9, 10, 14)[:num]
    whole = field.render(ws, [-1] * num + [2] * num, size)
    ends = [(Fraction(3 * 2, n) - 1, Fraction(3 * (n - 3), n) - 1) for n in reversed(size)]
    region = [start for start, _ in ends] + [stop for _, stop in ends]
    part = field.render(ws, region, [n - 5 for n in size])
    torch.testing.assert_close(part, whole[(..., *[slice(2, -3)] * num)], **CLOSE)
    small_tiles = render_image(field, ws, [-1] * num + [2] * num, size, tile_budget=2**13)
    torch.testing.assert_close(small_tiles, whole, **CLOSE)


def test_lod_scaled_and_any_size(field):
    ws, num = make_ws(field), len(sides(field))
    assert torch.equal(field.render(ws, lod="scaled"), field(ws))
    halves = [side // 2 for side in sides(field)]
    small = field.render(ws, size=halves, lod="scaled")
    assert small.shape[2:] == tuple(halves)
    assert not torch.allclose(small, field.render(ws, size=halves))
    assert field.render(ws, size=(7, 5, 3)[:num]).shape == (2, 2, *(7, 5, 3)[:num])
    assert field.render(ws, size=5).shape == (2, 2, *[5] * num)


def test_points_are_those_of_the_grid(field):
    ws = make_ws(field)
    axes = [(torch.arange(n, dtype=torch.float64) + 0.5) / n for n in sides(field)]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], -1).flatten(0, -2)
    order = torch.randperm(len(grid), generator=torch.Generator().manual_seed(0))
    values = field.render(ws, points=grid[order])
    torch.testing.assert_close(values, field(ws).flatten(2)[:, :, order], **CLOSE)
    own = torch.stack([grid[:5], grid[-5:]])
    expected = torch.stack([field(ws)[0].flatten(1)[:, :5], field(ws)[1].flatten(1)[:, -5:]])
    torch.testing.assert_close(field.render(ws, points=own), expected, **CLOSE)


@pytest.mark.parametrize("num_coords", [1, 3])
def test_gradient_with_respect_to_points(num_coords):
    field = make(num_coords).double()
    ws = make_ws(field).double()
    points = torch.rand(4, num_coords, dtype=torch.float64) * 0.9 + 0.01
    points.requires_grad_()
    (gradient,) = torch.autograd.grad(field.render(ws, points=points).sum(), points)
    for axis in range(num_coords):
        step = torch.zeros(num_coords, dtype=torch.float64)
        step[axis] = 1e-6
        with torch.no_grad():
            ahead, behind = (
                field.render(ws, points=points + s * step).double().sum((0, 1)) for s in (1, -1)
            )
        slope = (ahead - behind) / 2e-6
        torch.testing.assert_close(slope, gradient[:, axis], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("num_coords", SHAPES)
def test_weights_and_w_get_gradients(num_coords):
    field = make(num_coords).requires_grad_(True)
    ws = make_ws(field).requires_grad_()
    field(ws).square().mean().backward()
    for tensor in (ws, *field.parameters()):
        assert tensor.grad is not None and tensor.grad.isfinite().all() and tensor.grad.any()


@pytest.mark.parametrize("upsampling", ["nearest", "bilinear"])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 12, 20)])
def test_two_coordinates_are_the_image_generators(upsampling, shape):
    options = {"channel_base": 256, "channel_max": 16, "upsampling": upsampling}
    torch.manual_seed(0)
    image = INRSynthesis(6, max(shape), shape[0], img_shape=shape, **options)
    torch.manual_seed(0)
    field = ContinuousField(6, shape, **options)
    assert list(field.state_dict()) == list(image.state_dict())
    ws = make_ws(field)
    region = (-0.25, 0, 1, 2)
    for settings in ({}, {"region": region, "size": (9, 7)}, {"lod": "scaled", "size": (5, 5)}):
        assert torch.equal(field.render(ws, **settings), image.render(ws, **settings))


def test_a_flat_picture_is_not_a_sound():
    """One row of pixels has two coordinates, so features of y; a sound has none."""
    sound, picture = ContinuousField(4, (1, 16)), ContinuousField(4, (1, 1, 16))
    of_x = 2 * (2 + 64)  # 2 octaves, 64 predicted rows
    assert sound.b4.layers[0].in_channels == of_x
    # 2 octaves of y, and 2 diagonals for each octave
    assert picture.b4.layers[0].in_channels == of_x + 2 * 2 + 2 * 2 * 2


def test_lattices():
    assert ContinuousField(4, (1, 3, 64, 40)).lattices() == ((1, 2, 3), (16, 32, 64), (10, 20, 40))
    assert ContinuousField(4, (1, 100)).lattices() == ((25, 50, 100),)
    assert ContinuousField(4, (1, 999), largest_first=300).lattices() == ((250, 500, 999),)


def test_refuses_other_signals():
    for shape in ((1,), (1, 8, 8, 8, 8)):
        with pytest.raises(ValueError, match="one, two or three coordinates"):
            ContinuousField(4, shape)
    with pytest.raises(ValueError, match="at least 4 pixels, not 3x2x1"):
        ContinuousField(4, (1, 1, 2, 3))
    with pytest.raises(ValueError, match="unit"):
        ContinuousField(4, (1, 8), unit="metre")
    sound, volume = make(1), make(3)
    with pytest.raises(ValueError, match=r"region must be \(x0, x1\)"):
        sound.render(make_ws(sound), (0, 0, 1, 1))
    with pytest.raises(ValueError, match="x0 < x1 and y0 < y1 and z0 < z1"):
        volume.render(make_ws(volume), (0, 0, 1, 1, 1, 1))
    with pytest.raises(TypeError, match=r"three integers \(D, H, W\)"):
        volume.render(make_ws(volume), size=(4, 4))
    with pytest.raises(ValueError, match="at least 1 x 1 x 1 pixels, got 4 x 0 x 2"):
        volume.render(make_ws(volume), size=(4, 0, 2))
    with pytest.raises(ValueError, match=r"\[P, 3\]"):
        volume.render(make_ws(volume), points=torch.zeros(4, 2))
    with pytest.raises(ValueError, match="do not go together"):
        sound.render(make_ws(sound), (0, 2), points=torch.zeros(4, 1))
    with pytest.raises(ValueError, match="two coordinates"):
        next(render_tiles(sound, make_ws(sound)))
