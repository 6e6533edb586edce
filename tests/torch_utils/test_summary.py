"""torch_utils.misc.print_module_summary: the table, and that printing it changes nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from torch_utils.misc import print_module_summary


class Mapping(nn.Module):
    """Updates a running average in training mode, as StyleGAN2's mapping network does."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.register_buffer("w_avg", torch.zeros(3))
        self.register_buffer("calls", torch.zeros([], dtype=torch.int64))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        w = self.fc(z) + torch.randn(3)
        self.w_avg.copy_(w.detach().mean(dim=0))
        self.calls = self.calls + 1
        return w


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mapping = Mapping()
        self.block = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Identity(), nn.Linear(3, 2)))
        self.frozen = nn.Dropout()
        self.frozen.eval()

    def forward(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        w = self.mapping(z)
        return self.frozen(self.block(w)), w.to(torch.float64)


def table(capsys: pytest.CaptureFixture[str]) -> dict[str, list[str]]:
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    return {row[0]: row[1:] for row in rows}


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    img, w = print_module_summary(Net(), [torch.zeros(5, 4)])
    assert img.shape == (5, 2) and w.dtype == torch.float64
    rows = table(capsys)
    assert rows["Net"] == ["Parameters", "Buffers", "Output", "shape", "Datatype"]
    assert rows["mapping.fc"] == ["15", "-", "[5,", "3]", "float32"]
    assert rows["mapping"] == ["-", "4", "[5,", "3]", "float32"]
    assert rows["block.1.1"] == ["8", "-", "[5,", "2]", "float32"]
    assert rows["<top-level>"] == ["-", "-", "[5,", "3]", "float64"]
    assert rows["Total"] == ["35", "4", "-", "-"]
    assert "block.1.0" not in rows and "block" not in rows and "frozen" not in rows


class Reader(nn.Module):
    """Reads the parameters of its submodules instead of calling them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(4, 3), nn.Dropout())
        self.second = nn.Linear(3, 2)
        self.called = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -self.called(x @ self.first[0].weight.t() @ self.second.weight.t())


def test_submodules_that_are_read_and_not_called(capsys: pytest.CaptureFixture[str]) -> None:
    print_module_summary(nn.Sequential(Reader()), [torch.zeros(5, 4)])
    rows = table(capsys)
    assert [name for name in rows if name[0] == "0"] == ["0.called", "0.first.0", "0.second", "0"]
    assert rows["0.first.0"] == ["15", "-", "-", "-"] and rows["0.second"][0] == "8"
    assert rows["0"][0] == "-" and rows["Total"][0] == "29"
    print_module_summary(nn.Sequential(Reader()), [torch.zeros(5, 4)], max_nesting=1)
    assert table(capsys)["0"][0] == "29"


def test_all_rows_and_nesting(capsys: pytest.CaptureFixture[str]) -> None:
    print_module_summary(Net(), [torch.zeros(5, 4)], skip_redundant=False)
    assert {"block", "block.1", "block.1.0", "frozen"} <= set(table(capsys))
    print_module_summary(Net(), [torch.zeros(5, 4)], max_nesting=1)
    rows = table(capsys)
    assert rows["block"][0] == "20" and "block.0" not in rows and rows["Total"][0] == "35"


def test_leaves_no_trace() -> None:
    net = Net()
    net.requires_grad_(True)
    before = {name: t.clone() for name, t in net.state_dict().items()}
    calls = net.mapping.calls
    generator = torch.get_rng_state()
    out, _w = print_module_summary(net, [torch.full([5, 4], float("nan"))])
    assert not out.requires_grad
    assert torch.equal(generator, torch.get_rng_state())
    assert net.mapping.calls is calls
    assert all(torch.equal(before[name], t) for name, t in net.state_dict().items())
    assert net.training and net.mapping.training and not net.frozen.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_cleans_up_after_an_error() -> None:
    net = Net()
    with pytest.raises(RuntimeError):
        print_module_summary(net, [torch.zeros(5, 9)])
    assert net.training and torch.is_grad_enabled()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
