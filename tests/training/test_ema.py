"""EMA: half-life, ramp-up, buffers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from training.ema import EMA


def make_net(value: float) -> nn.Module:
    net = nn.BatchNorm1d(3)
    with torch.no_grad():
        net.weight.fill_(value)
        net.bias.fill_(-value)
        net.running_mean.fill_(value)
    return net


def test_half_life():
    net = make_net(1.0)
    ema = EMA(net, kimg=0.1)
    with torch.no_grad():
        net.weight.zero_()
    for i in range(10):
        ema.update(cur_nimg=10 * i, batch_size=10)
    torch.testing.assert_close(ema.net_ema.weight, torch.full([3], 0.5))


def test_formula_of_one_update():
    net = make_net(1.0)
    ema = EMA(net, kimg=2, rampup=0.05, net_ema=make_net(3.0))
    ema.update(cur_nimg=1000, batch_size=32)
    beta = 0.5 ** (32 / 50)
    assert ema.beta(1000, 32) == pytest.approx(beta)
    torch.testing.assert_close(ema.net_ema.weight, torch.full([3], 1 + beta * (3 - 1)))
    assert ema.beta(10**9, 32) == pytest.approx(0.5 ** (32 / 2000))
    assert EMA(net, kimg=0).beta(5, 1) == 0


def test_rampup_starts_with_a_copy_and_buffers_are_copied():
    net = make_net(1.0)
    ema = EMA(net, rampup=0.05, net_ema=make_net(3.0))
    with torch.no_grad():
        net.num_batches_tracked.fill_(7)
    ema.update(cur_nimg=0, batch_size=4)
    assert torch.equal(ema.net_ema.weight, net.weight)
    assert torch.equal(ema.net_ema.running_mean, net.running_mean)
    assert ema.net_ema.num_batches_tracked == 7


def test_average_is_detached_from_the_network():
    net = make_net(1.0).requires_grad_(True)
    ema = EMA(net)
    assert not ema.net_ema.training and net.training
    assert not any(p.requires_grad for p in ema.net_ema.parameters())
    assert all(p.requires_grad for p in net.parameters())
    with torch.no_grad():
        net.weight.fill_(5)
    assert ema.net_ema.weight[0] == 1
    ema.reset()
    assert ema.net_ema.weight[0] == 5


def test_state_round_trip():
    ema, other = EMA(make_net(1.0)), EMA(make_net(2.0))
    other.load_state_dict(ema.state_dict())
    assert torch.equal(other.net_ema.weight, ema.net_ema.weight)
    EMA(nn.Identity()).update(cur_nimg=0, batch_size=1)  # a network without parameters
