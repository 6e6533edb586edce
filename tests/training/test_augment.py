"""AugmentPipe against golden numbers, its matrices, probabilities, fast paths and gradients."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.golden_files import load
from training import augment, augment_warp
from training.augment import AugmentPipe, wavelets
from training.augment_transforms import filter_separable, wavelet_filter_bank

GEOMETRY = ("xflip", "rotate90", "xint", "scale", "rotate", "aniso", "xfrac")
COLOR = ("brightness", "contrast", "lumaflip", "hue", "saturation")
BGC = dict.fromkeys(GEOMETRY + COLOR, 1)


def relative_error(x, y) -> float:
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    return float(np.sqrt(((x - y) ** 2).mean() / (y**2).mean()))


def smooth_image(height: int, width: int, channels: int = 3) -> torch.Tensor:
    """A picture without symmetry and without high frequencies, [1, C, H, W]."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    waves = [torch.sin(2 * x + k) * torch.cos(3 * y - 2 * k) + x for k in range(channels)]
    return torch.stack(waves)[None]


# Wavelets


def daubechies(moments: int) -> list[tuple[np.ndarray, float]]:
    """All real orthogonal low-pass filters with 2 `moments` taps, by spectral factorisation.

    Each comes with the largest deviation of its phase from a straight line. The zeros at -1, whose
    phase is straight, are left out of that, as the response is all rounding error near them.
    """
    p = [math.comb(moments - 1 + k, k) for k in range(moments)]
    pairs = []  # one entry per real root or pair of conjugate roots, inside the unit circle
    for y in np.roots(p[::-1]):
        if y.imag < -1e-9:
            continue
        roots = np.roots([1, 4 * y - 2, 1])
        z = roots[np.abs(roots) < 1][0]
        pairs.append([z, z.conjugate()] if y.imag > 1e-9 else [z.real])
    filters = []
    for mirror in itertools.product([False, True], repeat=len(pairs)):
        zeros = [1 / z if flip else z for flip, pair in zip(mirror, pairs) for z in pair]
        h = np.real(np.poly([-1] * moments + zeros))
        rest = np.real(np.poly(zeros))
        w = np.linspace(0, np.pi, 512)
        phase = np.unwrap(np.angle(np.exp(-1j * np.outer(w, np.arange(len(rest)))) @ rest))
        phase -= phase[0]
        deviation = np.abs(phase - phase[-1] * w / np.pi).max()
        filters.append((h * math.sqrt(2) / h.sum(), deviation))
    return filters


@pytest.mark.parametrize("name", sorted(wavelets))
def test_wavelet_is_orthogonal_with_all_vanishing_moments(name):
    h = np.array(wavelets[name])
    moments = len(h) // 2
    assert name == "haar" or moments == int(name.lstrip("dbsym"))
    for shift in range(moments):
        product = h[2 * shift :] @ h[: len(h) - 2 * shift]
        assert product == pytest.approx(float(shift == 0), abs=1e-14)
    n = np.arange(len(h)) - moments
    for k in range(moments):
        terms = (-1.0) ** n * n**k * h
        assert abs(terms.sum()) <= 1e-13 * np.abs(terms).sum() + 1e-15


@pytest.mark.parametrize("moments", range(2, 9))
def test_wavelets_are_the_extremal_and_the_most_linear_phase_factors(moments):
    filters = daubechies(moments)
    np.testing.assert_allclose(wavelets[f"db{moments}"], filters[0][0][::-1], atol=1e-6)
    best = min(filters, key=lambda pair: pair[1])[0]
    sym = np.array(wavelets[f"sym{moments}"])
    assert min(np.abs(sym - best).max(), np.abs(sym - best[::-1]).max()) < 1e-6


def test_filter_bank_splits_an_impulse():
    bank = wavelet_filter_bank(wavelets["sym2"])
    impulse = np.eye(1, 43, 21)[0]
    np.testing.assert_allclose(bank.sum(axis=0), impulse, atol=1e-14)
    np.testing.assert_allclose(bank.sum(axis=1), [1, 0, 0, 0], atol=1e-12)
    np.testing.assert_allclose(bank, bank[:, ::-1], atol=1e-15)


