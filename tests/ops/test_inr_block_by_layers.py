"""inr_block on CUDA where its kernel has no room: the last layer and its image in one kernel."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch

from ops.inr_block import by_layers, inr_block, native, plain, reference, tiles
from ops.inr_layer.cpu import Chain
from tests.compare import assert_same_numbers
from tests.ops.native_cases import Backend, backend_fixture, operators_called
from tests.ops.test_inr_block import CASES, Case, check, make_call

pytestmark = pytest.mark.usefixtures("poisoned_memory")
backend = backend_fixture("inr_layer", ("emulated", "cuda"))

IMAGE_OPERATOR = "inr_layer_forward_with_image"
NAMES = ["nearest", "bilinear", "context-only", "first", "own-grid", "one-point", "widest"]


@pytest.fixture(autouse=True)
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for more than 256 channels, on a device."""
    monkeypatch.setattr(native, "supports", lambda *args, **kwargs: "no room")
    monkeypatch.setattr(tiles, "supports", lambda chain: False)


@contextlib.contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the calls of `block_by_layers`."""
    calls: list[str] = []
    block = by_layers.block_by_layers

    def record(impl, chain, want_features):
        calls.append(impl)
        return block(impl, chain, want_features)

    with monkeypatch.context() as changed:
        changed.setattr(by_layers, "block_by_layers", record)
        yield calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_equals_the_definition(
    name: str, dtype: torch.dtype, backend: Backend, monkeypatch: pytest.MonkeyPatch
):
    case = CASES[name]
    args, kwargs = make_call(case, dtype, backend.device)
    with counted(monkeypatch) as calls:
        actual = inr_block(*args, **kwargs)
        nothing, image = inr_block(*args, **kwargs, want_features=False)
    assert calls == [backend.impl] * 2
    assert actual[0].dtype == dtype and actual[1].dtype == torch.float32
    assert nothing is None and torch.equal(image, actual[1])
    if dtype == torch.float32:
        for one, other in zip(actual, reference.inr_block(*args, **kwargs)):
            assert_same_numbers(one, other, 1e-5)
    else:
        check(actual, case, dtype, backend.device)


def test_compiled_code_calls_the_operator(backend: Backend):
    args, kwargs = make_call(CASES["bilinear"], torch.float16, backend.device)
    torch.compiler.reset()
    compiled = torch.compile(inr_block, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        for one, other in zip(compiled(*args, **kwargs), inr_block(*args, **kwargs)):
            assert torch.equal(one, other)
        assert IMAGE_OPERATOR in operators_called(lambda: compiled(*args, **kwargs))


def test_what_runs_as_a_composition(backend: Backend, monkeypatch: pytest.MonkeyPatch):
    def reaches(case: Case, **options) -> bool:
        args, kwargs = make_call(case, torch.float16, backend.device)
        kwargs.update(options)
        with counted(monkeypatch) as calls:
            actual = inr_block(*args, **kwargs)
        if not calls:
            for one, other in zip(actual, plain.inr_block(*args, **kwargs)):
                assert torch.equal(one, other)
        return bool(calls)

    case = Case(8, 4, (4, 6), "nearest", {"s": 8})
    assert reaches(case)
    assert not reaches(case._replace(colors=5))
    assert not reaches(case, act="tanh")
    assert not reaches(case, gain=-1.0)
    args, kwargs = make_call(case, torch.float16, backend.device)
    for changed in (
        (args[0], args[1], args[2].float(), *args[3:]),
        (args[0], [args[1][0], args[1][1].float()], *args[2:]),
    ):
        assert by_layers.find_impl(Chain(*changed, **kwargs)) is None
    args[0][1].requires_grad_()
    assert inr_block(*args, **kwargs)[1].grad_fn is not None
