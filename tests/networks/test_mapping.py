"""networks.mapping: the running mean of w, truncation, labels, error messages."""

from __future__ import annotations

import json

import pytest
import torch

from networks.mapping import MappingNetwork
from ops.mapping_layers import normalize_2nd_moment
from tests.golden_files import load

GENERATORS = ["skip_c0", "skip_c3", "resnet_c0", "orig_c0"]


def build(**options) -> MappingNetwork:
    """A small unconditional network in evaluation mode."""
    kwargs = {"z_dim": 8, "c_dim": 0, "w_dim": 6, "num_ws": 5, "num_layers": 2, **options}
    net = MappingNetwork(**kwargs).eval()
    if net.w_avg is not None:
        net.w_avg.normal_()
    return net


@pytest.mark.parametrize("case", GENERATORS)
def test_golden_ws(case):
    golden = load(f"stylegan2_generator_{case}")
    kwargs = json.loads(str(golden["kwargs"]))
    net = MappingNetwork(
        kwargs["z_dim"],
        kwargs["c_dim"],
        kwargs["w_dim"],
        num_ws=golden["ws"].shape[1],
        **kwargs["mapping_kwargs"],
    )
    prefix = "state/mapping."
    state = {k[len(prefix) :]: torch.from_numpy(v) for k, v in golden.items() if prefix in k}
    assert list(net.state_dict()) == list(state)
    net.load_state_dict(state)
    ws = net.eval()(torch.from_numpy(golden["z"]), torch.from_numpy(golden["c"]))
    torch.testing.assert_close(ws, torch.from_numpy(golden["ws"]), rtol=1e-5, atol=1e-6)


def test_attributes_and_state_names():
    net = MappingNetwork(512, 10, 512, num_ws=14)
    assert (net.z_dim, net.c_dim, net.w_dim, net.num_ws) == (512, 10, 512, 14)
    assert (net.num_layers, net.w_avg_beta) == (8, 0.995)
    state = net.state_dict()
    names = ["w_avg", "embed.weight", "embed.bias"]
    names += [f"fc{i}.{kind}" for i in range(8) for kind in ("weight", "bias")]
    assert sorted(state) == sorted(names)
    assert state["embed.weight"].shape == (512, 10)
    assert state["fc0.weight"].shape == (512, 1024)
    assert state["w_avg"].shape == (512,)


def test_layer_widths():
    net = build(num_layers=3, layer_features=7, c_dim=2, embed_features=4)
    assert [tuple(getattr(net, f"fc{i}").weight.shape) for i in range(3)] == [
        (7, 12),
        (7, 7),
        (6, 7),
    ]


def test_latent_and_label_enter_normalised():
    net = build(num_layers=1, c_dim=3)
    z, c = torch.randn(4, 8), torch.eye(3)[[0, 1, 2, 0]]
    features = torch.cat([normalize_2nd_moment(z), normalize_2nd_moment(net.embed(c))], dim=1)
    torch.testing.assert_close(net(z, c)[:, 0], net.fc0(features))
    torch.testing.assert_close(net(z * 7, c), net(z, c))


def test_every_layer_gets_its_own_copy_of_w():
    ws = build()(torch.randn(3, 8), None)
    assert ws.shape == (3, 5, 6)
    torch.testing.assert_close(ws, ws[:, :1].expand(-1, 5, -1))
    before = ws[:, 0].detach().clone()
    ws[:, 1:] = 0
    torch.testing.assert_close(ws[:, 0], before)


def test_without_num_ws_there_is_no_mean():
    net = build(num_ws=None, w_avg_beta=None)
    assert net(torch.randn(3, 8), None).shape == (3, 6)
    assert "w_avg" not in net.state_dict()
    with pytest.raises(ValueError, match=r"truncation_psi 0\.5 needs w_avg"):
        net(torch.randn(3, 8), None, truncation_psi=0.5)


