"""inr_layer and lattice_upsample in C++ equal their definitions, with gradients of both orders."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from ops import _dispatch
from ops.inr_layer import CoordFeatures, inr_layer, lattice_upsample, native, plain
from ops.inr_layer.cpu import Chain, run_chain
from tests.compare import assert_close_to_ref, assert_grad_close, assert_same_numbers
from tests.ops.native_cases import assert_compiles, operators_called
from tests.ops.test_inr_layer import make_point_taps, make_taps
from torch_utils import compilers

pytestmark = [
    pytest.mark.skipif(
        bool(compilers.missing_tools(uses_cuda=False, uses_python=False)), reason="no C++ compiler"
    ),
    pytest.mark.usefixtures("poisoned_memory"),
]

UPSAMPLING = [None, "nearest", "bilinear"]
# One pixel; odd sides; rows of whole panels and more than one panel per row; one row of many.
SIZES = [(1, 1), (3, 5), (7, 37), (4, 64), (1, 50)]


def make_call(upsampling, size, with_coords=True, channels=(6, 7), batch=2, dtype=torch.float64):
    """Tensors by name, and the other arguments of inr_layer."""
    height, width = size
    taps = None
    if upsampling:
        spans = ((Fraction(1, 3), height), (Fraction(7, 5), width))
        taps = tuple(make_taps(upsampling, (20, 40), 0, *span, dtype) for span in spans)
        size = [axis.size for axis in taps]
    parts: dict[str, list[int]] = {}
    if with_coords:
        parts = {"cols": [2, width], "rows": [3, height]}
        parts |= {"shared": [4, height, width], "own": [batch, 1, height, width]}
    inputs = channels[0] + (10 if with_coords else 0)
    shapes = {"weight": [batch, channels[1], inputs], "x": [batch, channels[0], *size]}
    shapes |= {"bias": [channels[1]], **parts}
    tensors = {name: torch.randn(shape, dtype=torch.float64) for name, shape in shapes.items()}
    tensors["weight"] /= 3
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}, taps


def call_layer(tensors, taps, impl, act="lrelu", **options):
    parts = {name: tensors.get(name) for name in ("cols", "rows", "shared", "own")}
    coords = CoordFeatures(**parts) if "cols" in tensors else None
    if taps is not None:
        dtype = tensors["weight"].dtype
        taps = tuple(axis._replace(weight=axis.weight.to(dtype)) for axis in taps)
    arguments = (tensors["weight"], tensors["x"], tensors["bias"])
    return inr_layer(*arguments, taps=taps, coords=coords, act=act, impl=impl, **options)


def run(tensors, taps, impl, dtype, **options):
    """The result and the gradients of all tensors."""
    leaves = {name: t.to(dtype).requires_grad_() for name, t in tensors.items()}
    y = call_layer(leaves, taps, impl, **options)
    generator = torch.Generator().manual_seed(1)
    v = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(dtype)
    return [y.detach(), *torch.autograd.grad(y, list(leaves.values()), v)]


@pytest.mark.parametrize("options", [{}, {"clamp": 0.7}, {"gain": 0.3}, {"act": "linear"}])
@pytest.mark.parametrize("upsampling", UPSAMPLING)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_values_and_gradients_equal_the_definition(upsampling, size, options):
    tensors, taps = make_call(upsampling, size)
    expected = run(tensors, taps, "ref", torch.float64, **options)
    names = ["result", *tensors]
    for name, actual, ref in zip(
        names, run(tensors, taps, "cpp", torch.float32, **options), expected, strict=True
    ):
        assert_same_numbers(actual, ref, 1e-5, name)
    for name, actual, ref in zip(
        names, run(tensors, taps, "cpp", torch.float64, **options), expected, strict=True
    ):
        assert_same_numbers(actual, ref, 1e-7, name)  # weights of taps have 24 bits


@pytest.mark.parametrize("channels", [(1, 1), (17, 12), (50, 40)])
@pytest.mark.parametrize("upsampling", UPSAMPLING)
def test_numbers_of_channels(upsampling, channels):
    tensors, taps = make_call(upsampling, (5, 19), with_coords=False, channels=channels, batch=3)
    tensors["bias"] = torch.randn(3, channels[1], dtype=torch.float64)
    expected = run(tensors, taps, "ref", torch.float64)
    for actual, ref in zip(run(tensors, taps, "cpp", torch.float32), expected, strict=True):
        assert_same_numbers(actual, ref)


@pytest.mark.parametrize("upsampling", ["nearest", "bilinear"])
def test_derivatives_of_first_and_second_order(upsampling):
    tensors, taps = make_call(upsampling, (3, 4), channels=(2, 3))
    names = list(tensors)
    leaves = [tensors[name].requires_grad_() for name in names]

    def layer(*values):
        return call_layer(dict(zip(names, values, strict=True)), taps, "cpp", clamp=1.5)

    assert torch.autograd.gradcheck(layer, leaves)
    assert torch.autograd.gradgradcheck(layer, leaves)


@pytest.mark.parametrize("upsampling", UPSAMPLING)
def test_bfloat16_is_no_worse_than_the_definition(upsampling, monkeypatch):
    monkeypatch.setattr("ops.inr_layer.cpu_kernels.cpu_bfloat16", lambda: None)
    tensors, taps = make_call(upsampling, (5, 21), channels=(32, 16), dtype=torch.bfloat16)
    actual = run(tensors, taps, "cpp", torch.bfloat16)
    same = run(tensors, taps, "ref", torch.bfloat16)
    exact = run(tensors, taps, "ref", torch.float64)
    floor = torch.finfo(torch.bfloat16).eps
    assert_close_to_ref(actual[0], same[0], exact[0], floor=floor)
    for gradients in zip(actual[1:], same[1:], exact[1:], strict=True):
        assert_grad_close(*gradients, floor=2 * floor, cosine=0.99)


@pytest.mark.parametrize("wanted", ["weight", "x", "bias", "cols", "own"])
def test_single_gradients(wanted):
    tensors, taps = make_call("bilinear", (5, 9))
    results = []
    for impl in ("cpp", "ref"):
        leaves = {n: t.clone().requires_grad_(n == wanted) for n, t in tensors.items()}
        call_layer(leaves, taps, impl).square().sum().backward()
        results.append(leaves[wanted].grad)
    assert_same_numbers(*results, 1e-7)


def test_tiles_threads_batch_and_position_do_not_matter():
    tensors, taps = make_call("bilinear", (9, 70), channels=(6, 20), batch=3, dtype=torch.float32)
    coords = CoordFeatures(*(tensors[name] for name in ("cols", "rows", "shared", "own")))
    library = _dispatch.kernel_module("inr_layer", "cpp")

    class Changed:
        """The library with other numbers in some fields."""

        def __init__(self, **fields):
            self.fields = fields

        def bind(self, function, **fields):
            return library.bind(function, **(fields | self.fields))

    def chain(images):
        own = coords._replace(own=coords.own[images])
        options = {"x": tensors["x"][images], "taps": taps, "coords": own}
        return Chain([tensors["weight"][images]], [tensors["bias"]], **options)

    expected, _ = run_chain(library, chain(slice(0, 3)), True)
    for fields in ({"tile_bytes": 1}, {"tile_bytes": 2**24}, {"threads": 3}):
        assert torch.equal(run_chain(Changed(**fields), chain(slice(0, 3)), True)[0], expected)
    for i in (2, 0):
        single, _ = run_chain(library, chain(slice(i, i + 1)), True)
        assert torch.equal(single[0], expected[i])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("upsampling", ["nearest", "bilinear"])
def test_upsampling_equals_the_definition(upsampling, dtype):
    for size in SIZES:
        spans = ((Fraction(-1, 3), Fraction(7, 5), size[0]), (0, 1, size[1]))
        taps = [make_taps(upsampling, (32, 64), *span, dtype) for span in spans]
        x = torch.randn(2, 3, taps[0].size, taps[1].size, dtype=dtype)
        actual = lattice_upsample(x, *taps, impl="cpp")
        assert_same_numbers(actual, lattice_upsample(x, *taps, impl="ref"), 1e-6)


def test_what_the_kernel_does_not_take():
    tensors, taps = make_call("nearest", (3, 5))
    with pytest.raises(RuntimeError, match="activations linear, lrelu"):
        call_layer(tensors, taps, "cpp", act="tanh")
    torch.testing.assert_close(
        call_layer(tensors, taps, "auto", act="tanh"), call_layer(tensors, taps, "ref", act="tanh")
    )
    points = make_point_taps(4)
    with pytest.raises(RuntimeError, match="grids along two axes"):
        inr_layer(torch.zeros(2, 3, 5), torch.zeros(2, 5, 3, 4), taps=(points,), impl="cpp")
    with pytest.raises(RuntimeError, match="different dtypes"):
        inr_layer(torch.zeros(2, 3, 5).double(), torch.zeros(2, 5, 3, 4), act="lrelu", impl="cpp")


@pytest.mark.parametrize("upsampling", UPSAMPLING)
def test_compilers_see_operators(upsampling):
    tensors, taps = make_call(upsampling, (3, 5), dtype=torch.float32)
    inputs = [tensors[n] for n in ("weight", "x", "bias", "cols", "rows", "shared", "own")]
    inputs += [None] * 4 if taps is None else [part for axis in taps for part in axis[:2]]
    constants = ("lrelu", 1.5, 0.7)
    y = native.forward(*inputs, *constants, "cpp")
    torch.library.opcheck(native.forward.operator, (*inputs, *constants, "cpp"))
    for wanted in ([True] * 7, [False, True, False, True, False, False, True]):
        args = (torch.randn_like(y), y, *inputs, *constants, wanted, "cpp")
        torch.library.opcheck(native.gradients.operator, args)


@pytest.mark.parametrize("upsampling", UPSAMPLING)
def test_compiled_without_a_break(upsampling):
    tensors, taps = make_call(upsampling, (3, 5), dtype=torch.float32)
    names = list(tensors)

    def layer(*values):
        return call_layer(dict(zip(names, values, strict=True)), taps, "auto").square().sum()

    leaves = tuple(tensor.requires_grad_() for tensor in tensors.values())
    assert_compiles(layer, leaves, {"inr_layer_forward", "inr_layer_gradients"})


def test_autocast_chooses_the_precision_in_compiled_code_too():
    tensors, taps = make_call("nearest", (3, 5), dtype=torch.float32)

    def layer(weight):
        with torch.autocast("cpu", torch.bfloat16):
            return call_layer(tensors | {"weight": weight}, taps, "auto")

    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    y = compiled(tensors["weight"])
    assert not operators_called(lambda: compiled(tensors["weight"]))
    assert_same_numbers(y, layer(tensors["weight"]), 1e-6)


def test_not_a_number_stays_where_it_is():
    x = torch.randn(1, 4, 3, 20)
    x[0, 1, 1, 7] = float("nan")
    y = inr_layer(torch.randn(1, 5, 4), x, torch.zeros(5), act="lrelu", clamp=1.0, impl="cpp")
    expected = plain.inr_layer(torch.ones(1, 5, 4), x, torch.zeros(5), act="lrelu", clamp=1.0)
    assert torch.equal(y.isnan(), expected.isnan()) and y.isnan().sum() == 5
