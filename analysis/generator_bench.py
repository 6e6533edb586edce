"""Whole generators against the plain order of operations: images per second, memory, training."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from analysis.kernel_bench import Bench, Row, which_ran
from analysis.published_order import published_order, without_kernels
from analysis.timing import Function, captured, first_line, interleaved, peak_memory
from networks.cost import generator_cost, total
from networks.generator import build_generator

PRESETS = ("inr-gan-published", "inr-gan")
"""Generators whose inference is measured."""

TRAINED = "inr-gan"
"""Generator whose training step is measured."""

_Z_DIM = 512


def make_generator(bench: Bench, preset: str) -> nn.Module:
    """An untrained generator at the scale's resolution, for inference."""
    synthesis: dict[str, Any] = {}
    if bench.scale.width is not None:
        synthesis["channel_max"] = bench.scale.width
    G = build_generator(
        preset,
        z_dim=_Z_DIM,
        c_dim=0,
        w_dim=_Z_DIM,
        img_resolution=bench.scale.resolution,
        img_channels=3,
        mapping_kwargs={"num_layers": 2},
        synthesis_kwargs=synthesis,
    )
    return G.eval().requires_grad_(False).to(bench.device)


def ways(
    bench: Bench, G: nn.Module, batch: int
) -> dict[str, tuple[Function, Callable[[], AbstractContextManager[object]]]]:
    """Ways to draw a batch, of new z at every call, each with what has to be entered around it.

    Returns:
        "kernels": in the scale's precision. "plain PyTorch, no compiler": the same without any
        compiled kernel. "plain order": the published order of operations, in the same precision by
        autocast.
    """
    dtype = bench.dtype

    def latents() -> torch.Tensor:
        return torch.randn(batch, _Z_DIM, device=bench.device)

    def kernels() -> torch.Tensor:
        return G(latents(), None, noise_mode="const", dtype=dtype)

    def plain() -> torch.Tensor:
        return G(latents(), None, noise_mode="const", force_fp32=True)

    @contextlib.contextmanager
    def around_plain() -> Any:
        low = dtype != torch.float32
        with (
            torch.inference_mode(),
            published_order(),
            torch.autocast(bench.device.type, dtype if low else torch.bfloat16, enabled=low),
        ):
            yield

    @contextlib.contextmanager
    def around_no_compiler() -> Any:
        with torch.inference_mode(), without_kernels():
            yield

    return {
        "kernels": (kernels, torch.inference_mode),
        "plain PyTorch, no compiler": (kernels, around_no_compiler),
        "plain order": (plain, around_plain),
    }


def measure_generators(bench: Bench, presets: Sequence[str] = PRESETS) -> None:
    """Images per second of inference at several batch sizes, and the peak of memory."""
    for preset in presets:
        G = make_generator(bench, preset)
        flops = 2.0 * total(generator_cost(G), "split")
        for batch in bench.scale.batches:
            _measure_inference(bench, G, preset, batch, flops)
        _measure_memory(bench, G, preset)


def _measure_inference(bench: Bench, G: nn.Module, preset: str, batch: int, flops: float) -> None:
    case = f"{preset}, {bench.scale.resolution}x{bench.scale.resolution}, batch {batch}"
    if bench.out_of_time():
        bench.notes.append(f"generator: {case}: left out, the time is up")
        return
    functions = ways(bench, G, batch)
    draw, context = functions["kernels"]
    with context():
        notes = {"kernels": which_ran("kernels", draw)}
    if bench.device.type == "cuda":
        with context():
            replay, note = captured(draw, bench.device)
        functions["kernels, CUDA graph"] = (replay, torch.inference_mode)
        notes["kernels, CUDA graph"] = note
    times = interleaved(
        {name: function for name, (function, _context) in functions.items()},
        bench.device,
        samples=bench.scale.samples,
        sample_seconds=5 * bench.scale.sample_seconds,
        contexts={name: context for name, (_function, context) in functions.items()},
    )
    for name, timing in times.items():
        row = Row("generator", case, name, timing.median, timing, flops * batch, images=batch)
        row.note = notes.get(name, "")
        bench.rows.append(row)


def _measure_memory(bench: Bench, G: nn.Module, preset: str) -> None:
    batch = bench.scale.memory_batch
    case = f"{preset}, {bench.scale.resolution}x{bench.scale.resolution}, batch {batch}"
    if bench.out_of_time():
        bench.notes.append(f"memory: {case}: left out, the time is up")
        return
    for name, (function, context) in ways(bench, G, batch).items():
        row = Row("memory", case, name)
        try:
            with context():
                function()  # what is kept for good is there before the peak is looked at
                row.memory = peak_memory(function, bench.device)
        except RuntimeError as error:  # out of memory is an answer too
            row.note = first_line(error)
        bench.rows.append(row)


def measure_training(bench: Bench) -> None:
    """Training steps of a generator with its discriminator, losses and regularisation."""
    scale = bench.scale
    if not scale.train_batch:
        return
    case = f"{TRAINED}, {scale.resolution}x{scale.resolution}, batch {scale.train_batch}"
    if bench.out_of_time():
        bench.notes.append(f"training: {case}: left out, the time is up")
        return
    try:
        from analysis.bench import STEPS_PER_CYCLE, training_cycle
    except ImportError as error:  # the options of train.py are made with click
        bench.notes.append(f"training: left out: {first_line(error)}")
        return
    shape = (3, scale.resolution, scale.resolution)
    cycle = training_cycle(
        TRAINED,
        bench.device,
        cfg="auto",
        shape=shape,
        classes=0,
        batch=scale.train_batch,
        cmax=scale.width,
        fp32=scale.precision == "fp32",
    )
    times = interleaved(
        {"kernels": cycle, "plain order": cycle},
        bench.device,
        samples=min(3, scale.samples),
        sample_seconds=0,
        contexts={"plain order": published_order},
    )
    for name, timing in times.items():
        images = STEPS_PER_CYCLE * scale.train_batch
        bench.rows.append(Row("training", case, name, timing.median, timing, images=images))
