"""The paper's hypernetwork generators: sizes, initial values, theta, mapping, options."""

from __future__ import annotations

import math

import pytest
import torch

from networks import build_discriminator, build_generator
from networks.hyper import SingleScaleSynthesis, vanilla_block_sizes
from networks.hyper_layers import HyperStep
from networks.presets import PRESETS
from ops.fmm import FMM_ACTIVATIONS
from training.loss import StyleGAN2Loss

HYPER = [name for name, preset in PRESETS.items() if preset.map_depth == 3]
WITH_FMM = [name for name in HYPER if PRESETS[name].has_fmm]


def make(preset, c_dim=0, channels=3, resolution=16, w_dim=12, **synthesis_kwargs):
    if preset == "inr-gan-vanilla":
        synthesis_kwargs.setdefault("frequencies", (6, 5))
    elif preset in ("inr-fourier", "inr-fmm"):
        synthesis_kwargs.setdefault("num_frequencies", 6)
    torch.manual_seed(0)
    return build_generator(
        preset,
        z_dim=8,
        c_dim=c_dim,
        w_dim=w_dim,
        img_resolution=resolution,
        img_channels=channels,
        synthesis_kwargs={"channel_max": 10, **synthesis_kwargs},
    )


def full_size(preset, resolution, **synthesis_kwargs):
    with torch.device("meta"):
        return build_generator(
            preset,
            z_dim=512,
            c_dim=0,
            w_dim=1024,
            img_resolution=resolution,
            img_channels=3,
            synthesis_kwargs=synthesis_kwargs,
        )


def test_there_are_five():
    names = ["inr-gan-vanilla", "inr-latent", "inr-hyper", "inr-fourier", "inr-fmm"]
    assert names == HYPER


@pytest.mark.parametrize(
    "resolution,skip_coords,num_theta,shared,total,num_ws",
    [
        (128, True, 130051, 3932160, 139858949, 8),
        (256, True, 106502, 2555904, 114344968, 9),
        (1024, True, 117788, 2596864, 125954078, 14),
        (128, False, 99331, 2359296, 106798085, 8),
        (256, False, 80902, 1507328, 87056392, 9),
        (1024, False, 90748, 1539584, 97180798, 14),
    ],
)
def test_sizes_of_the_published_configurations(
    resolution, skip_coords, num_theta, shared, total, num_ws
):
    generator = full_size("inr-gan-vanilla", resolution, skip_coords=skip_coords)
    groups = {
        name: sum(parameter.numel() for parameter in group)
        for name, group in generator.parameter_groups().items()
    }
    assert generator.synthesis.num_theta == num_theta
    assert generator.num_ws == num_ws
    assert groups == {"hypernetwork": 2624514 + 1025 * num_theta, "shared": shared}
    assert sum(groups.values()) == total


@pytest.mark.parametrize(
    "preset,total",
    [
        # Mapping 2,624,514; hypernetwork 1025 per value; the counts of the paper's table 1 that
        # are determined (7.1M), or that its best reconstruction gives.
        ("inr-latent", 7088133),
        ("inr-hyper", 2159555589),
        ("inr-fourier", 2427728389),
        ("inr-fmm", 106273285),
    ],
)
def test_sizes_of_the_baselines(preset, total):
    generator = full_size(preset, 256)
    assert sum(parameter.numel() for parameter in generator.parameters()) == total


def test_blocks_of_every_resolution():
    table = {4: (3, 512, 64), 8: (3, 512, 64), 16: (3, 512, 256), 64: (3, 512, 256)}
    table.update({128: (4, 512, 256), 256: (4, 256, 128), 512: (2, 64, 32), 1024: (1, 32, 8)})
    assert {resolution: vanilla_block_sizes(resolution) for resolution in table} == table
    assert vanilla_block_sizes(2048) == (1, 32, 8)
    for resolution, lattices in ((32, [16, 32]), (50, [25, 50]), (1024, [128, 256, 512, 1024])):
        generator = full_size("inr-gan-vanilla", resolution, channel_max=300)
        assert generator.synthesis.block_resolutions == lattices
        for block in generator.synthesis.blocks():
            layers, width, frequencies = vanilla_block_sizes(block.resolution)
            assert block.out_channels == min(width, 300)
            assert block.num_frequencies == frequencies
            assert len(block.steps) == layers + (block.in_channels > 0)
            is_last = block.resolution == resolution
            assert (block.torgb is not None) == (block.resolution >= 128 or is_last)


