"""What commands that draw with a trained generator share: from seeds and classes to pictures.

Everything goes image by image, so that a picture depends on its own seed and class only, not on
how many others are drawn with it: the sum of a dot product is rounded differently in another batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

import dnnlib
import dnnlib.cli
from torch_utils.array_file import read_arrays
from torch_utils.images import to_uint8
from torch_utils.precision import resolve_dtype


def latents(seeds: Sequence[int], z_dim: int) -> torch.Tensor:
    """The z of each seed: float32 [N, z_dim] on the CPU, as StyleGAN2-ADA draws them."""
    z = [np.random.RandomState(seed).randn(1, z_dim) for seed in seeds]
    return torch.from_numpy(np.concatenate([np.empty([0, z_dim]), *z])).to(torch.float32)


def one_hot(label: int | None, c_dim: int, n: int = 1) -> torch.Tensor:
    """The c of a class, n times: float32 [n, c_dim] on the CPU; all 0 for None.

    Raises:
        ValueError: There is no such class.
    """
    if label is not None and not 0 <= label < c_dim:
        raise ValueError(f"class {label} is not in [0, {c_dim})")
    c = torch.zeros([n, c_dim])
    if label is not None:
        c[:, label] = 1
    return c


def image_shape(G: nn.Module) -> tuple[int, int, int]:
    """(channels, height, width) of the images that `G.synthesis(ws)` draws."""
    default = (G.img_channels, G.img_resolution, G.img_resolution)
    return tuple(getattr(G, "img_shape", default))


def device_of(G: nn.Module) -> torch.device:
    """Where the weights are."""
    return next(G.parameters()).device


def check_classes(G: nn.Module, classes: Sequence[int] | None) -> list[int] | None:
    """Classes to draw, as `--class` names them; warns where the option means nothing.

    Args:
        G: Generator.
        classes: What the user gave; None = nothing.

    Returns:
        At least one class; None = the network is unconditional.

    Raises:
        dnnlib.UserError: A conditional network without class, or a class that does not exist.
    """
    if G.c_dim == 0:
        if classes is not None:
            dnnlib.cli.warn("--class is not used by this network, which is unconditional.")
        return None
    valid = f"--class=0 to --class={G.c_dim - 1}"
    if not classes:
        raise dnnlib.UserError(f"This network is conditional: choose a class, {valid}.")
    for label in (min(classes), max(classes)):
        if not 0 <= label < G.c_dim:
            raise dnnlib.UserError(f"--class={label} does not exist: this network has {valid}.")
    return list(classes)


def check_class(G: nn.Module, label: int | None) -> int | None:
    """As `check_classes`, for commands that take a single class."""
    found = check_classes(G, None if label is None else [label])
    return None if found is None else found[0]


def check_truncation(G: nn.Module, psi: float) -> None:
    """Raises a `dnnlib.UserError` if the network cannot truncate."""
    if psi != 1 and getattr(G.mapping, "w_avg", None) is None:
        raise dnnlib.UserError(
            f"--trunc={psi:g} pulls towards the average w, which this network does not know; "
            "use --trunc=1."
        )


def check_dtype(
    G: nn.Module, name: str | None, device: torch.device | None = None
) -> torch.dtype | None:
    """Precision to draw in, as `--dtype` names it; see `torch_utils.precision.resolve_dtype`.

    Args:
        G: Generator.
        name: What the user chose; None = nothing.
        device: Where G is going to compute; None = where its weights are.

    Raises:
        dnnlib.UserError: The network's own code knows no such argument.
    """
    if name is not None and "dtype" not in inspect.signature(G.synthesis.forward).parameters:
        raise dnnlib.UserError(
            f"--dtype={name} is for networks of this project; this one runs code of its own, in "
            "its own precision."
        )
    return resolve_dtype(name, device or device_of(G))


def ws_of_seed(
    G: nn.Module, seed: int, label: int | None = None, truncation_psi: float = 1
) -> torch.Tensor:
    """The ws of a seed.

    Args:
        G: Generator in evaluation mode.
        seed: In [0, 2**32).
        label: Class; None for unconditional networks.
        truncation_psi: 1 = none, 0 = the average w.

    Returns:
        [1, num_ws, w_dim] where the weights of G are.
    """
    device = device_of(G)
    z = latents([seed], G.z_dim).to(device)
    c = one_hot(label, G.c_dim).to(device)
    with torch.no_grad():
        return G.mapping(z, c, truncation_psi=truncation_psi)


def draw_image(
    G: nn.Module,
    ws: torch.Tensor,
    noise_seed: int,
    noise_mode: str = "const",
    view: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Draw one image: uint8 [C, H, W] on the CPU.

    Args:
        G: Generator in evaluation mode.
        ws: [1, num_ws, w_dim].
        noise_seed: Of the random noise, which comes from torch's generator; it is seeded for each
            image, so that an image does not depend on those drawn before.
        noise_mode: "const", "random" or "none"; ignored by networks without noise.
        view: Arguments of `synthesis.render`; None or empty = the training grid.
        dtype: Precision of the blocks, see `check_dtype`; None = each block's own.

    Raises:
        dnnlib.UserError: The image holds values that are not finite.
    """
    torch.manual_seed(noise_seed)
    # Networks that run code of their own do not know the argument.
    precision = {} if dtype is None else {"dtype": dtype}
    with torch.inference_mode():
        if view:
            image = G.synthesis.render(ws, **view, **precision)
        else:
            image = G.synthesis(ws, noise_mode=noise_mode, **precision)
        if not image.isfinite().all():
            cure = "an earlier snapshot, or a --trunc nearer to 1"
            if dtype == torch.float16:
                cure = "--dtype=fp32 or bf16, whose range is larger than that of fp16"
            raise dnnlib.UserError(
                "The network draws values that are not finite, which no picture file can hold; use "
                f"{cure}."
            )
        return to_uint8(image)[0].cpu()


def load_ws(path: str, G: nn.Module, option: str = "--projected-w") -> torch.Tensor:
    """Read array `w` of an npz file, as `projector.py` writes it: float32 [N, num_ws, w_dim].

    Args:
        path: The file.
        G: Generator that the ws are for.
        option: The option that named the file, for messages.

    Raises:
        dnnlib.UserError: Not such a file, or an array of another shape or with nan in it.
    """
    try:
        ws = torch.from_numpy(np.asarray(read_arrays(path)["w"], dtype=np.float32))
    except FileNotFoundError as error:
        raise dnnlib.UserError(f"{option}={path}: there is no such file") from error
    except (KeyError, ValueError, TypeError) as error:
        reason = "it has none" if isinstance(error, KeyError) else error
        raise dnnlib.UserError(
            f"{option}={path} is not an npz file with an array w: {reason}"
        ) from error
    if ws.ndim != 3 or ws.shape[1:] != (G.num_ws, G.w_dim) or len(ws) == 0:
        raise dnnlib.UserError(
            f"{option}={path} holds w of shape {list(ws.shape)}; this network needs "
            f"[N, {G.num_ws}, {G.w_dim}] with N of at least 1."
        )
    if not ws.isfinite().all():
        raise dnnlib.UserError(f"{option}={path} holds numbers that are not finite.")
    return ws
