"""`explore.py kpl`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

import dnnlib
import dnnlib.cli
from analysis.options import outdir_option, trunc_option

if TYPE_CHECKING:
    from torch import nn

    from analysis.keypoint_examples import Examples
    from analysis.keypoints import Extractor

_SPACES = ("z", "w", "random")


@dataclasses.dataclass(frozen=True)
class KplOptions:
    """The options of the command; see their help texts."""

    network: str
    keypoints: str
    outdir: str
    spaces: list[str]
    num_train: int
    num_test: int
    test_w: tuple[str, ...]
    test_data: str | None
    label: int | None
    psi: float
    seed: int
    batch: int
    device: str
    allow_code: bool


@dnnlib.cli.command("kpl")
@click.option("--network", metavar="FILE|URL", required=True, help="Network snapshot.")
@click.option(
    "--keypoints",
    metavar="SOURCE",
    required=True,
    help="A TorchScript model (float [N, 3, H, W] in 0..255 -> [N, K, 2], x and y in pixels); "
    "face-alignment, the package; or an .npz file with keypoints [N, K, 2] from 0 to 1 and seeds "
    "[N], as this command writes it.",
)
@outdir_option
@click.option(
    "--spaces",
    type=dnnlib.cli.CommaList(_SPACES),
    default="z,w,random",
    help="Codes: z, w; random = also with codes given to the wrong images.",
)
@click.option(
    "--num-train", type=click.IntRange(min=2), metavar="N", default=10_000, help="Images fitted to."
)
@click.option(
    "--num-test",
    type=click.IntRange(min=1),
    metavar="N",
    default=256,
    help="Further generated images to test with, unless --test-w names others.",
)
@click.option(
    "--test-w",
    metavar="FILE",
    multiple=True,
    help="Real pictures to test with, as projector.py embedded them: .npz files with w, in the "
    "order of --test-data; may be repeated.",
)
@click.option(
    "--test-data",
    metavar="PATH",
    help="With --test-w: the pictures (folder or zip), or an .npz file with their keypoints.",
)
@click.option(
    "--class",
    "label",
    metavar="INDEX",
    type=click.IntRange(min=0),
    help="Of a conditional network.",
)
@trunc_option
@click.option("--seed", type=click.IntRange(0), default=0, help="Of the wrong order of the codes.")
@click.option("--batch", type=click.IntRange(1, 4096), default=8, help="Images drawn together.")
@dnnlib.cli.device_option
@dnnlib.cli.allow_code_option
def command(**values: Any) -> None:
    """Predict keypoints of images from their codes, linearly.

    The keypoint prediction loss: the smaller, the more linear the geometry is in the codes.
    """
    options = KplOptions(**values)
    spaces = [space for space in options.spaces if space != "random"]
    if not spaces:
        raise dnnlib.UserError("--spaces names no codes; choose z, w or both.")
    if bool(options.test_w) != (options.test_data is not None):
        raise dnnlib.UserError("--test-w and --test-data need each other.")

    from analysis import keypoint_prediction as kp
    from analysis.records import text_table, write_json
    from analysis.subjects import open_generator, write_picture

    G = open_generator(options.network, options.device, options.allow_code, continuous=False)
    train, test = _examples(G, options, spaces)
    spaces = [space for space in spaces if space in test.codes]
    folder = dnnlib.cli.make_outdir(options.outdir)
    rows = kp.study(train, test, spaces, "random" in options.spaces, options.seed)
    report = {
        "network": options.network,
        "keypoints": options.keypoints,
        "num_keypoints": train.keypoints.shape[1],
        "train_images": len(train),
        "test_images": len(test),
        "test": "projected" if options.test_w else "generated",
        "truncation_psi": options.psi,
        "units": "keypoints in units of the image: x / width, y / height",
        "rows": rows,
    }
    write_json(folder / "kpl.json", report)
    title = f"{len(train)} images to fit, {len(test)} to test"
    write_picture(kp.plot(rows, title), folder / "kpl.png")
    table = [["space", "dimension", "mean squared error", "sum over images"]]
    for row in rows:
        errors = f"{row['mean_squared_error']:.3e}", f"{row['sum_squared_error']:.3e}"
        table.append([row["space"], str(row["dimension"]), *errors])
    print(text_table(table))
    print(f"Wrote kpl.json and kpl.png to {folder}")


def _examples(G: nn.Module, options: KplOptions, spaces: list[str]) -> tuple[Examples, Examples]:
    """The images to fit to and to test with."""
    from analysis import keypoint_examples
    from analysis.keypoint_prediction import check_number
    from analysis.keypoints import load_extractor
    from networks import sampling

    label = sampling.check_class(G, options.label)
    sampling.check_truncation(G, options.psi)
    dimensions = {"z": G.z_dim, "w": G.w_dim}
    check_number(options.num_train, spaces, dimensions)
    extractor = None
    if not options.keypoints.endswith(".npz"):
        extractor = load_extractor(options.keypoints, sampling.device_of(G))
    test = None
    if options.test_w:
        files = options.test_w, options.test_data
        test = keypoint_examples.projected_examples(G, *files, extractor)
        if not set(spaces) & set(test.codes):
            raise dnnlib.UserError("The files of --test-w hold no z, so --spaces needs w.")
        if not set(spaces) <= set(test.codes):
            dnnlib.cli.warn("The files of --test-w hold no z, which is left out.")
    count = options.num_train + (options.num_test if test is None else 0)
    if extractor is None:
        drawn = keypoint_examples.examples_of_file(G, options.keypoints, count, label, options.psi)
    else:
        drawn = _draw(G, options, extractor, label, count)
    train = drawn[: options.num_train].found()
    test = (drawn[options.num_train :] if test is None else test).found()
    check_number(len(train), spaces, dimensions)
    if len(test) == 0:
        raise dnnlib.UserError("No keypoints were found in any image to test with.")
    if test.keypoints.shape[1] != train.keypoints.shape[1]:
        counts = test.keypoints.shape[1], train.keypoints.shape[1]
        raise dnnlib.UserError(
            f"--test-data has {counts[0]} keypoints per picture, not {counts[1]}."
        )
    return train, test


def _draw(
    G: nn.Module, options: KplOptions, extractor: Extractor, label: int | None, count: int
) -> Examples:
    """Draw all images, find their keypoints, and keep these for the next time."""
    import numpy as np

    from analysis.keypoint_examples import examples_of_seeds
    from dnnlib.progress import progress
    from torch_utils.array_file import write_arrays

    # An extractor that does not fit shows it before anything is written.
    examples_of_seeds(G, [[0]], extractor, label, options.psi)
    folder = dnnlib.cli.make_outdir(options.outdir)
    seeds = range(count)
    starts = progress(range(0, count, options.batch), desc="Finding keypoints", unit="batch")
    batches = (seeds[start : start + options.batch] for start in starts)
    drawn = examples_of_seeds(G, batches, extractor, label, options.psi)
    arrays = {"keypoints": drawn.keypoints, "seeds": np.array(seeds)}
    write_arrays(folder / "keypoints.npz", arrays)
    return drawn