# Golden numbers


def golden_cases() -> list[str]:
    return sorted(key for key in load("augment_debug_percentile") if "@" in key)


@pytest.mark.parametrize("case", golden_cases())
def test_golden_debug_percentile(case):
    golden = load("augment_debug_percentile")
    name, percentile = case.split("@")
    pipe = AugmentPipe(**(BGC if name == "bgc" else {name: 1}))
    pipe.p.fill_(0.3)  # has no say where a percentile is given
    images = pipe(torch.as_tensor(golden["images"]), debug_percentile=float(percentile))
    assert relative_error(images, golden[case]) < 1e-5


def test_golden_filters():
    golden = load("augment_debug_percentile")
    pipe = AugmentPipe()
    assert relative_error(pipe.Hz_geom, golden["Hz_geom"]) < 1e-6
    assert relative_error(pipe.Hz_fbank, golden["Hz_fbank"]) < 1e-6


# Geometry


def composed_by_helpers(pipe: AugmentPipe, q: float, h: int, w: int) -> torch.Tensor:
    """The map from output to input positions at percentile q, from the table of transforms."""
    normal = float(torch.erfinv(torch.tensor(2 * q - 1)))
    scale, stretch = 2 ** (normal * pipe.scale_std), 2 ** (normal * pipe.aniso_std)
    shift = round((2 * q - 1) * pipe.xint_max * w), round((2 * q - 1) * pipe.xint_max * h)
    m = augment.scale2d_inv(1 - 2 * math.floor(2 * q), 1)
    m = m @ augment.rotate2d(math.pi / 2 * math.floor(4 * q))
    m = m @ augment.translate2d_inv(*shift)
    m = m @ augment.scale2d_inv(scale, scale)
    m = m @ augment.rotate2d((2 * q - 1) * math.pi * pipe.rotate_max)
    m = m @ augment.scale2d_inv(stretch, 1 / stretch)
    return m @ augment.translate2d_inv(normal * pipe.xfrac_std * w, normal * pipe.xfrac_std * h)


