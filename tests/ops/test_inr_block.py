"""inr_block: the composition equals the definition to second order, the kernel equals both."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import networks
from networks.fourier import axis_taps
from networks.lattice import Sampling, axis_levels, grid_points
from ops.inr_block import by_layers, inr_block, native, plain, reference
from ops.inr_block.plan import KIB, TILES, Limits, make_plan
from ops.inr_layer import AxisTaps, CoordFeatures, PointTaps
from ops.inr_layer.cpu import Chain
from tests.compare import assert_close_to_ref, assert_same_numbers
from tests.ops.emulated import emulated_op
from tests.ops.native_cases import Backend, assert_compiles, backend_fixture
from torch_utils import compilers

pytestmark = pytest.mark.usefixtures("poisoned_memory")
backend = backend_fixture("inr_block", ("emulated", "cuda"))

HAS_COMPILER = not compilers.missing_tools(uses_cuda=False, uses_python=False)
LOW = [torch.float16, torch.bfloat16]


class Case(NamedTuple):
    """One block; what its first layer reads besides the features below: c(ols), r(ows), s(hared)
    and o(wn) coordinate features, so many channels each."""

    channels: int
    below: int = 0
    size: tuple[int, int] = (3, 5)
    upsampling: str | None = None
    coords: dict[str, int] = {}
    layers: int = 2
    colors: int = 3
    img: bool = True
    bias: str = "shared"
    act: str = "lrelu"
    gain: float | None = None
    clamp: float | None = None
    n: int = 2


ALL = {"c": 2, "r": 3, "s": 5, "o": 4}
CASES = {
    "nearest": Case(9, 8, (6, 10), "nearest", ALL),
    "bilinear": Case(9, 7, (7, 9), "bilinear", ALL, clamp=0.7),
    "aligned": Case(32, 16, (8, 16), "bilinear", {"s": 16, "o": 16}, layers=3),
    "one-row-more": Case(33, 8, (3, 43), "nearest", {"s": 33}, bias="own"),
    "tables": Case(40, 8, (16, 8), "nearest", {"c": 8, "r": 8}, layers=3, colors=1),
    "context-only": Case(16, 8, (4, 8), "bilinear", layers=1, act="relu", gain=0.5),
    "first": Case(64, 0, (8, 8), None, {"c": 4, "r": 4, "s": 8, "o": 32}, layers=4, img=False),
    "own-grid": Case(16, 24, (5, 13), None, {"c": 1, "o": 15}, colors=4, act="linear"),
    "own-grid-features": Case(24, 40, (2, 8), None, colors=8, clamp=1.5),
    "one-point": Case(1, 1, (1, 1), "nearest", {"s": 1}, colors=2, n=9),
    "wide": Case(100, 24, (2, 70), "nearest", {"c": 4, "s": 20}, n=1),
    "widest": Case(200, 16, (3, 23), "bilinear", {"s": 24}, n=1),
}


def make_axis(upsampling: str, count: int, device) -> AxisTaps:
    points = grid_points(Fraction(0), Fraction(3, 4), count)
    level = axis_levels(points, (count // 2 + 1, count + 2), Sampling(upsampling))[-1]
    taps = axis_taps(level.taps, torch.device("cpu"))
    return taps._replace(index=taps.index.to(device), weight=taps.weight.to(device))


def make_call(case: Case, dtype: torch.dtype, device="cpu", like: torch.dtype | None = None):
    """Positional and keyword arguments, the same numbers for every dtype, as `like` rounds them."""
    generator = torch.Generator().manual_seed(11)

    def new(*shape: int, scale: float = 1.0) -> Tensor:
        values = torch.randn(shape, generator=generator, dtype=torch.float64) * scale
        return values.to(like or dtype).to(device, dtype)

    height, width = case.size
    exact = torch.promote_types(dtype, torch.float32)
    taps, low = None, case.size
    if case.upsampling:
        taps = tuple(make_axis(case.upsampling, count, device) for count in case.size)
        low = (taps[0].size, taps[1].size)
    shapes = {"c": (width,), "r": (height,), "s": case.size, "o": case.size}
    parts = {}
    for name, count in case.coords.items():
        batch = (case.n,) if name == "o" else ()
        parts[name] = new(*batch, count, *shapes[name])
    coords = CoordFeatures(*[parts.get(name) for name in "crso"]) if parts else None
    depths = [case.below + sum(case.coords.values())] + [case.channels] * (case.layers - 1)
    layers = [new(case.n, case.channels, depth, scale=depth**-0.5) for depth in depths]
    bias_shape = (case.n, case.channels) if case.bias == "own" else (case.channels,)
    biases = [new(*bias_shape) for _ in layers]
    rgb = new(case.n, case.colors, case.channels, scale=case.channels**-0.5)
    x = new(case.n, case.below, *low) if case.below else None
    img = new(case.n, case.colors, *low).to(exact) if case.img else None
    options = {"act": case.act, "gain": case.gain, "clamp": case.clamp}
    args = (layers, biases, rgb, new(case.colors).to(exact), x, img)
    return args, {"taps": taps, "coords": coords, **options}


def definition(case: Case, dtype: torch.dtype, device="cpu"):
    """Features and image by the definition: in the dtype, and exactly on the same numbers."""
    args, kwargs = make_call(case, dtype, device)
    exact_args, exact_kwargs = make_call(case, torch.float64, device, like=dtype)
    return reference.inr_block(*args, **kwargs), reference.inr_block(*exact_args, **exact_kwargs)


def check(actual, case: Case, dtype: torch.dtype, device) -> None:
    ordinary, exact = definition(case, dtype, device)
    for name, *tensors in zip(("features", "image"), actual, ordinary, exact):
        # One rounding of the result is always allowed.
        floor = torch.finfo(dtype).eps / 2
        assert_close_to_ref(*tensors, floor=floor if name == "features" else 1e-6, name=name)


def test_definition_by_hand():
    """Two cells, each read by two points."""
    x = torch.tensor([[[[1.0, -3.0]]]])
    img = torch.tensor([[[[10.0, 20.0]]]])
    row = AxisTaps(torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1), 1)
    cols = AxisTaps(torch.tensor([[0], [0], [1], [1]]), torch.ones(4, 1), 2)
    layers = [torch.tensor([[[2.0], [-1.0]]]), torch.tensor([[[1.0, 1.0], [0.5, 0.0]]])]
    biases = [torch.tensor([1.0, 0.0]), torch.tensor([0.0, -2.0])]
    rgb, rgb_bias = torch.tensor([[[1.0, 10.0]]]), torch.tensor([0.5])
    for function in (inr_block, reference.inr_block):
        features, image = function(
            layers, biases, rgb, rgb_bias, x, img, taps=(row, cols), act="relu", gain=2.0
        )
        # Layer 1: relu of (3, -1) and (-5, 3), doubled: (6, 0) and (0, 6).
        # Layer 2: relu of (6, 1) and (6, -2), doubled: (12, 2) and (12, 0).
        assert features.tolist() == [[[[12, 12, 12, 12]], [[2, 2, 0, 0]]]]
        assert image.tolist() == [[[[42.5, 42.5, 32.5, 32.5]]]]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_composition_equals_the_definition(case: Case):
    args, kwargs = make_call(case, torch.float32)
    features, image = inr_block(*args, **kwargs)
    expected = reference.inr_block(*args, **kwargs)
    assert_same_numbers(features, expected[0], 1e-5, "features")
    assert_same_numbers(image, expected[1], 1e-5, "image")
    nothing, same = inr_block(*args, **kwargs, want_features=False)
    assert nothing is None and torch.equal(same, image)


def test_points_and_signals_with_one_and_three_axes():
    generator = torch.Generator().manual_seed(0)

    def new(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    shares = torch.tensor([[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]])
    points = PointTaps(torch.tensor([[0, 3], [1, 2], [5, 5]]), shares, 6)
    for below, fine, taps in (
        ((2, 3), (1, 3), (points,)),
        ((4,), (6,), (make_axis("bilinear", 6, "cpu"),)),
        ((3, 2, 4), (3, 2, 5), tuple(make_axis("nearest", count, "cpu") for count in (3, 2, 5))),
    ):
        if len(taps) != 1 or isinstance(taps[0], AxisTaps):
            below = tuple(axis.size for axis in taps)
        layers, biases = [new(2, 5, 7), new(2, 5, 5)], [new(5), new(2, 5)]
        args = (layers, biases, new(2, 3, 5), new(3), new(2, 4, *below), new(2, 3, *below))
        kwargs = {"taps": taps, "coords": CoordFeatures(shared=new(3, *fine))}
        actual, expected = inr_block(*args, **kwargs), inr_block(*args, **kwargs, impl="ref")
        for one, other in zip(actual, expected):
            assert_same_numbers(one, other, 1e-5)
        half = [[t.half() for t in layers], [t.half() for t in biases], args[2].half(), args[3]]
        kwargs["coords"] = kwargs["coords"].to_dtype(torch.float16)
        reason = native.supports(*half, args[4].half(), args[5], **kwargs)
        assert reason in ("taps of single points", "points of one or three coordinates")


def test_first_and_second_order():
    case = Case(3, 2, (2, 3), "bilinear", {"c": 1, "s": 1}, act="tanh", n=1, colors=1)
    (layers, biases, rgb, rgb_bias, x, img), kwargs = make_call(case, torch.float64)
    coords = kwargs.pop("coords")
    tensors = [*layers, *biases, rgb, rgb_bias, x, img, coords.cols, coords.shared]
    leaves = [tensor.requires_grad_() for tensor in tensors]

    def function(a, b, c, d, rgb, rgb_bias, x, img, cols, shared):
        coords = CoordFeatures(cols=cols, shared=shared)
        return inr_block([a, b], [c, d], rgb, rgb_bias, x, img, coords=coords, **kwargs)

    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


def test_errors_say_what_does_not_fit():
    args, kwargs = make_call(CASES["nearest"], torch.float32)
    layers, biases, rgb, rgb_bias, x, img = args
    for changed, message in (
        (([], [], rgb, rgb_bias, x, img), "0 layers"),
        ((layers, biases[:1], rgb, rgb_bias, x, img), "2 layers and 1 biases"),
        ((layers[::-1], biases, rgb, rgb_bias, x, img), "of layer 0 does not fit"),
        ((layers, [biases[0], rgb_bias], rgb, rgb_bias, x, img), "bias .3. of layer 1"),
        ((layers, biases, rgb[:1], rgb_bias, x, img), "rgb .* does not fit a batch of 2"),
        ((layers, biases, rgb, rgb_bias[:2], x, img), "rgb_bias .2. for rgb"),
        ((layers, biases, rgb, rgb_bias, x, img[:, :2]), "img .* does not fit rgb"),
        ((layers, biases, rgb, rgb_bias, x, img[:1]), "img .* does not fit rgb"),
        ((layers, biases, rgb, rgb_bias, x, img[:, :, :2]), "taps into .3, 5. cells .* img"),
        ((layers, biases, rgb, rgb_bias, x[:, :, :2], img), "taps into .3, 5. cells .* x .2, 8"),
        ((layers, biases, rgb, rgb_bias, x[:1], img), "x .1, 8, 3, 5. for a batch of 2"),
    ):
        for impl in ("auto", "ref"):
            with pytest.raises(ValueError, match=message):
                inr_block(*changed, **kwargs, impl=impl)
    with pytest.raises(ValueError, match="needs features x, coordinate features, or both"):
        inr_block(layers, biases, rgb, rgb_bias)


@pytest.mark.parametrize(
    ("part", "index"),
    [("own", (slice(1),)), ("shared", (slice(None), slice(1))), ("own", (..., slice(3)))]
    + [("cols", (..., slice(2))), ("rows", (..., slice(2)))],
)
def test_points_that_are_not_there_are_refused(part: str, index: tuple):
    args, kwargs = make_call(CASES["nearest"], torch.float32)
    inr_block(*args, **kwargs)  # right before: what was found out then does not serve now
    coords = kwargs["coords"]
    kwargs["coords"] = coords._replace(**{part: getattr(coords, part)[index]})
    with pytest.raises(ValueError, match="own features .* batch of 2|do not fit a grid of"):
        inr_block(*args, **kwargs)
    rows, cols = kwargs["taps"]
    kwargs |= {"coords": coords, "taps": (cols, rows)}
    with pytest.raises(ValueError, match="taps into .5, 3. cells cannot read x"):
        inr_block(*args, **kwargs)


def test_options_are_numbers_whatever_holds_them():
    args, kwargs = make_call(CASES["bilinear"], torch.float32)
    gain = torch.tensor(0.5)
    results = {}
    for value in (0.5, 1.5):
        gain.fill_(value)
        results[value] = inr_block(*args, **(kwargs | {"gain": gain}))[1]
        assert torch.equal(results[value], inr_block(*args, **(kwargs | {"gain": value}))[1])
    assert not torch.equal(*results.values())


@pytest.mark.parametrize("dtype", LOW, ids=["float16", "bfloat16"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_kernel_equals_the_definition(case: Case, dtype: torch.dtype, backend: Backend):
    args, kwargs = make_call(case, dtype, backend.device)
    assert native.supports(*args, **kwargs) is None
    actual = native.block_forward(backend.impl, *args, **kwargs)
    assert actual[0].dtype == dtype and actual[1].dtype == torch.float32
    check(actual, case, dtype, backend.device)
    nothing, image = native.block_forward(backend.impl, *args, **kwargs, want_features=False)
    assert nothing is None and torch.equal(image, actual[1])


TILE_CASES = {
    0: (Case(20, 8, (9, 31), "nearest", {"s": 8}), 227),
    1: (Case(36, 8, (5, 29), "bilinear", {"s": 8, "c": 3}), 227),
    2: (Case(72, 8, (4, 65), "nearest", {"s": 40}, layers=3, n=3), 227),
    3: (Case(72, 8, (3, 43), "nearest", {"s": 40}), 80),
    4: (Case(72, 8, (5, 13), "nearest", {"s": 40}), 48),
    5: (Case(136, 8, (3, 43), "bilinear", {"o": 8}), 227),
    6: (Case(136, 8, (5, 13), "nearest", {"s": 8}), 99),
    7: (Case(136, 8, (3, 11), "nearest", {"s": 8}), 64),
}


@pytest.mark.parametrize("tile", TILE_CASES)
def test_every_tile(tile: int, backend: Backend, monkeypatch: pytest.MonkeyPatch):
    """One multiprocessor, so that thread blocks walk over tiles and images."""
    case, kib = TILE_CASES[tile]
    limits = Limits(kib * KIB, 1)
    monkeypatch.setattr(native, "device_limits", lambda device: limits)
    depth = sum(count for name, count in case.coords.items() if name in "so")
    points = case.size[0] * case.size[1]
    plan = make_plan(case.channels, depth, case.layers, case.colors, points, case.n, limits)
    assert plan.tile == tile and plan.shared_bytes <= limits.shared_bytes
    assert case.n * points > TILES[tile].points
    args, kwargs = make_call(case, torch.float16, backend.device)
    actual = native.block_forward(backend.impl, *args, **kwargs)
    check(actual, case, torch.float16, backend.device)


def test_weights_stay_where_they_fit(backend: Backend, monkeypatch: pytest.MonkeyPatch):
    """More images than thread blocks: the weights change on the way."""
    case = Case(20, 8, (10, 30), "nearest", {"s": 8}, n=3)
    limits = Limits(227 * KIB, 1)
    monkeypatch.setattr(native, "device_limits", lambda device: limits)
    args, kwargs = make_call(case, torch.float16, backend.device)
    resident = make_plan(20, 8, 2, 3, 300, 3, limits)
    assert resident.stages >= 2 and resident.num_blocks < 9
    whole = native.block_forward(backend.impl, *args, **kwargs)
    check(whole, case, torch.float16, backend.device)
    ring = resident._replace(stages=2, num_blocks=9)
    ring = ring._replace(shared_bytes=ring.shared_bytes - (resident.stages - 2) * 2 * 32 * 40)
    monkeypatch.setattr(native, "_plan", lambda *arguments: ring)
    for one, other in zip(native.block_forward(backend.impl, *args, **kwargs), whole):
        assert torch.equal(one, other)


def test_memory_layout_does_not_matter(backend: Backend):
    case = Case(24, 16, (4, 8), "nearest", {"s": 16, "c": 8})
    args, kwargs = make_call(case, torch.float16, backend.device)
    expected = native.block_forward(backend.impl, *args, **kwargs)

    def apart(tensor: Tensor) -> Tensor:
        larger = torch.full([2 * size + 1 for size in tensor.shape], torch.nan).to(tensor)
        return larger[tuple(slice(1, None, 2) for _ in tensor.shape)].copy_(tensor)

    layers, biases, rgb, rgb_bias, x, img = args
    changed = [[*map(apart, layers)], [*map(apart, biases)], *map(apart, args[2:])]
    kwargs["coords"] = CoordFeatures(
        *[part if part is None else apart(part) for part in kwargs["coords"]]
    )
    for one, other in zip(native.block_forward(backend.impl, *changed, **kwargs), expected):
        assert torch.equal(one, other)


def test_same_numbers_every_time(backend: Backend):
    args, kwargs = make_call(CASES["bilinear"], torch.bfloat16, backend.device)
    first = native.block_forward(backend.impl, *args, **kwargs)
    again = native.block_forward(backend.impl, *args, **kwargs)
    assert all(torch.equal(one, other) for one, other in zip(first, again))


def test_compiled_code_calls_the_kernel(backend: Backend, monkeypatch: pytest.MonkeyPatch):
    args, kwargs = make_call(CASES["aligned"], torch.bfloat16, backend.device)
    expected = inr_block(*args, **kwargs)
    with torch.no_grad():
        compiled = torch.compile(inr_block, backend="eager", fullgraph=True)
        for one, other in zip(compiled(*args, **kwargs), expected):
            assert torch.equal(one, other)
    calls = []
    run = native._run
    monkeypatch.setattr(native, "_run", lambda *given: calls.append(given) or run(*given))
    inr_block(*args, **kwargs)
    torch.library.opcheck(run.operator, calls[0], test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("name", ["bilinear", "own-grid"])
def test_compiled_without_a_break_on_cpus(name: str):
    """With the operators of the layers: C++ takes whole blocks outside of compiled code only."""
    (layers, biases, *others), kwargs = make_call(CASES[name], torch.float64)

    def block(a, b, c, d, *others):
        features, image = inr_block([a, b], [c, d], *others, **kwargs)
        return features.square().sum() + image.square().sum()

    leaves = tuple(tensor.requires_grad_() for tensor in (*layers, *biases, *others))
    operators = {"inr_layer_forward", "inr_layer_gradients"}
    assert_compiles(block, leaves, operators if HAS_COMPILER else set())


def test_layers_with_an_image_are_not_for_cpus():
    args, kwargs = make_call(CASES["nearest"], torch.float32)
    assert by_layers.find_impl(Chain(*args, **kwargs)) is None


@pytest.mark.parametrize("order", ["descending", "random"])
@pytest.mark.parametrize("name", ["bilinear", "first", "wide"])
def test_order_of_threads_does_not_matter(name: str, order: str):
    """Results that depend on it show a missing barrier."""
    args, kwargs = make_call(CASES[name], torch.float16)
    results = []
    for chosen in ("ascending", order):
        with emulated_op("inr_block", order=chosen):
            results.append(native.block_forward("cpp", *args, **kwargs))
    assert all(torch.equal(one, other) for one, other in zip(*results))


def test_the_kernel_runs_where_nothing_wants_a_gradient(backend: Backend):
    args, kwargs = make_call(CASES["aligned"], torch.float16, backend.device)
    kernel = native.block_forward(backend.impl, *args, **kwargs)
    composed = plain.inr_block(*args, **kwargs)
    assert not torch.equal(kernel[1], composed[1])  # to-RGB sums in float32
    for one, other in zip(inr_block(*args, **kwargs), kernel):
        assert torch.equal(one, other)
    args[0][0].requires_grad_()
    assert inr_block(*args, **kwargs)[1].grad_fn is not None
    with torch.no_grad():
        assert torch.equal(inr_block(*args, **kwargs)[1], kernel[1])


def test_what_the_kernel_does_not_take():
    case = Case(8, 4, (4, 6), "nearest", {"s": 8})

    def reason(changed: Case = case, dtype: torch.dtype = torch.float16, **options) -> str:
        args, kwargs = make_call(changed, dtype)
        return native.supports(*args, **{**kwargs, **options})

    assert reason() is None
    assert "float32" in reason(dtype=torch.float32)
    assert "tanh" in reason(case._replace(act="tanh"))
    assert "more than 4 layers" in reason(case._replace(layers=5))
    assert "more than 8 channels" in reason(case._replace(colors=9))
    assert "257 channels, more than 256" in reason(case._replace(channels=257))
    assert "do not fit 227 KiB" in reason(case._replace(channels=128, coords={"s": 4000}))
    args, kwargs = make_call(case, torch.float16)
    assert "not float32" in native.supports(*args[:3], args[3].half(), *args[4:], **kwargs)
    assert "several dtypes" in native.supports(*args[:4], args[4].float(), args[5], **kwargs)


def test_plans():
    """Blocks of the published generator at 256x256: numbers worked out by hand."""
    hopper, ampere = Limits(227 * KIB, 132), Limits(99 * KIB, 82)
    turing = Limits(64 * KIB, 68, has_bfloat16=False)
    # 256 x 256: 160 rows of 256 + 8 points; 5 + 4 + 4 tiles of 128 x (32 + 8) weights stay.
    assert make_plan(128, 160, 3, 3, 65536, 32, hopper) == (
        2, 13, 2 * (160 * 264 + 13 * 128 * 40 + 3 * 136), 132
    )  # fmt: skip
    assert make_plan(128, 160, 3, 3, 65536, 32, ampere)[:2] == (3, 3)
    assert make_plan(256, 156, 3, 3, 16384, 32, hopper)[:2] == (5, 3)
    assert make_plan(256, 156, 3, 3, 16384, 32, ampere)[:2] == (6, 3)
    assert make_plan(256, 156, 3, 3, 16384, 32, turing)[:2] == (7, 2)
    # One small image: small tiles occupy more multiprocessors.
    assert make_plan(256, 156, 3, 3, 4096, 1, hopper).tile == 7
    assert make_plan(512, 176, 2, 3, 4096, 32, hopper) is None
    for channels in range(1, 257):
        plan = make_plan(channels, 160, 3, 3, 4096, 4, hopper)
        assert TILES[plan.tile].rows >= channels and plan.shared_bytes <= hopper.shared_bytes


@pytest.mark.parametrize("preset", ["inr-gan", "inr-gan-bil", "inr-gan-published"])
def test_generators_draw_with_it(preset: str, backend: Backend, monkeypatch: pytest.MonkeyPatch):
    """All blocks of a small generator, published instance norm included."""
    torch.manual_seed(0)
    G = networks.build_generator(
        preset,
        z_dim=8,
        c_dim=0,
        w_dim=8,
        img_resolution=16,
        img_channels=3,
        mapping_kwargs={"num_layers": 1},
        synthesis_kwargs={"channel_base": 256, "channel_max": 24},
    )
    G = G.eval().requires_grad_(False).to(backend.device)
    z = torch.randn(2, 8, device=backend.device)
    exact = G(z, None)
    calls = []
    forward = native.block_forward
    monkeypatch.setattr(
        native, "block_forward", lambda *args, **kwargs: calls.append(1) or forward(*args, **kwargs)
    )
    image = G(z, None, dtype=torch.bfloat16)
    assert len(calls) == len(G.synthesis.blocks())
    monkeypatch.setattr(native, "supports", lambda *args, **kwargs: "not now")
    assert_close_to_ref(image, G(z, None, dtype=torch.bfloat16), exact, name=preset)
