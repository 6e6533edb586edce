"""The paper's generators as functions of the coordinates: F(p) against a literal implementation.

`literal_image` does what the authors' description says, and shares nothing with the networks but
theta as one vector and the shared weights: for every block a grid of points, Fourier features,
layers on concatenations, nearest upsampling by repeating, to-RGBs summed, tanh. In float64.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from networks import build_generator
from networks.render import render_tiles

EXACT = 1e-12  # float64, the order of summation differs
PRESETS = ["inr-gan-vanilla", "inr-latent", "inr-hyper", "inr-fourier", "inr-fmm"]


def make(preset="inr-gan-vanilla", size=(16, 16), channels=3, **synthesis_kwargs):
    if preset == "inr-gan-vanilla":
        count = synthesis_kwargs.get("num_blocks", 2)
        synthesis_kwargs.setdefault("frequencies", [7 - k for k in range(count)])
        synthesis_kwargs.setdefault("widths", [9 - k for k in range(count)])
    elif preset in ("inr-fourier", "inr-fmm"):
        synthesis_kwargs.setdefault("num_frequencies", 6)
    torch.manual_seed(3)
    generator = build_generator(
        preset,
        z_dim=8,
        c_dim=0,
        w_dim=12,
        img_resolution=max(size),
        img_channels=channels,
        img_shape=(channels, *size),
        synthesis_kwargs={"channel_max": 10, **synthesis_kwargs},
    )
    return generator.double().eval().requires_grad_(False)


class Theta:
    """Hands out a vector from its beginning to its end."""

    def __init__(self, values):
        self.values, self.used = values, 0

    def take(self, *shape):
        self.used += math.prod(shape)
        return self.values[self.used - math.prod(shape) : self.used].reshape(shape)


def fmm_weight(theta, shared, rank=10):
    """W_s * 2 sigmoid(A B) and the bias as emitted."""
    outputs, inputs = shared.shape
    a, b = theta.take(outputs, rank), theta.take(rank, inputs)
    return shared * (2 / (1 + np.exp(-(a @ b)))), theta.take(outputs)


def grid(size, shape):
    """x and y of the pixels' upper left corners, [2, h, w]; units of the image's shorter side."""
    height, width = shape
    points = np.zeros((2, *size))
    for i in range(size[0]):
        for j in range(size[1]):
            points[:, i, j] = j / size[1] * width, i / size[0] * height
    return points / min(shape)


def fourier_features(theta, count, points):
    rows = 10 * theta.take(count, 2)
    phases = np.einsum("kc,chw->khw", rows, points)
    return np.concatenate([np.sin(phases), np.cos(phases)])


def linear(weight, x, bias):
    return np.einsum("oi,ihw->ohw", weight, x) + bias[:, None, None]


def repeat(x, size):
    """Nearest upsampling by whole factors."""
    factors = size[0] // x.shape[1], size[1] // x.shape[2]
    return x.repeat(factors[0], axis=1).repeat(factors[1], axis=2)


def to_rgb(theta, x, channels, num_rgb):
    scale = math.sqrt(2 / len(x)) / math.sqrt(num_rgb)
    weight, bias = theta.take(channels, len(x)), theta.take(channels)
    return linear(scale * weight, x, 0.2 * scale * bias)


def literal_image(synthesis, values, sizes):
    """The multi-scale model of one image, block k on a grid of sizes[k] = (h, w) points."""
    theta, channels, shape = Theta(values), synthesis.img_channels, synthesis.img_shape[1:]
    blocks = synthesis.blocks()
    has_rgb = [block.resolution >= 128 or block is blocks[-1] for block in blocks]
    x = image = None
    for block, size, rgb in zip(blocks, sizes, has_rgb, strict=True):
        f = fourier_features(theta, block.num_frequencies, grid(size, shape))
        steps = list(block.steps)
        if x is None:
            x = f
        else:
            total = 0
            for layer, inputs, where in zip(steps.pop(0).layers, (x, f), (size, None)):
                shared = layer.weight.numpy()
                weight, bias = fmm_weight(theta, shared)
                y = linear(weight, inputs, math.sqrt(1 / shared.shape[1]) * bias)
                total = total + (y if where is None else repeat(y, where))
            x = np.maximum(total, 0)
        for step in steps:
            if x is not f:
                x = np.concatenate([x, f])
            shared = step.layers[0].weight.numpy()
            weight, bias = fmm_weight(theta, shared)
            x = np.maximum(linear(weight, x, 0.2 * math.sqrt(2 / shared.shape[1]) * bias), 0)
        if image is not None:
            image = repeat(image, size)
        if rgb:
            own = to_rgb(theta, x, channels, sum(has_rgb))
            image = own if image is None else own + image
    assert theta.used == len(values)
    return np.tanh(image)


def literal_images(synthesis, ws, sizes):
    theta = synthesis.theta(ws).numpy()
    return torch.from_numpy(np.stack([literal_image(synthesis, t, sizes) for t in theta]))


def difference(a, b):
    assert a.shape == b.shape
    return float((a - b).abs().max())


def double_ws(generator, count=2):
    z = torch.randn(count, 8, generator=torch.Generator().manual_seed(4)).double()
    ws = generator.mapping(z, None)
    noise = torch.Generator().manual_seed(5)
    return ws + 0.1 * torch.randn(ws.shape, generator=noise).double()  # another w per layer


@pytest.mark.parametrize("num_blocks", [1, 2, 3])
def test_training_size_is_the_literal_grid(num_blocks):
    generator = make(num_blocks=num_blocks)
    ws = double_ws(generator)
    sizes = [(16 >> k, 16 >> k) for k in reversed(range(num_blocks))]
    expected = literal_images(generator.synthesis, ws, sizes)
    assert expected.std() > 0.05
    assert difference(generator.synthesis(ws), expected) < EXACT
    assert difference(generator.synthesis.render(ws), expected) < EXACT


@pytest.mark.parametrize("num_blocks", [2, 3])
def test_twice_the_size_is_the_literal_grid_with_a_denser_last_block(num_blocks):
    """The authors' super-resolution: earlier blocks keep their training grids."""
    generator = make(num_blocks=num_blocks)
    ws = double_ws(generator)
    sizes = [(16 >> k, 16 >> k) for k in reversed(range(num_blocks))]
    sizes[-1] = (32, 32)
    expected = literal_images(generator.synthesis, ws, sizes)
    assert difference(generator.synthesis.render(ws, size=32), expected) < EXACT


