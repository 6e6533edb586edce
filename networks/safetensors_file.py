"""Network snapshots as safetensors: plain tensors, and a description of the networks as JSON.

Tensors are called `G.synthesis...`, `G_ema...`, `D...`, `augment_pipe...`. The metadata of the
header has one entry, `inr-gan`, a JSON object:

    format            1
    networks          {name: {class, init_kwargs, requires_grad, training} or {same_as: name}}
    training_set_kwargs
    provenance        version of this project and of torch, time, file that it was made from

`requires_grad` and `training` are true, false, or the list of the parameters and modules for which
they are true. Values that JSON does not have are written as {"$": type, "value": ...}.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import nn

import dnnlib
from torch_utils import persistence
from torch_utils.module_builder import construct

NETWORKS = ("G", "D", "G_ema", "augment_pipe")

_KEY = "inr-gan"
_FORMAT = 1
_MAX_HEADER_BYTES = 64 << 20
_INSTALL = "install the package 'safetensors' first"


def is_safetensors(content: bytes) -> bool:
    """Whether the content of a file begins as this format does: a length, then JSON."""
    return content[8:9] == b"{" and int.from_bytes(content[:8], "little") < 1 << 40


def encode(data: Mapping[str, Any], provenance: Mapping[str, Any]) -> bytes:
    """Turns a snapshot into the content of a file.

    Args:
        data: training_set_kwargs, G, D, G_ema, augment_pipe; None where absent.
        provenance: Where it comes from: plain values.

    Raises:
        dnnlib.UserError: A network is not of this project, or an argument has no place in JSON.
    """
    try:
        import safetensors.torch
    except ImportError as error:
        raise dnnlib.UserError(f"cannot write .safetensors: {_INSTALL}") from error

    tensors: dict[str, torch.Tensor] = {}
    descriptions: dict[str, Any] = {}
    names_by_id: dict[int, str] = {}
    for name in NETWORKS:
        module = data.get(name)
        if module is None:
            continue
        if id(module) in names_by_id:
            descriptions[name] = {"same_as": names_by_id[id(module)]}
            continue
        names_by_id[id(module)] = name
        descriptions[name] = _describe(name, module)
        for key, tensor in module.state_dict().items():
            # A copy of its own: the format has neither views nor strides.
            tensors[f"{name}.{key}"] = (
                tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            )
    description = {
        "format": _FORMAT,
        "networks": descriptions,
        "training_set_kwargs": _to_json(data.get("training_set_kwargs"), "training_set_kwargs"),
        "provenance": dict(provenance),
    }
    text = json.dumps(description, allow_nan=False)
    return safetensors.torch.save(tensors, metadata={_KEY: text})


def decode(content: bytes) -> dict[str, Any]:
    """Turns the content of a file into a snapshot. Sizes are checked before anything is built.

    Args:
        content: The whole file.

    Returns:
        training_set_kwargs and the networks that the file holds, as they were written.

    Raises:
        dnnlib.UserError: The file is damaged, or was not written by this project.
    """
    description = _read_description(content)
    tensors = _read_tensors(content)
    networks = description.get("networks")
    if not isinstance(networks, dict) or not set(networks) <= set(NETWORKS):
        raise _damaged("its list of networks is not one")
    data: dict[str, Any] = {"training_set_kwargs": _plain(description.get("training_set_kwargs"))}
    for name, entry in networks.items():
        if not isinstance(entry, dict):
            raise _damaged(f"{name} has no description")
        if "same_as" in entry:
            other = entry["same_as"]
            if other not in NETWORKS or other not in data:
                raise _damaged(f"{name} is said to be the same as an unknown network")
            data[name] = data[other]
            continue
        own = [key for key in tensors if key.startswith(f"{name}.")]
        data[name] = _build(entry, {key[len(name) + 1 :]: tensors.pop(key) for key in own})
    if tensors:
        raise _damaged(f"the tensor {min(tensors)[:80]!r} belongs to no network")
    return data


def _damaged(detail: object) -> dnnlib.UserError:
    detail = " ".join(str(detail).split())
    return dnnlib.UserError(
        f"the file is not a network snapshot in safetensors format or is damaged ({detail[:200]})"
    )


# Writing.


def _describe(name: str, module: nn.Module) -> dict[str, Any]:
    if not persistence.is_persistent(module) or not _is_own(type(module)):
        raise dnnlib.UserError(
            f"{name} is a {type(module).__name__}; .safetensors files hold only networks of this "
            "project, so write a .pkl"
        )
    if module.init_args:
        raise dnnlib.UserError(f"{name} was built with arguments without names; write a .pkl")
    return {
        "class": type(module).__name__,
        "init_kwargs": _to_json(dict(module.init_kwargs), name),
        "requires_grad": _flags({k: p.requires_grad for k, p in module.named_parameters()}),
        "training": _flags({k: m.training for k, m in module.named_modules()}),
    }


def _is_own(cls: type) -> bool:
    try:
        return persistence.own_class(cls.__name__) is cls
    except dnnlib.UserError:
        return False


def _flags(values: dict[str, bool]) -> bool | list[str]:
    true = [name for name, value in values.items() if value]
    return true if 0 < len(true) < len(values) else bool(true)


def _to_json(value: Any, where: str) -> Any:
    """The value in JSON's types; `where` names its owner in the error message."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$": "float", "value": repr(value)}
    if isinstance(value, list):
        return [_to_json(item, where) for item in value]
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value) and "$" not in value:
            return {key: _to_json(item, where) for key, item in value.items()}
        pairs = [[_to_json(key, where), _to_json(item, where)] for key, item in value.items()]
        return {"$": "dict", "value": pairs}
    if isinstance(value, tuple):
        return {"$": "tuple", "value": [_to_json(item, where) for item in value]}
    if isinstance(value, Fraction):
        return {"$": "Fraction", "value": [value.numerator, value.denominator]}
    if isinstance(value, torch.dtype):
        return {"$": "dtype", "value": str(value).removeprefix("torch.")}
    raise dnnlib.UserError(
        f"an argument of {where} is a {type(value).__name__}, which .safetensors files cannot "
        "hold; write a .pkl"
    )


