"""Options to configuration: names, defaults, formulas, dictionary layout, refusals."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from dnnlib import UserError
from training.base_configs import AUGMENT_PIPES, CONFIG_NAMES, RESUME_ALIASES, base_config
from training.config import DatasetFacts, ResumeFacts, TrainConfig
from training.explain import explain
from training.options import TrainOptions
from training.resolve import is_resume, resolve

FACTS = DatasetFacts(name="ds", image_shape=(3, 64, 64), num_images=24, label_dim=3)


def facts(resolution: int = 64, **kwargs) -> DatasetFacts:
    shape = (3, resolution, resolution)
    return dataclasses.replace(FACTS, **{"image_shape": shape, **kwargs})


def configure(resolution: int = 64, **options) -> TrainConfig:
    given = TrainOptions(outdir="runs", data="ds.zip", **options)
    file = ResumeFacts(preset="stylegan2") if is_resume(given.resume) else None
    return resolve(given, facts(resolution), file)


def test_config_imports_no_torch():
    code = "import sys, training.resolve, training.explain; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_description_names_all_given_options():
    config = configure(
        cond=True,
        subset=20,
        mirror=True,
        gamma=5.0,
        kimg=1,
        batch=8,
        aug="ada",
        target=0.7,
        augpipe="bg",
        resume="some.pkl",
        freezed=2,
    )
    assert config.description == (
        "ds-cond-subset20-mirror-auto1-gamma5-kimg1-batch8-ada-target0.7-bg-resumecustom-freezed2"
    )


@pytest.mark.parametrize(
    ("options", "suffix"),
    [
        ({}, "auto1"),
        ({"gpus": 4}, "auto4"),
        ({"gpus": 4, "cfg": "paper256"}, "paper256"),
        ({"cond": False, "mirror": False}, "auto1"),
        ({"aug": "fixed", "p": 0.25}, "auto1-fixed-p0.25"),
        ({"aug": "noaug"}, "auto1-noaug"),
        ({"gamma": 1e-05}, "auto1-gamma1e-05"),
        ({"resume": "noresume"}, "auto1-noresume"),
        ({"resume": "ffhq256"}, "auto1-resumeffhq256"),
        (
            {"resume": "ffhq256", "freezed": 1, "generator": "stylegan2", "desc": "try"},
            "auto1-resumeffhq256-freezed1-stylegan2-try",
        ),
        ({"glr": 0.1, "cbase": 1024, "tick": 1}, "auto1"),
    ],
)
def test_description_suffix(options, suffix):
    assert configure(**options).description == f"ds-{suffix}"


def test_dictionary_has_the_documented_keys_in_order():
    config = configure(
        cond=True, subset=20, generator="stylegan2", nobench=True, allow_tf32=True,
        resume="ffhq256",
    )  # fmt: skip
    result = config.to_dict("runs/0")
    assert list(result) == [
        "num_gpus", "image_snapshot_ticks", "network_snapshot_ticks", "metrics", "random_seed",
        "training_set_kwargs", "data_loader_kwargs", "G_kwargs", "D_kwargs", "G_opt_kwargs",
        "D_opt_kwargs", "loss_kwargs", "total_kimg", "batch_size", "batch_gpu", "ema_kimg",
        "ema_rampup", "ada_target", "augment_kwargs", "resume_pkl", "ada_kimg",
        "cudnn_benchmark", "allow_tf32", "run_dir",
    ]  # fmt: skip
    assert result["training_set_kwargs"] == {
        "class_name": "training.dataset.ImageFolderDataset",
        "path": "ds.zip",
        "use_labels": True,
        "max_size": 20,
        "xflip": False,
        "resolution": 64,
        "random_seed": 0,
    }
    assert result["G_kwargs"] == {
        "class_name": "networks.build_generator",
        "preset": "stylegan2",
        "z_dim": 512,
        "w_dim": 512,
        "mapping_kwargs": {"num_layers": 2},
        "synthesis_kwargs": {
            "channel_base": 16384,
            "channel_max": 512,
            "num_fp16_res": 4,
            "conv_clamp": 256,
        },
    }
    assert result["D_kwargs"] == {
        "class_name": "networks.build_discriminator",
        "block_kwargs": {},
        "mapping_kwargs": {},
        "epilogue_kwargs": {"mbstd_group_size": 4},
        "channel_base": 16384,
        "channel_max": 512,
        "num_fp16_res": 4,
        "conv_clamp": 256,
    }
    adam = {"class_name": "torch.optim.Adam", "lr": 0.0025, "betas": [0, 0.99], "eps": 1e-8}
    assert result["G_opt_kwargs"] == result["D_opt_kwargs"] == adam
    assert list(result["loss_kwargs"]) == ["class_name", "r1_gamma"]
    assert result["metrics"] == ["fid50k_full"]
    assert result["ema_rampup"] is None and result["ada_kimg"] == 100
    assert result["resume_pkl"] == RESUME_ALIASES["ffhq256"]


def test_optional_entries():
    whole_set = configure(subset=24).to_dict("r")["training_set_kwargs"]
    assert "random_seed" not in whole_set and whole_set["max_size"] == 24
    fixed = configure(aug="fixed", p=0.3, augpipe="blit").to_dict("r")
    assert fixed["augment_p"] == 0.3 and "ada_target" not in fixed
    assert fixed["augment_kwargs"] == {
        "class_name": "training.augment.AugmentPipe", "xflip": 1, "rotate90": 1, "xint": 1
    }  # fmt: skip
    assert "augment_kwargs" not in configure(aug="noaug").to_dict("r")
    nhwc = configure(nhwc=True, freezed=3).to_dict("r")
    assert nhwc["G_kwargs"]["synthesis_kwargs"]["fp16_channels_last"] is True
    assert nhwc["D_kwargs"]["block_kwargs"] == {"freeze_layers": 3, "fp16_channels_last": True}
    new = configure(tick=0.5, device="cpu").to_dict("r")
    assert new["kimg_per_tick"] == 0.5 and new["device"] == "cpu"
    assert list(new)[-1] == "run_dir"


def test_workers_follow_the_device():
    options = TrainOptions(outdir="o", data="ds.zip")
    on_cpu = resolve(options, FACTS, device_type="cpu").to_dict("r")["data_loader_kwargs"]
    on_gpu = resolve(options, FACTS, device_type="cuda").to_dict("r")["data_loader_kwargs"]
    assert on_cpu == {"pin_memory": True, "num_workers": 0}
    assert on_gpu == {"pin_memory": True, "num_workers": 3, "prefetch_factor": 2}


@pytest.mark.parametrize(
    ("resolution", "gpus", "batch", "mbstd", "base", "lr"),
    [
        (32, 1, 32, 4, 16384, 0.0025),
        (256, 1, 16, 4, 16384, 0.0025),
        (256, 8, 64, 4, 16384, 0.0025),
        (512, 2, 16, 4, 32768, 0.0025),
        (1024, 1, 4, 4, 32768, 0.002),
        (1024, 8, 32, 4, 32768, 0.002),
        # Not a power of two: rounded so that it can be shared and grouped.
        (256, 3, 48, 4, 16384, 0.0025),
        (32, 3, 63, 3, 16384, 0.0025),
        (256, 5, 60, 4, 16384, 0.0025),
    ],
)
def test_auto_formulas(resolution, gpus, batch, mbstd, base, lr):
    config = configure(resolution, gpus=gpus)
    assert (config.batch_size, config.batch_gpu) == (batch, batch // gpus)
    assert config.networks.mbstd_group == mbstd
    assert (config.networks.channel_base, config.networks.channel_max) == (base, 512)
    assert config.g_lr == config.d_lr == lr
    assert config.r1_gamma == pytest.approx(0.0002 * resolution**2 / batch)
    assert config.ema_kimg == pytest.approx(batch * 10 / 32)
    assert (config.ema_rampup, config.networks.map_depth) == (0.05, 2)


@pytest.mark.parametrize(
    ("cfg", "expected"),
    [
        ("stylegan2", (25000, 32, 4, 4, 32768, 0.002, 10, 10, None, 8)),
        ("paper256", (25000, 64, 8, 8, 16384, 0.0025, 1, 20, None, 8)),
        ("paper512", (25000, 64, 8, 8, 32768, 0.0025, 0.5, 20, None, 8)),
        ("paper1024", (25000, 32, 4, 4, 32768, 0.002, 2, 10, None, 8)),
        ("cifar", (100000, 64, 32, 32, 32768, 0.0025, 0.01, 500, 0.05, 2)),
    ],
)
def test_published_configs(cfg, expected):
    config = configure(cfg=cfg, generator="stylegan2")
    nets = config.networks
    assert expected == (
        config.total_kimg, config.batch_size, config.batch_gpu, nets.mbstd_group,
        nets.channel_base, config.g_lr, config.r1_gamma, config.ema_kimg, config.ema_rampup,
        nets.map_depth,
    )  # fmt: skip
    is_cifar = cfg == "cifar"
    assert (config.pl_weight == 0 and nets.d_architecture == "orig") == is_cifar
    assert (config.to_dict("r")["loss_kwargs"].get("pl_weight") == 0) == is_cifar


@pytest.mark.parametrize("cfg", CONFIG_NAMES)
@pytest.mark.parametrize("gpus", [1, 2, 3, 4, 8, 16, 32])
def test_batches_always_fit(cfg, gpus):
    base = base_config(cfg, 64, gpus)
    if base.batch % gpus:
        with pytest.raises(UserError, match=rf"--gpus={gpus}"):
            configure(cfg=cfg, gpus=gpus)
        return
    config = configure(cfg=cfg, gpus=gpus)
    # More processes than the reference had: every process still gets at least one image.
    assert config.batch_size % (config.batch_gpu * gpus) == 0
    assert config.batch_gpu % min(config.networks.mbstd_group, config.batch_gpu) == 0


def test_batch_option_leaves_the_rest():
    config = configure(batch=8)
    assert (config.batch_size, config.batch_gpu, config.networks.mbstd_group) == (8, 8, 4)
    assert config.r1_gamma == configure().r1_gamma and config.ema_kimg == configure().ema_kimg
    accumulated = configure(batch=32, batch_gpu=8)
    assert (accumulated.batch_size, accumulated.batch_gpu) == (32, 8)


def test_inr_presets_train_without_path_length_mixing_and_half_precision():
    loss = configure().to_dict("r")["loss_kwargs"]
    assert loss["pl_weight"] == 0 and loss["style_mixing_prob"] == 0
    assert configure().to_dict("r")["G_kwargs"]["preset"] == "inr-gan-bil"
    asked = configure(pl_weight=2.0, style_mixing_prob=0.9, fp32=False).to_dict("r")
    assert (
        asked["loss_kwargs"]["pl_weight"] == 2 and asked["loss_kwargs"]["style_mixing_prob"] == 0.9
    )
    assert asked["G_kwargs"]["synthesis_kwargs"]["num_fp16_res"] == 4

    def precision(**options):
        result = configure(**options).to_dict("r")
        synthesis = result["G_kwargs"]["synthesis_kwargs"]
        return synthesis["num_fp16_res"], result["D_kwargs"]["num_fp16_res"]

    assert precision() == (0, 4)
    assert precision(fp32=True) == (0, 0)
    assert precision(generator="stylegan2") == (4, 4)
    assert configure(fp32=True).to_dict("r")["D_kwargs"]["conv_clamp"] is None


def test_new_options_reach_their_place():
    result = configure(
        glr=0.1, dlr=0.2, cbase=2048, cmax=64, z_dim=16, w_dim=24, map_depth=3, mbstd_group=2
    ).to_dict("r")
    assert (result["G_opt_kwargs"]["lr"], result["D_opt_kwargs"]["lr"]) == (0.1, 0.2)
    assert (result["G_kwargs"]["z_dim"], result["G_kwargs"]["w_dim"]) == (16, 24)
    assert result["G_kwargs"]["mapping_kwargs"] == {"num_layers": 3}
    for kwargs in (result["G_kwargs"]["synthesis_kwargs"], result["D_kwargs"]):
        assert (kwargs["channel_base"], kwargs["channel_max"]) == (2048, 64)
    assert result["D_kwargs"]["epilogue_kwargs"] == {"mbstd_group_size": 2}


def test_resume_takes_the_files_architecture():
    file = ResumeFacts(
        preset="inr-gan", image_size=(64, 64), img_channels=3, c_dim=0, z_dim=32, w_dim=48,
        map_depth=4, channel_base=512, channel_max=16,
    )  # fmt: skip
    config = configure(resume="a.pkl")
    assert config.networks.preset == "stylegan2"
    nets = resolve(TrainOptions(outdir="o", data="d", resume="a.pkl"), FACTS, file).networks
    assert (nets.preset, nets.z_dim, nets.w_dim, nets.map_depth) == ("inr-gan", 32, 48, 4)
    assert (nets.channel_base, nets.channel_max) == (512, 16)

    def refused(pattern: str, **options):
        with pytest.raises(UserError, match=pattern):
            resolve(TrainOptions(outdir="o", data="d", resume="a.pkl", **options), FACTS, file)

    refused("inr-gan generator", generator="stylegan2")
    refused("label size .* is 0", cond=True)
    refused("--cbase is 512", cbase=1024)
    with pytest.raises(UserError, match="image size is 64x64.*32x32"):
        resolve(TrainOptions(outdir="o", data="d", resume="a.pkl"), facts(32), file)


def test_resume_takes_the_files_discriminator():
    file = ResumeFacts(
        preset="stylegan2", map_depth=1, c_dim=3, d_architecture="orig", d_map_depth=1
    )
    options = {"outdir": "o", "data": "d", "resume": "a.pkl", "cond": True}
    D = resolve(TrainOptions(**options), FACTS, file).networks.discriminator()
    assert D["architecture"] == "orig" and D["mapping_kwargs"] == {"num_layers": 1}
    with pytest.raises(UserError, match="--map-depth is 1, but this run needs 2"):
        resolve(TrainOptions(**options, map_depth=2), FACTS, file)


def test_alias_is_a_stylegan2_generator():
    assert configure(resume="ffhq256").networks.preset == "stylegan2"
    with pytest.raises(UserError, match="stylegan2 generator"):
        configure(resume="ffhq256", generator="inr-gan")


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"metrics": "fid50k_full,fid50"}, "'fid50'.*fid50k_full, kid50k_full"),
        ({"subset": 25}, "--subset=25.*24"),
        ({"batch": 9, "gpus": 2}, r"--batch=9.*--gpus=2.*--batch=8"),
        ({"batch": 1, "gpus": 3}, "--batch=3"),
        ({"batch": 32, "batch_gpu": 12}, "--batch-gpu=12"),
        ({"batch": 6}, "6 images per GPU.*--mbstd-group=3"),
        ({"p": 0.2}, "--p=0.2"),
        ({"aug": "fixed"}, "--p=P"),
        ({"aug": "fixed", "p": 0.1, "target": 0.5}, "--target=0.5"),
        ({"aug": "noaug", "augpipe": "bg"}, "--augpipe=bg"),
        ({"desc": "a/b"}, "--desc=a/b"),
    ],
)
def test_refusals_name_option_and_value(options, pattern):
    with pytest.raises(UserError, match=pattern) as caught:
        configure(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("generator", "shape", "pattern"),
    [
        ("stylegan2", (48, 64), "64x48 pixels.*generator=stylegan2 .*squares.*=32 --height=32"),
        ("stylegan2", (48, 48), "48x48 pixels.*=inr-gan-bil, or .*center-crop --width=32"),
        ("stylegan2", (4, 4), "4x4 pixels.*--width=8"),
        ("inr-gan", (418, 418), "418x418 .*only down to 209x209.*pad --width=448 --height=448.* or "
                                ".*center-crop --width=384 --height=384"),
        ("inr-gan-bil", (720, 1280), "1280x720 .*pad --width=1280 --height=768"),
        ("inr-gan", (4, 12), "12x4 .*at least 8 .*pad --width=12 --height=8 .adds borders. makes"),
    ],
)  # fmt: skip
def test_image_sizes_that_do_not_fit(generator, shape, pattern):
    given = TrainOptions(outdir="o", data="d.zip", generator=generator)
    with pytest.raises(UserError, match=pattern) as caught:
        resolve(given, dataclasses.replace(FACTS, image_shape=(3, *shape)))
    assert "\n" not in str(caught.value) and str(caught.value).startswith("--data=d.zip: ")


@pytest.mark.parametrize("shape", [(64, 96), (96, 64), (48, 48), (768, 1280), (8, 16)])
def test_any_shape_that_halves(shape):
    config = resolve(
        TrainOptions(outdir="o", data="d.zip"), dataclasses.replace(FACTS, image_shape=(3, *shape))
    )
    side = max(shape)
    assert config.r1_gamma == pytest.approx(0.0002 * side**2 / config.batch_size)
    wanted = config.to_dict("r")["training_set_kwargs"]["resolution"]
    assert wanted == (list(shape) if shape[0] != shape[1] else side)
    assert f"0.0002 * {side}^2" in "\n".join(explain(config))


def test_conditional_needs_labels():
    given = TrainOptions(outdir="o", data="d.zip", cond=True)
    with pytest.raises(UserError, match=r"--cond=1: d.zip has no labels.*dataset\.json"):
        resolve(given, facts(label_dim=0))


@pytest.mark.parametrize("name", ["", "none", "None", "NONE"])
def test_no_metrics(name):
    assert configure(metrics=name).to_dict("r")["metrics"] == []


def test_metrics_and_their_detectors():
    config = configure(metrics=" kid50k, fid5k,kid50k", detectors={"vgg16": "v.pt"})
    result = config.to_dict("r")
    assert result["metrics"] == ["kid50k", "fid5k"] and result["detectors"] == {"vgg16": "v.pt"}
    assert "detectors" not in configure().to_dict("r")


def test_code_of_the_resumed_file_is_run_on_request_only():
    assert configure(allow_code=True).to_dict("r")["allow_code"] is True
    assert "allow_code" not in configure().to_dict("r")


def test_augment_pipes():
    expected = {
        "blit": 3, "geom": 4, "color": 5, "filter": 1, "noise": 1, "cutout": 1,
        "bg": 7, "bgc": 12, "bgcf": 13, "bgcfn": 14, "bgcfnc": 15,
    }  # fmt: skip
    assert list(AUGMENT_PIPES) == list(expected)
    for pipe, count in expected.items():
        multipliers = configure(augpipe=pipe).augment_kwargs
        assert len(multipliers) == count + 1  # and class_name


def test_configuration_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        configure().total_kimg = 5
    with pytest.raises(TypeError):
        TrainOptions(outdir="o", data="d", gama=5)


@pytest.mark.parametrize("cfg", CONFIG_NAMES)
def test_explanation_shows_values_and_rules(cfg):
    config = configure(cfg=cfg)
    text = "\n".join(explain(config))
    assert f"{config.r1_gamma:.4g}" in text and str(config.batch_size) in text
    assert ("0.0002 * 64^2" in text) == (cfg in ("auto", "tiny"))
    given = "\n".join(explain(configure(cfg=cfg, gamma=7.5)))
    assert "7.5 (given: --gamma)" in given


def test_explanation_names_the_options_that_were_given():
    text = "\n".join(explain(configure(pl_weight=2.0, cmax=64)))
    assert "2 / 0 (given: --pl-weight)" in text
    assert "64) (given: --cmax)" in text
    text = "\n".join(explain(configure()))
    assert "0 / 0 (preset inr-gan-bil)" in text
    assert "fid50k_full at every snapshot (50,000 images each time; --metrics=fid5k" in text
    assert "none (given: --metrics)" in "\n".join(explain(configure(metrics="none")))


def test_widths_that_leave_no_channels_are_refused():
    with pytest.raises(UserError, match="--cbase=32 leaves no channels at 64x64"):
        configure(cbase=32)


def test_tiny_says_how_it_differs():
    config = configure(cfg="tiny")
    assert (config.g_lr, config.d_lr) == (0.004, 0.02)
    assert "150 * 0.0002 * 64^2" in "\n".join(explain(config))
    assert config.networks.discriminator()["mapping_kwargs"] == {"num_layers": 1}
    assert configure(cfg="auto").networks.discriminator()["mapping_kwargs"] == {}
