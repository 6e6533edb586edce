"""The plain order of operations gives the same pictures, and no op of the networks escapes it."""

from __future__ import annotations

import pytest
import torch

import networks.inr_block
import networks.published_block
import ops.inr_layer
from analysis import published_order as plain
from ops import _dispatch
from tests.analysis.tiny_networks import make
from tests.compare import assert_same_numbers


@pytest.mark.parametrize(
    "preset", ["inr-gan", "inr-gan-bil", "inr-gan-published", "inr-gan-vanilla"]
)
def test_same_pictures(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    G = make(preset)
    z = torch.randn(2, G.z_dim)
    expected = G(z, None, noise_mode="const", force_fp32=True)
    layers = []
    original = plain.inr_layer
    monkeypatch.setattr(plain, "inr_layer", lambda *a, **k: layers.append(1) or original(*a, **k))
    chosen = []
    monkeypatch.setattr(_dispatch, "choose", lambda op, *a: chosen.append(op) or ("ref", []))
    with plain.published_order():
        actual = G(z, None, noise_mode="const", force_fp32=True)
    assert_same_numbers(actual, expected)
    assert len(layers) > 3 and chosen == []


def test_everything_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(vars(networks.inr_block))
    with pytest.raises(RuntimeError, match="on the way"), plain.published_order():
        assert networks.inr_block.inr_block is plain.inr_block
        assert networks.inr_block.inr_weights is not before["inr_weights"]
        raise RuntimeError("on the way")
    assert dict(vars(networks.inr_block)) == before


def test_under_autocast_products_are_in_low_precision() -> None:
    weight, x, bias = torch.randn(2, 5, 3), torch.randn(2, 3, 4, 4), torch.randn(5)
    expected = ops.inr_layer.inr_layer(weight, x, bias, act="lrelu", clamp=2)
    with torch.autocast("cpu", torch.bfloat16):
        y = plain.inr_layer(weight, x, bias, act="lrelu", clamp=2)
    assert y.dtype == torch.bfloat16
    assert_same_numbers(y.float(), expected, 0.02)
