"""One network as decoder of a few signals: sounds, images or volumes, each from a w of its own.

Section 5 of Skorokhodov et al., "Adversarial Generation of Continuous Images", hopes for a
universal decoder of any signal. Here `networks.field.ContinuousField` and one w per signal are
trained together (an auto-decoder) on the mean squared error at the samples; afterwards the signals
can be read at any rate, because each is a function of real coordinates.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import nn

from analysis import plots, sheets
from analysis.signals import KINDS, Signal, frame_picture, to_pixels
from networks.field import ContinuousField

SAMPLES_AT_ONCE = 2**18
"""Of all signals of a batch together; one signal must not have more."""

_LARGEST_FIRST = {1: 1024, 2: 32, 3: 32}
_WARM_UP_STEPS = 20
_SHOWN_SIGNALS = 4
_SHOWN_FRAMES = 6
_SHOWN_SIDE = 128
_EXCERPT = 48


class FitOptions(NamedTuple):
    """How a decoder is built and trained.

    Attributes:
        steps: Of the optimizer (Adam; the learning rate rises for 20 steps, then falls as a
            cosine).
        learning_rate: The largest.
        channels: Of every layer.
        w_dim: Dimensionality of w.
        upsampling: See `ContinuousField`.
        seed: Of the initial values and batches.
    """

    steps: int = 400
    learning_rate: float = 0.06
    channels: int = 64
    w_dim: int = 32
    upsampling: str = "bilinear"
    seed: int = 0


class Decoder(nn.Module):
    """A field and one w per signal.

    Args:
        num_signals: How many.
        shape: Channels and samples along each axis of every signal.
        options: See `FitOptions`.
    """

    def __init__(self, num_signals: int, shape: Sequence[int], options: FitOptions) -> None:
        super().__init__()
        self.field = ContinuousField(
            w_dim=options.w_dim,
            img_shape=tuple(shape),
            channel_base=options.channels * max(shape[1:]),
            channel_max=options.channels,
            upsampling=options.upsampling,
            largest_first=_LARGEST_FIRST[len(shape) - 1],
            unit="longest",
        )
        self.w = nn.Parameter(torch.randn(num_signals, options.w_dim))

    def ws(self, index: torch.Tensor | slice) -> torch.Tensor:
        """[n, num_ws, w_dim] of some signals."""
        return self.w[index][:, None].expand(-1, self.field.num_ws, -1)

    def forward(self, index: torch.Tensor | slice) -> torch.Tensor:
        """Some signals at their samples, [n, C, ...]."""
        return self.field(self.ws(index))

    @torch.no_grad()
    def read(self, index: int, size: Sequence[int] | None = None) -> np.ndarray:
        """One signal, whole, at any number of samples per axis: float32 [C, ...]."""
        return self.field.render(self.ws(slice(index, index + 1)), size=size)[0].cpu().numpy()


def fit(
    signals: Sequence[Signal],
    options: FitOptions,
    device: torch.device | str = "cpu",
    on_step: Callable[[], Any] = lambda: None,
) -> tuple[Decoder, float]:
    """Trains a decoder of signals that are all of one shape, divided by their peaks.

    Args:
        signals: At least one.
        options: See `FitOptions`.
        device: Where to train.
        on_step: Called after every step.

    Returns:
        The decoder, and how many seconds the training took.

    Raises:
        ValueError: More than `SAMPLES_AT_ONCE` samples per signal.
    """
    targets = torch.from_numpy(np.stack([s.values / s.peak for s in signals])).to(device)
    samples = math.prod(targets.shape[2:])
    if samples > SAMPLES_AT_ONCE:
        raise ValueError(f"{samples} samples per signal, more than {SAMPLES_AT_ONCE}")
    batch = min(len(signals), SAMPLES_AT_ONCE // samples)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        decoder = Decoder(len(signals), targets.shape[1:], options).to(device)
        optimizer = torch.optim.Adam(decoder.parameters(), options.learning_rate, (0.9, 0.99))
        start = time.perf_counter()
        for step in range(options.steps):
            for group in optimizer.param_groups:
                group["lr"] = options.learning_rate * _schedule(step / options.steps, step)
            index = torch.randperm(len(signals))[:batch].to(device)
            loss = (decoder(index) - targets[index]).square().mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            on_step()
    return decoder.eval().requires_grad_(False), time.perf_counter() - start


def read_back(decoder: Decoder, signals: Sequence[Signal], factor: Fraction) -> list[Signal]:
    """The signals as the decoder draws them, with `factor` times the samples along every axis.

    Values are within the range of the data, [-peak, peak].
    """
    found = []
    for index, signal in enumerate(signals):
        size = [max(1, round(side * factor)) for side in signal.values.shape[1:]]
        values = decoder.read(index, size).clip(-1, 1) * signal.peak
        rate = None if signal.rate is None else max(1, round(signal.rate * factor))
        found.append(Signal(signal.name, values, rate, signal.peak))
    return found


def psnr(drawn: Signal, data: Signal) -> float:
    """Peak signal to noise ratio in dB; the peak to peak range is that of the data, 2 peak."""
    error = np.mean((drawn.values.astype(np.float64) - data.values) ** 2)
    return 10 * math.log10((2 * data.peak) ** 2 / max(float(error), 1e-12 * data.peak**2))


def measure(decoder: Decoder, signals: Sequence[Signal], same: Sequence[Signal]) -> dict[str, Any]:
    """What a fit has achieved: PSNR of every signal, beside that of each channel's mean value."""
    rows = []
    for signal, drawn in zip(signals, same):
        means = signal.values.mean(tuple(range(1, signal.values.ndim)), keepdims=True)
        flat = Signal(signal.name, np.broadcast_to(means, signal.values.shape))
        rows.append(
            {
                "name": signal.name,
                "psnr_db": psnr(drawn, signal),
                "psnr_of_the_mean_db": psnr(flat, signal),
            }
        )
    shape = signals[0].values.shape
    return {
        "kind": KINDS[len(shape) - 1],
        "signal_channels": shape[0],
        "samples": list(reversed(shape[1:])),
        "values_per_signal": math.prod(shape),
        "lattices": [list(reversed(cells)) for cells in zip(*decoder.field.lattices())],
        "decoder_parameters": sum(p.numel() for p in decoder.field.parameters()),
        "w_dim": decoder.w.shape[1],
        "psnr_db": float(np.mean([row["psnr_db"] for row in rows])),
        "signals": rows,
    }


