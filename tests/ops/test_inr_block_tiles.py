"""inr_block on CPUs, in C++ and by row tiles in plain PyTorch, equals its definition."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
import torch

from ops import _dispatch
from ops.inr_block import inr_block, reference, tiles
from ops.inr_layer import CoordFeatures
from ops.inr_layer.cpu import Chain, run_chain
from tests.compare import assert_close_to_ref, assert_same_numbers
from tests.ops.test_inr_layer import make_taps
from torch_utils import compilers

pytestmark = pytest.mark.usefixtures("poisoned_memory")

HAS_COMPILER = not compilers.missing_tools(uses_cuda=False, uses_python=False)
SIZES = [(1, 1), (3, 5), (31, 37), (16, 64)]


@pytest.fixture(
    params=[
        pytest.param("cpp", marks=pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler")),
        "tiles",
    ]
)
def compute(request):
    """A function of a chain."""
    if request.param == "tiles":
        return lambda chain: tiles.run_tiles(chain, True, 2000)
    _dispatch.choose("inr_layer", [torch.zeros(1)], "cpp")
    library = _dispatch.kernel_module("inr_layer", "cpp")
    return lambda chain: run_chain(library, chain, True)


def make_chain(upsampling, size, channels, *, coords="all", with_x=True, clamp=None) -> Chain:
    """A chain in float64; channels: of x and of the layers."""
    below, taps, double = size, None, torch.float64
    if upsampling:
        spans = ((Fraction(1, 3), size[0]), (Fraction(7, 5), size[1]))
        taps = tuple(make_taps(upsampling, (20, 40), 0, *span, double) for span in spans)
        below = tuple(axis.size for axis in taps)

    def random(*shape):
        return torch.randn(shape, dtype=double)

    parts = {"cols": (2, size[1]), "rows": (3, size[0]), "shared": (4, *size)}
    if coords == "shared":
        parts = {"shared": (4, *size)}
    elif coords == "all":
        parts["own"] = (2, 1, *size)
    features = None
    if coords:
        features = CoordFeatures(**{name: random(*shape) for name, shape in parts.items()})
    inputs = channels[0] * with_x + (features.num_channels() if features else 0)
    layers = [random(2, o, i) / 3 for i, o in itertools.pairwise([inputs, *channels[1:]])]
    biases = [random(2, o) if k % 2 else random(o) for k, o in enumerate(channels[1:])]
    x = random(2, channels[0], *below) if with_x else None
    ends = (random(2, 3, channels[-1]), random(3), x, random(2, 3, *below))
    return Chain(layers, biases, *ends, taps, features, "lrelu", None, clamp)


def to_dtype(chain: Chain, dtype: torch.dtype, sums: torch.dtype) -> Chain:
    def cast(tensor, wanted):
        return None if tensor is None else tensor.to(wanted)

    taps = chain.taps
    return chain._replace(
        layers=[weight.to(dtype) for weight in chain.layers],
        biases=[bias.to(dtype) for bias in chain.biases],
        rgb=cast(chain.rgb, dtype),
        x=cast(chain.x, dtype),
        coords=None if chain.coords is None else chain.coords.to_dtype(dtype),
        rgb_bias=cast(chain.rgb_bias, sums),
        img=cast(chain.img, sums),
        taps=taps and tuple(axis._replace(weight=axis.weight.to(sums)) for axis in taps),
    )


def define(chain: Chain):
    arguments = chain._asdict()
    first = [arguments.pop(name) for name in ("layers", "biases", "rgb", "rgb_bias", "x", "img")]
    return reference.inr_block(*first, **arguments)


@pytest.mark.parametrize("clamp", [None, 0.5])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("upsampling", [None, "nearest", "bilinear"])
def test_equals_the_definition(compute, upsampling, size, clamp):
    for channels, coords, with_x in (
        ((6, 7), "all", True),
        ((6, 7, 13, 4), "shared", True),
        ((5, 20, 9), None, True),
        ((5, 3, 8, 1, 2), "all", upsampling is not None),
    ):
        chain = make_chain(upsampling, size, channels, coords=coords, with_x=with_x, clamp=clamp)
        exact = define(chain)
        for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-7)):
            results = compute(to_dtype(chain, dtype, dtype))
            for name, actual, expected in zip(("features", "image"), results, exact, strict=True):
                assert actual.dtype == dtype
                assert_same_numbers(actual, expected, tolerance, name)


@pytest.mark.parametrize("has_instructions", [False, True])
@pytest.mark.parametrize("upsampling", ["nearest", "bilinear"])
def test_bfloat16_is_no_worse_than_the_definition(
    compute, upsampling, has_instructions, monkeypatch
):
    monkeypatch.setattr(tiles, "cpu_bfloat16", lambda: "amx_bf16" if has_instructions else None)
    chain = make_chain(upsampling, (5, 21), (24, 32, 16))
    low = to_dtype(chain, torch.bfloat16, torch.float32)
    exact = define(to_dtype(low, torch.float64, torch.float64))
    floor = torch.finfo(torch.bfloat16).eps
    for triple in zip(compute(low), define(low), exact, strict=True):
        assert_close_to_ref(*triple, floor=floor)


@pytest.mark.parametrize("size", [(9, 40), (16, 64)], ids=str)
def test_tiles_do_not_matter(size):
    chain = to_dtype(make_chain("bilinear", size, (6, 7, 8)), torch.float32, torch.float32)
    expected = tiles.run_tiles(chain, True, 2**30)
    for tile_bytes in (1, 5000, 20000):
        for actual, whole in zip(tiles.run_tiles(chain, True, tile_bytes), expected, strict=True):
            assert_same_numbers(actual, whole, 1e-6)


def test_batch_does_not_matter(compute):
    chain = to_dtype(make_chain("nearest", (7, 33), (6, 7, 8)), torch.float32, torch.float32)
    together = compute(chain)
    for i in range(2):
        images = slice(i, i + 1)
        alone = chain._replace(
            layers=[weight[images] for weight in chain.layers],
            biases=[bias[images] if bias.ndim == 2 else bias for bias in chain.biases],
            rgb=chain.rgb[images],
            x=chain.x[images],
            img=chain.img[images],
            coords=chain.coords._replace(own=chain.coords.own[images]),
        )
        for actual, expected in zip(compute(alone), together, strict=True):
            assert_same_numbers(actual[0], expected[i], 1e-6)


@pytest.mark.parametrize("impl", ["auto", "ref"])
def test_the_op_takes_the_fast_path_without_gradients_only(impl, monkeypatch):
    chain = to_dtype(make_chain("nearest", (4, 6), (3, 5)), torch.float32, torch.float32)
    arguments = chain._asdict()
    first = [arguments.pop(name) for name in ("layers", "biases", "rgb", "rgb_bias", "x", "img")]
    used = []
    run_tiles = tiles.run_tiles

    def spy(*args):
        used.append(args)
        return run_tiles(*args)

    # The C++ kernels are another way; here is none.
    monkeypatch.setattr(_dispatch, "_kernels", {})
    monkeypatch.setattr(tiles, "run_tiles", spy)
    features, image = inr_block(*first, **arguments, want_features=False, impl=impl)
    assert features is None and len(used) == (impl == "auto")
    weight = first[0][0].requires_grad_()
    _, again = inr_block(*first, **arguments, impl=impl)
    assert len(used) == (impl == "auto")
    assert_same_numbers(again, image)
    assert torch.autograd.grad(again.sum(), weight)[0].abs().sum() > 0


def test_without_a_compiler_tiles_run(monkeypatch):
    monkeypatch.setattr(_dispatch, "_kernels", {})
    chain = to_dtype(make_chain("bilinear", (4, 6), (3, 5)), torch.float32, torch.float32)
    for actual, expected in zip(tiles.block_on_cpu(chain, True), define(chain), strict=True):
        assert_same_numbers(actual, expected)


def test_refuses_what_it_does_not_compute():
    chain = make_chain(None, (4, 6), (3, 5))
    assert tiles.supports(chain)
    assert not tiles.supports(chain._replace(act="tanh"))
    assert not tiles.supports(chain._replace(gain=-1.0))
    assert not tiles.supports(to_dtype(chain, torch.float16, torch.float32))
    assert not tiles.supports(chain._replace(x=chain.x.float()))
    assert not tiles.supports(make_chain(None, (4, 6), (3, 5, 5, 5, 5, 5)))
