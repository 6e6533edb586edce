"""Whole metrics, with tiny detectors, networks and sets: kinds of images, batch sizes, reports."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import dnnlib
from dnnlib import UserError
from metrics import metric_main, metric_utils
from metrics.options import MetricOptions
from tests.metrics import tiny_world
from tests.metrics.tiny_world import SMALL_METRICS

# Networks may round differently in batches of another size.
SAME = 1e-4


def calc(metric: str, **kwargs: Any) -> dnnlib.EasyDict:
    return metric_main.calc_metric(metric, device="cpu", **kwargs)


@pytest.fixture
def world(tmp_path: Path, detectors: dict[str, str]) -> dict[str, Any]:
    """Options for an RGB network and set."""
    return {
        "G": tiny_world.make_generator(),
        "dataset_kwargs": tiny_world.write_pictures(tmp_path / "set.zip"),
        "detectors": detectors,
    }


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_metric_for_grey_rgb_and_rgba(
    channels: int, tmp_path: Path, detectors: dict[str, str]
) -> None:
    G = tiny_world.make_generator(channels)
    kwargs = tiny_world.write_pictures(tmp_path / "set.zip", channels)
    for metric in SMALL_METRICS:
        found = calc(metric, G=G, dataset_kwargs=kwargs, detectors=detectors)
        assert all(map(math.isfinite, found.results.values())), found
        assert any(value > 0 for value in found.results.values()) or metric == "small_pr"
        assert [key.startswith(metric) for key in found.results]


@pytest.mark.parametrize("preset", ["stylegan2", "inr-gan-bil"])
@pytest.mark.parametrize("metric", SMALL_METRICS)
def test_batch_size_does_not_matter(metric: str, preset: str, world: dict[str, Any]) -> None:
    """StyleGAN2 has per-pixel noise, drawn at random; the other has none."""
    G = tiny_world.make_generator(preset=preset)
    sizes = ({"batch_size": 1, "batch_gen": 1}, {"batch_size": 64, "batch_gen": 64}, {})
    found = [calc(metric, **{**world, "G": G}, cache=False, **size).results for size in sizes]
    assert found[1] == pytest.approx(found[0], rel=SAME, abs=1e-9)
    assert found[2] == pytest.approx(found[0], rel=SAME, abs=1e-9)


def test_seed(world: dict[str, Any]) -> None:
    state = torch.get_rng_state()
    for metric in ("small_fid", "small_ppl_z"):
        results = [calc(metric, **world, seed=seed).results[metric] for seed in (0, 0, 1)]
        assert results[0] == results[1] != results[2]
        drawn = [calc(metric, **world, seed=None) for _ in range(2)]
        assert drawn[0].provenance.seed != drawn[1].provenance.seed
        again = calc(metric, **world, seed=drawn[0].provenance.seed)
        assert again.results == drawn[0].results
    assert torch.equal(torch.get_rng_state(), state)
    for seed in (-1, 2**32):
        with pytest.raises(UserError, match=f"0 to 4294967295, not {seed}"):
            calc("small_fid", **world, seed=seed)


def test_truncation_reaches_the_generator(world: dict[str, Any]) -> None:
    for metric in ("small_is", "small_ppl_w"):
        free = calc(metric, **world)
        one_image = calc(metric, **world, G_kwargs={"truncation_psi": 0, "noise_mode": "const"})
        assert one_image.provenance.psi == 0 and free.provenance.psi == 1
        assert one_image.provenance.G_kwargs == {"truncation_psi": 0, "noise_mode": "const"}
        expected = 1 if metric == "small_is" else 0
        assert list(one_image.results.values())[0] == pytest.approx(expected, abs=1e-6)
        assert list(free.results.values())[0] > expected + 1e-3


def test_noise_is_the_same_at_both_ends_of_a_path(world: dict[str, Any]) -> None:
    """Equal w give equal images although noise is drawn; different paths have different noise."""
    for metric in ("small_ppl_w", "small_ppl_z"):
        assert calc(metric, **world, G_kwargs={"truncation_psi": 0}).results[metric] == 0
    found = calc("small_is", **world, G_kwargs={"truncation_psi": 0})
    assert found.results.small_is_mean > 1 + 1e-6


def test_labels_come_from_the_set(tmp_path: Path, detectors: dict[str, str]) -> None:
    G = tiny_world.make_generator(c_dim=tiny_world.NUM_CLASSES)
    kwargs = tiny_world.write_pictures(tmp_path / "set.zip", labels=True)
    for metric in SMALL_METRICS:
        found = calc(metric, G=G, dataset_kwargs=kwargs, detectors=detectors)
        small = calc(metric, G=G, dataset_kwargs=kwargs, detectors=detectors, batch_size=5)
        assert small.results == pytest.approx(found.results, rel=SAME)
    without = {**kwargs, "use_labels": False}
    with pytest.raises(UserError, match='of dimension 3, but those of "set" have dimension 0'):
        calc("small_is", G=G, dataset_kwargs=without, detectors=detectors)
    with pytest.raises(UserError, match="of dimension 3, but no data set was given"):
        calc("small_is", G=G, detectors=detectors)


class Waves(nn.Module):
    """A generator of another origin: no label size, no noise, wide pictures."""

    z_dim = 5
    img_resolution = 24

    def mapping(self, z: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """[N, 5] -> [N, 1, 5]."""
        assert c.shape == (len(z), 0)
        return z[:, None]

    def synthesis(self, ws: torch.Tensor, noise_mode: str, force_fp32: bool) -> torch.Tensor:
        """[N, 1, 5] -> [N, 3, 10, 24]."""
        assert noise_mode == "random" and force_fp32
        x = torch.linspace(0, 9, 3 * 10 * 24).reshape(3, 10, 24)
        return torch.sin(x * ws.mean(dim=2)[:, :, None, None])

    def forward(self, z: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """[N, 5] -> [N, 3, 10, 24]."""
        return self.synthesis(self.mapping(z, c), "random", True)


def test_any_module_and_any_shape(world: dict[str, Any]) -> None:
    for metric in SMALL_METRICS:
        found = calc(metric, **{**world, "G": Waves()})
        assert all(map(math.isfinite, found.results.values()))
        assert calc(metric, **{**world, "G": Waves()}, batch_gen=19).results == found.results


def test_generator_is_not_changed(world: dict[str, Any]) -> None:
    G = world["G"].train().requires_grad_(True)
    before = {name: tensor.clone() for name, tensor in G.state_dict().items()}
    for metric in ("small_fid", "small_ppl_w"):
        calc(metric, **world)
    assert G.training and all(param.requires_grad for param in G.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in G.state_dict().items())


def test_mirrored_set(world: dict[str, Any], tmp_path: Path) -> None:
    """Names without "_full" keep x-flips; the counts say so."""
    kwargs = {**world["dataset_kwargs"], "xflip": True}
    plain = calc("small_fid", **world)
    flipped = calc("small_fid", **{**world, "dataset_kwargs": kwargs})
    assert (plain.provenance.num_real, flipped.provenance.num_real) == (21, 42)
    assert (plain.provenance.xflip, flipped.provenance.xflip) == (False, True)
    assert plain.results != flipped.results


def test_prescribed_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions behind the names, by their arguments."""
    called: list[tuple[Any, ...]] = []

    def record(opts: MetricOptions, *args: Any, **kwargs: Any) -> float:
        dataset = opts.dataset_kwargs
        called.append((dataset.max_size, dataset.xflip, *args, *kwargs.values()))
        return 0.0

    monkeypatch.setattr(metric_main.frechet_inception_distance, "compute_fid", record)
    monkeypatch.setattr(metric_main.kernel_inception_distance, "compute_kid", record)
    monkeypatch.setattr(metric_main.perceptual_path_length, "compute_ppl", record)
    monkeypatch.setattr(metric_main.precision_recall, "compute_pr", record)
    monkeypatch.setattr(metric_main.inception_score, "compute_is", record)
    expected = {
        "fid50k_full": (None, False, None, 50000),
        "fid50k": (None, True, 50000, 50000),
        "fid5k": (None, False, 50000, 5000),
        "kid50k_full": (None, False, 1000000, 50000, 100, 1000),
        "kid50k": (None, True, 50000, 50000, 100, 1000),
        "kid5k": (None, False, 50000, 5000, 100, 1000),
        "pr50k3_full": (None, False, 200000, 50000, 3, 10000, 10000),
        "pr50k3": (None, True, 50000, 50000, 3, 10000, 10000),
        "is50k": (None, False, 50000, 10),
        "ppl2_wend": (7, True, 50000, 1e-4, "w", "end", False),
        "ppl_zfull": (7, True, 50000, 1e-4, "z", "full", True),
        "ppl_wend": (7, True, 50000, 1e-4, "w", "end", True),
    }
    for metric, arguments in expected.items():
        kwargs = {"class_name": "x", "max_size": 7, "xflip": True}
        assert list(calc(metric, dataset_kwargs=kwargs).results) == [metric] or metric[:2] in (
            "pr",
            "is",
        )
        assert called.pop() == arguments, metric


