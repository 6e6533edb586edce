"""`inr_weights` as the ops that it consists of (portable: runs from the source in a snapshot)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ops.affine import affine
from ops.fmm import fmm


def inr_weights(
    ws: Tensor,  # [N, K + 1, D]
    layers: Sequence[Tensor],  # K of [O, I]
    affines: Sequence[tuple[Tensor, Tensor]],  # K of [(O + I) r, D] and [(O + I) r]
    rgb: Tensor,  # [C, O]
    rgb_affine: tuple[Tensor, Tensor],  # [O, D] and [O]
    activation: str = "demod",
    predict: tuple[Tensor, Tensor] | None = None,  # [R, D] and [R]
    impl: str = "auto",
) -> tuple[tuple[Tensor, ...], Tensor, Tensor | None]:  # K of [N, O, I]; [N, C, O]; [N, R]
    """Weights of a block's layers and of to-RGB; see `ops.inr_weights.api.inr_weights`."""
    gain = ws.shape[2] ** -0.5
    composed = []
    for w, weight, (matrix, bias) in zip(ws.unbind(1), layers, affines):
        rows, columns = weight.shape
        rank = bias.shape[0] // (rows + columns)
        a, b = affine(w, matrix, bias, gain, impl=impl).split([rows * rank, columns * rank], 1)
        a, b = a.unflatten(1, (rows, rank)), b.unflatten(1, (rank, columns))
        composed.append(fmm(weight, a, b, activation, impl=impl))
    styles = affine(ws[:, -1], *rgb_affine, gain, impl=impl) * rgb.shape[1] ** -0.5
    predicted = None if predict is None else affine(ws[:, 0], *predict, gain, impl=impl)
    return tuple(composed), rgb * styles[:, None, :], predicted
