"""From one image to another: in z, in w, between the functions themselves, and between pixels.

Skorokhodov et al., "Adversarial Generation of Continuous Images", figure 5: since an image is a
function with weights theta, two images can be mixed by mixing their weights,
theta = (1 - a) theta_1 + a theta_2. For the paper's models theta is what the hypernetwork emits
(which is linear in w, so that the spaces theta and w agree there); for the other ones it is the
composed weights of all layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from analysis.subjects import Subject
from networks import sampling
from networks.render import render_image
from torch_utils.images import to_uint8

SPACES = ("z", "w", "theta", "pixels")


class _WithTheta:
    """A synthesis network that draws one given theta, for `networks.render`."""

    def __init__(self, synthesis: nn.Module, theta: Any) -> None:
        self._synthesis = synthesis
        self._theta = theta

    def __getattr__(self, name: str) -> Any:
        return getattr(self._synthesis, name)

    def compose(self, _ws: Tensor) -> Any:
        """The given theta, whatever the ws."""
        return self._theta


def blend(first: Any, second: Any, amount: float) -> Any:
    """(1 - amount) first + amount second, tensor by tensor.

    Args:
        first: A tensor, or None, or lists, tuples and named tuples of such.
        second: Of the same structure.
        amount: 0 = first, 1 = second.
    """
    if first is None:
        return None
    if isinstance(first, Tensor):
        return torch.lerp(first, second, amount)
    parts = [blend(a, b, amount) for a, b in zip(first, second, strict=True)]
    return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)


def blended_weights(synthesis: nn.Module, first: Tensor, second: Tensor, amount: float) -> Any:
    """The blend of two images' weights, ready for `evaluate`.

    Args:
        synthesis: A continuous synthesis network.
        first, second: Their ws [1, num_ws, w_dim].
        amount: 0 = first, 1 = second.
    """
    if hasattr(synthesis, "compose_theta"):
        theta = [synthesis.theta(ws) for ws in (first, second)]
        return synthesis.compose_theta(blend(*theta, amount))
    return blend(synthesis.compose(first), synthesis.compose(second), amount)


def frame(
    G: nn.Module,
    first: Subject,
    second: Subject,
    space: str,
    amount: float,
    psi: float = 1,
    size: tuple[int, int] | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Draws one picture on the way from one image to another.

    Args:
        G: Continuous generator.
        first, second: The images.
        space: A name of `SPACES`. "z": straight between the latents (and the classes).
        amount: 0 = first, 1 = second.
        psi: Truncation, with which the subjects' ws were made.
        size: (H, W); None = training size.
        dtype: Precision of the blocks; None = each block's own.

    Returns:
        uint8 [C, H, W] on the CPU.
    """
    how = {"size": size, "dtype": dtype}
    with torch.inference_mode():
        if space == "pixels":
            ends = [G.synthesis.render(subject.ws, **how) for subject in (first, second)]
            return to_uint8(blend(*ends, amount))[0].cpu()
        if space == "theta":
            theta = blended_weights(G.synthesis, first.ws, second.ws, amount)
            between = _WithTheta(G.synthesis, theta)
            return to_uint8(render_image(between, first.ws, **how))[0].cpu()
        if space == "w":
            ws = blend(first.ws, second.ws, amount)
        else:
            ends = [_latent_and_class(G, subject) for subject in (first, second)]
            ws = G.mapping(*blend(*ends, amount), truncation_psi=psi)
        return to_uint8(G.synthesis.render(ws, **how))[0].cpu()


def frames(
    G: nn.Module,
    subjects: Sequence[Subject],
    space: str,
    steps: int,
    psi: float = 1,
    size: tuple[int, int] | None = None,
    dtype: torch.dtype | None = None,
) -> Iterator[Tensor]:
    """All pictures of a path through several images: `steps` from each to the next, ends included.

    Args:
        G, space, psi, size, dtype: As `frame`.
        subjects: At least two.
        steps: Pictures per pair, at least 2; an image between two pairs comes once.
    """
    for index, (first, second) in enumerate(zip(subjects, subjects[1:])):
        for step in range(0 if index == 0 else 1, steps):
            yield frame(G, first, second, space, step / (steps - 1), psi, size, dtype)


def measure(pictures: Sequence[Tensor], space: str) -> list[dict[str, Any]]:
    """One row per picture: how far it is from the picture before, in levels of 0 to 255.

    Args:
        pictures: uint8, of one size.
        space: A name of `SPACES`.
    """
    rows = []
    for index, picture in enumerate(pictures):
        before = pictures[max(0, index - 1)]
        change = picture.float() - before.float()
        rows.append(
            {"space": space, "step": index, "rms_change": float(change.square().mean().sqrt())}
        )
    return rows


def as_video_frame(picture: Tensor) -> np.ndarray:
    """uint8 [C, H, W] with 1, 3 or 4 channels as [H, W, 3]."""
    pixels = picture[:3].expand(3, -1, -1) if len(picture) == 1 else picture[:3]
    return pixels.permute(1, 2, 0).numpy()


def _latent_and_class(G: nn.Module, subject: Subject) -> tuple[Tensor, Tensor]:
    device = sampling.device_of(G)
    z = sampling.latents([subject.seed], G.z_dim).to(device)
    return z, sampling.one_hot(subject.label, G.c_dim).to(device)
