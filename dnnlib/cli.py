"""What all commands share: options spelled either way, parameter types, errors in one sentence."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import click

from dnnlib.errors import UserError

MAX_SEEDS = 10_000_000
_MAX_FLOAT = 3e38  # of float32
# The feature detectors that metrics and the projector look through.
DETECTOR_NAMES = ("inception-2015-12-05", "vgg16")
_CONTEXT_SETTINGS: dict[str, Any] = {
    # --noise_mode is --noise-mode; applied by click to what is declared and to what is typed.
    "token_normalize_func": lambda token: token.replace("_", "-"),
    "max_content_width": 120,
    "show_default": True,
    "help_option_names": ["-h", "--help"],
}


# A group without arguments prints its help; older click versions do it without an exception.
_NO_ARGUMENTS: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())


class _UserErrorExit(click.ClickException):
    """`Error: <sentence>` on stderr and exit code 2, as for click's own usage errors."""

    exit_code = 2


@contextlib.contextmanager
def _one_sentence() -> Iterator[None]:
    """Turn errors that the user can cure into one line on stderr and exit code 2."""
    try:
        yield
    except UserError as error:
        raise _UserErrorExit(str(error)) from error
    except click.NoSuchOption as error:
        hint = f" Did you mean {' or '.join(error.possibilities)}?" if error.possibilities else ""
        raise _UserErrorExit(f"there is no option {error.option_name}.{hint}") from error
    except _NO_ARGUMENTS:
        raise
    except click.UsageError as error:
        raise _UserErrorExit(" ".join(error.format_message().split())) from error


class Command(click.Command):
    """A click command with the behaviour described in this module."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        settings = {**_CONTEXT_SETTINGS, **(kwargs.pop("context_settings", None) or {})}
        super().__init__(*args, context_settings=settings, **kwargs)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the command line; see `click.Command.make_context`."""
        with _one_sentence():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; see `click.Command.invoke`."""
        with _one_sentence():
            return super().invoke(ctx)


class Group(Command, click.Group):
    """A click group with the behaviour described in this module, for its sub-commands too."""

    command_class = Command
    group_class = type


def command(name: str | None = None, **attrs: Any) -> Callable[[Callable[..., Any]], Command]:
    """Make a command: `click.command` plus both option spellings and errors in one sentence.

    A `dnnlib.UserError` that leaves the function, and every error in the command line, is printed
    as `Error: <sentence>` on stderr; the exit code is 2.
    """
    return click.command(name, cls=Command, **attrs)


def group(name: str | None = None, **attrs: Any) -> Callable[[Callable[..., Any]], Group]:
    """Make a group of commands that behave as those of `command`."""
    return click.group(name, cls=Group, **attrs)


class _Integers(click.ParamType):
    """Integers and inclusive ranges: `1,4-6` is [1, 4, 5, 6].

    Args:
        name: What they are, for messages: "seeds".
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[int]:
        if not isinstance(value, str):
            return [int(v) for v in value]
        numbers: list[int] = []
        for part in value.split(","):
            match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
            if match is None:
                self.fail(
                    f"{value!r} is not a list of {self.name} such as 0-35 or 1,4-6", param, ctx
                )
            first, last = int(match[1]), int(match[2] or match[1])
            if last < first:
                self.fail(f"the range {part.strip()!r} ends before it starts", param, ctx)
            if last >= 2**32:
                self.fail(f"{last} is not below 2**32", param, ctx)
            if len(numbers) + last - first + 1 > MAX_SEEDS:
                self.fail(f"{value!r} names more than {MAX_SEEDS:,} {self.name}", param, ctx)
            numbers.extend(range(first, last + 1))
        return numbers


class _Size(click.ParamType):
    """One integer, or WIDTHxHEIGHT; the value is (height, width) as everywhere in Python."""

    name = "size"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if not isinstance(value, str):
            return (int(value), int(value)) if isinstance(value, int) else tuple(value)
        match = re.fullmatch(r"\s*(\d{1,9})\s*(?:[xX]\s*(\d{1,9})\s*)?", value)
        if match is None:
            self.fail(f"{value!r} is not a size such as 512 or 640x480 (WIDTHxHEIGHT)", param, ctx)
        width, height = int(match[1]), int(match[2] or match[1])
        if width == 0 or height == 0:
            self.fail(f"{value!r} is an empty picture; sizes start at 1", param, ctx)
        return height, width


class _Region(click.ParamType):
    """Four numbers x0,y0,x1,y1 in units of the image; each an integer, a decimal or a ratio."""

    name = "region"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Fraction, ...]:
        if not isinstance(value, str):
            region = tuple(Fraction(v) for v in value)
        else:
            # The length is bounded because Fraction("1e999999999") would fill the memory.
            number = re.compile(r"\s*[-+]?(\d{1,18}(\.\d{0,18})?|\.\d{1,18})(/\d{1,18})?\s*")
            parts = value.split(",")
            if len(parts) != 4 or not all(number.fullmatch(part) for part in parts):
                self.fail(f"{value!r} is not a region such as 0,0,1,1 or -1/2,0,0.5,1", param, ctx)
            try:
                region = tuple(self._number(part) for part in parts)
            except ZeroDivisionError:
                self.fail(f"{value!r} divides by zero", param, ctx)
        x0, y0, x1, y1 = region
        if x0 >= x1 or y0 >= y1:
            self.fail(
                f"the region {value!r} has no area: it is x0,y0,x1,y1 with x0 < x1 and y0 < y1",
                param,
                ctx,
            )
        return region

    @staticmethod
    def _number(text: str) -> Fraction:
        numerator, _slash, denominator = text.partition("/")
        return Fraction(numerator.strip()) / Fraction(denominator.strip() or 1)


