"""Images per second of training and generation, generators side by side (`make bench`).

Training is `--cfg=tiny`, and `--cfg=auto` at 64x64, with the real losses and phases on random
images, generation the network of `--cfg=auto` at 256x256. What is compared takes turns within every
repetition, so that a machine that gets slower meanwhile slows all of it; a number is the median
over the repetitions. Each table is measured in a process of its own, because what an operation
takes also depends on the memory that others have freed before it.
"""

from __future__ import annotations

import dataclasses
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

import dnnlib
import dnnlib.cli
from analysis.own_process import in_own_process

if TYPE_CHECKING:
    import torch

    from analysis.training_bench import Training
    from training.config import TrainConfig

GENERATORS = ("stylegan2", "inr-gan", "inr-gan-bil")
"""Presets that are compared; the first one is the unit of the ratios."""

STEPS_PER_CYCLE = 16
"""Training steps that are timed together: R1 comes every 16th step, path lengths every 4th."""

_CLASSES = 10
_TRAIN_SHAPE = (1, 32, 32)
_GENERATION_SIZE = 256
_GENERATION_BATCH = 4
_COMPARED = "inr-gan-published"
_STEP_PRESET = "inr-gan-bil"
_STEP_SHAPE = (3, 64, 64)
_STEP_BATCH = 8


@dnnlib.cli.command()
@click.option("--quick", is_flag=True, help="One repetition each instead of several.")
@click.option(
    "--p",
    "augment_p",
    type=click.FloatRange(0, 1),
    default=0.0,
    help="Augmentation probability in training; ADA starts at 0.",
)
@dnnlib.cli.device_option
def main(quick: bool, augment_p: float, device: str) -> None:
    """Measure images per second of training and generation, generators side by side.

    Training with the kernels and without a compiler, and what a larger step is made of; then one
    generator with its kernels, without a compiler, and in the plain order of operations.
    """
    import torch

    from torch_utils import misc
    from torch_utils import precision as precision_tools

    target = misc.resolve_device(device)
    turns, repetitions = (1, 1) if quick else (3, 5)
    print(describe_machine(target))
    print("float32 everywhere; generation in images/s, in brackets relative to the first line")

    print_table(
        f"Training, --cfg=tiny, {_TRAIN_SHAPE[1]}x{_TRAIN_SHAPE[2]} grey, {_CLASSES} classes, "
        f"augmentation p = {augment_p:g}; median of {turns} x {STEPS_PER_CYCLE} steps",
        *(compare_training, target, augment_p, turns),
    )
    print_table(
        f"Training, --cfg=auto, {_STEP_SHAPE[1]}x{_STEP_SHAPE[2]} RGB, {_STEP_PRESET}, "
        f"batch {_STEP_BATCH}, augmentation p = {augment_p:g}; median of {turns}",
        *(divide_step, target, augment_p, turns),
    )
    print_table(
        f"Generation, --cfg=auto, {_GENERATION_SIZE}x{_GENERATION_SIZE} RGB, "
        f"batch {_GENERATION_BATCH}; median of {repetitions}",
        *(compare_generation, target, repetitions),
    )

    low, why = precision_tools.fastest_dtype(target)
    for precision in dict.fromkeys(["fp32", precision_tools.dtype_name(low)]):
        print_table(
            f"{_COMPARED}, {_GENERATION_SIZE}x{_GENERATION_SIZE}, {precision}, kernels against "
            "the plain order of operations",
            *(against_plain_order, target, precision, repetitions),
        )
    if low == torch.float32:
        print(f"(no lower precision: {why})")


def print_table(title: str, table: Callable[..., str], *args: Any) -> None:
    """Print a title, then what a function returns that a process of its own calls."""
    print(f"\n{title}", flush=True)
    print(in_own_process(table, *args))