def test_initial_values():
    generator = make("inr-gan-vanilla", w_dim=1024, channel_max=48, frequencies=(64, 64))
    z = torch.randn(200, 8)
    mapping = build_generator(
        "inr-gan-vanilla", z_dim=512, c_dim=0, w_dim=1024, img_resolution=8, img_channels=1
    ).mapping
    assert mapping.fc0.weight.abs().max() <= 512**-0.5
    assert mapping.gain1.item() == mapping.gain2.item() == pytest.approx(0.1)
    assert generator.synthesis.to_theta.weight.abs().max() <= 1 / 32
    assert generator.synthesis.to_theta.bias.abs().max() <= 1 / 1024
    ws = mapping(torch.randn(200, 512), None)[:, :1].expand(-1, generator.num_ws, -1)
    theta = generator.synthesis.theta(ws)
    assert 0.22 < theta.std() < 0.26
    assert 0.17 < theta.std(dim=0).mean() < 0.21
    assert generator(z, None).std() > 0.05
    first, second = generator.synthesis.blocks()
    for step, variances in (
        (first.steps[0], [2 / 128]),
        (first.steps[1], [2 / (48 + 128)]),
        (second.steps[0], [1 / 48, 1 / 128]),
        (second.steps[2], [2 / (48 + 128)]),
    ):
        for layer, variance in zip(step.layers, variances, strict=True):
            assert layer.weight.var().item() == pytest.approx(variance, rel=0.2)
            factor = 1 if len(variances) == 2 else 0.2
            assert layer.bias_scale == pytest.approx(factor * math.sqrt(variance))
    assert second.torgb.scale == pytest.approx(math.sqrt(2 / 48))
    assert second.torgb.bias_scale == pytest.approx(0.2 * math.sqrt(2 / 48))
    four = make("inr-gan-vanilla", resolution=32, num_blocks=4, rgb_from=8, frequencies=[3] * 4)
    scales = [None if b.torgb is None else b.torgb.scale for b in four.synthesis.blocks()]
    assert scales == [None, *[pytest.approx(math.sqrt(2 / 10 / 3))] * 3]


def test_theta_lists_blocks_and_their_parts_in_order():
    synthesis = make("inr-gan-vanilla", channels=1, rank=2, channel_max=4).synthesis.double()
    theta = torch.arange(synthesis.num_theta, dtype=torch.float64)[None] / 1000
    low, high = synthesis.compose_theta(theta)
    used = 0

    def take(*shape):
        nonlocal used
        used += math.prod(shape)
        return theta[0, used - math.prod(shape) : used].reshape(shape)

    def fmm_layer(layer, inputs):
        a, b, bias = take(4, 2), take(2, inputs), take(4)
        return layer.weight * 2 * torch.sigmoid(a @ b), bias * layer.bias_scale

    torch.testing.assert_close(low.rows[0], 10 * take(6, 2))
    for step, weights, inputs in zip(synthesis.b8.steps, low.steps, (12, 16, 16), strict=True):
        weight, bias = fmm_layer(step.layers[0], inputs)
        torch.testing.assert_close(weights.weight[0], weight)
        torch.testing.assert_close(weights.bias[0], bias)
    assert low.rgb is None
    torch.testing.assert_close(high.rows[0], 10 * take(5, 2))
    connector = synthesis.b16.steps[0].layers
    (lr, lr_bias), (hr, hr_bias) = fmm_layer(connector[0], 4), fmm_layer(connector[1], 10)
    torch.testing.assert_close(high.steps[0].weight[0], torch.cat([lr, hr], 1))
    torch.testing.assert_close(high.steps[0].bias[0], lr_bias + hr_bias)
    for step, weights in zip(list(synthesis.b16.steps)[1:], high.steps[1:], strict=True):
        torch.testing.assert_close(weights.weight[0], fmm_layer(step.layers[0], 14)[0])
    scale = math.sqrt(2 / 4)
    torch.testing.assert_close(high.rgb.weight[0], scale * take(1, 4))
    torch.testing.assert_close(high.rgb.bias[0], 0.2 * scale * take(1))
    assert used == synthesis.num_theta


