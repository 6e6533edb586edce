"""Training settings of the paper's models: rates per group, --cfg=paper-inr, modulation options."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from dnnlib import UserError
from networks import build_discriminator, build_generator
from networks.presets import FMM_ACTIVATION_NAMES, PRESETS
from ops.fmm import FMM_ACTIVATIONS
from training.config import DatasetFacts, TrainConfig
from training.explain import explain
from training.inputs import snapshot_facts
from training.options import TrainOptions
from training.phases import build_phases
from training.resolve import resolve

FACTS = DatasetFacts(name="ds", image_shape=(3, 64, 64), num_images=24, label_dim=0)
HYPER = [name for name, preset in PRESETS.items() if preset.lr is not None]


def configure(resolution: int = 64, **options) -> TrainConfig:
    facts = dataclasses.replace(FACTS, image_shape=(3, resolution, resolution))
    return resolve(TrainOptions(outdir="runs", data="ds.zip", **options), facts)


@pytest.mark.parametrize("preset", HYPER)
def test_presets_bring_sizes_and_rates(preset):
    result = configure(generator=preset).to_dict("r")
    assert result["G_kwargs"]["w_dim"] == 1024
    assert result["G_kwargs"]["mapping_kwargs"] == {"num_layers": 3}
    assert result["G_opt_kwargs"] == {
        "class_name": "torch.optim.Adam",
        "lr": 5e-4,
        "betas": [0, 0.99],
        "eps": 1e-8,
        "lr_multipliers": {"hypernetwork": 0.1},
    }
    assert result["D_opt_kwargs"]["lr"] == 0.0025
    assert result["loss_kwargs"]["pl_weight"] == 0
    tiny = configure(32, generator=preset, cfg="tiny")
    assert tiny.networks.w_dim == 128
    assert tiny.to_dict("r")["G_opt_kwargs"]["lr"] == pytest.approx(0.01)


def test_rates_can_be_given():
    config = configure(generator="inr-gan-vanilla", glr=0.1, w_dim=7, map_depth=2)
    assert config.g_lr == 0.1 and config.lr_multipliers == {"hypernetwork": 0.1}
    assert (config.networks.w_dim, config.networks.map_depth) == (7, 2)
    assert any(line.endswith("0.1, hypernetwork 0.01 (given: --glr)") for line in explain(config))
    assert any("G: the paper's, at most 512; D: min(16384 / r, 512)" in s for s in explain(config))
    other = configure(generator="stylegan2").to_dict("r")
    assert "lr_multipliers" not in other["G_opt_kwargs"]


@pytest.mark.parametrize(
    "resolution,batch,batch_gpu", [(64, 128, 32), (128, 128, 32), (256, 64, 16), (1024, 32, 8)]
)
def test_paper_inr(resolution, batch, batch_gpu):
    config = configure(resolution, cfg="paper-inr", gpus=4, generator="inr-gan-vanilla")
    result = config.to_dict("r")
    assert (result["batch_size"], result["batch_gpu"]) == (batch, batch_gpu)
    assert result["total_kimg"] == 800 * batch
    # 0.999 per step of one batch.
    assert 0.5 ** (batch / (result["ema_kimg"] * 1000)) == pytest.approx(0.999)
    assert result["ema_rampup"] is None
    assert result["D_reg_interval"] is None and result["loss_kwargs"]["r1_gamma"] == 10
    assert result["training_set_kwargs"]["xflip"] and "augment_kwargs" not in result
    adam = {"class_name": "torch.optim.Adam", "betas": [0, 0.98], "eps": 1e-8}
    assert result["D_opt_kwargs"] == {**adam, "lr": 3e-3}
    g_opt = result["G_opt_kwargs"]
    assert g_opt == {**adam, "lr": 5e-4, "lr_multipliers": {"hypernetwork": 0.02}}
    assert g_opt["lr"] * 0.02 == pytest.approx(1e-5)
    assert json.loads(json.dumps(result))["D_kwargs"]["channel_base"] == 16384
    assert result["D_kwargs"]["num_fp16_res"] == 0
    mixed = configure(resolution, cfg="paper-inr", gpus=4, fp32=False).networks
    assert mixed.d_mixed_precision and mixed.g_mixed_precision


def test_paper_inr_leaves_room_for_options_and_other_generators():
    config = configure(cfg="paper-inr", mirror=False, aug="ada", gamma=20, gpus=3)
    result = config.to_dict("r")
    assert config.networks.preset == "inr-gan-bil" and config.lr_multipliers == {}
    assert not result["training_set_kwargs"]["xflip"] and result["ada_target"] == 0.6
    assert result["batch_size"] % 3 == 0 and result["batch_size"] % result["batch_gpu"] == 0
    assert any("none (--cfg=paper-inr)" in line for line in explain(configure(cfg="paper-inr")))


def test_paper_inr_builds_these_optimizers():
    result = configure(32, cfg="paper-inr", generator="inr-gan-vanilla", cmax=8).to_dict("r")
    kwargs = dict(result["G_kwargs"])
    del kwargs["class_name"]
    kwargs.update(z_dim=4, w_dim=6, c_dim=0, img_resolution=32, img_channels=3)
    kwargs["synthesis_kwargs"] = {**kwargs["synthesis_kwargs"], "frequencies": (3, 3)}
    G = build_generator(**kwargs)
    D = build_discriminator(
        c_dim=0, img_resolution=32, img_channels=3, channel_base=64, channel_max=8
    )
    phases = build_phases(
        G,
        D,
        result["G_opt_kwargs"],
        result["D_opt_kwargs"],
        D_reg_interval=result["D_reg_interval"],
        regularize_G=False,
    )
    assert [phase.name for phase in phases] == ["Gmain", "Dboth"]
    rates = {group["name"]: group["lr"] for group in phases[0].optimizer.param_groups}
    assert rates == {"hypernetwork": pytest.approx(1e-5), "shared": pytest.approx(5e-4)}
    assert phases[1].optimizer.param_groups[0]["lr"] == 3e-3


def test_names_of_activations_are_those_of_the_op():
    assert set(FMM_ACTIVATION_NAMES) == set(FMM_ACTIVATIONS)


@pytest.mark.parametrize("preset", ["inr-gan", "inr-gan-vanilla", "inr-fmm"])
def test_rank_and_activation_reach_the_network(preset):
    config = configure(generator=preset, fmm_rank=3, fmm_activation="identity")
    synthesis = config.to_dict("r")["G_kwargs"]["synthesis_kwargs"]
    assert (synthesis["rank"], synthesis["fmm_activation"]) == (3, "identity")
    assert config.description == f"ds-auto1-{preset}-rank3-identity"


@pytest.mark.parametrize("preset", ["stylegan2", "inr-latent", "inr-hyper", "inr-fourier"])
def test_refuses_modulation_options_without_modulation(preset):
    with pytest.raises(UserError, match=f"--fmm-rank=3: --generator={preset} has no"):
        configure(generator=preset, fmm_rank=3)


def test_resuming_keeps_the_files_architecture():
    with torch.device("meta"):
        G = build_generator(
            "inr-gan-vanilla",
            z_dim=4,
            c_dim=0,
            w_dim=6,
            img_resolution=64,
            img_channels=3,
            synthesis_kwargs={"channel_max": 8, "rank": 3, "widths": (5, 4)},
            num_blocks=2,
        )
    D = build_discriminator(
        c_dim=0, img_resolution=64, img_channels=3, channel_base=64, channel_max=8
    )
    found = snapshot_facts(G, D, "file.pkl")
    assert found.synthesis == {"rank": 3, "widths": (5, 4), "num_blocks": 2}
    options = TrainOptions(outdir="runs", data="ds.zip", resume="file.pkl")
    config = resolve(options, FACTS, found)
    synthesis = config.to_dict("r")["G_kwargs"]["synthesis_kwargs"]
    assert synthesis["rank"] == 3 and synthesis["widths"] == (5, 4)
    assert config.networks.channel_max == 8 and config.networks.w_dim == 6
    options = TrainOptions(outdir="runs", data="ds.zip", resume="file.pkl", fmm_rank=4)
    with pytest.raises(UserError, match="--fmm-rank=4: the file of --resume=file.pkl has 3"):
        resolve(options, FACTS, found)
    assert config.g_lr == 5e-4
