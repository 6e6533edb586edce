"""`render(ws, points=...)` of every continuous preset: the F of the grids, and its gradients."""

from __future__ import annotations

import copy
from fractions import Fraction

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from networks import build_generator
from networks.lattice import Sampling, grid_points, snap
from networks.levels import FARTHEST_POINT, point_levels
from networks.presets import PRESETS
from networks.published_config import published_cfg
from networks.render import render_points

CONTINUOUS = [name for name, preset in PRESETS.items() if preset.continuous]
ANY_SHAPE = [name for name in CONTINUOUS if PRESETS[name].any_shape]
CLOSE = {"rtol": 0, "atol": 2e-5}  # sums in another order; values are of the order of 1
# How far the next smooth piece may be for a difference quotient, in images.
STEP = 1e-7


def options_of(preset):
    """Few channels and table entries; several lattices wherever the preset has more than one."""
    found = {"channel_base": 512, "channel_max": 12}
    if "published" in preset:
        cfg = published_cfg(PRESETS[preset].synthesis_kwargs["upsampling"])
        cfg["input"]["resolution"] = 8
        for coords in (cfg["coords"], cfg["input"]["coord_fuser_cfg"]):
            for entry in coords["res_configs"].values():
                entry.update(const_emb_size=4, random_emb_size=3)
        found["cfg"] = cfg
    elif preset == "inr-gan-vanilla":
        found.update(num_blocks=3, frequencies=(6, 6, 6), layers_per_block=(2, 2, 2), rgb_from=1)
    elif preset in ("inr-fourier", "inr-fmm"):
        found["num_frequencies"] = 8
    return found


def make_network(preset, height=32, width=32):
    torch.manual_seed(1)
    shape = {"img_shape": (3, height, width)} if preset in ANY_SHAPE else {}
    generator = build_generator(
        preset,
        z_dim=8,
        c_dim=0,
        w_dim=8,
        img_resolution=max(height, width),
        img_channels=3,
        mapping_kwargs={"num_layers": 2},
        synthesis_kwargs={**options_of(preset), **shape},
    )
    for name, parameter in generator.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter.data)
    return generator.eval().requires_grad_(False)


@pytest.fixture(scope="module", params=CONTINUOUS)
def network(request):
    return make_network(request.param)


@pytest.fixture(scope="module")
def exact(network):
    """The synthesis network in float64."""
    return copy.deepcopy(network.synthesis).double()


def make_ws(network, n=2):
    return network.mapping(torch.randn(n, 8, generator=torch.Generator().manual_seed(2)), None)


def points_of_grid(synthesis, region, size):
    """The sample points of a render, row by row, float64 [H W, 2]."""
    x0, y0, x1, y1 = map(snap, region)
    offset = synthesis.sampling.offset
    x = torch.from_numpy(grid_points(x0, x1, size[1], offset).values())
    y = torch.from_numpy(grid_points(y0, y1, size[0], offset).values())
    return torch.stack(torch.broadcast_tensors(x[None, :], y[:, None]), -1).reshape(-1, 2)


