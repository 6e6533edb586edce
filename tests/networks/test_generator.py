"""The generator's outside: presets, keywords of StyleGAN2's and 3's callers, shapes."""

from __future__ import annotations

import pytest
import torch

from networks import Generator, build_discriminator, build_generator
from networks.presets import PRESETS

SMALL = {"channel_base": 512, "channel_max": 16}


def make(preset, c_dim=0, channels=3, resolution=32, **kwargs):
    return build_generator(
        preset,
        z_dim=12,
        c_dim=c_dim,
        w_dim=10,
        img_resolution=resolution,
        img_channels=channels,
        mapping_kwargs={"num_layers": 2},
        synthesis_kwargs={**SMALL, **kwargs},
    ).eval()


@pytest.mark.parametrize("preset", list(PRESETS))
@pytest.mark.parametrize("c_dim,channels", [(0, 1), (3, 2), (0, 3), (5, 4)])
def test_call_and_attributes(preset, c_dim, channels):
    generator = make(preset, c_dim, channels)
    z, c = torch.randn(2, 12), torch.eye(5)[:2, :c_dim]
    ws = generator.mapping(z, c, truncation_psi=0.7, truncation_cutoff=2)
    assert ws.shape == (2, generator.num_ws, 10)
    image = generator(z, c, truncation_psi=0.7, truncation_cutoff=2, noise_mode="const")
    assert image.shape == (2, channels, 32, 32) and image.dtype == torch.float32
    torch.testing.assert_close(
        generator.synthesis(ws, noise_mode="const", force_fp32=True, fused_modconv=True), image
    )
    torch.testing.assert_close(
        generator(z, c, 0.7, 2, update_emas=False, noise_mode="const"), image
    )
    assert generator.img_shape == (channels, 32, 32)
    assert generator.continuous == hasattr(generator.synthesis, "render")
    assert generator.synthesis.block_resolutions[-1] == 32
    assert generator.synthesis.b32.resolution == 32


@pytest.mark.parametrize("preset", list(PRESETS))
def test_double_precision(preset):
    generator = make(preset, num_fp16_res=1, conv_clamp=256)
    z = torch.randn(2, 12)
    single = generator(z, None, noise_mode="const")
    double = generator.double()(z, None, noise_mode="const")
    assert double.dtype == torch.float64
    # Coordinate phases stay float32; over the octaves of the features that is about 1e-5.
    torch.testing.assert_close(double.float(), single, rtol=0, atol=1e-4)


@pytest.mark.parametrize("preset", list(PRESETS))
def test_precision_of_a_call(preset):
    generator = make(preset)
    z = torch.randn(2, 12)
    image, exact = (generator(z, None, noise_mode="const", dtype=d) for d in (torch.bfloat16, None))
    assert image.dtype == torch.float32
    # bfloat16 has 8 significant bits and there are about ten layers.
    assert 1e-4 < (image - exact).norm() / exact.norm() < 0.1
    forced = generator(z, None, noise_mode="const", dtype=torch.bfloat16, force_fp32=True)
    assert torch.equal(forced, exact)
    if generator.continuous:
        ws = generator.mapping(z, None)
        torch.testing.assert_close(generator.synthesis.render(ws, dtype=torch.bfloat16), image)


@pytest.mark.parametrize("preset", ["inr-gan", "inr-gan-bil"])
def test_float16_blocks(preset, monkeypatch):
    # What a GPU would do: on a CPU the blocks compute in float32 of their own accord.
    def as_wanted(wanted, stored, device, force_fp32=False):
        return stored if force_fp32 else wanted

    monkeypatch.setattr("networks.layers.compute_dtype", as_wanted)
    generator = make(preset, resolution=64, num_fp16_res=4, conv_clamp=256)
    ws = generator.mapping(torch.randn(2, 12), None).detach().requires_grad_(True)
    image, exact = generator.synthesis(ws), generator.synthesis(ws, force_fp32=True)
    assert image.dtype == torch.float32
    # float16 has 11 significant bits and there are about ten layers.
    error = (image - exact).norm() / exact.norm()
    assert 1e-5 < error < 1e-2
    part = generator.synthesis.render(ws, region=(-0.5, 0, 1, 0.7), size=(9, 11))
    assert part.isfinite().all()
    (slope,) = torch.autograd.grad(image.square().mean(), ws, create_graph=True)
    slope.square().mean().backward()
    assert generator.synthesis.b64.layers[0].weight.grad.isfinite().all()


