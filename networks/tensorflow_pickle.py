"""Snapshots of the TensorFlow versions of StyleGAN2 and StyleGAN2-ADA.

They hold three objects of the class `dnnlib.tflib.network.Network`: G, D, and the running average
of G. Each has the arguments of its function (`static_kwargs`), its variables as arrays by name, and
the same for the networks inside it (`components`). Nothing of TensorFlow is needed to read them.

TensorFlow keeps dense weights as [in, out] and convolution kernels as [height, width, in, out]; it
upsamples with a correlation where StyleGAN2-ADA's PyTorch version convolves; and it stores the bias
of a style without its initial 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

import dnnlib
from torch_utils import persistence, snapshot_reader
from torch_utils.module_builder import StoredBytes, construct
from torch_utils.pickle_records import ObjectRecord, Refused
from torch_utils.safe_pickle import ArrayRecord

_CLASS = "dnnlib.tflib.network.Network"
_OLDEST_VERSION = 4

Arguments = dict[str, Any]
Rule = tuple[str, Callable[[torch.Tensor], torch.Tensor]]

# Our argument: (theirs, their default).
_GENERATOR = {
    "z_dim": ("latent_size", 512),
    "c_dim": ("label_size", 0),
    "w_dim": ("dlatent_size", 512),
    "img_resolution": ("resolution", 1024),
    "img_channels": ("num_channels", 3),
}
_GENERATOR_MAPPING = {
    "num_layers": ("mapping_layers", 8),
    "embed_features": ("label_fmaps", None),
    "layer_features": ("mapping_fmaps", None),
    "activation": ("mapping_nonlinearity", "lrelu"),
    "lr_multiplier": ("mapping_lrmul", 0.01),
    "w_avg_beta": ("w_avg_beta", 0.995),
}
_WIDTHS = {
    "channel_base": ("fmap_base", 16384),
    "channel_max": ("fmap_max", 512),
    "num_fp16_res": ("num_fp16_res", 0),
    "conv_clamp": ("conv_clamp", None),
}
_LAYERS = {
    "resample_filter": ("resample_kernel", (1, 3, 3, 1)),
    "activation": ("nonlinearity", "lrelu"),
}
_SYNTHESIS = {
    **_WIDTHS,
    **_LAYERS,
    "architecture": ("architecture", "skip"),
    "use_noise": ("use_noise", True),
}
_DISCRIMINATOR = {
    "c_dim": ("label_size", 0),
    "img_resolution": ("resolution", 1024),
    "img_channels": ("num_channels", 3),
    "architecture": ("architecture", "resnet"),
    **_WIDTHS,
    "cmap_dim": ("mapping_fmaps", None),
}
_DISCRIMINATOR_BLOCK = {**_LAYERS, "freeze_layers": ("freeze_layers", 0)}
_DISCRIMINATOR_MAPPING = {
    "num_layers": ("mapping_layers", 0),
    "embed_features": ("mapping_fmaps", None),
    "layer_features": ("mapping_fmaps", None),
    "activation": ("nonlinearity", "lrelu"),
    "lr_multiplier": ("mapping_lrmul", 0.1),
}
_EPILOGUE = {
    "mbstd_group_size": ("mbstd_group_size", None),
    "mbstd_num_channels": ("mbstd_num_features", 1),
    "activation": ("nonlinearity", "lrelu"),
}

# Arguments about training or about how to compute the same.
_GENERATOR_IGNORED = frozenset(
    (
        "conditioning",
        "fused_modconv",
        "structure",
        "style_mixing_prob",
        "truncation_cutoff",
        "truncation_psi",
    )
)
_DISCRIMINATOR_IGNORED = frozenset(("structure",))

# Left over from growing the network during training; the finished network has no use for them.
_UNUSED = re.compile(r"(.*/)?(lod|(ToRGB|FromRGB)_lod\d+/\w+)")


@snapshot_reader.object_importer(_CLASS)
def import_network(record: ObjectRecord, convert: snapshot_reader.Convert) -> nn.Module:
    """Builds our network for a TensorFlow one.

    Args:
        record: Its attributes as TensorFlow's version wrote them.
        convert: Turns values in it into what they stand for.

    Returns:
        A `Generator` or `Discriminator` in evaluation mode, without gradients.

    Raises:
        safe_pickle.Refused: It is neither, is too old, or has arguments or variables of another
            kind.
        dnnlib.UserError: The record is damaged.
    """
    state = _state(record)
    version = state.get("version")
    if not isinstance(version, int) or version < _OLDEST_VERSION:
        raise Refused(
            f"a TensorFlow network of version {str(version)[:20]}; the oldest that can be "
            f"converted is {_OLDEST_VERSION}"
        )
    given = convert(state.get("static_kwargs"))
    if not isinstance(given, dict):
        raise dnnlib.UserError("the file is damaged: a TensorFlow network without arguments")
    variables = _variables(record, set())
    if any(name.startswith("synthesis/") for name in variables):
        class_name, arguments, rule = "Generator", _generator_arguments(given), _generator_rule
    elif "Output/weight" in variables:
        class_name, rule = "Discriminator", _discriminator_rule
        arguments = _discriminator_arguments(given)
    else:
        raise Refused(f"the TensorFlow network {str(state.get('name'))[:80]!r}")
    stored = StoredBytes()
    for value in variables.values():
        if isinstance(value, ArrayRecord):
            stored.add(value)
    cls = persistence.own_class(class_name)
    try:
        network = construct(cls, (), arguments, stored.total)
    except persistence.Mismatch as error:
        raise Refused(f"a TensorFlow {class_name} of another kind ({error})") from None
    _fill(network, variables, rule)
    return network.eval().requires_grad_(False)


def _state(record: object) -> dict[str, Any]:
    if not isinstance(record, ObjectRecord) or record.class_name != _CLASS:
        raise dnnlib.UserError("the file is damaged: a TensorFlow network of unknown form")
    if not isinstance(record.state, dict):
        raise dnnlib.UserError("the file is damaged: a TensorFlow network without state")
    return record.state


def _variables(record: object, seen: set[int]) -> dict[str, Any]:
    """All variables of a network and of its components, `component/.../name`.

    Args:
        record: The network.
        seen: Identities of the networks met so far; shared ones could be endlessly many.
    """
    state = _state(record)
    own, components = state.get("variables", []), state.get("components", {})
    if id(record) in seen or not isinstance(own, list) or not isinstance(components, dict):
        raise dnnlib.UserError("the file is damaged: the variables of a TensorFlow network")
    seen.add(id(record))
    found: dict[str, Any] = {}
    for item in own:
        if not isinstance(item, (tuple, list)) or len(item) != 2 or not isinstance(item[0], str):
            raise dnnlib.UserError("the file is damaged: a variable of a TensorFlow network")
        found[item[0]] = item[1]
    for name, component in components.items():
        for key, value in _variables(component, seen).items():
            found[f"{name}/{key}"] = value
    return found


# Arguments.


def _take(given: Arguments, table: dict[str, tuple[str, Any]]) -> Arguments:
    return {ours: given.get(theirs, default) for ours, (theirs, default) in table.items()}


def _widths(arguments: Arguments) -> Arguments:
    """TensorFlow's fmap_base counts the channels at half the resolution."""
    base = arguments["channel_base"]
    if type(base) not in (int, float):
        raise dnnlib.UserError("the file is damaged: fmap_base is not a number")
    return {**arguments, "channel_base": int(base * 2)}


