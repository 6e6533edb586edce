"""`explore.py interpolate`: four kinds of straight lines between images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from analysis import interpolate, video
from analysis.subjects import Subject
from networks import sampling
from networks.levels import grid_levels
from tests.analysis.tiny_networks import (
    CONTINUOUS,
    assert_refused,
    explore_run,
    make,
    names,
    read_csv,
)
from torch_utils.images import to_uint8


def subject(G: torch.nn.Module, seed: int, label: int | None = None, psi: float = 1) -> Subject:
    return Subject(f"seed{seed}", seed, label, sampling.ws_of_seed(G, seed, label, psi))


@pytest.mark.parametrize("space", interpolate.SPACES)
@pytest.mark.parametrize("preset", CONTINUOUS)
def test_all_ways_begin_and_end_at_the_images(preset: str, space: str) -> None:
    G = make(preset)
    ends = [subject(G, seed, psi=0.7) for seed in (0, 1)]
    drawn = list(interpolate.frames(G, ends, space, 3, psi=0.7))
    assert len(drawn) == 3
    for picture, end in ((drawn[0], ends[0]), (drawn[2], ends[1])):
        expected = to_uint8(G.synthesis.render(end.ws))[0]
        assert (picture.int() - expected.int()).abs().max() <= 1


def test_the_middle_of_each_way() -> None:
    G = make("inr-gan-bil", c_dim=2)
    first, second = subject(G, 0, 0), subject(G, 1, 1)
    middle = {
        space: interpolate.frame(G, first, second, space, 0.5).int() for space in interpolate.SPACES
    }
    z = sampling.latents([0, 1], 8).mean(0, keepdim=True)
    expected = to_uint8(G(z, torch.full([1, 2], 0.5)))[0].int()
    assert (middle["z"] - expected).abs().max() <= 1
    expected = to_uint8(G.synthesis((first.ws + second.ws) / 2))[0].int()
    assert (middle["w"] - expected).abs().max() <= 1
    pixels = (G.synthesis(first.ws) + G.synthesis(second.ws)) / 2
    assert (middle["pixels"] - to_uint8(pixels)[0].int()).abs().max() <= 1
    theta = [G.synthesis.compose(end.ws) for end in (first, second)]
    mean = [
        type(a)(
            tuple((p + q) / 2 for p, q in zip(a.layers, b.layers)),
            (a.rgb + b.rgb) / 2,
            None if a.rows is None else (a.rows + b.rows) / 2,
            None if a.phase is None else (a.phase + b.phase) / 2,
        )
        for a, b in zip(*theta)
    ]
    image = G.synthesis.evaluate(mean, grid_levels(*G.synthesis.training_levels()))
    assert (middle["theta"] - to_uint8(image)[0].int()).abs().max() <= 1
    assert not torch.equal(middle["theta"], middle["w"])


def test_what_the_hypernetwork_emits_is_linear_in_w() -> None:
    G = make("inr-gan-vanilla")
    ends = subject(G, 0), subject(G, 1)
    theta, w = (interpolate.frame(G, *ends, space, 0.3).int() for space in ("theta", "w"))
    assert (theta - w).abs().max() <= 1


def test_a_path_through_three_images_shows_the_middle_one_once() -> None:
    G = make("inr-gan")
    ends = [subject(G, seed) for seed in range(3)]
    drawn = list(interpolate.frames(G, ends, "w", 4))
    assert len(drawn) == 7
    assert torch.equal(drawn[3], interpolate.frame(G, ends[1], ends[2], "w", 0))


def test_measure_by_hand() -> None:
    black, grey = (torch.full([1, 2, 2], value, dtype=torch.uint8) for value in (0, 30))
    rows = interpolate.measure([black, grey, grey], "w")
    assert [row["rms_change"] for row in rows] == [0, 30, 0]
    assert rows[1]["step"] == 1 and rows[1]["space"] == "w"


def test_strips_and_numbers(tmp_path: Path) -> None:
    options = ("--seeds=0-2", "--steps=4", "--space=theta,z", "--size=20x24")
    result = explore_run("interpolate", tmp_path, "inr-gan-bil", *options)
    assert result.exit_code == 0, result.output
    assert names(tmp_path) == ["interpolate.csv", "interpolate.png"]
    rows = read_csv(tmp_path / "out" / "interpolate.csv")
    assert len(rows) == 2 * 2 * 4
    assert [row["from"] for row in rows[::8]] == ["seed0000", "seed0001"]


@pytest.mark.skipif(not video.can_write_video(), reason="needs imageio-ffmpeg")
def test_films(tmp_path: Path) -> None:
    options = ("--steps=2", "--space=w,pixels", "--video", "--frames=3")
    result = explore_run("interpolate", tmp_path, "inr-gan", *options, img_channels=1)
    assert result.exit_code == 0, result.output
    assert {"interpolate-w.mp4", "interpolate-pixels.mp4"} <= set(names(tmp_path))


def test_frames_of_a_film_have_three_channels() -> None:
    for channels in (1, 3, 4):
        frame = interpolate.as_video_frame(torch.zeros([channels, 4, 6], dtype=torch.uint8))
        assert frame.shape == (4, 6, 3)


def test_without_an_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "can_write_video", lambda: False)
    result = explore_run("interpolate", tmp_path, "inr-gan", "--video")
    assert_refused(result, "pip install imageio-ffmpeg", tmp_path)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--space=w,v", "'v' is not one of z, w, theta, pixels"),
        ("--space=none", "--space names nothing"),
        ("--seeds=4", "needs at least two images"),
        ("--steps=1", "1 is not in the range"),
        ("--size=0", "is an empty picture"),
    ],
)
def test_refused(option: str, sentence: str, tmp_path: Path) -> None:
    assert_refused(explore_run("interpolate", tmp_path, "inr-gan", option), sentence, tmp_path)


def test_not_continuous(tmp_path: Path) -> None:
    result = explore_run("interpolate", tmp_path, "stylegan2")
    assert_refused(result, "is not a continuous generator", tmp_path)
