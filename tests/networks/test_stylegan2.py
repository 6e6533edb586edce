"""networks.stylegan2: golden images, names, sizes, noise, precision, error messages."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from networks.mapping import MappingNetwork
from networks.stylegan2 import SynthesisBlock, SynthesisLayer, SynthesisNetwork, ToRGBLayer
from tests.golden_files import load

CASES = ["skip_c0", "skip_c3", "resnet_c0", "orig_c0"]


def build(**options) -> SynthesisNetwork:
    """A small network at 16x16 in evaluation mode, with noise of visible strength."""
    kwargs = {"w_dim": 8, "img_resolution": 16, "img_channels": 3, "channel_base": 64}
    net = SynthesisNetwork(**{**kwargs, "channel_max": 8, **options}).eval()
    for name, parameter in net.named_parameters():
        if name.endswith(("noise_strength", "bias")):
            parameter.data.normal_(parameter.data.mean(), 0.2)
    return net


def random_ws(net: SynthesisNetwork, batch: int = 3) -> torch.Tensor:
    """[batch, num_ws, w_dim] standard normal."""
    return torch.randn(batch, net.num_ws, net.w_dim)


def golden_networks(
    case: str,
) -> tuple[MappingNetwork, SynthesisNetwork, dict[str, torch.Tensor]]:
    """Both halves of the generator of a golden file, and the file's other entries."""
    golden = load(f"stylegan2_generator_{case}")
    kwargs = json.loads(str(golden.pop("kwargs")))
    tensors = {name: torch.from_numpy(value) for name, value in golden.items()}
    synthesis = SynthesisNetwork(
        kwargs["w_dim"],
        kwargs["img_resolution"],
        kwargs["img_channels"],
        **kwargs["synthesis_kwargs"],
    )
    mapping = MappingNetwork(
        kwargs["z_dim"],
        kwargs["c_dim"],
        kwargs["w_dim"],
        num_ws=synthesis.num_ws,
        **kwargs["mapping_kwargs"],
    )
    for net, prefix in ((mapping, "state/mapping."), (synthesis, "state/synthesis.")):
        state = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
        assert list(net.state_dict()) == list(state)
        net.eval().load_state_dict(state)
    return mapping, synthesis, tensors


