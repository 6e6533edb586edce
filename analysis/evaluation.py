"""Metrics of a finished network: what it is compared with, and the processes that compute them."""

from __future__ import annotations

import dataclasses
import json
import os
import urllib.parse
import zipfile
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

import dnnlib
from dnnlib import UserError
from metrics import exchange, metric_main
from metrics.names import GENERATED_ONLY
from metrics.progress import ProgressMonitor
from networks.sampling import check_dtype, image_shape
from networks.snapshot_file import read_snapshot
from torch_utils import custom_ops, distributed, misc
from torch_utils.host_memory import keep_freed_memory
from torch_utils.precision import DTYPES, dtype_name
from training.inputs import choose_device

DATASET_CLASS = "training.dataset.ImageFolderDataset"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Which metrics of which network to compute, and how.

    Attributes:
        network: Snapshot, file name or URL.
        metrics: Names of metrics.
        data: Folder or zip of the real images; None = those that the network was trained on.
        mirror: Whether the real images are mirrored too; None = as in the training.
        gpus: Number of processes.
        verbose: Print what is going on.
        device: "auto", "cpu", "cuda", "mps".
        detectors: Feature detector -> file.
        seed: Of everything the metrics draw.
        batch: Images at a time; None = every metric's own number.
        psi: Truncation of the generated images; 1 = none.
        allow_code: Run the file's own code, and use a data set class that it names.
        dtype: Precision of the generator, a choice of `--dtype`; None = its own.
    """

    network: str
    metrics: tuple[str, ...]
    data: str | None = None
    mirror: bool | None = None
    gpus: int = 1
    verbose: bool = True
    device: str = "auto"
    detectors: Mapping[str, str] = dataclasses.field(default_factory=dict)
    seed: int = 0
    batch: int | None = None
    psi: float = 1
    allow_code: bool = False
    dtype: str | None = None

    def say(self, text: str = "") -> None:
        """Print a line, on process 0 and if `verbose`."""
        if self.verbose and distributed.is_main():
            print(text, flush=True)

    def generator_kwargs(self) -> dict[str, Any]:
        """Further arguments of `G(z, c, ...)`."""
        kwargs: dict[str, Any] = {} if self.psi == 1 else {"truncation_psi": self.psi}
        if self.dtype is not None:
            kwargs["dtype"] = DTYPES[self.dtype]
        return kwargs


def evaluate(job: Evaluation) -> None:
    """Compute the metrics, print each result as a line of JSON, and note it beside the snapshot.

    The note goes into ``metric-<name>.jsonl``, if the snapshot lies in a run directory.

    Raises:
        UserError: The network, the device, the images or a detector is missing, or they do not fit
            together.
    """
    device = choose_device(job.device, job.gpus)
    job.say(f'Loading network from "{job.network}"...')
    snapshot = read_snapshot(job.network, allow_code=job.allow_code)
    G = snapshot["G_ema"].eval().requires_grad_(False)
    # "auto" is decided, and told, once; the processes get the name of what was found.
    dtype = check_dtype(G, job.dtype, device)
    job = dataclasses.replace(job, dtype=dtype and dtype_name(dtype))
    dataset_kwargs = find_dataset(job, G, snapshot["training_set_kwargs"])
    if dataset_kwargs:
        job.say("Dataset options:")
        job.say(json.dumps(dataset_kwargs, indent=2, default=str))
    # Processes of their own read the file themselves: what is in it may not be picklable.
    args = (job, dataset_kwargs, G if job.gpus == 1 else None)
    job.say("Launching processes..." if job.gpus > 1 else "")
    distributed.launch(evaluate_in_process, job.gpus, args, device)
    job.say("Exiting...")


def find_dataset(job: Evaluation, G: nn.Module, stored: Mapping[str, Any] | None) -> dict[str, Any]:
    """Describe the real images, after a look at them.

    Args:
        job: Says which images are meant.
        G: The network that they have to fit.
        stored: ``training_set_kwargs`` of the snapshot.

    Returns:
        ``class_name`` and arguments of the data set. Empty if no metric needs one and the user
        named none: the training images need not be on this machine then.

    Raises:
        UserError: No images are known or there, or they do not fit the network.
    """
    needed = G.c_dim != 0 or not set(job.metrics) <= set(GENERATED_ONLY)
    if job.data is None and not needed:
        return {}
    if job.data is not None:
        kwargs: dict[str, Any] = {"class_name": DATASET_CLASS, "path": job.data}
        source = f"--data={job.data}"
    elif stored:
        kwargs = dict(stored)
        _refuse_foreign_class(job, kwargs.get("class_name"))
        source = f"the training images {kwargs.get('path', '')} of {job.network}"
    else:
        raise UserError(
            f"{job.network} does not tell what images it was trained on; name some with --data."
        )
    channels, height, width = image_shape(G)
    kwargs["resolution"] = height if height == width else [height, width]
    kwargs["use_labels"] = G.c_dim != 0
    if job.mirror is not None:
        kwargs["xflip"] = job.mirror
    _check_dataset(kwargs, (channels, height, width), G.c_dim, source)
    return kwargs


def find_run_dir(network: str) -> str | None:
    """The folder of a snapshot file if it is the one of a training run, else None."""
    if network.startswith("file://"):
        network = urllib.parse.unquote(urllib.parse.urlparse(network).path)
    folder = os.path.dirname(os.path.abspath(network))
    if os.path.isfile(network) and os.path.isfile(os.path.join(folder, "training_options.json")):
        return folder
    return None


def evaluate_in_process(
    rank: int, job: Evaluation, dataset_kwargs: Mapping[str, Any], G: nn.Module | None
) -> None:
    """Compute the metrics, together with the other processes if there are any.

    Args:
        rank: Of this process; the process group exists already.
        job: What to compute.
        dataset_kwargs: Of the real images, as `find_dataset` returns them.
        G: The network; None = read it.

    Raises:
        UserError: A metric cannot be computed.
    """
    device = distributed.rank_device(choose_device(job.device, job.gpus), rank)
    if rank != 0:
        custom_ops.verbosity = "none"
    _set_backends(device)
    if G is None:
        G = read_snapshot(job.network, allow_code=job.allow_code)["G_ema"]
    G = G.eval().requires_grad_(False).to(device)
    if job.verbose and rank == 0:
        inputs = [torch.zeros([1, size], device=device) for size in (G.z_dim, G.c_dim)]
        misc.print_module_summary(G, inputs)
    options = {
        "G": G,
        "G_kwargs": job.generator_kwargs(),
        "dataset_kwargs": dataset_kwargs,
        "num_gpus": job.gpus,
        "rank": rank,
        "device": device,
        "progress": ProgressMonitor(verbose=job.verbose and rank == 0),
        "seed": job.seed,
        "detectors": job.detectors,
        "batch_size": job.batch,
        "batch_gen": job.batch,
    }
    run_dir = find_run_dir(job.network)
    for metric in job.metrics:
        job.say(f"Calculating {metric}...")
        try:
            with exchange.together(job.gpus):
                result = metric_main.calc_metric(metric, **options)
                if rank == 0:
                    metric_main.report_metric(result, run_dir, job.network)
        except exchange.OtherProcessFailed:
            return  # the one that failed tells why
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{metric} needs more memory than {device} has; use a smaller --batch."
            ) from error
        job.say()


def _refuse_foreign_class(job: Evaluation, class_name: Any) -> None:
    # A file from anywhere must not choose what Python calls with arguments of its own.
    if class_name != DATASET_CLASS and not job.allow_code:
        raise UserError(
            f"{job.network} was trained on a data set of the class {class_name!r}, which is not "
            "one of this project; name the images with --data, or use --allow-code if you trust "
            "the file."
        )


def _check_dataset(
    kwargs: Mapping[str, Any], wanted: tuple[int, int, int], c_dim: int, source: str
) -> None:
    """Open the images to see whether they fit the network."""
    # Without the required size: the message here also tells who requires it.
    options = {name: value for name, value in kwargs.items() if name != "resolution"}
    try:
        dataset = dnnlib.util.construct_class_by_name(**options)
        label_dim = dataset.label_dim if dataset.has_labels else 0
        found = tuple(dataset.image_shape)
        if hasattr(dataset, "close"):
            dataset.close()
    except (OSError, UserError, zipfile.BadZipFile) as error:
        hint = "" if source.startswith("--data") else "; name images with --data"
        raise UserError(f"{source}: {error}{hint}") from error
    except (TypeError, ValueError, AttributeError, ImportError) as error:
        raise UserError(f"{source}: no data set can be made of them ({error})") from error
    if found != wanted:
        raise UserError(
            f"{source}: the images are {_shape_text(found)}, but the network makes "
            f"{_shape_text(wanted)}."
        )
    if c_dim != 0 and label_dim != c_dim:
        raise UserError(
            f"{source}: the labels have dimension {label_dim}, but the network needs {c_dim}."
        )


def _shape_text(shape: tuple[int, ...]) -> str:
    channels, height, width = shape
    return f"{width}x{height} (width x height) with {channels} channel{'s' * (channels != 1)}"


def _set_backends(device: torch.device) -> None:
    """Fast convolutions, but of full precision: metrics are compared with other people's."""
    if device.type == "cpu":
        keep_freed_memory()
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
