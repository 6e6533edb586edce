"""Counted work against PyTorch's own counter, published totals, and hand-made sums."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import networks
from networks import cost, hyper_block, published_block
from networks.presets import PRESETS
from networks.stylegan2 import SynthesisNetwork
from ops.inr_block import plain as plain_block
from ops.inr_layer import AxisTaps, CoordFeatures
from ops.inr_layer.reference import inr_layer as defined_layer

PYRAMIDS = ("inr-gan", "inr-gan-bil", "inr-gan-published", "inr-gan-bil-published")


def make(preset: str, resolution: int = 256, device: str = "meta", **kwargs) -> torch.nn.Module:
    """A generator at full width on the meta device."""
    found = PRESETS[preset]
    depth = found.map_depth or (8 if preset == "stylegan2" else 2)
    with torch.device(device):
        G = networks.build_generator(
            preset,
            z_dim=512,
            c_dim=0,
            w_dim=found.w_dim or 512,
            img_resolution=resolution,
            img_channels=3,
            mapping_kwargs={"num_layers": depth},
            **kwargs,
        )
    return G.eval().requires_grad_(False)


def counted_macs(G: torch.nn.Module, **view) -> float:
    """What PyTorch counts while one image is drawn; it counts 2 operations per product."""
    z = torch.zeros([1, G.z_dim], device="meta")
    with FlopCounterMode(display=False) as counter:
        if view:
            G.synthesis.render(G.mapping(z, None), **view)
        else:
            G(z, None, noise_mode="const")
    return counter.get_total_flops() / 2


def plain_layer(
    weight: torch.Tensor,
    x: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    *,
    taps: tuple[AxisTaps, AxisTaps] | None = None,
    coords: CoordFeatures | None = None,
    **options,
) -> torch.Tensor:
    """`inr_layer` in the plain order: upsample (by reading, no product), concatenate, multiply."""
    if taps is not None:
        rows, cols = taps
        x = x[:, :, :1, :1].expand(-1, -1, len(rows.index), len(cols.index))
    return defined_layer(weight, x, bias, coords=coords, **options)


@contextmanager
def plain_order() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (plain_block, published_block, hyper_block):
            patch.setattr(module, "inr_layer", plain_layer)
        yield


@pytest.mark.parametrize("resolution", [64, 256])
@pytest.mark.parametrize("preset", PYRAMIDS)
def test_full_is_what_pytorch_counts_in_the_plain_order(preset: str, resolution: int) -> None:
    G = make(preset, resolution)
    with plain_order():
        expected = counted_macs(G)
    assert cost.total(cost.generator_cost(G), "full") == pytest.approx(expected, rel=0.002)


@pytest.mark.parametrize("preset", PYRAMIDS)
def test_split_is_what_pytorch_counts_on_the_fast_path(preset: str) -> None:
    G = make(preset)
    costs = cost.generator_cost(G)
    assert cost.total(costs, "split") == pytest.approx(counted_macs(G), rel=0.005)
    assert cost.total(costs, "split") < 0.75 * cost.total(costs, "full")


@pytest.mark.parametrize("resolution", [64, 256])
def test_stylegan2_is_what_pytorch_counts(resolution: int) -> None:
    G = make("stylegan2", resolution)
    assert cost.total(cost.generator_cost(G)) == pytest.approx(counted_macs(G), rel=0.002)


@pytest.mark.parametrize(
    "preset", ["inr-gan-vanilla", "inr-latent", "inr-hyper", "inr-fourier", "inr-fmm"]
)
def test_the_papers_models_are_what_pytorch_counts(preset: str) -> None:
    G = make(preset, 64)
    costs = cost.generator_cost(G)
    # PyTorch takes the phases of the Fourier features for additions.
    phases = sum(layer.full for layer in costs if layer.name.endswith(".frequencies"))
    assert cost.total(costs) - phases == pytest.approx(counted_macs(G), rel=0.005)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_all_parameters_are_counted_once(preset: str) -> None:
    G = make(preset)
    params = sum(parameter.numel() for parameter in G.parameters())
    assert cost.num_params(cost.generator_cost(G)) == params


@pytest.mark.parametrize(
    ("preset", "resolution", "gmacs", "params"),
    [
        ("inr-gan-published", 256, 14.95, 72.44e6),
        ("inr-gan-bil-published", 256, 14.95, 72.44e6),
        ("inr-gan-vanilla", 128, 45.31, 139.859e6),
        ("inr-gan-vanilla", 256, 71.11, 114.345e6),
        ("inr-gan-vanilla", 1024, 80.43, 125.954e6),
        ("stylegan2", 256, 45.4, 30.034e6),
        ("stylegan2", 1024, 75.4, 30.370e6),
    ],
)
def test_honest_totals(preset: str, resolution: int, gmacs: float, params: float) -> None:
    """Measured on the published code of each."""
    costs = cost.generator_cost(make(preset, resolution))
    assert cost.total(costs) / 1e9 == pytest.approx(gmacs, rel=0.001)
    assert cost.num_params(costs) == pytest.approx(params, rel=1e-4)


@pytest.mark.parametrize(
    ("resolution", "values", "shared"),
    [(128, 130051, 3932160), (256, 106502, 2555904), (1024, 117788, 2596864)],
)
def test_vanilla_modules_emit_and_share_what_the_authors_do(
    resolution: int, values: int, shared: int
) -> None:
    G = make("inr-gan-vanilla", resolution)
    assert G.synthesis.num_theta == values
    layers = [layer for layer in cost.generator_cost(G) if ".steps." in layer.name]
    assert cost.num_params(layers) == shared


def test_split_work_of_the_published_model() -> None:
    costs = cost.generator_cost(make("inr-gan-published"))
    products = sum(
        layer.split - layer.weights
        for layer in costs
        if layer.points is not None and "torgb" not in layer.name
    )
    assert products / 1e9 == pytest.approx(10.8, rel=0.005)
    assert sum(layer.weights for layer in costs) / 1e9 == pytest.approx(0.09, abs=0.005)


@pytest.mark.parametrize(("resolution", "gmacs"), [(256, 84.36), (1024, 143.18)])
def test_stylegan2_in_the_papers_convention(resolution: int, gmacs: float) -> None:
    costs = cost.generator_cost(make("stylegan2", resolution))
    assert cost.total(costs, "paper") / 1e9 == pytest.approx(gmacs, rel=0.01)


def test_the_papers_rule_on_modules_gives_its_single_scale_rows() -> None:
    for preset, gmacs in (("inr-hyper", 88.124), ("inr-fourier", 105.505), ("inr-fmm", 103.183)):
        total = cost.total(cost.generator_cost(make(preset)), "paper") / 1e9
        assert total == pytest.approx(gmacs, abs=0.001)


@pytest.mark.parametrize("convention", ["full", "split"])
@pytest.mark.parametrize(
    ("preset", "limit"), [("inr-gan", 0.5), ("inr-gan-published", 0.5), ("inr-gan-bil", 0.75)]
)
def test_thumbnails_cost_less(preset: str, limit: float, convention: str) -> None:
    G = make(preset)
    whole = cost.total(cost.render_cost(G), convention)
    assert whole == cost.total(cost.generator_cost(G), convention)
    assert cost.total(cost.render_cost(G, 64, lod="fixed"), convention) <= limit * whole
    assert cost.total(cost.render_cost(G, 64, lod="scaled"), convention) <= 0.1 * whole


def test_measuring_constants_costs_a_training_grid() -> None:
    G = make("inr-gan-bil-published")
    once = cost.generator_cost(G)
    points = cost.total(once) - sum(layer.weights for layer in once)
    mapping = sum(layer.full for layer in once if layer.points is None)
    assert cost.total(cost.render_cost(G)) == cost.total(once) + points - mapping


@pytest.mark.parametrize("preset", ["inr-gan", "inr-gan-bil"])
@pytest.mark.parametrize("lod", ["fixed", "scaled"])
def test_other_views_are_what_pytorch_counts(preset: str, lod: str) -> None:
    G = make(preset)
    view = {"size": (96, 160), "region": (-0.25, 0.5, 1.25, 1), "lod": lod}
    expected = counted_macs(G, **view, tile_budget=2**40)
    assert cost.total(cost.render_cost(G, **view), "split") == pytest.approx(expected, rel=0.02)


def test_a_tiny_network_by_hand() -> None:
    G = networks.build_generator(
        "inr-gan",
        z_dim=3,
        c_dim=0,
        w_dim=5,
        img_resolution=16,
        img_channels=1,
        mapping_kwargs={"num_layers": 1},
        channel_base=16 * 7,
        channel_max=7,
        rank=2,
    )
    costs = {layer.name: layer for layer in cost.generator_cost(G)}
    assert costs["mapping.fc0"].full == 3 * 5
    layer = costs["b16.layers.0"]
    below, own = G.synthesis.blocks()[-2:]
    coords = own.layers[0].in_channels - below.layers[0].out_channels
    weights = 5 * 2 * (7 + coords + 7) + 2 * (7 + coords) * 7
    assert layer.points == (16, 16)
    assert layer.weights == weights
    assert layer.full == weights + (7 + coords) * 7 * 256
    assert layer.split == weights + 7 * 7 * 64 + coords * 7 * 256
    assert layer.paper == 5 * 2 * (7 + coords + 7) + 7 * 7 * 256


def test_the_papers_billions_need_no_memory() -> None:
    costs = cost.generator_cost(make("inr-fourier"))
    assert cost.num_params(costs) > 2.4e9


def test_unknown_networks_are_refused() -> None:
    class Strange(torch.nn.Module):
        """Neither of the kinds that can be counted."""

    assert not isinstance(Strange(), SynthesisNetwork)
    with pytest.raises(ValueError, match="Strange cannot be counted"):
        cost.synthesis_cost(Strange(), [(1, 1)])
