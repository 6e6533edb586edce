"""--dtype: every command that draws takes it, draws with it, notes it, and refuses nonsense."""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

import explore
import generate
import projector
import style_mixing
from analysis import lowres
from networks import sampling
from tests.small_networks import make_generator, snapshot
from torch_utils.images import to_uint8

SEEDS = (0, 3)
EXPLORE = explore.main
COMMANDS = {
    "generate": (generate.main, ["--seeds=0,3"]),
    "style_mixing": (style_mixing.main, ["--rows=0", "--cols=3", "--styles=0-2"]),
    "render": (EXPLORE, ["render", "--seeds=0,3"]),
    "superres": (EXPLORE, ["superres", "--seeds=0,3", "--size=24"]),
    "extrapolate": (EXPLORE, ["extrapolate", "--seeds=0,3"]),
    "interpolate": (EXPLORE, ["interpolate", "--seeds=0,3", "--steps=3"]),
    **{
        f"interpolate in {space}": (
            EXPLORE,
            ["interpolate", "--seeds=0,3", "--steps=3", f"--space={space}"],
        )
        for space in ("z", "w", "theta", "pixels")
    },
    "video": (EXPLORE, ["video", "--seeds=0,3", "--w-frames=2"]),
}
WITHOUT = {
    "projector": projector.run_projection,
    "align": EXPLORE.get_command(None, "align"),
    "frequencies": EXPLORE.get_command(None, "frequencies"),
}


def run(name: str, network: Path, folder: Path, *options: str) -> Result:
    command, arguments = COMMANDS[name]
    target = "--output" if name == "video" else "--outdir"
    common = [f"--network={network}", f"{target}={folder}", "--device=cpu"]
    return CliRunner().invoke(command, [*arguments, *common, *options])


def pictures(folder: Path) -> dict[str, np.ndarray]:
    found = sorted(folder.glob("*.png"))
    return {path.name: np.asarray(Image.open(path).convert("RGB")).astype(int) for path in found}


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nets")


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_draw_in_the_precision(name: str, nets: Path, tmp_path: Path) -> None:
    network, drawn = snapshot(nets), {}
    for dtype in ("", "fp32", "bf16"):
        option = [f"--dtype={dtype}"] if dtype else []
        result = run(name, network, tmp_path / f"out{dtype}", *option)
        assert result.exit_code == 0, result.output
        drawn[dtype] = pictures(tmp_path / f"out{dtype}")
    assert list(drawn["bf16"]) == list(drawn[""]) != []
    for file, picture in drawn[""].items():
        assert np.array_equal(drawn["fp32"][file], picture), file
    # 8 significant bits through ten layers: all pictures change, and only a little.
    for file, picture in drawn["bf16"].items():
        change = np.abs(picture - drawn[""][file])
        assert 0 < change.max() < 64 and change.mean() < 4, file


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("value", ["fp8", "bfloat16", "", "FP16"])
def test_nonsense_is_refused(name: str, value: str, nets: Path, tmp_path: Path) -> None:
    result = run(name, snapshot(nets), tmp_path / "out", f"--dtype={value}")
    assert result.exit_code == 2
    assert result.output.startswith("Error: Invalid value for '--dtype'"), result.output
    assert result.output.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", WITHOUT)
def test_what_needs_gradients_or_draws_nothing_has_no_such_option(name: str) -> None:
    command = WITHOUT[name]
    assert isinstance(command, click.Command)
    result = CliRunner().invoke(command, ["--dtype=bf16"])
    assert result.exit_code == 2 and "there is no option --dtype" in result.output


@pytest.mark.parametrize("preset", ["inr-gan-bil", "stylegan2"])
def test_pictures_are_those_of_the_network_in_that_precision(
    preset: str, nets: Path, tmp_path: Path
) -> None:
    assert run("generate", snapshot(nets, preset), tmp_path, "--dtype=bf16").exit_code == 0
    G = make_generator(preset)
    for seed in SEEDS:
        ws = sampling.ws_of_seed(G, seed)
        expected = to_uint8(G.synthesis(ws, noise_mode="const", dtype=torch.bfloat16))[0]
        found = pictures(tmp_path)[f"seed{seed:04d}.png"]
        assert np.array_equal(found, expected.permute(1, 2, 0).numpy())


def test_views_are_drawn_in_that_precision(nets: Path, tmp_path: Path) -> None:
    view = ["--size=24", "--region=0,0,1/2,1/2", "--dtype=bf16"]
    for name in ("generate", "render"):
        result = run(name, snapshot(nets), tmp_path / name, *view)
        assert result.exit_code == 0, result.output
    G = make_generator()
    ws = sampling.ws_of_seed(G, 3)
    image = G.synthesis.render(ws, (0, 0, 0.5, 0.5), 24, dtype=torch.bfloat16)
    expected = to_uint8(image)[0].permute(1, 2, 0).numpy()
    for name in ("generate", "render"):
        assert np.array_equal(pictures(tmp_path / name)["seed0003.png"], expected)


