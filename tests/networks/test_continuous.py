"""The contract of the continuous image, for every continuous preset, and its definition.

`literal_value` evaluates F of inr-gan and inr-gan-bil at one point by following the definition
with fractions and one matrix-vector product per layer, sharing nothing with the rendering code but
the weights. (The published presets have theirs in test_published.py, the paper's in
test_hyper_render.py.)
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from networks import build_generator
from networks.presets import PRESETS
from networks.published_config import published_cfg
from networks.render import render_tiles

LITERAL = ["inr-gan", "inr-gan-bil"]
PUBLISHED = {"inr-gan-published": "nearest", "inr-gan-bil-published": "bilinear"}
CONTINUOUS = [name for name, preset in PRESETS.items() if preset.continuous]
SINGLE_SCALE = [name for name in CONTINUOUS if PRESETS[name].family == "singlescale"]
CLOSE = {"rtol": 0, "atol": 2e-5}  # sums in another order; values are of the order of 1


def small_cfg(upsampling, first_lattice):
    """A published configuration with few table entries: lattices from first_lattice to 32."""
    cfg = published_cfg(upsampling)
    cfg["input"]["resolution"] = first_lattice
    for coords in (cfg["coords"], cfg["input"]["coord_fuser_cfg"]):
        for entry in coords["res_configs"].values():
            entry.update(const_emb_size=4, random_emb_size=3)
    return cfg


def make_network(preset):
    torch.manual_seed(1)
    options = {"cfg": small_cfg(PUBLISHED[preset], 8)} if preset in PUBLISHED else {}
    if preset == "inr-gan-vanilla":
        options["frequencies"] = (16, 12)
    elif preset in ("inr-fourier", "inr-fmm"):
        options["num_frequencies"] = 16
    generator = build_generator(
        preset,
        z_dim=16,
        c_dim=0,
        w_dim=16,
        img_resolution=32,
        img_channels=3,
        mapping_kwargs={"num_layers": 2},
        synthesis_kwargs={"channel_base": 512, "channel_max": 16, **options},
    )
    for name, parameter in generator.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter.data)
    return generator.eval().requires_grad_(False)


@pytest.fixture(scope="module", params=CONTINUOUS)
def network(request):
    return make_network(request.param)


@pytest.fixture(scope="module", params=LITERAL)
def own_network(request):
    return make_network(request.param)


@pytest.fixture(scope="module")
def ws(network):
    return network.mapping(torch.randn(2, 16, generator=torch.Generator().manual_seed(2)), None)


def literal_value(synthesis, theta, sample, x, y):
    """F(x, y) of one image, straight from the definition. Returns [C]."""
    blocks, sizes = synthesis.blocks(), synthesis.block_resolutions

    def features(level, px, py):
        block, weights = blocks[level], theta[level]
        u, v = float(2 * px - 1), float(2 * py - 1)
        phases = lambda c: [2.0**m * math.pi / 2 * c for m in range(block.octaves)]  # noqa: E731
        pair = lambda angles: [*map(math.sin, angles), *map(math.cos, angles)]  # noqa: E731
        values = pair(phases(u)) + pair(phases(v))
        values += pair([r[0] * u + r[1] * v for r in block.shared_rows.tolist()])
        if weights.rows is not None:
            rows, phase = weights.rows[sample].tolist(), weights.phase[sample].tolist()
            values += pair([r[0] * u + r[1] * v + b for r, b in zip(rows, phase)])
        return np.array(values)

    def block_value(level, px, py):
        block, weights = blocks[level], theta[level]
        h, rgb = features(level, px, py), np.zeros(block.img_channels)
        if level > 0:
            size = sizes[level - 1]
            if synthesis.upsampling == "nearest":
                taps = [(math.floor(px * size), math.floor(py * size), 1.0)]
            else:
                tx, ty = px * size - Fraction(1, 2), py * size - Fraction(1, 2)
                ix, iy = math.floor(tx), math.floor(ty)
                fx, fy = float(tx - ix), float(ty - iy)
                taps = [
                    (ix + i, iy + j, (fx if i else 1 - fx) * (fy if j else 1 - fy))
                    for i in (0, 1)
                    for j in (0, 1)
                ]
            context = 0
            for i, j, share in taps:
                centre = Fraction(2 * i + 1, 2 * size), Fraction(2 * j + 1, 2 * size)
                below, image = block_value(level - 1, *centre)
                context, rgb = context + share * below, rgb + share * image
            h = np.concatenate([context, h])
        for layer, weight in zip(block.layers, weights.layers):
            h = weight[sample].double().numpy() @ h + layer.bias.double().numpy()
            h = np.where(h > 0, h, 0.2 * h) * math.sqrt(2)
        return h, rgb + weights.rgb[sample].double().numpy() @ h + block.torgb.bias.numpy()

    return block_value(len(blocks) - 1, x, y)[1]


@pytest.mark.parametrize(
    "at", [(Fraction(1, 64), Fraction(3, 64)), (Fraction(5, 7), Fraction(-1, 9))]
)
def test_render_is_the_definition(own_network, at):
    network, (x, y) = own_network, at
    ws = network.mapping(torch.randn(2, 16, generator=torch.Generator().manual_seed(2)), None)
    tiny = Fraction(1, 1000)
    region = (x - tiny, y - tiny, x + tiny, y + tiny)
    theta = network.synthesis.compose(ws)
    image = network.synthesis.render(ws, region, size=1)[:, :, 0, 0]
    for sample in range(2):
        expected = literal_value(network.synthesis, theta, sample, x, y)
        np.testing.assert_allclose(image[sample].numpy(), expected, rtol=0, atol=1e-4)


def test_1_unit_square_at_training_size_equals_the_generator(network, ws):
    z = torch.randn(3, 16)
    image = network(z, None)
    assert image.shape == (3, 3, 32, 32)
    torch.testing.assert_close(
        network.synthesis.render(network.mapping(z, None)), image, rtol=0, atol=0
    )


def denser(synthesis):
    """The factor by which a grid gets denser and keeps its points, and where they are then."""
    return (2, slice(0, None, 2)) if synthesis.sampling.offset == 0 else (3, slice(1, None, 3))


@pytest.mark.parametrize("size", [(32, 32), (7, 5), (1, 33)])
def test_2_denser_grid_keeps_the_values_at_shared_points(network, ws, size):
    factor, kept = denser(network.synthesis)
    coarse = network.synthesis.render(ws, size=size)
    dense = network.synthesis.render(ws, size=(factor * size[0], factor * size[1]))
    torch.testing.assert_close(dense[:, :, kept, kept], coarse, **CLOSE)


@pytest.mark.parametrize("region", [(0.1, -0.3, 1.2, 0.8), (0, 0, 1, 1)])
def test_3_region_of_a_larger_render_equals_rendering_it(network, ws, region):
    x0, y0, x1, y1 = region
    whole = network.synthesis.render(ws, region, size=(30, 44))
    part_region = (
        Fraction(str(x0)) + Fraction(11, 44) * Fraction(str(round(x1 - x0, 6))),
        Fraction(str(y0)) + Fraction(6, 30) * Fraction(str(round(y1 - y0, 6))),
        Fraction(str(x0)) + Fraction(33, 44) * Fraction(str(round(x1 - x0, 6))),
        Fraction(str(y0)) + Fraction(21, 30) * Fraction(str(round(y1 - y0, 6))),
    )
    part = network.synthesis.render(ws, part_region, size=(15, 22))
    torch.testing.assert_close(part, whole[:, :, 6:21, 11:33], **CLOSE)


@pytest.mark.parametrize("budget", [2**14, 2**17])
def test_4_tile_size_does_not_matter(network, ws, budget):
    region, size = (-0.2, 0.1, 0.7, 1.4), (37, 53)
    tiles = list(render_tiles(network.synthesis, ws, region, size, tile_budget=budget))
    assert len(tiles) > 1
    whole = network.synthesis.render(ws, region, size)
    tiled = network.synthesis.render(ws, region, size, tile_budget=budget)
    torch.testing.assert_close(tiled, whole, **CLOSE)


def test_4_batch_size_and_order_do_not_matter(network):
    ws = network.mapping(torch.randn(5, 16), None)
    together = network.synthesis.render(ws, (0, 0, 1.5, 1.5), 20)
    order = torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(
        network.synthesis.render(ws[order], (0, 0, 1.5, 1.5), 20), together[order], **CLOSE
    )
    alone = torch.cat([network.synthesis.render(w[None], (0, 0, 1.5, 1.5), 20) for w in ws])
    torch.testing.assert_close(alone, together, **CLOSE)


class _CountPoints:
    """Counts the points at which each block is evaluated."""

    def __init__(self, synthesis):
        self.points = []
        self.handles = [block.register_forward_hook(self) for block in synthesis.blocks()]

    def __call__(self, module, inputs, output):
        features, image = output[:2]
        points = image if features is None else features  # the last block has no features
        self.points.append(points.shape[2] * points.shape[3])

    def close(self):
        for handle in self.handles:
            handle.remove()
        return self.points


def count_points(synthesis, *args, **kwargs):
    counter = _CountPoints(synthesis)
    synthesis.render(*args, **kwargs)
    return counter.close()


def test_5_smaller_image_samples_the_same_function_and_costs_less(network, ws):
    factor, kept = denser(network.synthesis)
    small = network.synthesis.render(ws, size=4)
    dense = network.synthesis.render(ws, size=4 * factor)
    torch.testing.assert_close(small, dense[:, :, kept, kept], **CLOSE)
    # Every sample reads 1 or 2 cells per axis of each lattice; lattice 8 has no more to give.
    # Published: two blocks on lattice 8; bilinear, the first sample lies on a cell, so that
    # 7 = 1 + 3 * 2, and instance norm is measured on the training grid first.
    assert (
        count_points(network.synthesis, ws, size=4)
        == {
            "inr-gan": [4**2, 4**2, 4**2],
            "inr-gan-bil": [8**2, 8**2, 4**2],
            "inr-gan-published": [4**2, 4**2, 4**2, 4**2],
            "inr-gan-bil-published": [8**2, 8**2, 16**2, 32**2, 7**2, 7**2, 7**2, 4**2],
            "inr-gan-vanilla": [4**2, 4**2],
            **dict.fromkeys(SINGLE_SCALE, [4**2]),
        }[network.preset]
    )


def test_5_scaled_pyramid_shrinks_with_the_sampling_rate(network, ws):
    full = count_points(network.synthesis, ws, lod="scaled")
    quarter = count_points(network.synthesis, ws, size=8, lod="scaled")
    training = [8**2, 8**2, 16**2, 32**2]
    assert (full, quarter) == {
        "inr-gan": ([8**2, 16**2, 32**2], [2**2, 4**2, 8**2]),
        "inr-gan-bil": ([10**2, 18**2, 32**2], [4**2, 6**2, 8**2]),
        "inr-gan-published": (training, [2**2, 2**2, 4**2, 8**2]),
        "inr-gan-bil-published": (2 * training, [*training, 2**2, 2**2, 4**2, 8**2]),
        "inr-gan-vanilla": ([16**2, 32**2], [4**2, 8**2]),
        **dict.fromkeys(SINGLE_SCALE, ([32**2], [8**2])),
    }[network.preset]
    torch.testing.assert_close(
        network.synthesis.render(ws, lod="scaled"), network.synthesis(ws), rtol=0, atol=0
    )


def test_6_any_region_any_shape_and_no_border(network, ws):
    wide = network.synthesis.render(ws, (-1, -0.5, 2, 1.5), size=(64, 96))
    assert wide.shape == (2, 3, 64, 96) and bool(wide.isfinite().all())
    torch.testing.assert_close(wide[:, :, 16:48, 32:64], network.synthesis(ws), **CLOSE)
    # The area outside is no repetition of the border pixels.
    assert (wide[:, :, 20, 20] - wide[:, :, 20, 32]).abs().max() > 1e-3


@given(
    st.fractions(-2, 2, max_denominator=64),
    st.fractions(-2, 2, max_denominator=64),
    st.integers(1, 9),
    st.integers(1, 9),
)
def test_6_shifting_the_region_by_samples_shifts_the_picture(x, y, height, width):
    torch.manual_seed(0)
    for name in CONTINUOUS:
        kwargs = {"z_dim": 4, "c_dim": 0, "w_dim": 4, "img_resolution": 16, "img_channels": 1}
        kwargs.update({"cfg": small_cfg(PUBLISHED[name], 4)} if name in PUBLISHED else {})
        synthesis = build_generator(name, **kwargs, channel_base=64, channel_max=4).synthesis
        ws = torch.randn(1, synthesis.num_ws, 4)
        step = Fraction(1, 11)
        region = (x, y, x + step * width, y + step * height)
        right = (x + step, y + step, x + step * (width + 1), y + step * (height + 1))
        with torch.no_grad():
            a = synthesis.render(ws, region, (height, width))
            b = synthesis.render(ws, right, (height, width))
        torch.testing.assert_close(a[:, :, 1:, 1:], b[:, :, :-1, :-1], rtol=0, atol=1e-4)


class _LargestTensor(TorchDispatchMode):
    """Records the largest number of elements that any operation returned, but views of weights."""

    numel = 0

    def __init__(self, network):
        super().__init__()
        self.weights = {p.untyped_storage().data_ptr() for p in network.parameters()}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self.weights:
                    self.numel = max(self.numel, storage.nbytes() // 4)
        return result


def test_8_memory_is_bounded_whatever_the_output_size(network, ws):
    largest = []
    for size in (64, 256):
        with _LargestTensor(network) as record:
            tiles = render_tiles(network.synthesis, ws, size=size, tile_budget=2**19)
            assert sum(tile.pixels[0, 0].numel() for tile in tiles) == size * size
        largest.append(record.numel)
    assert largest[1] <= 1.1 * largest[0]
    assert largest[1] * 4 <= 2**19


@pytest.mark.parametrize(
    "kwargs,error,words",
    [
        ({"region": (0, 0, 0, 1)}, ValueError, "x0 < x1"),
        ({"region": (0, 0, 1)}, ValueError, "x0, y0, x1, y1"),
        ({"region": (0, 0, "1", 1)}, TypeError, "real number, got '1'"),
        ({"region": (0, 0, 1, None)}, TypeError, "real number, got None"),
        ({"size": 0}, ValueError, "at least 1 x 1"),
        ({"size": 3.5}, TypeError, "integer or a pair .* got 3.5"),
        ({"size": (3, 4.0)}, TypeError, "integer or a pair"),
        ({"size": (3, 4, 5)}, TypeError, "integer or a pair"),
        ({"size": "12"}, TypeError, "integer or a pair"),
        ({"lod": "auto"}, ValueError, "'auto'"),
    ],
)
def test_refuses_what_cannot_be_rendered(network, ws, kwargs, error, words):
    with pytest.raises(error, match=words):
        network.synthesis.render(ws, **kwargs)


@pytest.mark.parametrize(
    "size,region",
    [
        (np.int64(5), (0, 0, 1, 1)),
        ((np.int32(5), np.uint8(5)), np.array([0, 0, 1, 1])),
        (np.array([5, 5]), np.array([0, 0, 1, 1], dtype=np.float32)),
        (torch.tensor(5), torch.tensor([0.0, 0.0, 1.0, 1.0])),
        (torch.Size([5, 5]), torch.tensor([0, 0, 1, 1])),
    ],
)
def test_numbers_of_any_kind_are_sizes_and_regions(network, ws, size, region):
    expected = network.synthesis.render(ws, (0, 0, 1, 1), (5, 5))
    assert torch.equal(network.synthesis.render(ws, region, size), expected)


def test_gradients_flow_through_render(network, ws):
    w = ws.clone().requires_grad_()
    network.synthesis.render(w, (0, 0, 2, 1), (5, 9), tile_budget=2**12).square().sum().backward()
    assert w.grad.abs().sum() > 0
