"""Training steps with the kernels and without a compiler (GAN_OPS=plain), in one process."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from analysis.published_order import without_kernels
from analysis.records import text_table
from analysis.timing import Timing, interleaved
from ops.conv2d import gradfix
from torch_utils import host_memory
from training.ema import EMA
from training.phases import Phase, run_phase

WAYS = KERNELS, PLAIN = "kernels", "plain PyTorch, no compiler"
"""What takes turns."""


@dataclass
class Training:
    """A training on random images, as far as its speed is concerned.

    Attributes:
        G, D: Networks.
        loss: What the phases accumulate gradients with.
        phases: See `training.phases`.
        ema: Averages G's weights.
        real: Images [N, C, H, W].
        labels: [N, c_dim].
    """

    G: nn.Module
    D: nn.Module
    loss: Any
    phases: list[Phase]
    ema: EMA
    real: torch.Tensor
    labels: torch.Tensor
    _step: int = field(default=0, init=False)

    def step(self) -> None:
        """Trains for one step: whichever phases are due."""
        for phase in self.phases:
            if phase.is_due(self._step):
                self.run(phase)
        self.ema.update(self._step * len(self.real), len(self.real))
        self._step += 1

    def run(self, phase: Phase) -> None:
        """Trains with one phase."""
        run_phase(phase, self.loss, [(self.real, self.labels, self._latents(), self.labels)])

    def generator_trained(self) -> None:
        """G's forward and backward pass: once in a step."""
        self.G.requires_grad_(True)
        try:
            images = self.G(self._latents(), self.labels)
            images.backward(torch.ones_like(images))
        finally:
            self.G.requires_grad_(False)
            self.G.zero_grad(set_to_none=True)

    def generator_read(self) -> None:
        """G's forward pass alone: once in a step, to train D."""
        with torch.no_grad():
            self.G(self._latents(), self.labels)

    def _latents(self) -> torch.Tensor:
        return torch.randn([len(self.real), self.G.z_dim], device=self.real.device)


@contextlib.contextmanager
def as_in_training() -> Iterator[None]:
    """What `training.setup` and the training loop switch on in their process, for a while."""
    before, gradfix.enabled = gradfix.enabled, True
    try:
        with host_memory.settled_objects():
            yield
    finally:
        gradfix.enabled = before


def both_ways(
    functions: Mapping[str, Callable[[], object]],
    device: torch.device,
    turns: int,
    sample_seconds: float = 0,
) -> dict[str, dict[str, Timing]]:
    """Times functions with the kernels and without, in turns.

    Args:
        functions: name -> function.
        device: whose queue is waited for before the clock is read.
        turns: timed samples of each, after an untimed call.
        sample_seconds: about how long a sample takes; 0 = one call.

    Returns:
        name -> way -> time of a call.
    """
    timed = {(name, way): f for name, f in functions.items() for way in WAYS}
    times = interleaved(
        timed,
        device,
        samples=turns,
        sample_seconds=sample_seconds,
        contexts={key: without_kernels for key in timed if key[1] == PLAIN},
    )
    return {name: {way: times[name, way] for way in WAYS} for name in functions}


def rates_table(times: Mapping[str, Mapping[str, Timing]], images: int) -> str:
    """Images per second of each entry both ways, and relative to the first entry.

    Args:
        times: Result of `both_ways`, of functions that train with so many images.
        images: Their number.
    """
    rows = [["generator", "kernels, img/s", "to the first", "plain, img/s", "kernels to plain"]]
    first = next(iter(times.values()))[KERNELS].median
    for name, ways in times.items():
        fast, plain = ways[KERNELS].median, ways[PLAIN].median
        cells = [f"{images / fast:.2f}", f"{first / fast:.2f}x", f"{images / plain:.2f}"]
        rows.append([name, *cells, f"{plain / fast:.2f}x"])
    return text_table(rows)


def step_table(training: Training, device: torch.device, turns: int) -> str:
    """A step and its parts both ways: milliseconds, and shares of the step.

    The step is the sum of its phases' times over their intervals, so that a phase that comes every
    sixteenth time need not be waited for. What G does not take is D's, but for the losses and the
    optimizers.

    Args:
        training: What to train.
        device: Where it is.
        turns: Timed calls of each phase and pass.
    """
    functions: dict[str, Callable[[], object]] = {}
    per_step: dict[str, float] = {}
    for phase in training.phases:
        name = phase.name if phase.interval == 1 else f"{phase.name}, every {phase.interval} steps"
        functions[name] = functools.partial(training.run, phase)
        per_step[name] = 1 / phase.interval
    phases = list(functions)
    passes = {
        "G forward and backward": training.generator_trained,
        "G forward": training.generator_read,
    }
    times = both_ways(functions | passes, device, turns)
    seconds = {name: [times[name][way].median for way in WAYS] for name in times}
    step = [sum(seconds[name][i] * per_step[name] for name in phases) for i in range(2)]
    share = [sum(seconds[name][i] for name in passes) / step[i] for i in range(2)]
    rows = [["", "kernels, ms", "of the step", "plain, ms", "of the step", "kernels to plain"]]
    for name, (fast, plain) in {"step": step, **seconds}.items():
        cells = [name]
        for value, whole in zip((fast, plain), step):
            cells += [f"{1e3 * value:.1f}", f"{100 * value * per_step.get(name, 1) / whole:.0f} %"]
        rows.append([*cells, f"{plain / fast:.2f}x"])
    lines = [text_table(rows)]
    for i, way in enumerate(WAYS):
        lines.append(
            f"{way}: {len(training.real) / step[i]:.2f} images/s; G takes {100 * share[i]:.0f} %, "
            f"D and the rest {100 * (1 - share[i]):.0f} %"
        )
    return "\n".join(lines)