def test_auto_is_told_in_one_line(nets: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("torch_utils.precision.cpu_bfloat16", lambda: "avx512_bf16")
    line = "Precision: bf16 (--dtype=auto; the CPU has avx512_bf16)"
    for name in COMMANDS:
        result = run(name, snapshot(nets), tmp_path / name, "--dtype=auto")
        assert result.exit_code == 0, result.output
        assert result.stderr.splitlines().count(line) == 1 and line not in result.stdout, name
    assert run("generate", snapshot(nets), tmp_path / "bf16", "--dtype=bf16").exit_code == 0
    both = pictures(tmp_path / "bf16"), pictures(tmp_path / "generate")
    assert all(np.array_equal(both[0][file], both[1][file]) for file in both[0])


def test_float16_on_a_cpu_is_float32(nets: Path, tmp_path: Path) -> None:
    result = run("generate", snapshot(nets), tmp_path / "half", "--dtype=fp16")
    assert result.exit_code == 0 and result.stderr.count("is computed in fp32") == 1
    assert run("generate", snapshot(nets), tmp_path / "single").exit_code == 0
    half, single = pictures(tmp_path / "half"), pictures(tmp_path / "single")
    assert all(np.array_equal(half[file], single[file]) for file in single)


def test_what_is_noted(nets: Path, tmp_path: Path) -> None:
    for option, noted in (([], "float32"), (["--dtype=bf16"], "bfloat16+float32")):
        folder = tmp_path / noted
        assert run("render", snapshot(nets), folder, *option).exit_code == 0
        assert json.loads((folder / "seed0003.json").read_text())["dtype"] == noted
        assert run("video", snapshot(nets), folder / "film", *option).exit_code == 0
        assert json.loads((folder / "film.json").read_text())["dtype"] == noted


def test_small_pictures_are_measured_in_that_precision(nets: Path, tmp_path: Path) -> None:
    options = [f"--network={snapshot(nets)}", "--device=cpu", "--sizes=4", "--repeats=1"]
    drawn = []
    for dtype in ("fp32", "bf16"):
        folder = tmp_path / dtype
        arguments = ["lowres", *options, f"--outdir={folder}", f"--dtype={dtype}"]
        result = CliRunner().invoke(EXPLORE, arguments)
        assert result.exit_code == 0, result.output
        drawn.append(json.loads((folder / "lowres.json").read_text())["dtype"])
        assert f", {drawn[-1]}\n" in result.output
    assert drawn == ["float32", "bfloat16+float32"]
    G = make_generator()
    ws = sampling.ws_of_seed(G, 0)
    for method in lowres.METHODS:
        single, brain = (lowres.drawing(G, ws, 4, method, d)() for d in (None, torch.bfloat16))
        assert 0 < (single - brain).abs().max() < 0.2, method


def test_films_of_networks_without_camera(nets: Path, tmp_path: Path) -> None:
    result = run("video", snapshot(nets, "stylegan2"), tmp_path / "film", "--dtype=bf16")
    assert result.exit_code == 0, result.output
    G = make_generator("stylegan2")
    ws = sampling.ws_of_seed(G, 0)
    expected = sampling.draw_image(G, ws, 0, dtype=torch.bfloat16).permute(1, 2, 0).numpy()
    assert np.array_equal(pictures(tmp_path / "film")["frame000000.png"], expected)


def test_a_network_of_other_code_has_its_own_precision() -> None:
    G = make_generator()

    class Foreign(torch.nn.Module):
        def forward(self, ws: torch.Tensor, noise_mode: str = "const") -> torch.Tensor:
            return ws.new_zeros(len(ws), 3, 4, 4)

    G.synthesis = Foreign()
    assert sampling.check_dtype(G, None) is None
    assert sampling.draw_image(G, torch.zeros(1, 2, 8), 0).shape == (3, 4, 4)
    with pytest.raises(Exception, match="--dtype=bf16 is for networks of this project"):
        sampling.check_dtype(G, "bf16")


def test_values_beyond_float16(monkeypatch) -> None:
    G = make_generator()
    ws = sampling.ws_of_seed(G, 0)
    nothing = torch.full([1, 3, 16, 16], torch.inf)
    monkeypatch.setattr(G.synthesis, "forward", lambda *args, **kwargs: nothing)
    with pytest.raises(Exception, match="use --dtype=fp32 or bf16"):
        sampling.draw_image(G, ws, 0, dtype=torch.float16)
    with pytest.raises(Exception, match="use an earlier snapshot, or a --trunc"):
        sampling.draw_image(G, ws, 0, dtype=torch.bfloat16)
