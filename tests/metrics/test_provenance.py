"""metrics.provenance: the precision of what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from metrics.metric_main import calc_metric
from metrics.provenance import generator_dtype
from tests.metrics.tiny_world import make_generator, write_pictures

CPU, GPU, MPS = (torch.device(name) for name in ("cpu", "cuda:0", "mps"))
HALF, BRAIN, SINGLE = torch.float16, torch.bfloat16, torch.float32


@pytest.fixture
def arguments(tmp_path: Path, detectors: dict[str, str]) -> dict[str, Any]:
    return {
        "G": make_generator(),
        "dataset_kwargs": write_pictures(tmp_path / "set"),
        "detectors": detectors,
        "device": "cpu",
    }


@pytest.mark.parametrize(
    ("device", "G_kwargs", "expected"),
    [
        (CPU, {}, "float32"),
        (MPS, {}, "float32"),
        (GPU, {}, "float16+float32"),
        (GPU, {"dtype": None}, "float16+float32"),
        (GPU, {"dtype": SINGLE}, "float32"),
        (GPU, {"dtype": BRAIN}, "bfloat16+float32"),
        (CPU, {"dtype": BRAIN}, "bfloat16+float32"),
        (MPS, {"dtype": HALF}, "float16+float32"),
        (CPU, {"dtype": HALF}, "float32"),
        (GPU, {"dtype": BRAIN, "force_fp32": True}, "float32"),
        (GPU, {"force_fp32": True}, "float32"),
    ],
)
def test_precision_of_a_generator(
    device: torch.device, G_kwargs: dict[str, Any], expected: str
) -> None:
    G = make_generator()
    G.synthesis.b16.use_fp16 = True
    assert generator_dtype(G, G_kwargs, device) == expected


@pytest.mark.usefixtures("cache_dir")
def test_images_are_drawn_in_the_precision_that_is_noted(arguments: dict[str, Any]) -> None:
    plain = calc_metric("small_fid", **arguments)
    brain = calc_metric("small_fid", **arguments, G_kwargs={"dtype": BRAIN})
    assert plain.provenance.dtype == "float32" and plain.provenance.G_kwargs == {}
    assert brain.provenance.dtype == "bfloat16+float32"
    assert brain.provenance.G_kwargs == {"dtype": "torch.bfloat16"}
    assert brain.results.small_fid != plain.results.small_fid
    assert brain.results.small_fid == pytest.approx(plain.results.small_fid, rel=0.1)


@pytest.mark.usefixtures("cache_dir")
def test_path_length_is_measured_and_noted_in_float32(arguments: dict[str, Any]) -> None:
    plain = calc_metric("small_ppl_w", **arguments)
    brain = calc_metric("small_ppl_w", **arguments, G_kwargs={"dtype": BRAIN})
    assert brain.provenance.dtype == plain.provenance.dtype == "float32"
    assert brain.results == plain.results