@pytest.mark.parametrize("preset", ["inr-gan", "inr-gan-bil"])
@pytest.mark.parametrize(
    "resolution,lattices,num_ws",
    [
        (16, [4, 8, 16], 9),
        (32, [8, 16, 32], 9),
        (128, [32, 64, 128], 10),
        (256, [32, 64, 128, 256], 13),
    ],
)
def test_pyramid(preset, resolution, lattices, num_ws):
    with torch.device("meta"):
        generator = make(preset, resolution=resolution)
    assert generator.synthesis.block_resolutions == lattices
    assert generator.num_ws == num_ws == generator.synthesis.num_ws


def test_coordinate_channels_of_each_lattice():
    with torch.device("meta"):
        synthesis = make("inr-gan", resolution=256).synthesis
    # 2 x (octaves per direction x directions + random rows + predicted phases)
    counts = [2 * (5 * 4 + 64), 2 * (6 * 4), 2 * (7 * 2 + 32), 2 * (8 * 2 + 32)]
    below = [0, 16, 8, 4]
    for block, count, channels in zip(synthesis.blocks(), counts, below):
        assert block.layers[0].in_channels == count + channels


def test_no_noise_and_no_per_pixel_tables():
    generator = make("inr-gan-bil")
    for name, tensor in [*generator.named_parameters(), *generator.named_buffers()]:
        assert "noise" not in name
        assert tensor.ndim <= 2, name
    z = torch.randn(1, 12)
    torch.testing.assert_close(generator(z, None, noise_mode="random"), generator(z, None))


def test_each_rgb_shares_w_with_the_next_block():
    generator = make("inr-gan")
    ws = generator.mapping(torch.randn(1, 12), None).detach().requires_grad_()
    theta = generator.synthesis.compose(ws)
    for weights, used in zip(theta, ([4], [6], [8])):
        (gradient,) = torch.autograd.grad(weights.rgb.sum(), ws, retain_graph=True)
        assert gradient.abs().sum(dim=(0, 2)).nonzero().flatten().tolist() == used
    (gradient,) = torch.autograd.grad(theta[0].rows.sum(), ws)
    assert gradient.abs().sum(dim=(0, 2)).nonzero().flatten().tolist() == [0]


def test_stylegan3_style_keywords_build_the_same_network():
    torch.manual_seed(3)
    a = Generator(8, 0, 8, 16, 3, mapping_kwargs={"num_layers": 1}, synthesis_kwargs=SMALL)
    torch.manual_seed(3)
    b = Generator(8, 0, 8, 16, 3, mapping_kwargs={"num_layers": 1}, **SMALL)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))
    assert a.preset == "stylegan2"


def test_initial_images_have_sensible_contrast():
    for preset in ("inr-gan", "inr-gan-bil"):
        image = make(preset)(torch.randn(8, 12), None)
        assert 0.2 < image.std() < 5


def test_discriminator_scores_the_generator():
    discriminator = build_discriminator(
        c_dim=3, img_resolution=32, img_channels=3, channel_base=512, channel_max=16
    )
    c = torch.eye(3)
    assert discriminator(make("inr-gan", 3)(torch.randn(3, 12), c), c).shape == (3, 1)


@pytest.mark.parametrize("preset,resolution", [("inr-gan", 3), ("stylegan2", 48), ("inr-gan", 2)])
def test_refuses_impossible_sizes(preset, resolution):
    with pytest.raises(ValueError, match=str(resolution)):
        make(preset, resolution=resolution)


def test_refuses_unknown_presets_and_ws_of_another_shape():
    with pytest.raises(ValueError, match="'inr-gam'"):
        make("inr-gam")
    with pytest.raises(ValueError, match=r"\[N, 9, 10\]"):
        make("inr-gan").synthesis(torch.zeros(1, 8, 10))
