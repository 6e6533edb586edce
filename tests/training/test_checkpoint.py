"""The file that holds the complete state of a run."""

from __future__ import annotations

import os

import pytest
import torch

from dnnlib import UserError
from training.checkpoint import load_checkpoint, save_checkpoint, write_atomically


def make_parts(seed: int) -> dict:
    torch.manual_seed(seed)
    G = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(G.parameters(), lr=0.1, betas=(0.0, 0.99))
    return {"G": G, "G_opt": optimizer, "augment_pipe": None}


def train_step(parts: dict) -> torch.Tensor:
    data = torch.linspace(-1, 1, 15).reshape(5, 3)
    parts["G_opt"].zero_grad()
    loss = parts["G"](data).square().mean() + sum(p.pow(4).sum() for p in parts["G"].parameters())
    loss.backward()
    parts["G_opt"].step()
    return loss.detach()


def test_training_continues_bit_exactly(tmp_path):
    parts = make_parts(0)
    for _ in range(3):
        train_step(parts)
    path = str(tmp_path / "state.pt")
    save_checkpoint(path, parts, {"cur_nimg": 96, "p": 0.25})
    expected = [train_step(parts) for _ in range(3)]

    others = make_parts(1)
    counters = load_checkpoint(path, others)
    assert counters == {"cur_nimg": 96, "p": 0.25}
    assert torch.equal(torch.stack(expected), torch.stack([train_step(others) for _ in range(3)]))


def test_file_needs_no_code(tmp_path):
    path = str(tmp_path / "state.pt")
    save_checkpoint(path, make_parts(0), {"cur_nimg": 1})
    state = torch.load(path, weights_only=True)
    assert list(state) == ["version", "parts", "counters"]
    assert list(state["parts"]) == ["G", "G_opt"]


def test_refuses_what_does_not_fit(tmp_path):
    path = str(tmp_path / "state.pt")
    parts = make_parts(0)
    save_checkpoint(path, parts, {})
    with pytest.raises(UserError, match="holds G, G_opt, but this run consists of D, G, G_opt"):
        load_checkpoint(path, {**parts, "D": torch.nn.Linear(1, 1)})
    with pytest.raises(UserError, match="no checkpoint"):
        load_checkpoint(str(tmp_path / "none.pt"), parts)
    torch.save({"version": 99}, path)
    with pytest.raises(UserError, match="version 99"):
        load_checkpoint(path, parts)
    (tmp_path / "bad.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match="bad.pt is not a readable checkpoint"):
        load_checkpoint(str(tmp_path / "bad.pt"), parts)


def test_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write_half(file):
        file.write(b"ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(str(path), write_half)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]
    write_atomically(str(path), lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["file"]
