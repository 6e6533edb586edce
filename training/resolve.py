"""From options to a configuration: defaults are filled in here, contradictions refused here.

Every refusal is a `UserError` whose one sentence names the option and its value. Nothing here
imports torch.
"""

from __future__ import annotations

from typing import Any

from dnnlib import UserError
from metrics.names import parse_metrics
from networks.presets import DEFAULT_PRESET, PRESETS, Preset
from networks.shapes import fitting_shapes, shape_problem
from training.base_configs import (
    RESUME_ALIASES,
    BaseConfig,
    augment_multipliers,
    base_config,
)
from training.config import (
    DatasetFacts,
    NetworkConfig,
    ResumeFacts,
    TrainConfig,
    TrainingSetConfig,
)
from training.options import TrainOptions

_DEFAULT_ADA_TARGET = 0.6
_DEFAULT_W_DIM = 512
_RESUME_ADA_KIMG = 100
_SMALLEST_SIDE = 8


def resolve(
    options: TrainOptions,
    facts: DatasetFacts,
    resume: ResumeFacts | None = None,
    device_type: str = "cpu",
) -> TrainConfig:
    """Fill in everything the user left open, and refuse what cannot work.

    Args:
        options: What the user typed.
        facts: About the training images.
        resume: Architecture of the snapshot to start from, None without one.
        device_type: "cpu", "cuda" or "mps"; only the default number of workers depends on it.

    Raises:
        UserError: An option contradicts another one, the data or the snapshot.
    """
    metrics = parse_metrics(options.metrics)
    preset = _choose_preset(options, resume)
    _check_data(options, facts)
    _check_image_size(options, facts, preset)
    resolution = max(facts.image_shape[1:])
    base = base_config(options.cfg, resolution, options.gpus)
    networks = _networks(options, base, preset, resume, resolution)
    if resume is not None:
        _check_resume(options, facts, resume, networks)
    batch_size, batch_gpu = _batch(options, base, networks.mbstd_group)
    is_resuming = resume is not None
    subset = min(options.subset or facts.num_images, facts.num_images)
    return TrainConfig(
        options=options,
        base=base,
        metrics=metrics,
        training_set=TrainingSetConfig(
            path=options.data,
            use_labels=bool(options.cond),
            max_size=subset,
            xflip=bool(_given(options.mirror, base.mirror)),
            image_size=facts.image_shape[1:],
            random_seed=options.seed if subset < facts.num_images else None,
        ),
        networks=networks,
        num_workers=_given(options.workers, 0 if device_type == "cpu" else 3),
        **_generator_rates(options, base, preset),
        d_lr=_given(options.dlr, base.d_lr, base.lr),
        r1_gamma=_given(options.gamma, base.gamma),
        pl_weight=_given(options.pl_weight, preset.pl_weight, base.pl_weight),
        style_mixing_prob=_given(
            options.style_mixing_prob, preset.style_mixing_prob, base.style_mixing_prob
        ),
        total_kimg=_given(options.kimg, base.total_kimg),
        kimg_per_tick=_given(options.tick, base.kimg_per_tick),
        batch_size=batch_size,
        batch_gpu=batch_gpu,
        ema_kimg=base.ema_kimg,
        ema_rampup=None if is_resuming else base.ema_rampup,
        **_augmentation(options, base),
        ada_kimg=_RESUME_ADA_KIMG if is_resuming else None,
        resume_pkl=RESUME_ALIASES.get(options.resume, options.resume) if is_resuming else None,
        description=describe(options, facts),
    )


def is_resume(name: str | None) -> bool:
    """Whether the value of ``--resume`` names a snapshot."""
    return name is not None and name != "noresume"


def describe(options: TrainOptions, facts: DatasetFacts) -> str:
    """The run directory's name without its number: data set and every option that was given."""
    parts = [facts.name]
    parts += ["cond"] if options.cond else []
    parts += [f"subset{options.subset}"] if options.subset is not None else []
    parts += ["mirror"] if options.mirror else []
    parts += [f"auto{options.gpus}" if options.cfg == "auto" else options.cfg]
    parts += [f"gamma{options.gamma:g}"] if options.gamma is not None else []
    parts += [f"kimg{options.kimg}"] if options.kimg is not None else []
    parts += [f"batch{options.batch}"] if options.batch is not None else []
    parts += [options.aug] if options.aug is not None else []
    parts += [f"p{options.p:g}"] if options.p is not None else []
    parts += [f"target{options.target:g}"] if options.target is not None else []
    parts += [options.augpipe] if options.augpipe is not None else []
    if options.resume is not None:
        alias = options.resume if options.resume in RESUME_ALIASES else "custom"
        parts += [f"resume{alias}" if is_resume(options.resume) else "noresume"]
    parts += [f"freezed{options.freezed}"] if options.freezed is not None else []
    parts += [options.generator] if options.generator is not None else []
    parts += [f"rank{options.fmm_rank}"] if options.fmm_rank is not None else []
    parts += [options.fmm_activation] if options.fmm_activation is not None else []
    parts += [options.desc] if options.desc else []
    return "-".join(parts)


