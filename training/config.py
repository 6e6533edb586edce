"""The complete, typed description of one training run.

`training.resolve.resolve` turns the options a user typed and the facts about the data into a frozen
`TrainConfig`; ``TrainConfig.to_dict`` gives the keyword arguments of
`training.training_loop.training_loop`, which is also what ``training_options.json`` holds. Nothing
here imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from training.base_configs import BaseConfig
from training.options import TrainOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetFacts:
    """What has to be known about the training images before a configuration can be made.

    Attributes:
        name: Name of the data set, part of the run directory's name.
        image_shape: (channels, height, width) of every image.
        num_images: Number of images, without x-flips.
        label_dim: Length of a label vector; 0 = no labels.
    """

    name: str
    image_shape: tuple[int, int, int]
    num_images: int
    label_dim: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ResumeFacts:
    """Architecture of the snapshot named by ``--resume``; None = not known, not looked at.

    image_size is (height, width).
    """

    preset: str
    image_size: tuple[int, int] | None = None
    img_channels: int | None = None
    c_dim: int | None = None
    z_dim: int | None = None
    w_dim: int | None = None
    map_depth: int | None = None
    channel_base: int | None = None
    channel_max: int | None = None
    d_architecture: str | None = None
    d_map_depth: int | None = None
    synthesis: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the synthesis network."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSetConfig:
    """Arguments of the data set class; image_size is (height, width)."""

    path: str
    use_labels: bool
    max_size: int
    xflip: bool
    image_size: tuple[int, int]
    random_seed: int | None

    @property
    def resolution(self) -> int:
        """max(H, W), the R of every formula."""
        return max(self.image_size)

    @property
    def size_text(self) -> str:
        """For people: "64", or "96x64" (width x height) if not square."""
        height, width = self.image_size
        return str(height) if height == width else f"{width}x{height} (width x height)"

    def to_dict(self) -> dict[str, Any]:
        """Keyword arguments with ``class_name``; the seed only where it selects a subset."""
        result = {
            "class_name": "training.dataset.ImageFolderDataset",
            "path": self.path,
            "use_labels": self.use_labels,
            "max_size": self.max_size,
            "xflip": self.xflip,
            # One number for squares, as StyleGAN2-ADA has it.
            "resolution": self.resolution if len({*self.image_size}) == 1 else [*self.image_size],
        }
        return result if self.random_seed is None else {**result, "random_seed": self.random_seed}


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkConfig:
    """What G and D share, and the numbers that belong to one of them."""

    preset: str
    z_dim: int
    w_dim: int
    map_depth: int
    channel_base: int
    channel_max: int
    g_mixed_precision: bool
    d_mixed_precision: bool
    channels_last: bool
    d_architecture: str | None
    d_map_depth: int | None
    mbstd_group: int
    freeze_layers: int | None
    synthesis: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the synthesis network."""

    def _widths(self, mixed_precision: bool) -> dict[str, Any]:
        return {
            "channel_base": self.channel_base,
            "channel_max": self.channel_max,
            # The four highest resolutions, activations limited to +-256 against overflow.
            "num_fp16_res": 4 if mixed_precision else 0,
            "conv_clamp": 256 if mixed_precision else None,
        }

    def generator(self) -> dict[str, Any]:
        """Keyword arguments of `networks.build_generator`, less those taken from the data."""
        synthesis = {**self._widths(self.g_mixed_precision), **self.synthesis}
        if self.channels_last:
            synthesis["fp16_channels_last"] = True
        return {
            "class_name": "networks.build_generator",
            "preset": self.preset,
            "z_dim": self.z_dim,
            "w_dim": self.w_dim,
            "mapping_kwargs": {"num_layers": self.map_depth},
            "synthesis_kwargs": synthesis,
        }

    def discriminator(self) -> dict[str, Any]:
        """Keyword arguments of `networks.build_discriminator`, less those taken from the data."""
        block: dict[str, Any] = {}
        if self.freeze_layers is not None:
            block["freeze_layers"] = self.freeze_layers
        if self.channels_last:
            block["fp16_channels_last"] = True
        result = {
            "class_name": "networks.build_discriminator",
            "block_kwargs": block,
            "mapping_kwargs": {} if self.d_map_depth is None else {"num_layers": self.d_map_depth},
            "epilogue_kwargs": {"mbstd_group_size": self.mbstd_group},
            **self._widths(self.d_mixed_precision),
        }
        if self.d_architecture is not None:
            result["architecture"] = self.d_architecture
        return result


