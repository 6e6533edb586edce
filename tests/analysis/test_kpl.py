"""`explore.py kpl`: keypoints of images, predicted linearly from their codes."""

from __future__ import annotations

import json
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image
from torch import Tensor, nn

import dnnlib
from analysis import keypoint_examples, keypoint_prediction, keypoints
from analysis.keypoint_examples import Examples
from networks import sampling
from tests.analysis.tiny_networks import assert_refused, explore_run, make, names
from torch_utils.images import to_uint8

CPU = torch.device("cpu")


class Centres(nn.Module):
    """Centre of mass of each channel: three keypoints, in pixels."""

    def forward(self, images: Tensor) -> Tensor:
        n, c, h, w = images.shape
        x = torch.arange(w) + 0.5
        y = torch.arange(h) + 0.5
        weight = images + 1e-3
        total = weight.sum([2, 3])
        first = (weight.sum(2) * x).sum(2) / total
        return torch.stack([first, (weight.sum(3) * y).sum(2) / total], 2)


class Blind(nn.Module):
    """Sees nothing in dark pictures."""

    def forward(self, images: Tensor) -> Tensor:
        found = images.mean([2, 3])[:, :, None].repeat(1, 1, 2)
        found[found.mean([1, 2]) < 80] = float("nan")
        return found


