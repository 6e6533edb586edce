"""The self-contained source text of the networks, alone and inside snapshots opened elsewhere."""

from __future__ import annotations

import ast
import json
import pickle
import pickletools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import networks
from networks import portable
from networks.presets import PRESETS
from torch_utils import persistence
from training import AugmentPipe
from training.snapshot import save_network_snapshot

# fmt: off
ALL_TRANSFORMS = dict.fromkeys((
    "xflip", "rotate90", "xint", "scale", "rotate", "aniso", "xfrac", "brightness", "contrast",
    "lumaflip", "hue", "saturation", "imgfilter", "noise", "cutout",
), 1)
# fmt: on

FOREIGN_PERSISTENCE = '''
"""The mechanism of the published code bases, as its documentation describes it."""
import copy, sys, types, uuid
import dnnlib

text_of_class, modules = {}, {}

def persistent_class(cls):
    if cls in text_of_class:
        return cls
    text = next(text for text, module in modules.items() if module.__name__ == cls.__module__)
    class Decorated(cls):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self._init_args = copy.deepcopy(args)
            self._init_kwargs = copy.deepcopy(kwargs)
        @property
        def init_args(self):
            return copy.deepcopy(self._init_args)
        @property
        def init_kwargs(self):
            return dnnlib.EasyDict(copy.deepcopy(self._init_kwargs))
        def __reduce__(self):
            fields = list(super().__reduce__())
            meta = dict(type="class", version=6, module_src=text, class_name=cls.__name__)
            meta["state"] = dict(fields[2])
            return _reconstruct_persistent_obj, (meta,), None
    Decorated.__name__ = cls.__name__
    text_of_class[Decorated] = text
    return Decorated

def _reconstruct_persistent_obj(meta):
    meta = dnnlib.EasyDict(meta)
    meta.state = dnnlib.EasyDict(meta.state)
    assert meta.type == "class" and meta.version == 6
    if meta.module_src not in modules:
        module = types.ModuleType("_imported_module_" + uuid.uuid4().hex)
        sys.modules[module.__name__] = modules[meta.module_src] = module
        exec(meta.module_src, module.__dict__)
    cls = persistent_class(modules[meta.module_src].__dict__[meta.class_name])
    obj = cls.__new__(cls)
    obj.__setstate__(meta.state)
    return obj
'''
FOREIGN_DNNLIB = """
class EasyDict(dict):
    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name)
    def __setattr__(self, name, value):
        self[name] = value
"""

EVALUATE = """
def evaluate(G, D, pipe, inputs):
    import torch
    with torch.no_grad():
        z, c = inputs["z"], inputs["c"][:, :G.c_dim]
        ws = G.mapping(z, c, truncation_psi=0.7)
        img = G(z, c, noise_mode="const")
        out = {"img": img, "logits": D(img, c), "ws": ws}
        torch.manual_seed(11)
        out["augmented"] = pipe(inputs["images"], debug_percentile=0.3)
        if hasattr(G.synthesis, "render"):
            region = (-0.25, 0.0, 1.25, 0.5)
            out["render"] = G.synthesis.render(ws, region=region, size=(12, 36))
    return out
"""
exec(EVALUATE)


# Every preset with labels, those that have float16 blocks with them; some without either.
CASES = {preset: {"preset": preset, "c_dim": 3} for preset in PRESETS}
for name in ("inr-gan-bil", "inr-gan-published", "stylegan2"):
    CASES[f"{name}-plain"] = {"preset": name, "c_dim": 0}


def make_networks(preset: str, c_dim: int) -> dict[str, torch.nn.Module]:
    size = {"c_dim": c_dim, "img_resolution": 16, "img_channels": 3}
    synthesis_kwargs = {"channel_base": 128, "channel_max": 8}
    half = {**synthesis_kwargs, "num_fp16_res": 1, "conv_clamp": 256}
    if c_dim > 0 and PRESETS[preset].family in ("inr", "published", "stylegan2"):
        synthesis_kwargs = half
    pipe = AugmentPipe(**ALL_TRANSFORMS)
    pipe.p.fill_(0.8)
    torch.manual_seed(3)
    modules = {
        "G": networks.build_generator(
            preset, **size, z_dim=6, w_dim=8, synthesis_kwargs=synthesis_kwargs
        ),
        "D": networks.build_discriminator(**size, **half),
        "augment_pipe": pipe,
    }
    for name in ("G", "D"):
        for parameter in modules[name].parameters():
            parameter.data.add_(0.1 * torch.randn(parameter.shape))
    modules["G"].mapping.w_avg.normal_()
    modules["G_ema"] = modules["G"]
    return {name: module.eval().requires_grad_(False) for name, module in modules.items()}


