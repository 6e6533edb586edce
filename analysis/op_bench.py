"""Times of single ops with their kernels and without a compiler (`python -m analysis.op_bench`).

The calls are the larger ones of `ops/registry.py`: layers of a discriminator, of its augmentation
and of the generators. Forward, and forward with the gradients of all inputs, in turns; medians.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

import dnnlib
import dnnlib.cli

if TYPE_CHECKING:
    import torch

    from ops.registry import OpCase


@dnnlib.cli.command()
@click.argument("ops", nargs=-1)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=7,
    help="Turns of each call.",
    show_default=True,
)
@dnnlib.cli.device_option
def main(ops: Sequence[str], samples: int, device: str) -> None:
    """Measure single ops with their kernels and without a compiler, in turns.

    OPS are names such as conv_layer; none = all.
    """
    from analysis.bench import describe_machine
    from analysis.records import text_table
    from ops.registry import CASES, FUNCTIONS
    from torch_utils import host_memory, misc

    unknown = sorted(set(ops) - set(FUNCTIONS))
    if unknown:
        raise dnnlib.UserError(f"no op {unknown[0]}; there are {', '.join(FUNCTIONS)}")
    target = misc.resolve_device(device)
    host_memory.keep_freed_memory()
    print(describe_machine(target))
    print("float32; milliseconds of a call, and how many times as fast as plain PyTorch")
    table = [["call", "forward", "", "with gradients", ""]]
    for case in CASES:
        if not case.small and (not ops or case.op in ops):
            table.append([str(case), *measured(case, target, samples)])
    print(text_table(table))


def measured(case: OpCase, device: torch.device, samples: int) -> list[str]:
    """Milliseconds and ratio of the forward pass, then of forward and backward.

    Args:
        case: A call.
        device: Where it runs.
        samples: Turns of each.
    """
    from analysis.training_bench import KERNELS, PLAIN, both_ways

    forward, trained = passes(case, device)
    times = both_ways({"forward": forward, "trained": trained}, device, samples, 0.02)
    cells = []
    for ways in times.values():
        kernels, plain = ways[KERNELS].median, ways[PLAIN].median
        cells += [f"{1e3 * kernels:.3f}", f"{plain / kernels:.2f}x"]
    return cells


def passes(case: OpCase, device: torch.device) -> tuple[Callable[[], object], Callable[[], object]]:
    """A call without gradients, and one with the gradients of all its inputs that have one."""
    import torch

    tensors = case.inputs(torch.float32, device)
    op = case.bind(device=device)
    with torch.no_grad():
        direction = torch.randn_like(op(**tensors))
    leaves = {name: tensor.clone() for name, tensor in tensors.items()}
    wanted = [leaf.requires_grad_() for name, leaf in leaves.items() if name not in case.constant]

    def forward() -> object:
        with torch.no_grad():
            return op(**tensors)

    def trained() -> object:
        return torch.autograd.grad(op(**leaves), wanted, direction)

    return forward, trained


if __name__ == "__main__":
    main()
