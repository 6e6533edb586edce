"""Find the latent of a trained network whose image looks most like a given picture.

Writes target.png, proj.png, projected_w.npz (draw it with generate.py --projected-w) and proj.mp4.

Examples:
    python projector.py --network=net.pkl --target=face.png --outdir=out
    python projector.py --network=net.pkl --target=dog.jpg --class=3 --space=z --outdir=out
    python generate.py --network=net.pkl --projected-w=out/projected_w.npz --outdir=out
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import dnnlib
import dnnlib.cli

if TYPE_CHECKING:
    import numpy as np
    import torch

VIDEO_FPS = 10
# Without a video encoder: single pictures, about so many of all steps.
MAX_FRAME_FILES = 50


def __getattr__(name: str) -> Any:
    """`from projector import project`, as scripts do; loads torch only then."""
    if name == "project":
        from analysis.projection import project

        return project
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@dnnlib.cli.command()
@click.option(
    "--network", "network_pkl", metavar="FILE|URL", required=True, help="Network snapshot."
)
@click.option(
    "--target",
    "target_fname",
    metavar="FILE",
    type=click.Path(),
    required=True,
    help="Picture to look for; its middle is cut out in the network's aspect and resized.",
)
@click.option("--outdir", metavar="DIR", type=click.Path(), required=True, help="Made if missing.")
@click.option("--num-steps", type=click.IntRange(min=1), default=1000, help="Optimisation steps.")
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=303, help="Of the noise on the way."
)
@click.option(
    "--save-video",
    type=bool,
    metavar="BOOL",
    default=True,
    help="Film the way there, the target beside it.",
)
@click.option(
    "--class", "label", metavar="INDEX", type=int, help="Class to search in (conditional network)."
)
@click.option(
    "--space",
    type=click.Choice(["w", "z"]),
    default="w",
    help="w: any w; z: only those that the mapping network gives.",
)
@dnnlib.cli.detector_option
@dnnlib.cli.device_option
@dnnlib.cli.allow_code_option
def run_projection(
    network_pkl: str,
    target_fname: str,
    outdir: str,
    num_steps: int,
    seed: int,
    save_video: bool,
    label: int | None,
    space: str,
    detectors: dict[str, str],
    device: str,
    allow_code: bool,
) -> None:
    """Find the latent whose image looks most like a given picture."""
    from analysis.targets import read_picture
    from metrics.detectors import load_detector
    from networks import sampling
    from networks.snapshot_file import read_generator
    from torch_utils import host_memory, misc

    torch_device = misc.resolve_device(device)
    host_memory.keep_freed_memory()
    picture = read_picture(target_fname)
    G = read_generator(network_pkl, allow_code=allow_code).to(torch_device)
    label = sampling.check_class(G, label)
    target = fit_picture(picture, sampling.image_shape(G))
    detector = load_detector("vgg16", torch_device, detectors)
    folder = dnnlib.cli.make_outdir(outdir)

    ws = _search(G, target, folder, detector, num_steps, label, space, seed)
    if save_video:
        _film(folder, G, ws, target)
    print(f"Wrote the results to {folder}")


def fit_picture(picture: np.ndarray, shape: tuple[int, int, int]) -> torch.Tensor:
    """Cut out the middle of a picture in the wanted aspect and resize it (Lanczos).

    Args:
        picture: uint8 [height, width, 1, 3 or 4].
        shape: (channels, height, width) wanted. Where they give up transparency, the picture is
            laid on white.

    Returns:
        uint8 [C, H, W].

    Raises:
        dnnlib.UserError: No picture has that many channels.
    """
    import torch

    from training.dataset_transform import CHANNEL_NAMES, Transform, force_channels

    channels, height, width = shape
    if channels not in CHANNEL_NAMES:
        raise dnnlib.UserError(
            f"This network draws images of {channels} channels; a picture has 1, 3 or 4."
        )
    transform = Transform(kind="center-crop", width=width, height=height)
    return torch.from_numpy(transform(force_channels(picture, channels)).copy()).permute(2, 0, 1)


def _search(
    G: torch.nn.Module,
    target: torch.Tensor,
    folder: Path,
    detector: Any,
    num_steps: int,
    label: int | None,
    space: str,
    seed: int,
) -> torch.Tensor:
    """Project, and write all results but the film. Returns [num_steps, num_ws, w_dim]."""
    from analysis.projection import compare, project
    from dnnlib.progress import progress
    from networks.sampling import device_of, draw_image
    from torch_utils.array_file import write_arrays
    from torch_utils.images import write_image

    # Before the work: it would be a pity to learn afterwards that the folder is read-only.
    write_image(folder / "target.png", target)
    device = device_of(G)
    with progress(num_steps, desc="Projecting", unit="step") as bar:

        def show(_step: int, distance: float, _loss: float) -> None:
            bar.set_postfix(distance=distance)
            bar.update()

        ws = project(
            G,
            target,
            num_steps=num_steps,
            device=device,
            label=label,
            space=space,
            detector=detector,
            seed=seed,
            callback=show,
        )
    image = draw_image(G, ws[-1:], seed)
    write_image(folder / "proj.png", image)
    write_arrays(folder / "projected_w.npz", {"w": ws[-1:].cpu().numpy()})
    distance, psnr = compare(detector, image.to(device), target.to(device))
    print(f"proj.png and target.png: distance {distance:.4g}, PSNR {psnr:.2f} dB")
    return ws


def _film(folder: Path, G: torch.nn.Module, ws: torch.Tensor, target: torch.Tensor) -> None:
    """Write proj.mp4, or where that is impossible every so many steps as a picture."""
    from analysis import video
    from torch_utils.images import write_image

    if video.can_write_video():
        try:
            video.write_video(folder / "proj.mp4", _frames(G, ws, target, 1), fps=VIDEO_FPS)
            return
        except dnnlib.UserError as error:
            reason = str(error)
    else:
        reason = f"no proj.mp4 without a video encoder ({video.INSTALL_HINT})"
    every = -(-len(ws) // MAX_FRAME_FILES)
    frames = dnnlib.cli.make_outdir(str(folder / "proj-frames"))
    for index, frame in enumerate(_frames(G, ws, target, every)):
        write_image(frames / f"step{index * every:04d}.png", frame)
    dnnlib.cli.warn(f"{reason}; wrote {index + 1} of {len(ws)} steps as pictures to {frames}.")


def _frames(
    G: torch.nn.Module, ws: torch.Tensor, target: torch.Tensor, every: int
) -> Iterator[np.ndarray]:
    """The target beside the image of each `every`th step: uint8 [H, 2 W, 3]."""
    import numpy as np
    import torch

    from dnnlib.progress import progress
    from metrics.pictures import to_rgb
    from networks.sampling import draw_image

    for w in progress(ws[::every], desc="Drawing frames", unit="frame"):
        image = draw_image(G, w[None], 0)
        pair = to_rgb(torch.cat([target, image], dim=2)[None])[0]
        yield np.ascontiguousarray(pair.permute(1, 2, 0).numpy())


if __name__ == "__main__":
    run_projection()