@pytest.fixture(scope="module")
def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return {
        "z": torch.randn([2, 6], generator=generator),
        "c": torch.eye(3)[:2],
        "images": torch.randn([2, 3, 16, 16], generator=generator),
    }


@pytest.fixture(scope="module")
def cases(tmp_path_factory, inputs) -> Path:
    """For every case: a snapshot, the state of its networks, and what they compute here."""
    folder = tmp_path_factory.mktemp("cases")
    (folder / "bundle.py").write_text(portable.source(), encoding="utf-8")
    for case, kwargs in CASES.items():
        modules = make_networks(**kwargs)
        save_network_snapshot(str(folder / f"{case}.pkl"), {"path": "data.zip"}, modules)
        outputs = evaluate(modules["G"], modules["D"], modules["augment_pipe"], inputs)  # noqa: F821
        data = {"inputs": inputs, "outputs": outputs}
        for name in ("G", "D", "augment_pipe"):
            data[name] = modules[name].state_dict()
            kwargs = modules[name].init_kwargs
            (folder / f"{case}-{name}.json").write_text(json.dumps(kwargs))
        torch.save(data, folder / f"{case}.pt")
    return folder


def run_elsewhere(folder: Path, script: str) -> dict[str, dict[str, float]]:
    """Runs a script that does not see this repository; it prints the relative errors as JSON."""
    common = f"""
import importlib.util, json, pickle, sys, torch
for name in ("networks", "ops", "training", "torch_utils", "dnnlib"):
    assert importlib.util.find_spec(name) is None, name
torch.set_num_threads(1)
{EVALUATE}
def errors(outputs, expected):
    assert outputs.keys() == expected.keys()
    return {{k: float((v - expected[k]).abs().max() / expected[k].abs().max())
            for k, v in outputs.items()}}
result = {{}}
"""
    file = folder / "script.py"
    file.write_text(common + script + "\nprint(json.dumps(result))\n")
    done = subprocess.run(
        [sys.executable, "-I", str(file)], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check_errors(result: dict[str, dict[str, float]]) -> None:
    assert result.keys() == CASES.keys()
    for case, errors in result.items():
        assert ("render" in errors) == PRESETS[CASES[case]["preset"]].continuous
        for name, error in errors.items():
            assert error <= 1e-5, (case, name, error)


def test_the_text_alone_builds_the_networks(cases):
    script = f"""
bundle = {{"__name__": "bundle"}}
import types
module = types.ModuleType("bundle"); sys.modules["bundle"] = module
exec(compile(open("bundle.py", encoding="utf-8").read(), "bundle.py", "exec"), module.__dict__)
for case in {sorted(CASES)!r}:
    data = torch.load(case + ".pt", weights_only=True)
    made = []
    for name, cls in (("G", "Generator"), ("D", "Discriminator"), ("augment_pipe", "AugmentPipe")):
        net = getattr(module, cls)(**json.load(open(f"{{case}}-{{name}}.json")))
        net.load_state_dict(data[name])
        made.append(net.eval())
    result[case] = errors(evaluate(*made, data["inputs"]), data["outputs"])
"""
    check_errors(run_elsewhere(cases, script))


def test_snapshots_open_in_a_foreign_checkout_and_come_back(cases, inputs):
    checkout = cases / "checkout"
    for name, text in {
        "dnnlib/__init__.py": "from .util import EasyDict\n",
        "dnnlib/util.py": FOREIGN_DNNLIB,
        "torch_utils/__init__.py": "",
        "torch_utils/persistence.py": FOREIGN_PERSISTENCE,
    }.items():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text(text)
    script = f"""
sys.path.insert(0, "checkout")
for case in {sorted(CASES)!r}:
    with open(case + ".pkl", "rb") as file:
        data = pickle.load(file)
    assert list(data) == ["training_set_kwargs", "G", "D", "G_ema", "augment_pipe"]
    G, D, pipe = data["G_ema"], data["D"], data["augment_pipe"]
    assert type(G).__module__ == "torch_utils.persistence"
    assert G.init_kwargs.img_resolution == 16 and G.img_resolution == 16
    expected = torch.load(case + ".pt", weights_only=True)
    result[case] = errors(evaluate(G, D, pipe, expected["inputs"]), expected["outputs"])
    with open(case + "-saved-there.pkl", "wb") as file:
        pickle.dump(data, file)
"""
    check_errors(run_elsewhere(cases, script))
    for case in CASES:
        data = persistence.read((cases / f"{case}-saved-there.pkl").read_bytes())
        assert type(data["G_ema"]) is networks.Generator
        outputs = evaluate(data["G_ema"], data["D"], data["augment_pipe"], inputs)  # noqa: F821
        for name, expected in torch.load(cases / f"{case}.pt")["outputs"].items():
            assert torch.equal(outputs[name], expected), (case, name)


def _globals(content: bytes) -> set[str]:
    """Names that a pickle of protocol 4 refers to."""
    found, strings, memo = set(), [], []
    for op, argument, _ in pickletools.genops(content):
        if "UNICODE" in op.name:
            strings.append(argument)
        elif op.name in ("BINGET", "LONG_BINGET"):
            strings.append(memo[argument])
        elif op.name == "STACK_GLOBAL":
            found.add(f"{strings[-2]}.{strings[-1]}")
        if op.name == "MEMOIZE":
            memo.append(strings[-1] if strings else None)
    return found


@pytest.mark.parametrize("case", CASES)
def test_a_snapshot_holds_the_text_once_and_needs_nothing_of_this_repository(cases, case):
    content = (cases / f"{case}.pkl").read_bytes()
    assert content.count(persistence.BUNDLE_HEADER.encode()) == 1
    assert _globals(content) <= {
        "collections.OrderedDict",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_tensor_v2",
        "torch.nn.modules.container.ModuleDict",
        "torch.nn.modules.container.ModuleList",
        "torch.nn.modules.container.ParameterList",
        "torch.storage._load_from_bytes",
        "torch_utils.persistence._reconstruct_persistent_obj",
    }


@pytest.mark.parametrize("load", [persistence.read, pickle.loads])
@pytest.mark.parametrize("case", CASES)
def test_snapshots_come_back_as_our_own_classes(cases, inputs, case, load):
    data = load((cases / f"{case}.pkl").read_bytes())
    assert data["training_set_kwargs"] == {"path": "data.zip"}
    kinds = {"G": networks.Generator, "G_ema": networks.Generator, "D": networks.Discriminator}
    for name, kind in {**kinds, "augment_pipe": AugmentPipe}.items():
        assert type(data[name]) is kind
        assert not any(module.training for module in data[name].modules())
        assert not any(parameter.requires_grad for parameter in data[name].parameters())
    outputs = evaluate(data["G_ema"], data["D"], data["augment_pipe"], inputs)  # noqa: F821
    for name, expected in torch.load(cases / f"{case}.pt")["outputs"].items():
        assert torch.equal(outputs[name], expected), name


def test_the_text_is_one_object_and_imports_only_what_is_everywhere():
    text = portable.source()
    assert portable.source() is text
    assert text.startswith(persistence.BUNDLE_HEADER)
    tree = ast.parse(text, feature_version=(3, 8))
    packages = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            packages.add(node.module.split(".")[0])
    assert packages - set(sys.stdlib_module_names) == {"numpy", "torch"}
    assert [n.module for n in tree.body if isinstance(n, ast.ImportFrom)][0] == "__future__"


def test_every_class_of_the_text_is_persistent():
    for name in ("Generator", "Discriminator", "MappingNetwork", "AugmentPipe"):
        assert persistence.is_persistent(persistence.own_class(name))
    tree = ast.parse(portable.source())
    for node in tree.body:
        is_class = isinstance(node, ast.ClassDef)
        if is_class and any(ast.unparse(base) == "nn.Module" for base in node.bases):
            assert persistence.own_class(node.name).__name__ == node.name


GOOD = {
    "ops/up/reference.py": "def up(x):\n    raise NotImplementedError\n",
    "ops/up/plain.py": "def up(x):\n    return x\n",
    "networks/a.py": '"""A."""\nimport math\nfrom ops.up import up\n__all__ = []\nA = math.pi\n',
    "networks/b.py": "from networks.a import A\n\n\ndef b():\n    return A  # kept\n",
}


def bundle_of(folder: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("from __future__ import annotations\n\n" + text)
    roots = ("networks/b.py", "networks/c.py") if "networks/c.py" in files else ("networks/b.py",)
    return portable.bundle(folder, roots)


def test_bundle_keeps_the_source_and_orders_it_by_imports(tmp_path):
    text = bundle_of(tmp_path, GOOD)
    assert "return A  # kept" in text and '"""A."""' in text
    assert "NotImplementedError" not in text
    assert "from ops" not in text and "from networks" not in text and "__all__" not in text
    assert text.count("from __future__") == 1
    assert text.index("def up") < text.index("A = math.pi") < text.index("def b")
    names: dict[str, Any] = {}
    exec(compile(text, "bundle", "exec", dont_inherit=True), names)
    assert names["b"]() == names["A"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("def b():\n    pass\n", "networks/b.py and networks/c.py both define b"),
        ("from networks.a import A as a\n", "'as' and '\\*'"),
        ("from networks.a import *\n", "'as' and '\\*'"),
        ("import networks.a\n", "write 'from networks.a import name'"),
        ("from .a import A\n", "write 'from a import name'"),
        ("def c():\n    import math\n", "top of the file"),
        ("import scipy.signal\n", "imports scipy.signal"),
        ("from networks.a import missing\n", "no portable module defines missing of networks.a"),
        ("from torch_utils.misc import constant\n", "imports torch_utils.misc"),
        ("from training.missing import x\n", "no portable module defines x of training.missing"),
        ("import cmath as math\n", "imports cmath"),
        ("import torch as math\n", "'import math', but networks/c.py: 'import torch as math'"),
        ("def math():\n    pass\n", "networks/c.py defines math, which networks/a.py imports"),
        ("def c():\n    return undefined\n", "uses undefined, which nothing"),
        ("c = list[int]\n", "list\\[int\\] is evaluated"),
        (
            "from collections.abc import Callable\n\nc = Callable[[int], int]\n",
            "Callable\\[\\[int\\], int\\] is evaluated",
        ),
        ("match 3:\n    case 3:\n        pass\n", "Python 3.8"),
        ("from functools import cache\n", "functools.cache is newer"),
        ("def c(x):\n    return isinstance(x, int | str)\n", "isinstance"),
        ("def c(x):\n    return zip(x, strict=True)\n", "zip\\(strict"),
        ("def c(x):\n    return x.removeprefix('a')\n", "removeprefix is newer"),
        ("c = __file__\n", "__file__ does not exist"),
    ],
)
def test_what_cannot_be_bundled_is_named(tmp_path, text, message):
    with pytest.raises(portable.PortableSourceError, match=message):
        bundle_of(tmp_path, {**GOOD, "networks/c.py": text})


def test_circular_imports_are_named(tmp_path):
    files = {
        "networks/a.py": "from networks.b import b\n\n\ndef a():\n    return b\n",
        "networks/b.py": "from networks.a import a\n\n\ndef b():\n    return a\n",
    }
    with pytest.raises(portable.PortableSourceError, match="circle: networks/"):
        bundle_of(tmp_path, files)


def test_annotations_may_use_new_syntax(tmp_path):
    text = (
        "def c(x: list[int] | None) -> dict[str, int]:\n    y: tuple[int, ...] = ()\n    return y\n"
    )
    assert "list[int] | None" in bundle_of(tmp_path, {**GOOD, "networks/c.py": text})
