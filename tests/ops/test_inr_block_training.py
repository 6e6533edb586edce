"""inr_block on CPUs with gradients, in C++, equals its definition, to second order."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ops import _dispatch
from ops.inr_block import inr_block, reference, training
from ops.inr_layer.cpu import Chain
from tests.compare import assert_same_numbers
from tests.ops.native_cases import turned_saved_tensors
from tests.ops.test_inr_block import ALL, CASES, Case, make_call
from torch_utils import compilers

pytestmark = [
    pytest.mark.usefixtures("poisoned_memory"),
    pytest.mark.skipif(
        bool(compilers.missing_tools(uses_cuda=False, uses_python=False)), reason="no C++ compiler"
    ),
]

# Several tiles, rows that end within panels, everything that a block may lack.
ALL_CASES = {
    **{name: case for name, case in CASES.items() if case.act in ("lrelu", "linear")},
    "four-layers": Case(13, 5, (17, 21), "bilinear", ALL, layers=4, n=3, clamp=1.2),
    "tables-only": Case(6, 0, (9, 31), None, {"c": 2, "r": 3}, layers=2, img=False),
    "large": Case(24, 6, (40, 50), "nearest", {"c": 2, "s": 7}, n=1),
    "aligned-own-bias": Case(7, 3, (5, 6), "bilinear", {"s": 2}, bias="own", gain=0.5),
    "image-only-below": Case(5, 0, (4, 6), "nearest", {"s": 3}),
}


def run(function, case: Case, dtype: torch.dtype, wanted=(True, True), **fields):
    """Outputs that are wanted and the gradients of all inputs, by name."""
    args, options = make_call(case, dtype)
    coords = options.pop("coords")
    layers, biases, *others = args
    named = {f"weight{k}": weight for k, weight in enumerate(layers)}
    named |= {f"bias{k}": bias for k, bias in enumerate(biases)}
    named |= dict(zip(("rgb", "rgb_bias", "x", "img"), others, strict=True))
    named |= {"own": None if coords is None else coords.own}
    leaves = {k: t.clone().requires_grad_() for k, t in named.items() if t is not None}
    count = len(layers)
    y = function(
        [leaves[f"weight{k}"] for k in range(count)],
        [leaves[f"bias{k}"] for k in range(count)],
        *[leaves.get(name) for name in ("rgb", "rgb_bias", "x", "img")],
        coords=None if coords is None else coords._replace(own=leaves.get("own")),
        want_features=wanted[0],
        **(options | fields),
    )
    outputs = [part for part, want in zip(y, wanted, strict=True) if want]
    generator = torch.Generator().manual_seed(7)
    seen = [torch.randn(part.shape, generator=generator, dtype=torch.float64) for part in outputs]
    seen = [part.to(y_part.dtype) for part, y_part in zip(seen, outputs, strict=True)]
    gradients = torch.autograd.grad(outputs, list(leaves.values()), seen, allow_unused=True)
    results = {f"output{k}": part.detach() for k, part in enumerate(outputs)}
    return results | dict(zip(leaves, gradients, strict=True))


def is_native(case: Case, dtype: torch.dtype = torch.float32) -> bool:
    args, options = make_call(case, dtype)
    return training.find_library(Chain(*args, **options)) is not None


@pytest.mark.parametrize("wanted", [(True, True), (False, True), (True, False)], ids=str)
@pytest.mark.parametrize("name", ALL_CASES)
def test_values_and_gradients_equal_the_definition(name, wanted):
    case = ALL_CASES[name]
    assert is_native(case)
    expected = run(reference.inr_block, case, torch.float64, wanted=wanted)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-7)):
        actual = run(inr_block, case, dtype, wanted=wanted)
        for key, tensor in actual.items():
            if expected[key] is None:
                assert tensor is None or not tensor.any(), key
                continue
            assert tensor.dtype == dtype
            assert_same_numbers(tensor, expected[key], tolerance, key)


@pytest.mark.parametrize("clamp", [None, 1.5])
def test_derivatives_of_first_and_second_order(clamp):
    case = Case(3, 2, (3, 4), "bilinear", {"c": 1, "o": 2}, n=1, colors=2, clamp=clamp)
    (layers, biases, *others), options = make_call(case, torch.float64)
    coords = options.pop("coords")
    inputs = [t.requires_grad_() for t in (*layers, *biases, *others, coords.own)]

    def block(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        *ends, own = tensors[4:]
        parts = coords._replace(own=own)
        return inr_block(tensors[:2], tensors[2:4], *ends, coords=parts, **options)

    assert training.find_library(Chain(inputs[:2], inputs[2:4], *others, coords=coords)) is not None
    assert torch.autograd.gradcheck(block, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(block, inputs, fast_mode=True)


@pytest.mark.parametrize("wanted", ["weight0", "weight1", "bias0", "rgb", "rgb_bias", "x", "img"])
def test_single_gradients(wanted):
    case = CASES["bilinear"]
    expected = run(reference.inr_block, case, torch.float64)[wanted]
    (layers, biases, *others), options = make_call(case, torch.float64)
    named = {f"weight{k}": t for k, t in enumerate(layers)}
    named |= {f"bias{k}": t for k, t in enumerate(biases)}
    named |= dict(zip(("rgb", "rgb_bias", "x", "img"), others, strict=True))
    leaf = named[wanted].requires_grad_()
    outputs = inr_block(layers, biases, *others, **options)
    generator = torch.Generator().manual_seed(7)
    seen = [torch.randn(y.shape, generator=generator, dtype=torch.float64) for y in outputs]
    torch.autograd.backward(outputs, seen)
    assert_same_numbers(leaf.grad, expected, 1e-7, wanted)


def test_tiles_and_threads_do_not_matter(monkeypatch):
    case = ALL_CASES["four-layers"]
    expected = run(inr_block, case, torch.float64)
    threads = torch.get_num_threads()
    constants, used = training.chain_constants, []
    for change in ({"tile_bytes": 1}, {"tile_bytes": 2**24}, {"threads": 3}):

        def changed(chain, change=change):
            used.append(change)
            return constants(chain) | change

        monkeypatch.setattr(_dispatch, "_answers", {})
        monkeypatch.setattr(training, "chain_constants", changed)
        for key, tensor in run(inr_block, case, torch.float64).items():
            assert_same_numbers(tensor, expected[key], 1e-12, key)
    assert len(used) == 3 and torch.get_num_threads() == threads


def test_what_runs_layer_by_layer():
    assert is_native(CASES["bilinear"])
    assert not is_native(CASES["context-only"])  # relu
    assert not is_native(CASES["bilinear"], torch.bfloat16)
    args, options = make_call(CASES["bilinear"], torch.float32)
    coords = options["coords"]
    tables = coords._replace(cols=coords.cols.clone().requires_grad_())
    assert training.find_library(Chain(*args, **(options | {"coords": tables}))) is None
    assert training.find_library(Chain(*args, **(options | {"gain": 0.0}))) is None
    smaller = (*args[:4], args[4][:, :, 1:], args[5])
    assert training.find_library(Chain(*smaller, **options)) is None
    outputs = inr_block(*args, **(options | {"coords": tables}))
    sum(part.sum() for part in outputs).backward()
    assert tables.cols.grad.abs().sum() > 0


def test_fewer_images_than_threads_run_layer_by_layer():
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert not is_native(CASES["bilinear"])
        assert is_native(CASES["bilinear"]._replace(n=3))
    finally:
        torch.set_num_threads(threads)


# Blocks whose tensors have the same shapes although they are other blocks: rows for columns, own
# features for shared ones, another activation.
ALIKE = st.builds(
    Case,
    channels=st.just(4),
    below=st.just(4),
    size=st.just((4, 4)),
    upsampling=st.sampled_from([None, "nearest", "bilinear"]),
    coords=st.sampled_from([{}, {"c": 4}, {"r": 4}, {"s": 4}, {"o": 4}, {"c": 2, "r": 2}]),
    layers=st.integers(1, 2),
    colors=st.just(4),
    img=st.booleans(),
    bias=st.sampled_from(["shared", "own"]),
    act=st.sampled_from(["lrelu", "linear", "relu"]),
    gain=st.sampled_from([None, 0.5]),
    clamp=st.sampled_from([None, 0.4]),
    n=st.just(4),
)


@settings(max_examples=40)
@given(st.lists(ALIKE, min_size=2, max_size=4))
def test_no_call_is_taken_for_another(cases):
    for case in cases:
        actual = run(inr_block, case, torch.float64)
        for key, tensor in run(reference.inr_block, case, torch.float64).items():
            assert_same_numbers(actual[key], tensor, 1e-9, key)
        args, options = make_call(case, torch.float64)
        with torch.no_grad():
            none, image = inr_block(*args, **options, want_features=False)
        assert none is None
        assert_same_numbers(image, actual["output1"], 1e-9)


def test_saved_tensors_may_lie_otherwise():
    case = CASES["bilinear"]
    expected = run(inr_block, case, torch.float32)
    with turned_saved_tensors():
        actual = run(inr_block, case, torch.float32)
    for key, tensor in actual.items():
        assert_same_numbers(tensor, expected[key], 1e-6, key)
