"""`legacy.load_network_pkl` and the command that rewrites snapshots."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import json
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from click.testing import CliRunner

import dnnlib
import legacy
import networks
from networks.snapshot_file import read_snapshot
from torch_utils import persistence

KEYS = ["training_set_kwargs", "G", "D", "G_ema", "augment_pipe"]


def make_generator(preset: str = "stylegan2", **synthesis_kwargs: Any) -> torch.nn.Module:
    small = {"channel_base": 64, "channel_max": 8, **synthesis_kwargs}
    G = networks.build_generator(
        preset,
        z_dim=4,
        c_dim=0,
        w_dim=4,
        img_resolution=16,
        img_channels=1,
        mapping_kwargs={"num_layers": 1},
        synthesis_kwargs=small,
    )
    return G.eval().requires_grad_(False)


def make_discriminator(**kwargs: Any) -> torch.nn.Module:
    D = networks.build_discriminator(
        c_dim=0, img_resolution=16, img_channels=1, channel_base=64, channel_max=8, **kwargs
    )
    return D.eval().requires_grad_(False)


def load(data: object, **kwargs: Any) -> dict[str, Any]:
    return legacy.load_network_pkl(io.BytesIO(pickle.dumps(data)), **kwargs)


def test_whole_snapshots_come_back():
    G, D = make_generator(), make_discriminator()
    data = load({"training_set_kwargs": {"path": "x.zip"}, "G": G, "D": D, "G_ema": G, "more": 3})
    assert list(data) == [*KEYS, "more"]
    assert data["training_set_kwargs"] == {"path": "x.zip"} and data["augment_pipe"] is None
    z = torch.randn([2, 4])
    assert torch.equal(data["G_ema"](z, None, noise_mode="const"), G(z, None, noise_mode="const"))
    img = torch.randn([2, 1, 16, 16])
    assert torch.equal(data["D"](img, None), D(img, None))


@pytest.mark.parametrize("names", [("G_ema",), ("G",), ("G", "G_ema")])
def test_files_with_only_a_generator_are_fine(names):
    data = load(dict.fromkeys(names, make_generator()))
    assert list(data) == KEYS
    assert data["D"] is None and data["training_set_kwargs"] is None
    assert type(data["G_ema"]) is networks.Generator
    assert (data["G"] is None) == ("G" not in names)


@pytest.mark.parametrize(
    "data, message",
    [
        ([1, 2], "holds a list, not the dict"),
        ({}, "no generator"),
        ({"D": None}, "no generator"),
        ({"G_ema": 3}, "'G_ema' in the file is a int, not a network"),
        ({"G": None, "augment_pipe": "bgc"}, "'augment_pipe' in the file is a str"),
        ({"G": None, "training_set_kwargs": [1]}, "'training_set_kwargs' in the file is a list"),
    ],
)
def test_other_pickles_are_refused(data, message):
    with pytest.raises(dnnlib.UserError, match=message):
        load(data)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", b"<html>", b"\x80\x04}"])
def test_garbage_is_refused(content):
    with pytest.raises(dnnlib.UserError, match="not a network snapshot, is damaged"):
        legacy.load_network_pkl(io.BytesIO(content))


def test_force_fp16_rebuilds_stylegan2_and_the_discriminator():
    G, D = make_generator(), make_discriminator(num_fp16_res=1)
    data = load({"G": G, "D": D, "G_ema": G}, force_fp16=True)
    for name, old in {"G": G, "D": D, "G_ema": G}.items():
        new = data[name]
        assert new.state_dict().keys() == old.state_dict().keys()
        for key, value in old.state_dict().items():
            assert torch.equal(new.state_dict()[key], value)
        assert not new.training and not any(p.requires_grad for p in new.parameters())
    for synthesis in (data["G"].synthesis, data["G_ema"].synthesis):
        assert [getattr(synthesis, f"b{r}").use_fp16 for r in (4, 8, 16)] == [False, True, True]
        assert synthesis.b16.conv1.conv_clamp == 256
    assert data["G"].init_kwargs.synthesis_kwargs["num_fp16_res"] == 4
    assert data["G"].init_kwargs.synthesis_kwargs["channel_max"] == 8
    assert data["D"].b16.use_fp16 and data["D"].b8.use_fp16
    assert not G.synthesis.b16.use_fp16


def test_force_fp16_changes_nothing_where_it_has_no_meaning():
    continuous = make_generator("inr-gan")
    already = make_discriminator(num_fp16_res=4, conv_clamp=256)
    data = load({"G_ema": continuous, "D": already}, force_fp16=True)
    assert data["G_ema"].init_kwargs == continuous.init_kwargs
    assert data["D"].init_kwargs == already.init_kwargs
    z = torch.randn([1, 4])
    assert torch.equal(data["G_ema"](z, None), continuous(z, None))


def test_force_fp16_keeps_one_network_one():
    data = load({"G": make_generator()}, force_fp16=True)
    assert data["G_ema"] is data["G"] and data["G"].synthesis.b16.use_fp16


def run(*arguments: str) -> Any:
    return CliRunner().invoke(legacy.main, list(arguments))


@pytest.fixture
def snapshot(tmp_path) -> Path:
    path = tmp_path / "network-snapshot-000001.pkl"
    path.write_bytes(pickle.dumps({"G_ema": make_generator(), "D": make_discriminator()}))
    return path


def test_the_command_rewrites_a_snapshot(snapshot, tmp_path):
    dest = tmp_path / "new.pkl"
    result = run("--source", str(snapshot), "--dest", str(dest), "--force-fp16=True")
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == [
        f'Loading "{snapshot}"...',
        f'Saving "{dest}"...',
        "Done.",
    ]
    data = persistence.read(dest.read_bytes())
    assert list(data) == KEYS
    assert data["G_ema"].synthesis.b16.use_fp16


def test_the_command_goes_there_and_back(snapshot, tmp_path):
    old = read_snapshot(str(snapshot))
    there, back = tmp_path / "x.safetensors", tmp_path / "x.pkl"
    for source, dest in ((snapshot, there), (there, back)):
        result = run("--source", str(source), "--dest", str(dest))
        assert result.exit_code == 0, result.output
    with open(there, "rb") as file:
        from_file = legacy.load_network_pkl(file)
    for new in (read_snapshot(str(back)), from_file):
        for name in ("G_ema", "D"):
            assert new[name].init_kwargs == old[name].init_kwargs
            assert new[name].state_dict().keys() == old[name].state_dict().keys()
            for key, value in old[name].state_dict().items():
                assert torch.equal(new[name].state_dict()[key], value), key
    with safetensors.safe_open(there, "pt") as file:
        provenance = json.loads(file.metadata()["inr-gan"])["provenance"]
    assert provenance["source"] == snapshot.name
    assert provenance["source_sha256"] == hashlib.sha256(snapshot.read_bytes()).hexdigest()


@pytest.mark.parametrize("suffix", [".pkl", ".safetensors"])
def test_the_generator_alone(snapshot, tmp_path, suffix):
    dest = tmp_path / f"G{suffix}"
    result = run("--source", str(snapshot), "--dest", str(dest), "--g-only")
    assert result.exit_code == 0, result.output
    data = read_snapshot(str(dest))
    assert data["G"] is None and data["D"] is None and data["G_ema"].z_dim == 4
    assert dest.stat().st_size < snapshot.stat().st_size


def test_the_source_may_be_a_url(snapshot, tmp_path, monkeypatch):
    monkeypatch.setenv("DNNLIB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    handler = functools.partial(QuietHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{snapshot.name}"
        result = run("--source", url, "--dest", str(tmp_path / "x.safetensors"))
        server.shutdown()
    assert result.exit_code == 0, result.output
    with safetensors.safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert json.loads(file.metadata()["inr-gan"])["provenance"]["source"] == url


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nothing on the console."""