def _check_names(given: Arguments, tables: list[Any], ignored: frozenset[str], kind: str) -> None:
    known = {theirs for table in tables for theirs, _ in table.values()} | ignored
    for name in given:
        if name not in known:
            raise Refused(f"a TensorFlow {kind} with the argument {str(name)[:80]!r}")


def _generator_arguments(given: Arguments) -> Arguments:
    """Arguments of our `Generator`."""
    tables = [_GENERATOR, _GENERATOR_MAPPING, _SYNTHESIS]
    _check_names(given, tables, _GENERATOR_IGNORED, "generator")
    mapping = _take(given, _GENERATOR_MAPPING)
    if mapping["w_avg_beta"] is None:
        mapping["w_avg_beta"] = 1
    synthesis = _widths(_take(given, _SYNTHESIS))
    kwargs = {"mapping_kwargs": mapping, "synthesis_kwargs": synthesis}
    return {**_take(given, _GENERATOR), **kwargs}


def _discriminator_arguments(given: Arguments) -> Arguments:
    """Arguments of our `Discriminator`."""
    tables = [_DISCRIMINATOR, _DISCRIMINATOR_BLOCK, _DISCRIMINATOR_MAPPING, _EPILOGUE]
    _check_names(given, tables, _DISCRIMINATOR_IGNORED, "discriminator")
    return {
        **_widths(_take(given, _DISCRIMINATOR)),
        "block_kwargs": _take(given, _DISCRIMINATOR_BLOCK),
        "mapping_kwargs": _take(given, _DISCRIMINATOR_MAPPING),
        "epilogue_kwargs": _take(given, _EPILOGUE),
    }


# Variables.


def _same(x: torch.Tensor) -> torch.Tensor:
    return x


def _dense(x: torch.Tensor) -> torch.Tensor:
    return x.t()


def _kernel(x: torch.Tensor) -> torch.Tensor:
    return x.permute(3, 2, 0, 1)


def _reversed_kernel(x: torch.Tensor) -> torch.Tensor:
    return _kernel(x).flip((2, 3))


def _plus_one(x: torch.Tensor) -> torch.Tensor:
    return x + 1


def _first(x: torch.Tensor) -> torch.Tensor:
    return x[0]


def _first_of_first(x: torch.Tensor) -> torch.Tensor:
    return x[0, 0]


# The last parts of our names, theirs, and how the values change.
_LAST_PARTS: dict[str, Rule] = {
    "weight": ("weight", _kernel),
    "bias": ("bias", _same),
    "noise_strength": ("noise_strength", _same),
    "affine.weight": ("mod_weight", _dense),
    "affine.bias": ("mod_bias", _plus_one),
}
_DENSE_PARTS: dict[str, Rule] = {"weight": ("weight", _dense), "bias": ("bias", _same)}


