"""align: a known transform of a network's own image is found again; pictures, numbers, command."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import explore
from analysis import align, align_pictures, video
from analysis.align import KINDS, Placement, start_placement
from analysis.subjects import Subject
from networks.presets import PRESETS
from networks.sampling import ws_of_seed
from tests.small_networks import make_generator, snapshot
from torch_utils.images import from_uint8, to_uint8, write_image

CONTINUOUS = [name for name, preset in PRESETS.items() if preset.continuous]
TRUTH = (0.25, 0.2, 0.7, 0.75)
START = (0.15, 0.15, 0.75, 0.75)
ANGLES = {"crop": 0.0, "similarity": 12.0, "affine": -8.0}


def soft_generator(preset, **options):
    """Colours between -1 and 1, as of a trained network: nothing is clipped."""
    G = make_generator(preset, img_resolution=32, **options)
    with torch.no_grad():
        for name, parameter in G.synthesis.named_parameters():
            if "torgb" in name and name.endswith("weight") and "affine" not in name:
                parameter.mul_(0.2)
    return G


def largest_error(found: Placement, truth: Placement) -> float:
    return float((torch.tensor(found.corners()) - torch.tensor(truth.corners())).abs().max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("preset", CONTINUOUS)
def test_a_known_transform_is_found(preset, kind):
    G = soft_generator(preset)
    ws, shape = ws_of_seed(G, 1), G.synthesis.img_shape
    truth = start_placement(kind, shape, (30, 40), TRUTH, ANGLES[kind])
    target = align.draw_placed(G.synthesis, ws, truth, (30, 40)).clamp(-1, 1)
    start = start_placement(kind, shape, (30, 40), START)
    assert largest_error(start, truth) > 0.05
    steps = align.align(G.synthesis, ws, target, start)
    found = steps[-1].placement
    # A pixel of the image is 0.031; images with jumps are found to a fraction of one.
    assert largest_error(found, truth) < (1e-4 if align._is_smooth(G.synthesis) else 0.005)
    assert [step.side for step in steps] == sorted(step.side for step in steps)
    for before, after in zip(steps, steps[1:]):
        assert after.rms < before.rms or after.side > before.side


def test_non_square_images_and_targets():
    G = soft_generator("inr-gan-bil", img_shape=(3, 20, 32))
    ws = ws_of_seed(G, 2)
    truth = start_placement("similarity", (3, 20, 32), (24, 16), (0.3, 0.1, 0.6, 0.9), 20)
    target = align.draw_placed(G.synthesis, ws, truth, (24, 16)).clamp(-1, 1)
    start = start_placement("similarity", (3, 20, 32), (24, 16), (0.25, 0.1, 0.6, 1.0), 5)
    steps = align.align(G.synthesis, ws, target, start, max_side=16)
    assert {step.side for step in steps} == {8, 16}
    assert abs(steps[-1].placement.describe()["angle_degrees"] - 20) < 1


def test_derivatives_are_those_of_the_picture():
    """The Jacobian of the residual against differences, for every parameter."""
    synthesis = soft_generator("inr-gan-bil").synthesis.double()
    ws = torch.randn(1, synthesis.num_ws, synthesis.w_dim).double()
    target = torch.zeros(3, 6, 8)
    for kind in KINDS:
        place = start_placement(kind, synthesis.img_shape, (6, 8), TRUTH, ANGLES[kind])
        _, jacobian = align._residual(synthesis, ws, target, place)
        for index in range(KINDS[kind]):
            change = torch.zeros(KINDS[kind], dtype=torch.float64)
            change[index] = 1e-7
            pair = [
                Placement(kind, place.params + sign * change, place.img_shape, place.aspect)
                for sign in (1, -1)
            ]
            above, below = (align._residual(synthesis, ws, target, p)[0] for p in pair)
            slope = (above - below) / 2e-7
            torch.testing.assert_close(jacobian[:, index], slope, rtol=1e-4, atol=1e-4)


def test_placements_in_numbers():
    shape = (3, 20, 40)  # metric: 2 x 1
    place = start_placement("similarity", shape, (10, 20), (0, 0, 1, 1), 90)
    said = place.describe()
    assert said["centre"] == pytest.approx([0.5, 0.5])
    assert (said["width"], said["angle_degrees"]) == pytest.approx((2.0, 90.0))
    # Turned clockwise, y down: the left end of the upper edge comes to the upper right.
    assert said["corners"][0] == pytest.approx([0.75, -0.5])
    assert said["corners"][1] == pytest.approx([0.75, 1.5])
    corner = np.array(said["matrix"]) @ [1, 1, 1]
    assert corner == pytest.approx(said["corners"][2])
    crop = start_placement("crop", shape, (10, 10), (0, 0, 0.5, 1)).describe()
    assert crop["corners"] == [pytest.approx(c) for c in ([0, 0], [0.5, 0], [0.5, 1], [0, 1])]
    angles = [start_placement("affine", shape, (3, 5), START, a).describe() for a in (-30, 170)]
    assert [a["angle_degrees"] for a in angles] == pytest.approx([-30, 170])


def test_refuses_unknown_transforms():
    with pytest.raises(ValueError, match="'shear'"):
        start_placement("shear", (3, 8, 8), (4, 4))
    with pytest.raises(ValueError, match="no angle"):
        start_placement("crop", (3, 8, 8), (4, 4), angle_degrees=3)


def test_large_targets_are_reduced_and_large_pixels_averaged():
    target = torch.rand(3, 300, 200)
    sizes = [tuple(level.shape[1:]) for level in align._levels(target, 48)]
    assert sizes == [(8, 5), (12, 8), (24, 16), (48, 32)]
    torch.testing.assert_close(align._levels(target, 300)[-1], target)
    sides = [max(level.shape[1:]) for level in align._levels(torch.rand(1, 5, 5), 48)]
    assert sides == [5]


def test_report_and_pictures():
    G = soft_generator("inr-gan-bil")
    subject = Subject("seed0001", 1, None, ws_of_seed(G, 1))
    truth = start_placement("crop", G.synthesis.img_shape, (16, 16), (0.25, 0.25, 0.75, 0.75))
    drawn = to_uint8(align.draw_placed(G.synthesis, subject.ws, truth, (16, 16)))
    target, values = align_pictures.as_target(drawn.permute(1, 2, 0).numpy())
    assert torch.equal(target, drawn) and torch.equal(values, from_uint8(drawn))
    start = start_placement("crop", G.synthesis.img_shape, (16, 16), START)
    steps = align.align(G.synthesis, subject.ws, values, start)
    parts = (G.synthesis, subject, target, steps)
    said = align_pictures.report(*parts)
    assert said["psnr"] is None or said["psnr"] > 45
    assert len(said["steps"]) == len(steps) and said["start"] == start.describe()
    json.dumps(said)
    sheet = np.asarray(align_pictures.overview(*parts)).astype(int)
    red = (np.abs(sheet - (220, 40, 40)).sum(2) == 0).sum()
    assert red > 100
    films = list(align_pictures.frames(*parts))
    assert len(films) == len(steps)
    assert len({frame.shape for frame in films}) == 1 and films[0].dtype == np.uint8


def run(*args):
    return CliRunner().invoke(explore.main, ["align", *map(str, args)])


@pytest.mark.parametrize("channels", [1, 3])
def test_command(tmp_path, channels):
    network = snapshot(tmp_path, img_channels=channels, img_resolution=32)
    G = make_generator(img_channels=channels, img_resolution=32)
    truth = start_placement("similarity", G.synthesis.img_shape, (20, 24), TRUTH, 10)
    image = align.draw_placed(G.synthesis, ws_of_seed(G, 2), truth, (20, 24))
    write_image(tmp_path / "target.png", to_uint8(image))
    out = tmp_path / "out"
    options = ["--seeds=2", "--start=0.15,0.15,0.75,0.75"]
    if video.can_write_video():
        options.append("--save-video")
    result = run(
        *(f"--network={network}", f"--target={tmp_path / 'target.png'}", f"--outdir={out}"),
        *options,
    )
    assert result.exit_code == 0, result.output
    said = json.loads((out / "seed0002-align.json").read_text())
    assert math.dist(said["centre"], truth.describe()["centre"]) < 0.01
    assert said["angle_degrees"] == pytest.approx(10, abs=0.5)
    suffixes = {path.suffix for path in out.iterdir()}
    assert suffixes == {".json", ".png"} | ({".mp4"} if video.can_write_video() else set())
    assert Image.open(out / "seed0002-align.png").width > 4 * 192
    assert "angle 1" in result.output or "angle 9.9" in result.output


@pytest.mark.parametrize(
    "options,words",
    [
        (["--target=none.png"], "--target=none.png cannot be read"),
        (["--transform=shear"], "'shear'"),
        (["--transform=crop", "--angle=5"], "--angle=5 is for"),
        (["--angle=nan"], "nan"),
        (["--start=0,0,0,1"], "no area"),
        (["--max-side=2"], "--max-side"),
        (["--seeds=a"], "'a'"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, options, words):
    write_image(tmp_path / "target.png", torch.zeros(3, 8, 8, dtype=torch.uint8))
    common = [f"--network={snapshot(tmp_path)}", f"--target={tmp_path / 'target.png'}"]
    result = run(*common, f"--outdir={tmp_path / 'out'}", *options)
    assert result.exit_code == 2 and words in result.output
    assert result.output.startswith("Error: ") and result.output.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_networks_that_are_not_continuous_are_refused(tmp_path):
    write_image(tmp_path / "target.png", torch.zeros(3, 8, 8, dtype=torch.uint8))
    network, target = snapshot(tmp_path, "stylegan2"), tmp_path / "target.png"
    result = run(f"--network={network}", f"--target={target}", f"--outdir={tmp_path / 'out'}")
    assert result.exit_code == 2 and "not a continuous generator" in result.output


def test_video_without_an_encoder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "can_write_video", lambda: False)
    write_image(tmp_path / "target.png", torch.zeros(3, 8, 8, dtype=torch.uint8))
    common = [f"--network={snapshot(tmp_path)}", f"--target={tmp_path / 'target.png'}"]
    result = run(*common, f"--outdir={tmp_path / 'out'}", "--save-video")
    assert result.exit_code == 2 and "pip install imageio-ffmpeg" in result.output