class Wrong(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean([2, 3])


def script(folder: Path, model: nn.Module) -> str:
    path = folder / f"{type(model).__name__}.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(model).save(str(path))
    return str(path)


def run(folder: Path, *options: str, preset: str = "inr-gan", **kwargs: int) -> Result:
    counts = ("--num-train=40", "--num-test=20")
    return explore_run("kpl", folder, preset, *counts, *options, **kwargs)


def read_report(folder: Path) -> dict:
    return json.loads((folder / "out" / "kpl.json").read_text())


def test_fit_finds_a_linear_map() -> None:
    random = np.random.default_rng(0)
    x, weight, intercept = (random.standard_normal(s) for s in ([50, 4], [4, 6], [6]))
    model = keypoint_prediction.fit(x, x @ weight + intercept)
    assert np.allclose(model.weight, weight) and np.allclose(model.intercept, intercept)


def test_fit_is_the_least_squares_solution() -> None:
    random = np.random.default_rng(1)
    x, y = random.standard_normal([30, 3]), random.standard_normal([30, 2])
    ones = np.concatenate([x, np.ones([30, 1])], 1)
    expected = np.linalg.solve(ones.T @ ones, ones.T @ y)
    model = keypoint_prediction.fit(x, y)
    assert np.allclose(np.vstack([model.weight, model.intercept]), expected)


def test_both_readings_of_the_loss() -> None:
    points = np.zeros([5, 2, 2])
    predicted = np.full([5, 4], 0.5)
    found = keypoint_prediction.squared_errors(predicted, points)
    assert found == {"sum_squared_error": 5 * 4 * 0.25, "mean_squared_error": 0.25}


def test_linear_codes_win_and_wrong_codes_lose() -> None:
    random = np.random.default_rng(2)
    w = random.standard_normal([600, 5])
    points = (0.5 + 0.05 * w @ random.standard_normal([5, 6])).reshape(-1, 3, 2)
    examples = Examples({"w": w, "z": np.tanh(4 * w)}, points)
    rows = keypoint_prediction.study(examples[:500], examples[500:], ["z", "w"])
    loss = {row["space"]: row["mean_squared_error"] for row in rows}
    assert list(loss) == ["z", "w", "random z", "random w", "constant"]
    assert loss["w"] < 1e-20 < loss["z"] < 0.5 * loss["constant"]
    assert loss["random w"] == pytest.approx(loss["constant"], rel=0.1)
    assert loss["random w"] != loss["constant"]


@pytest.mark.parametrize("preset", ["inr-gan", "inr-gan-vanilla", "stylegan2"])
def test_the_command_is_the_algorithm(preset: str, tmp_path: Path) -> None:
    source = script(tmp_path, Centres())
    result = run(tmp_path, f"--keypoints={source}", "--trunc=0.7", "--batch=16", preset=preset)
    assert result.exit_code == 0, result.output
    assert names(tmp_path) == ["keypoints.npz", "kpl.json", "kpl.png"]

    G = make(preset)
    ws = torch.cat([sampling.ws_of_seed(G, seed, None, 0.7) for seed in range(60)])
    images = to_uint8(G.synthesis(ws, noise_mode="const"))
    points = Centres()(images.float()).double().numpy().reshape(60, -1) / 16
    codes = {"z": sampling.latents(range(60), 8).numpy(), "w": ws[:, 0].numpy()}
    rows = {row["space"]: row for row in read_report(tmp_path)["rows"]}
    for space, x in codes.items():
        ones = np.concatenate([x.astype(np.float64), np.ones([60, 1])], 1)
        weight = np.linalg.lstsq(ones[:40], points[:40], rcond=None)[0]
        errors = np.square(ones[40:] @ weight - points[40:])
        # An image drawn in a batch may differ in a level here and there.
        assert rows[space]["mean_squared_error"] == pytest.approx(errors.mean(), rel=1e-2)
        assert rows[space]["sum_squared_error"] == pytest.approx(errors.sum(), rel=1e-2)
    variance = np.square(points[40:] - points[:40].mean(0)).mean()
    assert rows["constant"]["mean_squared_error"] == pytest.approx(variance, rel=1e-2)


def test_keypoints_are_kept_and_read_again(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
    assert run(first, f"--keypoints={script(tmp_path, Centres())}").exit_code == 0
    result = run(second, f"--keypoints={first / 'out' / 'keypoints.npz'}", "--spaces=w")
    assert result.exit_code == 0, result.output
    assert names(second) == ["kpl.json", "kpl.png"]
    rows = [{row["space"]: row for row in read_report(f)["rows"]} for f in (first, second)]
    assert list(rows[1]) == ["w", "constant"]
    assert rows[1]["w"]["mean_squared_error"] == pytest.approx(rows[0]["w"]["mean_squared_error"])


def test_images_without_keypoints_do_not_count(tmp_path: Path) -> None:
    result = run(tmp_path, f"--keypoints={script(tmp_path, Blind())}", "--spaces=w")
    assert result.exit_code == 0, result.output
    report = read_report(tmp_path)
    points = np.load(tmp_path / "out" / "keypoints.npz")["keypoints"]
    found = np.isfinite(points).all((1, 2))
    assert 0 < report["train_images"] == found[:40].sum() < 40
    assert report["test_images"] == found[40:].sum()


def embedded(folder: Path, G: nn.Module, z: bool) -> list[str]:
    """Three real pictures, rectangular, and their codes in two files."""
    ws = torch.cat([sampling.ws_of_seed(G, seed) for seed in (100, 101, 102)])
    (folder / "real").mkdir()
    for index in range(3):
        pixels = np.random.RandomState(index).randint(0, 256, [20, 30, 3], np.uint8)
        Image.fromarray(pixels).save(folder / "real" / f"{index}.png")
    for name, part in (("first", ws[:2]), ("second", ws[2:])):
        more = {"z": np.zeros([len(part), 8], np.float32)} if z else {}
        np.savez(folder / f"{name}.npz", w=part.numpy(), **more)
    return [f"--test-w={folder / 'first.npz'}", f"--test-w={folder / 'second.npz'}"]


def test_real_pictures(tmp_path: Path) -> None:
    G = make("inr-gan")
    source = f"--keypoints={script(tmp_path, Centres())}"
    options = [source, *embedded(tmp_path, G, z=True), f"--test-data={tmp_path / 'real'}"]
    result = run(tmp_path, *options)
    assert result.exit_code == 0, result.output
    report = read_report(tmp_path)
    assert report["test"] == "projected" and report["test_images"] == 3
    assert len(np.load(tmp_path / "out" / "keypoints.npz")["seeds"]) == 40
    test = keypoint_examples.projected_examples(
        G,
        [str(tmp_path / "first.npz"), str(tmp_path / "second.npz")],
        str(tmp_path / "real"),
        keypoints.load_extractor(script(tmp_path, Centres()), CPU),
    )
    assert np.array_equal(test.codes["w"][2], sampling.ws_of_seed(G, 102)[0, 0].numpy())
    pixels = torch.from_numpy(np.asarray(Image.open(tmp_path / "real" / "1.png")).copy())
    expected = Centres()(pixels.permute(2, 0, 1)[None].float())[0].numpy() / [30, 20]
    assert np.allclose(test.keypoints[1], expected, atol=1e-6)
    # The same keypoints from a file give the same numbers.
    np.savez(tmp_path / "real.npz", keypoints=test.keypoints)
    again = run(tmp_path, *options[:-1], f"--test-data={tmp_path / 'real.npz'}")
    assert again.exit_code == 0 and read_report(tmp_path)["rows"] == report["rows"]


def test_real_pictures_without_z(tmp_path: Path) -> None:
    files = embedded(tmp_path, make("inr-gan"), z=False)
    options = [f"--keypoints={script(tmp_path, Centres())}", *files]
    options.append(f"--test-data={tmp_path / 'real'}")
    result = run(tmp_path, *options)
    assert result.exit_code == 0 and "hold no z, which is left out" in result.stderr
    spaces = [row["space"] for row in read_report(tmp_path)["rows"]]
    assert spaces == ["w", "random w", "constant"]


def test_real_pictures_only_in_z_need_it(tmp_path: Path) -> None:
    files = embedded(tmp_path, make("inr-gan"), z=False)
    options = [f"--keypoints={script(tmp_path, Centres())}", *files, "--spaces=z"]
    result = run(tmp_path, *options, f"--test-data={tmp_path / 'real'}")
    assert_refused(result, "hold no z, so --spaces needs w", tmp_path)


@pytest.mark.parametrize("kind", ["TWO_D", "_2D"])
def test_the_package_face_alignment(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both names that the package's versions have for two dimensions; no face in dark pictures."""
    points = np.arange(136, dtype=np.float32).reshape(68, 2)

    class FaceAlignment:
        def __init__(self, found_kind: str, device: str, flip_input: bool) -> None:
            assert (found_kind, device, flip_input) == ("two", "cpu", False)

        def get_landmarks_from_image(self, image: np.ndarray) -> list[np.ndarray] | None:
            assert image.shape == (8, 10, 3) and image.dtype == np.uint8
            return [points, points + 1] if image.max() > 0 else None

    module = types.ModuleType("face_alignment")
    module.LandmarksType = types.SimpleNamespace(**{kind: "two"})
    module.FaceAlignment = FaceAlignment
    monkeypatch.setitem(sys.modules, "face_alignment", module)
    extractor = keypoints.load_extractor("face-alignment", CPU)
    images = torch.zeros([2, 1, 8, 10], dtype=torch.uint8)
    images[1] = 9
    found = keypoint_examples.relative_keypoints(extractor, images)
    assert np.isnan(found[0]).all() and np.allclose(found[1], points / [10, 8])


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "face_alignment", None)
    result = run(tmp_path, "--keypoints=face-alignment")
    assert_refused(result, "pip install face-alignment", tmp_path)


def test_a_diverged_network_has_no_keypoints() -> None:
    G = make("inr-gan")
    G.mapping.w_avg.fill_(float("nan"))
    with pytest.raises(dnnlib.UserError, match="values that are not finite"):
        keypoint_examples.examples_of_seeds(G, [[0]], lambda _images: np.zeros([1, 2, 2]), psi=0.5)


def test_conditional_networks_need_a_class(tmp_path: Path) -> None:
    source = f"--keypoints={script(tmp_path, Centres())}"
    assert_refused(run(tmp_path, source, c_dim=3), "choose a class", tmp_path)
    assert run(tmp_path, source, "--class=2", c_dim=3, img_channels=1).exit_code == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--spaces=random"], "--spaces names no codes"),
        (["--spaces=v"], "'v' is not one of z, w, random"),
        (["--num-train=9"], "9 training images with keypoints are too few"),
        (["--test-w=x.npz"], "--test-w and --test-data need each other"),
        (["--test-w=x.npz", "--test-data=y"], "--test-w=x.npz"),
    ],
)
def test_refused(options: list[str], sentence: str, tmp_path: Path) -> None:
    source = f"--keypoints={script(tmp_path, Centres())}"
    assert_refused(run(tmp_path, source, *options), sentence, tmp_path)


