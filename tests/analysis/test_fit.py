"""`explore.py fit`: one network draws sounds, pictures, films, and does so between the samples.

The data are real: a tone and photographs that ship with packages, handwritten digits, and a film
that the test itself records by moving a camera over a photograph.
"""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from click.testing import CliRunner, Result
from PIL import Image
from scipy.io import wavfile

import explore
from analysis import fit
from analysis.signals import Signal, read_signal
from tests.analysis.tiny_networks import assert_refused, names

RECORDING = Path(scipy.io.__file__).parent / "tests/data/test-8000Hz-le-2ch-1byteu.wav"


def run(folder: Path, *options: str) -> Result:
    return CliRunner().invoke(
        explore.main, ["fit", f"--outdir={folder / 'out'}", "--device=cpu", *options]
    )


def numbers(folder: Path) -> dict:
    return json.loads((folder / "out" / "fit.json").read_text())


def photograph(name: str) -> Image.Image:
    datasets = pytest.importorskip("sklearn.datasets")
    return Image.fromarray(datasets.load_sample_image(name))


def decibels(error: np.ndarray) -> float:
    return 10 * np.log10(4 / np.mean(np.square(error, dtype=np.float64)))


@pytest.mark.skipif(not RECORDING.exists(), reason="scipy without its tests")
def test_a_sound_at_three_times_its_rate(tmp_path: Path) -> None:
    """The sound is a tone of 1 kHz in 8 bits, so what lies between its samples is known."""
    options = ("--steps=300", "--channels=32", "--rate=3")
    result = run(tmp_path, f"--data={RECORDING}", *options)
    assert result.exit_code == 0, result.output
    found = numbers(tmp_path)
    assert (found["kind"], found["samples"], found["signal_channels"]) == ("sound", [800], 2)
    assert found["psnr_db"] > 30 > 15 > found["signals"][0]["psnr_of_the_mean_db"]

    data = read_signal(str(RECORDING))
    same, fine = (
        read_signal(str(tmp_path / "out" / f"{RECORDING.stem}-{rate}.wav")) for rate in ("1x", "3x")
    )
    assert (same.rate, fine.rate) == (8000, 24000)
    assert same.values.shape == (2, 800) and fine.values.shape == (2, 2400)
    psnr = decibels((same.values - data.values) / data.peak)
    assert psnr == pytest.approx(found["psnr_db"], abs=0.1)
    np.testing.assert_allclose(fine.values[:, 1::3], same.values, rtol=0, atol=1e-4)

    def waves(times: np.ndarray) -> np.ndarray:
        angle = 2 * np.pi * 1000 * times
        return np.stack([np.sin(angle), np.cos(angle), np.ones_like(angle)], 1)

    at_samples, at_thirds = (np.arange(800) + 0.5) / 8000, (np.arange(2400) + 0.5) / 24000
    tone = np.linalg.lstsq(waves(at_samples), data.values.T, rcond=None)[0]
    assert decibels((waves(at_samples) @ tone).T - data.values) > 40
    true = (waves(at_thirds) @ tone).T
    repeated = np.repeat(data.values, 3, axis=1)
    assert decibels(fine.values - true) > decibels(repeated - true) + 4
    with Image.open(tmp_path / "out" / "fit.png") as sheet:
        assert sheet.width > 600 and np.asarray(sheet.convert("L")).std() > 10


def test_a_photograph(tmp_path: Path) -> None:
    data = photograph("flower.jpg").resize((48, 32), Image.Resampling.LANCZOS)
    data.save(tmp_path / "flower.png")
    options = ("--steps=250", "--channels=48", "--rate=3/2")
    result = run(tmp_path, f"--data={tmp_path / 'flower.png'}", *options)
    assert result.exit_code == 0, result.output
    expected = ["fit.json", "fit.png", "flower-1.5x.png", "flower-1x.png"]
    assert names(tmp_path) == expected
    found = numbers(tmp_path)
    assert found["kind"] == "image" and found["lattices"] == [[12, 8], [24, 16], [48, 32]]
    assert found["psnr_db"] > 25 > 15 > found["signals"][0]["psnr_of_the_mean_db"]
    same, larger = (Image.open(tmp_path / "out" / f"flower-{rate}.png") for rate in ("1x", "1.5x"))
    error = (np.asarray(same, np.float64) - np.asarray(data)) / 127.5
    assert decibels(error) == pytest.approx(found["psnr_db"], abs=0.1)
    assert larger.size == (72, 48)
    blown_up = np.asarray(data.resize((72, 48), Image.Resampling.BICUBIC), np.float64)
    assert decibels((np.asarray(larger) - blown_up) / 127.5) > 22


def record_film(count: int, side: int, step: int) -> np.ndarray:
    """A camera moves over a photograph: [1, count, side, side] in [-1, 1]."""
    scene = photograph("china.jpg").convert("L")
    frames = [scene.crop((100 + step * i, 60, 356 + step * i, 316)) for i in range(count)]
    small = [frame.resize((side, side), Image.Resampling.LANCZOS) for frame in frames]
    return np.stack([np.asarray(frame) for frame in small])[None].astype(np.float32) / 127.5 - 1