def random_points(*shape, seed=3):
    """Points in and around the unit square."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, 2, generator=generator, dtype=torch.float64) * 1.6 - 0.3


@pytest.mark.parametrize(
    "region,size",
    [((0, 0, 1, 1), (32, 32)), ((0, 0, 1, 1), (7, 5)), ((-0.4, 0.3, 1.7, 0.9), (9, 11))],
)
def test_points_of_a_grid_have_the_values_of_the_grid(network, region, size):
    ws = make_ws(network)
    image = network.synthesis.render(ws, region, size)
    points = points_of_grid(network.synthesis, region, size)
    values = network.synthesis.render(ws, points=points)
    assert values.shape == (2, 3, size[0] * size[1]) and values.dtype == torch.float32
    torch.testing.assert_close(values, image.flatten(2), **CLOSE)


@pytest.mark.parametrize("preset", ANY_SHAPE)
def test_points_of_images_of_any_shape(preset):
    # 98 = 2 * 49: in float64, 2/98 * 49 is less than 1.
    network = make_network(preset, height=12, width=98)
    ws = make_ws(network, 1)
    points = points_of_grid(network.synthesis, (0, 0, 1, 1), (12, 98))
    values = network.synthesis.render(ws, points=points)
    torch.testing.assert_close(values, network.synthesis(ws).flatten(2), **CLOSE)


def test_images_with_points_of_their_own(network):
    ws, points = make_ws(network, 3), random_points(3, 10)
    values = network.synthesis.render(ws, points=points)
    for index in range(3):
        alone = network.synthesis.render(ws, points=points[index])[index]
        torch.testing.assert_close(values[index], alone, **CLOSE)
    single = network.synthesis.render(ws[:1], points=points[:1].float())
    assert single.shape == (1, 3, 10)


def test_gradient_with_respect_to_points_is_that_of_the_smooth_piece(network, exact):
    """Against differences in float64: the whole slope if F is smooth, else within the cell."""
    ws, points = make_ws(network).double(), random_points(2, 12).requires_grad_()
    weights = torch.randn(2, 3, 12, dtype=torch.float64)

    def value(p):
        return (exact.render(ws, points=p) * weights).sum((0, 1) if p.ndim == 2 else 1)

    (gradient,) = torch.autograd.grad(value(points).sum(), points)
    with torch.no_grad():
        for axis in range(2):
            shift = torch.zeros(2, dtype=torch.float64)
            shift[axis] = STEP
            slope = (value(points + shift) - value(points - shift)) / (2 * STEP)
            torch.testing.assert_close(gradient[..., axis], slope, rtol=1e-5, atol=1e-5)
    assert gradient.abs().min() > 0


@pytest.mark.parametrize("preset", ["inr-gan-bil", "inr-gan-bil-published"])
def test_bilinear_images_change_with_what_lies_below(preset):
    """The weights of the taps carry a gradient: with a last block that reads no coordinates."""
    exact = make_network(preset).synthesis.double()
    last = exact.blocks()[-1]
    layer = last.layers[0] if preset == "inr-gan-bil" else last.conv0
    layer.weight.data[:, last.in_channels :] = 0
    ws = torch.randn(2, exact.num_ws, 8, dtype=torch.float64)
    points = random_points(6).requires_grad_()
    value = exact.render(ws, points=points)[:, 1].sum(0)
    (gradient,) = torch.autograd.grad(value.sum(), points)
    shifted = points.detach() + torch.tensor([STEP, 0.0], dtype=torch.float64)
    slope = (exact.render(ws, points=shifted)[:, 1].sum(0) - value.detach()) / STEP
    torch.testing.assert_close(gradient[:, 0], slope, rtol=1e-4, atol=1e-4)
    assert gradient.abs().min() > 0


def test_nearest_images_are_flat_but_for_the_last_block():
    exact = make_network("inr-gan").synthesis.double()
    exact.blocks()[-1].layers[0].weight.data[:, exact.blocks()[-1].in_channels :] = 0
    ws = torch.randn(1, exact.num_ws, 8, dtype=torch.float64)
    points = random_points(6).requires_grad_()
    (gradient,) = torch.autograd.grad(exact.render(ws, points=points).sum(), points)
    assert not gradient.any()


def test_second_derivatives_of_smooth_images():
    """Activations are piecewise linear: what bends F are its waves."""
    exact = make_network("inr-fmm").synthesis.double()
    ws, point = torch.randn(1, exact.num_ws, 8).double(), random_points(1)

    def value(p):
        return exact.render(ws, points=p).sum()

    hessian = torch.autograd.functional.hessian(value, point)[0, :, 0, :]
    step = torch.tensor([[1e-5, 0.0]], dtype=torch.float64)
    around = torch.stack([value(point - step), value(point), value(point + step)])
    second = (around[0] - 2 * around[1] + around[2]) / 1e-10
    torch.testing.assert_close(hessian[0, 0], second, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(hessian[0, 1], hessian[1, 0])


def test_gradient_with_respect_to_ws(network, exact):
    ws = make_ws(network).double().requires_grad_()
    points = points_of_grid(exact, (0, 0, 1, 1), (8, 8))
    weights = torch.randn(2, 3, 64, dtype=torch.float64)
    at_points = torch.autograd.grad((exact.render(ws, points=points) * weights).sum(), ws)[0]
    on_grid = (exact.render(ws, size=8).flatten(2) * weights).sum()
    torch.testing.assert_close(at_points, torch.autograd.grad(on_grid, ws)[0], rtol=1e-5, atol=1e-6)
    assert at_points.abs().sum() > 0


def test_order_of_points_and_size_of_chunks_do_not_matter(network):
    ws, points = make_ws(network), random_points(101)
    values = network.synthesis.render(ws, points=points)
    order = torch.randperm(101)
    chunks = network.synthesis.render(ws, points=points[order], tile_budget=2**14)
    torch.testing.assert_close(chunks, values[:, :, order], **CLOSE)


class _LargestTensor(TorchDispatchMode):
    """Records the largest number of bytes that any operation returned."""

    nbytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.nbytes = max(self.nbytes, tensor.untyped_storage().nbytes())
        return result


def test_memory_is_bounded_by_the_budget(network):
    ws, points = make_ws(network), random_points(6000)
    with _LargestTensor() as record:
        render_points(network.synthesis, ws, points, tile_budget=2**18)
    # Apart from the result (2 x 3 x 6000 x 4 bytes), which is smaller than that.
    assert record.nbytes <= 2**18
    with _LargestTensor() as record:
        render_points(network.synthesis, ws, points, tile_budget=2**24)
    assert record.nbytes > 2**18


@pytest.mark.parametrize("upsampling,taps", [("nearest", 1), ("bilinear", 4)])
def test_only_cells_that_are_read_are_evaluated(upsampling, taps):
    sampling = Sampling(upsampling)
    near = torch.tensor([[0.30, 0.30], [0.301, 0.301]], dtype=torch.float64)
    levels = point_levels(near, ((8, 16), (8, 16)), sampling)
    assert [level.num_points() for level in levels] == [taps, 2]
    assert levels[1].reads.index.shape == (2, taps)
    far = torch.tensor([[0.3, -1000.3], [1000.3, 0.301]], dtype=torch.float64)
    levels = point_levels(far, ((8, 16), (8, 16)), sampling)
    assert [level.num_points() for level in levels] == [2 * taps, 2]
    for row, cell in zip(levels[1].reads.index.tolist(), far.tolist()):
        centres = levels[0].points[row]
        assert (centres - torch.tensor(cell)).abs().max() <= 0.125


@pytest.mark.parametrize("upsampling", ["nearest", "bilinear"])
def test_cells_read_each_other_exactly(upsampling):
    """49 cells over 98: the sample point of cell 2 c, corner 2 c / 98, lies in cell c of 49."""
    sampling = Sampling(upsampling, Fraction(0))
    points = points_of_grid(type("S", (), {"sampling": sampling}), (0, 0, 1, 1), (1, 196))
    levels = point_levels(points, ((1, 1, 1), (49, 98, 196)), sampling)
    above, below = levels[1], levels[0]
    reads = (above.reads.weight[..., None] * below.points[above.reads.index]).sum(1)
    expected = above.x if upsampling == "bilinear" else (above.x * 98 / 2 + 1e-9).floor() / 49
    torch.testing.assert_close(reads[:, 0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "kwargs,error,words",
    [
        ({"points": torch.zeros(5)}, ValueError, r"\[P, 2\] or \[N, P, 2\].*\[5\]"),
        ({"points": torch.zeros(5, 3)}, ValueError, r"\[5, 3\]"),
        ({"points": torch.zeros(0, 2)}, ValueError, "at least 1"),
        ({"points": torch.zeros(3, 5, 2)}, ValueError, "for 3 images, but ws for 2"),
        ({"points": torch.full([5, 2], torch.nan)}, ValueError, "finite"),
        ({"points": torch.full([5, 2], FARTHEST_POINT * 1.01)}, ValueError, "images away"),
        ({"points": torch.zeros(5, 2).long()}, TypeError, "int64"),
        ({"points": [[0.5, 0.5]]}, TypeError, "got list"),
        ({"points": torch.zeros(5, 2), "size": 4}, ValueError, "do not go together"),
        ({"points": torch.zeros(5, 2), "lod": "scaled"}, ValueError, "do not go together"),
        ({"points": torch.zeros(5, 2), "region": (0, 0, 2, 1)}, ValueError, "do not go together"),
    ],
)
def test_refuses_what_are_no_points(network, kwargs, error, words):
    with pytest.raises(error, match=words):
        network.synthesis.render(make_ws(network), **kwargs)
