"""Makes the network classes persistent: their snapshots carry the portable source text.

The modules themselves import only torch, numpy and each other (see `networks.portable`), so
they are registered from here rather than decorating themselves.
"""

from __future__ import annotations

import inspect
from types import ModuleType

from torch import nn

from networks import (
    discriminator,
    field,
    generator,
    hyper,
    hyper_block,
    hyper_layers,
    hyper_mapping,
    inr,
    inr_block,
    layers,
    mapping,
    minibatch_std,
    portable,
    published,
    published_block,
    published_fields,
    render,
    stylegan2,
)
from networks.discriminator import Discriminator
from networks.generator import Generator, build_discriminator, build_generator
from networks.mapping import MappingNetwork
from torch_utils import persistence

__all__ = [
    "Discriminator",
    "Generator",
    "MappingNetwork",
    "build_discriminator",
    "build_generator",
]


def module_classes(module: ModuleType) -> list[type[nn.Module]]:
    """Lists the `nn.Module` classes that a module defines itself, in source order."""
    return [
        cls
        for cls in vars(module).values()
        if inspect.isclass(cls) and issubclass(cls, nn.Module) and cls.__module__ == module.__name__
    ]


for _module in (
    layers,
    mapping,
    minibatch_std,
    discriminator,
    stylegan2,
    render,
    inr_block,
    field,
    inr,
    published_fields,
    published_block,
    published,
    hyper_layers,
    hyper_mapping,
    hyper_block,
    hyper,
    generator,
):
    persistence.register(module_classes(_module), source=portable.source, module=_module.__name__)
