"""`explore.py video`: the curve through w, the camera, and the files."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from scipy.interpolate import CubicSpline, interp1d

import dnnlib
import explore
from analysis import camera, film, video
from analysis.film import Key, PeriodicSpline
from networks import sampling
from tests.analysis.tiny_networks import make, snapshot
from torch_utils.images import to_uint8

UNIT = (Fraction(0), Fraction(0), Fraction(1), Fraction(1))


def view(*edges: float) -> camera.View:
    x0, y0, x1, y1 = map(Fraction, edges)
    return x0, y0, x1, y1


def run(folder: Path, *options: str, preset: str = "inr-gan", **kwargs: int):
    network = snapshot(folder, preset, **kwargs)
    common = [f"--network={network}", "--device=cpu"]
    return CliRunner().invoke(explore.main, ["video", *common, *options])


def read_frames(folder: Path) -> np.ndarray:
    """uint8 [frames, H, W, 3]."""
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("frame*.png"))])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_the_spline_is_the_periodic_one(count: int) -> None:
    values = np.random.default_rng(count).standard_normal([count, 2, 3])
    spline = PeriodicSpline(values)
    closed = np.concatenate([values, values[:1]])
    expected = CubicSpline(np.arange(count + 1), closed, bc_type="periodic")
    for time in (0, 0.25, count - 0.5, count, -1.75, 2.5 * count):
        assert np.allclose(spline(time), expected(time % count), atol=1e-12), time


def test_the_spline_is_near_the_one_through_five_copies() -> None:
    values = np.random.default_rng(0).standard_normal([4, 3])
    copies = interp1d(np.arange(-8, 12), np.tile(values, [5, 1]), kind="cubic", axis=0)
    times = np.arange(0, 4, 0.1)
    difference = [np.abs(PeriodicSpline(values)(t) - copies(t)).max() for t in times]
    assert 0 < max(difference) < 1e-3


def test_keyframes_go_to_the_cells_in_order() -> None:
    keys = [Key(seed, None) for seed in range(6)]
    plan = film.plan_keys(keys, 2)
    assert [[key.seed for key in cell] for cell in plan] == [[0, 1, 2], [3, 4, 5]]
    plan = film.plan_keys(keys, 2, num_keyframes=4)
    assert [[key.seed for key in cell] for cell in plan] == [[0, 1, 2, 3], [4, 5, 0, 1]]
    shuffled = film.plan_keys(keys, 1, shuffle_seed=3)[0]
    order = np.arange(6)
    np.random.RandomState(3).shuffle(order)
    assert [key.seed for key in shuffled] == order.tolist() != list(range(6))
    with pytest.raises(dnnlib.UserError, match="6 keyframes cannot be divided among the 4 cells"):
        film.plan_keys(keys, 4)


def test_a_zoom_is_exponential_around_a_fixed_point() -> None:
    first, second = view(0, 0, 1, 1), view(0.5, 0.25, 0.75, 0.5)
    # The point with the same place in both frames: x = x0 + s (x1 - x0) for one s.
    fixed = 0.5 / (1 - 0.25), 0.25 / (1 - 0.25)
    for t in np.linspace(0, 1, 9):
        x0, y0, x1, y1 = camera.between(first, second, float(t))
        assert math.isclose(x1 - x0, 0.25**t) and math.isclose(y1 - y0, 0.25**t)
        assert math.isclose((fixed[0] - x0) / (x1 - x0), fixed[0], abs_tol=1e-12)
        assert math.isclose((fixed[1] - y0) / (y1 - y0), fixed[1], abs_tol=1e-12)


def test_a_pan_is_straight_and_the_limit_of_zooms() -> None:
    first, second = view(0, 0, 1, 1), view(2, -1, 3, 0)
    assert camera.between(first, second, 0.25) == pytest.approx((0.5, -0.25, 1.5, 0.75))
    nearly = view(2, -1, 2 + 1 + 2**-18, 2**-18)
    assert camera.between(first, nearly, 0.25) == pytest.approx((0.5, -0.25, 1.5, 0.75), abs=1e-4)


def test_a_path_passes_its_views_exactly() -> None:
    views = [UNIT, view(0.25, 0.25, 0.75, 0.75), view(0, 0.5, 0.5, 1)]
    found = camera.path(views, 9, width=64)
    assert [found[0], found[4], found[8]] == views
    closed = camera.path(views, 9, width=64, returns=True)
    assert [closed[0], closed[3], closed[6]] == views
    # The frame after the last would show the first view again.
    expected = camera.between(views[2], views[0], 2 / 3)
    assert [float(edge) for edge in closed[8]] == pytest.approx(expected, abs=1e-5)
    assert camera.path(views[:1], 3, width=64) == [UNIT] * 3


def test_a_smooth_path_rests_at_its_views() -> None:
    views = [UNIT, view(1, 0, 2, 1)]
    speeds = {}
    for easing in camera.EASINGS:
        lefts = [float(v[0]) for v in camera.path(views, 101, 64, easing)]
        speeds[easing] = np.diff(lefts)
    assert np.allclose(speeds["linear"], 0.01, atol=1e-4)
    assert speeds["smooth"][0] < 0.001 < 0.0145 < speeds["smooth"][50]


def test_overscan_keeps_the_pixels(tmp_path: Path) -> None:
    wider, size = camera.overscan([UNIT], (16, 16), 0.3)
    assert size == (26, 26) and wider[0] == view(*(Fraction(e, 16) for e in (-5, -5, 21, 21)))
    run(tmp_path, "--seeds=0", "--w-frames=1", f"--output={tmp_path / 'a'}")
    run(tmp_path, "--seeds=0", "--w-frames=1", "--overscan=0.3", f"--output={tmp_path / 'b'}")
    plain, wide = read_frames(tmp_path / "a"), read_frames(tmp_path / "b")
    assert wide.shape == (1, 26, 26, 3)
    assert np.abs(wide[:, 5:21, 5:21].astype(int) - plain).max() <= 1


def test_frames_lie_on_the_curve_and_in_the_view(tmp_path: Path) -> None:
    views = ["--region=0,0,1,1", "--region=1/4,1/4,1/2,1/2"]
    options = ["--seeds=3-5", "--w-frames=2", "--trunc=0.7", "--size=24", *views]
    result = run(tmp_path, *options, f"--output={tmp_path / 'out'}", preset="inr-gan-bil")
    assert result.exit_code == 0, result.output
    drawn = read_frames(tmp_path / "out")
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["frames"] == len(drawn) == len(report["views"]) == 6
    assert report["keyframes"] == [[{"seed": s, "label": None} for s in (3, 4, 5)]]
    widths = [v[2] - v[0] for v in report["views"]]
    assert widths == pytest.approx([4 ** -(i / 5) for i in range(6)], abs=1e-5)

    G = make("inr-gan-bil")
    keyframes = torch.cat([sampling.ws_of_seed(G, seed, None, 0.7) for seed in (3, 4, 5)])
    spline = PeriodicSpline(keyframes.numpy())
    for index in (0, 3, 5):
        ws = torch.from_numpy(spline(index / 2)).float()[None]
        image = G.synthesis.render(ws, region=report["views"][index], size=24)
        expected = to_uint8(image)[0].permute(1, 2, 0).numpy().astype(int)
        assert np.abs(drawn[index] - expected).max() <= 2


def test_cells_classes_and_stylegan2(tmp_path: Path) -> None:
    options = ["--seeds=0-3", "--class=0,2", "--grid=2x1", "--w-frames=1"]
    output = tmp_path / "out"
    result = run(tmp_path, *options, f"--output={output}", preset="stylegan2", c_dim=3)
    assert result.exit_code == 0, result.output
    drawn = read_frames(output)
    assert drawn.shape == (2, 16, 32, 3)
    G = make("stylegan2", c_dim=3)
    for (time, left), key in {(0, 0): (0, 0), (1, 0): (1, 2), (0, 16): (2, 0)}.items():
        image = sampling.draw_image(G, sampling.ws_of_seed(G, *key), 0).permute(1, 2, 0)
        assert np.abs(drawn[time][:, left : left + 16].astype(int) - image.numpy()).max() <= 1


def test_projected_keyframes(tmp_path: Path) -> None:
    G = make("inr-gan", img_channels=4)
    ws = torch.cat([sampling.ws_of_seed(G, seed) for seed in (1, 2)])
    np.savez(tmp_path / "w.npz", w=ws.numpy())
    options = [f"--projected-w={tmp_path / 'w.npz'}"] * 2
    output = f"--output={tmp_path / 'out'}"
    result = run(tmp_path, *options, "--w-frames=1", output, img_channels=4)
    assert result.exit_code == 0, result.output
    drawn = read_frames(tmp_path / "out").astype(int)
    assert len(drawn) == 4 and np.array_equal(drawn[0], drawn[2])
    image = to_uint8(G.synthesis(ws[:1]))[0].permute(1, 2, 0).numpy().astype(int)
    on_white = (image[..., :3] * image[..., 3:] + 255 * (255 - image[..., 3:])) / 255
    assert np.abs(drawn[0] - on_white).max() <= 2


@pytest.mark.skipif(not video.can_write_video(), reason="needs imageio-ffmpeg")
def test_a_film(tmp_path: Path) -> None:
    import imageio.v2 as imageio

    output = tmp_path / "new" / "film.mp4"
    result = run(tmp_path, "--seeds=0,1", "--w-frames=3", "--size=30x20", f"--output={output}")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in output.parent.iterdir()) == ["film.json", "film.mp4"]
    with imageio.get_reader(output) as reader:
        about = reader.get_meta_data()
        assert about["fps"] == 60 and about["size"] == (30, 20) and about["codec"] == "h264"
        assert sum(1 for _ in reader) == 6


def test_without_an_encoder_the_frames_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "can_write_video", lambda: False)
    result = run(tmp_path, "--seeds=0", "--w-frames=2", f"--output={tmp_path / 'film.mp4'}")
    assert result.exit_code == 0 and "pip install imageio-ffmpeg" in result.stderr
    assert len(read_frames(tmp_path / "film-frames")) == 2
    assert json.loads((tmp_path / "film.json").read_text())["frames"] == 2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "with either --seeds or --projected-w"),
        (["--seeds=0-4", "--grid=2x1"], "5 keyframes cannot be divided among the 2 cells"),
        (["--seeds=0", "--region=0,0,0,1"], "has no area"),
        (["--seeds=0", "--region=0,0,1,1", "--region=0,0,1,2"], "need the same shape"),
        (["--seeds=0", "--size=0"], "is an empty picture"),
        (["--seeds=0", "--size=20000"], "makes pictures of 20000x20000 pixels"),
        (["--seeds=0", "--class=x"], "is not a list of classes"),
        (["--projected-w=nothing.npz"], "nothing.npz: there is no such file"),
        (["--seeds=0", "--overscan=-1"], "-1.0 is not in the range"),
    ],
)
def test_refused(options: list[str], sentence: str, tmp_path: Path) -> None:
    result = run(tmp_path, *options, f"--output={tmp_path / 'out' / 'film.mp4'}")
    assert result.exit_code == 2 and sentence in result.output, result.output
    assert result.stderr.count("Error: ") == 1
    assert not (tmp_path / "out").exists()


def test_refused_outputs_and_networks(tmp_path: Path) -> None:
    result = run(tmp_path, "--seeds=0", f"--output={tmp_path / 'film.gif'}")
    assert result.exit_code == 2 and "a film ends in .mp4" in result.output
    folder = tmp_path / "frames"
    folder.mkdir()
    (folder / "frame000000.png").touch()
    result = run(tmp_path, "--seeds=0", f"--output={folder}")
    assert result.exit_code == 2 and "holds frames of another film" in result.output
    result = run(
        tmp_path, "--seeds=0", "--size=8", f"--output={tmp_path / 'x'}", preset="stylegan2"
    )
    assert result.exit_code == 2 and "is not a continuous generator" in result.output
    assert not (tmp_path / "x").exists()
