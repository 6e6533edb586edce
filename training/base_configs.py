"""Base configurations of ``train.py --cfg``: the numbers behind every option that was not given.

Two kinds: fixed tables that reproduce published runs (`stylegan2`, `paper*`, `cifar`, and for the
INR-GAN paper `paper-inr`), and formulas that look at the data and the number of processes (`auto`,
`tiny`). A base configuration never chooses an architecture; that is ``--generator``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

CONFIG_NAMES = (
    "auto",
    "tiny",
    "stylegan2",
    "paper256",
    "paper512",
    "paper1024",
    "cifar",
    "paper-inr",
)

AUGMENT_GROUPS: dict[str, tuple[str, ...]] = {
    "blit": ("xflip", "rotate90", "xint"),
    "geom": ("scale", "rotate", "aniso", "xfrac"),
    "color": ("brightness", "contrast", "lumaflip", "hue", "saturation"),
    "filter": ("imgfilter",),
    "noise": ("noise",),
    "cutout": ("cutout",),
}

AUGMENT_PIPES: dict[str, tuple[str, ...]] = {
    **{group: (group,) for group in AUGMENT_GROUPS},
    "bg": ("blit", "geom"),
    "bgc": ("blit", "geom", "color"),
    "bgcf": ("blit", "geom", "color", "filter"),
    "bgcfn": ("blit", "geom", "color", "filter", "noise"),
    "bgcfnc": ("blit", "geom", "color", "filter", "noise", "cutout"),
}

_RESUME_BASE = (
    "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/"
    "transfer-learning-source-nets/"
)
RESUME_ALIASES: dict[str, str] = {
    "ffhq256": _RESUME_BASE + "ffhq-res256-mirror-paper256-noaug.pkl",
    "ffhq512": _RESUME_BASE + "ffhq-res512-mirror-stylegan2-noaug.pkl",
    "ffhq1024": _RESUME_BASE + "ffhq-res1024-mirror-stylegan2-noaug.pkl",
    "celebahq256": _RESUME_BASE + "celebahq-res256-mirror-paper256-kimg100000-ada-target0.5.pkl",
    "lsundog256": _RESUME_BASE + "lsundog-res256-paper256-kimg100000-noaug.pkl",
}
"""Names accepted by ``--resume`` for files on the web. All of them are `stylegan2` generators."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseConfig:
    """One row of the table, after its formulas have been evaluated.

    ``None`` means: leave it to the default of the component that uses the number.
    """

    total_kimg: int
    """Length of the training in thousands of real images."""
    batch: int
    """Images per optimiser step, over all processes."""
    batch_gpu: int
    """Images that one process puts through the networks at a time."""
    mbstd_group: int
    """Images per group of the minibatch standard deviation layer."""
    lr: float
    """Adam's learning rate, G and D."""
    gamma: float
    """Weight of R1."""
    ema_kimg: float
    """Half-life of the weight average in thousands of images."""
    ema_rampup: float | None
    """The half-life is at most this share of the images seen so far. None = no ramp."""
    map_depth: int
    """Layers of the generator's mapping network."""
    channel_base: int
    """Channels at resolution r are min(channel_base // r, channel_max)."""
    channel_max: int = 512
    z_dim: int = 512
    w_dim: int | None = None
    """Length of w. None = the preset's own, or 512."""
    d_architecture: str | None = None
    d_lr: float | None = None
    """Learning rate of D where it is not that of G."""
    d_map_depth: int | None = None
    """Layers of the discriminator's mapping network (labels). None = StyleGAN2's 8."""
    pl_weight: float | None = None
    style_mixing_prob: float | None = None
    kimg_per_tick: float | None = None
    betas: tuple[float, float] = (0, 0.99)
    """Adam's decay rates, G and D."""
    preset_lr_factor: float = 1
    """Factor of a preset's own learning rate of G."""
    lr_multipliers: Mapping[str, float] = field(default_factory=dict)
    """Replace those of a preset that has groups of parameters by these names."""
    lazy_r1: bool = True
    """R1 in a step of its own every 16 steps; else in every step of D."""
    mirror: bool = False
    """Whether images are x-flipped unless --mirror says otherwise."""
    fp32: bool = False
    """No mixed precision unless --fp32 says otherwise."""
    aug: str = "ada"
    """Augmentation mode unless --aug says otherwise."""


#           ref  kimg    mb  mbstd fmaps lrate   gamma ema ramp  map
# fmt: off
_PUBLISHED = {
    "stylegan2": (8, 25000,  32,  4, 1.0, 0.0020, 10.0,  10, None, 8),
    "paper256":  (8, 25000,  64,  8, 0.5, 0.0025,  1.0,  20, None, 8),
    "paper512":  (8, 25000,  64,  8, 1.0, 0.0025,  0.5,  20, None, 8),
    "paper1024": (8, 25000,  32,  4, 1.0, 0.0020,  2.0,  10, None, 8),
    "cifar":     (2, 100000, 64, 32, 1.0, 0.0025, 0.01, 500, 0.05, 2),
}
# fmt: on


def auto_gamma(resolution: int, batch: int) -> float:
    """R1 weight that worked over many data sets: 0.0002 * resolution^2 / batch.

    Args:
        resolution: max(H, W).
        batch: Images per step.
    """
    return 0.0002 * resolution**2 / batch


