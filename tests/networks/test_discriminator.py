"""networks.discriminator: golden logits and R1 gradients, names, sizes, freezing, groups."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from networks.discriminator import Discriminator, DiscriminatorBlock, MinibatchStdLayer
from tests.golden_files import load

CASES = ["orig_c0", "skip_c0", "resnet_c0", "resnet_c3"]


def build(**options) -> Discriminator:
    """A small unconditional discriminator at 16x16."""
    kwargs = {"c_dim": 0, "img_resolution": 16, "img_channels": 3, "channel_base": 64}
    return Discriminator(**{**kwargs, "channel_max": 8, **options})


def golden_network(case: str) -> tuple[Discriminator, dict[str, torch.Tensor]]:
    """The network of a golden file with its weights, and the file's other entries."""
    golden = load(f"stylegan2_discriminator_{case}")
    net = Discriminator(**json.loads(str(golden.pop("kwargs"))))
    tensors = {name: torch.from_numpy(value) for name, value in golden.items()}
    state = {k[len("state/") :]: v for k, v in tensors.items() if k.startswith("state/")}
    assert list(net.state_dict()) == list(state)
    net.load_state_dict(state)
    return net, tensors


@pytest.mark.parametrize("case", CASES)
def test_golden_logits_and_r1(case):
    net, golden = golden_network(case)
    img = golden["img"].clone().requires_grad_()
    logits = net(img, golden["c"])
    torch.testing.assert_close(logits, golden["logits"], rtol=1e-5, atol=1e-5)

    (grad_img,) = torch.autograd.grad(logits.sum(), img, create_graph=True)
    error = (grad_img.detach() - golden["grad_img"]).norm() / golden["grad_img"].norm()
    assert error < 2e-3, f"grad_img off by {error:.1e}"
    r1 = grad_img.square().sum(dim=(1, 2, 3))
    torch.testing.assert_close(r1, golden["r1"], rtol=1e-5, atol=1e-8)

    r1.mean().backward()
    prefix = "r1_grad/"
    expected = {k[len(prefix) :]: v for k, v in golden.items() if k.startswith(prefix)}
    largest = max(value.norm() for value in expected.values())
    params = dict(net.named_parameters())
    assert set(expected) == set(params)
    for name, value in expected.items():
        grad = params[name].grad
        actual = torch.zeros_like(value) if grad is None else grad
        error = (actual - value).norm() / largest
        assert error <= 1e-3, f"r1_grad/{name} off by {error:.1e}"


@pytest.mark.parametrize(("channel_base", "parameters"), [(16384, 24_001_089), (32768, 28_864_129)])
def test_parameter_count_at_256(channel_base, parameters):
    with torch.device("meta"):
        net = Discriminator(0, 256, 3, channel_base=channel_base)
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert len(net.state_dict()) == 64


def test_state_shapes_at_256():
    with torch.device("meta"):
        state = Discriminator(0, 256, 3, channel_base=16384).state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    assert shapes["b256.fromrgb.weight"] == (64, 3, 1, 1)
    assert shapes["b256.conv0.weight"] == (64, 64, 3, 3)
    assert shapes["b256.conv1.weight"] == (128, 64, 3, 3)
    assert shapes["b256.skip.weight"] == (128, 64, 1, 1)
    assert "b256.skip.bias" not in shapes
    assert shapes["b4.conv.weight"] == (512, 513, 3, 3)
    assert shapes["b4.fc.weight"] == (512, 8192)
    assert shapes["b4.out.weight"] == (1, 512)
    assert shapes["b8.resample_filter"] == shapes["b4.conv.resample_filter"] == (4, 4)


