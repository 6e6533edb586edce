"""Controller of adaptive discriminator augmentation (ADA)."""

from __future__ import annotations

import math


class AdaController:
    """Adjusts the augmentation probability p so that overfitting stays at a target.

    Overfitting of the discriminator is measured as r_t = E[sign D(real)] (Karras et al. 2020,
    arXiv:2006.06676, equation 1). Every `interval` batches p moves by a fixed step towards the
    target: up if r_t is above it. The step is such that p needs `kimg` thousand images from 0 to
    1. p stays in [0, 1].

    Args:
        target: Wanted r_t, in [-1, 1].
        interval: Batches between two adjustments.
        kimg: Thousands of images in which p can move from 0 to 1.
        batch_size: Images per batch, all processes together.
        p: Initial probability, in [0, 1].

    Attributes:
        p: Current probability; the caller copies it into the augmentation pipe.

    Raises:
        ValueError: A number outside its range.
    """

    def __init__(
        self,
        target: float,
        interval: int = 4,
        kimg: float = 500,
        batch_size: int = 4,
        p: float = 0.0,
    ) -> None:
        if interval < 1 or batch_size < 1 or not kimg > 0:
            raise ValueError(
                "interval and batch_size must be at least 1 and kimg positive, "
                f"got {interval}, {batch_size} and {kimg}"
            )
        if not -1 <= target <= 1:
            raise ValueError(f"target must be between -1 and 1, got {target}")
        if not 0 <= p <= 1:
            raise ValueError(f"p must be between 0 and 1, got {p}")
        self.target = float(target)
        self.interval = int(interval)
        self.kimg = float(kimg)
        self.batch_size = int(batch_size)
        self.p = float(p)

    def is_due(self, batch_idx: int) -> bool:
        """Whether p is adjusted after batch_idx batches (counted from 1)."""
        return batch_idx % self.interval == 0

    def update(self, mean_sign: float) -> float:
        """Move p one step.

        Args:
            mean_sign: E[sign D(real)] over all real images since the last update, all processes;
                NaN (no images) and a value equal to the target leave p as it is.

        Returns:
            The new p.
        """
        step = self.batch_size * self.interval / (self.kimg * 1000)
        error = float(mean_sign) - self.target
        if not math.isnan(error) and error != 0:
            self.p = min(max(self.p + math.copysign(step, error), 0.0), 1.0)
        return self.p

    def state_dict(self) -> dict[str, float]:
        """What an exact resume needs."""
        return {"p": self.p}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore what state_dict returned."""
        self.p = float(state["p"])
