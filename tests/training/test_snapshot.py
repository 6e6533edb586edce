"""Image grids and network snapshots."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import dnnlib
from torch_utils import persistence
from training.snapshot import FakeGrid, save_network_snapshot, setup_snapshot_image_grid
from training.training_loop import save_image_grid

PIL_Image = pytest.importorskip("PIL.Image")


class Images:
    """A data set in memory: image i has the value i everywhere."""

    def __init__(self, num: int, shape: tuple[int, int, int], classes: list | None = None):
        self.image_shape = list(shape)
        self.num = num
        self.classes = classes
        self.has_labels = classes is not None

    def __len__(self):
        return self.num

    def __getitem__(self, index):
        label = np.zeros([0 if self.classes is None else 5], np.float32)
        if self.classes is not None:
            label[self.classes[index]] = 1
        return np.full(self.image_shape, index, np.uint8), label

    def get_details(self, index):
        return dnnlib.EasyDict(raw_label=np.asarray(self.classes[index]))


@pytest.mark.parametrize(
    ("size", "grid"),
    [(32, (32, 32)), (128, (32, 32)), (256, (30, 16)), (512, (15, 8)), (1024, (7, 4))],
)
def test_grid_size(size, grid):
    columns, rows = grid
    found, images, labels = setup_snapshot_image_grid(Images(3, (1, size, size)))
    assert found == grid
    assert images.shape == (columns * rows, 1, size, size) and labels.shape == (columns * rows, 0)


def test_grid_without_labels_is_a_fixed_shuffle():
    _, images, _ = setup_snapshot_image_grid(Images(200, (3, 32, 32)))
    order = np.arange(200)
    np.random.RandomState(0).shuffle(order)
    assert np.array_equal(images[:, 0, 0, 0], np.resize(order, 1024))


def test_grid_with_labels_shows_one_class_per_row():
    classes = [index % 3 for index in range(150)]
    _, images, labels = setup_snapshot_image_grid(Images(150, (1, 32, 32), classes))
    rows = images[:, 0, 0, 0].reshape(32, 32)
    assert np.array_equal(rows % 3, np.repeat(np.arange(32) % 3, 32).reshape(32, 32))
    assert np.array_equal(labels.argmax(1).reshape(32, 32), rows % 3)
    # The second row of a class goes on where its first one ended: 50 images, 32 + 18 are new.
    shown = np.concatenate([rows[0], rows[3]])
    assert len(set(shown[:50])) == 50 and np.array_equal(shown[50:], shown[:14])


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_image_grid_file(tmp_path, channels):
    images = np.zeros([2, channels, 4, 4], np.float32)
    images[1] = 1.0
    save_image_grid(images, str(tmp_path / "grid.png"), drange=[-1, 1], grid_size=(2, 1))
    pixels = np.asarray(PIL_Image.open(tmp_path / "grid.png"))
    assert pixels.shape[:2] == (4, 8)
    assert (pixels[:, :4] == 128).all() and (pixels[:, 4:] == 255).all()


def build(preset: str = "inr-gan-bil", c_dim: int = 2):
    G = dnnlib.util.construct_class_by_name(
        class_name="networks.build_generator", preset=preset, z_dim=8, c_dim=c_dim, w_dim=8,
        img_resolution=16, img_channels=3, mapping_kwargs={"num_layers": 2},
        synthesis_kwargs={"channel_base": 64, "channel_max": 8},
    )  # fmt: skip
    D = dnnlib.util.construct_class_by_name(
        class_name="networks.build_discriminator", c_dim=c_dim, img_resolution=16, img_channels=3,
        channel_base=64, channel_max=8,
    )  # fmt: skip
    return G, D


def test_fake_grid_repeats_itself(tmp_path):
    G, _ = build()
    labels = np.eye(2, dtype=np.float32)[[0, 1, 1, 0, 1, 0]]
    grid = FakeGrid((3, 2), labels, G.z_dim, 4, torch.device("cpu"))
    grid.save(G.eval(), str(tmp_path / "a.png"))
    grid.save(G, str(tmp_path / "b.png"))
    first = np.asarray(PIL_Image.open(tmp_path / "a.png"))
    assert first.shape == (32, 48, 3) and first.std() > 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("preset", ["stylegan2", "inr-gan", "inr-gan-bil"])
def test_snapshot_round_trip(tmp_path, preset):
    G, D = build(preset)
    pipe = dnnlib.util.construct_class_by_name(class_name="training.AugmentPipe", xflip=1)
    pipe.p.fill_(0.25)
    G.train().requires_grad_(True)
    modules = {"G": G, "D": D, "G_ema": G, "augment_pipe": pipe}
    path = tmp_path / "net.pkl"
    save_network_snapshot(str(path), {"path": "x.zip"}, modules)
    assert G.training and all(p.requires_grad for p in G.parameters()), "the original is untouched"

    with open(path, "rb") as file:
        data = persistence.read(file)
    assert list(data) == ["training_set_kwargs", "G", "D", "G_ema", "augment_pipe"]
    assert data["training_set_kwargs"] == {"path": "x.zip"}
    for name, module in modules.items():
        loaded = data[name]
        assert not loaded.training
        assert not any(p.requires_grad for p in loaded.parameters())
        state = module.state_dict()
        assert loaded.state_dict().keys() == state.keys()
        assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())
    z, c = torch.randn(3, 8), torch.eye(2)[[0, 1, 1]]
    with torch.no_grad():  # what needs no gradient takes another way, rounded otherwise
        expected = G.eval()(z, c, noise_mode="const")
    assert torch.equal(data["G_ema"](z, c, noise_mode="const"), expected)
    save_network_snapshot(str(path), {}, {**modules, "augment_pipe": None})
    assert persistence.read(path.read_bytes())["augment_pipe"] is None
