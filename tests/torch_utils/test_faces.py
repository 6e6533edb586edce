"""torch_utils.ops: the names that code written for StyleGAN2-ADA imports."""

from __future__ import annotations

import importlib

import pytest

from ops.conv2d import gradfix
from torch_utils.ops import (
    bias_act,
    conv2d_gradfix,
    conv2d_resample,
    fma,
    grid_sample_gradfix,
    upfirdn2d,
)


@pytest.mark.parametrize(
    ("face", "op", "names"),
    [
        (bias_act, "bias_act", ["activation_funcs", "bias_act"]),
        (
            upfirdn2d,
            "upfirdn2d",
            ["downsample2d", "filter2d", "setup_filter", "upfirdn2d", "upsample2d"],
        ),
        (conv2d_resample, "conv2d_resample", ["conv2d_resample"]),
        (conv2d_gradfix, "conv2d", ["conv2d", "conv_transpose2d", "no_weight_gradients"]),
        (fma, "fma", ["fma"]),
        (grid_sample_gradfix, "grid_sample", ["grid_sample"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_same_objects_as_in_ops(face: object, op: str, names: list[str]) -> None:
    module = importlib.import_module(f"ops.{op}")
    for name in names:
        assert getattr(face, name) is getattr(module, name)


def test_conv2d_switches_reach_the_op(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradfix, "enabled", False)
    conv2d_gradfix.enabled = True
    assert gradfix.enabled is True and conv2d_gradfix.enabled is True
    assert conv2d_gradfix.weight_gradients_disabled is False
    with conv2d_gradfix.no_weight_gradients():
        assert conv2d_gradfix.weight_gradients_disabled is True
        conv2d_gradfix.weight_gradients_disabled = False
        assert gradfix.weight_gradients_disabled is False
    with pytest.raises(ZeroDivisionError), conv2d_gradfix.no_weight_gradients():
        _ = 1 / 0
    assert conv2d_gradfix.weight_gradients_disabled is False


def test_grid_sample_switch_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid_sample_gradfix, "enabled", True)
    assert grid_sample_gradfix.enabled is True
