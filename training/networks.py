"""Face: the class paths that scripts and old option files of StyleGAN2-ADA use.

``training.networks.Generator(...)`` with StyleGAN2-ADA's arguments is StyleGAN2's generator.
"""

from __future__ import annotations

from networks import Discriminator, Generator, MappingNetwork
from networks.discriminator import DiscriminatorBlock, DiscriminatorEpilogue, MinibatchStdLayer
from networks.layers import Conv2dLayer, FullyConnectedLayer
from networks.modulated_conv import modulated_conv2d
from networks.stylegan2 import SynthesisBlock, SynthesisLayer, SynthesisNetwork, ToRGBLayer
from ops.mapping_layers import normalize_2nd_moment

__all__ = [
    "Conv2dLayer",
    "Discriminator",
    "DiscriminatorBlock",
    "DiscriminatorEpilogue",
    "FullyConnectedLayer",
    "Generator",
    "MappingNetwork",
    "MinibatchStdLayer",
    "SynthesisBlock",
    "SynthesisLayer",
    "SynthesisNetwork",
    "ToRGBLayer",
    "modulated_conv2d",
    "normalize_2nd_moment",
]