@pytest.mark.parametrize("q", [0.05, 0.3, 0.5, 0.7, 0.9])
def test_geometry_composes_the_inverse_transforms(q):
    pipe = AugmentPipe(**BGC)
    linear, offset = pipe._draw_geometry(torch.zeros(2, 3, 20, 28), q)
    m = composed_by_helpers(pipe, q, h=20, w=28)
    torch.testing.assert_close(linear[1], m[:2, :2], atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(offset[1], m[:2, 2], atol=2e-5, rtol=1e-5)


def test_inverses_and_3d_helpers():
    eye = torch.eye(3)
    for name, args in (("translate2d", (2.0, -3.0)), ("scale2d", (2.0, 0.5)), ("rotate2d", (0.7,))):
        product = getattr(augment, name)(*args) @ getattr(augment, f"{name}_inv")(*args)
        torch.testing.assert_close(product, eye, atol=1e-6, rtol=0)
    grey = torch.tensor([1.0, 1.0, 1.0, 0.0]) / math.sqrt(3)
    turned = augment.rotate3d(grey, torch.tensor([2 * math.pi / 3, 0.0]))
    red, green = torch.eye(4)[0], torch.eye(4)[1]
    torch.testing.assert_close(turned @ red, torch.stack([green, red]), atol=1e-6, rtol=0)
    moved = augment.translate3d(1, 2, 3) @ augment.scale3d(2, 3, 4) @ torch.ones(4)
    assert moved.tolist() == [3, 5, 7, 1]
    assert augment.matrix([1, torch.zeros(5)], [2, 3]).shape == (5, 2, 2)
    with pytest.raises(ValueError, match=r"\[2, 1\]"):
        augment.matrix([1, 2], [3])


@pytest.mark.parametrize(("q", "turns"), [(0.3, 1), (0.6, 2), (0.9, 3)])
def test_rotate90_is_rot90(q, turns):
    image = smooth_image(24, 24)
    turned = AugmentPipe(rotate90=1)(image, debug_percentile=q)
    # Not exact, as the filter is not symmetric; other turns are off by more than 1.
    error = (turned - torch.rot90(image, turns, (2, 3)))[:, :, 6:-6, 6:-6].abs().max()
    assert error < 0.02


def test_integer_shift_is_exact_inside():
    image = torch.randn(1, 3, 32, 32)
    shifted = AugmentPipe(xint=1)(image, debug_percentile=0.999)  # 4 pixels right and down
    torch.testing.assert_close(shifted[:, :, 4:, 4:], image[:, :, :-4, :-4], atol=1e-5, rtol=0)


def test_scale_above_one_enlarges():
    image = torch.zeros(1, 1, 33, 33)
    image[:, :, 14:19, 14:19] = 1
    assert AugmentPipe(scale=1)(image, debug_percentile=0.95).sum() > 1.3 * image.sum()


@pytest.mark.parametrize("shape", [(24, 24), (17, 30), (72, 40)])
@pytest.mark.parametrize("channels", [1, 4])
def test_fast_cpu_warp_equals_the_definition(monkeypatch, shape, channels):
    pipe = AugmentPipe(**dict.fromkeys(GEOMETRY, 1))
    pipe.p.fill_(0.3)
    images = torch.randn(24, channels, *shape)
    linear, offset = pipe._draw_geometry(images, None)
    zeros = (linear == 0).sum(dim=(1, 2))
    assert (zeros == 2).any() and (zeros == 0).any() and (linear[:, 0, 0] == 0).any()
    fast = augment_warp.warp_affine(images, linear, offset, pipe.Hz_geom)

    monkeypatch.setattr(augment_warp, "_WARP_DENSE_MAX_SIZE", 0)
    margins = augment_warp._warp_margins(linear, offset, shape, taps=12).amax(dim=0).tolist()
    slow = augment_warp._warp_by_grid(images, linear, offset, pipe.Hz_geom, margins)
    # Both find sample positions of up to 200 in float32, with an error of 1e-5 of a pixel's
    # contrast.
    assert relative_error(fast, slow) < 2e-5


def test_image_does_not_depend_on_the_rest_of_the_batch():
    pipe = AugmentPipe(**dict.fromkeys(GEOMETRY, 1))
    images = torch.randn(6, 3, 20, 20)
    linear, offset = pipe._draw_geometry(images, None)
    together = augment_warp.warp_affine(images, linear, offset, pipe.Hz_geom)
    for n in range(6):
        one = slice(n, n + 1)
        alone = augment_warp.warp_affine(images[one], linear[one], offset[one], pipe.Hz_geom)
        assert relative_error(alone, together[one]) < 2e-5


# Colour, filter, noise, cutout


def test_luma_flip_and_hue():
    image = smooth_image(8, 8)
    flipped = AugmentPipe(lumaflip=1)(image, debug_percentile=0.7)
    torch.testing.assert_close(flipped, image - 2 * image.mean(dim=1, keepdim=True))
    turned = AugmentPipe(hue=1)(image, debug_percentile=0.5 + 1 / 3)  # +120 degrees: R -> G -> B
    torch.testing.assert_close(turned, image.roll(1, dims=1), atol=1e-6, rtol=0)


def test_grey_is_the_mean_of_the_grey_colour():
    image = torch.randn(3, 1, 8, 8)
    pipe = AugmentPipe(**dict.fromkeys(COLOR, 1))
    for q in 0.2, 0.8:
        grey = pipe(image, debug_percentile=q)
        rgb = pipe(image.expand(-1, 3, -1, -1), debug_percentile=q)
        torch.testing.assert_close(grey, rgb.mean(dim=1, keepdim=True), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_stays_under_colour_transforms(channels):
    image = torch.randn(3, channels, 8, 12)
    pipe = AugmentPipe(**dict.fromkeys(COLOR, 1))
    out = pipe(image, debug_percentile=0.8)
    assert torch.equal(out[:, -1], image[:, -1])
    assert torch.equal(out[:, :-1], pipe(image[:, :-1], debug_percentile=0.8))


def test_other_channel_counts():
    images = torch.randn(2, 5, 16, 16)
    assert AugmentPipe(rotate=1)(images).shape == images.shape
    with pytest.raises(ValueError, match="1 to 4 channels, got 5"):
        AugmentPipe(contrast=1)(images)


@pytest.mark.parametrize("turn", [0.25, 0.4])
def test_pixels_of_a_rectangle_stay_square_when_it_turns(turn):
    """A disk in the middle stays that disk; with sides mapped to sides it would be an ellipse."""
    y, x = (torch.arange(n).double() - (n - 1) / 2 for n in (24, 48))
    radius = (x.square() + y[:, None].square()).sqrt()
    disk = ((6 - radius) / 2).sigmoid()
    turned = AugmentPipe(rotate=1).double()(disk[None, None], debug_percentile=turn)[0, 0]
    inside = radius < 11  # beyond, the turned picture shows the reflected border
    torch.testing.assert_close(turned[inside], disk[inside], rtol=0, atol=0.02)


def test_quarter_turns_of_a_rectangle_keep_the_scale():
    image = smooth_image(16, 28)
    # Percentile 0.3 of four equally likely quarter turns is one turn.
    turned = AugmentPipe(rotate90=1)(image, debug_percentile=0.3)
    expected = torch.rot90(image[..., 6:22], 1, (2, 3))
    error = (turned[..., 6:22] - expected)[..., 2:-2, 2:-2].abs().max()
    assert turned.shape == image.shape and error < 0.03


@pytest.mark.parametrize("size", [1, 5, 22, 40])
def test_filter_continues_by_reflection(size):
    images = torch.randn(2, 3, size, size, dtype=torch.float64)
    half = torch.rand(2, 22, dtype=torch.float64)
    filters = torch.cat([half, half[:, :-1].flip(1)], dim=1)  # [2, 43], symmetric
    out = filter_separable(images, filters)
    padded = np.pad(images.numpy(), [(0, 0), (0, 0), (21, 21), (21, 21)], mode="reflect")
    expected = np.zeros(images.shape)
    for n, f in enumerate(filters.numpy()):
        along_x = np.apply_along_axis(np.convolve, 2, padded[n], f, "valid")
        expected[n] = np.apply_along_axis(np.convolve, 1, along_x, f, "valid")
    assert relative_error(out, expected) < 1e-12


def test_bands_that_are_off_stay():
    images = torch.randn(2, 3, 32, 32)
    pipe = AugmentPipe(imgfilter=1, imgfilter_bands=[0, 0, 0, 0])
    torch.testing.assert_close(pipe(images, debug_percentile=0.9), images, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="4 numbers"):
        AugmentPipe(imgfilter_bands=[1, 1])


def test_noise_strength():
    pipe = AugmentPipe(noise=1, noise_std=0.3)
    out = pipe(torch.zeros(2000, 1, 8, 8))
    # E[sigma^2] = noise_std^2, known to about sqrt(2 / 2000).
    assert out.square().mean().sqrt().item() == pytest.approx(0.3, rel=0.06)
    q = pipe(torch.zeros(500, 1, 8, 8), debug_percentile=0.4)
    assert q.std().item() == pytest.approx(0.3 * 0.3708, rel=0.03)


def test_cutout_blanks_the_rectangle_only():
    images = torch.ones(200, 2, 16, 16)
    out = AugmentPipe(cutout=1)(images)
    assert set(out.unique().tolist()) == {0.0, 1.0}
    blank = (out[:, 0] == 0).sum(dim=(1, 2))
    assert blank.max() == 64 and blank.min() >= 16  # the centre lies inside, a quarter remains


# Probabilities


@pytest.mark.parametrize(("name", "share"), [("xflip", 0.5), ("rotate", 1), ("xfrac", 1)])
def test_share_of_transformed_images(name, share):
    pipe = AugmentPipe(**{name: 0.8})
    pipe.p.fill_(0.5)
    linear, offset = pipe._draw_geometry(torch.zeros(4000, 1, 16, 16), None)
    moved = (linear != torch.eye(2)).any(dim=2).any(dim=1) | (offset != 0).any(dim=1)
    # Standard deviation 0.008.
    assert moved.float().mean().item() == pytest.approx(0.4 * share, abs=0.03)


def test_nothing_to_do_returns_the_input():
    images = torch.randn(2, 3, 8, 8)
    assert AugmentPipe()(images) is images
    pipe = AugmentPipe(**BGC)
    pipe.p.fill_(0)
    state = torch.get_rng_state()
    assert pipe(images) is images
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(pipe(images, debug_percentile=0.7), images)


def test_untouched_images_are_bit_exact():
    pipe = AugmentPipe(**dict.fromkeys(GEOMETRY, 1))
    pipe.p.fill_(0.05)
    images = torch.randn(32, 3, 16, 16)
    same = (pipe(images) == images).all(dim=3).all(dim=2).all(dim=1)
    assert 16 < same.sum() < 32


@given(seed=st.integers(0, 2**31), p=st.floats(0.05, 1))
def test_a_seed_determines_the_result(seed, p):
    pipe = AugmentPipe(**BGC, imgfilter=1, noise=1, cutout=1)
    pipe.p.fill_(p)
    images = torch.linspace(-1, 1, 2 * 3 * 144).reshape(2, 3, 12, 12)
    first, second = (pipe(images) for _ in range(2) if torch.manual_seed(seed))
    assert torch.equal(first, second) and first.isfinite().all()


def test_dtypes():
    pipe = AugmentPipe(**BGC, imgfilter=1, cutout=1)
    images = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    torch.manual_seed(1)
    exact = pipe(images)
    torch.manual_seed(1)
    single = pipe(images.float())
    assert exact.dtype == torch.float64 and relative_error(single, exact) < 3e-5
    assert pipe(images.half()).dtype == torch.float16
    with pytest.raises(ValueError, match="floating-point NCHW"):
        pipe(torch.zeros(3, 8, 8))
    with pytest.raises(ValueError, match="uint8"):
        pipe(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


# Gradients


def seeded(pipe: AugmentPipe):
    def run(images):
        torch.manual_seed(3)
        return pipe(images)

    return run


def test_gradcheck_and_gradgradcheck():
    pipe = AugmentPipe(**BGC, imgfilter=1, cutout=1)
    pipe.p.fill_(0.6)
    images = torch.randn(3, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    # fast_mode: a random projection of the Jacobian instead of all of it, 40 s less.
    assert torch.autograd.gradcheck(seeded(pipe), images, fast_mode=True)
    assert torch.autograd.gradgradcheck(seeded(pipe), images, fast_mode=True)


def test_r1_through_the_pipe_follows_the_formula():
    pipe = AugmentPipe(**BGC)
    run = seeded(pipe)
    images = torch.randn(2, 1, 6, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(36, dtype=torch.float64, requires_grad=True)
    # The pipe is affine: aug(x) = A x + b, so the gradient of sum w tanh(aug(x)) is A^T (w (1 -
    # tanh^2)).
    jacobian = torch.autograd.functional.jacobian(run, images).reshape(72, 72)
    inner = (weight * (1 - run(images).detach().reshape(2, 36).tanh().square())).reshape(72)
    expected_r1 = (jacobian.T @ inner).square().sum()
    (expected,) = torch.autograd.grad(expected_r1, weight)

    logits = (weight * run(images).reshape(2, 36).tanh()).sum()
    (grad,) = torch.autograd.grad(logits, images, create_graph=True)
    r1 = grad.square().sum()
    (got,) = torch.autograd.grad(r1, weight)
    torch.testing.assert_close(r1, expected_r1)
    torch.testing.assert_close(got, expected)
