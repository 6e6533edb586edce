"""The precision of a call: `dtype` of a generator, its synthesis network and its views."""

from __future__ import annotations

import warnings

import pytest
import torch

from analysis.published_order import published_order
from networks.layers import block_dtype
from networks.presets import PRESETS
from tests.compare import assert_same_numbers
from tests.small_networks import Z_DIM, make_generator

CPU, GPU, MPS = (torch.device(name) for name in ("cpu", "cuda:0", "mps"))
HALF, BRAIN, SINGLE, DOUBLE = torch.float16, torch.bfloat16, torch.float32, torch.float64
CONTINUOUS = [name for name, preset in PRESETS.items() if preset.continuous]
RESOLUTION = 32


def make(preset: str, **options):
    return make_generator(preset, img_resolution=RESOLUTION, **options)


def latents(count: int = 4) -> torch.Tensor:
    return torch.randn(count, Z_DIM, generator=torch.Generator().manual_seed(2))


def error(image: torch.Tensor, exact: torch.Tensor) -> float:
    return float((image - exact).norm() / exact.norm())


@pytest.mark.parametrize("preset", PRESETS)
def test_no_less_exact_than_the_plain_order_in_that_precision(preset: str) -> None:
    G = make(preset)
    z = latents(8)
    with torch.inference_mode():
        exact = G(z, None, noise_mode="const", force_fp32=True)
        image = G(z, None, noise_mode="const", dtype=BRAIN)
        with published_order():
            plain = G(z, None, noise_mode="const", dtype=BRAIN)
    assert image.dtype == SINGLE
    assert 0 < error(image, exact) <= 2 * error(plain, exact) < 0.2


@pytest.mark.parametrize("preset", CONTINUOUS)
def test_views_are_as_exact(preset: str) -> None:
    G = make(preset)
    view = {"region": (-0.25, 0.1, 0.75, 1.2), "size": (21, 26)}
    points = torch.rand(40, 2, generator=torch.Generator().manual_seed(3)) * 1.4 - 0.2
    with torch.inference_mode():
        ws = G.mapping(latents(), None)
        for seen in (view, {"points": points}, {"size": 8, "lod": "scaled"}):
            exact, image = (G.synthesis.render(ws, **seen, dtype=dtype) for dtype in (None, BRAIN))
            with published_order():
                plain = G.synthesis.render(ws, **seen, dtype=BRAIN)
            assert image.dtype == SINGLE
            assert 0 < error(image, exact) <= 2 * error(plain, exact) < 0.2


@pytest.mark.parametrize("preset", PRESETS)
def test_force_fp32_wins_and_a_call_leaves_nothing_behind(preset: str) -> None:
    G = make(preset)
    z = latents(2)
    ws = G.mapping(z, None)
    points = torch.rand(5, 2, generator=torch.Generator().manual_seed(3))
    calls = [
        lambda **how: G(z, None, noise_mode="const", **how),
        lambda **how: G.synthesis(ws, noise_mode="const", **how),
    ]
    if preset in CONTINUOUS:
        calls += [
            lambda **how: G.synthesis.render(ws, size=20, **how),
            lambda **how: G.synthesis.render(ws, points=points, **how),
        ]
    with torch.inference_mode():
        for call in calls:
            own = call()
            assert torch.equal(call(dtype=SINGLE), own)
            assert not torch.equal(call(dtype=BRAIN), own)
            assert torch.equal(call(dtype=BRAIN, force_fp32=True), own)
            assert torch.equal(call(), own)


@pytest.mark.parametrize("preset", PRESETS)
def test_float16_on_a_cpu_is_float32_and_says_so(preset: str) -> None:
    G = make(preset)
    z = latents(2)
    with torch.inference_mode():
        own = G(z, None, noise_mode="const")
        with pytest.warns(UserWarning, match="float16 is not for CPUs"):
            image = G(z, None, noise_mode="const", dtype=HALF)
        assert torch.equal(image, own)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(G(z, None, noise_mode="const", dtype=HALF, force_fp32=True), own)


def test_it_is_said_once() -> None:
    G = make("inr-gan")
    with warnings.catch_warnings(record=True) as said, torch.inference_mode():
        warnings.simplefilter("default")
        for _ in range(3):
            G(latents(1), None, dtype=HALF)
    assert len([w for w in said if "float16" in str(w.message)]) == 1


@pytest.mark.parametrize("preset", PRESETS)
def test_blocks_set_to_float16_are_not_talked_about_on_a_cpu(preset: str) -> None:
    # As in StyleGAN2-ADA, whose snapshots have such blocks: float32 wherever there is no CUDA.
    G = make(preset)
    z = latents(1)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("error")
        own = G(z, None, noise_mode="const")
        for module in G.synthesis.modules():
            if hasattr(module, "use_fp16"):
                module.use_fp16 = True
        assert torch.equal(G(z, None, noise_mode="const"), own)


@pytest.mark.parametrize("preset", ["inr-gan-bil", "inr-gan-bil-published", "inr-gan-vanilla"])
def test_dtype_wins_over_blocks_set_to_float16(preset: str, monkeypatch) -> None:
    # What a GPU would do with such blocks.
    monkeypatch.setattr("networks.layers.compute_dtype", lambda wanted, *_rest: wanted)
    G = make(preset)
    for block in G.synthesis.blocks():
        block.use_fp16 = True
    ws = G.mapping(latents(2), None)
    with torch.inference_mode():
        own, single, brain, forced = (
            G.synthesis(ws, **how)
            for how in ({}, {"dtype": SINGLE}, {"dtype": BRAIN}, {"dtype": BRAIN, "force_fp32": 1})
        )
    assert torch.equal(single, forced) and not torch.equal(own, single)
    # Three bits less.
    assert 2 * error(own, single) < error(brain, single)


@pytest.mark.parametrize("wrong", ["bf16", torch.int8, torch.complex64, 16, float])
def test_what_is_no_precision_is_refused(wrong: object) -> None:
    for preset in PRESETS:
        with pytest.raises(TypeError, match="dtype must be a torch dtype of at least 16 bits"):
            make(preset)(latents(1), None, dtype=wrong)


@pytest.mark.parametrize(
    ("dtype", "use_fp16", "device", "expected"),
    [
        (None, False, GPU, SINGLE),
        (None, True, GPU, HALF),
        (None, True, CPU, SINGLE),
        (None, True, MPS, SINGLE),
        (SINGLE, True, GPU, SINGLE),
        (HALF, False, GPU, HALF),
        (HALF, False, MPS, HALF),
        (BRAIN, True, GPU, BRAIN),
        (BRAIN, False, CPU, BRAIN),
        (DOUBLE, False, CPU, DOUBLE),
    ],
)
def test_precision_of_a_block(dtype, use_fp16, device, expected) -> None:
    assert block_dtype(dtype, use_fp16, SINGLE, device) == expected
    assert block_dtype(dtype, use_fp16, SINGLE, device, force_fp32=True) == SINGLE


@pytest.mark.parametrize("preset", ["inr-gan", "inr-gan-bil"])
def test_a_bias_of_another_precision_is_cast(preset: str) -> None:
    G = make_generator(preset)
    ws = G.mapping(torch.randn(2, Z_DIM), None)
    expected = G.synthesis(ws)
    for block in G.synthesis.blocks():
        for layer in block.layers:
            layer.bias.data = layer.bias.data.double()
    assert_same_numbers(G.synthesis(ws), expected)