# Reading.


def _plain(value: Any) -> Any:
    """The inverse of `_to_json`."""
    try:
        return _from_json(value)
    except (TypeError, ZeroDivisionError) as error:
        # A list as a key; a fraction of nothing.
        raise _damaged(f"an argument of unknown type: {error}") from None


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "$" not in value:
        return {key: _from_json(item) for key, item in value.items()}
    kind, content = value["$"], value.get("value")
    if kind == "float" and content in ("inf", "-inf", "nan"):
        return float(content)
    if kind == "dtype" and isinstance(getattr(torch, str(content), None), torch.dtype):
        return getattr(torch, content)
    if isinstance(content, list):
        items = [_from_json(item) for item in content]
        if kind == "tuple":
            return tuple(items)
        if kind == "Fraction" and len(items) == 2 and all(type(i) is int for i in items):
            return Fraction(*items)
        if kind == "dict" and all(isinstance(i, list) and len(i) == 2 for i in items):
            return dict(items)
    raise _damaged(f"an argument of unknown type {str(kind)[:40]!r}")


def _parse(text: str | bytes) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise _damaged(f"{twice[:80]!r} is in it twice")
        return found

    def constant(name: str) -> Any:
        raise _damaged(f"the number {name}")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise _damaged(error) from None


def _read_description(content: bytes) -> dict[str, Any]:
    """Checks the header and returns our own part of it."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > min(len(content) - 8, _MAX_HEADER_BYTES):
        raise _damaged("its header is incomplete")
    header = _parse(content[8 : 8 + length])
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    text = metadata.get(_KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise dnnlib.UserError(
            "the file holds tensors but does not say of which networks; only .safetensors files "
            "that this project wrote are snapshots"
        )
    description = _parse(text)
    if not isinstance(description, dict) or description.get("format") != _FORMAT:
        found = description.get("format") if isinstance(description, dict) else None
        raise dnnlib.UserError(
            f"the file has format {str(found)[:20]} of this project's .safetensors snapshots; this "
            f"version reads format {_FORMAT}"
        )
    return description


def _read_tensors(content: bytes) -> dict[str, torch.Tensor]:
    """All tensors; the library compares every shape and offset with the bytes that are there."""
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise dnnlib.UserError(f"cannot read .safetensors: {_INSTALL}") from error
    try:
        return safetensors.torch.load(content)
    except (safetensors.SafetensorError, KeyError, RuntimeError, ValueError, TypeError) as error:
        raise _damaged(error) from None


def _build(entry: dict[str, Any], tensors: dict[str, torch.Tensor]) -> nn.Module:
    """Builds the network that `entry` describes and fills it."""
    if not isinstance(entry.get("class"), str):
        raise _damaged("a network without class")
    cls = persistence.own_class(entry["class"])
    nbytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    network = construct(cls, (), _plain(entry.get("init_kwargs")), nbytes)
    if not isinstance(network, nn.Module):
        raise _damaged(f"a {entry['class'][:80]!r} is no network")
    here = network.state_dict()
    for name, tensor in tensors.items():
        # In the memory format that the constructor chose.
        if name in here and here[name].shape == tensor.shape:
            tensors[name] = torch.empty_like(here[name], dtype=tensor.dtype).copy_(tensor)
    requires_grad = _chosen(entry.get("requires_grad"), dict(network.named_parameters()))
    training = _chosen(entry.get("training"), dict(network.named_modules()))
    for name, parameter in network.named_parameters():
        if name in tensors and requires_grad[name] and not tensors[name].is_floating_point():
            raise _damaged(f"{name} of {tensors[name].dtype} with a gradient")
        parameter.requires_grad_(False)
    persistence.fill_module(network, tensors, requires_grad, training)
    return network


def _chosen(flags: object, names: Mapping[str, object]) -> dict[str, bool]:
    """The inverse of `_flags`."""
    if isinstance(flags, bool):
        return dict.fromkeys(names, flags)
    if not isinstance(flags, list) or not set(names).issuperset(map(str, flags)):
        raise _damaged("the flags of a network are not those of its parts")
    true = set(map(str, flags))
    return {name: name in true for name in names}