def _given(*values: Any) -> Any:
    """The first value that is not None, or None."""
    return next((value for value in values if value is not None), None)


def _check_data(options: TrainOptions, facts: DatasetFacts) -> None:
    if options.cond and facts.label_dim == 0:
        raise UserError(
            f"--cond=1: {options.data} has no labels; a conditional model needs them in "
            "dataset.json (dataset_tool.py --labels-from-folders writes it)."
        )
    if options.subset is not None and options.subset > facts.num_images:
        raise UserError(
            f"--subset={options.subset}: {options.data} has only {facts.num_images} images."
        )
    if options.desc and any(mark in options.desc for mark in "/\\"):
        raise UserError(
            f"--desc={options.desc}: it becomes part of a folder's name, so no slashes."
        )


def _check_image_size(options: TrainOptions, facts: DatasetFacts, preset: Preset) -> None:
    _, height, width = facts.image_shape
    larger, smaller = fitting_shapes(height, width)
    if (height, width) == larger and (preset.any_shape or _is_power_of_two_square(height, width)):
        return
    what = f"--data={options.data}: the images have {width}x{height} pixels"
    if not preset.any_shape:
        side = max(2 ** (min(height, width).bit_length() - 1), _SMALLEST_SIDE)
        raise UserError(
            f"{what}, but --generator={preset.name} draws only squares with a power of two of at "
            f"least {_SMALLEST_SIDE} as side; use --generator={DEFAULT_PRESET}, or dataset_tool.py "
            f"--transform=center-crop --width={side} --height={side}."
        )
    if min(height, width) < _SMALLEST_SIDE:
        reason = f"{what}, but at least {_SMALLEST_SIDE} are needed along each side"
    else:
        reason = f"--data={options.data}: the images' {shape_problem(height, width)}"
    cures = [("pad", "adds borders", larger), ("center-crop", "cuts and shrinks", smaller)]
    raise UserError(
        f"{reason}; dataset_tool.py "
        + " or ".join(
            f"--transform={kind} --width={size[1]} --height={size[0]} ({effect})"
            for kind, effect, size in cures
            if size is not None
        )
        + " makes images that fit."
    )


def _is_power_of_two_square(height: int, width: int) -> bool:
    return height == width and height & (height - 1) == 0


def _choose_preset(options: TrainOptions, resume: ResumeFacts | None) -> Preset:
    if resume is None:
        return PRESETS[options.generator or DEFAULT_PRESET]
    if options.generator is not None and options.generator != resume.preset:
        raise UserError(
            f"--generator={options.generator}: the file of --resume={options.resume} holds a "
            f"{resume.preset} generator; leave --generator out to go on with that."
        )
    return PRESETS[resume.preset]


def _networks(
    options: TrainOptions,
    base: BaseConfig,
    preset: Preset,
    resume: ResumeFacts | None,
    resolution: int,
) -> NetworkConfig:
    # A resumed file knows its own widths; --cfg never chooses an architecture against it.
    known = resume or ResumeFacts(preset=preset.name)
    channel_base = _given(options.cbase, known.channel_base, base.channel_base)
    if channel_base < resolution:
        raise UserError(
            f"--cbase={channel_base} leaves no channels at {resolution}x{resolution} pixels, where "
            f"layers have cbase / {resolution}; it must be at least {resolution}."
        )
    return NetworkConfig(
        preset=preset.name,
        z_dim=_given(options.z_dim, known.z_dim, base.z_dim),
        w_dim=_given(options.w_dim, known.w_dim, base.w_dim, preset.w_dim, _DEFAULT_W_DIM),
        map_depth=_given(options.map_depth, known.map_depth, preset.map_depth, base.map_depth),
        channel_base=channel_base,
        channel_max=_given(options.cmax, known.channel_max, base.channel_max),
        g_mixed_precision=not _given(options.fp32, base.fp32 or preset.fp32),
        d_mixed_precision=not _given(options.fp32, base.fp32),
        channels_last=bool(options.nhwc),
        d_architecture=_given(known.d_architecture, base.d_architecture),
        d_map_depth=_given(known.d_map_depth, base.d_map_depth),
        mbstd_group=_given(options.mbstd_group, base.mbstd_group),
        freeze_layers=options.freezed,
        synthesis={
            **known.synthesis,
            **_fmm_options(options, preset, None if resume is None else known.synthesis),
        },
    )


