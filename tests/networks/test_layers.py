"""networks.layers: dense, convolution and modulated convolution against their formulas."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from networks.layers import (
    Conv2dLayer,
    FullyConnectedLayer,
    channels_at,
    check_shape,
    compute_dtype,
    first_fp16_resolution,
    resolution_log2,
)
from networks.modulated_conv import modulated_conv2d
from ops.upfirdn2d import setup_filter


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over the norm of the expected value."""
    return float((actual - expected).norm() / expected.norm())


def modulated_by_definition(x, weight, styles, demodulate):
    """One sample at a time, no resampling, "same" padding: equations 1 and 3 of the paper."""
    images = []
    for image, style in zip(x, styles, strict=True):
        w = weight * style[None, :, None, None]
        if demodulate:
            w = w / (w.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
        images.append(F.conv2d(image[None], w, padding=weight.shape[-1] // 2))
    return torch.cat(images)


@pytest.mark.parametrize("resolution", [0, 1, 2, 3, 12, 33, -8])
def test_refuses_sizes_that_are_no_power_of_two(resolution):
    with pytest.raises(ValueError, match=f"power of two and at least 4, not {resolution}"):
        resolution_log2(resolution)


def test_sizes_of_blocks():
    assert [resolution_log2(r) for r in (4, 8, 256)] == [2, 3, 8]
    assert [channels_at(r, 16384, 512) for r in (4, 32, 64, 128, 256)] == [512, 512, 256, 128, 64]
    assert [first_fp16_resolution(256, n) for n in (0, 1, 4, 9)] == [512, 256, 32, 8]
    with pytest.raises(ValueError, match="channel_base 16 .* resolution 32"):
        channels_at(32, 16, 512)


def test_float16_is_for_accelerators():
    half, single, cpu = torch.float16, torch.float32, torch.device("cpu")
    gpu = torch.device("cuda", 0)
    assert compute_dtype(half, single, cpu) == single
    assert compute_dtype(half, single, gpu) == half
    assert compute_dtype(half, single, gpu, force_fp32=True) == single
    assert compute_dtype(torch.bfloat16, single, cpu) == torch.bfloat16
    # The printout of train.py says so: float32 wherever there is no CUDA.
    assert compute_dtype(half, single, torch.device("mps")) == single


def test_check_shape_names_both_shapes():
    check_shape(torch.zeros(2, 3), (None, 3), "w")
    with pytest.raises(ValueError, match=r"w must have shape \[any, 4\], not \[2, 3\]"):
        check_shape(torch.zeros(2, 3), (None, 4), "w")
    with pytest.raises(ValueError, match="w must have shape"):
        check_shape(torch.zeros(2, 3, 1), (None, 3), "w")


@pytest.mark.parametrize("activation", ["linear", "lrelu"])
@pytest.mark.parametrize("bias", [True, False])
def test_fully_connected(activation, bias):
    layer = FullyConnectedLayer(
        6, 5, bias=bias, activation=activation, lr_multiplier=0.5, bias_init=1
    )
    assert type(layer.weight_gain) is float and type(layer.bias_gain) is float
    if bias:
        torch.testing.assert_close(layer.bias, torch.ones(5))
        layer.bias.data.normal_()
    x = torch.randn(4, 6)
    expected = x @ (layer.weight * 0.5 / math.sqrt(6)).t() + (layer.bias * 0.5 if bias else 0)
    if activation == "lrelu":
        expected = F.leaky_relu(expected, 0.2) * math.sqrt(2)
    torch.testing.assert_close(layer(x), expected)


def test_initial_weights_are_unit_normal_over_learning_rate_multiplier():
    weight = FullyConnectedLayer(200, 200, lr_multiplier=0.01).weight
    assert abs(float(weight.detach().std()) - 100) < 2
    assert abs(float(Conv2dLayer(64, 64, 3).weight.detach().std()) - 1) < 0.02


def test_conv_layer_gains_bias_and_clamp():
    layer = Conv2dLayer(3, 4, 3, activation="lrelu", conv_clamp=0.4)
    layer.bias.data.normal_()
    assert type(layer.weight_gain) is float and type(layer.act_gain) is float
    x = torch.randn(2, 3, 8, 8)
    y = F.conv2d(x, layer.weight / math.sqrt(27), layer.bias, padding=1)
    y = F.leaky_relu(y, 0.2) * math.sqrt(2)
    torch.testing.assert_close(layer(x), y.clamp(-0.4, 0.4))
    torch.testing.assert_close(layer(x, gain=0.5), (y * 0.5).clamp(-0.2, 0.2))


@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2)])
def test_conv_layer_output_size(kernel_size, up, down):
    layer = Conv2dLayer(3, 4, kernel_size, up=up, down=down)
    assert layer(torch.randn(2, 3, 8, 6)).shape == (2, 4, 8 * up // down, 6 * up // down)


def test_downsampling_1x1_may_filter_first():
    """A 1x1 convolution commutes with the filter, so it can run on a quarter of the pixels."""
    layer = Conv2dLayer(3, 4, 1, bias=False, down=2)
    plain = Conv2dLayer(3, 4, 1, bias=False)
    plain.weight = layer.weight
    kernel = torch.tensor([1.0, 3, 3, 1])
    kernel = torch.outer(kernel, kernel) / 64
    x = torch.randn(2, 3, 8, 8)
    low = F.conv2d(F.pad(plain(x), [1, 1, 1, 1]), kernel.expand(4, 1, 4, 4), stride=2, groups=4)
    torch.testing.assert_close(layer(x), low)


def test_frozen_conv_layer_keeps_its_names_as_buffers():
    layer = Conv2dLayer(3, 4, 3, trainable=False)
    assert not list(layer.parameters())
    assert set(layer.state_dict()) == {"weight", "bias", "resample_filter"}
    x = torch.randn(1, 3, 4, 4, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "shared"])