def test_refused_sources(tmp_path: Path) -> None:
    np.savez(tmp_path / "few.npz", keypoints=np.zeros([5, 2, 2]))
    np.savez(tmp_path / "flat.npz", keypoints=np.zeros([60, 2]))
    np.savez(tmp_path / "seeds.npz", keypoints=np.zeros([60, 2, 2]), seeds=np.zeros([60]))
    np.savez(tmp_path / "text.npz", keypoints=np.full([60, 2, 2], "x"))
    (tmp_path / "junk.pt").write_bytes(b"junk")
    (tmp_path / "junk.npz").write_bytes(b"junk")
    for source, sentence in {
        "few.npz": "holds 5 images; --num-train and --num-test need 60",
        "flat.npz": "needs an array keypoints [N, K, 2], (x, y) from 0 to 1; it has shape [60, 2]",
        "seeds.npz": "needs one seed, an integer, for each",
        "text.npz": "keypoints are numbers",
        "junk.pt": "is no TorchScript model",
        "junk.npz": "is not an .npz file",
        "nothing.pt": "there is no such file",
        "nothing.npz": "there is no such file",
        script(tmp_path, Wrong()): "gives [1, 3] for 1 pictures; keypoints are [1, K, 2]",
    }.items():
        assert_refused(run(tmp_path, f"--keypoints={tmp_path / source}"), sentence, tmp_path)


def test_refused_real_pictures(tmp_path: Path) -> None:
    G = make("inr-gan")
    files = embedded(tmp_path, G, z=False)
    source = script(tmp_path, Centres())
    (tmp_path / "real" / "2.png").unlink()
    result = run(tmp_path, f"--keypoints={source}", *files, f"--test-data={tmp_path / 'real'}")
    assert_refused(result, "holds 2 pictures, --test-w 3 codes", tmp_path)
    names_of_files = [option.partition("=")[2] for option in files]
    with pytest.raises(dnnlib.UserError, match="must come from an .npz file too"):
        keypoint_examples.projected_examples(G, names_of_files, str(tmp_path / "real"), None)