@pytest.mark.parametrize("cutoff", [None, 0, 2, 5])
@pytest.mark.parametrize("psi", [0.0, 0.3, 0.7, -1.0])
def test_truncation(psi, cutoff):
    net = build()
    z = torch.randn(3, 8)
    full = net(z, None)
    expected = full.clone()
    part = slice(None) if cutoff is None else slice(cutoff)
    expected[:, part] = net.w_avg + psi * (full[:, part] - net.w_avg)
    ws = net(z, None, truncation_psi=psi, truncation_cutoff=cutoff)
    torch.testing.assert_close(ws, expected)


@pytest.mark.parametrize(
    ("training", "options", "updated"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"skip_w_avg_update": True}, False),
        (True, {"update_emas": False}, False),
        (True, {"update_emas": True}, True),
        (False, {"update_emas": True}, True),
        (True, {"update_emas": True, "skip_w_avg_update": True}, False),
    ],
)
def test_when_the_mean_is_updated(training, options, updated):
    net = build(w_avg_beta=0.9).train(training)
    before = net.w_avg.clone()
    ws = net(torch.randn(16, 8), None, **options)
    expected = before * 0.9 + ws[:, 0].mean(dim=0) * 0.1 if updated else before
    torch.testing.assert_close(net.w_avg, expected.detach())
    assert not net.w_avg.requires_grad
    assert ws.requires_grad


def test_update_happens_before_truncation():
    net = build(w_avg_beta=0.5).train()
    ws = net(torch.randn(4, 8), None, truncation_psi=0)
    torch.testing.assert_close(ws, net.w_avg.expand(4, 5, 6))


def test_float64_latents_are_computed_in_float32():
    net = build(c_dim=2)
    z, c = torch.randn(2, 8, dtype=torch.float64), torch.eye(2, dtype=torch.int64)
    ws = net(z, c)
    assert ws.dtype == torch.float32
    torch.testing.assert_close(ws, net(z.float(), c.float()), rtol=0, atol=0)


def test_unconditional_network_ignores_the_label():
    net = build()
    z = torch.randn(2, 8)
    torch.testing.assert_close(net(z, torch.zeros(2, 0)), net(z, None), rtol=0, atol=0)


def test_label_only():
    net = build(z_dim=0, c_dim=3, num_ws=None, w_avg_beta=None)
    assert net(None, torch.eye(3)).shape == (3, 6)


@pytest.mark.parametrize(
    ("z", "c", "message"),
    [
        (None, torch.zeros(2, 3), "z is None"),
        (torch.zeros(2, 8), None, "c is None"),
        (torch.zeros(2, 7), torch.zeros(2, 3), r"z must have shape \[any, 8\], not \[2, 7\]"),
        (torch.zeros(2, 8), torch.zeros(2, 2), r"c must have shape \[any, 3\], not \[2, 2\]"),
        (torch.zeros(2, 8), torch.zeros(1, 3), "same batch size, not 2 and 1"),
    ],
)
def test_wrong_inputs(z, c, message):
    with pytest.raises(ValueError, match=message):
        build(c_dim=3)(z, c)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="z_dim 0 and c_dim 0"):
        build(z_dim=0)
    with pytest.raises(ValueError, match="num_layers must be at least 1, not 0"):
        build(num_layers=0)


def test_labels_alone_need_no_layers():
    """As the discriminators of StyleGAN2's TensorFlow version have it."""
    net = build(z_dim=0, c_dim=3, num_layers=0, num_ws=None, w_avg_beta=None)
    c = torch.randn([2, 3])
    expected = c @ net.embed.weight.t() / 3**0.5 + net.embed.bias
    expected = expected / expected.square().mean(dim=1, keepdim=True).sqrt()
    assert torch.allclose(net(None, c), expected, atol=1e-5)
    with pytest.raises(ValueError, match="embed_features must be w_dim 6, not 5"):
        build(z_dim=0, c_dim=3, num_layers=0, embed_features=5)


def test_gradients():
    net = build(c_dim=2).double()

    def function(z, c):
        return net(z, c, truncation_psi=0.7)

    inputs = [torch.randn(2, n, dtype=torch.float64, requires_grad=True) for n in (8, 2)]
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)
