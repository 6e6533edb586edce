"""networks.fourier: tables that are kept, what a GPU is sent, and how often."""

from __future__ import annotations

import numpy as np
import torch

from networks import fourier
from networks.fourier import device_table, grid_waves, shared_rows, shared_waves


def test_a_cpu_gets_the_numbers_in_another_type() -> None:
    found = device_table(np.array([[0, 1], [2, 3]]), torch.float32, torch.device("cpu"))
    assert found.dtype == torch.float32 and found.tolist() == [[0, 1], [2, 3]]


def test_another_device_gets_each_array_once() -> None:
    # The device "meta" stands for a GPU: it knows shapes and types only.
    meta = torch.device("meta")
    array = np.linspace(0, 1, 12)
    with torch.inference_mode():
        first = device_table(array, torch.float32, meta)
    assert first.shape == (12,) and first.dtype == torch.float32 and first.device == meta
    assert not first.is_inference()
    assert device_table(array.copy(), torch.float32, meta) is first
    for other in (array + 1, array.reshape(3, 4)):
        assert device_table(other, torch.float32, meta) is not first
    assert device_table(array, torch.float64, meta).dtype == torch.float64


def test_the_number_of_tables_is_bounded(monkeypatch) -> None:
    monkeypatch.setattr(fourier, "_FOURIER_TABLES", {})
    monkeypatch.setattr(fourier, "_FOURIER_MAX_TABLES", 3)
    for start in range(10):
        device_table(np.arange(start, start + 2), torch.int64, torch.device("meta"))
        assert len(fourier._FOURIER_TABLES) <= 3


def test_kept_features_follow_the_frequencies() -> None:
    rows = shared_rows(8)
    coords = [torch.linspace(-1, 1, 6), torch.linspace(-1, 1, 5)]
    with torch.inference_mode():
        first = shared_waves(coords, rows)
    assert not first.is_inference()
    assert shared_waves(coords, rows.clone()) is first
    torch.testing.assert_close(first, grid_waves(coords, rows), rtol=0, atol=0)
    rows[0] += 1  # as loading other parameters does
    second = shared_waves(coords, rows)
    torch.testing.assert_close(second, grid_waves(coords, rows), rtol=0, atol=0)
    assert not torch.equal(second, first)


def test_large_and_differentiable_features_are_not_kept() -> None:
    rows = shared_rows(8)
    large = [torch.linspace(-1, 1, 256)] * 2
    assert shared_waves(large, rows) is not shared_waves(large, rows)
    coords = [part[:4] for part in large]
    shared_waves(coords, rows.requires_grad_()).sum().backward()
    assert rows.grad.abs().max() > 0
