"""TensorFlow snapshots, made here from our networks by the inverse of the documented layout."""

from __future__ import annotations

import io
import pickle
import sys
import types
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import dnnlib
import legacy
import networks
from torch_utils import persistence
from torch_utils.pickle_records import Refused


class Network:
    """As far as a pickle of `dnnlib.tflib.network.Network` shows it."""

    def __init__(self, name: str, static_kwargs: Any, variables: Any, **components: Any) -> None:
        self.state = {
            "version": 5,
            "name": name,
            "static_kwargs": dnnlib.EasyDict(static_kwargs),
            "components": dnnlib.EasyDict(components),
            "build_module_src": "raise RuntimeError('the text was run')",
            "build_func_name": "G_main",
            "variables": list(variables.items()),
        }

    def __getstate__(self) -> dict[str, Any]:
        return self.state


Network.__module__, Network.__qualname__ = "dnnlib.tflib.network", "Network"


def dump(data: Any, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Pickles with the package in place; afterwards it is gone."""
    with monkeypatch.context() as patch:
        for name in ("dnnlib.tflib", "dnnlib.tflib.network"):
            patch.setitem(sys.modules, name, types.ModuleType(name))
        sys.modules["dnnlib.tflib.network"].Network = Network
        return pickle.dumps(data, 4)


def randomise(network: nn.Module) -> nn.Module:
    with torch.no_grad():
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if not name.endswith("resample_filter"):
                tensor.normal_()
    return network.eval().requires_grad_(False)


def make_generator(c_dim: int = 0, **synthesis_kwargs: Any) -> nn.Module:
    kwargs = {"channel_base": 64, "channel_max": 8, **synthesis_kwargs}
    return randomise(
        networks.Generator(
            z_dim=6,
            c_dim=c_dim,
            w_dim=5,
            img_resolution=16,
            img_channels=3,
            mapping_kwargs={"num_layers": 2},
            synthesis_kwargs=kwargs,
        )  # fmt: skip
    )


def make_discriminator(c_dim: int = 0, layers: int = 2, **kwargs: Any) -> nn.Module:
    mapping = {"num_layers": layers, "lr_multiplier": 0.1}
    epilogue = {"mbstd_group_size": 2, "mbstd_num_channels": 2}
    kwargs = {"channel_base": 64, "channel_max": 8, **kwargs}
    network = networks.Discriminator(
        c_dim, 16, 3, mapping_kwargs=mapping, epilogue_kwargs=epilogue, **kwargs
    )
    return randomise(network)


# Our layers as TensorFlow's variables.


def dense(layer: nn.Module) -> dict[str, np.ndarray]:
    return {"weight": layer.weight.numpy().T, "bias": layer.bias.numpy()}


def convolution(layer: nn.Module, up: bool = False) -> dict[str, np.ndarray]:
    kernel = layer.weight.numpy().transpose(2, 3, 1, 0)
    found = {"weight": kernel[::-1, ::-1] if up else kernel}
    if layer.bias is not None:
        found["bias"] = layer.bias.numpy()
    if hasattr(layer, "affine"):
        found["mod_weight"] = layer.affine.weight.numpy().T
        found["mod_bias"] = layer.affine.bias.numpy() - 1
    if hasattr(layer, "noise_strength"):
        found["noise_strength"] = layer.noise_strength.numpy()
    return found


def scoped(scope: str, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{scope}/{name}": value for name, value in values.items()}


def synthesis_variables(synthesis: nn.Module, lod: bool) -> dict[str, np.ndarray]:
    found = {"4x4/Const/const": synthesis.b4.const.numpy()[None]}
    layers = 0
    for resolution in synthesis.block_resolutions:
        block, scope = getattr(synthesis, f"b{resolution}"), f"{resolution}x{resolution}"
        convs = [(block.conv1, "Conv" if resolution == 4 else "Conv1", False)]
        if resolution > 4:
            convs.insert(0, (block.conv0, "Conv0_up", True))
        for conv, name, up in convs:
            found |= scoped(f"{scope}/{name}", convolution(conv, up))
            if conv.use_noise:
                found[f"noise{layers}"] = conv.noise_const.numpy()[None, None]
            layers += 1
        if hasattr(block, "torgb"):
            found |= scoped("ToRGB_lod0" if lod else f"{scope}/ToRGB", convolution(block.torgb))
        if hasattr(block, "skip"):
            found |= scoped(f"{scope}/Skip", convolution(block.skip, up=True))
    return found


def tf_generator(G: nn.Module, lod: bool = False, **more: Any) -> Network:
    given = G.init_kwargs.synthesis_kwargs
    kwargs = {
        "latent_size": 6, "label_size": G.c_dim, "dlatent_size": 5, "mapping_layers": 2,
        "resolution": 16, "num_channels": 3, "fmap_base": 32, "fmap_max": 8,
        "architecture": given.get("architecture", "skip"), "truncation_psi": 0.5,
        "use_noise": given.get("use_noise", True), "conditioning": None, **more,
    }  # fmt: skip
    mapping = {f"Dense{i}": dense(getattr(G.mapping, f"fc{i}")) for i in range(2)}
    if G.c_dim:
        mapping["LabelEmbed"] = dense(G.mapping.embed)
    variables = {k: v for name, values in mapping.items() for k, v in scoped(name, values).items()}
    synthesis = Network("G_synthesis", {}, synthesis_variables(G.synthesis, lod))
    own = {"dlatent_avg": G.mapping.w_avg.numpy(), "lod": np.float32(0)}
    return Network("G", kwargs, own, synthesis=synthesis, mapping=Network("M", {}, variables))


def tf_discriminator(D: nn.Module, lod: bool = False, **more: Any) -> Network:
    given = D.init_kwargs
    kwargs = {
        "label_size": D.c_dim, "resolution": 16, "num_channels": 3, "fmap_base": 32, "fmap_max": 8,
        "architecture": given.get("architecture", "resnet"), "mapping_layers": 2,
        "mbstd_group_size": 2, "mbstd_num_features": 2, "structure": "auto", **more,
    }  # fmt: skip
    found = {}
    for resolution in D.block_resolutions:
        block, scope = getattr(D, f"b{resolution}"), f"{resolution}x{resolution}"
        if hasattr(block, "fromrgb"):
            found |= scoped(
                "FromRGB_lod0" if lod else f"{scope}/FromRGB", convolution(block.fromrgb)
            )
        found |= scoped(f"{scope}/Conv0", convolution(block.conv0))
        found |= scoped(f"{scope}/Conv1_down", convolution(block.conv1))
        if hasattr(block, "skip"):
            found |= scoped(f"{scope}/Skip", convolution(block.skip))
    if hasattr(D.b4, "fromrgb"):
        found |= scoped("4x4/FromRGB", convolution(D.b4.fromrgb))
    found |= scoped("4x4/Conv", convolution(D.b4.conv)) | scoped("4x4/Dense0", dense(D.b4.fc))
    found |= scoped("Output", dense(D.b4.out))
    if D.c_dim:
        found |= scoped("LabelEmbed", dense(D.mapping.embed))
        for index in range(D.mapping.num_layers):
            found |= scoped(f"Mapping{index}", dense(getattr(D.mapping, f"fc{index}")))
    return Network("D", kwargs, found)


def assert_same(new: nn.Module, old: nn.Module) -> None:
    assert type(new) is type(old)
    assert not new.training and not any(p.requires_grad for p in new.parameters())
    assert new.state_dict().keys() == old.state_dict().keys()
    if hasattr(old, "synthesis"):
        inputs = torch.randn([2, 6]), torch.randn([2, old.c_dim])
        kwargs = {"truncation_psi": 0.5, "noise_mode": "const"}
    else:
        inputs, kwargs = (torch.randn([4, 3, 16, 16]), torch.randn([4, old.c_dim])), {}
    expected = old(*inputs, **kwargs)
    assert torch.allclose(new(*inputs, **kwargs), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ["orig", "skip", "resnet"])
@pytest.mark.parametrize("c_dim", [0, 3])
def test_snapshots_of_all_architectures(architecture, c_dim, monkeypatch):
    G = make_generator(c_dim, architecture=architecture)
    G_ema = make_generator(c_dim, architecture=architecture)
    D = make_discriminator(c_dim, architecture=architecture)
    content = dump((tf_generator(G), tf_discriminator(D), tf_generator(G_ema)), monkeypatch)
    data = legacy.load_network_pkl(io.BytesIO(content))
    assert list(data) == ["training_set_kwargs", "G", "D", "G_ema", "augment_pipe"]
    assert data["training_set_kwargs"] is None and data["augment_pipe"] is None
    for name, old in {"G": G, "D": D, "G_ema": G_ema}.items():
        assert_same(data[name], old)


def test_images_of_a_network_that_was_grown(monkeypatch):
    """Its image layers are called by level of detail, and those of lower levels are left over."""
    G, D = make_generator(architecture="orig"), make_discriminator(architecture="orig")
    old = tf_generator(G, lod=True)
    synthesis = old.state["components"].synthesis.state["variables"]
    synthesis += [("ToRGB_lod1/weight", np.zeros([1, 1, 8, 3], np.float32)), ("lod", np.float32(0))]
    assert_same(persistence.read(dump(old, monkeypatch)), G)
    assert_same(persistence.read(dump(tf_discriminator(D, lod=True), monkeypatch)), D)


def test_a_generator_without_noise(monkeypatch):
    G = make_generator(use_noise=False)
    assert_same(persistence.read(dump(tf_generator(G), monkeypatch)), G)


def test_labels_without_mapping_layers(monkeypatch):
    """The default of TensorFlow's discriminator."""
    D = make_discriminator(c_dim=3, layers=0)
    network = tf_discriminator(D)
    del network.state["static_kwargs"]["mapping_layers"]
    assert_same(persistence.read(dump(network, monkeypatch)), D)


def test_arguments_are_translated(monkeypatch):
    G = make_generator()
    more = {"num_fp16_res": 2, "conv_clamp": 256, "w_avg_beta": None, "mapping_lrmul": 0.02}
    more |= {"resample_kernel": [1, 2, 1], "nonlinearity": "relu", "mapping_nonlinearity": "relu"}
    new = persistence.read(dump(tf_generator(G, **more), monkeypatch))
    assert new.mapping.w_avg_beta == 1 and new.mapping.fc1.bias_gain == 0.02
    assert new.mapping.fc0.activation == "relu"
    block = new.synthesis.b16
    assert block.use_fp16 and block.conv0.conv_clamp == 256 and block.conv1.activation == "relu"
    assert block.resample_filter.shape == (3, 3)
    D = make_discriminator(block_kwargs={"freeze_layers": 3})
    new = persistence.read(dump(tf_discriminator(D, freeze_layers=3), monkeypatch))
    assert_same(new, D)
    assert "conv1.weight" in dict(new.b16.named_buffers())
    assert new.init_kwargs["channel_base"] == 64 and new.b4.mbstd.num_channels == 2


@pytest.mark.parametrize(
    "make, more, message",
    [
        ("G", {"fused": 1}, "a TensorFlow generator with the argument 'fused'"),
        ("D", {"truncation_psi": 1}, "discriminator with the argument 'truncation_psi'"),
        ("G", {"architecture": "progressive"}, "a TensorFlow Generator of another kind"),
        ("G", {"architecture": "resnet"}, "without the variable for 'synthesis.b8.skip.weight'"),
        ("G", {"architecture": "orig"}, "with the variable 'synthesis/16x16/ToRGB|4x4/ToRGB"),
        ("G", {"latent_size": 7}, "variable 'mapping/Dense0/weight' has another shape"),
        ("G", {"fmap_max": 4_000_000, "fmap_base": 2_000_000}, "far larger than its tensors"),
        ("G", {"fmap_base": "x"}, "fmap_base is not a number"),
    ],
)
def test_other_networks_are_named(make, more, message, monkeypatch):
    network = (
        tf_generator(make_generator(), **more)
        if make == "G"
        else tf_discriminator(make_discriminator(), **more)
    )
    with pytest.raises(dnnlib.UserError, match=message):
        persistence.read(dump(network, monkeypatch))


@pytest.mark.parametrize(
    "state, message",
    [
        ({"version": 3}, "of version 3; the oldest that can be converted is 4"),
        ({"version": None}, "of version None"),
        ({"variables": []}, "the TensorFlow network 'D'"),
        ({"variables": [("Output/weight", 3)]}, "without the variable for"),
        ({"variables": [3]}, "is damaged: a variable"),
        ({"variables": {}}, "is damaged: the variables"),
        ({"components": {"a": 3}}, "is damaged: a TensorFlow network of unknown form"),
        ({"static_kwargs": None}, "is damaged: a TensorFlow network without arguments"),
    ],
)
def test_damaged_networks(state, message, monkeypatch):
    network = tf_discriminator(make_discriminator())
    network.state |= state
    with pytest.raises(dnnlib.UserError, match=message) as caught:
        persistence.read(dump(network, monkeypatch))
    assert "\n" not in str(caught.value)


def test_components_that_contain_themselves(monkeypatch):
    network = tf_discriminator(make_discriminator())
    network.state["components"]["again"] = network
    with pytest.raises(dnnlib.UserError, match="the variables of a TensorFlow network"):
        persistence.read(dump(network, monkeypatch))


def test_arrays_of_objects_are_refused(monkeypatch):
    network = tf_discriminator(make_discriminator())
    network.state["variables"][0] = ("Output/weight", np.asarray([print], dtype=object))
    with pytest.raises(dnnlib.UserError, match="numpy dtype 'O8'|builtins.print"):
        persistence.read(dump(network, monkeypatch))


def test_without_permission_nothing_of_tensorflow_is_imported(monkeypatch):
    content = dump(tf_discriminator(make_discriminator(), stddev=2), monkeypatch)
    with pytest.raises(Refused, match="--allow-code"):
        persistence.read(content)
    with pytest.raises(dnnlib.UserError, match="own code failed: ModuleNotFoundError"):
        persistence.read(content, allow_code=True)
    assert "dnnlib.tflib" not in sys.modules