def test_result_and_provenance(world: dict[str, Any]) -> None:
    found = calc("small_pr", **world, seed=3)
    first = ["results", "metric", "total_time", "total_time_str", "num_gpus"]
    assert list(found)[:5] == first and found.num_gpus == 1 and found.total_time > 0
    assert list(found.results) == ["small_pr_precision", "small_pr_recall"]
    noted = found.provenance
    detector = noted.pop("detectors")
    assert list(detector) == ["vgg16"] and len(detector["vgg16"]) == 64
    assert len(noted.pop("dataset_fingerprint")) == 64
    assert noted == {
        "dataset": "set",
        "resize_filter": "lanczos",
        "num_real": 21,
        "num_fake": 19,
        "xflip": False,
        "seed": 3,
        "psi": 1,
        "G_kwargs": {},
        "dtype": "float32",
        "tf32": torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32,
        "device": "cpu",
        "version": "0.1.0",
        "torch": torch.__version__,
    }


def test_report(world: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = calc("small_is", **world)
    result.results["small_is_std"] = math.nan
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    capsys.readouterr()
    metric_main.report_metric(result, str(run_dir), str(run_dir / "network-snapshot-000001.pkl"))
    metric_main.report_metric(result, str(tmp_path / "not there"), "https://host.name/x.pkl")
    metric_main.report_metric(dict(result), snapshot_pkl="some/x.pkl")
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    keys = ["results", "metric", "total_time", "total_time_str", "num_gpus", "snapshot_pkl"]
    assert [list(line) for line in printed] == [[*keys, "timestamp", "provenance"]] * 3
    assert [line["snapshot_pkl"] for line in printed] == [
        "network-snapshot-000001.pkl",
        "https://host.name/x.pkl",
        "some/x.pkl",
    ]
    assert printed[0]["results"]["small_is_mean"] == result.results.small_is_mean
    assert printed[0]["results"]["small_is_std"] is None
    stored = (run_dir / "metric-small_is.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in stored] == printed[:1]


def test_errors_in_one_sentence(world: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="there is no metric 'fid'; use one of fid50k_full"):
        calc("fid", **world)
    with pytest.raises(UserError, match="no data set was given"):
        calc("small_fid", **{**world, "dataset_kwargs": {}})
    G = world["G"]
    G.synthesis.b4.const.fill_(math.nan)
    for metric in ("small_fid", "small_is", "small_ppl_w"):
        with pytest.raises(UserError, match="hold values that are not finite"):
            calc(metric, **world)
    with pytest.raises(ValueError, match="rank 2 is not one of 2"):
        MetricOptions(num_gpus=2, rank=2)
    with pytest.raises(ValueError, match="needs a generator"):
        calc("small_is", detectors=world["detectors"])


def test_progress(world: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    positions: list[float] = []
    progress = metric_utils.ProgressMonitor(
        verbose=True, progress_fn=lambda position, total: positions.append(position / total)
    )
    calc("small_fid", **world, progress=progress)
    assert positions == sorted(positions) and positions[0] == 0 and positions[-1] == 1
    assert 0.5 in positions
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("dataset features   : 21/21 (100%)")
    assert lines[1].startswith("generator features : 19/19 (100%)")
    calc("small_fid", **world)
    assert capsys.readouterr() == ("", "")


def test_names_that_scripts_import() -> None:
    opts = metric_utils.MetricOptions()
    assert (opts.num_gpus, opts.rank, opts.cache, opts.G) == (1, 0, True, None)
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert opts.device.type == expected
    assert metric_utils.get_feature_detector_name("https://a.b/c/d.pt") == "d"
    part = metric_utils.ProgressMonitor(pfn_hi=100).sub("x", 10, rel_lo=0.5, rel_hi=0.75)
    assert (part.tag, part.pfn_lo, part.pfn_hi, part.pfn_total) == ("x", 50, 75, 1000)