TINY_GAMMA_FACTOR = 150
"""R1 weight of `tiny` relative to `auto_gamma`: its D learns fast and needs more damping."""


def _largest_divisor(value: int, limit: int) -> int:
    """The largest divisor of ``value`` that is at most ``limit``."""
    return next(d for d in range(min(value, limit), 0, -1) if value % d == 0)


def _auto(resolution: int, gpus: int) -> BaseConfig:
    batch = max(min(gpus * min(4096 // resolution, 32), 64), gpus)
    # Only numbers of processes that are no power of two are touched by the two roundings.
    batch -= batch % gpus
    batch_gpu = batch // gpus
    return BaseConfig(
        total_kimg=25000,
        batch=batch,
        batch_gpu=batch_gpu,
        mbstd_group=_largest_divisor(batch_gpu, 4),
        lr=0.002 if resolution >= 1024 else 0.0025,
        gamma=auto_gamma(resolution, batch),
        ema_kimg=batch * 10 / 32,
        ema_rampup=0.05,
        map_depth=2,
        channel_base=32768 if resolution >= 512 else 16384,
    )


def _tiny(resolution: int, gpus: int) -> BaseConfig:
    batch = max(32 - 32 % gpus, gpus)
    batch_gpu = batch // gpus
    return BaseConfig(
        total_kimg=100,
        batch=batch,
        batch_gpu=batch_gpu,
        mbstd_group=_largest_divisor(batch_gpu, 4),
        # Runs are short and layers narrow. With equalised learning rates these rates and shallow
        # mapping networks learn the labels in a few thousand images. D is faster than G: at equal
        # rates G settles on one picture per class before D can tell.
        lr=0.004,
        d_lr=0.02,
        # The paper's 5e-4 and 5e-5 are for 800,000 steps; 20 times as much learns in 300.
        preset_lr_factor=20,
        gamma=TINY_GAMMA_FACTOR * auto_gamma(resolution, batch),
        ema_kimg=2,
        ema_rampup=0.05,
        map_depth=1,
        d_map_depth=1,
        channel_base=16 * max(resolution, 32),
        channel_max=64,
        z_dim=128,
        w_dim=128,
        kimg_per_tick=1,
    )


def _published(name: str, gpus: int) -> BaseConfig:
    ref_gpus, kimg, batch, mbstd, fmaps, lr, gamma, ema, ramp, map_depth = _PUBLISHED[name]
    is_cifar = name == "cifar"
    return BaseConfig(
        total_kimg=kimg,
        batch=batch,
        # More processes than the reference run had: each takes what is left for it.
        batch_gpu=max(min(batch // ref_gpus, batch // gpus), 1),
        mbstd_group=mbstd,
        lr=lr,
        gamma=gamma,
        ema_kimg=ema,
        ema_rampup=ramp,
        map_depth=map_depth,
        channel_base=int(fmaps * 32768),
        d_architecture="orig" if is_cifar else None,
        pl_weight=0 if is_cifar else None,
        style_mixing_prob=0 if is_cifar else None,
    )


def _paper_inr(resolution: int, gpus: int) -> BaseConfig:
    """The INR-GAN paper: 4 processes of 32 images at 128x128, 16 at 256x256, 8 at 1024x1024."""
    batch_gpu = 32 if resolution <= 128 else 16 if resolution <= 256 else 8
    batch = max(4 * batch_gpu, gpus)
    batch -= batch % gpus
    batch_gpu = _largest_divisor(batch // gpus, batch_gpu)
    return BaseConfig(
        total_kimg=800 * batch,  # 800,000 steps
        batch=batch,
        batch_gpu=batch_gpu,
        mbstd_group=_largest_divisor(batch_gpu, 4),
        # Shared weights 5e-4, D 3e-3; mapping network and output projection 1e-5.
        lr=5e-4,
        d_lr=3e-3,
        lr_multipliers={"hypernetwork": 0.02},
        betas=(0, 0.98),
        gamma=10,
        lazy_r1=False,
        # 0.999 per step, as a half-life in thousands of images.
        ema_kimg=batch * math.log(0.5) / math.log(0.999) / 1000,
        ema_rampup=None,
        map_depth=3,
        channel_base=16384,
        pl_weight=0,
        style_mixing_prob=0,
        mirror=True,
        fp32=True,
        aug="noaug",
    )


def base_config(name: str, resolution: int, gpus: int) -> BaseConfig:
    """Evaluate one base configuration.

    Args:
        name: One of `CONFIG_NAMES`.
        resolution: R = max(H, W) of the training images in pixels.
        gpus: Number of processes, at least 1.

    Raises:
        KeyError: ``name`` is unknown.
    """
    if name == "auto":
        return _auto(resolution, gpus)
    if name == "tiny":
        return _tiny(resolution, gpus)
    if name == "paper-inr":
        return _paper_inr(resolution, gpus)
    return _published(name, gpus)


def augment_multipliers(pipe: str) -> dict[str, int]:
    """The AugmentPipe arguments that ``--augpipe`` sets to 1; all others stay 0."""
    return {name: 1 for group in AUGMENT_PIPES[pipe] for name in AUGMENT_GROUPS[group]}
