"""Work and parameters of generators, side by side (`explore.py cost`; the paper's table 1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch

import dnnlib
import networks
from analysis.records import text_table
from networks import cost, paper_cost
from networks.presets import get_preset

BASELINE = "stylegan2"
"""The preset that all others are compared with."""

PAPER_NOTE = (
    "Paper convention: a formula over the paper's lattices, widths and layer counts (trunk and "
    "hypernetwork only; convolutions at their output resolution), not a sum over this project's "
    "modules. Parameters of the multi-scale rows belong to another structure than their MACs, "
    "because no one structure gives both published columns."
)
MODULE_NOTE = (
    "Not a row of the paper: its rule applied to the module (hidden layers without coordinate "
    "inputs, mapping network and predicted factors)."
)


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Sizes that all presets share.

    Attributes:
        resolution: Side of the image.
        channel_base, channel_max: Widths, see the synthesis networks.
        map_depth, w_dim: Of the mapping network; None = the preset's own.
    """

    resolution: int
    channel_base: int = 32768
    channel_max: int = 512
    map_depth: int | None = None
    w_dim: int | None = None


@dataclasses.dataclass(frozen=True)
class CostTable:
    """What one generator costs per image.

    Attributes:
        name: The preset.
        macs: Multiply-accumulates by the chosen convention.
        params: Learned numbers.
        layers: One mapping of column to value per line.
        published_gmacs: What the paper reports for this row and resolution, if it does.
        note: How to read the numbers; "" = as `networks.cost` says.
    """

    name: str
    macs: int
    params: int
    layers: list[dict[str, Any]]
    published_gmacs: float | None = None
    note: str = ""


def build(preset: str, sizes: Architecture, device: str = "meta") -> torch.nn.Module:
    """The generator of a preset, unconditional and RGB.

    Args:
        preset: Its name.
        sizes: Its sizes.
        device: Where its weights are; "meta" = nowhere, without memory for them.

    Raises:
        dnnlib.UserError: The preset does not come in this size.
    """
    found = get_preset(preset)
    depth = sizes.map_depth or found.map_depth or (8 if preset == BASELINE else 2)
    try:
        with torch.device(device):
            return networks.build_generator(
                preset,
                z_dim=512,
                c_dim=0,
                w_dim=sizes.w_dim or found.w_dim or 512,
                img_resolution=sizes.resolution,
                img_channels=3,
                mapping_kwargs={"num_layers": depth},
                channel_base=sizes.channel_base,
                channel_max=sizes.channel_max,
            ).requires_grad_(False)
    except ValueError as error:
        raise dnnlib.UserError(
            f"--generator={preset} with --resolution={sizes.resolution}: {error}"
        ) from error


def count(preset: str, sizes: Architecture, convention: str) -> CostTable:
    """Counts one generator.

    Args:
        preset: Its name.
        sizes: Its sizes; the paper's rows have sizes of their own, but for the resolution.
        convention: A name of `networks.cost.CONVENTIONS`.

    Raises:
        dnnlib.UserError: The preset does not come in this size.
    """
    if convention == "paper" and preset in paper_cost.PAPER_PRESETS:
        lines = paper_cost.paper_cost(preset, sizes.resolution)
        layers = [_row(line.name, line.points, line.params, macs=line.macs) for line in lines]
        macs, params = sum(line.macs for line in lines), sum(line.params for line in lines)
    else:
        costs = cost.generator_cost(build(preset, sizes))
        layers = [_module_row(layer, convention) for layer in costs]
        macs, params = cost.total(costs, convention), cost.num_params(costs)
    published, note = None, ""
    if convention == "paper":
        published = paper_cost.PUBLISHED_GMACS.get(preset, {}).get(sizes.resolution)
        in_paper = preset in paper_cost.PAPER_PRESETS or preset == BASELINE
        note = PAPER_NOTE if in_paper else MODULE_NOTE
    return CostTable(preset, macs, params, layers, published, note)


def report(tables: Sequence[CostTable], sizes: Architecture, convention: str) -> dict[str, Any]:
    """What `cost.json` holds; `generator` and `total` are those of the first table."""
    return {
        "generator": tables[0].name,
        "total": {"macs": tables[0].macs, "params": tables[0].params},
        "convention": convention,
        **dataclasses.asdict(sizes),
        "generators": {
            table.name: {
                "total": {"macs": table.macs, "params": table.params},
                "published_gmacs": table.published_gmacs,
                "note": table.note,
                "layers": table.layers,
            }
            for table in tables
        },
    }


def layer_text(table: CostTable) -> str:
    """The layers of one generator as a text table, with a last line of sums."""
    columns = [name for name in table.layers[0] if name not in ("layer", "points", "params")]
    rows = [["layer", "points", "params", *(f"{name}, GMAC" for name in columns)]]
    for layer in table.layers:
        points = "once" if layer["points"] is None else "{1}x{0}".format(*layer["points"])
        rows.append(
            [layer["layer"], points, f"{layer['params']:,}"]
            + [_gmacs(layer[name]) for name in columns]
        )
    sums = [_gmacs(sum(layer[name] for layer in table.layers)) for name in columns]
    rows.append(["total", "", f"{table.params:,}", *sums])
    return text_table(rows)


def summary_text(tables: Sequence[CostTable]) -> str:
    """One line per generator, with what the paper reports where it does."""
    baseline = next((table.macs for table in tables if table.name == BASELINE), None)
    rows = [["generator", "params", "GMAC", f"of {BASELINE}", "published GMAC"]]
    for table in tables:
        share = "" if baseline is None else f"{table.macs / baseline:.2f}"
        published, reported = table.published_gmacs, ""
        if published is not None:
            reported = f"{published:.2f} ({table.macs / 1e9 / published - 1:+.1%})"
        rows.append([table.name, f"{table.params:,}", _gmacs(table.macs), share, reported])
    used = [any(cells[1:]) for cells in zip(*rows)]
    return text_table([[cell for cell, use in zip(row, used) if use] for row in rows])


def _gmacs(macs: int) -> str:
    return f"{macs / 1e9:.4f}" if macs < 1e9 else f"{macs / 1e9:.3f}"


def _row(name: str, points: tuple[int, int] | None, params: int, **macs: int) -> dict[str, Any]:
    return {"layer": name, "points": points, "params": params, **macs}


def _module_row(layer: cost.LayerCost, convention: str) -> dict[str, Any]:
    if convention == "paper":
        return _row(layer.name, layer.points, layer.params, macs=layer.paper)
    macs: Mapping[str, int] = {"weights": layer.weights, "full": layer.full, "split": layer.split}
    return _row(layer.name, layer.points, layer.params, **macs)