@pytest.mark.slow
def test_a_film_and_what_happens_between_its_frames() -> None:
    """Trained on every third frame; of the others, which were recorded too, it never saw one."""
    film = record_film(24, 24, 8)
    data = Signal("pan", np.ascontiguousarray(film[:, 1::3]))
    decoder, _seconds = fit.fit([data], fit.FitOptions(500, 0.1, channels=48))
    (same,) = fit.read_back(decoder, [data], Fraction(1))
    assert fit.psnr(same, data) > 25
    fine = decoder.read(0, (24, 24, 24)).clip(-1, 1)
    np.testing.assert_allclose(fine[:, 1::3], same.values, rtol=0, atol=1e-4)
    between = [index for index in range(24) if index % 3 != 1]
    unseen = decibels(fine[:, between] - film[:, between])
    nearest = decibels(np.repeat(data.values, 3, axis=1)[:, between] - film[:, between])
    assert unseen > nearest + 1


def test_films_and_volumes_by_the_command(tmp_path: Path) -> None:
    film = np.rint((record_film(4, 8, 24)[0] + 1) * 127.5).astype(np.uint8)
    np.save(tmp_path / "volume.npy", film)
    frames = [Image.fromarray(frame) for frame in film]
    frames[0].save(tmp_path / "film.png", save_all=True, append_images=frames[1:])
    data = [f"--data={tmp_path / name}" for name in ("volume.npy", "film.png")]
    result = run(tmp_path, *data, "--steps=3", "--channels=8", "--rate=0.5")
    assert result.exit_code == 0, result.output
    stems = [f"{stem}-{rate}" for stem in ("00-volume", "01-film") for rate in ("1x", "0.5x")]
    pairs = [f"{stem}{suffix}" for stem in stems for suffix in (".npy", ".png")]
    assert names(tmp_path) == sorted([*pairs, "fit.json", "fit.png"])
    assert np.load(tmp_path / "out" / "01-film-0.5x.npy").shape == (2, 4, 4, 1)
    assert Image.open(tmp_path / "out" / "00-volume-1x.png").n_frames == 4
    assert [row["name"] for row in numbers(tmp_path)["signals"]] == ["volume", "film"]


def test_one_network_decodes_many_signals() -> None:
    """Handwritten digits, each from a w of its own."""
    datasets = pytest.importorskip("sklearn.datasets")
    digits = (datasets.load_digits().images[:16] / 8 - 1).astype(np.float32)
    data = [Signal(str(index), digit[None]) for index, digit in enumerate(digits)]
    decoder, _seconds = fit.fit(data, fit.FitOptions(steps=200, channels=32, w_dim=16))
    same = fit.read_back(decoder, data, Fraction(1))
    found = fit.measure(decoder, data, same)
    assert len(found["signals"]) == 16 and decoder.w.shape == (16, 16)
    means = [row["psnr_of_the_mean_db"] for row in found["signals"]]
    assert found["psnr_db"] > np.mean(means) + 10
    assert min(row["psnr_db"] for row in found["signals"]) > max(means)
    # Every signal comes from its own w alone.
    np.testing.assert_allclose(decoder.read(3), decoder(slice(0, 16))[3], rtol=0, atol=1e-4)
    assert fit.sheet(data, same, fit.read_back(decoder, data, Fraction(4)), "4x").height > 4 * 128


def test_the_same_seed_is_the_same_decoder() -> None:
    data = [Signal("a", np.linspace(-1, 1, 12, dtype=np.float32)[None], 8000)]
    options = fit.FitOptions(steps=2, channels=4, w_dim=2)
    first, again = (fit.fit(data, options)[0] for _ in range(2))
    other = fit.fit(data, options._replace(seed=1))[0]
    assert np.array_equal(first.read(0), again.read(0))
    assert not np.array_equal(first.read(0), other.read(0))


def test_psnr_by_hand() -> None:
    loud = Signal("a", np.array([[4.0, -4.0]], np.float32), 8000, 4.0)
    off = Signal("a", np.array([[4.0, -3.2]], np.float32), 8000, 4.0)
    assert fit.psnr(off, loud) == pytest.approx(10 * np.log10(64 / 0.32))
    assert fit.psnr(loud, loud) > 120


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ((), "Missing option '--data'"),
        (("--data=missing.wav",), "--data=missing.wav: No such file or directory."),
        (("--data={sound}", "--rate=0"), "is not between 1/64 and 64"),
        (("--data={sound}", "--rate=1/0"), "is not a factor"),
        (("--data={sound}", "--rate=1/00"), "divides by zero"),
        (("--data={sound}", "--rate=fast"), "is not a factor such as 2, 0.5 or 3/2"),
        (("--data={sound}", "--data={picture}"), "one network draws signals of one kind"),
        (("--data={sound}", "--lr=nan"), "not a finite number"),
        (("--data={sound}", "--steps=0"), "--steps"),
        (("--data={long}",), "262,145 samples per signal are more than 262,144"),
    ],
)
def test_bad_input_is_one_sentence(options: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    files = {"sound": tmp_path / "a.wav", "picture": tmp_path / "b.png", "long": tmp_path / "c.wav"}
    wavfile.write(files["sound"], 8000, np.zeros(16, np.int16))
    wavfile.write(files["long"], 8000, np.zeros(2**18 + 1, np.int16))
    Image.new("L", (8, 8)).save(files["picture"])
    result = run(tmp_path, *[option.format(**files) for option in options])
    assert_refused(result, sentence, tmp_path)
