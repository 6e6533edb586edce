"""Losses of StyleGAN2: non-saturating logistic loss, R1 penalty and path length regularisation.

Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN" (arXiv:1912.04958). N
is the number of images of a batch, L the number of layers that take a w of their own (num_ws).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.profiler import record_function

from ops.conv2d import no_weight_gradients
from torch_utils import training_stats

PHASES = ("Gmain", "Greg", "Gboth", "Dmain", "Dreg", "Dboth")
"""Phase names that StyleGAN2Loss knows; `both` = main and reg in one."""


def generator_loss(fake_logits: torch.Tensor) -> torch.Tensor:
    """-log sigmoid(D(G(z))), elementwise: the non-saturating loss of the generator."""
    return F.softplus(-fake_logits)


def discriminator_fake_loss(fake_logits: torch.Tensor) -> torch.Tensor:
    """-log(1 - sigmoid(D(G(z)))), elementwise: the discriminator's loss on generated images."""
    return F.softplus(fake_logits)


def discriminator_real_loss(real_logits: torch.Tensor) -> torch.Tensor:
    """-log sigmoid(D(x)), elementwise: the discriminator's loss on real images."""
    return F.softplus(-real_logits)


def r1_penalty(real_logits: torch.Tensor, real_img: torch.Tensor) -> torch.Tensor:
    """|d D(x) / dx|^2 per image (Mescheder et al. 2018, arXiv:1801.04406).

    Args:
        real_logits: Any shape, computed from real_img.
        real_img: [N, C, H, W], requires grad; before augmentation, so that the penalty is on
            D(aug(x)).

    Returns:
        [N], differentiable with respect to the parameters of D.
    """
    (grad,) = torch.autograd.grad(real_logits.sum(), real_img, create_graph=True)
    return grad.square().sum(dim=[1, 2, 3])