def test_attributes():
    net = build(c_dim=5)
    assert (net.c_dim, net.img_resolution, net.img_resolution_log2, net.img_channels) == (
        5,
        16,
        4,
        3,
    )
    assert net.block_resolutions == [16, 8]
    assert (net.b16.in_channels, net.b8.in_channels) == (0, 8)
    assert (net.b16.num_layers, net.b8.num_layers) == (4, 3)
    assert (net.b16.first_layer_idx, net.b8.first_layer_idx) == (0, 4)
    assert net.b8.architecture == "resnet" and not net.b8.use_fp16 and not net.b8.channels_last
    assert (net.b4.in_channels, net.b4.cmap_dim, net.b4.resolution) == (8, 8, 4)
    assert (net.b4.mbstd.group_size, net.b4.mbstd.num_channels) == (4, 1)
    assert net.mapping.c_dim == 5 and net.mapping.num_layers == 8
    assert build(c_dim=5, cmap_dim=3).b4.out.weight.shape == (3, 8)
    assert build(epilogue_kwargs={"mbstd_num_channels": 0}).b4.mbstd is None


@pytest.mark.parametrize("architecture", ["orig", "skip", "resnet"])
@pytest.mark.parametrize("img_channels", [1, 2, 4])
@pytest.mark.parametrize("c_dim", [0, 3])
@pytest.mark.parametrize("img_resolution", [4, 8, 16])
def test_all_kinds_give_one_logit(architecture, img_channels, c_dim, img_resolution):
    net = build(
        architecture=architecture,
        img_channels=img_channels,
        c_dim=c_dim,
        img_resolution=img_resolution,
        mapping_kwargs={"num_layers": 2},
    )
    img = torch.randn(4, img_channels, img_resolution, img_resolution)
    logits = net(img, torch.eye(4)[:, :c_dim], update_emas=True, force_fp32=True)
    assert logits.shape == (4, 1) and logits.dtype == torch.float32
    logits.sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_double_precision_input_and_network():
    net = build()
    img = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    assert net(img, None).dtype == torch.float32
    assert net.double()(img, None).dtype == torch.float64


def test_projection_is_linear_in_the_mapped_label():
    net = build(c_dim=2, mapping_kwargs={"num_layers": 1})
    img, c = torch.randn(4, 3, 16, 16), torch.eye(2)[[0, 1, 1, 0]]
    x, image = net.b16(None, img)
    x, image = net.b8(x, image)
    features = net.b4.out(net.b4.fc(net.b4.conv(net.b4.mbstd(x)).flatten(1)))
    expected = (features * net.mapping(None, c)).sum(dim=1, keepdim=True) / 8**0.5
    torch.testing.assert_close(net(img, c), expected)


@pytest.mark.parametrize(
    ("group_size", "num_channels"), [(None, 1), (2, 1), (4, 2), (3, 1), (1, 1)]
)
def test_minibatch_deviation_by_definition(group_size, num_channels):
    x = torch.randn(12, 4, 3, 3, dtype=torch.float64)
    group = group_size or 12
    num_groups = 12 // group
    y = MinibatchStdLayer(group_size, num_channels)(x)
    assert y.shape == (12, 4 + num_channels, 3, 3)
    torch.testing.assert_close(y[:, :4], x, rtol=0, atol=0)
    share = 4 // num_channels
    for n in range(12):
        members = x[n % num_groups :: num_groups]
        assert len(members) == group
        deviation = (members.var(dim=0, unbiased=False) + 1e-8).sqrt()
        for k in range(num_channels):
            expected = deviation[k * share : (k + 1) * share].mean()
            torch.testing.assert_close(y[n, 4 + k], expected.expand(3, 3))


def test_minibatch_deviation_of_a_small_batch_takes_the_whole_batch():
    x = torch.randn(3, 2, 2, 2)
    torch.testing.assert_close(MinibatchStdLayer(4)(x), MinibatchStdLayer(None)(x))


def test_minibatch_deviation_names_both_numbers():
    with pytest.raises(ValueError, match="batch of 6 samples cannot be split into groups of 4"):
        build()(torch.randn(6, 3, 16, 16), None)
    with pytest.raises(ValueError, match="num_channels 3 does not divide the 4 channels"):
        MinibatchStdLayer(2, 3)(torch.randn(2, 4, 1, 1))


