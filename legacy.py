"""Read network snapshots, and rewrite them in today's format.

Nothing that the file contains is run: see `torch_utils.persistence.read`.

Example:
    python legacy.py --source=network-snapshot-000100.pkl --dest=new.pkl
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any, BinaryIO

import click

import dnnlib
import dnnlib.cli

if TYPE_CHECKING:
    from torch import nn

_NETWORKS = ("G", "D", "G_ema")
_KEYS = ("training_set_kwargs", *_NETWORKS, "augment_pipe")
_FP16_KWARGS = {"num_fp16_res": 4, "conv_clamp": 256}


def load_network_pkl(
    f: BinaryIO, force_fp16: bool = False, allow_code: bool = False
) -> dict[str, Any]:
    """Reads a network snapshot.

    Args:
        f: The file, opened in binary mode.
        force_fp16: Rebuild D and StyleGAN2 generators so that their four highest resolutions
            compute in float16 (num_fp16_res=4, conv_clamp=256), with the same weights.
        allow_code: Run the file's own code if it contains something unknown. Only for files whose
            author you trust.

    Returns:
        training_set_kwargs (dict or None), G, D, G_ema, augment_pipe (modules of this project, on
        the CPU). What the file does not have is None, except that G stands in for a missing G_ema.

    Raises:
        dnnlib.UserError: The file is damaged, is no network snapshot, or contains something
            unknown.
    """
    from torch import nn

    from torch_utils import persistence

    data = persistence.read(f, allow_code=allow_code)
    if not isinstance(data, dict):
        raise dnnlib.UserError(
            f"the file holds a {type(data).__name__}, not the dict of a network snapshot"
        )
    data = {**dict.fromkeys(_KEYS), **data}
    for name in (*_NETWORKS, "augment_pipe"):
        if not isinstance(data[name], (nn.Module, type(None))):
            kind = type(data[name]).__name__
            raise dnnlib.UserError(f"{name!r} in the file is a {kind}, not a network")
    if not isinstance(data["training_set_kwargs"], (dict, type(None))):
        kind = type(data["training_set_kwargs"]).__name__
        raise dnnlib.UserError(f"'training_set_kwargs' in the file is a {kind}, not a dict")
    if data["G_ema"] is None:
        data["G_ema"] = data["G"]
    if data["G_ema"] is None:
        raise dnnlib.UserError("the file holds no generator: neither G nor G_ema is in it")
    if force_fp16:
        for name in _NETWORKS:
            data[name] = _with_fp16(data[name])
    return data


def _with_fp16(network: nn.Module | None) -> nn.Module | None:
    """The same network with half precision in its upper blocks; unchanged where that is unknown."""
    from torch_utils import misc

    if network is None:
        return None
    kwargs = network.init_kwargs
    is_generator = hasattr(network, "synthesis")
    if is_generator and kwargs.get("preset", "stylegan2") != "stylegan2":
        return network
    if is_generator:
        kwargs["synthesis_kwargs"] = {**(kwargs.get("synthesis_kwargs") or {}), **_FP16_KWARGS}
    else:
        kwargs.update(_FP16_KWARGS)
    if kwargs == network.init_kwargs:
        return network
    new = type(network)(*network.init_args, **kwargs)
    misc.copy_params_and_buffers(network, new, require_all=True)
    return new.eval().requires_grad_(False)


@dnnlib.cli.command()
@click.option("--source", metavar="FILE|URL", required=True, help="Network snapshot to read.")
@click.option("--dest", metavar="FILE.pkl", required=True, help="Network snapshot to write.")
@click.option(
    "--force-fp16",
    type=bool,
    metavar="BOOL",
    default=False,
    help="Compute the four highest resolutions of D and StyleGAN2's G in float16.",
)
@click.option(
    "--allow-code",
    is_flag=True,
    help="Run the file's own code if it contains something unknown; only for trusted files.",
)
def main(source: str, dest: str, force_fp16: bool, allow_code: bool) -> None:
    """Rewrite a network snapshot in today's format."""
    if not dest.endswith(".pkl"):
        raise dnnlib.UserError(f"--dest must end in .pkl, got {dest!r}")
    print(f'Loading "{source}"...')
    try:
        with dnnlib.util.open_url(source) as file:
            data = load_network_pkl(file, force_fp16=force_fp16, allow_code=allow_code)
    except dnnlib.UserError as error:
        raise dnnlib.UserError(f"--source={source}: {error}") from error
    print(f'Saving "{dest}"...')
    try:
        with dnnlib.util.atomic_path(dest) as temporary, open(temporary, "wb") as file:
            pickle.dump(data, file)
    except OSError as error:
        raise dnnlib.UserError(f"{dest!r} cannot be written: {error.strerror}") from error
    print("Done.")


if __name__ == "__main__":
    main()
