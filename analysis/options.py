"""Options that the sub-commands of explore.py share. Imports no torch."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import click

import dnnlib.cli
from networks.presets import PRESETS


@dataclasses.dataclass(frozen=True)
class DrawingOptions:
    """What the options of `drawing_options` say: which images, of which network, and where to.

    Attributes:
        network: File or URL of a snapshot.
        seeds: One image per seed (and class).
        classes: Class indices; None = not given.
        psi: Truncation; 1 = none.
        outdir: Folder to write to.
        device: A choice of `--device`.
        allow_code: Whether the snapshot may run code of its own.
        dtype: A choice of `--dtype`; None = not given, or no such option.
    """

    network: str
    seeds: tuple[int, ...]
    classes: tuple[int, ...] | None
    psi: float
    outdir: str
    device: str
    allow_code: bool
    dtype: str | None = None


class _Span(click.ParamType):
    """Two numbers LOW,HIGH, integers, decimals or ratios, as the entries of a region."""

    name = "span"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Fraction, Fraction]:
        if not isinstance(value, str):
            low, high = (Fraction(edge) for edge in value)
            return low, high
        parts = value.split(",")
        if len(parts) != 2:
            self.fail(f"{value!r} is not a range such as -0.3,1.3", param, ctx)
        try:
            low, _, high, _ = dnnlib.cli.REGION.convert(f"{parts[0]},0,{parts[1]},1", param, ctx)
        except click.UsageError:
            self.fail(
                f"{value!r} is not a range LOW,HIGH of two numbers with LOW < HIGH", param, ctx
            )
        return low, high


class IntegerList(click.ParamType):
    """Integers separated by commas, all within bounds: `16,32,64` is (16, 32, 64).

    Args:
        low, high: The smallest and the largest that is allowed.
    """

    name = "integers"

    def __init__(self, low: int, high: int) -> None:
        self.low = low
        self.high = high

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if not isinstance(value, str):
            return tuple(value)
        parts = [part.strip() for part in value.split(",")]
        if not all(re.fullmatch(r"\d{1,9}", part) for part in parts):
            self.fail(f"{value!r} is not a list of integers such as 16,32,64", param, ctx)
        numbers = tuple(int(part) for part in parts)
        for number in numbers:
            if not self.low <= number <= self.high:
                self.fail(f"{number} is not in the range {self.low} to {self.high}", param, ctx)
        return numbers


SPAN = _Span()


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """Which network the options of `model_options` name, trained or not.

    Attributes:
        network: File or URL of a snapshot; None = an untrained generator of a preset.
        generator: Name of the preset.
        resolution: Side of its images.
        device: A choice of `--device`.
        allow_code: Whether the snapshot may run code of its own.
    """

    network: str | None
    generator: str | None
    resolution: int
    device: str
    allow_code: bool


def model_options(func: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that name one network, as the parameter `model: ModelOptions`."""
    gathered = _gathering(func, ModelOptions, "model")
    for add in (
        dnnlib.cli.allow_code_option,
        dnnlib.cli.device_option,
        click.option(
            "--resolution",
            type=click.IntRange(4, 4096),
            default=256,
            help="With --generator: side of the images.",
        ),
        click.option(
            "--generator",
            type=click.Choice(list(PRESETS)),
            help="In place of --network: an untrained generator of this preset.",
        ),
        click.option("--network", metavar="FILE|URL", help="Network snapshot."),
    ):
        gathered = add(gathered)
    return gathered


def network_option(func: Callable[..., Any]) -> Callable[..., Any]:
    """Add the required option `--network` (parameter `network`)."""
    return click.option(
        "--network", metavar="FILE|URL", required=True, help="Snapshot of a continuous network."
    )(func)


def outdir_option(func: Callable[..., Any]) -> Callable[..., Any]:
    """Add the required option `--outdir` (parameter `outdir`)."""
    return click.option(
        "--outdir", metavar="DIR", type=click.Path(), required=True, help="Made if missing."
    )(func)


def trunc_option(func: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--trunc` (parameter `psi`, default 1)."""
    return click.option(
        "--trunc",
        "psi",
        metavar="PSI",
        type=dnnlib.cli.FINITE_FLOAT,
        default=1.0,
        help="Truncation; 0 = average image.",
    )(func)


def class_option(func: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--class` (parameter `classes`: list of indices, or None)."""
    return click.option(
        "--class",
        "classes",
        metavar="INDEX",
        type=dnnlib.cli.CLASSES,
        help="Class of a conditional network; several (0-9) draw every seed once per class.",
    )(func)


def seeds_option(default: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add `--seeds` (parameter `seeds`) with a default such as "0-3"."""
    return click.option(
        "--seeds",
        type=dnnlib.cli.SEEDS,
        default=default,
        help="Numbers and ranges, e.g. 1,4-6.",
    )


def lod_option(func: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--lod` (parameter `lod`, default "fixed")."""
    return click.option(
        "--lod",
        type=click.Choice(["fixed", "scaled"]),
        default="fixed",
        help="Sample the trained function, or resize its lattices with the size.",
    )(func)


def drawing_options(
    seeds: str, any_precision: bool = True
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add all options that say which images to draw, as one parameter `options: DrawingOptions`.

    Args:
        seeds: Default of `--seeds`.
        any_precision: Whether there is `--dtype`; not where nothing is drawn, nor for gradients.
    """

    def decorate(func: Callable[..., Any]) -> Callable[..., Any]:
        gathered = _gathering(func, DrawingOptions, "options")
        # The last decorator's option comes first in --help, and a function's own options after.
        for add in (
            dnnlib.cli.allow_code_option,
            dnnlib.cli.device_option,
            *([dnnlib.cli.dtype_option] if any_precision else []),
            outdir_option,
            trunc_option,
            class_option,
            seeds_option(seeds),
            network_option,
        ):
            gathered = add(gathered)
        return gathered

    return decorate


def _gathering(func: Callable[..., Any], kind: type, name: str) -> Callable[..., Any]:
    """`func` with a dataclass of type `kind` as parameter `name`, made of the fields' options."""
    fields = [field.name for field in dataclasses.fields(kind)]

    @functools.wraps(func)
    def gathered(**kwargs: Any) -> Any:
        values = {field: kwargs.pop(field) for field in fields if field in kwargs}
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return func(**{name: kind(**values)}, **kwargs)

    return gathered
