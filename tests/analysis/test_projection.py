"""Projection: the search comes nearer, repeats, leaves the network alone, and works for all."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import dnnlib
from analysis import projection
from analysis.projection import project
from metrics.detectors import load_detector
from networks.presets import PRESETS
from networks.sampling import image_shape, one_hot, ws_of_seed
from tests.metrics import tiny_detectors
from tests.small_networks import make_generator

FEW = {"w_avg_samples": 100, "device": "cpu"}


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., torch.Tensor]:
    paths = tiny_detectors.make(tmp_path_factory.mktemp("detectors"))
    return load_detector("vgg16", "cpu", paths)


def own_picture(G: torch.nn.Module, label: int | None = None) -> torch.Tensor:
    """A picture that the network draws itself: [C, H, W] in [0, 255]."""
    with torch.no_grad():
        image = G.synthesis(ws_of_seed(G, 5, label), noise_mode="const")
    return projection.to_255(image)[0].clamp(0, 255)


def distances(run: Callable[..., torch.Tensor]) -> list[float]:
    """What the callback of a projection was told, step by step."""
    seen: list[float] = []
    run(callback=lambda _step, distance, _loss: seen.append(distance))
    return seen


@pytest.mark.parametrize("space", ["w", "z"])
@pytest.mark.parametrize("preset", PRESETS)
def test_the_search_comes_nearer(
    preset: str, space: str, detector: Callable[..., torch.Tensor]
) -> None:
    G = make_generator(preset)
    target = own_picture(G)
    steps: list[int] = []
    seen: list[float] = []

    def record(step: int, distance: float, _loss: float) -> None:
        steps.append(step)
        seen.append(distance)

    options = {"space": space, "detector": detector, "seed": 0, "callback": record}
    ws = project(G, target, num_steps=40, **FEW, **options)
    assert (ws.shape, ws.dtype) == ((40, G.num_ws, G.w_dim), torch.float32)
    assert torch.equal(ws, ws[:, :1].expand_as(ws))  # one w for all layers
    assert steps == list(range(1, 41))
    # Random weights make a rugged landscape, in which not every search gets far in few steps.
    usual = preset in ("inr-gan", "inr-gan-bil", "stylegan2")
    assert seen[-1] < (0.5 if usual else 0.95) * max(seen[:5])


def test_a_picture_of_the_network_is_found_again_with_its_w() -> None:
    """Where features are the pixels and there is no noise, the optimum is the w that drew it."""

    def pixels(images: torch.Tensor, **_options: bool) -> torch.Tensor:
        return images.flatten(1) / 2550

    G = make_generator("inr-gan").eval()
    w = ws_of_seed(G, 5)
    with torch.no_grad():
        target = projection.to_255(G.synthesis(w))[0]
    ws = project(G, target, num_steps=150, **FEW, detector=pixels, seed=0)
    assert (ws[0] - w).norm() > 0.5 * w.norm()
    assert (ws[-1] - w).norm() < 1e-2 * w.norm()


@pytest.mark.parametrize("preset", PRESETS)
def test_the_network_is_left_alone(preset: str, detector: Callable[..., torch.Tensor]) -> None:
    G = make_generator(preset).train().requires_grad_(True)
    before = {name: tensor.clone() for name, tensor in G.state_dict().items()}
    target = own_picture(G.eval())
    ws = project(G.train(), target, num_steps=2, **FEW, detector=detector, seed=0)
    assert ws.isfinite().all() and not ws.requires_grad
    assert G.training and all(p.requires_grad and p.grad is None for p in G.parameters())
    after = G.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("preset", ["inr-gan-bil", "stylegan2"])
def test_a_seed_repeats(preset: str, detector: Callable[..., torch.Tensor]) -> None:
    G = make_generator(preset)
    target = own_picture(G)

    def run(**options: object) -> torch.Tensor:
        return project(G, target, num_steps=4, **FEW, detector=detector, **options)

    assert torch.equal(run(seed=1), run(seed=1))
    assert not torch.equal(run(seed=1), run(seed=2))
    # Without a seed: torch's own generator, as callers of StyleGAN2-ADA's function expect.
    torch.manual_seed(1)
    assert torch.equal(run(), run(seed=1))


def test_noise_maps_are_searched_too_and_stay_white(
    monkeypatch: pytest.MonkeyPatch, detector: Callable[..., torch.Tensor]
) -> None:
    maps: dict[int, torch.Tensor] = {}
    start: dict[int, torch.Tensor] = {}
    normalize = projection.normalize_noise_

    def watch(noise: torch.Tensor) -> None:
        normalize(noise)
        start.setdefault(id(noise), noise.detach().clone())
        maps[id(noise)] = noise

    monkeypatch.setattr(projection, "normalize_noise_", watch)
    G = make_generator("stylegan2")
    project(G, own_picture(G), num_steps=5, **FEW, detector=detector, seed=0)
    assert sorted(len(noise) for noise in maps.values()) == [4, 8, 8, 16, 16]
    for key, noise in maps.items():
        noise = noise.detach()
        assert abs(float(noise.mean())) < 1e-6
        assert float(noise.square().mean()) == pytest.approx(1, rel=1e-4)
        assert not torch.equal(noise, start[key])


def test_normalize_noise() -> None:
    noise = 3 * torch.randn(8, 8) + 2
    expected = (noise - noise.mean()) / noise.std(correction=0)
    projection.normalize_noise_(noise)
    torch.testing.assert_close(noise, expected)


def test_noise_regularization_is_the_formula() -> None:
    noise = torch.from_numpy(np.random.RandomState(0).randn(16, 16))
    total = 0.0
    for side in (16, 8):
        n = noise.numpy().reshape(side, 16 // side, side, 16 // side).mean(axis=(1, 3))
        for axis in (0, 1):
            total += np.mean(n * np.roll(n, 1, axis)) ** 2
    assert float(projection.noise_regularization([noise])) == pytest.approx(total)
    small = torch.ones(4, 4)
    assert float(projection.noise_regularization([small, small])) == 4
    assert projection.noise_regularization([]) == 0


def test_schedules() -> None:
    ramps = [projection.learning_rate_ramp(t, 0.25, 0.05) for t in (0, 0.025, 0.05, 0.75, 0.875)]
    assert ramps == pytest.approx([0, 0.5, 1, 1, 0.5])
    assert projection.learning_rate_ramp(1.0, 0.25, 0.05) == pytest.approx(0)
    assert projection.learning_rate_ramp(0.0, 0, 0) == pytest.approx(1)
    noise = [projection.exploration_ramp(t, 0.75) for t in (0, 0.375, 0.75, 0.9)]
    assert noise == pytest.approx([1, 0.25, 0, 0])
    assert projection.exploration_ramp(0, 0) == 0


@pytest.mark.parametrize("c_dim", [0, 3])
def test_statistics(c_dim: int) -> None:
    G = make_generator("inr-gan-bil", c_dim=c_dim).eval()
    z = torch.from_numpy(np.random.RandomState(123).randn(1500, 8)).float()
    label = 1 if c_dim else None
    c = one_hot(label, c_dim)
    w = G.mapping(z, c.expand(1500, -1))[:, 0].detach()
    start, spread = projection.latent_statistics(G, c, 1500)
    torch.testing.assert_close(start, w.mean(dim=0)[None, None])
    assert spread == pytest.approx(math.sqrt(float((w - w.mean(dim=0)).square().sum()) / 1500))
    start, spread = projection.latent_statistics(G, c, 1500, space="z")
    nearest = z[(w - w.mean(dim=0)).square().sum(dim=1).argmin()]
    torch.testing.assert_close(start, nearest[None, None])
    assert spread == pytest.approx(math.sqrt(8), rel=0.05)
    if c_dim:
        other, _spread = projection.latent_statistics(G, one_hot(2, 3), 1500)
        first, _spread = projection.latent_statistics(G, c, 1500)
        assert not torch.allclose(other, first, rtol=1e-2)


@pytest.mark.parametrize("space", ["w", "z"])
def test_conditional(space: str, detector: Callable[..., torch.Tensor]) -> None:
    G = make_generator("inr-gan-bil", c_dim=3).eval()
    target = own_picture(G, label=2)
    options = {"space": space, "detector": detector, "seed": 0, **FEW}
    by_index = project(G, target, num_steps=2, label=2, **options)
    by_vector = project(G, target, num_steps=2, label=torch.tensor([0.0, 0.0, 1.0]), **options)
    assert torch.equal(by_index, by_vector)
    assert not torch.equal(by_index, project(G, target, num_steps=2, label=0, **options))
    for label, message in ((None, "needs a label, 0 to 2"), (3, "class 3"), (torch.ones(2), "2")):
        with pytest.raises(ValueError, match=message):
            project(G, target, num_steps=2, label=label, **options)


def test_z_space_stays_on_the_mapping(detector: Callable[..., torch.Tensor]) -> None:
    """The ws that come back are the mapping's, also where those never move."""
    G = make_generator("inr-gan-bil")
    G.mapping.forward = lambda z, c, **_: torch.zeros(len(z), G.num_ws, 8) + 0 * z.sum()
    ws = project(
        G, torch.zeros(image_shape(G)), num_steps=3, space="z", detector=detector, seed=0, **FEW
    )
    assert not ws.any()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels(channels: int, detector: Callable[..., torch.Tensor]) -> None:
    G = make_generator("inr-gan-bil", img_channels=channels)
    target = own_picture(G)

    def run(callback: Callable[[int, float, float], None]) -> torch.Tensor:
        return project(G, target, num_steps=30, **FEW, detector=detector, seed=0, callback=callback)

    seen = distances(run)
    assert seen[-1] < 0.7 * seen[0]


