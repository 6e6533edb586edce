"""Phases of a training iteration: which network is trained with which loss, and how often."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

import dnnlib
from torch_utils import distributed

Round = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""What a phase reads at once: real_img, real_c, gen_z, gen_c (see StyleGAN2Loss)."""


class Loss(Protocol):
    """Anything that adds the gradients of a named phase to `.grad`, such as StyleGAN2Loss."""

    def accumulate_gradients(
        self,
        phase: str,
        real_img: torch.Tensor,
        real_c: torch.Tensor,
        gen_z: torch.Tensor,
        gen_c: torch.Tensor,
        sync: bool,
        gain: float,
    ) -> None:
        """See StyleGAN2Loss.accumulate_gradients."""


@dataclass(frozen=True)
class Phase:
    """One kind of training step.

    Attributes:
        name: Name that the loss knows: Gmain, Greg, Gboth, Dmain, Dreg or Dboth.
        module: The network that is trained.
        optimizer: Its optimizer; the phases of one network share it.
        interval: The phase runs in every interval-th iteration, with its loss times the interval.
    """

    name: str
    module: nn.Module
    optimizer: torch.optim.Optimizer
    interval: int = 1

    def is_due(self, batch_idx: int) -> bool:
        """Whether the phase runs in iteration batch_idx (counted from 0)."""
        return batch_idx % self.interval == 0


def build_phases(
    G: nn.Module,
    D: nn.Module,
    G_opt_kwargs: Mapping[str, Any],
    D_opt_kwargs: Mapping[str, Any],
    G_reg_interval: int | None = 4,
    D_reg_interval: int | None = 16,
    regularize_G: bool = True,
    regularize_D: bool = True,
) -> list[Phase]:
    """The phases of an iteration in their order: Gmain, Greg, Dmain, Dreg.

    Lazy regularisation (Karras et al. 2020, arXiv:1912.04958, appendix B): the regulariser runs in
    a phase of its own, every `interval`-th iteration, and the optimizer that both phases share is
    slowed down by r = interval / (interval + 1): lr r, betas^r.

    Args:
        G: Generator.
        D: Discriminator.
        G_opt_kwargs: `class_name` and arguments of G's optimizer.
        D_opt_kwargs: The same for D.
        G_reg_interval: Iterations between two path length steps; None = regularise in every step,
            in one phase Gboth.
        D_reg_interval: Iterations between two R1 steps; None = one phase Dboth.
        regularize_G: False = there is no path length penalty, and no phase nor slow-down for it.
        regularize_D: False = there is no R1 penalty.

    Raises:
        ValueError: An interval below 1.
    """
    phases = []
    for name, module, opt_kwargs, interval, regularize in (
        ("G", G, G_opt_kwargs, G_reg_interval, regularize_G),
        ("D", D, D_opt_kwargs, D_reg_interval, regularize_D),
    ):
        if interval is not None and interval < 1:
            raise ValueError(f"{name}_reg_interval must be at least 1 or None, got {interval}")
        if interval is None or not regularize:
            optimizer = build_optimizer(module, opt_kwargs)
            phases.append(Phase(name + ("both" if regularize else "main"), module, optimizer))
        else:
            optimizer = build_optimizer(module, opt_kwargs, lazy_ratio=interval / (interval + 1))
            phases.append(Phase(name + "main", module, optimizer))
            phases.append(Phase(name + "reg", module, optimizer, interval))
    return phases


def build_optimizer(
    module: nn.Module, opt_kwargs: Mapping[str, Any], lazy_ratio: float = 1
) -> torch.optim.Optimizer:
    """Construct the optimizer of a network.

    Adam and AdamW use torch's fused step on the CPU and on CUDA unless the arguments choose
    otherwise (five times as fast as the loop over parameters on one CPU core, 6.5 million
    parameters).

    Args:
        module: Network whose parameters are optimised.
        opt_kwargs: `class_name`, for example "torch.optim.Adam", and its arguments. Besides these,
            `lr_multipliers`: factors of `lr` by the names of `module.parameter_groups()`; groups
            that are not named there, and networks without groups, have the factor 1.
        lazy_ratio: Factor of `lr` and exponent of `betas`; 1 = unchanged.

    Raises:
        ValueError: A multiplier for a group that the network does not have.
    """
    kwargs = dict(opt_kwargs)
    multipliers = kwargs.pop("lr_multipliers", None) or {}
    if "lr" in kwargs:
        kwargs["lr"] = kwargs["lr"] * lazy_ratio
    if "betas" in kwargs:
        kwargs["betas"] = tuple(float(beta) ** lazy_ratio for beta in kwargs["betas"])
    params = list(module.parameters())
    groups = _parameter_groups(module, multipliers, kwargs.get("lr"))
    has_fused = kwargs.get("class_name") in ("torch.optim.Adam", "torch.optim.AdamW")
    choices = ("fused", "foreach", "capturable", "differentiable")
    if has_fused and not any(choice in kwargs for choice in choices):
        kwargs["fused"] = all(p.device.type in ("cpu", "cuda") for p in params)
    return dnnlib.util.construct_class_by_name(params=groups or params, **kwargs)


def _parameter_groups(
    module: nn.Module, multipliers: Mapping[str, float], lr: float | None
) -> list[dict[str, Any]]:
    """The optimizer's groups of parameters; empty = one group of all."""
    if not multipliers:
        return []
    found = module.parameter_groups() if hasattr(module, "parameter_groups") else {}
    groups = {name: params for name, params in found.items() if params}
    unknown = sorted(set(multipliers) - set(groups))
    if unknown or lr is None:
        raise ValueError(
            f"lr_multipliers for {', '.join(unknown or multipliers)}, but the network has the "
            f"parameter groups {', '.join(groups) or 'none'} and the learning rate is {lr}"
        )
    return [
        {"params": params, "lr": lr * multipliers.get(name, 1.0), "name": name}
        for name, params in groups.items()
    ]


def run_phase(phase: Phase, loss: Loss, rounds: Iterable[Round]) -> None:
    """Accumulate the gradients of all rounds, average them over processes, and step the optimizer.

    Losses are means over a round and sums over rounds. Gradients that are not finite are replaced
    (NaN by 0, infinities by +-1e5). The module requires gradients only inside.

    Args:
        phase: What to run.
        loss: Adds the gradients of a round.
        rounds: The batches of this process; as many in every process.
    """
    phase.optimizer.zero_grad(set_to_none=True)
    phase.module.requires_grad_(True)
    try:
        for real_img, real_c, gen_z, gen_c in rounds:
            loss.accumulate_gradients(
                phase=phase.name,
                real_img=real_img,
                real_c=real_c,
                gen_z=gen_z,
                gen_c=gen_c,
                sync=True,
                gain=phase.interval,
            )
    finally:
        phase.module.requires_grad_(False)
    distributed.all_reduce_gradients(phase.module.parameters())
    phase.optimizer.step()
