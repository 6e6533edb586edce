"""generate.py on small networks: files, pictures, views, and what it refuses."""

from __future__ import annotations

import ipaddress
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

import networks
from generate import main
from networks.snapshot_file import write_snapshot

Z_DIM = W_DIM = 8


def make_generator(preset: str, *, c_dim: int = 0, img_channels: int = 3) -> torch.nn.Module:
    torch.manual_seed(0)
    G = networks.build_generator(
        preset,
        z_dim=Z_DIM,
        c_dim=c_dim,
        w_dim=W_DIM,
        img_resolution=16,
        img_channels=img_channels,
        mapping_kwargs={"num_layers": 2},
        synthesis_kwargs={"channel_base": 128, "channel_max": 8},
    )
    return G.eval().requires_grad_(False)


def snapshot(folder: Path, preset: str, **kwargs: int) -> Path:
    """Write a snapshot as training does; returns its path."""
    path = folder / f"{preset}{'-'.join(f'{k}{v}' for k, v in kwargs.items())}.pkl"
    if not path.exists():
        G = make_generator(preset, **kwargs)
        data = {"training_set_kwargs": {}, "G": G, "D": None, "G_ema": G, "augment_pipe": None}
        path.write_bytes(pickle.dumps(data))
    return path


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nets")


def generate(network: Path, outdir: Path, *options: str) -> Result:
    return CliRunner().invoke(
        main, [f"--network={network}", f"--outdir={outdir}", "--device=cpu", *options]
    )


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("preset", ["inr-gan", "inr-gan-bil", "stylegan2"])
def test_pictures_are_those_of_the_network(nets: Path, tmp_path: Path, preset: str) -> None:
    result = generate(snapshot(nets, preset), tmp_path / "out", "--seeds=1,4-6", "--trunc=0.7")
    assert result.exit_code == 0, result.output
    assert names(tmp_path / "out") == [f"seed{seed:04d}.png" for seed in (1, 4, 5, 6)]
    G = make_generator(preset)
    for seed in (1, 6):
        z = torch.from_numpy(np.random.RandomState(seed).randn(1, Z_DIM)).float()
        image = G(z, None, truncation_psi=0.7, noise_mode="const")[0]
        expected = (image * 127.5 + 128).clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
        assert np.array_equal(read(tmp_path / "out" / f"seed{seed:04d}.png"), expected)


def test_a_seed_does_not_depend_on_the_other_seeds(nets: Path, tmp_path: Path) -> None:
    network = snapshot(nets, "stylegan2")
    noise = "--noise-mode=random"
    assert generate(network, tmp_path / "all", "--seeds=0-3", noise).exit_code == 0
    assert generate(network, tmp_path / "one", "--seeds=2", noise).exit_code == 0
    together, alone = (read(tmp_path / folder / "seed0002.png") for folder in ("all", "one"))
    assert np.array_equal(together, alone)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_channels(nets: Path, tmp_path: Path, channels: int, mode: str) -> None:
    network = snapshot(nets, "inr-gan-bil", img_channels=channels)
    result = generate(network, tmp_path, "--seeds=0", "--size=20")
    assert result.exit_code == 0, result.output
    picture = Image.open(tmp_path / "seed0000.png")
    assert (picture.mode, picture.size) == (mode, (20, 20))


def test_classes(nets: Path, tmp_path: Path) -> None:
    network = snapshot(nets, "inr-gan-bil", c_dim=3)
    assert generate(network, tmp_path / "one", "--seeds=0-1", "--class=2").exit_code == 0
    assert names(tmp_path / "one") == ["seed0000.png", "seed0001.png"]
    result = generate(network, tmp_path / "all", "--seeds=0-1", "--class=0-2", "--grid")
    assert result.exit_code == 0, result.output
    pictures = [f"seed{s:04d}-class{c:02d}.png" for s in (0, 1) for c in (0, 1, 2)]
    assert names(tmp_path / "all") == ["grid.png", *pictures]
    alone = read(tmp_path / "one" / "seed0001.png")
    assert np.array_equal(read(tmp_path / "all" / "seed0001-class02.png"), alone)
    grid = read(tmp_path / "all" / "grid.png")
    assert grid.shape == (3 * 16, 2 * 16, 3)  # one row per class
    assert np.array_equal(grid[32:, 16:], alone)
    assert not np.array_equal(grid[:16, 16:], alone)


