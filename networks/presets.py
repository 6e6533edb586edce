"""The named generator presets (design: one row per `--generator` choice). Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preset:
    """What a `--generator` name stands for, and the training defaults that come with it.

    Attributes:
        name: The `--generator` choice.
        description: One line for `--help` and the documentation.
        family: Which networks it is made of, a name of `generator.FAMILIES`.
        continuous: Whether the image is a function of the coordinates (`synthesis.render`).
        synthesis_kwargs: Arguments of the synthesis network that make the preset.
        pl_weight: Default weight of path length regularisation; None = StyleGAN2's (from --cfg).
        style_mixing_prob: Default probability of style mixing; None = StyleGAN2's (from --cfg).
        fp32: Whether the generator trains in float32 unless mixed precision is asked for.
        any_shape: Whether it draws any H x W; else only squares with a power of two as side.
        map_depth: Default number of mapping layers; None = from --cfg.
        w_dim: Default length of w; None = from --cfg.
        lr: Default learning rate of G, for weights without equalised learning rates; None = from
            --cfg.
        lr_multipliers: Factors of it for groups of `Generator.parameter_groups`.
        has_fmm: Whether layers have factorised modulation (options `rank`, `fmm_activation`).
    """

    name: str
    description: str
    family: str
    continuous: bool = True
    synthesis_kwargs: Mapping[str, Any] = field(default_factory=dict)
    pl_weight: float | None = 0.0
    style_mixing_prob: float | None = 0.0
    fp32: bool = True
    any_shape: bool = True
    map_depth: int | None = None
    w_dim: int | None = None
    lr: float | None = None
    lr_multipliers: Mapping[str, float] = field(default_factory=dict)
    has_fmm: bool = False


FMM_ACTIVATION_NAMES = ("demod", "tanh", "half-sigmoid", "none", "sigmoid", "identity")
"""The rows of the table in `ops.fmm`, listed here without torch."""

HYPER_LR = 5e-4
"""Adam's rate for the shared weights of the paper's models."""

HYPER_LR_MULTIPLIERS = {"hypernetwork": 0.1}
"""5e-5 for mapping network and output projection, as in the authors' code (the paper: 1e-5)."""


def _inr(name: str, upsampling: str, description: str) -> Preset:
    kwargs = {"upsampling": upsampling}
    return Preset(name, description, "inr", synthesis_kwargs=kwargs, has_fmm=True)


def _published(name: str, upsampling: str, description: str) -> Preset:
    kwargs = {"upsampling": upsampling}
    return Preset(name, description, "published", synthesis_kwargs=kwargs, any_shape=False)


def _hyper(
    name: str, description: str, family: str = "singlescale", **synthesis_kwargs: Any
) -> Preset:
    return Preset(
        name,
        description,
        family,
        synthesis_kwargs=synthesis_kwargs,
        map_depth=3,
        w_dim=1024,
        lr=HYPER_LR,
        lr_multipliers=HYPER_LR_MULTIPLIERS,
        has_fmm=synthesis_kwargs.get("kind", "fmm") == "fmm",
    )


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        _inr(
            "inr-gan-bil",
            "bilinear",
            "continuous image, blocks read the lattice below bilinearly (default)",
        ),
        _inr(
            "inr-gan",
            "nearest",
            "continuous image, blocks read the nearest cell of the lattice below",
        ),
        _published(
            "inr-gan-bil-published",
            "bilinear",
            "the published INR-GAN (inr-gan-bil.yml): bilinear, instance norm, per-pixel tables",
        ),
        _published(
            "inr-gan-published",
            "nearest",
            "the published INR-GAN (inr-gan.yml): nearest, per-pixel tables",
        ),
        _hyper(
            "inr-gan-vanilla",
            "the paper's INR-GAN: a hypernetwork emits the layers of two to four blocks",
            family="multiscale",
        ),
        _hyper(
            "inr-latent",
            "baseline of the paper: shared layers of one scale, a latent joins each of them",
            kind="shared",
            num_layers=8,
            num_frequencies=0,
            injection="none",
        ),
        _hyper(
            "inr-hyper",
            "baseline of the paper: a hypernetwork emits whole weight matrices",
            kind="direct",
            num_frequencies=0,
        ),
        _hyper("inr-fourier", "inr-hyper with Fourier features", kind="direct"),
        _hyper("inr-fmm", "inr-fourier with factorised modulation (FMM)", kind="fmm"),
        Preset(
            name="stylegan2",
            description="StyleGAN2's convolutional generator, weight-compatible (pixel grid only)",
            family="stylegan2",
            continuous=False,
            pl_weight=None,
            style_mixing_prob=None,
            fp32=False,
            any_shape=False,
        ),
    )
}

DEFAULT_PRESET = "inr-gan-bil"


def get_preset(name: str) -> Preset:
    """Looks up a preset.

    Raises:
        ValueError: If there is no preset of that name.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown generator preset {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
