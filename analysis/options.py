"""Options that the sub-commands of explore.py share. Imports no torch."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import click

import dnnlib.cli


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
    """

    network: str
    seeds: tuple[int, ...]
    classes: tuple[int, ...] | None
    psi: float
    outdir: str
    device: str
    allow_code: bool


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


SPAN = _Span()


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
        type=dnnlib.cli.SEEDS,
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


def drawing_options(seeds: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add all options that say which images to draw, as one parameter `options: DrawingOptions`.

    Args:
        seeds: Default of `--seeds`.
    """

    def decorate(func: Callable[..., Any]) -> Callable[..., Any]:
        fields = [field.name for field in dataclasses.fields(DrawingOptions)]

        @functools.wraps(func)
        def gathered(**kwargs: Any) -> Any:
            common = {name: kwargs.pop(name) for name in fields}
            for name in ("seeds", "classes"):
                common[name] = None if common[name] is None else tuple(common[name])
            return func(options=DrawingOptions(**common), **kwargs)

        # The last decorator's option comes first in --help, and a function's own options after.
        for add in (
            dnnlib.cli.allow_code_option,
            dnnlib.cli.device_option,
            outdir_option,
            trunc_option,
            class_option,
            seeds_option(seeds),
            network_option,
        ):
            gathered = add(gathered)
        return gathered

    return decorate