def _check_resume(
    options: TrainOptions, facts: DatasetFacts, resume: ResumeFacts, networks: NetworkConfig
) -> None:
    channels, height, width = facts.image_shape
    c_dim = facts.label_dim if options.cond else 0
    pairs = (
        ("image size", _size_text(resume.image_size), _size_text((height, width))),
        ("number of image channels", resume.img_channels, channels),
        ("label size (see --cond)", resume.c_dim, c_dim),
        ("--z-dim", resume.z_dim, networks.z_dim),
        ("--w-dim", resume.w_dim, networks.w_dim),
        ("--map-depth", resume.map_depth, networks.map_depth),
        ("--cbase", resume.channel_base, networks.channel_base),
        ("--cmax", resume.channel_max, networks.channel_max),
    )
    for what, in_file, wanted in pairs:
        if in_file is not None and in_file != wanted:
            raise UserError(
                f"--resume={options.resume}: the file's {what} is {in_file}, "
                f"but this run needs {wanted}."
            )


def _size_text(size: tuple[int, int] | None) -> str | None:
    return None if size is None else f"{size[1]}x{size[0]}"


def _batch(options: TrainOptions, base: BaseConfig, mbstd_group: int) -> tuple[int, int]:
    """Total batch size and images per process and round, checked to fit together."""
    gpus = options.gpus
    batch = _given(options.batch, base.batch)
    if batch % gpus:
        fitting = max(round(batch / gpus), 1) * gpus
        raise UserError(
            f"--batch={batch} cannot be shared evenly by --gpus={gpus}; --batch={fitting} can."
        )
    default = base.batch_gpu if options.batch is None else batch // gpus
    batch_gpu = _given(options.batch_gpu, default)
    if batch % (gpus * batch_gpu):
        raise UserError(
            f"--batch={batch} is not a multiple of --gpus={gpus} times --batch-gpu={batch_gpu}."
        )
    if batch_gpu % min(mbstd_group, batch_gpu):
        fitting = next(d for d in range(mbstd_group, 0, -1) if batch_gpu % d == 0)
        raise UserError(
            f"{batch_gpu} images per GPU cannot be split into groups of {mbstd_group} for the "
            f"minibatch standard deviation; use --mbstd-group={fitting} or another --batch-gpu."
        )
    return batch, batch_gpu


def _generator_rates(options: TrainOptions, base: BaseConfig, preset: Preset) -> dict[str, Any]:
    """The fields g_lr and lr_multipliers; a preset's own rate is not for equalised weights."""
    own = None if preset.lr is None else preset.lr * base.preset_lr_factor
    replaced = {n: v for n, v in base.lr_multipliers.items() if n in preset.lr_multipliers}
    return {
        "g_lr": _given(options.glr, own, base.lr),
        "lr_multipliers": {**preset.lr_multipliers, **replaced},
    }


def _fmm_options(
    options: TrainOptions, preset: Preset, in_file: dict[str, Any] | None
) -> dict[str, Any]:
    """Arguments of the synthesis network that --fmm-rank and --fmm-activation stand for."""
    given = {}
    for name, key in (("fmm_rank", "rank"), ("fmm_activation", "fmm_activation")):
        value, option = getattr(options, name), f"--{name.replace('_', '-')}"
        if value is None:
            continue
        if not preset.has_fmm:
            fitting = ", ".join(other.name for other in PRESETS.values() if other.has_fmm)
            raise UserError(
                f"{option}={value}: --generator={preset.name} has no factorised modulation to set; "
                f"{fitting} have."
            )
        if in_file is not None and in_file.get(key, value) != value:
            raise UserError(
                f"{option}={value}: the file of --resume={options.resume} has {in_file[key]}."
            )
        given[key] = value
    return given


def _augmentation(options: TrainOptions, base: BaseConfig) -> dict[str, Any]:
    """The fields ada_target, augment_p and augment_kwargs."""
    mode = options.aug or base.aug
    if options.p is not None and mode != "fixed":
        raise UserError(f"--p={options.p:g} can only be used with --aug=fixed, not {mode}.")
    if mode == "fixed" and options.p is None:
        raise UserError("--aug=fixed needs the probability: --p=P with P from 0 to 1.")
    if options.target is not None and mode != "ada":
        raise UserError(f"--target={options.target:g} can only be used with --aug=ada, not {mode}.")
    if options.augpipe is not None and mode == "noaug":
        raise UserError(f"--augpipe={options.augpipe} cannot be used with --aug=noaug.")
    multipliers = None if mode == "noaug" else augment_multipliers(options.augpipe or "bgc")
    return {
        "ada_target": _given(options.target, _DEFAULT_ADA_TARGET) if mode == "ada" else None,
        "augment_p": options.p,
        "augment_kwargs": multipliers
        and {"class_name": "training.augment.AugmentPipe", **multipliers},
    }
