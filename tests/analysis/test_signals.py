"""Reading and writing sounds, pictures, films and volumes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

import dnnlib
from analysis import signals
from analysis.signals import Signal, read_signal, write_signal


def tone(count: int = 40) -> np.ndarray:
    return 0.5 * np.sin(np.arange(count) / 3)


@pytest.mark.parametrize(
    ("kind", "step"), [(np.uint8, 2**-7), (np.int16, 2**-15), (np.int32, 2**-31), (np.float32, 0)]
)
def test_sounds_of_every_width(tmp_path: Path, kind: type, step: float) -> None:
    samples = np.stack([tone(), -0.5 * tone()], 1)
    stored = samples if step == 0 else np.rint(samples / step) + (128 if kind is np.uint8 else 0)
    wavfile.write(tmp_path / "a.wav", 8000, stored.astype(kind))
    sound = read_signal(str(tmp_path / "a.wav"))
    assert (sound.name, sound.rate, sound.num_coords) == ("a", 8000, 1)
    assert sound.values.shape == (2, 40) and sound.values.dtype == np.float32
    np.testing.assert_allclose(sound.values, samples.T, rtol=0, atol=step / 2 + 1e-7)
    assert sound.peak == pytest.approx(np.abs(sound.values).max())


def test_a_sound_is_written_as_16_bits_and_clipped(tmp_path: Path) -> None:
    values = np.array([[0.0, 0.5, 1.5, -2.0]], np.float32)
    write_signal(tmp_path / "b.wav", Signal("b", values, 11025, 2.0))
    rate, samples = wavfile.read(tmp_path / "b.wav")
    assert rate == 11025 and samples.dtype == np.int16
    assert samples.ravel().tolist() == [0, 16384, 32767, -32767]
    silence = Signal("c", np.zeros((1, 8), np.float32), 8000, 1.0)
    write_signal(tmp_path / "c.wav", silence)
    assert read_signal(str(tmp_path / "c.wav")).peak == 2.0**-15


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pictures(tmp_path: Path, channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    Image.fromarray(pixels if channels > 1 else pixels[..., 0]).save(tmp_path / "p.png")
    picture = read_signal(str(tmp_path / "p.png"))
    assert picture.values.shape == (channels, 5, 7) and picture.rate is None
    write_signal(tmp_path / "again.png", picture)
    again = np.asarray(Image.open(tmp_path / "again.png")).reshape(5, 7, channels)
    assert np.array_equal(again, pixels)


def test_films_and_volumes(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), np.uint8)
    np.save(tmp_path / "v.npy", pixels)
    volume = read_signal(str(tmp_path / "v.npy"))
    assert volume.values.shape == (3, 4, 6, 5)
    write_signal(tmp_path / "w.npy", volume)
    assert np.array_equal(np.load(tmp_path / "w.npy"), pixels)
    signals.write_film(tmp_path / "film.png", volume.values)
    film = read_signal(str(tmp_path / "film.png"))
    np.testing.assert_array_equal(film.values, volume.values)
    np.save(tmp_path / "f.npy", np.linspace(-1, 1, 60).reshape(3, 4, 5))
    assert read_signal(str(tmp_path / "f.npy")).values.shape == (1, 3, 4, 5)


def save_nothing(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        ("missing.png", lambda path: None, "No such file"),
        ("text.png", lambda path: path.write_text("hello"), "not a picture, .wav or .npy file"),
        ("text.wav", lambda path: path.write_text("hello there, nobody"), "not understood"),
        ("empty.wav", save_nothing, "not understood"),
        ("short.wav", lambda path: wavfile.write(path, 8000, np.zeros(3)), "fewer than 4"),
        ("nan.wav", lambda path: wavfile.write(path, 8000, np.full(9, np.nan)), "not finite"),
        ("nine.wav", lambda path: wavfile.write(path, 8000, np.zeros((9, 9))), "8 channels"),
        ("deep.png", lambda path: Image.new("I;16", (8, 8)).save(path), "mode I;16"),
        ("flat.npy", lambda path: np.save(path, np.zeros((8, 8))), r"shape \[8, 8\]"),
        ("int.npy", lambda path: np.save(path, np.zeros((8, 8, 8), np.int64)), "int64"),
        ("loud.npy", lambda path: np.save(path, np.full((8, 8, 8), 3.0)), "beyond"),
        ("code.npy", lambda path: np.save(path, np.array([{}]), allow_pickle=True), "allow_pickle"),
        ("none.npy", save_nothing, "No data|EOF"),
    ],
)
def test_refuses_what_is_no_signal(tmp_path: Path, name: str, write, words: str) -> None:
    write(tmp_path / name)
    with pytest.raises(dnnlib.UserError, match=words) as refused:
        read_signal(str(tmp_path / name))
    message = str(refused.value)
    assert message.startswith(f"--data={tmp_path / name}: ") and "\n" not in message


def test_signals_of_two_kinds_do_not_go_together() -> None:
    sound = Signal("a", np.zeros((1, 8), np.float32), 8000)
    signals.check_alike([sound, sound])
    picture = Signal("b", np.zeros((3, 8, 6), np.float32))
    with pytest.raises(dnnlib.UserError, match=r"b \(image of 6x8 samples and 3 channels\)"):
        signals.check_alike([sound, picture])
    with pytest.raises(dnnlib.UserError, match="4000 Hz"):
        signals.check_alike([sound, Signal("c", sound.values, 4000)])
