"""dnnlib.cli: both spellings, parameter types, one sentence and exit code 2 for every mistake."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import click
import hypothesis
import hypothesis.strategies as st
import pytest
from click.testing import CliRunner, Result

import dnnlib
from dnnlib import cli


@cli.command()
@click.option("--noise-mode", type=click.Choice(["const", "random"]), default="const")
@click.option("--max_images", type=click.IntRange(min=1), default=3)
@click.option("--seeds", type=cli.SEEDS)
@click.option("--size", type=cli.SIZE, default="16")
@click.option("--region", type=cli.REGION, default="0,0,1,1")
@click.option("--metrics", type=cli.CommaList(["fid50k_full", "kid50k"]), default="none")
@click.option("--tags", type=cli.COMMA_LIST)
@cli.device_option
def example(**options: Any) -> None:
    """An example."""
    if options["max_images"] == 13:
        raise dnnlib.UserError("13 images are too many; use at most 12")
    click.echo(repr(options))


def run(*args: str) -> Result:
    return CliRunner().invoke(example, list(args))


def options(*args: str) -> dict[str, Any]:
    result = run(*args)
    assert result.exit_code == 0, result.output
    return eval(result.output, {"Fraction": Fraction})


def error(*args: str) -> str:
    result = run(*args)
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
    return result.stderr


def test_both_spellings() -> None:
    for dash in "-_":
        args = (f"--noise{dash}mode=random", f"--max{dash}images", "5")
        assert options(*args)["noise_mode"] == "random"
        assert options(*args)["max_images"] == 5


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("7", [7]), ("0-3", [0, 1, 2, 3]), ("1,4-6", [1, 4, 5, 6]), ("5,5, 2-2", [5, 5, 2])],
)
def test_seeds(text: str, seeds: list[int]) -> None:
    assert options(f"--seeds={text}")["seeds"] == seeds


@pytest.mark.parametrize("text", ["", "x", "1-", "-1", "3-1", "1,,2", "1.5", "0-99999999999"])
def test_bad_seeds(text: str) -> None:
    assert "--seeds" in error(f"--seeds={text}")


@hypothesis.given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=5))
def test_seeds_round_trip(seeds: list[int]) -> None:
    assert cli.SEEDS.convert(",".join(map(str, seeds)), None, None) == seeds
    assert cli.SEEDS.convert(seeds, None, None) == seeds


def test_size_is_height_first_inside() -> None:
    assert options()["size"] == (16, 16)
    assert options("--size=640x480")["size"] == (480, 640)


@pytest.mark.parametrize("text", ["0", "4x0", "-4", "4x", "4x4x4", "big", "4.5"])
def test_bad_size(text: str) -> None:
    assert text in error(f"--size={text}")


def test_region_is_exact() -> None:
    region = options("--region=-1/2,.1,1.5/3,2")["region"]
    assert region == (Fraction(-1, 2), Fraction(1, 10), Fraction(1, 2), Fraction(2))
    assert options("--region", "-1,0,1,1")["region"][0] == -1


@pytest.mark.parametrize(
    "text",
    ["0,0,1", "0,0,0,1", "0,1/2,1,0.5", "0,0,1,nan", "0,0,1,1/0", "0,0,1,1e999999999", "1,0,0,1"],
)
def test_bad_region(text: str) -> None:
    assert text in error(f"--region={text}")


def test_comma_list() -> None:
    assert options()["metrics"] == [] and options()["tags"] is None
    assert options("--metrics=kid50k,fid50k_full")["metrics"] == ["kid50k", "fid50k_full"]
    assert options("--tags=a, b")["tags"] == ["a", "b"]
    assert "fid50k_full, kid50k" in error("--metrics=fid5k")
    assert "empty" in error("--tags=a,,b")


@pytest.mark.parametrize("name", ["auto", "cpu", "cuda", "cuda:1", "mps"])
def test_device(name: str) -> None:
    assert options(f"--device={name}")["device"] == name


@pytest.mark.parametrize(
    ("arg", "part"),
    [
        ("--device=gpu", "'gpu' is not one of auto, cpu"),
        ("--noise-mode=loud", "'const', 'random'"),
        ("--max-images=0", "'--max_images': 0"),
        ("--max-image=1", "Did you mean --max-images?"),
        ("--nothing-like-it", "--nothing-like-it"),
        ("stray", "stray"),
        ("--max-images=13", "13 images are too many; use at most 12"),
    ],
)
def test_errors_are_one_sentence(arg: str, part: str) -> None:
    assert part in error(arg)


def test_other_exceptions_are_not_hidden() -> None:
    @cli.command()
    def broken() -> None:
        raise ZeroDivisionError

    assert isinstance(CliRunner().invoke(broken).exception, ZeroDivisionError)


def test_help_shows_defaults() -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert "[default: const]" in result.output and "auto|cpu|cuda|mps" in result.output


def test_groups() -> None:
    @cli.group()
    def tools() -> None:
        """Several commands."""

    @tools.command()
    @click.option("--how-many", type=int, default=1)
    def render_all(how_many: int) -> None:
        if how_many > 1:
            raise dnnlib.UserError("at most 1")
        click.echo("fine")

    runner = CliRunner()
    assert runner.invoke(tools, ["render_all", "--how_many=1"]).output == "fine\n"
    failed = runner.invoke(tools, ["render-all", "--how-many=2"])
    assert failed.exit_code == 2 and failed.stderr == "Error: at most 1\n"
    unknown = runner.invoke(tools, ["other"])
    assert unknown.exit_code == 2 and "'other'" in unknown.stderr
    assert "render-all" in runner.invoke(tools, []).output


def test_needs_neither_torch_nor_numpy() -> None:
    root = Path(dnnlib.__file__).parents[1]
    code = (
        "import sys, dnnlib.cli, dnnlib.progress, dnnlib.util\n"
        "assert not {'torch', 'numpy', 'requests', 'tqdm', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=root)


@pytest.mark.parametrize("kind", [cli.FINITE_FLOAT, cli.FiniteRange(min=0)])
@pytest.mark.parametrize("text", ["1e39", "3.4e38", "1e308"])
def test_numbers_that_overflow_in_a_network_are_refused(kind: click.ParamType, text: str) -> None:
    assert kind.convert("1e38", None, None) == 1e38
    with pytest.raises(click.BadParameter, match="too large a number"):
        kind.convert(text, None, None)


@pytest.mark.parametrize(
    ("kind", "noun"), [(cli.SEEDS, "seeds"), (cli.CLASSES, "classes"), (cli.LAYERS, "layers")]
)
def test_lists_of_integers_are_called_what_they_are(kind: click.ParamType, noun: str) -> None:
    assert kind.convert("1,3-4", None, None) == [1, 3, 4]
    for text in ("-1", "0-4000000000"):
        with pytest.raises(click.BadParameter, match=noun):
            kind.convert(text, None, None)


def test_an_empty_folder_name_is_not_the_working_folder() -> None:
    with pytest.raises(dnnlib.UserError, match=r"--outdir= names no folder; use --outdir=\."):
        cli.make_outdir("")
    assert cli.make_outdir(".") == Path(".")
