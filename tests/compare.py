"""Comparison of tensors with tolerances that are earned, and messages that show the error."""

from __future__ import annotations

import torch

_EPS = 1e-30


def rms(x: torch.Tensor) -> float:
    """Root mean square, in float64; 0 for an empty tensor."""
    return x.detach().double().square().mean().sqrt().item() if x.numel() else 0.0


def relative_rms_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """RMS of the difference divided by the RMS of `expected`."""
    difference = actual.detach().double() - expected.detach().double()
    return rms(difference) / max(rms(expected), _EPS)


def assert_same_numbers(
    actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5, name: str = "result"
) -> None:
    """Equal shapes, finite values, relative RMS error at most `tolerance`."""
    assert actual.shape == expected.shape, f"{name}: {actual.shape} instead of {expected.shape}"
    assert torch.isfinite(actual).all(), f"{name}: not finite"
    if rms(expected) == 0:
        assert rms(actual) <= tolerance, f"{name}: RMS {rms(actual):.2e}, should be zero"
        return
    error = relative_rms_error(actual, expected)
    print(f"{name}: relative RMS error {error:.2e}, allowed {tolerance:.0e}")
    assert error <= tolerance, f"{name}: relative RMS error {error:.2e} > {tolerance:.0e}"


def assert_close_to_ref(
    actual: torch.Tensor,
    ref_same_dtype: torch.Tensor,
    ref_float64: torch.Tensor,
    *,
    ratio: float = 2.0,
    floor: float = 1e-6,
    name: str = "result",
) -> None:
    """A low-precision result may be `ratio` times as wrong as the definition at its precision.

    Args:
        actual: What is tested, in low precision.
        ref_same_dtype: The definition computed in the same precision.
        ref_float64: The definition computed in float64.
        ratio: Allowed multiple of the definition's own RMS error.
        floor: Relative RMS error that is always allowed, for definitions that happen to be exact.
        name: For the message.
    """
    assert actual.shape == ref_float64.shape, f"{name}: {actual.shape} vs {ref_float64.shape}"
    assert actual.dtype == ref_same_dtype.dtype, f"{name}: dtype {actual.dtype}"
    assert torch.isfinite(actual).all(), f"{name}: not finite"
    error = relative_rms_error(actual, ref_float64)
    allowed = ratio * relative_rms_error(ref_same_dtype, ref_float64) + floor
    print(f"{name}: relative RMS error {error:.2e}, allowed {allowed:.2e}")
    assert error <= allowed, f"{name}: relative RMS error {error:.2e} > {allowed:.2e}"


def assert_grad_close(
    actual: torch.Tensor,
    ref_same_dtype: torch.Tensor,
    ref_float64: torch.Tensor,
    *,
    ratio: float = 2.0,
    floor: float = 1e-6,
    cosine: float = 0.999,
    name: str = "gradient",
) -> None:
    """As `assert_close_to_ref`, and the gradient's direction and length are right.

    Errors that do not look like rounding show here: a cosine below `cosine` (wrong direction) or
    a length that is off by more than 1 - `cosine` (signed bias).
    """
    assert_close_to_ref(actual, ref_same_dtype, ref_float64, ratio=ratio, floor=floor, name=name)
    a, b = actual.detach().double().flatten(), ref_float64.detach().double().flatten()
    if rms(b) == 0:
        return
    similarity = (torch.dot(a, b) / (a.norm() * b.norm()).clamp_min(_EPS)).item()
    bias = (torch.dot(a, b) / torch.dot(b, b)).item() - 1
    print(f"{name}: cosine {similarity:.6f}, bias {bias:+.1e}")
    assert similarity >= cosine, f"{name}: cosine {similarity:.6f} < {cosine}"
    assert abs(bias) <= 1 - cosine, f"{name}: bias {bias:+.2e}"
