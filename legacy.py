"""Read network snapshots, and rewrite them in today's formats.

Nothing that the file contains is run: see `torch_utils.persistence.read`.

Example:
    python legacy.py --source=network-snapshot-000100.pkl --dest=new.safetensors
    python legacy.py --source=new.safetensors --dest=network-snapshot-000100.pkl
    python legacy.py --source=network-snapshot-000100.pkl --dest=small.safetensors --g-only
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO

import click

import dnnlib
import dnnlib.cli

if TYPE_CHECKING:
    from torch import nn

_FP16_KWARGS = {"num_fp16_res": 4, "conv_clamp": 256}


def load_network_pkl(
    f: BinaryIO, force_fp16: bool = False, allow_code: bool = False
) -> dict[str, Any]:
    """Reads a network snapshot.

    Args:
        f: The file (.pkl or .safetensors), opened in binary mode.
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
    from networks import snapshot_file

    data = snapshot_file.decode_snapshot(f.read(), allow_code=allow_code)
    return _force_fp16(data) if force_fp16 else data


def _force_fp16(data: dict[str, Any]) -> dict[str, Any]:
    from networks.snapshot_file import NETWORKS

    # G stands in for a missing G_ema: one network under two names stays one.
    rebuilt = {id(data[name]): _with_fp16(data[name]) for name in NETWORKS}
    return {**data, **{name: rebuilt[id(data[name])] for name in NETWORKS}}


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
@click.option(
    "--dest",
    metavar="FILE",
    required=True,
    help="Network snapshot to write: .pkl or .safetensors.",
)
@click.option(
    "--force-fp16",
    type=bool,
    metavar="BOOL",
    default=False,
    help="Compute the four highest resolutions of D and StyleGAN2's G in float16.",
)
@click.option(
    "--g-only",
    is_flag=True,
    help="Write G_ema alone: enough for everything but training, and a third of the size.",
)
@dnnlib.cli.allow_code_option
def main(source: str, dest: str, force_fp16: bool, g_only: bool, allow_code: bool) -> None:
    """Rewrite a network snapshot in one of today's formats."""
    from networks import snapshot_file

    snapshot_file.check_suffix(dest, "--dest")
    print(f'Loading "{source}"...')
    data = snapshot_file.read_snapshot(source, option="--source", allow_code=allow_code)
    if force_fp16:
        data = _force_fp16(data)
    if g_only:
        data = {"training_set_kwargs": data["training_set_kwargs"], "G_ema": data["G_ema"]}
    made_from = snapshot_file.identify(source, option="--source")
    print(f'Saving "{dest}"...')
    snapshot_file.write_snapshot(dest, data, made_from=made_from)
    print("Done.")


if __name__ == "__main__":
    main()
