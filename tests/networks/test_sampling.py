"""What the drawing commands share: seeds, classes, files of ws."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import dnnlib
from networks import sampling
from tests.small_networks import make_generator


def test_latents_are_those_of_stylegan2_ada() -> None:
    z = sampling.latents([3, 0, 2**32 - 1], 5)
    assert (z.shape, z.dtype) == ((3, 5), torch.float32)
    for row, seed in zip(z, [3, 0, 2**32 - 1]):
        expected = np.random.RandomState(seed).randn(1, 5)[0].astype(np.float32)
        assert np.array_equal(row.numpy(), expected)
    assert sampling.latents([], 5).shape == (0, 5)


def test_one_hot() -> None:
    assert sampling.one_hot(1, 3, n=2).tolist() == [[0, 1, 0], [0, 1, 0]]
    assert sampling.one_hot(None, 0).shape == (1, 0)
    for label in (-1, 3):
        with pytest.raises(ValueError, match="not in"):
            sampling.one_hot(label, 3)


@pytest.mark.parametrize("c_dim", [0, 3])
def test_ws_of_seed_are_those_of_the_mapping(c_dim: int) -> None:
    G = make_generator(c_dim=c_dim)
    label = 2 if c_dim else None
    ws = sampling.ws_of_seed(G, 7, label, truncation_psi=0.5)
    z = torch.from_numpy(np.random.RandomState(7).randn(1, 8)).float()
    c = torch.eye(3)[2:] if c_dim else None
    w = G.mapping(z, c)
    assert ws.shape == (1, G.num_ws, 8)
    torch.testing.assert_close(ws, G.mapping.w_avg + 0.5 * (w - G.mapping.w_avg))
    assert not torch.equal(ws, sampling.ws_of_seed(G, 8, label, truncation_psi=0.5))


def test_random_noise_depends_on_its_seed_only() -> None:
    G = make_generator("stylegan2")
    ws = sampling.ws_of_seed(G, 0)
    first = sampling.draw_image(G, ws, 5, noise_mode="random")
    assert (first.shape, first.dtype) == ((3, 16, 16), torch.uint8)
    other = sampling.draw_image(G, ws, 6, noise_mode="random")
    assert torch.equal(sampling.draw_image(G, ws, 5, noise_mode="random"), first)
    assert not torch.equal(other, first)


def test_a_view_is_a_part_of_the_plane() -> None:
    G = make_generator()
    ws = sampling.ws_of_seed(G, 0)
    whole = sampling.draw_image(G, ws, 0).int()
    part = sampling.draw_image(G, ws, 0, view={"size": (16, 8), "region": (0.5, 0, 1, 1)})
    assert (part.int() - whole[:, :, 8:]).abs().max() <= 1


def test_classes_of_a_conditional_network() -> None:
    G = make_generator(c_dim=3)
    assert sampling.check_classes(G, [2, 0]) == [2, 0]
    assert sampling.check_class(G, 1) == 1
    for given in (None, []):
        with pytest.raises(dnnlib.UserError, match=r"choose a class, --class=0 to --class=2\."):
            sampling.check_classes(G, given)
    for label in (3, -1):
        with pytest.raises(dnnlib.UserError, match=f"--class={label} does not exist"):
            sampling.check_class(G, label)


def test_class_of_an_unconditional_network(capsys: pytest.CaptureFixture[str]) -> None:
    G = make_generator()
    assert sampling.check_class(G, None) is None
    assert capsys.readouterr().err == ""
    assert sampling.check_class(G, 1) is None
    assert "Warning: --class is not used" in capsys.readouterr().err


def test_truncation_needs_the_average_w() -> None:
    G = make_generator()
    sampling.check_truncation(G, 0.5)
    G.mapping.w_avg = None
    sampling.check_truncation(G, 1)
    with pytest.raises(dnnlib.UserError, match=r"--trunc=0\.5 .* average w"):
        sampling.check_truncation(G, 0.5)


def test_ws_in_a_file(tmp_path: Path) -> None:
    G = make_generator()
    ws = np.random.RandomState(0).randn(2, G.num_ws, G.w_dim)
    np.savez(tmp_path / "w.npz", w=ws)
    loaded = sampling.load_ws(str(tmp_path / "w.npz"), G)
    assert loaded.dtype == torch.float32
    assert np.array_equal(loaded.numpy(), ws.astype(np.float32))


@pytest.mark.parametrize("content", [b"", b"text", "npy", "pickle", "other-name"])
def test_files_without_ws(tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "w.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        with path.open("wb") as file:
            if content == "npy":
                np.save(file, np.zeros([1, 9, 8]))
            elif content == "pickle":
                np.savez(file, w=np.array([{}], dtype=object))
            else:
                np.savez(file, ws=np.zeros([1, 9, 8]))
    with pytest.raises(
        dnnlib.UserError, match=r"--projected-w=.*w\.npz is not an npz file"
    ) as info:
        sampling.load_ws(str(path), make_generator())
    assert "allow_pickle=`" not in str(info.value)  # numpy's advice, bad for files from elsewhere


def test_a_file_of_ws_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(dnnlib.UserError, match=r"w\.npz: there is no such file$"):
        sampling.load_ws(str(tmp_path / "w.npz"), make_generator())


@pytest.mark.parametrize("view", [None, {"size": (8, 8)}])
def test_no_picture_of_a_network_that_has_diverged(view: dict | None) -> None:
    """Not a number would be written as black."""
    G = make_generator()
    ws = sampling.ws_of_seed(G, 0)
    with torch.no_grad():
        next(G.synthesis.parameters()).fill_(math.nan)
    with pytest.raises(dnnlib.UserError, match="not finite"):
        sampling.draw_image(G, ws, 0, view=view)
