"""The named generator presets (design: one row per `--generator` choice). Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """What a `--generator` name stands for, and the training defaults that come with it.

    Attributes:
        name: The `--generator` choice.
        description: One line for `--help` and the documentation.
        continuous: Whether the image is a function of the coordinates (`synthesis.render`).
        upsampling: How a block reads the lattice below, "nearest" or "bilinear";
            None for generators that are no pyramid of lattices.
        pl_weight: Default weight of path length regularisation; None = StyleGAN2's (from --cfg).
        style_mixing_prob: Default probability of style mixing; None = StyleGAN2's (from --cfg).
        fp32: Whether the generator trains in float32 unless mixed precision is asked for.
        published: Whether it is the published INR-GAN code's network, by names and numbers.
        any_shape: Whether it draws any H x W; else only squares with a power of two as side.
    """

    name: str
    description: str
    continuous: bool
    upsampling: str | None = None
    pl_weight: float | None = None
    style_mixing_prob: float | None = None
    fp32: bool = False
    published: bool = False
    any_shape: bool = False


def _inr_preset(name: str, upsampling: str, description: str, published: bool = False) -> Preset:
    return Preset(
        name=name,
        description=description,
        continuous=True,
        upsampling=upsampling,
        pl_weight=0.0,
        style_mixing_prob=0.0,
        fp32=True,
        published=published,
        any_shape=not published,
    )


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        _inr_preset(
            "inr-gan-bil",
            "bilinear",
            "continuous image, blocks read the lattice below bilinearly (default)",
        ),
        _inr_preset(
            "inr-gan",
            "nearest",
            "continuous image, blocks read the nearest cell of the lattice below",
        ),
        _inr_preset(
            "inr-gan-bil-published",
            "bilinear",
            "the published INR-GAN (inr-gan-bil.yml): bilinear, instance norm, per-pixel tables",
            published=True,
        ),
        _inr_preset(
            "inr-gan-published",
            "nearest",
            "the published INR-GAN (inr-gan.yml): nearest, per-pixel tables",
            published=True,
        ),
        Preset(
            name="stylegan2",
            description="StyleGAN2's convolutional generator, weight-compatible (pixel grid only)",
            continuous=False,
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
