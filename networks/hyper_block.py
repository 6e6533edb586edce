"""One lattice of the paper's hypernetwork generators: coordinate features, layers, to-RGB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from networks.hyper_layers import HYPER_LAYERS, HyperStep, HyperWeights
from networks.layers import block_dtype, check_choice
from networks.levels import GridLevel, PointLevel
from ops.inr_layer import CoordFeatures, inr_layer, lattice_upsample

STEP_MODES = ("coords", "plain", "concat", "add")
"""What a step reads: coordinate features only, the features below only, or both, as one layer on
their concatenation or as two layers whose outputs are added."""


class HyperBlockWeights(NamedTuple):
    """The weights of one block for a batch of images, made from its pieces of theta.

    Attributes:
        rows: Frequencies [N, k, 2] in radians per unit of x and y; None = no Fourier features.
        steps: Weight and bias of every step.
        rgb: Those of to-RGB; None = the block has none.
    """

    rows: Tensor | None
    steps: tuple[HyperWeights, ...]
    rgb: HyperWeights | None


class HyperBlock(nn.Module):
    """A few 1x1 layers with relu at the points of one lattice.

    Args:
        in_channels: Channels of the block below; 0 = first block.
        out_channels: Channels of all layers.
        resolution: R_k, lattice cells along the longer side at training size.
        img_shape: (C, H, W) of the training images.
        modes: What each step reads, see `STEP_MODES`; "coords" for the first step of the first
            block and no other.
        num_frequencies: k frequencies emitted by the hypernetwork, coordinate features
            [sin W p, cos W p]; 0 = the first step reads (x, y) and its output is the feature.
        fourier_scale: Factor of the emitted frequencies.
        rgb_gain: Factor of the scale sqrt(2 / out_channels) of to-RGB; 0 = no to-RGB.
        kind: A name of `HYPER_LAYERS`.
        kind_kwargs: Further arguments of the layers.
        bias_factor: Scale of biases relative to weights.
        conv_clamp: Clamp of the layers' outputs; None = no clamp.
        use_fp16: Whether the block runs in float16 where the device gains from it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        resolution: int,
        img_shape: Sequence[int],
        modes: Sequence[str],
        num_frequencies: int,
        fourier_scale: float = 10.0,
        rgb_gain: float = 1.0,
        kind: str = "fmm",
        kind_kwargs: Mapping[str, Any] | None = None,
        bias_factor: float = 0.2,
        conv_clamp: float | None = None,
        use_fp16: bool = False,
    ) -> None:
        super().__init__()
        for mode in modes:
            check_choice(mode, STEP_MODES, "mode of a step")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.resolution = resolution
        self.img_shape = tuple(img_shape)
        self.img_channels = img_shape[0]
        self.modes = tuple(modes)
        self.num_frequencies = num_frequencies
        self.fourier_scale = fourier_scale
        self.conv_clamp = conv_clamp
        self.use_fp16 = use_fp16
        self.num_conv = len(modes)  # ws that the block reads; to-RGB shares the last one
        self.num_torgb = 0
        kind_kwargs = dict(kind_kwargs or {})
        steps, channels = [], in_channels
        for index, mode in enumerate(self.modes):
            coord_channels = self._coord_channels(index) if mode != "plain" else 0
            join = "add" if mode == "add" else "concat"
            steps.append(
                HyperStep(
                    channels, coord_channels, out_channels, kind, kind_kwargs, join, bias_factor
                )
            )
            channels = out_channels
        self.steps = nn.ModuleList(steps)
        self.torgb = None
        if rgb_gain > 0:
            scale = rgb_gain * (2 / out_channels) ** 0.5
            layer = HYPER_LAYERS["shared" if kind == "shared" else "direct"]
            self.torgb = layer(out_channels, self.img_channels, scale, bias_factor * scale)

    def _coord_channels(self, step: int) -> int:
        if self.num_frequencies:
            return 2 * self.num_frequencies
        return 2 if step == 0 else self.out_channels

    def theta_sizes(self) -> list[tuple[int, int]]:
        """(length, index of the step whose w it is computed from) of each piece of theta."""
        sizes = [(2 * self.num_frequencies, 0)]
        sizes += [(step.num_theta, index) for index, step in enumerate(self.steps)]
        if self.torgb is not None:
            sizes.append((self.torgb.num_theta, len(self.steps) - 1))
        return sizes

    def compose(self, pieces: Sequence[Tensor]) -> HyperBlockWeights:
        """Makes the block's weights from its pieces of theta, each [N, length]."""
        rows = None
        if self.num_frequencies:
            rows = pieces[0].unflatten(1, (self.num_frequencies, 2)) * self.fourier_scale
        steps = tuple(step(piece) for step, piece in zip(self.steps, pieces[1:]))
        rgb = None if self.torgb is None else self.torgb(pieces[-1])
        return HyperBlockWeights(rows, steps, rgb)

    def live_channels(self, num_activations: int) -> int:
        """Channels alive at once: some activations of a layer, and the features being made."""
        # Angles and their sines and cosines exist next to the concatenated result.
        features = 5 * self.num_frequencies or self.out_channels
        return num_activations * self.out_channels + features

    def forward(
        self,
        weights: HyperBlockWeights,
        x: Tensor | None,
        img: Tensor | None,
        level: GridLevel | PointLevel,
        force_fp32: bool = False,
        dtype: torch.dtype | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Evaluates the block at the points of a level.

        Args:
            weights: Result of `compose`.
            x: Features of the block below [N, I, h, w]; None for the first block.
            img: Sum of the to-RGBs below [N, C, h, w], float32; None if there is none.
            level: H x W points and their taps into the block below (P single points: H = 1).
            force_fp32: Run in float32; wins over `dtype`.
            dtype: Precision of this call; None = the block's own.

        Returns:
            Features [N, O, H, W] and the sum of the to-RGBs [N, C, H, W] (float32), or None.
        """
        device, stored = weights.steps[0].weight.device, weights.steps[0].weight.dtype
        dtype = block_dtype(dtype, self.use_fp16, stored, device, force_fp32)
        taps = level.taps(device)
        coords = self._coords(weights, level)
        # Coordinates themselves do not survive a few bits; their sines do.
        first_dtype = dtype if self.num_frequencies else stored
        for index, (mode, (weight, bias)) in enumerate(zip(self.modes, weights.steps)):
            step_dtype = first_dtype if index == 0 else dtype
            coords = coords.to_dtype(step_dtype)
            x = inr_layer(
                weight.to(step_dtype),
                None if mode == "coords" else x.to(step_dtype),
                bias.to(step_dtype),
                taps=taps if index == 0 else None,
                coords=None if mode == "plain" else coords,
                act="relu",
                gain=1,
                clamp=self.conv_clamp,
            )
            if index == 0 and not self.num_frequencies:
                coords = CoordFeatures(own=x)
        x = x.to(dtype)
        if img is not None:
            img = lattice_upsample(img, *taps)
        if weights.rgb is not None:
            rgb = inr_layer(weights.rgb.weight.to(dtype), x).to(stored)
            rgb = rgb + weights.rgb.bias[:, :, None, None]
            img = rgb if img is None else rgb + img
        return x, img

    def _coords(self, weights: HyperBlockWeights, level: GridLevel | PointLevel) -> CoordFeatures:
        """Features of the level's points, in the parameters' precision but at least float32.

        x and y count in units of the shorter side, so that pixels of any image are square.
        """
        _, height, width = self.img_shape
        shorter = min(height, width)
        like = weights.steps[0].weight
        precision = torch.promote_types(like.dtype, torch.float32)
        x, y = (
            torch.as_tensor(p * (side / shorter)).to(precision).to(like.device)
            for p, side in ((level.x, width), (level.y, height))
        )
        if weights.rows is None:
            return CoordFeatures(shared=torch.stack(torch.broadcast_tensors(*level.mesh(x, y))))
        return CoordFeatures(own=level.waves(x, y, weights.rows.to(precision)))
