"""Images of any shape: the pyramids of both networks, and the continuous contract on rectangles."""

from __future__ import annotations

import copy
from fractions import Fraction

import pytest
import torch

from networks import Generator, build_discriminator, build_generator
from networks.shapes import (
    checked_img_shape,
    fitting_shapes,
    halving_shapes,
    lattice_shapes,
    num_highest,
    shape_problem,
)

SHAPES = [(24, 16), (16, 24), (48, 32)]  # (height, width)
ODD_SHAPES = [(11, 7), (30, 50), (45, 37)]
POWERS = [4, 8, 16, 32, 64, 128, 256, 512, 1024]
CLOSE = {"rtol": 0, "atol": 2e-5}  # sums in another order; values are of the order of 1


def make(preset: str, height: int, width: int, channels: int = 3) -> torch.nn.Module:
    """A small generator of H x W images, biases random so that nothing vanishes."""
    torch.manual_seed(1)
    network = build_generator(
        preset,
        z_dim=8,
        c_dim=0,
        w_dim=8,
        img_resolution=max(height, width),
        img_channels=channels,
        img_shape=(channels, height, width),
        mapping_kwargs={"num_layers": 1},
        synthesis_kwargs={"channel_base": 256, "channel_max": 8},
    )
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter.data)
    return network.eval().requires_grad_(False)


def judge(height: int, width: int, channels: int = 3, **options) -> torch.nn.Module:
    """A small discriminator of H x W images."""
    torch.manual_seed(2)
    return build_discriminator(
        **{
            "c_dim": 0,
            "img_resolution": max(height, width),
            "img_channels": channels,
            "img_shape": (channels, height, width),
            "channel_base": 64,
            "channel_max": 4,
            **options,
        }
    )