def test_every_layer_reads_its_own_w():
    generator = make("inr-gan-vanilla")
    ws = generator.mapping(torch.randn(1, 8), None).detach().requires_grad_()
    low, high = generator.synthesis.compose(ws)
    assert generator.num_ws == 3 + 1 + 3

    def readers(*tensors):
        (gradient,) = torch.autograd.grad(sum(t.sum() for t in tensors), ws, retain_graph=True)
        return gradient.abs().sum(dim=(0, 2)).nonzero().flatten().tolist()

    assert [readers(*step) for step in (*low.steps, *high.steps)] == [[i] for i in range(7)]
    assert readers(low.rows) == [0] and readers(high.rows) == [3] and readers(*high.rgb) == [6]
    # One w for all layers is the paper's single product.
    w = torch.randn(2, 12)
    together = generator.synthesis.to_theta(w)
    apart = generator.synthesis.theta(w[:, None].expand(-1, 7, -1))
    torch.testing.assert_close(apart, together, rtol=1e-5, atol=1e-6)


def test_mapping_is_the_papers_formula():
    mapping = make("inr-gan-vanilla", c_dim=3).mapping.double()
    assert [name for name, _ in mapping.named_children()] == ["embed", "fc0", "fc1", "fc2"]
    z, c = torch.randn(4, 8).double(), torch.eye(3)[[0, 1, 2, 0]].double()
    y = mapping.embed(c)
    y = y / (y.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()
    h = torch.relu(torch.cat([z, y], 1) @ mapping.fc0.weight.t() + mapping.fc0.bias)
    for gain, layer in ((mapping.gain1, mapping.fc1), (mapping.gain2, mapping.fc2)):
        h = h + gain * torch.relu(h @ layer.weight.t() + layer.bias)
    torch.testing.assert_close(mapping(z, c)[:, 3], h)
    assert (mapping(2 * z, c) - mapping(z, c)).abs().max() > 0.05  # z is not normalised


def test_truncation_and_running_mean():
    mapping = make("inr-fmm").mapping
    z = torch.randn(16, 8)
    w = mapping.eval()(z, None)
    assert torch.equal(mapping.w_avg, torch.zeros(12))
    mapping(z, None, update_emas=True)
    torch.testing.assert_close(mapping.w_avg, 0.005 * w[:, 0].mean(dim=0))
    mapping.w_avg.normal_()
    average = mapping.w_avg.clone()
    mapping.train()(z, None, skip_w_avg_update=True)
    assert torch.equal(mapping.w_avg, average)
    part = mapping.eval()(z, None, truncation_psi=0.3, truncation_cutoff=2)
    torch.testing.assert_close(part[:, :2], average + 0.3 * (w[:, :2] - average))
    assert torch.equal(part[:, 2:], w[:, 2:])


@pytest.mark.parametrize("preset", HYPER)
@pytest.mark.parametrize("c_dim,channels", [(0, 1), (3, 3), (2, 4)])
def test_every_parameter_learns(preset, c_dim, channels):
    generator = make(preset, c_dim, channels)
    image = generator(torch.randn(4, 8), torch.eye(5)[:4, :c_dim])
    assert image.shape == (4, channels, 16, 16)
    assert image.abs().max() < 1
    (image * torch.randn_like(image)).sum().backward()
    for name, parameter in generator.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("preset", HYPER)
def test_training_losses_of_both_orders(preset):
    generator = make(preset, c_dim=2).requires_grad_(False)
    discriminator = build_discriminator(
        c_dim=2, img_resolution=16, img_channels=3, channel_base=64, channel_max=8
    ).requires_grad_(False)
    loss = StyleGAN2Loss(
        "cpu",
        generator.mapping,
        generator.synthesis,
        discriminator,
        style_mixing_prob=0.9,
        r1_gamma=10,
        pl_weight=2,
    )
    real, c, z = torch.randn(4, 3, 16, 16), torch.eye(2)[[0, 1, 1, 0]], torch.randn(4, 8)
    for phase, module in (("Gboth", generator), ("Dboth", discriminator)):
        module.requires_grad_(True)
        loss.accumulate_gradients(phase, real, c, z, c)
        module.requires_grad_(False)
        gradients = [parameter.grad for parameter in module.parameters()]
        assert all(g is not None and g.isfinite().all() for g in gradients)
        assert sum(float(g.abs().sum()) for g in gradients) > 0
    assert loss.pl_mean > 0


@pytest.mark.parametrize("preset", HYPER)
def test_groups_hold_every_parameter_once(preset):
    generator = make(preset)
    groups = generator.parameter_groups()
    together = [*groups["hypernetwork"], *groups["shared"]]
    assert len({id(p) for p in together}) == len(together)
    assert {id(p) for p in together} == {id(p) for p in generator.parameters()}
    slow = {id(p) for p in groups["hypernetwork"]}
    for name, parameter in generator.named_parameters():
        is_slow = name.startswith(("mapping.", "synthesis.to_theta."))
        assert (id(parameter) in slow) == is_slow, name


@pytest.mark.parametrize("preset", HYPER)
def test_float16_blocks(preset, monkeypatch):
    # What a GPU would do: on a CPU the blocks compute in float32 of their own accord.
    def as_wanted(wanted, stored, device, force_fp32=False):
        return stored if force_fp32 else wanted

    monkeypatch.setattr("networks.layers.compute_dtype", as_wanted)
    generator = make(preset, num_fp16_res=2, conv_clamp=256)
    ws = generator.mapping(torch.randn(2, 8), None).detach()
    image, exact = generator.synthesis(ws), generator.synthesis(ws, force_fp32=True)
    assert image.dtype == torch.float32
    # float16 has 11 significant bits and there are about ten layers.
    error = (image - exact).norm() / exact.norm()
    assert 1e-6 < error < 1e-2
    image.square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in generator.parameters())


