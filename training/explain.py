"""Says where the numbers of a configuration come from, for the printout of ``train.py``."""

from __future__ import annotations

from networks.presets import PRESETS
from training.base_configs import TINY_GAMMA_FACTOR
from training.config import TrainConfig
from training.options import DEFAULT_METRICS


def explain(config: TrainConfig) -> list[str]:
    """One line per derived setting: its name, its value and the rule it came from.

    Returns:
        Lines such as ``R1 gamma:           0.0064 (auto: 0.0002 * 32^2 / 32)``.
    """
    rows = _schedule_rows(config) + _network_rows(config) + _augmentation_rows(config)
    rows += _metric_rows(config)
    return [f"{label + ':':<22}{value} ({reason})" for label, value, reason in rows]


def _origin(option: object, name: str, otherwise: str) -> str:
    return f"given: --{name}" if option is not None else otherwise


def _given_names(**options: object) -> str:
    """ "given: --a, --b" for the options that were given; "" for none."""
    names = [f"--{n.replace('_', '-')}" for n, value in options.items() if value is not None]
    return f"given: {', '.join(names)}" if names else ""


def _schedule_rows(config: TrainConfig) -> list[tuple[str, str, str]]:
    options, base = config.options, config.base
    cfg = f"--cfg={options.cfg}"
    resolution = config.training_set.resolution
    is_formula = options.cfg in ("auto", "tiny")
    rounds = config.batch_size // (config.batch_gpu * options.gpus)
    auto_batch = "auto: gpus * min(4096 / resolution, 32), at most 64"
    factor = f"{TINY_GAMMA_FACTOR} * " if options.cfg == "tiny" else ""
    auto_gamma = f"auto: {factor}0.0002 * {resolution}^2 / {base.batch}"
    ramp = "" if config.ema_rampup is None else f", at most {config.ema_rampup:g} of what was seen"
    return [
        (
            "Batch size",
            str(config.batch_size),
            _origin(options.batch, "batch", auto_batch if options.cfg == "auto" else cfg),
        ),
        (
            "Batch per GPU",
            str(config.batch_gpu),
            f"{rounds} round(s) per step on each of {options.gpus} device(s)",
        ),
        (
            "R1 gamma",
            f"{config.r1_gamma:.4g}",
            _origin(options.gamma, "gamma", auto_gamma if is_formula else cfg),
        ),
        ("Learning rate of G", *_generator_rate(config)),
        ("Learning rate of D", f"{config.d_lr:g}", _origin(options.dlr, "dlr", cfg)),
        (
            "EMA half-life",
            f"{config.ema_kimg:g} kimg{ramp}",
            "auto: 10 kimg per 32 images of batch" if options.cfg == "auto" else cfg,
        ),
    ]


def _generator_rate(config: TrainConfig) -> tuple[str, str]:
    value = f"{config.g_lr:g}"
    for name, factor in config.lr_multipliers.items():
        value += f", {name} {config.g_lr * factor:g}"
    preset = PRESETS[config.networks.preset]
    cfg = f"--cfg={config.options.cfg}"
    otherwise = cfg if preset.lr is None else f"preset {preset.name} and {cfg}"
    return value, _origin(config.options.glr, "glr", otherwise)


def _network_rows(config: TrainConfig) -> list[tuple[str, str, str]]:
    options, networks = config.options, config.networks
    cfg = f"--cfg={options.cfg}"
    if options.generator is not None:
        why = "given: --generator"
    else:
        why = "from the snapshot" if config.resume_pkl else "default"
    precision = {True: "float16 where it pays", False: "float32"}
    regularised = (
        f"{_or_default(config.pl_weight, 2)} / {_or_default(config.style_mixing_prob, 0.9)}"
    )
    of_preset = PRESETS[networks.preset].pl_weight is not None
    given = _given_names(pl_weight=options.pl_weight, style_mixing_prob=options.style_mixing_prob)
    widths = _given_names(cbase=options.cbase, cmax=options.cmax)
    channels = f"min({networks.channel_base} / r, {networks.channel_max})"
    if PRESETS[networks.preset].family in ("multiscale", "singlescale"):
        channels = f"G: the paper's, at most {networks.channel_max}; D: {channels}"
    return [
        ("Generator", networks.preset, why),
        (
            "Channels",
            channels,
            widths or ("snapshot or " if config.resume_pkl else "") + cfg,
        ),
        (
            "Latent sizes",
            f"z {networks.z_dim}, w {networks.w_dim}, {networks.map_depth} mapping layers",
            "options, snapshot or " + cfg,
        ),
        (
            "Minibatch std group",
            str(networks.mbstd_group),
            _origin(options.mbstd_group, "mbstd-group", cfg),
        ),
        (
            "Path length, mixing",
            regularised,
            given or (f"preset {networks.preset}" if of_preset else cfg),
        ),
        (
            "Precision of G, D",
            f"{precision[networks.g_mixed_precision]}, {precision[networks.d_mixed_precision]}",
            "float32 wherever there is no CUDA",
        ),
    ]


def _or_default(value: float | None, default: float) -> str:
    return f"{default if value is None else value:g}"


def _augmentation_rows(config: TrainConfig) -> list[tuple[str, str, str]]:
    options = config.options
    if config.augment_kwargs is None:
        return [("Augmentation", "none", _origin(options.aug, "aug", f"--cfg={options.cfg}"))]
    pipe = options.augpipe or "bgc"
    if config.ada_target is None:
        return [("Augmentation", f"{pipe} with p = {config.augment_p:g}", "given: --aug=fixed")]
    value = f"{pipe}, p follows the overfitting of D towards {config.ada_target:g}"
    return [("Augmentation", value, _origin(options.aug, "aug", "default: ADA"))]


def _metric_rows(config: TrainConfig) -> list[tuple[str, str, str]]:
    value = f"{', '.join(config.metrics)} at every snapshot" if config.metrics else "none"
    why = "given: --metrics"
    if config.options.metrics == DEFAULT_METRICS:
        why = "50,000 images each time; --metrics=fid5k is quicker, --metrics=none quickest"
    return [("Metrics", value, why)]
