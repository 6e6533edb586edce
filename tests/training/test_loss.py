"""Losses against their formulas, and the phases of StyleGAN2Loss on toy networks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from torch_utils import training_stats
from training.augment import AugmentPipe
from training.loss import (
    StyleGAN2Loss,
    discriminator_fake_loss,
    discriminator_real_loss,
    generator_loss,
    path_lengths,
    r1_penalty,
)

NUM_WS = 4


class ToyMapping(nn.Module):
    """z -> ws with an update counter in place of w_avg."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 5)
        self.updates = 0

    def forward(self, z, c, skip_w_avg_update=False):
        self.updates += not skip_w_avg_update
        return self.fc(z).tanh()[:, None].repeat(1, NUM_WS, 1)


class ToySynthesis(nn.Module):
    """ws -> images [N, 3, 8, 8], not linear in ws."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(NUM_WS * 5, 3 * 8 * 8)
        self.seen = []

    def forward(self, ws):
        self.seen.append(ws.detach())
        return self.fc(ws.flatten(1)).sin().unflatten(1, (3, 8, 8))


class ToyD(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 1)

    def forward(self, img, c):
        return self.fc(self.conv(img).tanh().flatten(1))


def make_loss(train: str, **kwargs) -> StyleGAN2Loss:
    """A loss of toy networks, of which only G or D requires gradients."""
    torch.manual_seed(0)
    mapping, synthesis, d = ToyMapping(), ToySynthesis(), ToyD()
    for net in mapping, synthesis:
        net.requires_grad_(train == "G")
    d.requires_grad_(train == "D")
    return StyleGAN2Loss("cpu", mapping, synthesis, d, **kwargs)


def make_batch(n: int = 4) -> dict[str, torch.Tensor]:
    return {
        "real_img": torch.randn(n, 3, 8, 8).clamp(-1, 1),
        "real_c": torch.zeros(n, 0),
        "gen_z": torch.randn(n, 3),
        "gen_c": torch.zeros(n, 0),
    }


def grads(loss: StyleGAN2Loss) -> dict[str, torch.Tensor]:
    """Gradients of all networks by name, and clear them."""
    found = {}
    for label in "G_mapping", "G_synthesis", "D":
        net = getattr(loss, label)
        for name, param in net.named_parameters():
            if param.grad is not None:
                found[f"{label}.{name}"] = param.grad.clone()
        net.zero_grad(set_to_none=True)
    return found


def assert_same(got: dict, expected: dict, factor: float = 1) -> None:
    assert got.keys() == expected.keys() and got
    for name, grad in got.items():
        torch.testing.assert_close(grad, expected[name] * factor, atol=1e-6, rtol=1e-5)


@pytest.fixture
def reported():
    """A function that returns the means of the statistics reported since its previous call."""
    training_stats.reset()
    collector = training_stats.Collector(keep_previous=False)

    def means() -> dict[str, float]:
        collector.update()
        return {name: stat.mean for name, stat in collector.as_dict().items() if stat.num}

    yield means
    training_stats.reset()


# Pure functions


def test_logistic_losses_are_cross_entropies():
    logits = torch.randn(50, dtype=torch.float64)
    sigmoid = 1 / (1 + torch.exp(-logits))
    torch.testing.assert_close(generator_loss(logits), -sigmoid.log())
    torch.testing.assert_close(discriminator_real_loss(logits), -sigmoid.log())
    torch.testing.assert_close(discriminator_fake_loss(logits), -(1 - sigmoid).log())
    assert generator_loss(torch.tensor(-1e4)) == 1e4  # no overflow


def test_r1_of_a_quadratic():
    a = torch.rand(3, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    x = torch.rand(3, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    penalty = r1_penalty((a * x.square()).sum(dim=[1, 2, 3]), x)
    torch.testing.assert_close(penalty, (2 * a * x).square().sum(dim=[1, 2, 3]))
    (grad,) = torch.autograd.grad(penalty.sum(), a)
    torch.testing.assert_close(grad, 8 * a * x.square())


def test_path_length_of_a_linear_generator():
    n, layers, dim = 2, 3, 4
    m = torch.randn(1 * 2 * 5, layers * dim, dtype=torch.float64, requires_grad=True)
    ws = torch.randn(n, layers, dim, dtype=torch.float64, requires_grad=True)
    noise = torch.randn(n, 1, 2, 5, dtype=torch.float64)
    img = (ws.flatten(1) @ m.T).unflatten(1, (1, 2, 5))
    jty = (noise.flatten(1) @ m).unflatten(1, (layers, dim))
    expected = (jty.square().sum(dim=(1, 2)) / layers).sqrt()
    lengths = path_lengths(img, ws, noise)
    torch.testing.assert_close(lengths, expected)
    torch.testing.assert_close(
        torch.autograd.grad(lengths.sum(), m), torch.autograd.grad(expected.sum(), m)
    )


# Phases


def test_gmain(reported):
    loss, batch = make_loss("G", style_mixing_prob=0), make_batch()
    loss.accumulate_gradients("Gmain", **batch, sync=True, gain=3)
    got = grads(loss)
    ws = loss.G_mapping(batch["gen_z"], None)
    logits = loss.D(loss.G_synthesis(ws), None)
    (3 * -torch.sigmoid(logits).log().mean()).backward()
    assert_same(got, grads(loss))
    assert not any(name.startswith("D.") for name in got)
    stats = reported()
    assert list(stats) == ["Loss/scores/fake", "Loss/signs/fake", "Loss/G/loss"]
    assert stats["Loss/scores/fake"] == pytest.approx(logits.mean().item(), rel=1e-5)
    assert stats["Loss/signs/fake"] == pytest.approx(logits.sign().mean().item())


def test_dmain_and_r1_through_the_augmentation(reported):
    pipe = AugmentPipe(xflip=1, rotate=1, contrast=1)
    loss, batch = make_loss("D", augment_pipe=pipe, style_mixing_prob=0, r1_gamma=5), make_batch()
    batch["real_img"].requires_grad_(False)

    def rerun_real(x):
        torch.manual_seed(7)
        return loss.D(pipe(x), None)

    torch.manual_seed(7)
    loss.accumulate_gradients("Dreg", **batch, gain=16)
    got = grads(loss)
    x = batch["real_img"].clone().requires_grad_(True)
    (grad,) = torch.autograd.grad(rerun_real(x).sum(), x, create_graph=True)
    (16 * 2.5 * grad.square().sum(dim=(1, 2, 3)).mean()).backward()
    # The bias of the last layer has no part in the gradient; as in the definition it gets none.
    assert_same(got, grads(loss))
    assert "Loss/D/loss" not in reported() and not batch["real_img"].requires_grad

    torch.manual_seed(8)
    loss.accumulate_gradients("Dmain", **batch, gain=1)
    got = grads(loss)
    torch.manual_seed(8)
    with torch.no_grad():
        fake = loss.G_synthesis(loss.G_mapping(batch["gen_z"], None))
    fake_logits = loss.D(pipe(fake), None)
    real_logits = loss.D(pipe(batch["real_img"]), None)
    fake_part = -torch.sigmoid(-fake_logits).log()
    real_part = -torch.sigmoid(real_logits).log()
    (fake_part + real_part).mean().backward()
    assert_same(got, grads(loss))
    expected = (fake_part + real_part).mean().item()
    assert reported()["Loss/D/loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("network", ["G", "D"])
def test_both_is_main_and_reg(network):
    batch = make_batch()
    together = make_loss(network, style_mixing_prob=0)
    together.pl_mean.fill_(1)
    torch.manual_seed(1)
    together.accumulate_gradients(f"{network}both", **batch, gain=1)
    apart = make_loss(network, style_mixing_prob=0)
    apart.pl_mean.fill_(1)
    torch.manual_seed(1)
    apart.accumulate_gradients(f"{network}main", **batch, gain=1)
    apart.accumulate_gradients(f"{network}reg", **batch, gain=1)
    assert_same(grads(together), grads(apart))


def test_greg_follows_the_formula(reported):
    loss, batch = make_loss("G", style_mixing_prob=0, pl_weight=3), make_batch()
    loss.pl_mean.fill_(0.5)
    torch.manual_seed(2)
    loss.accumulate_gradients("Greg", **batch, gain=4)
    got = grads(loss)
    torch.manual_seed(2)
    ws = loss.G_mapping(batch["gen_z"][:2], None)
    img = loss.G_synthesis(ws)
    noise = torch.randn_like(img) / math.sqrt(8 * 8)
    (jty,) = torch.autograd.grad((img * noise).sum(), ws, create_graph=True)
    lengths = jty.square().sum(2).mean(1).sqrt()
    mean = 0.5 + 0.01 * (lengths.mean().item() - 0.5)
    (4 * 3 * (lengths - mean).square().mean()).backward()
    expected = grads(loss)
    assert loss.pl_mean.item() == pytest.approx(mean, rel=1e-6)
    assert_same(got, expected)
    assert list(reported()) == ["Loss/pl_penalty", "Loss/G/reg"]


def test_path_length_with_one_image():
    loss = make_loss("G", pl_batch_shrink=2)
    loss.accumulate_gradients("Greg", **make_batch(1), gain=4)
    assert all(grad.isfinite().all() for grad in grads(loss).values())
    assert len(loss.G_synthesis.seen[0]) == 1 and loss.pl_mean > 0


@pytest.mark.parametrize(("phase", "off"), [("Greg", "pl_weight"), ("Dreg", "r1_gamma")])
def test_a_term_of_weight_zero_is_left_out(reported, phase, off):
    loss = make_loss(phase[0], **{off: 0})
    loss.accumulate_gradients(phase, **make_batch(), gain=4)
    assert grads(loss) == {} and reported() == {} and loss.G_synthesis.seen == []


def test_style_mixing():
    loss, batch = make_loss("G", style_mixing_prob=1), make_batch(2)
    for _ in range(30):
        loss.run_G(batch["gen_z"], batch["gen_c"])
    own = loss.G_mapping(batch["gen_z"], None)[:, 0]
    cutoffs = {int((ws[0] == own[0]).all(dim=1).sum()) for ws in loss.G_synthesis.seen}
    assert cutoffs == {1, 2, 3}  # the first layer always keeps its own w, the last one never
    assert all((ws[:, 0] == own).all() for ws in loss.G_synthesis.seen)
    assert loss.G_mapping.updates == 31  # the second z does not count


def test_style_mixing_happens_with_its_probability():
    loss, batch = make_loss("G", style_mixing_prob=0.25), make_batch(1)
    for _ in range(400):
        loss.run_G(batch["gen_z"], batch["gen_c"])
    mixed = sum(bool((ws[0, 0] != ws[0, -1]).any()) for ws in loss.G_synthesis.seen)
    assert 70 <= mixed <= 130  # 100, standard deviation 8.7


def test_fakes_of_d_have_no_graph():
    loss, batch = make_loss("D"), make_batch()
    for net in loss.G_mapping, loss.G_synthesis:
        net.requires_grad_(True)
    loss.accumulate_gradients("Dmain", **batch, gain=1)
    assert all(name.startswith("D.") for name in grads(loss))


def test_state_round_trip():
    loss, other = make_loss("G"), make_loss("G")
    loss.accumulate_gradients("Greg", **make_batch(), gain=4)
    other.load_state_dict(loss.state_dict())
    assert other.pl_mean == loss.pl_mean != 0
    loss.pl_mean.add_(1)
    assert other.pl_mean != loss.pl_mean


def test_unknown_phase_is_named():
    with pytest.raises(ValueError, match="Gmian"):
        make_loss("G").accumulate_gradients("Gmian", **make_batch(), gain=1)