def _generator_rule(name: str, img_resolution: int) -> list[Rule]:
    """Where a tensor of our `Generator` comes from: names that it may have, and the conversion."""
    if name == "mapping.w_avg":
        return [("dlatent_avg", _same)]
    if name == "synthesis.b4.const":
        return [("synthesis/4x4/Const/const", _first)]
    if found := re.fullmatch(r"mapping\.(embed|fc(\d+))\.(weight|bias)", name):
        layer = "LabelEmbed" if found[2] is None else f"Dense{found[2]}"
        last, change = _DENSE_PARTS[found[3]]
        return [(f"mapping/{layer}/{last}", change)]
    found = re.fullmatch(r"synthesis\.b(\d+)\.(conv0|conv1|torgb|skip)\.([a-z_.]+)", name)
    if found is None:
        return []
    resolution, layer, last = int(found[1]), found[2], found[3]
    scope = f"synthesis/{resolution}x{resolution}"
    if last == "noise_const":
        index = 2 * resolution.bit_length() - (7 if layer == "conv0" else 6)
        return [(f"synthesis/noise{max(index, 0)}", _first_of_first)]
    if last not in _LAST_PARTS:
        return []
    theirs, change = _LAST_PARTS[last]
    if layer == "torgb":
        level = img_resolution.bit_length() - resolution.bit_length()
        names = [f"{scope}/ToRGB", f"synthesis/ToRGB_lod{level}"]
        return [(f"{scope}/{theirs}", change) for scope in names]
    if last == "weight" and layer in ("conv0", "skip"):
        change = _reversed_kernel
    first = "Conv" if resolution == 4 else "Conv1"
    label = {"conv0": "Conv0_up", "conv1": first, "skip": "Skip"}[layer]
    return [(f"{scope}/{label}/{theirs}", change)]


def _discriminator_rule(name: str, img_resolution: int) -> list[Rule]:
    """As `_generator_rule`, for our `Discriminator`."""
    if found := re.fullmatch(r"mapping\.(embed|fc(\d+))\.(weight|bias)", name):
        layer = "LabelEmbed" if found[2] is None else f"Mapping{found[2]}"
        last, change = _DENSE_PARTS[found[3]]
        return [(f"{layer}/{last}", change)]
    if found := re.fullmatch(r"b4\.(fc|out)\.(weight|bias)", name):
        layer = {"fc": "4x4/Dense0", "out": "Output"}[found[1]]
        last, change = _DENSE_PARTS[found[2]]
        return [(f"{layer}/{last}", change)]
    found = re.fullmatch(r"b(\d+)\.(fromrgb|conv0|conv1|conv|skip)\.(weight|bias)", name)
    if found is None:
        return []
    resolution, layer = int(found[1]), found[2]
    last, change = _LAST_PARTS[found[3]]
    scope = f"{resolution}x{resolution}"
    if layer == "fromrgb":
        level = img_resolution.bit_length() - resolution.bit_length()
        return [(f"{s}/{last}", change) for s in (f"{scope}/FromRGB", f"FromRGB_lod{level}")]
    label = {"conv0": "Conv0", "conv1": "Conv1_down", "conv": "Conv", "skip": "Skip"}[layer]
    return [(f"{scope}/{label}/{last}", change)]


def _tensor(value: object, name: str) -> torch.Tensor:
    if isinstance(value, ArrayRecord):
        array = value.build()
    elif isinstance(value, (int, float)):
        array = np.asarray(value)
    else:
        raise dnnlib.UserError(f"the file is damaged: the variable {name[:80]!r} is not an array")
    return torch.from_numpy(array).float()


def _fill(
    network: nn.Module, variables: dict[str, Any], rule: Callable[[str, int], list[Rule]]
) -> None:
    """Copies the variables into the network; all of them, but for `_UNUSED`, must have a place."""
    kind = type(network).__name__
    unused = set(variables)
    with torch.no_grad():
        for name, target in network.state_dict().items():
            # Filters are computed by the constructor.
            if name.endswith("resample_filter"):
                continue
            rules = [item for item in rule(name, network.img_resolution) if item[0] in variables]
            if not rules:
                raise Refused(f"a TensorFlow {kind} without the variable for {name!r}")
            theirs, change = rules[0]
            unused.discard(theirs)
            try:
                value = change(_tensor(variables[theirs], theirs))
            except (RuntimeError, IndexError):
                raise _wrong_shape(kind, theirs) from None
            if value.shape != target.shape:
                raise _wrong_shape(kind, theirs)
            target.copy_(value)
    left = sorted(name for name in unused if not _UNUSED.fullmatch(name))
    if left:
        raise Refused(f"a TensorFlow {kind} with the variable {left[0][:80]!r}")


def _wrong_shape(kind: str, name: str) -> Refused:
    return Refused(f"a TensorFlow {kind} whose variable {name!r} has another shape than ours")
