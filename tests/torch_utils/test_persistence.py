"""Persistent classes, and reading pickles without running what is in them."""

from __future__ import annotations

import copy
import io
import os
import pickle
import subprocess
import sys
import uuid
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import dnnlib
from torch_utils import persistence, snapshot_reader

TOY_TEXT = f"{persistence.BUNDLE_HEADER}\nraise RuntimeError('the bundle was run')\n"
toy_text = TOY_TEXT


class ToyLayer(nn.Module):
    def __init__(self, features: int, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = gain
        self.weight = nn.Parameter(torch.randn([features, features]))
        self.register_buffer("count", torch.zeros([], dtype=torch.int64))
        self.register_buffer("table", torch.arange(features), persistent=False)
        self.empty = None


class ToyNetwork(nn.Module):
    def __init__(self, features: int, *, options: dict[str, Any] | None = None, **more: Any):
        super().__init__()
        self.layers = nn.ModuleList([ToyLayer(features), ToyLayer(features, gain=2.0)])
        self.out = nn.Linear(features, 2)
        self.scale = (options or {}).get("scale", 1.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.tanh(x @ layer.weight * layer.gain) + layer.table
        return self.out(x) * self.scale


class ToySubclass(ToyNetwork):
    def __init__(self, features: int) -> None:
        super().__init__(features, options={"scale": 3.0})


persistence.register(
    [ToyLayer, ToyNetwork, ToySubclass], source=lambda: toy_text, module=ToyLayer.__module__
)


def make_toy() -> ToyNetwork:
    net = ToyNetwork(4, options=dnnlib.EasyDict(scale=np.float64(0.5)))
    net.layers[1].count.fill_(7)
    net.layers[0].eval()
    net.layers[0].weight.requires_grad_(False)
    net.out.to(memory_format=torch.contiguous_format)
    return net


def assert_same_network(new: nn.Module, old: nn.Module) -> None:
    assert type(new) is type(old)
    x = torch.randn([3, 4], generator=torch.Generator().manual_seed(1))
    assert torch.equal(new(x), old(x))
    assert new.state_dict().keys() == old.state_dict().keys()
    for name, value in old.state_dict().items():
        assert torch.equal(new.state_dict()[name], value), name
    assert [p.requires_grad for p in new.parameters()] == [
        p.requires_grad for p in old.parameters()
    ]
    assert [m.training for m in new.modules()] == [m.training for m in old.modules()]
    assert new.init_kwargs == old.init_kwargs


def test_constructor_arguments_are_recorded_by_name_and_copied():
    options = dnnlib.EasyDict(scale=np.float64(0.5), sizes=[1, 2])
    net = ToyNetwork(np.int64(4), options=options, extra=(1, 2))
    options.sizes.append(3)
    assert net.init_args == ()
    expected = {"features": 4, "options": {"scale": 0.5, "sizes": [1, 2]}, "extra": (1, 2)}
    assert net.init_kwargs == expected
    assert type(net._init_kwargs["features"]) is int
    assert type(net._init_kwargs["options"]) is dict
    net.init_kwargs.options["sizes"].append(9)
    assert net.init_kwargs == expected
    rebuilt = type(net)(*net.init_args, **net.init_kwargs)
    assert rebuilt.init_kwargs == expected


def test_only_the_outermost_constructor_call_is_recorded():
    assert ToySubclass(4).init_kwargs == {"features": 4}
    assert persistence.is_persistent(ToySubclass) and persistence.is_persistent(ToySubclass(4))
    assert not persistence.is_persistent(nn.Linear) and not persistence.is_persistent(3)


def test_arguments_that_cannot_be_pickled_are_refused_at_construction():
    with pytest.raises(TypeError, match="cannot be pickled"):
        ToyNetwork(4, extra=lambda: None)


def test_registering_twice_does_nothing_and_a_second_class_of_a_name_is_refused():
    constructor = ToyLayer.__init__
    persistence.register([ToyLayer], source=lambda: "", module=ToyLayer.__module__)
    assert ToyLayer.__init__ is constructor
    other = type("ToyLayer", (nn.Module,), {"__module__": ToyLayer.__module__})
    with pytest.raises(ValueError, match="two persistent classes"):
        persistence.register([other], source=lambda: "", module=ToyLayer.__module__)
    with pytest.raises(ValueError, match="is defined in"):
        persistence.register([nn.Linear], source=lambda: "", module="here")


def test_an_object_built_before_registration_says_so():
    net = ToyNetwork.__new__(ToyNetwork)
    nn.Module.__init__(net)
    with pytest.raises(TypeError, match="before its class became persistent"):
        pickle.dumps(net)


def test_meta_is_a_plain_dict_of_the_documented_form():
    net = make_toy()
    function, (meta,), state = net.__reduce_ex__(4)[:3]
    assert (function.__module__, function.__name__) == (
        "torch_utils.persistence",
        "_reconstruct_persistent_obj",
    )
    assert state is None and type(meta) is dict and type(meta["state"]) is dict
    assert list(meta) == ["type", "version", "module_src", "class_name", "state"]
    assert (meta["type"], meta["version"], meta["class_name"]) == ("class", 6, "ToyNetwork")
    assert meta["module_src"] is TOY_TEXT
    assert {"_init_args", "_init_kwargs", "_parameters", "_buffers"} <= meta["state"].keys()


def test_the_text_stands_once_in_the_file():
    content = pickle.dumps({"G": make_toy(), "D": make_toy()})
    assert content.count(TOY_TEXT.encode()) == 1


@pytest.mark.parametrize("load", [persistence.read, pickle.loads, copy.deepcopy])
def test_round_trip(load):
    net = make_toy()
    new = load(net if load is copy.deepcopy else pickle.dumps(net))
    assert_same_network(new, net)
    new.layers[0].weight.data.add_(1)
    assert not torch.equal(new.layers[0].weight, net.layers[0].weight)


@pytest.mark.parametrize("load", [persistence.read, pickle.loads])
def test_files_of_another_version_are_rebuilt_from_arguments(monkeypatch, load):
    net = make_toy()
    content = pickle.dumps(net)
    monkeypatch.setattr(sys.modules[__name__], "toy_text", TOY_TEXT + "# newer\n")
    assert_same_network(load(content), net)


def test_deepcopy_keeps_shared_tensors_shared():
    net = make_toy()
    net.layers[1].weight = net.layers[0].weight
    new = copy.deepcopy(net)
    assert new.layers[1].weight is new.layers[0].weight
    assert new.layers[0].weight is not net.layers[0].weight


def test_reading_leaves_the_random_numbers_alone():
    content = pickle.dumps(make_toy())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    persistence.read(io.BytesIO(content))
    assert torch.equal(torch.rand(3), expected)


def test_half_precision_and_strided_tensors_come_back_as_they_were():
    net = make_toy().half()
    net.layers[0].weight.data = net.layers[0].weight.data.t()
    new = persistence.read(pickle.dumps(net))
    assert new.layers[0].weight.dtype == torch.float16
    assert torch.equal(new.layers[0].weight, net.layers[0].weight)


def test_a_network_that_lacks_a_tensor_is_refused():
    net = make_toy()
    del net.layers[1].count
    with pytest.raises(dnnlib.UserError, match=r"lacks tensor 'layers\.1\.count'"):
        persistence.read(pickle.dumps(net))
    net = make_toy()
    net.layers[1].weight = nn.Parameter(torch.zeros([2, 2]))
    with pytest.raises(dnnlib.UserError, match=r"shape \[2, 2\] in the file and \[4, 4\] here"):
        persistence.read(pickle.dumps(net))
    net = make_toy()
    net.another = nn.Linear(2, 2)
    with pytest.raises(dnnlib.UserError, match=r"unexpected tensor 'another\.bias'"):
        persistence.read(pickle.dumps(net))


class Reduces:
    """Pickles as a call of the reconstruction function."""

    def __init__(self, text: str, **state: Any) -> None:
        self.meta = {"type": "class", "version": 6, "module_src": text, "class_name": "Net"}
        self.meta["state"] = state

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return persistence._reconstruct_persistent_obj, (self.meta,)


# Users' own classes, and the ordinary way of unpickling.

USER_MODULE = """\
import torch
from torch_utils import persistence

@persistence.persistent_class
class UserNetwork(torch.nn.Module):
    def __init__(self, size, factor=1):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones([size]))
        self.factor = factor

    def forward(self, x):
        return x * self.weight * self.factor
"""


@pytest.fixture(scope="module")
def user_pickle(tmp_path_factory) -> bytes:
    """A pickle written by another process, whose module does not exist here."""
    tmp_path = tmp_path_factory.mktemp("user")
    name = f"user_{uuid.uuid4().hex}"
    (tmp_path / f"{name}.py").write_text(USER_MODULE + f"# {name}\n")
    script = (
        f"import sys, pickle; sys.path.insert(0, {str(tmp_path)!r}); import {name} as m; "
        f"pickle.dump(m.UserNetwork(3, factor=5), open({str(tmp_path / 'user.pkl')!r}, 'wb'))"
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    subprocess.run([sys.executable, "-c", script], check=True, cwd=root)
    return (tmp_path / "user.pkl").read_bytes()


def test_classes_of_users_travel_with_the_source_of_their_module(user_pickle):
    net = pickle.loads(user_pickle)
    assert type(net).__module__.startswith("_imported_module_")
    assert persistence.is_persistent(net)
    assert net.init_args == (3,) and net.init_kwargs == {"factor": 5}
    assert torch.equal(net(torch.ones([3])), torch.full([3], 5.0))
    again = pickle.loads(pickle.dumps(net))
    assert type(again) is type(net)

    with pytest.raises(dnnlib.UserError, match="'UserNetwork' with source code of its own"):
        persistence.read(user_pickle)
    with_code = persistence.read(user_pickle, allow_code=True)
    assert torch.equal(with_code(torch.ones([3])), net(torch.ones([3])))


def test_import_hooks_may_change_the_text(user_pickle, monkeypatch):
    monkeypatch.setattr(persistence, "_import_hooks", [])
    seen = []

    def hook(meta: dnnlib.EasyDict) -> dnnlib.EasyDict:
        seen.append((meta.type, meta.version, meta.class_name, meta.state.factor))
        meta.module_src = meta.module_src.replace("* self.factor", "+ self.factor")
        return meta

    persistence.import_hook(hook)
    net = pickle.loads(user_pickle)
    assert seen == [("class", 6, "UserNetwork", 5)]
    assert torch.equal(net(torch.ones([3])), torch.full([3], 6.0))
    with pytest.raises(TypeError, match="callable"):
        persistence.import_hook(3)


def test_failing_code_of_a_file_becomes_one_sentence():
    content = pickle.dumps(Reduces("raise OSError('from the file')"))
    with pytest.raises(dnnlib.UserError, match="own code failed: OSError: from the file"):
        persistence.read(content, allow_code=True)
    with pytest.raises(dnnlib.UserError, match="own code failed: OSError: from the file"):
        persistence.read(content, allow_code=True)


def test_importers_are_asked_in_turn(monkeypatch):
    monkeypatch.setattr(snapshot_reader, "_importers", list(snapshot_reader._importers))

    @snapshot_reader.importer
    def by_text(record, convert):
        return ("known", convert(record.state)) if record.module_src == "foreign" else None

    kind, state = persistence.read(pickle.dumps(Reduces("foreign", a=torch.ones([2]))))
    assert kind == "known" and torch.equal(state["a"], torch.ones([2]))