def compare_training(device: torch.device, augment_p: float, turns: int) -> str:
    """A table of images per second of training, all generators with kernels and without.

    Args:
        device: where to train.
        augment_p: probability of each augmentation.
        turns: timed cycles of each; the medians are shown.
    """
    from analysis.training_bench import as_in_training, both_ways, rates_table

    cycles = {name: training_cycle(name, device, augment_p) for name in GENERATORS}
    images = STEPS_PER_CYCLE * _config("stylegan2", "tiny", _TRAIN_SHAPE, _CLASSES).batch_size
    with as_in_training():
        times = both_ways(cycles, device, turns)
    return rates_table(times, images)


def divide_step(device: torch.device, augment_p: float, turns: int) -> str:
    """A table of what a training step at 64x64 is made of.

    Args:
        device: where to train.
        augment_p: probability of each augmentation.
        turns: timed calls of each phase; the medians are shown.
    """
    from analysis.training_bench import as_in_training, step_table

    options = {"cfg": "auto", "shape": _STEP_SHAPE, "classes": 0, "batch": _STEP_BATCH}
    training = make_training(_STEP_PRESET, device, augment_p, **options)
    with as_in_training():
        return step_table(training, device, turns)


def compare_generation(device: torch.device, repetitions: int) -> str:
    """Lines with images per second of generation, generators side by side.

    Args:
        device: where to draw.
        repetitions: timed batches of each; the medians are shown.
    """
    import torch

    draws = {name: generation(name, device) for name in GENERATORS}
    with torch.inference_mode():
        return rates(measure(draws, repetitions, device), _GENERATION_BATCH)


def against_plain_order(device: torch.device, precision: str, samples: int) -> str:
    """A table of inference and its peak memory with and without kernels, and of the ceilings.

    Args:
        device: Where to draw.
        precision: "fp32", "bf16" or "fp16".
        samples: Turns of each; the medians are printed.
    """
    from analysis.generator_bench import measure_generators
    from analysis.kernel_bench import CPU, GPU, Bench, measure_ceilings
    from analysis.kernel_report import section_table
    from analysis.records import text_table

    scale = dataclasses.replace(
        GPU if device.type == "cuda" else CPU,
        precision=precision,
        samples=samples,
        resolution=_GENERATION_SIZE,
    )
    bench = Bench(device, scale)
    measure_ceilings(bench)
    measure_generators(bench, [_COMPARED])
    tables = [section_table(bench.rows, name, precision) for name in ("generator", "memory")]
    return "\n".join(text_table([row[1:] for row in table]) for table in tables)


def describe_machine(device: torch.device) -> str:
    """One line: torch and Python version, device, threads."""
    import torch

    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = _processor_name()
    return (
        f"torch {torch.__version__}, Python {platform.python_version()}, "
        f"device {device} ({name}), {torch.get_num_threads()} threads"
    )


