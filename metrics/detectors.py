"""The pretrained networks that metrics look through: Inception for FID, VGG16 for LPIPS.

They are the TorchScript files that StyleGAN2-ADA publishes. A detector is looked for, in this
order, among the files the user named (`--detector NAME=PATH`), in the folder named by the
environment variable GAN_DETECTOR_DIR, and in the download cache; else it is downloaded.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import warnings
from collections.abc import Mapping
from typing import Any

import torch

import dnnlib
from dnnlib import UserError
from dnnlib.errors import FileError
from dnnlib.files import file_sha256
from metrics import exchange

_ADDRESS = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/"
INCEPTION_URL = _ADDRESS + "inception-2015-12-05.pt"
VGG16_URL = _ADDRESS + "vgg16.pt"

DETECTOR_URLS: dict[str, str] = {"inception-2015-12-05": INCEPTION_URL, "vgg16": VGG16_URL}
DETECTOR_DIR_VARIABLE = "GAN_DETECTOR_DIR"

# NVIDIA publishes no checksums. Others who use these files do: k-diffusion (evaluation.py) pins
# the first, GenForce's Hammer (perceptual_model.py) the second.
_SHA256 = {
    INCEPTION_URL: "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
    VGG16_URL: "b437eb095feaeb0b83eb3fa11200ebca4548ee39a07fb944a417ddc516cc07c3",
}
# What the functions in these files are called with; tells one from the other.
_ARGUMENTS = {
    "inception-2015-12-05": {"return_features", "no_output_bias"},
    "vgg16": {"resize_images", "return_features", "return_lpips"},
}
_DOWNLOAD_ATTEMPTS = 3


class DetectorUnavailable(UserError):
    """A detector is not on this machine and cannot be downloaded, or its file is of no use."""


@dataclasses.dataclass(frozen=True)
class Detector:
    """A loaded detector; call it with uint8 or float images in [0, 255], [N, 3, H, W].

    Keyword arguments of the call select the output: `return_features`, `no_output_bias` for
    Inception; `return_features`, `return_lpips`, `resize_images` for VGG16. Differentiable with
    respect to floating point images.

    Attributes:
        name: For example "vgg16".
        sha256: Of the file, in hex.
        module: The network, in evaluation mode, without gradients for its parameters.
    """

    name: str
    sha256: str
    module: torch.nn.Module

    def __call__(self, images: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Apply the network; see the class."""
        return self.module(images, **kwargs)


_loaded: dict[tuple[str, torch.device], Detector] = {}


def get_feature_detector_name(url: str) -> str:
    """Return the name of a detector: the last part of its URL or path, without the suffix."""
    return os.path.splitext(url.replace("\\", "/").split("/")[-1])[0]


def load_detector(
    name: str,
    device: torch.device | str,
    overrides: Mapping[str, str] | None = None,
    verbose: bool = True,
) -> Detector:
    """Find, if need be download, verify and load a detector.

    Args:
        name: A key of `DETECTOR_URLS`, or the URL of another TorchScript file.
        device: Where it will compute.
        overrides: Detector name -> file, as given with `--detector`.
        verbose: Print a line per download.

    Raises:
        DetectorUnavailable: The message names the ways to provide the file.
        UserError: An override names a file that is not there.
    """
    path = find_detector(name, overrides, verbose)
    return _load_file(get_feature_detector_name(name), path, torch.device(device))


def get_feature_detector(
    url: str,
    device: torch.device | str = "cpu",
    num_gpus: int = 1,
    rank: int = 0,
    verbose: bool = False,
    overrides: Mapping[str, str] | None = None,
) -> Detector:
    """Load a detector in all processes: rank 0 downloads it, the others wait.

    Args:
        url: Name or URL, see `load_detector`.
        device: Of this process.
        num_gpus: Number of processes, all of which must call this.
        rank: Of this process.
        verbose: Whether rank 0 prints a line per download.
        overrides: Detector name -> file.

    Raises:
        UserError: In every process, if rank 0 cannot find or load it.
    """
    with exchange.leader_first(num_gpus, rank):
        return load_detector(url, device, overrides, verbose=verbose and rank == 0)


