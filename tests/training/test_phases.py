"""Lazy regularisation, optimizers and one training step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from torch_utils import training_stats
from training.ema import EMA
from training.loss import StyleGAN2Loss
from training.phases import Phase, build_optimizer, build_phases, run_phase

OPT = {"class_name": "torch.optim.Adam", "lr": 0.0025, "betas": [0, 0.99], "eps": 1e-8}


class ToyG(nn.Module):
    """Generator with the two parts that the loss calls."""

    def __init__(self) -> None:
        super().__init__()
        self.to_w, self.to_img = nn.Linear(2, 4), nn.Linear(8, 3 * 16)

    def mapping(self, z, c, skip_w_avg_update=False):
        return self.to_w(z)[:, None].repeat(1, 2, 1)

    def synthesis(self, ws):
        return self.to_img(ws.flatten(1)).tanh().unflatten(1, (3, 4, 4))


class ToyD(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.Softplus(), nn.Linear(16, 1))

    def forward(self, img, c):
        return self.body(img)


class FillLoss:
    """Gradients of a chosen value, and a record of the calls."""

    def __init__(self, module: nn.Module, value: float) -> None:
        self.module, self.value, self.calls = module, value, []

    def accumulate_gradients(self, phase, real_img, real_c, gen_z, gen_c, sync, gain):
        assert all(p.requires_grad for p in self.module.parameters())
        self.calls.append((phase, float(gen_z[0]), gain))
        sum((p * self.value).sum() for p in self.module.parameters()).backward()


def rounds(count: int) -> list[tuple[torch.Tensor, ...]]:
    return [
        (torch.zeros(1), torch.zeros(1), torch.full([1], float(i)), torch.zeros(1))
        for i in range(count)
    ]


def settings(phase: Phase) -> tuple[float, tuple[float, float]]:
    group = phase.optimizer.param_groups[0]
    return group["lr"], group["betas"]


def test_lazy_regularisation():
    g, d = ToyG(), ToyD()
    phases = build_phases(g, d, OPT, OPT, G_reg_interval=4, D_reg_interval=16)
    assert [(p.name, p.interval) for p in phases] == [
        ("Gmain", 1),
        ("Greg", 4),
        ("Dmain", 1),
        ("Dreg", 16),
    ]
    assert phases[0].optimizer is phases[1].optimizer and phases[0].module is g
    assert phases[2].optimizer is phases[3].optimizer and phases[2].module is d
    lr, betas = settings(phases[0])
    assert lr == pytest.approx(0.002) and betas == pytest.approx((0, 0.99**0.8))
    lr, betas = settings(phases[2])
    assert lr == pytest.approx(0.0025 * 16 / 17) and betas == pytest.approx((0, 0.99 ** (16 / 17)))
    assert [i for i in range(20) if phases[3].is_due(i)] == [0, 16]


def test_a_phase_with_nothing_to_do_is_not_scheduled_and_slows_nothing_down():
    phases = build_phases(ToyG(), ToyD(), OPT, OPT, regularize_G=False)
    assert [p.name for p in phases] == ["Gmain", "Dmain", "Dreg"]
    assert settings(phases[0]) == (0.0025, (0.0, 0.99))
    phases = build_phases(ToyG(), ToyD(), OPT, OPT, regularize_D=False)
    assert [p.name for p in phases] == ["Gmain", "Greg", "Dmain"]


def test_no_interval_is_one_phase_at_full_rate():
    phases = build_phases(ToyG(), ToyD(), OPT, OPT, None, None)
    assert [p.name for p in phases] == ["Gboth", "Dboth"]
    assert settings(phases[0]) == (0.0025, (0.0, 0.99))
    with pytest.raises(ValueError, match="D_reg_interval must be at least 1 or None, got 0"):
        build_phases(ToyG(), ToyD(), OPT, OPT, 4, 0)


def test_fused_adam_equals_the_loop():
    torch.manual_seed(1)
    fused, loop = nn.Linear(5, 3), nn.Linear(5, 3)
    loop.load_state_dict(fused.state_dict())
    opts = build_optimizer(fused, OPT), build_optimizer(loop, {**OPT, "foreach": False})
    assert opts[0].param_groups[0]["fused"] and not opts[1].param_groups[0]["fused"]
    for _ in range(20):
        grad = torch.randn(3, 5)
        for net, opt in zip((fused, loop), opts):
            net.weight.grad = grad.clone()
            opt.step()
    torch.testing.assert_close(fused.weight, loop.weight, atol=1e-6, rtol=1e-5)


def test_other_optimizers_take_their_own_arguments():
    sgd = build_optimizer(nn.Linear(2, 2), {"class_name": "torch.optim.SGD", "lr": 1}, 0.5)
    assert isinstance(sgd, torch.optim.SGD) and sgd.param_groups[0]["lr"] == 0.5


def test_groups_of_parameters_have_their_own_rates():
    net = nn.ModuleDict({"slow": nn.Linear(2, 2), "fast": nn.Linear(2, 2), "other": ToyD()})
    net.parameter_groups = lambda: {
        "slow": list(net.slow.parameters()),
        "empty": [],
        "rest": [*net.fast.parameters(), *net.other.parameters()],
    }
    optimizer = build_optimizer(net, {**OPT, "lr_multipliers": {"slow": 0.1}}, 0.8)
    slow, rest = optimizer.param_groups
    assert (slow["name"], rest["name"]) == ("slow", "rest")
    assert slow["lr"] == pytest.approx(0.0025 * 0.8 * 0.1)
    assert rest["lr"] == pytest.approx(0.0025 * 0.8)
    assert slow["betas"] == rest["betas"] == (0.0, 0.99**0.8)
    assert sum(len(g["params"]) for g in (slow, rest)) == len(list(net.parameters()))
    before = net.slow.weight.clone(), net.fast.weight.clone()
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    torch.testing.assert_close(net.slow.weight, before[0] - 0.0002)
    torch.testing.assert_close(net.fast.weight, before[1] - 0.002)


@pytest.mark.parametrize(
    ("multipliers", "words"),
    [({"fast": 2}, "lr_multipliers for fast, .* groups slow"), ({"empty": 2}, "for empty")],
)
def test_refuses_rates_for_groups_that_are_not_there(multipliers, words):
    net = nn.Linear(2, 2)
    net.parameter_groups = lambda: {"slow": list(net.parameters()), "empty": []}
    with pytest.raises(ValueError, match=words):
        build_optimizer(net, {**OPT, "lr_multipliers": multipliers})
    with pytest.raises(ValueError, match="groups none"):
        build_optimizer(nn.Linear(2, 2), {**OPT, "lr_multipliers": {"slow": 0.1}})


@pytest.mark.parametrize(
    ("grad", "expected"), [(2.0, 4.0), (float("nan"), 0.0), (float("-inf"), -1e5)]
)
def test_run_phase_sums_rounds_and_cleans_gradients(grad, expected):
    net = nn.Linear(2, 2).requires_grad_(False)
    before = net.weight.clone()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    net.weight.grad = torch.full_like(net.weight, 99.0)  # of an earlier step
    loss = FillLoss(net, grad)
    run_phase(Phase("Greg", net, optimizer, interval=4), loss, rounds(2))
    assert loss.calls == [("Greg", 0.0, 4), ("Greg", 1.0, 4)]
    torch.testing.assert_close(net.weight, before - 0.5 * expected)
    assert not any(p.requires_grad for p in net.parameters())


def test_requires_grad_is_off_again_after_an_error():
    net = nn.Linear(2, 2).requires_grad_(False)
    phase = Phase("Gmain", net, torch.optim.SGD(net.parameters(), lr=1))
    with pytest.raises(AttributeError):
        run_phase(phase, None, rounds(1))
    assert not any(p.requires_grad for p in net.parameters())


def test_toy_networks_learn_the_mean_colour():
    """150 iterations of all four phases, the average and the real loss."""
    training_stats.reset()
    torch.manual_seed(0)
    g, d = ToyG().requires_grad_(False), ToyD().requires_grad_(False)
    loss = StyleGAN2Loss("cpu", g.mapping, g.synthesis, d, r1_gamma=0.1, pl_weight=0.1)
    opt = {**OPT, "lr": 0.02}
    phases, ema = build_phases(g, d, opt, opt), EMA(g, kimg=0.1)
    target = torch.tensor([0.5, -0.3, 0.1])[None, :, None, None]
    for batch_idx in range(150):
        for phase in phases:
            if phase.is_due(batch_idx):
                real = target + 0.1 * torch.randn(8, 3, 4, 4)
                batch = (real, torch.zeros(8, 0), torch.randn(8, 2), torch.zeros(8, 0))
                run_phase(phase, loss, [tuple(t[:4] for t in batch), tuple(t[4:] for t in batch)])
        ema.update(batch_idx * 8, 8)
    g_ema = ema.net_ema
    mean = g_ema.synthesis(g_ema.mapping(torch.randn(200, 2), None)).mean(dim=(0, 2, 3))
    assert (mean - target.flatten()).abs().max() < 0.15
    training_stats.reset()