def _adam(lr: float, betas: tuple[float, float]) -> dict[str, Any]:
    return {"class_name": "torch.optim.Adam", "lr": lr, "betas": [*betas], "eps": 1e-8}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One training run; optional entries are None and then absent from the dictionary."""

    options: TrainOptions
    base: BaseConfig
    metrics: tuple[str, ...]
    training_set: TrainingSetConfig
    networks: NetworkConfig
    num_workers: int
    g_lr: float
    lr_multipliers: dict[str, float]
    d_lr: float
    r1_gamma: float
    pl_weight: float | None
    style_mixing_prob: float | None
    total_kimg: int
    kimg_per_tick: float | None
    batch_size: int
    batch_gpu: int
    ema_kimg: float
    ema_rampup: float | None
    ada_target: float | None
    augment_p: float | None
    augment_kwargs: dict[str, Any] | None
    ada_kimg: int | None
    resume_pkl: str | None
    description: str

    def _loss(self) -> dict[str, Any]:
        result = {"class_name": "training.loss.StyleGAN2Loss", "r1_gamma": self.r1_gamma}
        optional = {"pl_weight": self.pl_weight, "style_mixing_prob": self.style_mixing_prob}
        return {**result, **{name: v for name, v in optional.items() if v is not None}}

    def _loader(self) -> dict[str, Any]:
        result = {"pin_memory": True, "num_workers": self.num_workers}
        # torch refuses to prefetch without worker processes.
        return {**result, "prefetch_factor": 2} if self.num_workers > 0 else result

    def to_dict(self, run_dir: str) -> dict[str, Any]:
        """Keyword arguments of the training loop in the order of ``training_options.json``."""
        options = self.options
        g_opt_kwargs = _adam(self.g_lr, self.base.betas)
        if self.lr_multipliers:
            g_opt_kwargs["lr_multipliers"] = dict(self.lr_multipliers)
        result = {
            "num_gpus": options.gpus,
            "image_snapshot_ticks": options.snap,
            "network_snapshot_ticks": options.snap,
            "metrics": list(self.metrics),
            "random_seed": options.seed,
            "training_set_kwargs": self.training_set.to_dict(),
            "data_loader_kwargs": self._loader(),
            "G_kwargs": self.networks.generator(),
            "D_kwargs": self.networks.discriminator(),
            "G_opt_kwargs": g_opt_kwargs,
            "D_opt_kwargs": _adam(self.d_lr, self.base.betas),
            "loss_kwargs": self._loss(),
            "total_kimg": self.total_kimg,
            "batch_size": self.batch_size,
            "batch_gpu": self.batch_gpu,
            "ema_kimg": self.ema_kimg,
            "ema_rampup": self.ema_rampup,
        }
        optional = {
            "ada_target": self.ada_target,
            "augment_p": self.augment_p,
            "augment_kwargs": self.augment_kwargs,
            "resume_pkl": self.resume_pkl,
            "ada_kimg": self.ada_kimg,
            "cudnn_benchmark": False if options.nobench else None,
            "allow_tf32": True if options.allow_tf32 else None,
            "kimg_per_tick": self.kimg_per_tick,
            "device": None if options.device == "auto" else options.device,
            "detectors": dict(options.detectors) or None,
            "allow_code": True if options.allow_code else None,
        }
        result.update((name, value) for name, value in optional.items() if value is not None)
        if not self.base.lazy_r1:
            result["D_reg_interval"] = None
        return {**result, "run_dir": run_dir}
