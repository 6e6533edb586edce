"""style_mixing.py on small networks: files, sheet, whose layers are used, what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

import generate
import style_mixing
from networks.presets import PRESETS
from networks.snapshot_file import write_snapshot
from tests.small_networks import Z_DIM, make_generator, snapshot


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nets")


def mix(network: Path, outdir: Path, *options: str) -> Result:
    arguments = [f"--network={network}", f"--outdir={outdir}", "--device=cpu"]
    return CliRunner().invoke(style_mixing.main, [*arguments, *options])


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def expected_picture(
    G: torch.nn.Module, row: int, col: int, styles: list[int], psi: float = 1
) -> np.ndarray:
    """From the definition: row's ws, the given layers from col, truncated around w_avg."""
    z = torch.from_numpy(np.stack([np.random.RandomState(s).randn(Z_DIM) for s in (row, col)]))
    ws = G.mapping(z.float(), None)
    ws = G.mapping.w_avg + psi * (ws - G.mapping.w_avg)
    mixed = ws[:1].clone()
    mixed[0, styles] = ws[1, styles]
    image = G.synthesis(mixed, noise_mode="const")[0]
    return (image * 127.5 + 128).clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("preset", PRESETS)
def test_files_and_sheet(nets: Path, tmp_path: Path, preset: str) -> None:
    network = snapshot(nets, preset)
    options = ["--rows=1,5", "--cols=2-4", "--styles=0,2", "--trunc=0.7"]
    result = mix(network, tmp_path, *options)
    assert result.exit_code == 0, result.output
    own = [f"{seed}-{seed}.png" for seed in (1, 2, 3, 4, 5)]
    pairs = [f"{row}-{col}.png" for row in (1, 5) for col in (2, 3, 4)]
    assert names(tmp_path) == sorted([*own, *pairs, "grid.png"])

    G = make_generator(preset)
    for row, col in ((1, 1), (3, 3), (1, 4), (5, 2)):
        expected = expected_picture(G, row, col, [0, 2], psi=0.7).astype(int)
        # Another batch size may round differently; never by more than one level.
        assert np.abs(read(tmp_path / f"{row}-{col}.png") - expected).max() <= 1

    grid = read(tmp_path / "grid.png")
    assert grid.shape == (3 * 16, 4 * 16, 3)
    tiles = grid.reshape(3, 16, 4, 16, 3).swapaxes(1, 2)
    assert not tiles[0, 0].any()
    for x, col in enumerate((2, 3, 4), start=1):
        assert np.array_equal(tiles[0, x], read(tmp_path / f"{col}-{col}.png"))
    for y, row in enumerate((1, 5), start=1):
        assert np.array_equal(tiles[y, 0], read(tmp_path / f"{row}-{row}.png"))
        for x, col in enumerate((2, 3, 4), start=1):
            assert np.array_equal(tiles[y, x], read(tmp_path / f"{row}-{col}.png"))


@pytest.mark.parametrize("noise_mode", ["const", "random", "none"])
def test_own_pictures_are_those_of_generate(nets: Path, tmp_path: Path, noise_mode: str) -> None:
    """To the last bit, whatever else is drawn: nothing depends on the other seeds."""
    network = snapshot(nets, "stylegan2", c_dim=3)
    options = [f"--noise-mode={noise_mode}", "--class=2", "--trunc=0.5"]
    result = mix(network, tmp_path, "--rows=1", "--cols=2", "--styles=0-2", *options)
    assert result.exit_code == 0, result.output
    arguments = [f"--network={network}", "--seeds=1,2", f"--outdir={tmp_path}", "--device=cpu"]
    assert CliRunner().invoke(generate.main, [*arguments, *options]).exit_code == 0
    for seed in (1, 2):
        drawn = (tmp_path / f"seed{seed:04d}.png").read_bytes()
        assert (tmp_path / f"{seed}-{seed}.png").read_bytes() == drawn


def test_layers(nets: Path, tmp_path: Path) -> None:
    network = snapshot(nets)
    last = make_generator().num_ws - 1
    for folder, styles in (("none", "0"), ("all", f"0-{last}"), ("rest", f"1-{last}")):
        result = mix(network, tmp_path / folder, "--rows=0", "--cols=1", f"--styles={styles}")
        assert result.exit_code == 0, result.output
    row, col = (read(tmp_path / "all" / f"{seed}-{seed}.png") for seed in (0, 1))
    assert np.array_equal(read(tmp_path / "all" / "0-1.png"), col)
    for folder in ("none", "rest"):
        mixed = read(tmp_path / folder / "0-1.png")
        assert not np.array_equal(mixed, row) and not np.array_equal(mixed, col)