def path_lengths(img: torch.Tensor, ws: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """|J^T y| per image, J = d img / d ws, y = noise (Karras et al. 2020, equation 4).

    Args:
        img: [N, C, H, W], computed from ws.
        ws: [N, L, w_dim], in the graph of img.
        noise: [N, C, H, W], independent normal variables of variance 1 / (H W).

    Returns:
        [N], root of the mean over layers of the squared norm over w; differentiable with respect
        to the parameters of G.
    """
    (grad,) = torch.autograd.grad((img * noise).sum(), ws, create_graph=True)
    return grad.square().sum(dim=2).mean(dim=1).sqrt()


class StyleGAN2Loss:
    """Accumulates the gradients of one training phase into the parameters of G or D.

    Args:
        device: Where the running mean of the path lengths lives.
        G_mapping: (z, c, skip_w_avg_update=...) -> ws [N, L, w_dim].
        G_synthesis: ws -> images [N, C, H, W].
        D: (images, c) -> logits.
        augment_pipe: Applied to everything D sees; None = nothing.
        style_mixing_prob: Probability, per batch, that the layers from a random one on take the w
            of another z; 0 = never.
        r1_gamma: Weight of the R1 penalty; 0 = none.
        pl_batch_shrink: Path lengths are measured on 1 / pl_batch_shrink of the batch, at least
            one image.
        pl_decay: Weight of the latest batch in the running mean of the path lengths.
        pl_weight: Weight of the path length penalty; 0 = none.
        pl_no_weight_grad: Skip gradients of convolution weights while path lengths are measured.
            Only right if no convolution weight is computed from ws: StyleGAN2 without fused
            modulation, never an INR.
    """

    def __init__(
        self,
        device: torch.device | str,
        G_mapping: Callable[..., torch.Tensor],
        G_synthesis: Callable[..., torch.Tensor],
        D: Callable[..., torch.Tensor],
        augment_pipe: Callable[[torch.Tensor], torch.Tensor] | None = None,
        style_mixing_prob: float = 0.9,
        r1_gamma: float = 10,
        pl_batch_shrink: int = 2,
        pl_decay: float = 0.01,
        pl_weight: float = 2,
        pl_no_weight_grad: bool = False,
    ) -> None:
        self.device = torch.device(device)
        self.G_mapping = G_mapping
        self.G_synthesis = G_synthesis
        self.D = D
        self.augment_pipe = augment_pipe
        self.style_mixing_prob = style_mixing_prob
        self.r1_gamma = r1_gamma
        self.pl_batch_shrink = pl_batch_shrink
        self.pl_decay = pl_decay
        self.pl_weight = pl_weight
        self.pl_no_weight_grad = pl_no_weight_grad
        self.pl_mean = torch.zeros([], device=self.device)

    def accumulate_gradients(
        self,
        phase: str,
        real_img: torch.Tensor,
        real_c: torch.Tensor,
        gen_z: torch.Tensor,
        gen_c: torch.Tensor,
        sync: bool = True,
        gain: float = 1,
    ) -> None:
        """Add the gradients of one phase, for one batch, to `.grad`.

        The network that is trained must require gradients and the other one must not.

        Args:
            phase: One of PHASES. A term of weight 0 is left out.
            real_img: [N, C, H, W], [-1, 1]; only read by the D phases.
            real_c: [N, c_dim], labels of real_img.
            gen_z: [N, z_dim], latents of the generated images.
            gen_c: [N, c_dim], their labels.
            sync: Accepted for callers of StyleGAN2-ADA and ignored: gradients are averaged over
                processes once per step (torch_utils.distributed.all_reduce_gradients), so nothing
                is sent here.
            gain: Factor of the loss; the interval of a regularisation phase.

        Raises:
            ValueError: Unknown phase.
        """
        if phase not in PHASES:
            raise ValueError(f"phase must be one of {', '.join(PHASES)}, got {phase!r}")
        network, main, reg = phase[0], phase[1:] != "reg", phase[1:] != "main"
        if network == "G":
            if main:
                self._generator_main(gen_z, gen_c, gain)
            if reg and self.pl_weight != 0:
                self._generator_path_length(gen_z, gen_c, gain)
            return
        fake_loss = self._discriminator_fake(gen_z, gen_c, gain) if main else None
        r1 = reg and self.r1_gamma != 0
        if main or r1:
            self._discriminator_real(real_img, real_c, fake_loss, r1, gain)

    def state_dict(self) -> dict[str, Any]:
        """What an exact resume needs: the running mean of the path lengths, on the CPU."""
        return {"pl_mean": self.pl_mean.detach().cpu().clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what state_dict returned."""
        self.pl_mean.copy_(state["pl_mean"])

    def run_G(self, z: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Generate with style mixing.

        z [N, z_dim], c [N, c_dim] -> images [N, C, H, W], ws [N, L, w_dim].

        The mixing coin and layer are drawn on the host, which an accelerator need not wait for.
        """
        ws = self.G_mapping(z, c)
        num_ws = ws.shape[1]
        mixes = num_ws > 1 and self.style_mixing_prob > 0
        if mixes and float(torch.rand([])) < self.style_mixing_prob:
            cutoff = int(torch.randint(1, num_ws, []))
            other = self.G_mapping(torch.randn_like(z), c, skip_w_avg_update=True)
            ws = torch.cat([ws[:, :cutoff], other[:, cutoff:]], dim=1)
        return self.G_synthesis(ws), ws

    def run_D(self, img: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """Augment and judge: img [N, C, H, W], c [N, c_dim] -> logits."""
        if self.augment_pipe is not None:
            img = self.augment_pipe(img)
        return self.D(img, c)

    def _generator_main(self, gen_z: torch.Tensor, gen_c: torch.Tensor, gain: float) -> None:
        with record_function("Gmain_forward"):
            logits = self.run_D(self.run_G(gen_z, gen_c)[0], gen_c)
            training_stats.report("Loss/scores/fake", logits.detach())
            training_stats.report("Loss/signs/fake", logits.detach().sign())
            loss = generator_loss(logits)
            training_stats.report("Loss/G/loss", loss.detach())
        with record_function("Gmain_backward"):
            loss.mean().mul(gain).backward()

    def _generator_path_length(self, gen_z: torch.Tensor, gen_c: torch.Tensor, gain: float) -> None:
        with record_function("Greg_forward"):
            count = max(gen_z.shape[0] // self.pl_batch_shrink, 1)
            img, ws = self.run_G(gen_z[:count], gen_c[:count])
            noise = torch.randn_like(img) / (img.shape[2] * img.shape[3]) ** 0.5
            with no_weight_gradients(self.pl_no_weight_grad):
                lengths = path_lengths(img, ws, noise)
            self.pl_mean.lerp_(lengths.detach().mean().to(self.pl_mean), self.pl_decay)
            penalty = (lengths - self.pl_mean).square()
            training_stats.report("Loss/pl_penalty", penalty.detach())
            loss = penalty * self.pl_weight
            training_stats.report("Loss/G/reg", loss.detach())
        with record_function("Greg_backward"):
            loss.mean().mul(gain).backward()

    def _discriminator_fake(
        self, gen_z: torch.Tensor, gen_c: torch.Tensor, gain: float
    ) -> torch.Tensor:
        """Back-propagate the loss on generated images and return it, detached."""
        with record_function("Dgen_forward"):
            with torch.no_grad():
                img = self.run_G(gen_z, gen_c)[0]
            logits = self.run_D(img, gen_c)
            training_stats.report("Loss/scores/fake", logits.detach())
            training_stats.report("Loss/signs/fake", logits.detach().sign())
            loss = discriminator_fake_loss(logits)
        with record_function("Dgen_backward"):
            loss.mean().mul(gain).backward()
        return loss.detach()

    def _discriminator_real(
        self,
        real_img: torch.Tensor,
        real_c: torch.Tensor,
        fake_loss: torch.Tensor | None,
        r1: bool,
        gain: float,
    ) -> None:
        """Back-propagate the loss on real images (if there is a fake_loss to go with it) and R1."""
        name = "Dboth" if r1 and fake_loss is not None else "Dr1" if r1 else "Dreal"
        loss = 0
        with record_function(f"{name}_forward"):
            real_img = real_img.detach().requires_grad_(r1)
            logits = self.run_D(real_img, real_c)
            training_stats.report("Loss/scores/real", logits.detach())
            training_stats.report("Loss/signs/real", logits.detach().sign())
            if fake_loss is not None:
                loss = discriminator_real_loss(logits)
                training_stats.report("Loss/D/loss", fake_loss + loss.detach())
                loss = loss.mean()
            if r1:
                with no_weight_gradients():
                    penalty = r1_penalty(logits, real_img)
                training_stats.report("Loss/r1_penalty", penalty.detach())
                weighted = penalty * (self.r1_gamma / 2)
                training_stats.report("Loss/D/reg", weighted.detach())
                loss = loss + weighted.mean()
        with record_function(f"{name}_backward"):
            loss.mul(gain).backward()