@pytest.mark.parametrize("spelling", ["--force-fp16", "--force_fp16"])
def test_both_spellings_of_options_work(snapshot, tmp_path, spelling):
    result = run(f"--source={snapshot}", f"--dest={tmp_path / 'new.pkl'}", spelling, "0")
    assert result.exit_code == 0, result.output
    assert not persistence.read((tmp_path / "new.pkl").read_bytes())["G_ema"].synthesis.b16.use_fp16


@pytest.mark.parametrize(
    "source, dest, message",
    [
        ("missing.pkl", "new.pkl", "missing.pkl"),
        ("garbage.pkl", "new.pkl", "--source=garbage.pkl: the file is not a network snapshot"),
        ("foreign.pkl", "new.pkl", "'Net' with source code of its own"),
        ("network-snapshot-000001.pkl", "new.zip", "--dest must end in .pkl or .safetensors, got"),
        ("network-snapshot-000001.pkl", "missing/new.pkl", "cannot be written"),
        ("network-snapshot-000001.pkl", "missing/new.safetensors", "cannot be written"),
        ("garbage.safetensors", "new.pkl", "--source=garbage.safetensors: the file is not a"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    snapshot, tmp_path, monkeypatch, source, dest, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "garbage.pkl").write_bytes(b"garbage")
    (tmp_path / "garbage.safetensors").write_bytes(b"garbage")
    meta = {"type": "class", "version": 6, "module_src": "x = 1", "class_name": "Net", "state": {}}
    call = b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n"
    (tmp_path / "foreign.pkl").write_bytes(call + b"(" + pickle.dumps(meta, 0)[:-1] + b"tR.")
    before = sorted(tmp_path.rglob("*"))
    result = run("--source", source, "--dest", dest)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("Error: ") and message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before
