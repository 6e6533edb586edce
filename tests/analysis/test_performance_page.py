"""Numbers and names in docs/performance.md are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from analysis import cuda_check, kernel_bench
from networks.cost import generator_cost, total
from networks.generator import build_generator

ROOT = Path(kernel_bench.__file__).parents[1]
PAGE = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")

# Data sheet of the H100 SXM: operations in float16, bytes, per second.
RATE, BANDWIDTH = 989e12, 3.35e12


@pytest.mark.parametrize("shape", kernel_bench.GPU.layers, ids=str)
def test_floors_of_the_layers(shape: kernel_bench.LayerShape) -> None:
    n, c, pixels = shape.batch, shape.channels, shape.size**2
    operations = 2 * n * c * c * pixels
    moved = 2 * (2 * n * c * pixels + n * c * c)
    row = (
        f"| {c}->{c} at {shape.size}x{shape.size} | {operations / 1e9:.1f} GFLOP "
        f"| {operations / RATE * 1e6:.0f} us | {moved / 1e6:.0f} MB "
        f"| {moved / BANDWIDTH * 1e6:.0f} us |"
    )
    assert row in PAGE


def test_operations_of_the_generator() -> None:
    with torch.device("meta"):
        G = build_generator(
            "inr-gan-published", z_dim=512, c_dim=0, w_dim=512, img_resolution=256, img_channels=3
        )
    operations = 2 * total(generator_cost(G), "split")
    assert f"| {operations / 1e9:.1f} GFLOP | {operations / RATE * 1e6:.0f} us |" in PAGE


def test_variables_are_explained() -> None:
    used = set()
    for name in (
        "torch_utils/custom_ops.py",
        "torch_utils/compilers.py",
        "torch_utils/host_memory.py",
    ):
        text = (ROOT / name).read_text(encoding="utf-8")
        used |= set(re.findall(r'"([A-Z][A-Z_]{2,})"', text))
    ignored = {"PATH", "CC", "EXT_SUFFIX", "GPU"}
    assert {"CXX", "TORCH_EXTENSIONS_DIR", "TORCH_CUDA_ARCH_LIST"} <= used
    assert [name for name in sorted(used - ignored) if f"`{name}`" not in PAGE] == []


def test_architectures_are_those_that_are_compiled() -> None:
    named = [f"{number // 10}.{number % 10}" for number in cuda_check.ARCHITECTURES]
    assert f"compute capability {', '.join(named[:-1])} and {named[-1]}" in PAGE


def test_targets_of_the_makefile_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"`make ([\w-]+)", PAGE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
