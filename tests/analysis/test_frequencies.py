"""`explore.py frequencies`: which waves the blocks read."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from analysis import frequencies
from analysis.frequencies import BlockFrequencies
from analysis.subjects import Subject
from networks import sampling
from tests.analysis.tiny_networks import assert_refused, explore_run, make, names


def subjects(G: torch.nn.Module, seeds: range) -> list[Subject]:
    return [Subject(f"s{seed}", seed, None, sampling.ws_of_seed(G, seed)) for seed in seeds]


def test_fixed_and_predicted_rows_of_a_pyramid() -> None:
    G = make("inr-gan")
    first, second, third = frequencies.block_frequencies(G, subjects(G, range(3)))
    assert [block.name for block in (first, second, third)] == ["b4", "b8", "b16"]
    # Octaves m = 0, 1 on 4 cells: half a cycle and one along each axis, diagonals sqrt(2) lower.
    expected = [0.5, 1, 0.5, 1] + [f / math.sqrt(2) for f in (0.5, 0.5, 1, 1)]
    assert sorted(first.fixed) == pytest.approx(sorted(expected))
    assert max(third.fixed) == pytest.approx(4)
    assert first.predicted.shape == (3, 64) and second.predicted.size == 0
    ws = sampling.ws_of_seed(G, 1)
    rows = G.synthesis.compose(ws)[0].rows[0]
    assert first.predicted[1] == pytest.approx((rows.norm(dim=1) / math.pi).numpy())


def test_a_frequency_is_the_number_of_waves_in_the_image() -> None:
    """The octave m = 3 of lattice 16 goes up and down 4 times from side to side."""
    G = make("inr-gan")
    fixed = frequencies.block_frequencies(G, subjects(G, range(1)))[2].fixed
    u = (np.arange(4000) + 0.5) / 4000 * 2 - 1
    wave = np.sin(2**3 * math.pi / 2 * u)
    assert np.abs(np.fft.rfft(wave)).argmax() == round(max(fixed)) == 4


def test_the_papers_model_predicts_everything() -> None:
    G = make("inr-gan-vanilla")
    blocks = frequencies.block_frequencies(G, subjects(G, range(2)))
    assert [block.fixed.size for block in blocks] == [0, 0]
    weights = G.synthesis.compose(sampling.ws_of_seed(G, 1))
    for block, own in zip(blocks, weights):
        expected = own.rows[0].norm(dim=1) / (2 * math.pi)
        assert block.predicted[1] == pytest.approx(expected.numpy())


def test_the_published_model() -> None:
    G = make("inr-gan-published", resolution=128)
    blocks = {
        block.name: block for block in frequencies.block_frequencies(G, subjects(G, range(1)))
    }
    assert set(blocks) == {"b4", "b64", "b128"}
    assert blocks["b128"].fixed.size == 2 * 7 + 32
    assert blocks["b4"].lattice == 32


def test_summary_and_counts_by_hand() -> None:
    block = BlockFrequencies("b8", 8, np.array([2.0, 1.0]), np.array([[1.0, 4.0], [4.0, 4.0]]))
    summary = frequencies.summary(block)
    assert summary["fixed"] == [1, 2]
    assert (
        summary["predicted"]["percentile_50"] == 4 and summary["predicted"]["rows_per_image"] == 2
    )
    edges = frequencies.edges_over([block])
    assert edges[0] < 1 and edges[-1] > 4
    counts = frequencies.counts(block.predicted, edges, images=2)
    assert counts.sum() == 2 and counts[0] == 0.5 and counts[-1] == 1.5
    assert frequencies.counts(np.array([0.0]), frequencies.edges_over([block]) / 16).sum() == 1


def test_files(tmp_path: Path) -> None:
    result = explore_run("frequencies", tmp_path, "inr-gan-bil", "--seeds=0-4")
    assert result.exit_code == 0, result.output
    assert names(tmp_path) == ["frequencies.json", "frequencies.png"]
    data = json.loads((tmp_path / "out" / "frequencies.json").read_text())
    assert data["images"] == 5 and data["unit"] == "cycles per image"
    assert [block["block"] for block in data["blocks"]] == ["b4", "b8", "b16"]
    assert Image.open(tmp_path / "out" / "frequencies.png").size == (640, 3 * 240)


def test_refused(tmp_path: Path) -> None:
    result = explore_run("frequencies", tmp_path, "inr-latent", "--seeds=0")
    assert_refused(result, "no block reads sines of the coordinates", tmp_path)
    result = explore_run("frequencies", tmp_path, "stylegan2")
    assert_refused(result, "is not a continuous generator", tmp_path)
    result = explore_run("frequencies", tmp_path, "inr-gan", "--trunc=nan")
    assert_refused(result, "nan", tmp_path)
