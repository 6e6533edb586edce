"""Pictures larger than the memory: the formats, `explore.py render`, the bound on the memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import explore
from analysis import picture_streams, streaming
from analysis.picture_streams import WRITERS, regroup
from dnnlib.errors import FileError
from networks.sampling import ws_of_seed
from tests.small_networks import make_generator, snapshot
from torch_utils.images import to_uint8

ROOT = Path(explore.__file__).parent


def picture(channels, height=530, width=301):
    rng = np.random.default_rng(channels)
    steps = rng.integers(-2, 3, [height, width, channels])
    return (np.cumsum(steps, axis=1) + 100).astype(np.uint8)


def bands_of(pixels, *cuts):
    return iter(np.split(pixels, cuts))


def read(path):
    pixels = np.asarray(Image.open(path))
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


@given(st.lists(st.integers(0, 9), max_size=6), st.integers(1, 7))
def test_regrouping_keeps_the_rows(heights, num_rows):
    rows = np.arange(sum(heights), dtype=np.uint8)[:, None, None]
    parts = list(regroup(bands_of(rows, *np.cumsum(heights)), num_rows))
    assert np.array_equal(np.concatenate([rows[:0], *parts]), rows)
    assert all(len(part) == num_rows for part in parts[:-1])
    assert all(0 < len(part) <= num_rows for part in parts[-1:])


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("format_name", ["png", "tiff"])
def test_files_hold_the_pixels(format_name, channels, tmp_path):
    if format_name == "tiff":
        pytest.importorskip("tifffile")
    suffix, write = WRITERS[format_name]
    pixels, path = picture(channels), tmp_path / f"x{suffix}"
    write(path, bands_of(pixels, 1, 100, 356, 512), pixels.shape[:2], channels)
    assert Image.open(path).mode == {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
    assert np.array_equal(read(path), pixels)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_png_is_smaller_for_its_filters(tmp_path):
    smooth = np.add.outer(np.arange(256), np.arange(256)).astype(np.uint8)[:, :, None]
    picture_streams.write_png(tmp_path / "x.png", bands_of(smooth), (256, 256), 1)
    assert np.array_equal(read(tmp_path / "x.png"), smooth)
    assert (tmp_path / "x.png").stat().st_size < 1000


@pytest.mark.parametrize("limit,big", [(2**30, False), (2**10, True)])
def test_tiff_has_64_bit_offsets_where_needed(monkeypatch, tmp_path, limit, big):
    tifffile = pytest.importorskip("tifffile")
    monkeypatch.setattr(picture_streams, "_TIFF_CLASSIC_BYTES", limit)
    pixels = picture(3)
    picture_streams.write_tiff(tmp_path / "x.tif", bands_of(pixels), pixels.shape[:2], 3)
    with tifffile.TiffFile(tmp_path / "x.tif") as file:
        assert file.is_bigtiff is big
        assert np.array_equal(file.asarray(), pixels)


@pytest.mark.parametrize("channels", [1, 3])
def test_deepzoom_has_every_level(tmp_path, channels):
    pixels = picture(channels)
    picture_streams.write_deepzoom(
        tmp_path / "x.dzi", bands_of(pixels, 7, 300), pixels.shape[:2], channels
    )
    text = (tmp_path / "x.dzi").read_text()
    assert 'TileSize="256"' in text and 'Width="301" Height="530"' in text
    folder = tmp_path / "x_files"
    assert sorted(int(level.name) for level in folder.iterdir()) == list(range(11))
    for level in range(10, -1, -1):
        height, width = pixels.shape[:2]
        rows = [
            np.concatenate(
                [read(folder / f"{level}/{i}_{j}.png") for i in range(-(-width // 256))], 1
            )
            for j in range(-(-height // 256))
        ]
        assert len(list((folder / str(level)).iterdir())) == len(rows) * -(-width // 256)
        assert np.array_equal(np.concatenate(rows), pixels)
        even = np.pad(pixels, [(0, height % 2), (0, width % 2), (0, 0)], mode="edge")
        parts = even.astype(float).reshape(len(even) // 2, 2, even.shape[1] // 2, 2, channels)
        pixels = np.floor(parts.mean((1, 3)) + 0.5).astype(np.uint8)
    assert pixels.shape == (1, 1, channels)
    with pytest.raises(FileError, match="already there"):
        picture_streams.write_deepzoom(tmp_path / "x.dzi", bands_of(pixels), (1, 1), channels)


@pytest.mark.parametrize("format_name", list(WRITERS))
def test_an_interrupted_picture_leaves_nothing(format_name, tmp_path):
    if format_name == "tiff":
        pytest.importorskip("tifffile")

    def bands():
        yield picture(3, 300)
        raise KeyboardInterrupt

    suffix, write = WRITERS[format_name]
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / f"x{suffix}", bands(), (600, 301), 3)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_a_sentence(tmp_path):
    for suffix, write in WRITERS.values():
        with pytest.raises(FileError, match="cannot write"):
            (tmp_path / "file").touch()
            write(tmp_path / "file" / f"x{suffix}", bands_of(picture(1)), (530, 301), 1)


@pytest.mark.parametrize("preset", ["inr-gan-bil", "inr-gan-vanilla", "inr-gan-published"])
def test_streamed_bands_are_the_rendered_picture(preset):
    G = make_generator(preset)
    ws = ws_of_seed(G, 3)
    view = streaming.View((37, 61), (-0.5, 0, 1.5, 1), tile_budget=2**16)
    counts = []
    bands = list(streaming.draw_bands(G.synthesis, ws, view, counts.append))
    assert len(bands) > 1 and sum(counts) == 37 * 61
    whole = to_uint8(G.synthesis.render(ws, view.region, view.size))[0].permute(1, 2, 0)
    difference = np.concatenate(bands).astype(int) - whole.numpy()
    # Sums of other lengths may round a pixel differently.
    assert np.abs(difference).max() <= 1 and (difference != 0).mean() < 0.001


def run(*args):
    return CliRunner().invoke(explore.main, ["render", *map(str, args)])


def test_command_writes_pictures_and_what_they_show(tmp_path):
    network = snapshot(tmp_path, "inr-gan", c_dim=3)
    result = run(
        *(f"--network={network}", f"--outdir={tmp_path / 'out'}", "--seeds=4,7", "--class=1"),
        *("--size=40x24", "--region=0,0,1/3,0.5", "--lod=scaled", "--trunc=0.5"),
    )
    assert result.exit_code == 0, result.output
    names = ["seed0004.json", "seed0004.png", "seed0007.json", "seed0007.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    record = json.loads((tmp_path / "out/seed0007.json").read_text())
    assert record["region"] == ["0", "0", "1/3", "1/2"] and record["lod"] == "scaled"
    assert (record["width"], record["height"], record["class"]) == (40, 24, 1)
    G = make_generator("inr-gan", c_dim=3)
    ws = ws_of_seed(G, 7, 1, 0.5)
    image = to_uint8(G.synthesis.render(ws, (0, 0, 1 / 3, 0.5), (24, 40), "scaled"))
    assert np.array_equal(read(tmp_path / "out/seed0007.png"), image[0].permute(1, 2, 0).numpy())


def test_command_draws_projected_ws(tmp_path):
    network = snapshot(tmp_path)
    G = make_generator()
    ws = torch.cat([ws_of_seed(G, seed) for seed in (1, 2)])
    np.savez(tmp_path / "w.npz", w=ws.numpy())
    result = run(
        *(f"--network={network}", f"--outdir={tmp_path}", f"--projected-w={tmp_path / 'w.npz'}"),
        "--format=deepzoom",
    )
    assert result.exit_code == 0, result.output
    pixels = read(tmp_path / "proj01_files/4/0_0.png")
    expected = to_uint8(G.synthesis(ws[1:]))[0].permute(1, 2, 0).numpy()
    assert np.abs(pixels.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    "options,words",
    [
        (["--size=0"], "empty picture"),
        (["--size=300000x1"], "up to 262144 pixels"),
        (["--region=0,0,0,1"], "no area"),
        (["--format=gif"], "'gif'"),
        (["--lod=none"], "'none'"),
        (["--projected-w=none.npz"], "none.npz"),
        (["--class=1", "--seeds=x"], "'x'"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, options, words):
    out = tmp_path / "out"
    result = run(f"--network={snapshot(tmp_path)}", f"--outdir={out}", *options)
    assert result.exit_code == 2 and words in result.output
    assert result.output.startswith("Error: ") and result.output.count("\n") == 1
    assert not out.exists()


def test_networks_that_are_not_continuous_are_refused(tmp_path):
    network = snapshot(tmp_path, "stylegan2")
    result = run(f"--network={network}", f"--outdir={tmp_path / 'out'}")
    assert result.exit_code == 2 and "not a continuous generator" in result.output


def test_without_tifffile_there_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "has_tiff", lambda: False)
    result = run(f"--network={snapshot(tmp_path)}", f"--outdir={tmp_path}", "--format=tiff")
    assert result.exit_code == 2 and "pip install tifffile" in result.output


_PEAK = """
import resource, sys
import torch
from analysis import streaming
from networks import build_generator
torch.set_num_threads(1)
torch.manual_seed(0)
synthesis = build_generator(
    "inr-gan", z_dim=4, c_dim=0, w_dim=4, img_resolution=16, img_channels=3,
    synthesis_kwargs={"channel_base": 64, "channel_max": 4},
).synthesis
ws = torch.randn(1, synthesis.num_ws, 4)
for height, path in ((512, sys.argv[2]), (4608, sys.argv[3])):
    view = streaming.View((height, 512), tile_budget=2**22)
    streaming.stream_picture(path, synthesis, ws, view, sys.argv[1])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory as Linux counts it")
@pytest.mark.parametrize("format_name", list(WRITERS))
def test_peak_memory_does_not_grow_with_the_picture(format_name, tmp_path):
    """A picture of 4608 x 512 pixels takes 7 MiB as bytes and 27 MiB as the network draws it."""
    if format_name == "tiff":
        pytest.importorskip("tifffile")
    paths = [str(tmp_path / f"{name}{WRITERS[format_name][0]}") for name in ("small", "large")]
    command = [sys.executable, "-c", _PEAK, format_name, *paths]
    result = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    before, after = map(int, result.stdout.split())
    assert after - before < 4 * 1024  # KiB