@pytest.mark.parametrize("preset", ["inr-gan", "inr-gan-bil"])
def test_views_show_the_same_function(nets: Path, tmp_path: Path, preset: str) -> None:
    network = snapshot(nets, preset)

    def view(name: str, *options: str) -> np.ndarray:
        result = generate(network, tmp_path / name, "--seeds=3", *options)
        assert result.exit_code == 0, result.output
        return read(tmp_path / name / "seed0003.png").astype(int)

    plain = view("plain")
    large = view("large", "--size=48")
    part = view("part", "--size=24x48", "--region=1/2,0,1,1")
    beyond = view("beyond", "--size=32", "--region=-0.5,-0.5,1.5,1.5")
    # Different tiles of different views may round differently; never by more than one level.
    assert np.abs(large[1::3, 1::3] - plain).max() <= 1
    assert part.shape == (48, 24, 3)
    assert np.abs(part - large[:, 24:]).max() <= 1
    assert np.abs(beyond[8:24, 8:24] - plain).max() <= 1
    assert beyond[:, :8].std() > 0
    scaled = view("scaled", "--size=8", "--lod=scaled")
    assert scaled.shape == (8, 8, 3)
    assert not np.array_equal(scaled, view("fixed", "--size=8", "--lod=fixed"))


def test_projected_w(nets: Path, tmp_path: Path) -> None:
    network = snapshot(nets, "inr-gan-bil")
    G = make_generator("inr-gan-bil")
    z = torch.from_numpy(np.stack([np.random.RandomState(s).randn(Z_DIM) for s in (0, 1)]))
    np.savez(tmp_path / "w.npz", w=G.mapping(z.float(), None).numpy())
    assert generate(network, tmp_path / "seeds", "--seeds=0-1").exit_code == 0
    result = generate(network, tmp_path / "out", f"--projected_w={tmp_path / 'w.npz'}", "--seeds=5")
    assert result.exit_code == 0, result.output
    assert "--seeds is not used" in result.output
    assert names(tmp_path / "out") == ["proj00.png", "proj01.png"]
    for row in (0, 1):
        projected = read(tmp_path / "out" / f"proj{row:02d}.png").astype(int)
        assert np.abs(projected - read(tmp_path / "seeds" / f"seed{row:04d}.png")).max() <= 1


def test_class_of_an_unconditional_network_is_ignored_with_a_warning(
    nets: Path, tmp_path: Path
) -> None:
    result = generate(snapshot(nets, "inr-gan-bil"), tmp_path, "--seeds=0", "--class=1")
    assert result.exit_code == 0
    assert "Warning: --class is not used" in result.output
    assert names(tmp_path) == ["seed0000.png"]