@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_modulated_conv_equals_definition(kernel_size, demodulate, fused):
    x, styles = torch.randn(3, 5, 6, 4), torch.randn(3, 5)
    weight = torch.randn(7, 5, kernel_size, kernel_size)
    y = modulated_conv2d(
        x, weight, styles, padding=kernel_size // 2, demodulate=demodulate, fused_modconv=fused
    )
    assert relative_error(y, modulated_by_definition(x, weight, styles, demodulate)) < 1e-6


@given(
    batch=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    kernel_size=st.sampled_from([1, 3]),
    up=st.sampled_from([1, 2]),
    demodulate=st.booleans(),
    noise=st.sampled_from([None, "const", "random"]),
)
def test_fused_equals_shared(batch, channels, kernel_size, up, demodulate, noise):
    x = torch.randn(batch, channels[0], 4, 4, dtype=torch.float64)
    weight = torch.randn(channels[1], channels[0], kernel_size, kernel_size, dtype=torch.float64)
    styles = torch.randn(batch, channels[0], dtype=torch.float64)
    size = 4 * up
    shapes = {None: None, "const": (size, size), "random": (batch, 1, size, size)}
    shape = shapes[noise]
    options = {
        "noise": None if shape is None else torch.randn(shape, dtype=torch.float64),
        "up": up,
        "padding": kernel_size // 2,
        "resample_filter": setup_filter([1, 3, 3, 1]),
        "demodulate": demodulate,
        "flip_weight": up == 1,
    }
    fused = modulated_conv2d(x, weight, styles, fused_modconv=True, **options)
    shared = modulated_conv2d(x, weight, styles, fused_modconv=False, **options)
    assert fused.shape == (batch, channels[1], size, size)
    torch.testing.assert_close(fused, shared, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "shared"])
@pytest.mark.parametrize("demodulate", [True, False])
def test_modulated_conv_gradients(fused, demodulate):
    def function(x, weight, styles, noise):
        return modulated_conv2d(
            x,
            weight,
            styles,
            noise,
            up=2,
            padding=1,
            resample_filter=setup_filter([1, 3, 3, 1]),
            demodulate=demodulate,
            flip_weight=False,
            fused_modconv=fused,
        )

    shapes = [(2, 2, 2, 2), (2, 2, 3, 3), (2, 2), (2, 1, 4, 4)]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "shared"])
def test_modulated_conv_stays_in_float16_range(fused):
    """Weights and styles of size 1e3 would overflow; demodulation makes the scale irrelevant."""
    x, styles = torch.randn(2, 32, 4, 4), torch.randn(2, 32)
    weight = torch.randn(8, 32, 3, 3)
    expected = modulated_by_definition(x, weight, styles, demodulate=True)
    y = modulated_conv2d(x.half(), weight * 1e3, styles * 1e3, padding=1, fused_modconv=fused)
    assert y.dtype == torch.float16
    # float16 has 11 significant bits: 5e-4 per rounding, a few of them.
    assert relative_error(y.float(), expected) < 2e-3


def test_modulated_conv_refuses_wrong_shapes():
    x, weight = torch.randn(2, 3, 4, 4), torch.randn(5, 3, 1, 1)
    with pytest.raises(ValueError, match=r"styles must have shape \[2, 3\], not \[1, 3\]"):
        modulated_conv2d(x, weight, torch.randn(1, 3))
    with pytest.raises(ValueError, match="x must have shape"):
        modulated_conv2d(x[:, :2], weight, torch.randn(2, 3))