def find_detector(
    name: str, overrides: Mapping[str, str] | None = None, verbose: bool = True
) -> str:
    """Return the file of a detector, downloading it if it is nowhere; see `load_detector`."""
    url = DETECTOR_URLS.get(name, name)
    name = get_feature_detector_name(name)
    if overrides is not None and name in overrides:
        path = os.fspath(overrides[name])
        if not os.path.isfile(path):
            raise DetectorUnavailable(f"--detector={name}={path}: there is no such file")
        return path
    folder = os.environ.get(DETECTOR_DIR_VARIABLE)
    if folder:
        path = os.path.join(folder, f"{name}.pt")
        if os.path.isfile(path):
            return path
    if not dnnlib.util.is_url(url, allow_file_urls=True):
        if os.path.isfile(url):
            return url
        raise DetectorUnavailable(
            f"there is no detector {name!r}; known are {', '.join(DETECTOR_URLS)}"
        )
    return _download(name, url, verbose)


def _download(name: str, url: str, verbose: bool) -> str:
    """The file in the download cache, verified."""
    record = dnnlib.make_cache_dir_path("downloads", f"{_safe(name)}-{_short_hash(url)}.sha256")
    expected = _SHA256.get(url) or _read_record(record)
    try:
        path = dnnlib.util.open_url(
            url,
            num_attempts=_DOWNLOAD_ATTEMPTS,
            verbose=verbose,
            return_filename=True,
            sha256=expected,
        )
    except FileError as error:
        raise DetectorUnavailable(
            f"the detector {name!r} is not on this machine and its download failed ({error}): "
            f"fetch {url} elsewhere, then give it with --detector={name}=PATH, or put it as "
            f"{name}.pt into a folder named by the environment variable {DETECTOR_DIR_VARIABLE}, "
            "or connect this machine to the network"
        ) from error
    assert isinstance(path, str)
    if expected is None and not url.startswith("file://"):
        # Unknown file: what came first is what we expect from now on.
        with dnnlib.util.atomic_path(record) as temporary, open(temporary, "w") as file:
            file.write(file_sha256(path) + "\n")
    return path


def _read_record(path: str) -> str | None:
    """The checksum noted at the first download, None if there was none."""
    try:
        with open(path, encoding="ascii") as file:
            text = file.read().strip()
    except (OSError, UnicodeDecodeError):
        return None
    return text if re.fullmatch(r"[0-9a-f]{64}", text) else None


def _safe(name: str) -> str:
    return re.sub(r"[^0-9a-zA-Z-._]", "_", name)


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _load_file(name: str, path: str, device: torch.device) -> Detector:
    """Load once per content and device."""
    sha256 = file_sha256(path)
    key = (sha256, device)
    if key not in _loaded:
        _loaded[key] = Detector(name, sha256, _load_torchscript(name, path, device))
    # A file under the name of another detector would give numbers under the name of another metric.
    missing = sorted(_ARGUMENTS.get(name, set()) - _argument_names(_loaded[key].module))
    if missing:
        raise DetectorUnavailable(
            f"{path!r} is not the detector {name!r}: it knows no {', '.join(missing)}"
        )
    return dataclasses.replace(_loaded[key], name=name)


def _argument_names(module: torch.nn.Module) -> set[str]:
    schema = getattr(module.forward, "schema", None) if hasattr(module, "forward") else None
    return {argument.name for argument in schema.arguments} if schema is not None else set()


def _load_torchscript(name: str, path: str, device: torch.device) -> torch.nn.Module:
    """The only place that knows the format of the files.

    TorchScript is deprecated but is what is published, and unlike a pickle it can only compute.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            module = torch.jit.load(path, map_location=device)
        except (RuntimeError, ValueError) as error:
            first_line = str(error).strip().splitlines()[0].split(". ")[0]
            raise DetectorUnavailable(
                f"{path!r}, the detector {name!r}, is no TorchScript file: {first_line}"
            ) from error
    for param in module.parameters():  # requires_grad_() of the module does not exist here
        param.requires_grad_(False)
    return module.eval()