def test_default_layers(nets: Path, tmp_path: Path) -> None:
    """0-6, as far as the network has them."""
    result = mix(snapshot(nets), tmp_path / "default", "--rows=0", "--cols=1")
    assert result.exit_code == 0 and "Warning" not in result.stderr
    mix(snapshot(nets), tmp_path / "given", "--rows=0", "--cols=1", "--styles=0-6")
    default, given = (read(tmp_path / folder / "0-1.png") for folder in ("default", "given"))
    assert np.array_equal(default, given)
    result = mix(snapshot(nets, "stylegan2"), tmp_path / "few", "--rows=0", "--cols=1")
    assert result.exit_code == 0
    assert "Warning: This network has only 6 layers" in result.stderr
    assert np.array_equal(read(tmp_path / "few" / "0-1.png"), read(tmp_path / "few" / "1-1.png"))


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_channels(nets: Path, tmp_path: Path, channels: int, mode: str) -> None:
    network = snapshot(nets, img_channels=channels)
    result = mix(network, tmp_path, "--rows=0", "--cols=1,2", "--styles=0-3")
    assert result.exit_code == 0, result.output
    for name, size in (("0-1.png", (16, 16)), ("grid.png", (48, 32))):
        picture = Image.open(tmp_path / name)
        assert (picture.mode, picture.size) == (mode, size)
    corner = Image.open(tmp_path / "grid.png").getpixel((0, 0))
    assert corner == {1: 0, 3: (0, 0, 0), 4: (0, 0, 0, 255)}[channels]


def test_pictures_that_are_not_square(nets: Path, tmp_path: Path) -> None:
    network = snapshot(nets, img_resolution=24, img_shape=(3, 12, 24))
    result = mix(network, tmp_path, "--rows=0", "--cols=1,2", "--styles=0")
    assert result.exit_code == 0, result.output
    assert read(tmp_path / "0-1.png").shape == (12, 24, 3)
    assert read(tmp_path / "grid.png").shape == (24, 72, 3)


def test_class_is_that_of_rows_and_columns(nets: Path, tmp_path: Path) -> None:
    network = snapshot(nets, c_dim=3)
    options = ["--rows=0", "--cols=1", "--styles=0-2"]
    for label in (0, 2):
        result = mix(network, tmp_path / str(label), *options, f"--class={label}")
        assert result.exit_code == 0, result.output
    for name in ("0-0.png", "1-1.png", "0-1.png"):
        assert not np.array_equal(read(tmp_path / "0" / name), read(tmp_path / "2" / name))


def test_seeds_that_appear_twice(nets: Path, tmp_path: Path) -> None:
    result = mix(snapshot(nets), tmp_path, "--rows=1,1", "--cols=1,2", "--styles=0-3")
    assert result.exit_code == 0, result.output
    assert names(tmp_path) == ["1-1.png", "1-2.png", "2-2.png", "grid.png"]
    assert read(tmp_path / "grid.png").shape == (48, 48, 3)


def test_safetensors(nets: Path, tmp_path: Path) -> None:
    network = tmp_path / "net.safetensors"
    write_snapshot(str(network), {"G_ema": make_generator()})
    for source, folder in ((network, "a"), (snapshot(nets), "b")):
        options = ["--rows=0", "--cols=1", "--styles=0-2"]
        assert mix(source, tmp_path / folder, *options).exit_code == 0
    assert np.array_equal(read(tmp_path / "a" / "grid.png"), read(tmp_path / "b" / "grid.png"))


def test_class_of_an_unconditional_network_is_ignored_with_a_warning(
    nets: Path, tmp_path: Path
) -> None:
    result = mix(snapshot(nets), tmp_path, "--rows=0", "--cols=1", "--class=1")
    assert result.exit_code == 0, result.output
    assert "Warning: --class is not used" in result.stderr


@pytest.mark.parametrize(
    ("c_dim", "options", "message"),
    [
        (0, ["--styles=0-9"], "--styles=9 does not exist: the layers of this network are 0 to 8"),
        (0, ["--styles=-1"], "--styles"),
        (0, ["--styles="], "--styles"),
        (0, ["--rows=x"], "'x'"),
        (0, ["--cols=3-1"], "3-1"),
        (0, ["--rows=0-9999", "--cols=0-9999"], "too many for one sheet"),
        (0, ["--trunc=nan"], "nan"),
        (0, ["--noise-mode=other"], "other"),
        (0, ["--network=missing.pkl"], "--network=missing.pkl"),
        (0, ["--device=tpu"], "tpu"),
        (3, [], "--class=0 to --class=2"),
        (3, ["--class=3"], "--class=3 does not exist"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    nets: Path, tmp_path: Path, c_dim: int, options: list[str], message: str
) -> None:
    network = snapshot(nets, c_dim=c_dim)
    result = mix(network, tmp_path / "out", "--rows=0", "--cols=1", *options)
    assert result.exit_code == 2, result.output
    errors = result.stderr.strip().splitlines()
    assert len(errors) == 1 and errors[0].startswith("Error: ")
    assert message in errors[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("missing", ["--rows", "--cols", "--outdir", "--network"])
def test_options_that_are_required(nets: Path, tmp_path: Path, missing: str) -> None:
    options = {
        "--network": snapshot(nets),
        "--rows": 0,
        "--cols": 1,
        "--outdir": tmp_path / "out",
    }
    del options[missing]
    arguments = [f"{name}={value}" for name, value in options.items()]
    result = CliRunner().invoke(style_mixing.main, arguments)
    assert result.exit_code == 2
    assert missing in result.stderr


def test_outdir_that_cannot_be_made(nets: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = mix(snapshot(nets), tmp_path / "file" / "out", "--rows=0", "--cols=1")
    assert result.exit_code == 2
    assert "--outdir" in result.stderr
