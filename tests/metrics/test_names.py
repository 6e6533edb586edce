"""Names of metrics and the option that names detectors: what command lines take."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click.testing
import pytest

import dnnlib.cli
from dnnlib import UserError
from dnnlib.cli import DETECTOR_NAMES
from metrics import detectors, metric_main
from metrics.names import GENERATED_ONLY, METRIC_NAMES, parse_metrics
from tests.small_networks import make_generator

STYLEGAN2_ADA = {
    *("fid50k_full", "kid50k_full", "pr50k3_full", "ppl2_wend", "is50k"),
    *("fid50k", "kid50k", "pr50k3", "ppl_zfull", "ppl_wfull", "ppl_zend", "ppl_wend"),
}


def test_every_name_is_registered() -> None:
    assert set(METRIC_NAMES) == STYLEGAN2_ADA | {"fid5k", "kid5k"}
    assert set(METRIC_NAMES) <= set(metric_main.list_valid_metrics())
    assert all(map(metric_main.is_valid_metric, METRIC_NAMES))
    assert not metric_main.is_valid_metric("fid")


def test_metrics_that_need_no_images() -> None:
    """They run without a data set, the others say that they need one."""
    nothing = dict.fromkeys(DETECTOR_NAMES, "/no")
    for name in METRIC_NAMES:
        hint = "there is no such file" if name in GENERATED_ONLY else "no data set was given"
        with pytest.raises(UserError, match=hint):
            metric_main.calc_metric(name, G=make_generator(), device="cpu", detectors=nothing)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("none", ()),
        (" None ", ()),
        ("fid50k_full", ("fid50k_full",)),
        ("kid5k, fid5k,kid5k", ("kid5k", "fid5k")),
    ],
)
def test_parse_metrics(text: str, expected: tuple[str, ...]) -> None:
    assert parse_metrics(text) == expected


@pytest.mark.parametrize("text", ["fid", "fid5k,", "fid5k,none", "fid5k;kid5k"])
def test_unknown_names_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="there is no metric .* some of fid50k_full, .*kid5k"):
        parse_metrics(text)


def test_names_load_no_torch() -> None:
    code = "import sys, metrics.names; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


@dnnlib.cli.command()
@dnnlib.cli.detector_option
def show(detectors: dict[str, str]) -> None:
    """Print the option's value."""
    print(detectors)


def test_detector_option(tmp_path: Path) -> None:
    file = tmp_path / "a=b.pt"
    file.write_bytes(b"")
    runner = click.testing.CliRunner()
    assert runner.invoke(show, []).output.strip() == "{}"
    names = dnnlib.cli.DETECTOR_NAMES
    found = runner.invoke(show, [f"--detector={name}={file}" for name in names])
    assert found.output.strip() == str({name: str(file) for name in names})
    for value, message in (
        ("vgg16", "'vgg16' is not NAME=PATH with NAME one of inception-2015-12-05, vgg16"),
        (f"vgg={file}", "is not NAME=PATH"),
        ("vgg16=/not/there.pt", "there is no file '/not/there.pt'"),
    ):
        refused = runner.invoke(show, ["--detector", value])
        assert refused.exit_code == 2 and message in refused.output
        assert refused.output.count("\n") == 1


def test_option_and_detectors_agree_on_the_names() -> None:
    assert tuple(detectors.DETECTOR_URLS) == dnnlib.cli.DETECTOR_NAMES
