"""Snapshots that StyleGAN2-ADA, StyleGAN3 and the published INR-GAN code wrote."""

from __future__ import annotations

import io
import pickle
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import dnnlib
import networks
from networks.snapshot_file import decode_snapshot, read_snapshot
from tests import golden_files
from torch_utils import persistence
from torch_utils.pickle_records import Refused
from training import AugmentPipe

FOREIGN_TEXT = "raise RuntimeError('embedded source was executed')"
NAMES = ("sg2", "sg2c", "sg2g", "sg3", "inr-gan", "inr-gan-bil")


@pytest.mark.parametrize("name", NAMES)
def test_whole_snapshots_of_other_programs(name):
    expected = golden_files.load(f"foreign_{name}")
    data = read_snapshot(str(golden_files.FOLDER / f"foreign_{name}.pkl"))
    assert type(data["G_ema"]) is networks.Generator and type(data["D"]) is networks.Discriminator
    assert data["training_set_kwargs"] == {"path": "x"} and data["augment_pipe"] is None
    z, c = torch.from_numpy(expected["z"]), torch.from_numpy(expected["c"])
    with torch.no_grad():
        img = data["G_ema"](z, c, truncation_psi=0.7, noise_mode="const").numpy()
        logits = data["D"](torch.from_numpy(expected["img_psi07"]), c).numpy()
    largest = np.abs(expected["img_psi07"]).max()
    np.testing.assert_allclose(img, expected["img_psi07"], rtol=1e-5, atol=1e-5 * largest)
    # StyleGAN2-ADA computes float16 blocks in float16 also on the CPU; ours are exact there.
    tolerance = 1e-2 if data["D"].b32.use_fp16 else 1e-5
    largest = np.abs(expected["logits"]).max()
    np.testing.assert_allclose(logits, expected["logits"], rtol=0, atol=tolerance * largest)


def test_the_discriminator_with_float16_blocks_is_exact_too():
    """Both files hold the same weights; StyleGAN3's was written without float16."""
    exact = golden_files.load("foreign_sg3")
    D = read_snapshot(str(golden_files.FOLDER / "foreign_sg2.pkl"))["D"]
    assert D.b32.use_fp16
    logits = D(torch.from_numpy(exact["img_psi07"]), None).detach().numpy()
    np.testing.assert_allclose(logits, exact["logits"], rtol=1e-5)


@pytest.mark.parametrize("name", ["inr-gan", "inr-gan-bil"])
def test_configurations_of_published_snapshots_are_plain(name):
    """They were omegaconf objects, with references such as ${coords.low_res_cfg}."""
    G = read_snapshot(str(golden_files.FOLDER / f"foreign_{name}.pkl"))["G_ema"]
    assert G.preset == f"{name}-published"
    cfg = G.init_kwargs.synthesis_kwargs["cfg"]
    assert type(cfg) is dict and type(cfg["coords"]["res_configs"]) is dict
    assert cfg["input"]["coord_fuser_cfg"] == cfg["coords"]
    assert cfg["coords"]["res_configs"]["64"] == cfg["coords"]["low_res_cfg"]
    assert "omegaconf" not in sys.modules and "hydra" not in sys.modules
    assert not any("cache" in key for module in G.modules() for key in vars(module))


def test_defaults_of_stylegan3_come_from_its_layers():
    data = read_snapshot(str(golden_files.FOLDER / "foreign_sg3.pkl"))
    G, D = data["G_ema"], data["D"]
    assert G.mapping.w_avg_beta == 0.998
    assert G.synthesis.b32.conv1.conv_clamp == 256 and not G.synthesis.b32.use_fp16
    assert D.b32.conv0.conv_clamp == 256 and D.b4.conv.conv_clamp == 256
    assert "fused_modconv_default" not in G.init_kwargs.synthesis_kwargs


# Files as other programs write them, made of our networks with other text and arguments.


