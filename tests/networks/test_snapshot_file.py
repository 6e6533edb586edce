"""Snapshots as files: both formats, there and back, and hostile safetensors files."""

from __future__ import annotations

import json
import pickle
import re
import tracemalloc
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

import dnnlib
import networks
from networks import safetensors_file, snapshot_file
from networks.snapshot_file import read_generator, read_snapshot, write_snapshot
from tests import golden_files
from training import AugmentPipe

KEYS = ["training_set_kwargs", "G", "D", "G_ema", "augment_pipe"]


def make_generator(preset: str = "stylegan2", **synthesis_kwargs: Any) -> nn.Module:
    return networks.build_generator(
        preset, z_dim=4, c_dim=2, w_dim=4, img_resolution=16, img_channels=1,
        mapping_kwargs={"num_layers": 1},
        synthesis_kwargs={"channel_base": 64, "channel_max": 8, **synthesis_kwargs},
    )  # fmt: skip


def make_discriminator(**kwargs: Any) -> nn.Module:
    return networks.build_discriminator(
        c_dim=2, img_resolution=16, img_channels=1, channel_base=64, channel_max=8, **kwargs
    )


def make_snapshot() -> dict[str, Any]:
    """With everything that a file has to keep: dtypes, flags, memory formats, odd arguments."""
    G = make_generator("inr-gan").eval().requires_grad_(False)
    G.synthesis.b8.train()
    D = make_discriminator(
        num_fp16_res=1, block_kwargs={"freeze_layers": 2, "fp16_channels_last": True}
    )
    D.b4.out.half()
    G_ema = make_generator(resample_filter=(1, 2, 1), conv_clamp=float("inf")).requires_grad_(False)
    pipe = AugmentPipe(xflip=1, imgfilter_bands=[1, 0, 1, 1]).eval()
    pipe.p.fill_(0.25)
    kwargs = {
        "path": "x.zip",
        "max_size": 10**9,
        "sizes": (1, 2.5, None),
        "by": {3: Fraction(1, 3)},
    }
    return {"training_set_kwargs": kwargs, "G": G, "D": D, "G_ema": G_ema, "augment_pipe": pipe}


def assert_same(new: dict[str, Any], old: dict[str, Any]) -> None:
    assert list(new) == list(old) == KEYS
    assert new["training_set_kwargs"] == old["training_set_kwargs"]
    assert repr(new["training_set_kwargs"]) == repr(old["training_set_kwargs"])
    for name in KEYS[1:]:
        if old[name] is None:
            assert new[name] is None
            continue
        assert type(new[name]) is type(old[name])
        assert repr(new[name].init_kwargs) == repr(old[name].init_kwargs)
        assert new[name].state_dict().keys() == old[name].state_dict().keys()
        for key, value in old[name].state_dict().items():
            found = new[name].state_dict()[key]
            assert found.dtype == value.dtype and torch.equal(found, value), (name, key)
            assert found.stride() == value.stride(), (name, key)
        for attribute in ("named_parameters", "named_modules", "named_buffers"):
            pairs = zip(getattr(new[name], attribute)(), getattr(old[name], attribute)())
            for (key, here), (other_key, there) in pairs:
                assert key == other_key
                assert getattr(here, "requires_grad", 0) == getattr(there, "requires_grad", 0)
                assert getattr(here, "training", 0) == getattr(there, "training", 0)


def test_from_pickle_to_safetensors_and_back(tmp_path):
    old = data = make_snapshot()
    for name in ("a.pkl", "b.safetensors", "c.pkl"):
        write_snapshot(str(tmp_path / name), data)
        data = read_snapshot(str(tmp_path / name))
        assert_same(data, old)
    img = torch.randn([2, 1, 16, 16])
    c = torch.eye(2)
    assert torch.equal(data["D"].float()(img, c), old["D"].float()(img, c))