@pytest.mark.parametrize("preset", WITH_FMM)
@pytest.mark.parametrize("activation", list(FMM_ACTIVATIONS))
@pytest.mark.parametrize("rank", [1, 3])
def test_rank_and_activation_are_options(preset, activation, rank):
    generator = make(preset, rank=rank, fmm_activation=activation)
    layer = generator.synthesis.blocks()[0].steps[1].layers[0]
    theta = torch.randn(1, layer.num_theta)
    assert layer.num_theta == rank * (layer.in_channels + 10) + 10
    a = theta[:, : 10 * rank].reshape(10, rank)
    b = theta[:, 10 * rank : -10].reshape(rank, layer.in_channels)
    scale = 1 if activation in ("sigmoid", "identity") else rank**-0.5
    g = {
        "demod": lambda m: 1 + m,
        "tanh": lambda m: 1 + m.tanh(),
        "half-sigmoid": lambda m: 0.5 + m.sigmoid(),
        "none": lambda m: 1 + m,
        "sigmoid": lambda m: 2 * m.sigmoid(),
        "identity": lambda m: m,
    }[activation]
    expected = layer.weight * g(scale * a @ b)
    if activation == "demod":
        expected = expected / (expected.norm(dim=1, keepdim=True) + 1e-8)
    torch.testing.assert_close(layer(theta).weight[0], expected)
    assert generator(torch.randn(2, 8), None).isfinite().all()


