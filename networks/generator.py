"""The generator (mapping + synthesis) and the functions that build networks by preset name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from networks.discriminator import Discriminator
from networks.hyper import MultiScaleSynthesis, SingleScaleSynthesis
from networks.hyper_mapping import HyperMapping
from networks.inr import INRSynthesis
from networks.mapping import MappingNetwork
from networks.presets import get_preset
from networks.published import PublishedSynthesis
from networks.stylegan2 import SynthesisNetwork

FAMILIES = {
    "stylegan2": (SynthesisNetwork, MappingNetwork),
    "inr": (INRSynthesis, MappingNetwork),
    "published": (PublishedSynthesis, MappingNetwork),
    "multiscale": (MultiScaleSynthesis, HyperMapping),
    "singlescale": (SingleScaleSynthesis, HyperMapping),
}
"""Synthesis and mapping network of the presets, by `Preset.family`."""


class Generator(nn.Module):
    """z, c -> w -> image.

    With StyleGAN2-ADA's keyword arguments this is StyleGAN2's generator; `preset` selects another
    synthesis network.

    Args:
        z_dim: Dimensionality of z.
        c_dim: Dimensionality of the label; 0 = unconditional.
        w_dim: Dimensionality of w.
        img_resolution: max(H, W), >= 4.
        img_channels: 1 to 4.
        mapping_kwargs: Further arguments of the mapping network; None = none.
        synthesis_kwargs: Further arguments of the synthesis network; None = none.
        preset: A name of `networks.presets.PRESETS`.
        more_synthesis_kwargs: The same as synthesis_kwargs, given directly (StyleGAN3's style).
            Among them img_shape, (C, H, W) if not square.
    """

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        mapping_kwargs: Mapping[str, Any] | None = None,
        synthesis_kwargs: Mapping[str, Any] | None = None,
        preset: str = "stylegan2",
        **more_synthesis_kwargs: Any,
    ) -> None:
        super().__init__()
        self.z_dim = z_dim
        self.c_dim = c_dim
        self.w_dim = w_dim
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        self.preset = preset
        kwargs = {**(synthesis_kwargs or {}), **more_synthesis_kwargs}
        self.synthesis = build_synthesis(
            preset,
            w_dim=w_dim,
            img_resolution=img_resolution,
            img_channels=img_channels,
            **kwargs,
        )
        self.num_ws = self.synthesis.num_ws
        _, mapping_class = FAMILIES[get_preset(preset).family]
        self.mapping = mapping_class(
            z_dim=z_dim, c_dim=c_dim, w_dim=w_dim, num_ws=self.num_ws, **(mapping_kwargs or {})
        )

    @property
    def img_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the training images."""
        default = (self.img_channels, self.img_resolution, self.img_resolution)
        return tuple(getattr(self.synthesis, "img_shape", default))

    @property
    def continuous(self) -> bool:
        """Whether `synthesis.render` exists."""
        return get_preset(self.preset).continuous

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """All parameters, by the learning rate that they need relative to each other.

        Returns:
            "hypernetwork": of the paper's models, mapping network and output projection; "shared":
            all others.
        """
        slow = []
        if hasattr(self.synthesis, "hypernetwork_parameters"):
            slow = [*self.mapping.parameters(), *self.synthesis.hypernetwork_parameters()]
        known = {id(parameter) for parameter in slow}
        rest = [parameter for parameter in self.parameters() if id(parameter) not in known]
        return {"hypernetwork": slow, "shared": rest}

    def forward(
        self,
        z: Tensor,
        c: Tensor | None,
        truncation_psi: float = 1,
        truncation_cutoff: int | None = None,
        skip_w_avg_update: bool = False,
        update_emas: bool | None = None,
        **synthesis_kwargs: Any,
    ) -> Tensor:
        """Generates images at training size.

        Args:
            z: [N, z_dim].
            c: Labels [N, c_dim]; may be None if c_dim is 0.
            truncation_psi: Pulls w towards its average; 1 = no truncation.
            truncation_cutoff: Number of leading ws that are truncated; None = all.
            skip_w_avg_update, update_emas: See `MappingNetwork.forward`.
            synthesis_kwargs: noise_mode, force_fp32, fused_modconv, dtype.

        Returns:
            float32 [N, C, H, W], about [-1, 1].
        """
        ws = self.mapping(
            z,
            c,
            truncation_psi=truncation_psi,
            truncation_cutoff=truncation_cutoff,
            skip_w_avg_update=skip_w_avg_update,
            update_emas=update_emas,
        )
        return self.synthesis(ws, **synthesis_kwargs)


def build_synthesis(preset: str, **kwargs: Any) -> nn.Module:
    """Builds the synthesis network of a preset.

    Raises:
        ValueError: If there is no such preset, or it does not draw images of this shape.
    """
    found = get_preset(preset)
    if not found.any_shape:
        _, height, width = kwargs.pop("img_shape", None) or (0, 0, 0)
        if height != width:
            raise ValueError(
                f"preset {preset} draws squares, not {width}x{height} (width x height); "
                "inr-gan and inr-gan-bil draw any shape."
            )
    synthesis_class, _ = FAMILIES[found.family]
    return synthesis_class(**{**found.synthesis_kwargs, **kwargs})


def build_generator(
    preset: str,
    *,
    z_dim: int,
    c_dim: int,
    w_dim: int,
    img_resolution: int,
    img_channels: int,
    mapping_kwargs: Mapping[str, Any] | None = None,
    synthesis_kwargs: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> Generator:
    """Builds the generator of any preset.

    Args: as `Generator`; overrides are further arguments of the synthesis network, such as
        img_shape=(C, H, W).

    Raises:
        ValueError: If there is no such preset.
    """
    return Generator(
        z_dim,
        c_dim,
        w_dim,
        img_resolution,
        img_channels,
        mapping_kwargs=dict(mapping_kwargs or {}),
        synthesis_kwargs={**(synthesis_kwargs or {}), **overrides},
        preset=preset,
    )


def build_discriminator(
    *, c_dim: int, img_resolution: int, img_channels: int, **kwargs: Any
) -> Discriminator:
    """Builds the discriminator; arguments as `networks.discriminator.Discriminator`."""
    return Discriminator(c_dim, img_resolution, img_channels, **kwargs)
