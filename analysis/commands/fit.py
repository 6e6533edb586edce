"""`explore.py fit`."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any

import click

import dnnlib
import dnnlib.cli
from analysis.options import outdir_option

_MAX_FACTOR = 64


class _Factor(click.ParamType):
    """How many times the samples: 2, 0.5 or 3/2; from 1/64 to 64."""

    name = "factor"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Fraction:
        text = str(value).strip()
        if not re.fullmatch(r"\d{1,6}(\.\d{1,6})?|\d{1,6}/\d{1,6}", text) or text.endswith("/0"):
            self.fail(f"{text!r} is not a factor such as 2, 0.5 or 3/2", param, ctx)
        try:
            factor = Fraction(text)
        except ZeroDivisionError:
            self.fail(f"{text!r} divides by zero", param, ctx)
        if not Fraction(1, _MAX_FACTOR) <= factor <= _MAX_FACTOR:
            self.fail(f"{text} is not between 1/{_MAX_FACTOR} and {_MAX_FACTOR}", param, ctx)
        return factor


@dnnlib.cli.command("fit")
@click.option(
    "--data",
    metavar="FILE",
    multiple=True,
    required=True,
    help="Sound (.wav), picture, film (animated GIF, PNG, WebP, TIFF) or volume (.npy); "
    "repeatable, all of one kind and size.",
)
@outdir_option
@click.option("--rate", type=_Factor(), default="2", help="Samples per axis, times the data's.")
@click.option("--steps", type=click.IntRange(1, 10**6), default=400, help="Of the optimizer.")
@click.option(
    "--lr",
    type=dnnlib.cli.FiniteRange(0, 1, min_open=True),
    default=0.06,
    help="Largest learning rate.",
)
@click.option("--channels", type=click.IntRange(4, 1024), default=64, help="Of every layer.")
@click.option("--w-dim", type=click.IntRange(1, 4096), default=32, help="Numbers per signal.")
@click.option(
    "--upsampling",
    type=click.Choice(["bilinear", "nearest"]),
    default="bilinear",
    help="How levels of the network read each other.",
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, help="Of initial values.")
@dnnlib.cli.device_option
def command(data: tuple[str, ...], outdir: str, rate: Fraction, device: str, **how: Any) -> None:
    """Train one network to draw sounds, pictures, films or volumes.

    Writes every signal as the network draws it, at the samples of the data and at another rate.
    """
    from analysis import fit, signals
    from analysis.records import write_json
    from analysis.subjects import write_picture
    from dnnlib.progress import progress
    from torch_utils.misc import resolve_device

    torch_device = resolve_device(device)
    found = [signals.read_signal(path) for path in data]
    signals.check_alike(found)
    _check_samples(found[0].values.shape, fit.SAMPLES_AT_ONCE, rate)
    how["learning_rate"] = how.pop("lr")
    folder = dnnlib.cli.make_outdir(outdir)
    with progress(how["steps"], desc="Fitting", unit="step") as bar:
        decoder, seconds = fit.fit(found, fit.FitOptions(**how), torch_device, bar.update)
    label = f"{float(rate):g}x"
    same, other = (fit.read_back(decoder, found, factor) for factor in (Fraction(1), rate))
    versions = {"1x": same, label: other}
    for factor, drawn in versions.items():
        for index, signal in enumerate(drawn):
            number = f"{index:02d}-" if len(drawn) > 1 else ""
            stem = f"{number}{signal.name}-{factor}"
            signals.write_signal(folder / f"{stem}{signals.SUFFIXES[signal.num_coords]}", signal)
            if signal.num_coords == 3:
                signals.write_film(folder / f"{stem}.png", signal.values)
    write_picture(fit.sheet(found, same, other, label), folder / "fit.png")
    numbers = fit.measure(decoder, found, same)
    about = {"data": list(data), "rate": float(rate), **how, "seconds": seconds}
    write_json(folder / "fit.json", {**about, **numbers})
    print(f"{signals.describe(found[0])}: {how['steps']} steps in {seconds:.1f} s")
    for row in numbers["signals"]:
        print(f"{row['name']}: {row['psnr_db']:.2f} dB (mean {row['psnr_of_the_mean_db']:.2f} dB)")
    print(f"Wrote fit.png, fit.json and {len(found) * len(versions)} signals to {folder}")


def _check_samples(shape: tuple[int, ...], limit: int, rate: Fraction) -> None:
    samples = math.prod(shape[1:])
    if samples > limit:
        raise dnnlib.UserError(
            f"--data: {samples:,} samples per signal are more than {limit:,}; cut out a part or "
            "make it smaller."
        )
    drawn = math.prod(max(1, round(side * rate)) for side in shape[1:])
    if drawn > 2**28:
        raise dnnlib.UserError(
            f"--rate={float(rate):g} makes {drawn:,} samples per signal; up to {2**28:,} fit."
        )
