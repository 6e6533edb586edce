"""Networks that other programs wrote: StyleGAN2-ADA, StyleGAN3's stylegan2, published INR-GAN.

Their snapshots carry source text of their own. It is not run: a network is recognised by the name
of its class, by its constructor arguments and, strictly, by the names and shapes of its tensors,
and its numbers are moved into our own class. What differs in any of these is refused by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

import dnnlib
from networks.published_config import published_settings, resolve_references
from torch_utils import persistence, snapshot_reader
from torch_utils.module_builder import ModuleState, check_plain, construct
from torch_utils.pickle_records import ObjectRecord, PersistentRecord, Refused

_GENERATOR_ARGUMENTS = (
    "z_dim",
    "c_dim",
    "w_dim",
    "img_resolution",
    "img_channels",
    "mapping_kwargs",
    "synthesis_kwargs",
)
_DISCRIMINATOR_ARGUMENTS = (
    "c_dim",
    "img_resolution",
    "img_channels",
    "architecture",
    "channel_base",
    "channel_max",
    "num_fp16_res",
    "conv_clamp",
    "cmap_dim",
    "block_kwargs",
    "mapping_kwargs",
    "epilogue_kwargs",
)
_MAPPING = frozenset(
    ("num_layers", "embed_features", "layer_features", "activation", "lr_multiplier", "w_avg_beta")
)
_BLOCK = frozenset(("activation", "resample_filter", "fp16_channels_last"))
_SYNTHESIS = _BLOCK | {
    "architecture",
    "channel_base",
    "channel_max",
    "conv_clamp",
    "kernel_size",
    "num_fp16_res",
    "use_noise",
}
_EPILOGUE = frozenset(("mbstd_group_size", "mbstd_num_channels", "activation"))

# Arguments that choose between ways to compute the same.
_WITHOUT_EFFECT = frozenset(("fused_modconv_default",))

# Buffers that our constructors compute, so that files may lack them or have more of them.
_COMPUTED = ("resample_filter", "w_avg_beta")

_PUBLISHED_PRESETS = {"nearest": "inr-gan-published", "bilinear": "inr-gan-bil-published"}

Arguments = dict[str, Any]


@snapshot_reader.importer
def import_foreign(record: PersistentRecord, convert: snapshot_reader.Convert) -> nn.Module | None:
    """Builds our network for a record of another program.

    Args:
        record: The record.
        convert: Turns values in it into what they stand for.

    Returns:
        The network, or None if no class of this name is known.

    Raises:
        safe_pickle.Refused: A class of this name is known, but it has other arguments or tensors.
        dnnlib.UserError: The record is damaged.
    """
    translate = _TRANSLATIONS.get(record.class_name)
    if translate is None or record.module_src.startswith(persistence.BUNDLE_HEADER):
        return None
    args, kwargs = (
        convert(record.state.get("_init_args")),
        convert(record.state.get("_init_kwargs")),
    )
    if not isinstance(args, tuple) or not isinstance(kwargs, dict):
        raise Refused(f"the class {record.class_name!r} without its constructor arguments")
    check_plain([args, kwargs])
    return build(record.class_name, translate(record, args, kwargs), ModuleState.of(record))


def build(class_name: str, arguments: Arguments, state: ModuleState) -> nn.Module:
    """Builds one of our networks and fills it with the tensors of a file.

    Args:
        class_name: Name of our class.
        arguments: Of its constructor, by name.
        state: Tensors and flags. Filters, which the constructor computes, may be missing.

    Raises:
        safe_pickle.Refused: The tensors are not those of such a network.
        dnnlib.UserError: The file is damaged.
    """
    cls = persistence.own_class(class_name)
    try:
        network = construct(cls, (), arguments, state.stored.total)
        state.fill(network, optional=_COMPUTED)
    except persistence.Mismatch as error:
        raise Refused(f"a {class_name} that is built otherwise than ours ({error})") from None
    return network


def _named(
    class_name: str, names: tuple[str, ...], args: tuple[Any, ...], kwargs: Arguments
) -> Arguments:
    """All arguments by name."""
    if len(args) > len(names) or set(names[: len(args)]) & set(kwargs):
        raise Refused(f"the class {class_name!r} with other constructor arguments")
    return {**dict(zip(names, args)), **kwargs}


def _checked(owner: str, kwargs: object, known: frozenset[str]) -> Arguments:
    """The arguments in `known`; those without effect are dropped, others refused."""
    if kwargs is None:
        return {}
    if not isinstance(kwargs, dict):
        raise dnnlib.UserError(f"the file is damaged: the arguments of {owner} are not a dict")
    for name in kwargs:
        if name not in known and name not in _WITHOUT_EFFECT:
            raise Refused(f"{owner} with the argument {str(name)[:80]!r}")
    return {name: value for name, value in kwargs.items() if name in known}


def _child(record: object, *path: str) -> dict[str, Any]:
    """Attributes of a module inside a module; empty if it is not there."""
    for name in path:
        if not isinstance(record, (PersistentRecord, ObjectRecord)):
            return {}
        modules = record.state.get("_modules") if isinstance(record.state, dict) else None
        record = modules.get(name) if isinstance(modules, dict) else None
    if isinstance(record, (PersistentRecord, ObjectRecord)) and isinstance(record.state, dict):
        return record.state
    return {}


def _fill_defaults(kwargs: Arguments, found: Arguments) -> None:
    """Adds what the file's layers say where its arguments say nothing.

    The versions differ in their defaults: StyleGAN3 has num_fp16_res 4, conv_clamp 256 and
    w_avg_beta 0.998, StyleGAN2-ADA has 0, None and 0.995.
    """
    for name, value in found.items():
        kwargs.setdefault(name, value)


def _half_precision(
    record: PersistentRecord, prefix: tuple[str, ...], resolution: object
) -> Arguments:
    """num_fp16_res and conv_clamp as the blocks of a network have them."""
    if not isinstance(resolution, int) or resolution < 4:
        return {}
    found: Arguments = {}
    sizes = [2**i for i in range(2, resolution.bit_length())]
    blocks = [_child(record, *prefix, f"b{size}") for size in sizes]
    if any("use_fp16" in block for block in blocks):
        found["num_fp16_res"] = sum(bool(block.get("use_fp16")) for block in blocks)
    layer = _child(record, *prefix, f"b{resolution}", "conv1")
    if "conv_clamp" in layer:
        found["conv_clamp"] = layer["conv_clamp"]
    return found


def _generator(record: PersistentRecord, args: tuple[Any, ...], kwargs: Arguments) -> Arguments:
    """Arguments of our `Generator` for one of StyleGAN2-ADA, StyleGAN3 or INR-GAN."""
    given = _named("Generator", _GENERATOR_ARGUMENTS, args, kwargs)
    result = {name: given.pop(name) for name in _GENERATOR_ARGUMENTS[:5] if name in given}
    mapping = _checked("a mapping network", given.pop("mapping_kwargs", None), _MAPPING)
    w_avg_beta = _child(record, "mapping").get("w_avg_beta", 0.995)
    _fill_defaults(mapping, {} if w_avg_beta == 0.995 else {"w_avg_beta": w_avg_beta})
    cfg = given.pop("cfg", None)
    inner = given.pop("synthesis_kwargs", None)
    if inner is not None and not isinstance(inner, dict):
        raise dnnlib.UserError("the file is damaged: synthesis_kwargs is not a dict")
    inner = {**(inner or {}), **given}
    cfg = inner.pop("cfg", cfg)
    synthesis = _checked("a synthesis network", inner, _SYNTHESIS)
    if cfg is not None:
        result["preset"], synthesis["cfg"] = _published(cfg)
    else:
        resolution = result.get("img_resolution")
        _fill_defaults(synthesis, _half_precision(record, ("synthesis",), resolution))
    return {**result, "mapping_kwargs": mapping, "synthesis_kwargs": synthesis}


def _published(cfg: object) -> tuple[str, Arguments]:
    """Our preset for a configuration of the published INR-GAN code, and it without references."""
    if not isinstance(cfg, dict):
        raise dnnlib.UserError("the file is damaged: cfg is not a dict")
    try:
        return _PUBLISHED_PRESETS[published_settings(cfg).upsampling], resolve_references(cfg)
    except ValueError as error:
        raise Refused(f"an INR-GAN Generator of another kind ({error})") from None


def _discriminator(record: PersistentRecord, args: tuple[Any, ...], kwargs: Arguments) -> Arguments:
    """Arguments of our `Discriminator` for one of StyleGAN2-ADA, StyleGAN3 or INR-GAN."""
    given = _named("Discriminator", _DISCRIMINATOR_ARGUMENTS, args, kwargs)
    result = _checked("a Discriminator", given, frozenset(_DISCRIMINATOR_ARGUMENTS))
    for key, owner, known in (
        ("block_kwargs", "a discriminator block", _BLOCK | {"freeze_layers"}),
        ("mapping_kwargs", "a mapping network", _MAPPING),
        ("epilogue_kwargs", "a discriminator epilogue", _EPILOGUE),
    ):
        if key in result:
            result[key] = _checked(owner, result[key], known)
    _fill_defaults(result, _half_precision(record, (), result.get("img_resolution")))
    return result


def _augment_pipe(_: PersistentRecord, args: tuple[Any, ...], kwargs: Arguments) -> Arguments:
    """Arguments of our `AugmentPipe`, which are StyleGAN2-ADA's."""
    names = tuple(inspect.signature(persistence.own_class("AugmentPipe")).parameters)
    return _checked("an AugmentPipe", _named("AugmentPipe", names, args, kwargs), frozenset(names))


_TRANSLATIONS: dict[str, Callable[[PersistentRecord, tuple[Any, ...], Arguments], Arguments]] = {
    "Generator": _generator,
    "Discriminator": _discriminator,
    "AugmentPipe": _augment_pipe,
}