@pytest.mark.parametrize("fused", [None, True, False])
@pytest.mark.parametrize("case", CASES)
def test_golden_images(case, fused):
    mapping, synthesis, golden = golden_networks(case)
    with torch.no_grad():
        for noise_mode in ("const", "none"):
            img = synthesis(golden["ws"], noise_mode=noise_mode, fused_modconv=fused)
            expected = golden[f"img_{noise_mode}"]
            torch.testing.assert_close(img, expected, rtol=1e-5, atol=1e-5)
        ws = mapping(golden["z"], golden["c"], truncation_psi=0.6, truncation_cutoff=3)
        img = synthesis(ws, noise_mode="const", fused_modconv=fused)
        torch.testing.assert_close(img, golden["img_trunc06_cut3"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("channel_base", "num_layers", "parameters"),
    [
        (16384, 8, 24_767_458),
        (16384, 2, 23_191_522),
        (32768, 2, 28_458_402),
        (32768, 8, 30_034_338),
    ],
)
def test_parameter_count_at_256(channel_base, num_layers, parameters):
    with torch.device("meta"):
        synthesis = SynthesisNetwork(512, 256, 3, channel_base=channel_base)
        mapping = MappingNetwork(512, 0, 512, synthesis.num_ws, num_layers=num_layers)
    nets = (synthesis, mapping)
    assert sum(p.numel() for net in nets for p in net.parameters()) == parameters
    assert synthesis.num_ws == 14
    if (channel_base, num_layers) == (16384, 8):
        assert sum(len(net.state_dict()) for net in nets) == 144
        assert sum(b.numel() for net in nets for b in net.buffers()) == 175_568


def test_state_shapes_at_256():
    with torch.device("meta"):
        state = SynthesisNetwork(512, 256, 3, channel_base=16384).state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    assert shapes["b4.const"] == (512, 4, 4)
    assert "b4.conv0.weight" not in shapes
    assert shapes["b256.conv0.weight"] == (64, 128, 3, 3)
    assert shapes["b256.conv0.affine.weight"] == (128, 512)
    assert shapes["b256.conv0.affine.bias"] == (128,)
    assert shapes["b256.conv1.noise_const"] == (256, 256)
    assert shapes["b256.conv1.noise_strength"] == ()
    assert shapes["b256.torgb.weight"] == (3, 64, 1, 1)
    assert shapes["b256.resample_filter"] == shapes["b256.conv1.resample_filter"] == (4, 4)


def test_attributes():
    net = build(architecture="resnet")
    assert (net.w_dim, net.num_ws, net.img_resolution, net.img_resolution_log2) == (8, 6, 16, 4)
    assert net.img_channels == 3
    assert net.block_resolutions == [4, 8, 16]
    assert not hasattr(net, "input")
    assert [getattr(net, f"b{r}").num_conv for r in (4, 8, 16)] == [1, 2, 2]
    assert [getattr(net, f"b{r}").num_torgb for r in (4, 8, 16)] == [0, 0, 1]
    assert [getattr(net, f"b{r}").is_last for r in (4, 8, 16)] == [False, False, True]
    assert (net.b4.in_channels, net.b8.in_channels) == (0, 8)
    assert not hasattr(net.b4, "skip") and net.b8.skip.up == 2
    layer = net.b8.conv0
    assert (layer.resolution, layer.up, layer.use_noise, layer.activation) == (8, 2, True, "lrelu")
    assert (layer.padding, layer.conv_clamp) == (1, None)
    assert type(layer.act_gain) is float and type(net.b16.torgb.weight_gain) is float


def test_initial_values():
    net = SynthesisNetwork(8, 8, 3, channel_base=64, channel_max=8)
    assert net.b8.conv0.noise_strength == 0
    torch.testing.assert_close(net.b8.conv0.affine.bias.detach(), torch.ones(8))
    torch.testing.assert_close(net.b8.torgb.affine.bias.detach(), torch.ones(8))
    torch.testing.assert_close(net.b8.conv1.bias.detach(), torch.zeros(8))


@pytest.mark.parametrize("architecture", ["orig", "skip", "resnet"])
@pytest.mark.parametrize("img_channels", [1, 2, 4])
@pytest.mark.parametrize("img_resolution", [4, 16])
def test_all_kinds_draw(architecture, img_channels, img_resolution):
    net = build(architecture=architecture, img_channels=img_channels, img_resolution=img_resolution)
    img = net(random_ws(net), update_emas=True)
    assert img.shape == (3, img_channels, img_resolution, img_resolution)
    assert img.dtype == torch.float32 and img.is_contiguous()
    img.square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("architecture", ["orig", "skip", "resnet"])
def test_which_w_reaches_which_layer(architecture):
    """The image layer of a block shares its w with the first layer of the next block."""
    net = build(architecture=architecture)
    seen: list[list[int]] = [[] for _ in range(net.num_ws)]
    ws = random_ws(net, batch=1)
    layers = {name: m for name, m in net.named_modules() if hasattr(m, "affine")}

    def record(name):
        def hook(module, inputs):
            (index,) = [i for i in range(net.num_ws) if torch.equal(inputs[1], ws[:, i])]
            seen[index].append(name)

        return hook

    for name, module in layers.items():
        module.register_forward_pre_hook(record(name))
    net(ws)
    rgb = architecture == "skip"
    assert seen == [
        ["b4.conv1"],
        ["b4.torgb", "b8.conv0"] if rgb else ["b8.conv0"],
        ["b8.conv1"],
        ["b8.torgb", "b16.conv0"] if rgb else ["b16.conv0"],
        ["b16.conv1"],
        ["b16.torgb"],
    ]


def test_noise_modes():
    net = build()
    ws = random_ws(net, batch=2)[:1].repeat(2, 1, 1)
    draw = {mode: net(ws, noise_mode=mode) for mode in ("random", "const", "none")}
    for mode in ("const", "none"):
        torch.testing.assert_close(net(ws, noise_mode=mode), draw[mode], rtol=0, atol=0)
        torch.testing.assert_close(draw[mode][0], draw[mode][1])
    assert (net(ws, noise_mode="random") - draw["random"]).abs().max() > 1e-3
    assert (draw["random"][0] - draw["random"][1]).abs().max() > 1e-3
    assert (draw["const"] - draw["none"]).abs().max() > 1e-3
    net.b16.conv1.noise_const.zero_()
    assert (net(ws, noise_mode="const") - draw["const"]).abs().max() > 1e-3


def test_without_noise_there_are_no_noise_entries():
    net = build(use_noise=False)
    assert not [name for name in net.state_dict() if "noise" in name]
    ws = random_ws(net)
    torch.testing.assert_close(net(ws, noise_mode="random"), net(ws, noise_mode="none"))


def test_layer_is_noise_then_bias_then_activation():
    layer = SynthesisLayer(4, 5, w_dim=3, resolution=6, conv_clamp=0.7)
    layer.noise_strength.data.fill_(0.5)
    layer.bias.data.normal_()
    x, w = torch.randn(2, 4, 6, 6), torch.randn(2, 3)
    styles = layer.affine(w)
    weights = layer.weight[None] * styles[:, None, :, None, None]
    weights = weights / (weights.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).sqrt()
    y = torch.cat([torch.conv2d(x[n : n + 1], weights[n], padding=1) for n in range(2)])
    y = y + 0.5 * layer.noise_const + layer.bias[:, None, None]
    y = torch.nn.functional.leaky_relu(y, 0.2) * 2**0.5
    for gain in (1, 0.5):
        expected = (y * gain).clamp(-0.7 * gain, 0.7 * gain)
        actual = layer(x, w, noise_mode="const", gain=gain)
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_rgb_layer_by_definition():
    layer = ToRGBLayer(4, 3, w_dim=5, conv_clamp=0.5)
    layer.bias.data.normal_()
    x, w = torch.randn(2, 4, 6, 6), torch.randn(2, 5)
    y = torch.einsum("oi,ni,nihw->nohw", layer.weight[:, :, 0, 0], layer.affine(w) / 2, x)
    y = (y + layer.bias[:, None, None]).clamp(-0.5, 0.5)
    for fused in (True, False):
        actual = layer(x, w, fused_modconv=fused)
        torch.testing.assert_close(actual, y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("architecture", ["orig", "skip", "resnet"])
def test_fused_equals_shared_in_value_and_gradient(architecture):
    net = build(architecture=architecture).double()
    ws = random_ws(net).double().requires_grad_()
    results = []
    for fused in (True, False):
        img = net(ws, noise_mode="const", fused_modconv=fused)
        (grad,) = torch.autograd.grad(img.square().sum(), ws, create_graph=True)
        net.zero_grad()
        grad.square().sum().backward(inputs=list(net.parameters()))
        results.append([img, grad, *(p.grad.clone() for p in net.parameters())])
    for fused, shared in zip(*results, strict=True):
        torch.testing.assert_close(fused, shared, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("training", "batch", "fused"),
    [(False, 1, True), (False, 3, False), (True, 3, False), (True, 1, False)],
)
def test_default_of_fused_modconv(monkeypatch, training, batch, fused):
    net = build().train(training)
    seen = []
    for block in (net.b4, net.b8, net.b16):
        forward = block.conv1.forward

        def spy(*args, forward=forward, **options):
            seen.append(options["fused_modconv"])
            return forward(*args, **options)

        monkeypatch.setattr(block.conv1, "forward", spy)
    net(random_ws(net, batch))
    assert seen == [fused] * 3


def test_samples_do_not_depend_on_each_other():
    net = build()
    ws = random_ws(net, batch=5)
    together = net(ws, noise_mode="const")
    alone = torch.cat([net(w[None], noise_mode="const") for w in ws])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_a_call_changes_no_state(training):
    net = build().train(training)
    before = copy.deepcopy(net.state_dict())
    net(random_ws(net))
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_float16_blocks_run_in_float32_on_the_cpu():
    net = build(num_fp16_res=4, conv_clamp=256, fp16_channels_last=True)
    assert (net.b4.use_fp16, net.b8.use_fp16, net.b16.use_fp16) == (False, True, True)
    assert net.b16.channels_last
    plain = build(conv_clamp=256)
    plain.load_state_dict(net.state_dict())
    ws = random_ws(net)
    torch.testing.assert_close(net(ws, noise_mode="const"), plain(ws, noise_mode="const"))
    x, _ = net.b4(None, None, ws[:, :2])
    x, _ = net.b8(x, None, ws[:, 1:4])
    assert x.dtype == torch.float32


def test_dtype_of_a_call():
    net = build()
    ws = random_ws(net)
    exact = net(ws, noise_mode="const")
    low = net(ws, noise_mode="const", dtype=torch.bfloat16)
    assert low.dtype == torch.float32
    error = float(((low - exact).norm() / exact.norm()).detach())
    # bfloat16 has 8 significant bits: 4e-3 per rounding, about ten layers.
    assert 1e-4 < error < 5e-2
    forced = net(ws, noise_mode="const", dtype=torch.bfloat16, force_fp32=True)
    torch.testing.assert_close(forced, exact, rtol=0, atol=0)
    torch.testing.assert_close(net(ws.double(), noise_mode="const"), exact, rtol=0, atol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("channels_last", [False, True])
def test_float16_blocks_on_the_gpu(channels_last):
    net = build(num_fp16_res=4, conv_clamp=256, fp16_channels_last=channels_last).cuda()
    ws = random_ws(net).cuda()
    x, _ = net.b4(None, None, ws[:, :2])
    x, _ = net.b8(x, None, ws[:, 1:4])
    assert x.dtype == torch.float16
    exact = net(ws, noise_mode="const", force_fp32=True)
    for fused in (True, False):
        img = net(ws, noise_mode="const", fused_modconv=fused)
        assert img.dtype == torch.float32 and img.is_contiguous()
        # float16 has 11 significant bits and there are about ten layers.
        assert (img - exact).norm() / exact.norm() < 1e-2


@pytest.mark.parametrize("fused", [True, False])
def test_second_derivatives(fused):
    net = build(img_resolution=8, channel_max=2, w_dim=3).double()
    ws = random_ws(net, batch=2).double().requires_grad_()

    def function(ws):
        return net(ws, noise_mode="const", fused_modconv=fused)

    assert torch.autograd.gradcheck(function, ws, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, ws, fast_mode=True)


def test_refuses_wrong_arguments():
    net = build()
    ws = random_ws(net)
    with pytest.raises(ValueError, match="noise_mode must be one of .*, not 'Const'"):
        net(ws, noise_mode="Const")
    with pytest.raises(ValueError, match=r"ws must have shape \[any, 6, 8\], not \[3, 5, 8\]"):
        net(ws[:, 1:])
    with pytest.raises(ValueError, match=r"ws must have shape \[any, 6, 8\], not \[3, 8\]"):
        net(ws[:, 0])
    with pytest.raises(TypeError, match="fused_modcov"):
        net(ws, fused_modcov=True)
    with pytest.raises(ValueError, match="power of two and at least 4, not 2"):
        build(img_resolution=2)
    with pytest.raises(ValueError, match="architecture must be one of .*, not 'vgg'"):
        build(architecture="vgg")
    with pytest.raises(ValueError, match="no channels at resolution 16"):
        build(channel_base=8)


def test_block_refuses_wrong_features():
    block = SynthesisBlock(4, 4, w_dim=3, resolution=8, img_channels=3, is_last=True)
    ws = torch.randn(2, 3, 3)
    with pytest.raises(ValueError, match=r"x must have shape \[2, 4, 4, 4\], not \[2, 4, 8, 8\]"):
        block(torch.randn(2, 4, 8, 8), None, ws)
    with pytest.raises(ValueError, match=r"img must have shape \[2, 3, 4, 4\]"):
        block(torch.randn(2, 4, 4, 4), torch.randn(2, 3, 8, 8), ws)
    with pytest.raises(ValueError, match="x is None"):
        block(None, None, ws)
    with pytest.raises(ValueError, match="noise_mode"):
        block(torch.randn(2, 4, 4, 4), None, ws, noise_mode="fixed")