@pytest.mark.parametrize("side", POWERS)
def test_squares_keep_their_pyramids(side):
    first = max(4, min(32, side // 4))
    expected = [first << k for k in range((side // first).bit_length())]
    assert lattice_shapes(side, side) == [(r, r) for r in expected]
    halved = [2**i for i in range(side.bit_length() - 1, 1, -1)]
    assert halving_shapes(side, side) == [(r, r) for r in halved]
    assert shape_problem(side, side) is None
    for count in (0, 1, 4, 20):
        lowest = max(2 ** (side.bit_length() - count), 8)
        assert num_highest(halved, count) == {r for r in halved if r >= lowest}


@pytest.mark.parametrize("preset", ["inr-gan", "inr-gan-bil"])
def test_the_state_of_squares_has_its_old_names_and_shapes(preset):
    with torch.device("meta"):
        square = build_generator(
            preset, z_dim=8, c_dim=0, w_dim=8, img_resolution=32, img_channels=3
        )
        named = build_generator(
            preset, z_dim=8, c_dim=0, w_dim=8, img_resolution=32, img_channels=3,
            img_shape=(3, 32, 32),
        )  # fmt: skip
        judges = [judge(32, 32), judge(32, 32, img_shape=None)]
    for one, other in ((square, named), judges):
        shapes = [{k: v.shape for k, v in net.state_dict().items()} for net in (one, other)]
        assert list(shapes[0].items()) == list(shapes[1].items())
    blocks = {name.split(".")[1] for name in square.synthesis.state_dict(prefix="s.")}
    assert blocks == {"b8", "b16", "b32"}
    assert {name.split(".")[0] for name in judges[0].state_dict()} == {"b32", "b16", "b8", "b4"}
    assert judges[0].b4.fc.weight.shape == (4, 4 * 16)


@pytest.mark.parametrize(
    ("shape", "lattices"),
    [
        ((64, 96), [(16, 24), (32, 48), (64, 96)]),
        ((16, 24), [(4, 6), (8, 12), (16, 24)]),
        ((720, 1280), [(12, 20), (23, 40), (45, 80), (90, 160), (180, 320), (360, 640),
                       (720, 1280)]),
        ((11, 7), [(6, 4), (11, 7)]),
        ((1, 5), [(1, 5)]),
    ],
)  # fmt: skip
def test_lattices(shape, lattices):
    assert lattice_shapes(*shape) == lattices
    assert lattice_shapes(*shape[::-1]) == [pair[::-1] for pair in lattices]


def test_an_image_needs_four_pixels():
    with pytest.raises(ValueError, match="3x2"):
        lattice_shapes(2, 3)


@pytest.mark.parametrize(
    ("shape", "halved"),
    [
        ((64, 96), [(64, 96), (32, 48), (16, 24), (8, 12), (4, 6)]),
        ((24, 16), [(24, 16), (12, 8), (6, 4)]),
        ((768, 1280), [(768 // 2**i, 1280 // 2**i) for i in range(8)]),
        ((5, 9), [(5, 9)]),
    ],
)
def test_halvings(shape, halved):
    assert halving_shapes(*shape) == halved
    assert shape_problem(*shape) is None


@pytest.mark.parametrize(
    ("shape", "last", "larger", "smaller"),
    [
        ((418, 418), "209x209", (448, 448), (384, 384)),
        ((720, 1280), "80x45", (768, 1280), (640, 1280)),
        ((64, 97), "97x64", (64, 112), (64, 96)),
    ],
)
def test_sizes_that_do_not_fit(shape, last, larger, smaller):
    assert f"{shape[1]}x{shape[0]} pixels can be halved only down to {last}" in shape_problem(
        *shape
    )
    assert fitting_shapes(*shape) == (larger, smaller)


@pytest.mark.parametrize("shape", [(1, 1), (3, 20), (9, 13), (100, 33), (255, 1000), (64, 96)])
def test_fitting_sizes_fit(shape):
    larger, smaller = fitting_shapes(*shape)
    assert shape_problem(*larger) is None and all(a >= b for a, b in zip(larger, shape))
    if min(shape) < 8:
        assert smaller is None
    else:
        assert shape_problem(*smaller) is None and all(a <= b for a, b in zip(smaller, shape))
    if shape == (64, 96):
        assert larger == smaller == shape


def test_both_ways_of_saying_a_shape():
    assert checked_img_shape(None, 8, 3) == (3, 8, 8)
    assert checked_img_shape([4, 6, 8], 8, 4) == (4, 6, 8)
    for wrong in ((3, 8, 16), (1, 8, 8), (3, 0, 8)):
        with pytest.raises(ValueError, match="does not go with"):
            checked_img_shape(wrong, 8, 3)


@pytest.mark.parametrize("shape", SHAPES + ODD_SHAPES)
@pytest.mark.parametrize("preset", ["inr-gan", "inr-gan-bil"])
def test_rendering_the_unit_square_is_the_training_grid(preset, shape):
    network = make(preset, *shape)
    assert network.img_resolution == max(shape) and network.img_shape == (3, *shape)
    ws = network.mapping(torch.randn(2, 8), None)
    image = network.synthesis(ws)
    assert image.shape == (2, 3, *shape) and image.std() > 0.05
    torch.testing.assert_close(network.synthesis.render(ws), image, **CLOSE)
    # In tiles, and sample by sample of a three times denser grid.
    tiled = network.synthesis.render(ws, tile_budget=2**14)
    torch.testing.assert_close(tiled, image, **CLOSE)
    dense = network.synthesis.render(ws, size=(3 * shape[0], 3 * shape[1]))
    torch.testing.assert_close(dense[:, :, 1::3, 1::3], image, **CLOSE)


@pytest.mark.parametrize("shape", SHAPES + ODD_SHAPES[:1])
@pytest.mark.parametrize("preset", ["inr-gan", "inr-gan-bil"])
def test_a_region_of_a_larger_render(preset, shape):
    network = make(preset, *shape)
    ws = network.mapping(torch.randn(1, 8), None)
    # Twice the square in both directions, once the samples per unit of training.
    whole = network.synthesis.render(
        ws, region=(-0.5, -0.5, 1.5, 1.5), size=(2 * shape[0], 2 * shape[1])
    )
    part = network.synthesis.render(ws, region=(0.5, -0.5, 1.5, 0.5), size=shape)
    torch.testing.assert_close(part, whole[:, :, : shape[0], shape[1] :], **CLOSE)
    scaled = network.synthesis.render(ws, size=(shape[0] // 2, shape[1] // 2), lod="scaled")
    assert scaled.shape[2:] == (shape[0] // 2, shape[1] // 2) and scaled.isfinite().all()


@pytest.mark.parametrize("preset", ["inr-gan", "inr-gan-bil"])
def test_a_wider_image_is_the_square_one_seen_through_a_wider_window(preset):
    """Pixels are square in the coordinates: 32x24 has the cells of 24x24 and four more a side."""
    wide, square = make(preset, 24, 32), make(preset, 24, 24)
    names = dict(zip(("b8", "b16", "b32"), ("b6", "b12", "b24")))
    state = {
        ".".join(names.get(part, part) for part in name.split(".")): value
        for name, value in wide.state_dict().items()
    }
    square.load_state_dict(state)
    ws = wide.mapping(torch.randn(1, 8), None)
    window = (Fraction(-1, 6), 0, Fraction(7, 6), 1)
    seen = square.synthesis.render(ws, region=window, size=(24, 32))
    torch.testing.assert_close(seen, wide.synthesis(ws), **CLOSE)


@pytest.mark.parametrize("architecture", ["orig", "skip", "resnet"])
@pytest.mark.parametrize("shape", [*SHAPES, (8, 40), (5, 9), (10, 14)])
def test_discriminator_forward_and_backward(architecture, shape):
    net = judge(*shape, channels=4, architecture=architecture, c_dim=2)
    img = torch.randn(4, 4, *shape, requires_grad=True)
    logits = net(img, torch.eye(2)[[0, 1, 1, 0]])
    assert logits.shape == (4, 1)
    (slope,) = torch.autograd.grad(logits.sum(), img, create_graph=True)
    slope.square().sum().backward()
    trained = {n for n, p in net.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"b4.conv.weight", "b4.fc.weight", "b4.out.weight"} <= trained
    last = halving_shapes(*shape)[-1]
    assert net.b4.fc.weight.shape[1] == net.b4.in_channels * last[0] * last[1]
    with pytest.raises(ValueError, match=rf"img must have shape \[any, 4, {shape[0]}, {shape[1]}"):
        net(img.detach().transpose(2, 3), torch.eye(2)[[0, 1, 1, 0]])


def test_second_derivatives_on_a_rectangle():
    net = judge(16, 8, channels=1, channel_max=2).double()
    img = torch.randn(2, 1, 16, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: net(x, None), img, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: net(x, None), img, fast_mode=True)


def test_a_rectangle_is_judged_by_a_pyramid_of_rectangles():
    net = judge(64, 96, num_fp16_res=2, channel_base=192)
    assert net.block_resolutions == [96, 48, 24, 12]
    assert [net.b96.size, net.b12.size, net.b4.size] == [(64, 96), (8, 12), (4, 6)]
    assert [getattr(net, f"b{r}").use_fp16 for r in net.block_resolutions] == [1, 1, 0, 0]
    assert (net.img_resolution, net.img_resolution_log2, net.b4.resolution) == (96, 7, 6)
    x, img = None, torch.randn(2, 3, 64, 96)
    for resolution, size in zip(net.block_resolutions, halving_shapes(64, 96)[1:]):
        x, img = getattr(net, f"b{resolution}")(x, img)
        assert x.shape[2:] == size


def test_the_networks_of_a_square_that_is_no_power_of_two():
    image = make("inr-gan-bil", 24, 24)(torch.randn(1, 8), None)
    assert image.shape == (1, 3, 24, 24)
    net = judge(24, 24, img_shape=None)
    assert net.block_resolutions == [24, 12] and net.b4.size == (6, 6)
    assert net(image, None).shape == (1, 1)


def test_refusals_name_size_and_preset():
    with pytest.raises(ValueError, match="418x418 pixels can be halved only down to 209x209"):
        judge(418, 418)
    with pytest.raises(ValueError, match="preset stylegan2 draws squares, not 32x16"):
        Generator(8, 0, 8, 32, 3, img_shape=(3, 16, 32))
    assert Generator(8, 0, 8, 8, 3, img_shape=(3, 8, 8)).img_shape == (3, 8, 8)
    with pytest.raises(ValueError, match="does not go with"):
        build_generator(
            "inr-gan", z_dim=8, c_dim=0, w_dim=8, img_resolution=16, img_channels=3,
            img_shape=(3, 16, 32),
        )  # fmt: skip


def test_a_copy_and_its_arguments_keep_the_shape():
    network = make("inr-gan", 16, 24)
    # Without gradients, as `make` does: what needs none takes another way, rounded otherwise.
    again = build_generator(**network.init_kwargs).eval().requires_grad_(False)
    again.load_state_dict(network.state_dict())
    z = torch.randn(1, 8)
    torch.testing.assert_close(again(z, None), copy.deepcopy(network)(z, None), rtol=0, atol=0)