@pytest.mark.parametrize(
    ("preset", "c_dim", "options", "message"),
    [
        ("inr-gan-bil", 0, [], "--seeds=0-35"),
        ("inr-gan-bil", 0, ["--seeds=3-1"], "3-1"),
        ("inr-gan-bil", 0, ["--seeds=x"], "'x'"),
        ("inr-gan-bil", 3, ["--seeds=0"], "--class=0 to --class=2"),
        ("inr-gan-bil", 3, ["--seeds=0", "--class=3"], "--class=3 does not exist"),
        ("inr-gan-bil", 0, ["--seeds=0", "--size=0"], "'0'"),
        ("inr-gan-bil", 0, ["--seeds=0", "--region=0,0,0,1"], "0,0,0,1"),
        ("inr-gan-bil", 0, ["--seeds=0", "--region=1,1,0,0"], "1,1,0,0"),
        ("inr-gan-bil", 0, ["--seeds=0", "--size=999999999"], "--size=999999999x999999999"),
        ("inr-gan-bil", 0, ["--seeds=0", "--trunc=nan"], "nan"),
        ("inr-gan-bil", 0, ["--seeds=0", "--lod=other"], "other"),
        ("inr-gan-bil", 0, ["--seeds=0", "--noise-mode=other"], "other"),
        ("inr-gan-bil", 0, ["--seeds=0", "--sizes=3"], "--sizes"),
        ("stylegan2", 0, ["--seeds=0", "--size=64"], "--size is for continuous generators"),
        ("stylegan2", 0, ["--seeds=0", "--region=0,0,2,2"], "--region is for continuous"),
        ("inr-gan-bil", 0, ["--projected-w=missing.npz"], "missing.npz"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    nets: Path, tmp_path: Path, preset: str, c_dim: int, options: list[str], message: str
) -> None:
    result = generate(snapshot(nets, preset, c_dim=c_dim), tmp_path / "out", *options)
    assert result.exit_code == 2
    errors = result.stderr.strip().splitlines()
    assert len(errors) == 1
    assert errors[0].startswith("Error: ")
    assert message in errors[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [None, b"", b"not a pickle", pickle.dumps({"G": 1})])
def test_file_that_is_no_network(tmp_path: Path, content: bytes | None) -> None:
    network = tmp_path / "net.pkl"
    if content is not None:
        network.write_bytes(content)
    result = generate(network, tmp_path / "out", "--seeds=0")
    assert result.exit_code == 2, result.output
    assert "net.pkl" in result.stderr
    assert not (tmp_path / "out").exists()


def test_file_with_something_unknown_in_it(tmp_path: Path) -> None:
    network = tmp_path / "net.pkl"
    G = make_generator("inr-gan-bil")
    network.write_bytes(pickle.dumps({"G_ema": G, "notes": ipaddress.IPv4Address("10.0.0.1")}))
    result = generate(network, tmp_path / "out", "--seeds=0")
    assert result.exit_code == 2
    assert "IPv4Address" in result.stderr and "--allow-code" in result.stderr
    assert not (tmp_path / "out").exists()
    result = generate(network, tmp_path / "out", "--seeds=0", "--allow-code")
    assert result.exit_code == 0, result.output
    assert names(tmp_path / "out") == ["seed0000.png"]


def test_safetensors(nets: Path, tmp_path: Path) -> None:
    write_snapshot(str(tmp_path / "net.safetensors"), {"G_ema": make_generator("inr-gan-bil")})
    for network, folder in (
        (tmp_path / "net.safetensors", "a"),
        (snapshot(nets, "inr-gan-bil"), "b"),
    ):
        result = generate(network, tmp_path / folder, "--seeds=3")
        assert result.exit_code == 0, result.output
    first, second = (tmp_path / folder / "seed0003.png" for folder in "ab")
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("shape", [(2, 3, W_DIM), (1, 1), (0, 9, W_DIM)])
def test_projected_w_of_another_network(nets: Path, tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.savez(tmp_path / "w.npz", w=np.zeros(shape))
    result = generate(
        snapshot(nets, "inr-gan-bil"), tmp_path / "out", f"--projected-w={tmp_path / 'w.npz'}"
    )
    assert result.exit_code == 2
    assert str(list(shape)) in result.stderr
    assert not (tmp_path / "out").exists()


def test_projected_w_that_is_not_finite(nets: Path, tmp_path: Path) -> None:
    num_ws = make_generator("inr-gan-bil").num_ws
    np.savez(tmp_path / "w.npz", w=np.full((1, num_ws, W_DIM), np.nan))
    result = generate(
        snapshot(nets, "inr-gan-bil"), tmp_path / "out", f"--projected-w={tmp_path / 'w.npz'}"
    )
    assert result.exit_code == 2 and "w.npz" in result.stderr
    assert not (tmp_path / "out").exists()


def test_outdir_that_cannot_be_made(nets: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = generate(snapshot(nets, "inr-gan-bil"), tmp_path / "file" / "out", "--seeds=0")
    assert result.exit_code == 2
    assert "--outdir" in result.stderr