@pytest.mark.parametrize("name", ["sg2c", "inr-gan-bil"])
def test_files_of_other_programs_become_safetensors(tmp_path, name):
    old = read_snapshot(str(golden_files.FOLDER / f"foreign_{name}.pkl"))
    write_snapshot(str(tmp_path / "x.safetensors"), old)
    new = read_snapshot(str(tmp_path / "x.safetensors"))
    assert_same(new, old)
    z, c = torch.randn([2, 24]), torch.randn([2, old["G"].c_dim])
    kwargs = {"truncation_psi": 0.7, "noise_mode": "const"}
    assert torch.equal(new["G_ema"](z, c, **kwargs), old["G_ema"](z, c, **kwargs))


@pytest.mark.parametrize("suffix", [".pkl", ".safetensors"])
def test_a_generator_alone_is_enough(tmp_path, suffix):
    G = make_generator()
    path = str(tmp_path / f"G{suffix}")
    write_snapshot(path, {"G_ema": G})
    data = read_snapshot(path)
    assert list(data) == KEYS and data["G"] is None and data["D"] is None
    network = read_generator(path)
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    assert torch.equal(network.synthesis.b8.conv0.weight, G.synthesis.b8.conv0.weight)


@pytest.mark.parametrize("suffix", [".pkl", ".safetensors"])
def test_a_network_under_two_names_is_stored_once(tmp_path, suffix):
    path = tmp_path / f"G{suffix}"
    write_snapshot(str(path), {"G": make_generator()})
    once = path.stat().st_size
    data = read_snapshot(str(path))
    assert data["G_ema"] is data["G"]
    write_snapshot(str(path), data)
    assert path.stat().st_size < 1.2 * once
    data = read_snapshot(str(path))
    assert data["G_ema"] is data["G"]


def test_the_header_says_what_and_from_where(tmp_path):
    source, dest = tmp_path / "in.pkl", tmp_path / "out.safetensors"
    write_snapshot(str(source), {"G_ema": make_generator()})
    made_from = snapshot_file.identify(str(source))
    write_snapshot(str(dest), read_snapshot(str(source)), made_from=made_from)
    with safetensors.safe_open(dest, "pt") as file:
        metadata = file.metadata()
        names = set(file.keys())
    assert "G_ema.synthesis.b8.conv0.weight" in names
    assert list(metadata) == ["inr-gan"]
    description = json.loads(metadata["inr-gan"])
    assert set(description) == {"format", "networks", "training_set_kwargs", "provenance"}
    entry = description["networks"]["G_ema"]
    assert set(entry) == {"class", "init_kwargs", "requires_grad", "training"}
    assert entry["class"] == "Generator" and entry["init_kwargs"]["z_dim"] == 4
    provenance = description["provenance"]
    assert set(provenance) == {"version", "torch", "created", "source", "source_sha256"}
    assert provenance["source"] == "in.pkl" and len(provenance["source_sha256"]) == 64
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", provenance["created"])