def sheet(
    signals: Sequence[Signal], same: Sequence[Signal], other: Sequence[Signal], label: str
) -> Image.Image:
    """The first signals beside what was made of them.

    Args:
        signals: The data.
        same: The decoder's at the same samples.
        other: The decoder's at another rate.
        label: Name of that rate.
    """
    draw = {1: _sound_sheet, 2: _image_sheet, 3: _volume_sheet}[signals[0].num_coords]
    return draw(*[list(part)[:_SHOWN_SIGNALS] for part in (signals, same, other)], label)


def _schedule(progress: float, step: int) -> float:
    return min(1.0, (step + 1) / _WARM_UP_STEPS) * 0.5 * (1 + math.cos(math.pi * progress))


def _sound_sheet(
    signals: Sequence[Signal], same: Sequence[Signal], other: Sequence[Signal], label: str
) -> Image.Image:
    """Whole waveforms with their difference, and a few samples of each from close by."""
    parts = []
    for data, drawn, fine in zip(signals, same, other):
        rows = [("data", data.values[0]), ("F", drawn.values[0])]
        rows.append(("F - data", drawn.values[0] - data.values[0]))
        waves = [[_waveform(values, data.peak)] for _, values in rows]
        parts.append(sheets.labelled_sheet(waves, (data.name,), [name for name, _ in rows]))
        parts.append(_excerpt(data, fine, label))
    width = max(part.width for part in parts)
    return plots.stacked([_widened(part, width) for part in parts])


def _waveform(values: np.ndarray, peak: float, size: tuple[int, int] = (640, 72)) -> Image.Image:
    width, height = size
    picture = Image.new("RGB", size, (255,) * 3)
    draw = ImageDraw.Draw(picture)
    draw.line((0, height / 2, width, height / 2), fill=(222,) * 3)
    x = (np.arange(len(values)) + 0.5) / len(values) * width
    y = (1 - values / peak) * 0.5 * (height - 2) + 1
    draw.line(list(zip(x.tolist(), y.tolist())), fill=plots.COLOURS[0])
    return picture


def _excerpt(data: Signal, fine: Signal, label: str) -> Image.Image:
    """Samples in the middle of a sound and F at the other rate, against time."""
    count = data.values.shape[1]
    first = max(0, (count - _EXCERPT) // 2)
    start, stop = first / data.rate * 1e3, min(count, first + _EXCERPT) / data.rate * 1e3
    series = {}
    for name, signal in ((f"F, {label}", fine), ("data", data)):
        # Both rates are rounded; both sounds are equally long.
        step = count / data.rate / signal.values.shape[1]
        times = (np.arange(signal.values.shape[1]) + 0.5) * step * 1e3
        inside = (times >= start) & (times <= stop)
        series[name] = list(zip(times[inside].tolist(), signal.values[0][inside].tolist()))
    y_axis = plots.Axis("value", -1.1 * data.peak, 1.1 * data.peak)
    return plots.line_plot(series, plots.Axis("ms", start, stop), y_axis, data.name)


def _widened(picture: Image.Image, width: int) -> Image.Image:
    sheet = Image.new("RGB", (width, picture.height), (255,) * 3)
    sheet.paste(picture, (0, 0))
    return sheet


def _image_sheet(
    signals: Sequence[Signal], same: Sequence[Signal], other: Sequence[Signal], label: str
) -> Image.Image:
    rows = [
        [_shown(_picture(signal)) for signal in signals_of_row]
        for signals_of_row in zip(signals, same, other)
    ]
    return sheets.labelled_sheet(rows, ("data", "F", f"F, {label}"))


def _volume_sheet(
    signals: Sequence[Signal], same: Sequence[Signal], other: Sequence[Signal], label: str
) -> Image.Image:
    """Slices at about the same z; those of the other rate are between the samples as well."""
    rows, names = [], []
    for parts in zip(signals, same, other):
        for name, signal in zip(("data", "F", f"F, {label}"), parts):
            depth = signal.values.shape[1]
            count = min(_SHOWN_FRAMES, parts[0].values.shape[1], depth)
            chosen = [int((i + 0.5) * depth / count) for i in range(count)]
            rows.append([_shown(frame_picture(signal.values, index)) for index in chosen])
            names.append(name)
    longest = max(map(len, rows))
    blank = Image.new("L", rows[0][0].size, 255)
    return sheets.labelled_sheet([row + [blank] * (longest - len(row)) for row in rows], (), names)


def _picture(signal: Signal) -> Image.Image:
    pixels = to_pixels(signal.values)
    return Image.fromarray(pixels if pixels.shape[-1] > 1 else pixels[..., 0])


def _shown(picture: Image.Image) -> Image.Image:
    """The picture at the size in which it is shown on a sheet, pixels repeated."""
    scale = _SHOWN_SIDE / min(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.convert("RGB").resize(size, Image.Resampling.NEAREST)