class FiniteRange(click.FloatRange):
    """As `click.FloatRange`, but finite in float32, the numbers that networks compute with.

    click lets `nan` through any range, because comparing with it is always false.
    """

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        return _finite(self, super().convert(value, param, ctx), param, ctx)


class _FiniteFloat(click.ParamType):
    """Any number that is finite in float32."""

    name = "float"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        return _finite(self, click.FLOAT.convert(value, param, ctx), param, ctx)


def _finite(
    kind: click.ParamType,
    number: float,
    param: click.Parameter | None,
    ctx: click.Context | None,
) -> float:
    if not math.isfinite(number):
        kind.fail(f"'{number}' is not a finite number", param, ctx)
    if abs(number) > _MAX_FLOAT:
        kind.fail(f"'{number}' is too large a number, the largest is {_MAX_FLOAT:.1g}", param, ctx)
    return number


class CommaList(click.ParamType):
    """Words separated by commas; an empty string or `none` is the empty list.

    Args:
        choices: The words that are allowed; None = any.
    """

    name = "list"

    def __init__(self, choices: Sequence[str] | None = None) -> None:
        self.choices = choices

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[str]:
        if not isinstance(value, str):
            return list(value)
        if value.strip().lower() in ("", "none"):
            return []
        words = [word.strip() for word in value.split(",")]
        for word in words:
            if not word:
                self.fail(f"{value!r} has an empty entry", param, ctx)
            if self.choices is not None and word not in self.choices:
                allowed = ", ".join(self.choices) or "none"
                self.fail(f"{word!r} is not one of {allowed}", param, ctx)
        return words


class _Device(click.ParamType):
    """auto, cpu, cuda, cuda:N or mps; whether the device exists is asked where torch is loaded."""

    name = "device"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "auto|cpu|cuda|mps"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", str(value)) is None:
            self.fail(f"{value!r} is not one of auto, cpu, cuda, cuda:N, mps", param, ctx)
        return str(value)


SEEDS = _Integers("seeds")
CLASSES = _Integers("classes")
LAYERS = _Integers("layers")
SIZE = _Size()
REGION = _Region()
FINITE_FLOAT = _FiniteFloat()
COMMA_LIST = CommaList()
DEVICE = _Device()


def device_option(func: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--device auto|cpu|cuda|mps` (default auto = the fastest that is there) to a command."""
    return click.option(
        "--device",
        type=DEVICE,
        default="auto",
        help="Where to compute; auto = the fastest there is.",
    )(func)


def dtype_option(func: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--dtype fp32|bf16|fp16|auto` (parameter `dtype`, None if not given) to a command.

    `torch_utils.precision.resolve_dtype` turns it into the precision to compute in.
    """
    return click.option(
        "--dtype",
        type=click.Choice(["fp32", "bf16", "fp16", "auto"]),
        default=None,
        show_default="the network's own, which is fp32 on a CPU",
        help="Precision of the synthesis network; auto = the fastest that the device has "
        "instructions for.",
    )(func)


class _Detector(click.ParamType):
    """NAME=PATH of a feature detector; the value is the pair (name, path)."""

    name = "detector"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        if not isinstance(value, str):
            return tuple(value)
        name, equals, path = value.partition("=")
        if not equals or name not in DETECTOR_NAMES:
            self.fail(
                f"{value!r} is not NAME=PATH with NAME one of {', '.join(DETECTOR_NAMES)}",
                param,
                ctx,
            )
        if not Path(path).is_file():
            self.fail(f"{value!r}: there is no file {path!r}", param, ctx)
        return name, path


DETECTOR = _Detector()


def detector_option(func: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--detector NAME=PATH`, repeatable, to a command that looks through a detector.

    The function gets a dict from name to path as the parameter `detectors`; of two paths for one
    name the last counts.
    """
    return click.option(
        "--detector",
        "detectors",
        type=DETECTOR,
        multiple=True,
        metavar="NAME=PATH",
        callback=lambda _ctx, _param, pairs: dict(pairs),
        help=f"File of a feature detector ({', '.join(DETECTOR_NAMES)}), for machines without "
        "network; may be given for each.",
    )(func)


def allow_code_option(func: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flag `--allow-code` (parameter `allow_code`) to a command that reads networks."""
    return click.option(
        "--allow-code",
        is_flag=True,
        help="Run the file's own code if it contains something unknown; only for trusted files.",
    )(func)


def note(message: str) -> None:
    """Print a line on stderr, apart from the results on stdout."""
    click.echo(message, err=True)


def warn(message: str) -> None:
    """Print `Warning: <message>` on stderr."""
    click.echo(f"Warning: {message}", err=True)


def require_outdir(outdir: str, option: str = "--outdir") -> None:
    """Raise a `UserError` if no folder is named.

    An empty name would be the working folder, which nobody means by an unset variable.
    """
    if not outdir:
        raise UserError(f"{option}= names no folder; use {option}=. for the one you are in.")


def make_outdir(outdir: str, option: str = "--outdir") -> Path:
    """Make the folder that a command writes to, where it is missing.

    Raises:
        UserError: It cannot be made, or is not a folder.
    """
    require_outdir(outdir, option)
    folder = Path(outdir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot make {option}={outdir}: {error.strerror}.") from error
    return folder