@pytest.mark.parametrize("architecture", ["orig", "skip", "resnet"])
@pytest.mark.parametrize("freeze_layers", [0, 1, 2, 3, 4, 5, 99])
def test_freezing_starts_at_the_highest_resolution(architecture, freeze_layers):
    net = build(architecture=architecture, block_kwargs={"freeze_layers": freeze_layers})
    order = []
    for block in (net.b16, net.b8):
        layers = [name for name in ("fromrgb", "conv0", "conv1", "skip") if hasattr(block, name)]
        assert block.num_layers == len(layers)
        order += [getattr(block, name) for name in layers]
    for index, layer in enumerate(order):
        assert ("weight" in dict(layer.named_parameters())) == (index >= freeze_layers)
        assert ("bias" in dict(layer.named_parameters())) == (
            index >= freeze_layers and layer.bias is not None
        )
    assert all(isinstance(p, torch.nn.Parameter) for p in net.b4.conv.parameters())
    assert set(net.state_dict()) == set(build(architecture=architecture).state_dict())


def test_frozen_weights_load_and_do_not_change_the_output():
    net = build(block_kwargs={"freeze_layers": 5})
    free = build()
    net.load_state_dict(free.state_dict())
    img = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(net(img, None), free(img, None), rtol=0, atol=0)


def test_float16_blocks_run_in_float32_on_the_cpu():
    net = build(num_fp16_res=4, conv_clamp=256, block_kwargs={"fp16_channels_last": True})
    assert net.b16.use_fp16 and net.b8.use_fp16 and net.b8.channels_last
    assert net.b8.conv0.weight.is_contiguous(memory_format=torch.channels_last)
    plain = build(conv_clamp=256)
    plain.load_state_dict(net.state_dict())
    img = torch.randn(4, 3, 16, 16)
    x, _ = net.b16(None, img)
    assert x.dtype == torch.float32
    torch.testing.assert_close(net(img, None), plain(img, None))


@pytest.mark.gpu
def test_float16_blocks_on_the_gpu():
    net = build(num_fp16_res=4, conv_clamp=256, img_resolution=32).cuda()
    img = torch.randn(4, 3, 32, 32, device="cuda")
    x, _ = net.b32(None, img)
    assert x.dtype == torch.float16
    exact = net(img, None, force_fp32=True)
    # float16 has 11 significant bits and there are about ten layers.
    assert (net(img, None) - exact).norm() / exact.norm() < 1e-2


@pytest.mark.parametrize("training", [True, False])
def test_a_call_changes_no_state(training):
    net = build(c_dim=2).train(training)
    before = copy.deepcopy(net.state_dict())
    net(torch.randn(4, 3, 16, 16), torch.eye(2)[[0, 1, 0, 1]])
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("architecture", ["orig", "skip", "resnet"])
def test_second_derivatives(architecture):
    net = build(architecture=architecture, img_resolution=8, channel_max=2).double()
    img = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)

    def function(img):
        return net(img, None)

    assert torch.autograd.gradcheck(function, img, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, img, fast_mode=True)


def test_refuses_wrong_arguments_and_images():
    with pytest.raises(ValueError, match="22x22 pixels can be halved only down to 11x11"):
        build(img_resolution=22)
    with pytest.raises(ValueError, match="architecture must be one of .*, not 'vgg'"):
        build(architecture="vgg")
    with pytest.raises(ValueError, match="in_channels must be 0 or tmp_channels 4, not 3"):
        DiscriminatorBlock(3, 4, 4, resolution=8, img_channels=3, first_layer_idx=0)
    net = build(c_dim=2)
    with pytest.raises(ValueError, match=r"img must have shape \[any, 3, 16, 16\]"):
        net(torch.randn(4, 1, 16, 16), torch.zeros(4, 2))
    with pytest.raises(ValueError, match="c is None"):
        net(torch.randn(4, 3, 16, 16), None)
    with pytest.raises(ValueError, match=r"c must have shape \[any, 2\]"):
        net(torch.randn(4, 3, 16, 16), torch.zeros(4, 3))