def measure(
    steps: Mapping[str, Callable[[], object]], repetitions: int, device: torch.device
) -> dict[str, float]:
    """Time functions in turns, after one untimed call of each.

    Args:
        steps: name -> function.
        repetitions: timed calls of each.
        device: whose queue is waited for before the clock is read.

    Returns:
        name -> median seconds of a call.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(repetitions):
        for name, step in steps.items():
            synchronize(device)
            start = time.perf_counter()
            step()
            synchronize(device)
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def rates(seconds: Mapping[str, float], images: int) -> str:
    """Lines with images per second of each entry and its ratio to the first one.

    Args:
        seconds: name -> seconds for `images` images.
        images: their number.
    """
    first = next(iter(seconds.values()))
    return "\n".join(
        f"  {name:<14} {images / value:8.2f}  ({first / value:.2f}x)"
        for name, value in seconds.items()
    )


def training_cycle(
    preset: str, device: torch.device, augment_p: float = 0.0, **options: Any
) -> Callable[[], object]:
    """A training (`--cfg=tiny --cond=1`) on random images.

    Args:
        preset: generator.
        device: where to train.
        augment_p: probability of each augmentation.
        options: as of `make_training`.

    Returns:
        A function that trains for `STEPS_PER_CYCLE` steps and returns (G, D).
    """
    training = make_training(preset, device, augment_p, **options)

    def cycle() -> tuple[torch.nn.Module, torch.nn.Module]:
        for _ in range(STEPS_PER_CYCLE):
            training.step()
        return training.G, training.D

    return cycle


def make_training(
    preset: str,
    device: torch.device,
    augment_p: float = 0.0,
    *,
    cfg: str = "tiny",
    shape: tuple[int, int, int] = _TRAIN_SHAPE,
    classes: int = _CLASSES,
    **options: Any,
) -> Training:
    """Networks, losses and phases of a training on random images.

    Args:
        preset: generator.
        device: where to train.
        augment_p: probability of each augmentation.
        cfg: base configuration.
        shape: (C, H, W) of the images.
        classes: number of classes; 0 = unconditional.
        options: further options of `train.py`, such as batch or fp32.
    """
    import torch

    from analysis.training_bench import Training
    from training.ema import EMA
    from training.phases import build_phases

    config = _config(preset, cfg, shape, classes, **options)
    kwargs = config.to_dict("")
    construct = dnnlib.util.construct_class_by_name
    G = _network(kwargs["G_kwargs"], shape, classes, device)
    D = _network(kwargs["D_kwargs"], shape, classes, device)
    pipe = construct(**kwargs["augment_kwargs"]).train().requires_grad_(False).to(device)
    pipe.p.fill_(augment_p)
    loss = construct(
        device=device,
        G_mapping=G.mapping,
        G_synthesis=G.synthesis,
        D=D,
        augment_pipe=pipe,
        **kwargs["loss_kwargs"],
    )
    phases = build_phases(
        G,
        D,
        kwargs["G_opt_kwargs"],
        kwargs["D_opt_kwargs"],
        regularize_G=loss.pl_weight != 0,
        regularize_D=loss.r1_gamma != 0,
    )
    batch = config.batch_size
    labels = torch.zeros([batch, classes], device=device)
    if classes:
        labels = torch.eye(classes, device=device)[torch.arange(batch, device=device) % classes]
    ema = EMA(G, config.ema_kimg, config.ema_rampup)
    real = torch.rand([batch, *shape], device=device) * 2 - 1
    return Training(G, D, loss, phases, ema, real, labels)


def generation(preset: str, device: torch.device) -> Callable[[], torch.Tensor]:
    """The generator of `--cfg=auto` at 256x256.

    Returns:
        A function that draws a batch: float32 [4, 3, 256, 256].
    """
    import torch

    shape = (3, _GENERATION_SIZE, _GENERATION_SIZE)
    kwargs = _config(preset, "auto", shape, 0).to_dict("")["G_kwargs"]
    G = _network(kwargs, shape, 0, device).eval()
    z = torch.randn([_GENERATION_BATCH, G.z_dim], device=device)
    return lambda: G(z, None, noise_mode="const")


def _config(
    preset: str, cfg: str, shape: tuple[int, int, int], classes: int, **more: Any
) -> TrainConfig:
    from training.config import DatasetFacts
    from training.options import TrainOptions
    from training.resolve import resolve

    options = TrainOptions(
        outdir="", data="", cfg=cfg, generator=preset, cond=classes > 0, **{"fp32": True, **more}
    )
    facts = DatasetFacts(name="random", image_shape=shape, num_images=1000, label_dim=classes)
    return resolve(options, facts)


def _network(
    kwargs: dict, shape: tuple[int, int, int], classes: int, device: torch.device
) -> torch.nn.Module:
    network = dnnlib.util.construct_class_by_name(
        **kwargs, c_dim=classes, img_resolution=shape[1], img_channels=shape[0]
    )
    return network.train().requires_grad_(False).to(device)


def synchronize(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _processor_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if "model name" in line]
    except OSError:  # not Linux
        names = []
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
