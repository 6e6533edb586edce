"""`explore.py upsampled-fid`."""

from __future__ import annotations

import contextlib
from typing import Any

import click

import dnnlib
import dnnlib.cli
from analysis.options import lod_option, outdir_option, trunc_option

_METHODS = ("nearest", "bilinear", "bicubic", "inr")


@dnnlib.cli.command("upsampled-fid")
@click.option("--network", metavar="FILE|URL", required=True, help="Network snapshot.")
@click.option(
    "--data",
    metavar="PATH",
    required=True,
    help="Real images of the larger size, s times the network's: folder or zip.",
)
@outdir_option
@click.option(
    "--methods",
    type=dnnlib.cli.CommaList(_METHODS),
    default=",".join(_METHODS),
    help="How images are enlarged; inr = drawn by the network on a denser grid.",
)
@click.option(
    "--num-real",
    type=click.IntRange(min=2),
    metavar="N",
    help="The most real images that are used.  [default: all]",
)
@click.option(
    "--num-fake", type=click.IntRange(min=2), metavar="N", default=50_000, help="Per method."
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    metavar="N",
    default=0,
    help="Of the generated images, which are the same for all methods.",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    metavar="N",
    help="Images at a time.  [default: 64 for the detector, 4 for the network]",
)
@trunc_option
@lod_option
@dnnlib.cli.detector_option
@dnnlib.cli.dtype_option
@dnnlib.cli.device_option
@dnnlib.cli.allow_code_option
def command(methods: list[str], **options: Any) -> None:
    """Compare enlarged images with real ones of that size, by FID.

    Interpolated ones, and those of the continuous network on a denser grid.
    """
    if not methods:
        raise dnnlib.UserError(f"--methods names nothing; choose from {', '.join(_METHODS)}.")

    from analysis import upsampled_fid
    from analysis.records import write_json
    from analysis.subjects import open_generator, write_picture
    from metrics.detectors import find_detector
    from metrics.progress import ProgressMonitor
    from networks.sampling import check_dtype, check_truncation, device_of

    network, psi = options["network"], options["psi"]
    continuous = upsampled_fid.INR in methods
    G = open_generator(network, options["device"], options["allow_code"], continuous)
    check_truncation(G, psi)
    dataset_kwargs, shape = _dataset(options["data"], G.c_dim)
    scale = upsampled_fid.scale_of(G, shape, f"--data={options['data']}")
    find_detector("inception-2015-12-05", options["detectors"])
    dtype = check_dtype(G, options["dtype"])
    given = {"truncation_psi": None if psi == 1 else psi, "dtype": dtype}
    G_kwargs = {name: value for name, value in given.items() if value is not None}
    folder = dnnlib.cli.make_outdir(options["outdir"])
    found, depends_on = upsampled_fid.study(
        G,
        methods,
        shape[1:],
        options["num_real"],
        options["num_fake"],
        options["lod"],
        G_kwargs=G_kwargs,
        dataset_kwargs=dataset_kwargs,
        device=device_of(G),
        progress=ProgressMonitor(verbose=True),
        seed=options["seed"],
        detectors=options["detectors"],
        batch_size=options["batch"],
        batch_gen=options["batch"],
    )
    report = {
        "network": network,
        "data": options["data"],
        "scale": scale,
        "size": [shape[2], shape[1]],
        "lod": options["lod"],
        "fid": found,
        "gain_of_inr": upsampled_fid.gain(found),
        "provenance": depends_on,
    }
    write_json(folder / "upsampled-fid.json", report)
    title = f"{depends_on['num_fake']} images enlarged {scale:g} times"
    write_picture(upsampled_fid.plot(found, title), folder / "upsampled-fid.png")
    for method, value in found.items():
        print(f"{method:<10}{value:10.3f}")
    print(f"Wrote upsampled-fid.json and upsampled-fid.png to {folder}")


def _dataset(path: str, c_dim: int) -> tuple[dict[str, Any], tuple[int, int, int]]:
    """Arguments of the data set, and (C, H, W) of its images."""
    from analysis.evaluation import DATASET_CLASS
    from training.dataset import ImageFolderDataset

    try:
        with contextlib.closing(ImageFolderDataset(path=path, use_labels=c_dim > 0)) as dataset:
            shape = tuple(dataset.image_shape)
            label_dim = dataset.label_dim if dataset.has_labels else 0
    except OSError as error:
        raise dnnlib.UserError(f"--data={path}: {error}") from error
    if c_dim not in (0, label_dim):
        raise dnnlib.UserError(
            f"--data={path}: the labels have dimension {label_dim}, but the network needs {c_dim}."
        )
    kwargs = {"class_name": DATASET_CLASS, "path": path, "use_labels": c_dim > 0}
    return {**kwargs, "max_size": None, "xflip": False}, shape