def test_the_papers_sigmoid_is_half_the_codes():
    twice, once = make("inr-fmm"), make("inr-fmm", fmm_gain=0.5)
    theta = torch.randn(1, twice.synthesis.num_theta)
    pairs = zip(
        twice.synthesis.compose_theta(theta)[0].steps, once.synthesis.compose_theta(theta)[0].steps
    )
    for weights, half in pairs:
        torch.testing.assert_close(half.weight, weights.weight / 2)
        assert torch.equal(half.bias, weights.bias)


@pytest.mark.parametrize("injection", ["add", "concat", "none"])
@pytest.mark.parametrize("kind,frequencies", [("fmm", 6), ("direct", 6), ("direct", 0)])
def test_injections_are_switchable(injection, kind, frequencies):
    synthesis = SingleScaleSynthesis(
        8, 16, 3, channel_max=10, kind=kind, num_frequencies=frequencies, injection=injection
    )
    steps = synthesis.b16.steps
    features = 2 * frequencies or 10
    assert steps[0].coord_channels == (2 * frequencies or 2)
    for number, step in enumerate(steps, start=1):
        if number > 1:
            injects = number in (2, 4, 6) and injection != "none"
            assert step.coord_channels == (features if injects else 0)
        assert len(step.layers) == (2 if step.join == "add" else 1)
    assert sum(len(step.layers) for step in steps) == (9 if injection == "add" else 6)
    assert synthesis(torch.randn(2, 6, 8)).shape == (2, 3, 16, 16)


def test_two_layers_that_are_added_are_one_on_the_concatenation():
    torch.manual_seed(0)
    step = HyperStep(3, 4, 5, "direct", {}, join="add")
    theta = torch.randn(2, step.num_theta)
    weight, bias = step(theta)
    x, e = torch.randn(2, 3, 1), torch.randn(2, 4, 1)
    first, second = step.layers
    one, two = first(theta[:, : first.num_theta]), second(theta[:, first.num_theta :])
    expected = one.weight @ x + one.bias[..., None] + two.weight @ e + two.bias[..., None]
    torch.testing.assert_close(weight @ torch.cat([x, e], 1) + bias[..., None], expected)


def test_latents_of_the_shared_baseline_join_the_bias():
    synthesis = make("inr-latent").synthesis
    ws = torch.randn(2, 8, 12)
    latents = synthesis.to_theta(ws)
    (weights,) = synthesis.compose(ws)
    assert synthesis.latent_channels == 10 and synthesis.num_theta == 80
    for index, (step, (weight, bias)) in enumerate(zip(synthesis.b16.steps, weights.steps)):
        layer = step.layers[0]
        assert torch.equal(weight[1], layer.weight)
        torch.testing.assert_close(bias, latents[:, index] @ layer.latent_weight.t() + layer.bias)
    assert torch.equal(weights.rgb.bias[0], synthesis.b16.torgb.bias)


@pytest.mark.parametrize(
    "preset,kwargs,words",
    [
        ("inr-gan-vanilla", {"num_blocks": 4}, "num_blocks 4 .* 16 pixels"),
        ("inr-gan-vanilla", {"num_blocks": 0}, "num_blocks 0"),
        ("inr-gan-vanilla", {"widths": (3,)}, "widths must be 2 positive numbers"),
        ("inr-gan-vanilla", {"layers_per_block": (3, 0)}, "layers_per_block must be"),
        ("inr-fmm", {"injection": "multiply"}, "add, concat, none, not 'multiply'"),
        ("inr-fmm", {"fmm_activation": "relu"}, "got 'relu'"),
    ],
)
def test_refuses_impossible_options(preset, kwargs, words):
    with pytest.raises(ValueError, match=words):
        make(preset, **kwargs)(torch.randn(1, 8), None)


def test_refuses_ws_of_another_shape():
    with pytest.raises(ValueError, match=r"\[N, 6, 12\]"):
        make("inr-fmm").synthesis(torch.zeros(1, 5, 12))