@pytest.mark.parametrize("suffix", [".pkl", ".safetensors"])
def test_messages_begin_with_the_option_and_the_file(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    for content in (None, b"", b"rubbish", b"\x80\x04}."):
        if content is not None:
            path.write_bytes(content)
        for read in (read_snapshot, read_generator):
            with pytest.raises(dnnlib.UserError) as caught:
                read(str(path), option="--resume")
            assert str(caught.value).startswith(f"--resume={path}: ")
            assert "\n" not in str(caught.value)
    with pytest.raises(dnnlib.UserError, match=r"^--network=.*: cannot open"):
        read_snapshot(str(tmp_path))


def test_files_that_cannot_be_written(tmp_path):
    with pytest.raises(dnnlib.UserError, match=r"must end in \.pkl or \.safetensors, got"):
        write_snapshot(str(tmp_path / "x.pt"), {"G_ema": make_generator()})
    with pytest.raises(dnnlib.UserError, match="cannot be written"):
        write_snapshot(str(tmp_path / "no" / "x.safetensors"), {"G_ema": make_generator()})
    for data, message in (
        ({"G_ema": nn.Linear(2, 2)}, "G_ema is a Linear; .* write a .pkl"),
        ({"training_set_kwargs": {"a": {1, 2}}}, "an argument of training_set_kwargs is a set"),
    ):
        with pytest.raises(dnnlib.UserError, match=message):
            write_snapshot(str(tmp_path / "x.safetensors"), data)
    assert list(tmp_path.iterdir()) == []


# Hostile files.


def split(content: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def join(header: dict[str, Any] | str, body: bytes) -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return len(text).to_bytes(8, "little") + text + body


@pytest.fixture(scope="module")
def sound() -> bytes:
    return safetensors_file.encode({"G_ema": make_generator()}, {"version": "1"})


def altered(content: bytes, change: Any) -> bytes:
    """The file after `change(description, header)`."""
    header, body = split(content)
    description = json.loads(header["__metadata__"]["inr-gan"])
    change(description, header)
    header["__metadata__"]["inr-gan"] = json.dumps(description)
    return join(header, body)


def hostile_descriptions() -> dict[str, tuple[Any, str]]:
    def kwargs(**more: Any) -> Any:
        return lambda d, h: d["networks"]["G_ema"]["init_kwargs"].update(more)

    def entry(**more: Any) -> Any:
        return lambda d, h: d["networks"]["G_ema"].update(more)

    weight = "G_ema.synthesis.b8.conv0.weight"
    return {
        "huge width": (
            kwargs(synthesis_kwargs={"channel_base": 4000000, "channel_max": 4000000}),
            "far larger than its tensors",
        ),
        "huge label": (kwargs(c_dim=4000000, w_dim=4000000), "far larger than its tensors"),
        "many layers": (kwargs(mapping_kwargs={"num_layers": 4000000}), "far larger"),
        "enormous number": (kwargs(mapping_kwargs={"num_layers": 10**9}), "enormous number"),
        "enormous image": (kwargs(img_resolution=2**80), "enormous number"),
        "many arguments": (kwargs(mapping_kwargs={"x": [0] * 200000}), "more than 100000"),
        "unknown argument": (kwargs(exec="import os"), "Generator cannot be built: TypeError"),
        "unknown preset": (kwargs(preset="os.system"), "unknown generator preset"),
        "unknown class": (entry(**{"class": "os.system"}), "class 'os.system' that this version"),
        "another class": (entry(**{"class": "Discriminator"}), "Discriminator cannot be built"),
        "class is a number": (entry(**{"class": 3}), "a network without class"),
        "no arguments": (entry(init_kwargs=[1]), "is damaged"),
        "flags of others": (entry(training=["os"]), "flags of a network"),
        "flags of lists": (entry(requires_grad=[["a"]]), "flags of a network"),
        "strange value": (kwargs(z_dim={"$": "os.system", "value": "x"}), "unknown type"),
        "hidden dtype": (kwargs(z_dim={"$": "dtype", "value": "load"}), "unknown type"),
        "lists as keys": (kwargs(z_dim={"$": "dict", "value": [[[1], 2]]}), "unknown type"),
        "no fraction": (kwargs(z_dim={"$": "Fraction", "value": [1, 0]}), "unknown type"),
        "newer format": (lambda d, h: d.update(format=2), "format 2 of this project"),
        "no networks": (lambda d, h: d.update(networks=[]), "list of networks"),
        "unknown network": (lambda d, h: d["networks"].update(E={}), "list of networks"),
        "same as nothing": (entry(same_as="D"), "same as an unknown network"),
        "same as a list": (entry(same_as=["G"]), "same as an unknown network"),
        "same as itself": (entry(same_as="G_ema"), "same as an unknown network"),
        "huge shape": (
            lambda d, h: h[weight].update(shape=[1 << 40, 1 << 40]),
            "safetensors format or is damaged",
        ),
        "wrong shape": (lambda d, h: h[weight]["shape"].reverse(), r"has shape \[3, 3,"),
        "wrong offset": (
            lambda d, h: h[weight].update(data_offsets=[0, 1 << 60]),
            "safetensors format or is damaged",
        ),
        "unknown dtype": (lambda d, h: h[weight].update(dtype="OBJECT"), "is damaged"),
        "integers with gradients": (
            lambda d, h: (
                h[weight].update(dtype="I32"),
                d["networks"]["G_ema"].update(requires_grad=True),
            ),
            "of torch.int32 with a gradient",
        ),
        "missing tensor": (
            lambda d, h: h.update({"G_ema.x": h.pop(weight)}),
            "unexpected tensor 'x'|lacks tensor",
        ),
        "tensor of nobody": (lambda d, h: h.update(x=h.pop(weight)), "lacks tensor|to no network"),
    }


@pytest.mark.parametrize("name", hostile_descriptions())
def test_hostile_descriptions_are_refused_and_cost_nothing(sound, name):
    change, message = hostile_descriptions()[name]
    content = altered(sound, change)
    snapshot_file.decode_snapshot(sound)
    tracemalloc.start()
    try:
        with pytest.raises(dnnlib.UserError, match=message) as caught:
            snapshot_file.decode_snapshot(content)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert peak < (64 << 20) + 20 * len(content)


def hostile_headers(sound: bytes) -> dict[str, tuple[bytes, str]]:
    header, body = split(sound)
    text = json.dumps(header)
    twice = (
        text[:-1] + ', "G_ema.mapping.w_avg": ' + json.dumps(header["G_ema.mapping.w_avg"]) + "}"
    )
    metadata = header["__metadata__"]["inr-gan"]
    inner = json.dumps(metadata[:-1] + ', "format": 1}')
    return {
        "header longer than the file": ((1 << 39).to_bytes(8, "little") + b"{}", "header"),
        "truncated header": (sound[:100], "header is incomplete"),
        "truncated tensors": (sound[:-5], "is damaged"),
        "names twice": (join(twice, body), "'G_ema.mapping.w_avg' is in it twice"),
        "keys twice": (join(text.replace(json.dumps(metadata), inner), body), "'format' is in it"),
        "not a number": (join('{"__metadata__": NaN}', b""), "the number NaN"),
        "deep": (join("{" + '"a":{' * 100000 + "}" * 100001, b""), "is damaged"),
        "list": (join('{"__metadata__": []}', b""), "does not say of which networks"),
        "tensors of somebody else": (
            safetensors.torch.save({"a": torch.zeros(2)}, metadata={"format": "pt"}),
            "only .safetensors files that this project wrote",
        ),
        "deep description": (
            join({"__metadata__": {"inr-gan": "[" * 100000 + "]" * 100000}}, b""),
            "is damaged",
        ),
        "description of a number": (join({"__metadata__": {"inr-gan": "3"}}, b""), "has format"),
        "not text": (b"\x04\0\0\0\0\0\0\0{\xff\xff}", "is damaged"),
    }  # fmt: skip


def test_hostile_headers_are_refused(sound):
    for name, (content, message) in hostile_headers(sound).items():
        with pytest.raises(dnnlib.UserError, match=message) as caught:
            snapshot_file.decode_snapshot(content)
        assert "\n" not in str(caught.value), name


def test_a_pickle_called_safetensors_is_still_read_as_what_it_is(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(pickle.dumps({"G_ema": make_generator()}))
    assert read_generator(str(path)).z_dim == 4


def test_the_number_of_arguments_is_limited_also_where_they_are_shared(tmp_path):
    """Lists in lists: 60 bytes, and 2^60 values."""
    nested: list[Any] = []
    for _ in range(60):
        nested = [nested, nested]
    path: Path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"G": make_generator(), "training_set_kwargs": {"a": nested}}))
    with pytest.raises(dnnlib.UserError, match="more than 100000 arguments"):
        read_snapshot(str(path))
