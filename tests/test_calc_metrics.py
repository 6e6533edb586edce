"""calc_metrics.py on a network that was trained for it, with detectors that fit into a test."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import calc_metrics
from metrics import metric_main
from metrics.frechet_inception_distance import compute_fid
from metrics.inception_score import compute_is
from networks.snapshot_file import read_snapshot, write_snapshot
from tests.metrics import tiny_detectors
from tests.small_networks import make_generator
from tests.training.test_training_loop import make_zip, run_kwargs
from training.training_loop import training_loop

ROOT = Path(__file__).resolve().parents[1]
SNAPSHOT = "network-snapshot-000000.pkl"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Folder with run/ (a conditional network after one step), ds.zip and detectors/."""
    folder = tmp_path_factory.mktemp("trained")
    kwargs = run_kwargs(folder, cond=True, aug="noaug", mirror=True)
    (folder / "run" / "training_options.json").write_text(json.dumps(kwargs))
    training_loop(**{**kwargs, "total_kimg": 0.008})
    tiny_detectors.make(folder / "detectors")
    return folder


@pytest.fixture(autouse=True)
def _surroundings(trained, tmp_path, monkeypatch):
    """A cache of its own, no network, the tiny detectors, and fid5k of 40 images."""
    monkeypatch.setenv("DNNLIB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("GAN_DETECTOR_DIR", str(trained / "detectors"))
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    def fid5k(opts):
        opts.dataset_kwargs.update(max_size=None)
        return {"fid5k": compute_fid(opts, max_real=None, num_gen=40)}

    monkeypatch.setattr(metric_main, "_metrics", {**metric_main._metrics, "fid5k": fid5k})


@pytest.fixture
def network(trained, tmp_path) -> str:
    """The snapshot in a run directory of the test's own."""
    shutil.copytree(trained / "run", tmp_path / "run")
    return str(tmp_path / "run" / SNAPSHOT)


def call(*arguments: object):
    return CliRunner().invoke(calc_metrics.main, ["--device=cpu", *map(str, arguments)])


def measure(*arguments: object) -> dict[str, Any]:
    """The only line of a quiet fid5k."""
    done = call("--metrics=fid5k", "--verbose=0", *arguments)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def refused(*arguments: object) -> str:
    done = call(*arguments)
    assert done.exit_code == 2, done.output
    message = done.stderr.strip()
    assert message.startswith("Error: ") and "\n" not in message, message
    return message


def edited(network: str, tmp_path: Path, **changes: Any) -> str:
    """A copy of a snapshot with other entries."""
    path = str(tmp_path / "edited.pkl")
    write_snapshot(path, {**read_snapshot(network), **changes})
    return path


def test_results_of_a_run(network):
    folder = Path(network).parent
    done = call(f"--network={network}", "--metrics=fid5k")
    assert done.exit_code == 0, done.output
    out = done.stdout
    positions = [out.index(text) for text in (
        f'Loading network from "{network}"...', "Dataset options:", "Generator",
        "Calculating fid5k...", '{"results"', "Exiting...",
    )]  # fmt: skip
    assert positions == sorted(positions)
    options, _end = json.JSONDecoder().raw_decode(out.split("Dataset options:\n")[1])
    assert options == {
        "class_name": "training.dataset.ImageFolderDataset",
        "path": str(options["path"]),
        "use_labels": True, "max_size": 20, "xflip": True, "resolution": 16,
    }  # fmt: skip
    (line,) = [line for line in out.splitlines() if line.startswith('{"results"')]
    assert (folder / "metric-fid5k.jsonl").read_text() == line + "\n"
    result = json.loads(line)
    assert result["results"]["fid5k"] > 0 and result["snapshot_pkl"] == SNAPSHOT
    assert result["provenance"]["num_real"] == 40, "mirrored as in the training"

    again = measure(f"--network={network}")
    assert again["results"] == result["results"]
    assert len((folder / "metric-fid5k.jsonl").read_text().splitlines()) == 2


def test_file_elsewhere_leaves_nothing_behind(network, tmp_path):
    (tmp_path / "away").mkdir()
    away = shutil.copy(network, tmp_path / "away" / "net.pkl")
    for name in (away, f"file://{away}"):
        assert measure(f"--network={name}")["snapshot_pkl"] == str(name)
    assert os.listdir(tmp_path / "away") == ["net.pkl"]


def test_address_of_a_file_in_a_run(network):
    measure(f"--network=file://{network}")
    assert (Path(network).parent / "metric-fid5k.jsonl").exists()


def test_safetensors(network, tmp_path):
    path = str(tmp_path / "net.safetensors")
    write_snapshot(path, read_snapshot(network))
    plain = measure(f"--network={network}")
    assert measure(f"--network={path}")["results"] == plain["results"]


def test_other_images(network, tmp_path):
    data = make_zip(tmp_path / "other.zip", num=9)
    plain = measure(f"--network={network}", f"--data={data}")
    assert (plain["provenance"]["dataset"], plain["provenance"]["num_real"]) == ("other", 9)
    mirrored = measure(f"--network={network}", f"--data={data}", "--mirror=1")
    assert mirrored["provenance"]["num_real"] == 18
    unmirrored = measure(f"--network={network}", "--mirror=0")
    assert unmirrored["provenance"]["num_real"] == 20


def test_what_changes_the_number_and_what_does_not(network):
    def value(*options: str) -> float:
        return measure(f"--network={network}", *options)["results"]["fid5k"]

    plain = value()
    assert value("--batch=7") == pytest.approx(plain, rel=1e-6)
    others = {value("--seed=1"), value("--trunc=0.5")}
    assert len({plain, *others}) == 3
    assert measure(f"--network={network}", "--trunc=0.5")["provenance"]["psi"] == 0.5


def test_several_metrics_and_a_detector_of_ones_own(network, trained, monkeypatch):
    @metric_main.register_metric
    def kid5k(opts):
        opts.progress.sub("sampling", 2).update(2)
        return {"kid5k": 2}

    monkeypatch.delenv("GAN_DETECTOR_DIR")
    path = trained / "detectors" / "inception-2015-12-05.pt"
    done = call(
        f"--network={network}", "--metrics=fid5k,kid5k", f"--detector=inception-2015-12-05={path}"
    )
    assert done.exit_code == 0, done.output
    names = [json.loads(line)["metric"] for line in done.stdout.splitlines() if line[:2] == '{"']
    assert names == ["fid5k", "kid5k"]


TOOL = """
from metrics import metric_main
from metrics.frechet_inception_distance import compute_fid

@metric_main.register_metric
def fid5k(opts):
    opts.dataset_kwargs.update(max_size=None)
    return {"fid5k": compute_fid(opts, max_real=None, num_gen=40)}

import calc_metrics

if __name__ == "__main__":
    calc_metrics.main()
"""


def tool(tmp_path: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    (tmp_path / "tool.py").write_text(TOOL)
    return subprocess.run(
        [sys.executable, str(tmp_path / "tool.py"), "--device=cpu", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip


@pytest.mark.slow
def test_two_processes_give_the_same_numbers(network, tmp_path):
    done = tool(tmp_path, f"--network={network}", "--metrics=fid5k", "--gpus=2", "--verbose=0")
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    assert result["num_gpus"] == 2
    alone = measure(f"--network={network}")
    assert alone["results"]["fid5k"] == pytest.approx(result["results"]["fid5k"], rel=1e-6)


@pytest.mark.slow
def test_error_of_two_processes_is_one_sentence(network, tmp_path, monkeypatch):
    monkeypatch.delenv("GAN_DETECTOR_DIR")
    done = tool(tmp_path, f"--network={network}", "--metrics=fid5k", "--gpus=2")
    assert done.returncode == 2, done.stderr[-2000:]
    assert "--detector=inception-2015-12-05=PATH" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_real_metric_on_the_command_line(network):
    """kid5k, unlike fid5k above, is what users get."""
    done = subprocess.run(
        [sys.executable, "calc_metrics.py", f"--network={network}", "--metrics=kid5k",
         "--batch=64", "--device=cpu"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith('{"results"')]
    result = json.loads(line)
    assert result["results"]["kid5k"] > 0 and result["provenance"]["num_fake"] == 5000


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ("--metrics=fid51k", "fid50k_full, kid50k_full"),
        ("--metrics=none", "fid50k_full, kid50k_full"),
        ("--gpus=0", "--gpus"),
        ("--gpus=2 --device=cuda:0", "cuda"),
        ("--mirror=maybe", "maybe"),
        ("--trunc=nan", "nan"),
        ("--batch=0", "--batch"),
        ("--seed=-1", "--seed"),
        ("--device=tpu", "tpu"),
        ("--detector=vgg16=nowhere.pt", "nowhere.pt"),
        ("--data=nowhere.zip", "--data=nowhere.zip"),
    ],
)
def test_values_that_are_refused(network, options, hint):
    before = sorted(os.listdir(Path(network).parent))
    assert hint in refused(f"--network={network}", *options.split())
    assert sorted(os.listdir(Path(network).parent)) == before


def test_networks_that_are_refused(tmp_path):
    assert "--network" in refused("--metrics=fid5k")
    assert "missing.pkl" in refused(f"--network={tmp_path / 'missing.pkl'}")
    (tmp_path / "text.pkl").write_text("no network")
    assert "text.pkl" in refused(f"--network={tmp_path / 'text.pkl'}")


def test_images_that_do_not_fit(network, tmp_path):
    grey = make_zip(tmp_path / "grey.zip", channels=1)
    message = refused(f"--network={network}", f"--data={grey}")
    assert "16x16 (width x height) with 1 channel, but" in message and "3 channels" in message
    large = make_zip(tmp_path / "large.zip", side=32)
    assert "32x32" in refused(f"--network={network}", f"--data={large}")

    (tmp_path / "folder").mkdir()
    from PIL import Image

    Image.new("RGB", (16, 16)).save(tmp_path / "folder" / "a.png")
    message = refused(f"--network={network}", f"--data={tmp_path / 'folder'}")
    assert "labels have dimension 0, but the network needs 3" in message


def test_images_that_are_not_known(network, tmp_path):
    path = edited(network, tmp_path, training_set_kwargs=None)
    assert "name some with --data" in refused(f"--network={path}")
    gone = {**read_snapshot(network)["training_set_kwargs"], "path": str(tmp_path / "gone.zip")}
    message = refused(f"--network={edited(network, tmp_path, training_set_kwargs=gone)}")
    assert "gone.zip" in message and "--data" in message
    known = read_snapshot(network)["training_set_kwargs"]
    for odd in ({"flavour": "sweet"}, {"path": ["a"]}, {"path": "a\0b"}, {"max_size": -1}):
        path = edited(network, tmp_path, training_set_kwargs={**known, **odd})
        assert "edited.pkl" in refused(f"--network={path}")


def test_images_are_only_asked_for_where_they_count(tmp_path, monkeypatch):
    """The training images of a network from elsewhere are rarely at hand."""
    few = {"is50k": lambda opts: {"is50k_mean": compute_is(opts, num_gen=20, num_splits=2)[0]}}
    monkeypatch.setattr(metric_main, "_metrics", {**metric_main._metrics, **few})
    network = str(tmp_path / "net.pkl")
    gone = {"class_name": "training.dataset.ImageFolderDataset", "path": "/gone.zip"}
    for stored in (None, gone):
        write_snapshot(network, {"G_ema": make_generator(), "training_set_kwargs": stored})
        result = measure(f"--network={network}", "--metrics=is50k")
        assert result["results"]["is50k_mean"] > 1 and "dataset" not in result["provenance"]
        refused(f"--network={network}", "--metrics=is50k,fid5k")
    wrong = refused(f"--network={network}", "--metrics=is50k", "--data=/not/there.zip")
    assert "/not/there.zip" in wrong


def test_a_file_cannot_choose_what_is_called(network, tmp_path):
    target = tmp_path / "hostile"
    kwargs = {"class_name": "os.mkdir", "path": str(target)}
    path = edited(network, tmp_path, training_set_kwargs=kwargs)
    message = refused(f"--network={path}", "--metrics=fid5k")
    assert "'os.mkdir'" in message and "--data" in message and "--allow-code" in message
    assert not target.exists()


def test_data_set_class_of_a_trusted_file(network, tmp_path, monkeypatch):
    (tmp_path / "own_sets.py").write_text(
        "from training.dataset import ImageFolderDataset\nclass Own(ImageFolderDataset): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    kwargs = {**read_snapshot(network)["training_set_kwargs"], "class_name": "own_sets.Own"}
    path = edited(network, tmp_path, training_set_kwargs=kwargs)
    assert measure(f"--network={path}", "--allow-code")["provenance"]["num_real"] == 40


def test_no_detector(network, monkeypatch):
    monkeypatch.delenv("GAN_DETECTOR_DIR")
    done = call(f"--network={network}", "--metrics=fid5k")
    assert done.exit_code == 2
    error = done.stderr.splitlines()[-1]
    assert error.startswith("Error: ") and "GAN_DETECTOR_DIR" in error


def test_help_is_quick_and_needs_no_torch():
    code = (
        "import sys, calc_metrics\n"
        "try: calc_metrics.main(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for option in ("--network", "--metrics", "--mirror", "--detector", "--allow-code"):
        assert option in done.stdout


def test_precision_of_the_network(network):
    plain = measure(f"--network={network}")
    brain = measure(f"--network={network}", "--dtype=bf16")
    assert plain["provenance"]["dtype"] == "float32"
    assert brain["provenance"]["dtype"] == "bfloat16+float32"
    assert brain["results"]["fid5k"] != plain["results"]["fid5k"]
    half = call("--metrics=fid5k", "--verbose=0", f"--network={network}", "--dtype=fp16")
    assert half.stderr.count("is computed in fp32") == 1
    result = json.loads(half.stdout)
    assert result["results"] == plain["results"]
    assert result["provenance"]["dtype"] == "float32"
    assert "'--dtype'" in refused(f"--network={network}", "--dtype=half")