class ForeignPickler(pickle.Pickler):
    """Writes our networks as somebody else would from a GPU, with a text of his own.

    Args:
        file: Where to.
        changes: By class name: changes of the object's attributes; None = leave one out.
    """

    def __init__(self, file: io.BytesIO, changes: dict[str, dict[str, Any]]) -> None:
        super().__init__(file)
        self._changes = changes

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, torch.storage.TypedStorage):
            function, (content,) = obj.__reduce__()
            location = b"X\x03\0\0\0cpu"
            assert content.count(location) == 1
            return function, (content.replace(location, b"X\x06\0\0\0cuda:0"),)
        if isinstance(obj, type) or not persistence.is_persistent(obj):
            return NotImplemented
        function, (meta,), _ = obj.__reduce_ex__(2)
        state = {**meta["state"], **self._changes.get(meta["class_name"], {})}
        return function, ({**meta, "module_src": FOREIGN_TEXT, "state": state},), None


def foreign(obj: Any, **changes: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    ForeignPickler(file, changes).dump(obj)
    return file.getvalue()


def make_generator(c_dim: int = 0, **synthesis_kwargs: Any) -> nn.Module:
    kwargs = {"channel_base": 64, "channel_max": 8, **synthesis_kwargs}
    G = networks.Generator(
        z_dim=6, c_dim=c_dim, w_dim=5, img_resolution=16, img_channels=3,
        mapping_kwargs={"num_layers": 2}, synthesis_kwargs=kwargs,
    )  # fmt: skip
    return randomise(G)


def make_discriminator(c_dim: int = 0, **kwargs: Any) -> nn.Module:
    kwargs = {"channel_base": 64, "channel_max": 8, **kwargs}
    return randomise(networks.Discriminator(c_dim, img_resolution=16, img_channels=3, **kwargs))


def randomise(network: nn.Module) -> nn.Module:
    with torch.no_grad():
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if not name.endswith("resample_filter"):
                tensor.normal_()
    return network.eval().requires_grad_(False)


def assert_same(new: nn.Module, old: nn.Module) -> None:
    assert type(new) is type(old)
    assert new.state_dict().keys() == old.state_dict().keys()
    for name, value in old.state_dict().items():
        assert torch.equal(new.state_dict()[name], value), name
    if hasattr(old, "synthesis"):
        inputs = torch.randn([2, 6]), torch.randn([2, old.c_dim])
        kwargs = {"truncation_psi": 0.5, "noise_mode": "const"}
    else:
        inputs, kwargs = (torch.randn([2, 3, 16, 16]), torch.randn([2, old.c_dim])), {}
    assert torch.equal(new(*inputs, **kwargs), old(*inputs, **kwargs))


@pytest.mark.parametrize("architecture", ["orig", "skip", "resnet"])
@pytest.mark.parametrize("c_dim", [0, 3])
def test_all_architectures(architecture, c_dim):
    G = make_generator(c_dim, architecture=architecture, num_fp16_res=2, conv_clamp=8)
    D = make_discriminator(c_dim, architecture=architecture, num_fp16_res=2, conv_clamp=8)
    data = decode_snapshot(foreign({"G": G, "D": D, "G_ema": G, "augment_pipe": None}))
    for name, old in {"G": G, "D": D, "G_ema": G}.items():
        assert_same(data[name], old)
        block = data[name].synthesis.b16 if name != "D" else data[name].b16
        assert block.use_fp16 and block.conv1.conv_clamp == 8


def test_frozen_layers_stay_buffers():
    D = make_discriminator(block_kwargs={"freeze_layers": 2})
    new = persistence.read(foreign(D))
    assert_same(new, D)
    assert "fromrgb.weight" in dict(new.b16.named_buffers())


def test_augmentation_pipes():
    pipe = AugmentPipe(xflip=1, scale=0.5, imgfilter_bands=[1, 0, 1, 0]).eval()
    pipe.p.fill_(0.25)
    new = persistence.read(foreign(pipe))
    assert type(new) is AugmentPipe and new.init_kwargs == pipe.init_kwargs
    assert float(new.p) == 0.25
    assert torch.equal(new.Hz_fbank, pipe.Hz_fbank)


def test_arguments_may_be_positional():
    G = make_generator()
    kwargs = dict(G.init_kwargs)
    args = tuple(kwargs.pop(name) for name in ("z_dim", "c_dim", "w_dim"))
    assert_same(
        persistence.read(foreign(G, Generator={"_init_args": args, "_init_kwargs": kwargs})), G
    )


def test_arguments_in_the_style_of_stylegan3():
    G = make_generator(num_fp16_res=1, conv_clamp=256)
    kwargs = dict(G.init_kwargs)
    more = {**kwargs.pop("synthesis_kwargs"), "fused_modconv_default": "inference_only"}
    for default in ("num_fp16_res", "conv_clamp"):
        del more[default]
    new = persistence.read(foreign(G, Generator={"_init_kwargs": {**kwargs, **more}}))
    assert_same(new, G)
    assert new.synthesis.b16.use_fp16 and not new.synthesis.b8.use_fp16
    assert new.synthesis.b4.conv1.conv_clamp == 256
    assert new.init_kwargs == G.init_kwargs


def test_filters_that_a_file_lacks_are_computed():
    G = make_generator()
    class_state = {"_buffers": {}}
    new = persistence.read(foreign(G, SynthesisBlock=class_state))
    assert_same(new, G)


def test_cached_tensors_in_attributes_are_left_behind():
    """The published INR-GAN code kept some, which snapshots from a GPU therefore contain."""
    G = make_generator()
    cache = {"cuda:0": torch.ones([3]), "view": torch.zeros([8]).expand(4, 8)}
    new = persistence.read(foreign(G, SynthesisBlock={"_fourier_embs_cache": cache}))
    assert_same(new, G)
    assert not hasattr(new.synthesis.b8, "_fourier_embs_cache")


REFUSED_ARGUMENTS = [
    ("Generator", {"magnitude_ema_beta": 0.99}, "'magnitude_ema_beta'"),
    ("Generator", {"mapping_kwargs": {"new": 1}}, "a mapping network with the argument 'new'"),
    (
        "Generator",
        {"cfg": {"upsampling_mode": None}},
        r"Generator of another kind \(cfg.upsampling_mode=None",
    ),
    ("Discriminator", {"stddev": 1}, "a Discriminator with the argument 'stddev'"),
    (
        "Discriminator",
        {"block_kwargs": {"new": 1}},
        "a discriminator block with the argument 'new'",
    ),
    ("Discriminator", {"epilogue_kwargs": {"new": 1}}, "epilogue with the argument 'new'"),
    ("AugmentPipe", {"elastic": 1}, "an AugmentPipe with the argument 'elastic'"),
]


@pytest.mark.parametrize("class_name, more, message", REFUSED_ARGUMENTS)
def test_unknown_arguments_are_named(class_name, more, message):
    makers = {"Generator": make_generator, "Discriminator": make_discriminator}
    obj = makers.get(class_name, AugmentPipe)()
    changes = {class_name: {"_init_kwargs": {**obj.init_kwargs, **more}}}
    with pytest.raises(Refused, match=message) as caught:
        persistence.read(foreign(obj, **changes))
    assert "--allow-code" in str(caught.value)


def test_other_tensors_than_the_arguments_describe_are_named():
    D = make_discriminator()
    changes = {"Discriminator": {"_init_kwargs": {**D.init_kwargs, "architecture": "orig"}}}
    with pytest.raises(Refused, match=r"built otherwise .* unexpected tensor 'b16\.skip\.weight'"):
        persistence.read(foreign(D, **changes))
    D.extra = nn.Linear(2, 2)
    with pytest.raises(Refused, match=r"unexpected tensor 'extra\.bias'"):
        persistence.read(foreign(D))


def test_unknown_classes_are_named_and_code_runs_only_when_allowed():
    meta = {"type": "class", "version": 6, "module_src": FOREIGN_TEXT, "class_name": "Upscaler"}
    call = b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n("
    content = call + pickle.dumps({**meta, "state": {}}, 0)[:-1] + b"tR."
    with pytest.raises(Refused, match="the class 'Upscaler' with source code of its own"):
        persistence.read(content)
    with pytest.raises(dnnlib.UserError, match="own code failed: .*embedded source was executed"):
        persistence.read(content, allow_code=True)


def test_the_files_code_may_build_what_is_refused():
    D = make_discriminator()
    changes = {"Discriminator": {"_init_kwargs": {**D.init_kwargs, "stddev": 1}}}
    with pytest.raises(dnnlib.UserError, match="own code failed: .*embedded source was executed"):
        persistence.read(foreign(D, **changes), allow_code=True)