@pytest.mark.parametrize(
    ("size", "seen"),
    [
        ((512, 512), (256, 256)),
        ((300, 600), (128, 256)),
        ((256, 64), (256, 64)),
        ((4, 8), (16, 32)),
    ],
)
def test_size_that_the_detector_sees(size: tuple[int, int], seen: tuple[int, int]) -> None:
    def detector(images: torch.Tensor, resize_images: bool, return_lpips: bool) -> torch.Tensor:
        assert (resize_images, return_lpips) == (False, True)
        assert images.shape == (1, 3, *seen)
        return images.mean(dim=(2, 3))

    image = torch.rand(1, 3, *size)
    mean = projection.features(detector, image)
    torch.testing.assert_close(mean, image.mean(dim=(2, 3)), rtol=1e-3, atol=1e-3)


def test_compare(detector: Callable[..., torch.Tensor]) -> None:
    image = torch.randint(0, 246, [3, 16, 16], dtype=torch.uint8)
    assert projection.compare(detector, image, image) == (0, math.inf)
    distance, psnr = projection.compare(detector, image, image + 10)
    assert distance > 0
    assert psnr == pytest.approx(20 * math.log10(25.5))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"space": "w+"}, "w or z"), ({"num_steps": 0}, "positive"), ({"num_steps": -3}, "-3")],
)
def test_arguments_out_of_range(
    options: dict[str, object], message: str, detector: Callable[..., torch.Tensor]
) -> None:
    G = make_generator("inr-gan-bil")
    with pytest.raises(ValueError, match=message):
        project(G, torch.zeros(image_shape(G)), **{**FEW, "detector": detector, **options})


@pytest.mark.parametrize("shape", [(3, 16, 8), (1, 16, 16), (1, 3, 16, 16)])
def test_target_of_another_shape(
    shape: tuple[int, ...], detector: Callable[..., torch.Tensor]
) -> None:
    with pytest.raises(ValueError, match="target has shape"):
        project(make_generator("inr-gan-bil"), torch.zeros(shape), **FEW, detector=detector)


def test_verbose_and_the_detector_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_detectors.make(tmp_path)
    monkeypatch.setenv("GAN_DETECTOR_DIR", str(tmp_path))
    G = make_generator("inr-gan-bil")
    project(G, own_picture(G).to(torch.uint8), num_steps=2, **FEW, verbose=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["step    1/2", "step    2/2"]
    assert all("dist" in line and "loss" in line for line in lines)


def test_a_network_that_has_diverged_is_not_searched(detector: Callable[..., torch.Tensor]) -> None:
    G = make_generator()
    target = own_picture(G)
    with torch.no_grad():
        next(G.synthesis.parameters()).fill_(math.nan)
    seen: list[int] = []
    with pytest.raises(dnnlib.UserError, match="not finite"):
        project(G, target, detector=detector, callback=lambda step, *_: seen.append(step), **FEW)
    assert not seen
