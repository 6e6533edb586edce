"""`ops.conv2d_resample`: numbers by hand, golden file, algebraic laws, messages."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ops.conv2d_resample import conv2d_resample
from ops.upfirdn2d import downsample2d, setup_filter, upsample2d
from tests.compare import assert_same_numbers
from tests.golden_files import arguments, cases

GOLDEN = dict(cases("conv2d_resample_filter1331"))
BLUR = setup_filter([1, 3, 3, 1])


def test_by_hand() -> None:
    x = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    w = torch.tensor([[[[10.0, 1.0]]]])
    assert conv2d_resample(x, w).tolist() == [[[[12, 23]]]]
    assert conv2d_resample(x, w, flip_weight=False).tolist() == [[[[21, 32]]]]
    padded = conv2d_resample(x, w, padding=[1, 0, 0, 0])
    assert padded.tolist() == [[[[1, 12, 23]]]]
    square, box = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), setup_filter([1, 1])
    assert conv2d_resample(square, w[:, :, :, :1], box, down=2).tolist() == [[[[25]]]]


@pytest.mark.parametrize("impl", ["auto", "ref", "cuda"])
@pytest.mark.parametrize("case", sorted(GOLDEN))
def test_golden(case: str, impl: str) -> None:
    data = GOLDEN[case]
    x, w = torch.from_numpy(data["x"]), torch.from_numpy(data["w"])
    y = conv2d_resample(x, w, BLUR, impl=impl, **arguments(data))
    assert_same_numbers(y, torch.from_numpy(data["y"]), 1e-6)


@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    up=st.integers(1, 3),
    down=st.integers(1, 3),
    padding=st.lists(st.integers(-1, 3), min_size=4, max_size=4),
    groups=st.sampled_from([1, 2]),
    flips=st.tuples(st.booleans(), st.booleans()),
    taps=st.sampled_from([None, [1, 2], [1, 2, 4], [1, 2, 4, 8]]),
)
def test_any_arguments_equal_the_definition(kernel, up, down, padding, groups, flips, taps) -> None:
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64)
    w = torch.randn(2, 4 // groups, *kernel, dtype=torch.float64)
    f = None if taps is None else setup_filter(taps, normalize=False)
    args = (x, w, f, up, down, padding, groups, *flips)
    assert_same_numbers(conv2d_resample(*args), conv2d_resample(*args, impl="ref"), 1e-12)


@given(up=st.integers(1, 3), down=st.integers(1, 3))
def test_a_1x1_kernel_mixes_channels_before_or_after(up, down) -> None:
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    w = torch.randn(4, 3, 1, 1, dtype=torch.float64)
    mixed = torch.einsum("oi,nihw->nohw", w[:, :, 0, 0], x)
    up_only = conv2d_resample(x, w, BLUR, up=up)
    assert torch.allclose(up_only, upsample2d(mixed, BLUR, up=up) if up > 1 else mixed)
    down_only = conv2d_resample(x, w, BLUR, down=down)
    assert torch.allclose(down_only, downsample2d(mixed, BLUR, down=down) if down > 1 else mixed)


@given(a=st.floats(-2, 2), up=st.integers(1, 2), down=st.integers(1, 2))
def test_bilinear(a, up, down) -> None:
    x1, x2 = torch.randn(2, 1, 2, 6, 6, dtype=torch.float64)
    w1, w2 = torch.randn(2, 3, 2, 3, 3, dtype=torch.float64)

    def op(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return conv2d_resample(x, w, BLUR, up=up, down=down, padding=1)

    assert torch.allclose(op(x1 + a * x2, w1), op(x1, w1) + a * op(x2, w1))
    assert torch.allclose(op(x1, w1 + a * w2), op(x1, w1) + a * op(x1, w2))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.ones(4, 4)}, ValueError, r"\[N, C, H, W\], got \[4, 4\]"),
        ({"w": torch.ones(2, 3, 1, 1)}, ValueError, r"got \[2, 3, 1, 1\]"),
        ({"w": torch.ones(3, 1, 1, 1), "groups": 2}, ValueError, "divisible by groups=2"),
        ({"w": torch.ones(2, 2, 1, 1).half()}, TypeError, "torch.float32, got torch.float16"),
        ({"up": 1.5}, ValueError, "up must be an int >= 1, got 1.5"),
        ({"down": 0}, ValueError, "down must be an int >= 1, got 0"),
        ({"f": torch.ones(2, 2).requires_grad_(), "up": 2}, ValueError, "no gradient for f"),
        ({"impl": "fast"}, ValueError, "got 'fast'"),
    ],
)
def test_messages(change: dict, error: type[Exception], message: str) -> None:
    args = {"x": torch.ones(1, 2, 4, 4), "w": torch.ones(2, 2, 1, 1)} | change
    with pytest.raises(error, match=message):
        conv2d_resample(**args)
