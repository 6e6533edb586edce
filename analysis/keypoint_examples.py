"""Images as codes and keypoints: drawn from seeds, read from a file, or real ones, embedded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

import dnnlib
from analysis.keypoints import Extractor, keypoint_array, read_arrays
from metrics.pictures import to_rgb
from networks import sampling
from torch_utils.images import to_uint8
from training.dataset import ImageFolderDataset

SPACES = ("z", "w")
"""Of codes."""

_BATCH = 256  # of the mapping network


@dataclass(frozen=True)
class Examples:
    """Images by their codes and keypoints.

    Attributes:
        codes: Space -> [N, D].
        keypoints: float64 [N, K, 2], (x, y) in units of the image; nan where none were found.
    """

    codes: dict[str, np.ndarray]
    keypoints: np.ndarray

    def __len__(self) -> int:
        return len(self.keypoints)

    def __getitem__(self, part: slice | np.ndarray) -> Examples:
        codes = {space: values[part] for space, values in self.codes.items()}
        return Examples(codes, self.keypoints[part])

    def found(self) -> Examples:
        """Those in which keypoints were found."""
        return self[np.isfinite(self.keypoints).all((1, 2))]


def codes_of_seeds(
    G: nn.Module, seeds: Sequence[int], label: int | None = None, psi: float = 1
) -> tuple[dict[str, np.ndarray], Tensor]:
    """z and w of seeds, as everywhere in this project.

    Args:
        G: Generator.
        seeds: One image each.
        label: Class; None for unconditional networks.
        psi: Truncation.

    Returns:
        Space -> [N, D]; and ws [N, num_ws, w_dim] where the weights of G are.
    """
    z = sampling.latents(seeds, G.z_dim)
    device = sampling.device_of(G)
    with torch.no_grad():
        c = sampling.one_hot(label, G.c_dim, len(seeds)).to(device)
        ws = G.mapping(z.to(device), c, truncation_psi=psi)
    return {"z": z.numpy(), "w": single_w(ws)}, ws


def single_w(ws: Tensor) -> np.ndarray:
    """One w per image, float64 [N, w_dim]: the mean over layers, which usually have the same."""
    return ws.cpu().to(torch.float64).mean(1).numpy()


def examples_of_seeds(
    G: nn.Module,
    batches: Iterable[Sequence[int]],
    extractor: Extractor,
    label: int | None = None,
    psi: float = 1,
) -> Examples:
    """Draws images and finds their keypoints.

    Args:
        G, label, psi: As `codes_of_seeds`.
        batches: Seeds that are drawn together.
        extractor: Of keypoints.

    Raises:
        dnnlib.UserError: Images that are not finite, or that the extractor does not take.
    """
    codes: dict[str, list[np.ndarray]] = {space: [] for space in SPACES}
    points = []
    for seeds in batches:
        found, ws = codes_of_seeds(G, seeds, label, psi)
        with torch.inference_mode():
            images = G.synthesis(ws, noise_mode="const")
        if not images.isfinite().all():
            raise dnnlib.UserError(
                "The network draws values that are not finite, so there are no keypoints; use an "
                "earlier snapshot."
            )
        points.append(relative_keypoints(extractor, to_uint8(images)))
        for space in SPACES:
            codes[space].append(found[space])
    joined = {space: np.concatenate(parts) for space, parts in codes.items()}
    return Examples(joined, np.concatenate(points))


def relative_keypoints(extractor: Extractor, images: Tensor) -> np.ndarray:
    """Keypoints in units of the image, float64 [N, K, 2]: x / width, y / height.

    Args:
        extractor: Gives pixels.
        images: uint8 [N, C, H, W] with 1, 3 or 4 channels.
    """
    height, width = images.shape[2:]
    return extractor(to_rgb(images)) / np.array([width, height], np.float64)


def examples_of_file(
    G: nn.Module, path: str, count: int, label: int | None = None, psi: float = 1
) -> Examples:
    """Keypoints that were found earlier, with the codes of their seeds.

    Args:
        G, label, psi: As `codes_of_seeds`; the images must have been drawn with these.
        path: An .npz file with `keypoints` [N, K, 2] and, unless they are 0 to N - 1, `seeds` [N].
        count: How many to take, from the start.

    Raises:
        dnnlib.UserError: Not such a file, or fewer images in it.
    """
    what = f"--keypoints={path}"
    arrays = read_arrays(path, "--keypoints")
    points = keypoint_array(arrays, what)
    seeds = arrays.get("seeds", np.arange(len(points)))
    if seeds.shape != (len(points),) or seeds.dtype.kind not in "iu" or seeds.min() < 0:
        raise dnnlib.UserError(f"{what} needs one seed, an integer, for each of its images.")
    if len(points) < count:
        raise dnnlib.UserError(
            f"{what} holds {len(points)} images; --num-train and --num-test need {count}."
        )
    parts = [
        codes_of_seeds(G, seeds[start : min(start + _BATCH, count)].tolist(), label, psi)[0]
        for start in range(0, count, _BATCH)
    ]
    codes = {space: np.concatenate([part[space] for part in parts]) for space in SPACES}
    return Examples(codes, points[:count])


def projected_examples(
    G: nn.Module, files: Sequence[str], data: str, extractor: Extractor | None
) -> Examples:
    """Real pictures with the codes that a projector found for them.

    Args:
        G: Generator.
        files: .npz files with w [N, num_ws, w_dim] and, perhaps, z [N, z_dim], in the order of the
            pictures.
        data: The pictures, a folder or zip, in the order of their names; or an .npz file with
            their `keypoints` [N, K, 2].
        extractor: Of keypoints; None = `data` has to hold them.

    Returns:
        The codes "z" are there only if all files have them.

    Raises:
        dnnlib.UserError: The files are not such, or do not fit together.
    """
    what = f"--test-data={data}"
    ws = torch.cat([sampling.load_ws(name, G, "--test-w") for name in files])
    codes = {"w": single_w(ws)}
    z = [read_arrays(name, "--test-w").get("z") for name in files]
    if all(part is not None for part in z):
        joined = np.concatenate(z)
        if joined.shape != (len(ws), G.z_dim):
            raise dnnlib.UserError(
                f"--test-w holds z of shape {list(joined.shape)}, not [{len(ws)}, {G.z_dim}]."
            )
        codes["z"] = joined
    if data.endswith(".npz"):
        points = keypoint_array(read_arrays(data, "--test-data"), what)
    elif extractor is None:
        raise dnnlib.UserError(
            f"{what}: with --keypoints from a file, the keypoints of real pictures must come from "
            "an .npz file too."
        )
    else:
        points = _keypoints_of_pictures(data, extractor)
    if len(points) != len(ws):
        raise dnnlib.UserError(f"{what} holds {len(points)} pictures, --test-w {len(ws)} codes.")
    return Examples(codes, points)


def _keypoints_of_pictures(path: str, extractor: Extractor) -> np.ndarray:
    try:
        with contextlib.closing(ImageFolderDataset(path=path)) as dataset:
            pictures = (torch.from_numpy(dataset[i][0])[None] for i in range(len(dataset)))
            return np.concatenate([relative_keypoints(extractor, image) for image in pictures])
    except OSError as error:
        raise dnnlib.UserError(f"--test-data={path}: {error}") from error
