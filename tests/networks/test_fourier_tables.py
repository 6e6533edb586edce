"""networks.fourier.device_table: what a GPU is sent, and how often."""

from __future__ import annotations

import numpy as np
import torch

from networks import fourier
from networks.fourier import device_table


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
