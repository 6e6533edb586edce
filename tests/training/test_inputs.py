"""What a training starts from: snapshots with code of their own."""

from __future__ import annotations

import pickle

import pytest
from torch import nn

from dnnlib import UserError
from training.inputs import inspect_snapshot, load_snapshot

OWN = """
from torch import nn

class OwnNetwork(nn.Linear):
    preset = "stylegan2"
"""


@pytest.fixture
def foreign(tmp_path, monkeypatch) -> str:
    """A snapshot whose networks are of a class that is none of ours."""
    (tmp_path / "own_networks.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    from own_networks import OwnNetwork

    path = tmp_path / "own.pkl"
    path.write_bytes(pickle.dumps({key: OwnNetwork(2, 2) for key in ("G", "D", "G_ema")}))
    return str(path)


def test_code_of_a_file_runs_only_if_that_is_allowed(foreign):
    with pytest.raises(UserError, match="--resume=.*own.pkl: .*OwnNetwork.*--allow-code"):
        load_snapshot(foreign)
    data = load_snapshot(foreign, allow_code=True)
    assert isinstance(data["D"], nn.Linear)


def test_networks_that_cannot_be_trained_here(foreign):
    with pytest.raises(UserError, match="own.pkl: a OwnNetwork .*not trained here"):
        inspect_snapshot(foreign, allow_code=True)
