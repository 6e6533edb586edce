"""AdaController: pure arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.ada import AdaController


def test_moves_by_the_step_towards_the_target():
    ada = AdaController(target=0.6, interval=4, kimg=500, batch_size=64)
    step = 64 * 4 / 500_000
    assert ada.update(0.7) == pytest.approx(step)
    assert ada.update(0.61) == pytest.approx(2 * step)
    assert ada.update(0.5) == pytest.approx(step)
    assert ada.update(0.6) == pytest.approx(step)
    assert ada.update(float("nan")) == pytest.approx(step)


def test_from_0_to_1_in_kimg_thousand_images():
    ada = AdaController(target=0, interval=2, kimg=1, batch_size=10)
    updates = 0
    while ada.p < 1 and updates < 1000:
        ada.update(1)
        updates += 1
    assert updates * 2 * 10 == 1000


@given(signs=st.lists(st.floats(-1, 1), max_size=50), p=st.floats(0, 1))
def test_p_stays_a_probability(signs, p):
    ada = AdaController(target=0.6, interval=4, kimg=1, batch_size=64, p=p)
    for sign in signs:
        assert 0 <= ada.update(sign) <= 1


def test_is_due_every_interval():
    ada = AdaController(target=0.6, interval=3)
    assert [i for i in range(1, 10) if ada.is_due(i)] == [3, 6, 9]


def test_state_round_trip():
    ada = AdaController(target=0.6, p=0.25)
    other = AdaController(target=0.6)
    other.load_state_dict(ada.state_dict())
    assert other.p == 0.25


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"target": 1.5}, "1.5"),
        ({"target": 0.6, "p": -0.1}, "-0.1"),
        ({"target": 0.6, "kimg": 0}, "kimg"),
        ({"target": 0.6, "interval": 0}, "interval"),
    ],
)
def test_bad_numbers_are_named(kwargs, text):
    with pytest.raises(ValueError, match=text):
        AdaController(**kwargs)