@pytest.mark.parametrize("scale", [Fraction(1, 2), 2])
def test_scaled_pyramid_is_the_literal_grid_with_all_blocks_scaled(scale):
    """The authors' grids for models whose whole pyramid follows the output size."""
    generator = make(num_blocks=3)
    ws = double_ws(generator)
    sizes = [(int(side * scale),) * 2 for side in (4, 8, 16)]
    expected = literal_images(generator.synthesis, ws, sizes)
    image = generator.synthesis.render(ws, size=sizes[-1], lod="scaled")
    assert difference(image, expected) < EXACT


def test_resolutions_with_several_rgbs():
    generator = make(size=(256, 256), channels=1, widths=[3, 2], layers_per_block=[2, 1])
    assert [block.torgb is not None for block in generator.synthesis.blocks()] == [True, True]
    ws = double_ws(generator, 1)
    expected = literal_images(generator.synthesis, ws, [(128, 128), (256, 256)])
    assert difference(generator.synthesis(ws), expected) < EXACT


@pytest.mark.parametrize("size", [(12, 20), (20, 8)])
def test_non_square_pixels_are_square(size):
    generator = make(size=size)
    ws = double_ws(generator)
    sizes = [tuple(side // 2 for side in size), size]
    expected = literal_images(generator.synthesis, ws, sizes)
    assert difference(generator.synthesis(ws), expected) < EXACT
    # Odd sides round the lattice up; every region can be drawn all the same.
    odd = make(size=(13, 11)).synthesis
    assert odd.lattices() == ((7, 13), (6, 11))
    image = odd.render(double_ws(make(size=(13, 11))), (-0.5, 0, 1.5, 1), (5, 9))
    assert image.shape == (2, 3, 5, 9) and image.isfinite().all()


@pytest.mark.parametrize("at", [(0.1, 0.7), (Fraction(-1, 3), Fraction(9, 8)), (0.0625, 2)])
def test_a_point_reads_the_cell_that_contains_it(at):
    """F(p): block 1 at floor(8 p) / 8, block 2 at p; cells continue outside the square."""
    generator = make()
    synthesis, ws = generator.synthesis, double_ws(generator)
    x, y = (Fraction(str(v)) if isinstance(v, float) else Fraction(v) for v in at)
    pixel = synthesis.render(ws, (x, y, x + Fraction(1, 7), y + 1), size=1)
    cell = [Fraction(math.floor(v * 8), 8) for v in (x, y)]
    for sample, values in enumerate(synthesis.theta(ws).numpy()):
        theta = Theta(values)
        low, high = synthesis.blocks()
        p = np.array([float(v) for v in cell]).reshape(2, 1, 1)
        f = fourier_features(theta, low.num_frequencies, p)
        h = f
        for index, step in enumerate(low.steps):
            shared = step.layers[0].weight.numpy()
            weight, bias = fmm_weight(theta, shared)
            inputs = np.concatenate([h, f]) if index else f
            h = np.maximum(linear(weight, inputs, 0.2 * math.sqrt(2 / shared.shape[1]) * bias), 0)
        p = np.array([float(x), float(y)]).reshape(2, 1, 1)
        f = fourier_features(theta, high.num_frequencies, p)
        total = 0
        for layer, inputs in zip(high.steps[0].layers, (h, f)):
            weight, bias = fmm_weight(theta, layer.weight.numpy())
            total = total + linear(weight, inputs, layer.weight.shape[1] ** -0.5 * bias)
        h = np.maximum(total, 0)
        for step in list(high.steps)[1:]:
            shared = step.layers[0].weight.numpy()
            weight, bias = fmm_weight(theta, shared)
            inputs = np.concatenate([h, f])
            h = np.maximum(linear(weight, inputs, 0.2 * math.sqrt(2 / shared.shape[1]) * bias), 0)
        expected = np.tanh(to_rgb(theta, h, 3, 1))
        assert np.abs(pixel[sample].numpy() - expected).max() < 1e-11


def baseline_layer(kind, layer, theta, latent, added):
    """Weight and bias of a layer of the single-scale models for one image."""
    if kind == "inr-latent":
        bias = layer.bias.numpy() + layer.latent_weight.numpy() @ latent
        return layer.weight.numpy(), bias
    scale = math.sqrt((1 if added else 2) / layer.in_channels)
    factor = scale if added else 0.2 * scale
    if kind == "inr-fmm":
        weight, bias = fmm_weight(theta, layer.weight.numpy())
    else:
        weight = scale * theta.take(layer.out_channels, layer.in_channels)
        bias = theta.take(layer.out_channels)
    return weight, factor * bias


def baseline_image(generator, values, points):
    """A single-scale model of one image at points [2, h, w], layer by layer."""
    kind, theta = generator.preset, Theta(values)
    (block,) = generator.synthesis.blocks()
    f = points
    if kind in ("inr-fourier", "inr-fmm"):
        f = fourier_features(theta, 6, points)
    x = f
    for number, step in enumerate(block.steps):
        latent = theta.take(10) if kind == "inr-latent" else None
        added = kind != "inr-latent" and number in (1, 3, 5)
        weight, bias = baseline_layer(kind, step.layers[0], theta, latent, added)
        y = linear(weight, x, bias)
        if added:
            weight, bias = baseline_layer(kind, step.layers[1], theta, latent, added)
            y = y + linear(weight, f, bias)
        x = np.maximum(y, 0)
        if number == 0 and kind == "inr-hyper":
            f = x
    if kind == "inr-latent":
        image = linear(block.torgb.weight.numpy(), x, block.torgb.bias.numpy())
    else:
        image = to_rgb(theta, x, 3, 1)
    assert theta.used == len(values)
    return np.tanh(image)


@pytest.mark.parametrize("preset", PRESETS[1:])
@pytest.mark.parametrize("size", [16, 32, 7])
def test_baselines_are_plain_functions_of_the_point(preset, size):
    generator = make(preset)
    ws = double_ws(generator)
    points = grid((size, size), (16, 16))
    theta = generator.synthesis.theta(ws).numpy()
    expected = torch.from_numpy(np.stack([baseline_image(generator, t, points) for t in theta]))
    assert expected.std() > 0.01
    for lod in ("fixed", "scaled"):
        assert difference(generator.synthesis.render(ws, size=size, lod=lod), expected) < EXACT


@pytest.mark.parametrize("preset", PRESETS)
def test_regions_tiles_and_denser_grids(preset):
    generator = make(preset)
    synthesis, ws = generator.synthesis, double_ws(generator)
    region = (Fraction(-1, 3), -0.25, 1.5, Fraction(5, 4))
    whole = synthesis.render(ws, region, (18, 33))
    tiles = list(render_tiles(synthesis, ws, region, (18, 33), tile_budget=2**14))
    assert len(tiles) > 3
    for top, left, pixels in tiles:
        height, width = pixels.shape[2:]
        part = whole[:, :, top : top + height, left : left + width]
        assert difference(pixels, part) < EXACT
    assert difference(synthesis.render(ws, region, (36, 66))[:, :, ::2, ::2], whole) < EXACT
    step = Fraction(11, 6) / 33
    left = Fraction(-1, 3) + 10 * step
    part = synthesis.render(ws, (left, -0.25, left + 7 * step, Fraction(5, 4)), (18, 7))
    assert difference(part, whole[:, :, :, 10:17]) < EXACT


@pytest.mark.parametrize("preset", PRESETS)
def test_single_precision_is_close(preset):
    generator = make(preset)
    ws = double_ws(generator)
    exact = generator.synthesis(ws)
    single = generator.float().synthesis(ws)
    assert single.dtype == torch.float32
    assert difference(single.double(), exact) < 1e-4


def test_a_third_of_a_pixel_reads_the_same_cells():
    generator = make()
    ws = double_ws(generator)
    third = generator.synthesis.render(ws, (0, 0, 1, 1), size=48)
    assert difference(third[:, :, ::3, ::3], generator.synthesis(ws)) < EXACT
