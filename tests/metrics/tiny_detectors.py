"""Tiny TorchScript files with the calling conventions of the public feature detectors.

`make(folder)` writes `inception-2015-12-05.pt` and `vgg16.pt`, a hundred kilobytes at most, with
the same weights in every run. They take uint8 or floating point images in [0, 255], [N, 3, H, W] of
any size, and tell images apart, but mean nothing.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUM_FEATURES = 16
NUM_CLASSES = 10


def _weight(seed: int, rows: int, columns: int) -> nn.Parameter:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return nn.Parameter(values / columns**0.5)


class TinyInception(nn.Module):
    """`inception-2015-12-05.pt`: features, or class probabilities with or without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.features = _weight(0, NUM_FEATURES, 3 * 16)
        self.logits = _weight(1, NUM_CLASSES, NUM_FEATURES)
        self.bias = _weight(2, 1, NUM_CLASSES)

    def forward(
        self,
        img: Tensor,
        return_features: bool = False,
        use_fp16: bool = False,
        no_output_bias: bool = False,
    ) -> Tensor:
        """[N, 16] features, or [N, 10] probabilities, float32."""
        x = F.adaptive_avg_pool2d(img.to(torch.float64) / 128 - 1, [4, 4]).flatten(1)
        x = torch.tanh(2 * F.linear(x, self.features))
        if return_features:
            return x.to(torch.float32)
        x = 4 * F.linear(x, self.logits)
        if not no_output_bias:
            x = x + self.bias
        return x.softmax(dim=1).to(torch.float32)


class TinyVGG16(nn.Module):
    """`vgg16.pt`: probabilities, features, or features whose squared distance is LPIPS."""

    def __init__(self) -> None:
        super().__init__()
        self.features = _weight(3, NUM_FEATURES, 3 * 64)
        self.lpips = _weight(4, 2 * NUM_FEATURES, 3 * 64)

    def forward(
        self,
        img: Tensor,
        resize_images: bool = True,
        return_features: bool = False,
        return_lpips: bool = False,
    ) -> Tensor:
        """[N, 16] features or probabilities, or [N, 32] for LPIPS, float32."""
        x = img.to(torch.float64) / 128 - 1
        if resize_images:
            x = F.interpolate(x, [32, 32], mode="bilinear", align_corners=False)
        x = F.adaptive_avg_pool2d(x, [8, 8]).flatten(1)
        if return_lpips:
            return torch.tanh(F.linear(x, self.lpips)).to(torch.float32)
        x = torch.tanh(2 * F.linear(x, self.features))
        if not return_features:
            x = x.softmax(dim=1)
        return x.to(torch.float32)


def make(folder: str | os.PathLike[str]) -> dict[str, str]:
    """Write both files.

    Args:
        folder: Is created if it is not there.

    Returns:
        Detector name -> path, as `--detector` and `load_detector(overrides=...)` take it.
    """
    os.makedirs(folder, exist_ok=True)
    paths = {}
    for name, module in (("inception-2015-12-05", TinyInception()), ("vgg16", TinyVGG16())):
        paths[name] = str(Path(folder, f"{name}.pt"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated, the public files use it
            torch.jit.script(module.eval()).save(paths[name])
    return paths
