"""The published INR-GAN's network: its numbers, names, configuration, and the field it defines."""

from __future__ import annotations

import copy
import functools
import json
import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
import torch

import networks
from networks.inr_block import block_weights
from networks.lattice import axis_levels, grid_points
from networks.levels import GridLevel
from networks.published_config import published_cfg, published_settings, resolve_references
from networks.published_fields import PublishedCoordFuser, log_basis_rows, wave_features
from tests.golden_files import load
from torch_utils import persistence
from training.loss import StyleGAN2Loss

UPSAMPLING = {"inr-gan-published": "nearest", "inr-gan-bil-published": "bilinear"}
PRESETS = list(UPSAMPLING)
ALL_KINDS = {"shared_emb_size": 2, "predictable_emb_size": 3, "use_raw_coords": True}


def small_cfg(preset: str, **entry) -> dict:
    """The published configuration with lattices from 8 up and few features."""
    cfg = published_cfg(UPSAMPLING[preset])
    cfg["input"]["resolution"] = 8
    cfg["num_extra_convs"] = {"32": 1}
    for coords in (cfg["coords"], cfg["input"]["coord_fuser_cfg"]):
        for features in coords["res_configs"].values():
            features.update(const_emb_size=3, random_emb_size=2, **entry)
    return cfg


def small_network(preset: str, **kwargs) -> networks.Generator:
    torch.manual_seed(4)
    generator = networks.build_generator(
        preset,
        z_dim=8,
        c_dim=0,
        w_dim=8,
        img_resolution=32,
        img_channels=3,
        mapping_kwargs={"num_layers": 2},
        **{"cfg": small_cfg(preset), "channel_base": 256, "channel_max": 8, **kwargs},
    )
    for name, parameter in generator.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter.data)
    return generator.eval()


@pytest.fixture(scope="module", params=PRESETS)
def golden(request) -> tuple[networks.Generator, dict[str, np.ndarray]]:
    data = load(f"{request.param.replace('-published', '')}_small".replace("inr", "published_inr"))
    torch.manual_seed(0)
    generator = networks.Generator(**json.loads(str(data["kwargs"])), preset=request.param)
    state = {key[6:]: torch.from_numpy(data[key]) for key in data if key.startswith("state/")}
    assert list(generator.state_dict()) == list(state)
    generator.load_state_dict(state)
    return generator.eval().requires_grad_(False), data


def test_golden_images(golden):
    generator, data = golden
    ws = generator.mapping(torch.from_numpy(data["z"]), None)
    np.testing.assert_allclose(ws.numpy(), data["ws"], rtol=1e-5, atol=1e-6)
    ws = torch.from_numpy(data["ws"])
    peak = np.abs(data["img"]).max()
    for image in (
        generator.synthesis(ws, noise_mode="const"),
        generator.synthesis.render(ws),
        generator.synthesis.render(ws, size=(64, 96))[:, :, ::2, ::3],
        generator.synthesis.render(ws, tile_budget=2**14),
    ):
        np.testing.assert_allclose(image.numpy(), data["img"], rtol=0, atol=1e-5 * peak)


def published_table() -> dict[str, list[int]]:
    """Names and shapes of the published state_dict at 256 x 256, but for the mapping network."""
    table = {}
    widths = {4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128}
    rows, tables = {4: 20, 64: 24, 128: 14, 256: 16}, {4: 128, 64: 128, 128: 64, 256: 64}
    coords = {4: 168, 64: 176, 128: 156, 256: 160}
    below = 0
    for r, width in widths.items():
        block = {"resample_filter": [4, 4]}
        if r in coords:
            fuser = "input.input.coord_fuser" if r == 4 else "coord_fuser"
            side = max(r, 32)
            block[f"{fuser}.const_embs"] = [1, tables[r], side, side]
            block[f"{fuser}.log_basis"] = [rows[r], 2]
            if r >= 128:
                block[f"{fuser}.random_basis"] = [32, 2]
        inputs = {} if r == 4 else {"conv0": below + coords.get(r, 0)}
        inputs["conv1"] = coords[4] if r == 4 else width
        if r >= 128:
            inputs["extra_convs.0"] = width
        for name, channels in inputs.items():
            block[f"{name}.weight"], block[f"{name}.bias"] = [width, channels, 1, 1], [width]
            block[f"{name}.resample_filter"] = [4, 4]
            block[f"{name}.affine.weight"] = [10 * (channels + width), 512]
            block[f"{name}.affine.bias"] = [10 * (channels + width)]
        block["torgb.weight"], block["torgb.bias"] = [3, width, 1, 1], [3]
        block["torgb.affine.weight"], block["torgb.affine.bias"] = [width, 512], [width]
        table.update({f"synthesis.b{r}.{name}": shape for name, shape in block.items()})
        below = width
    return table


@pytest.mark.parametrize("preset", PRESETS)
def test_names_and_shapes_at_256(preset):
    with torch.device("meta"):
        generator = networks.build_generator(
            preset,
            z_dim=512,
            c_dim=0,
            w_dim=512,
            img_resolution=256,
            img_channels=3,
            mapping_kwargs={"num_layers": 2},
        )
    state = {name: list(tensor.shape) for name, tensor in generator.state_dict().items()}
    mapping = {name: state.pop(name) for name in list(state) if name.startswith("mapping.")}
    assert state == published_table()
    assert len(state) + len(mapping) == 125
    assert sum(p.numel() for p in generator.parameters()) == 72_436_573
    assert sum(b.numel() for b in generator.buffers()) == 1_140
    assert generator.num_ws == 16
    blocks = generator.synthesis.blocks()
    assert [block.resolution for block in blocks] == [32, 32, 32, 32, 64, 128, 256]
    assert [block.up for block in blocks] == [1, 1, 1, 1, 2, 2, 2]
    assert [block.num_conv for block in blocks] == [1, 2, 2, 2, 2, 3, 3]
    assert all(block.num_torgb == 1 and block.input_resolution == 32 for block in blocks)
    assert blocks[1].coord_fuser is None and blocks[1].extra_convs is None
    norms = [layer.instance_norm for layer in blocks[-1].layers()]
    assert norms == [False, *[preset == "inr-gan-bil-published"] * 2]
    assert not blocks[0].conv1.instance_norm


def test_logarithmic_frequencies():
    rows = log_basis_rows(32, use_diagonal=True)
    assert rows.shape == (20, 2)
    expected = [
        *[(0, 2.0**m * math.pi / 2) for m in range(5)],
        *[(2.0**m * math.pi / 2, 0) for m in range(5)],
        *[(-(2.0**m) * math.pi / 4, 2.0**m * math.pi / 4) for m in range(5)],
        *[(2.0**m * math.pi / 4, 2.0**m * math.pi / 4) for m in range(5)],
    ]
    torch.testing.assert_close(rows, torch.tensor(expected))
    assert len(log_basis_rows(256, use_diagonal=False)) == 16


def test_waves_equal_sin_and_cos_of_the_phase():
    u, v, rows, phase = (torch.randn(*s).double() for s in ([5], [4], [2, 3, 2], [2, 3]))
    waves = wave_features(u[None], v[:, None], rows, phase, True, torch.float32)
    angle = rows[..., 1, None, None] * v[:, None] + rows[..., 0, None, None] * u
    angle = angle + phase[..., None, None]
    assert waves.dtype == torch.float32
    torch.testing.assert_close(waves, torch.cat([angle.sin(), angle.cos()], 1).float())


class Literal:
    """F at one point, straight from the definition, of one image. Shares only the weights."""

    def __init__(self, synthesis, ws):
        self.synthesis = synthesis
        self.nearest = synthesis.upsampling == "nearest"
        theta = synthesis.measure(synthesis.compose(ws[None]), 2**30, False, None)
        self.blocks, start = [], 0
        for block, weights in zip(synthesis.blocks(), theta):
            # From the layers: in the published order of channels.
            w = ws[start : start + block.num_conv + 1]
            layers, rgb, _ = block_weights(w[None], block.layers(), block.torgb)
            scales = [1 if s is None else s[0].double().numpy() for s in weights.scales]
            layers, rgb = ([x[0].double().numpy() for x in part] for part in (layers, [rgb]))
            self.blocks.append((block, w[0], layers, scales, *rgb))
            start += block.num_conv
        self.at = functools.lru_cache(None)(self._at)

    def taps(self, x, y, scale, nearest):
        """Cells around position (x, y) times scale, as (i, j, weight)."""
        x, y = x * scale, y * scale
        i, j = math.floor(x), math.floor(y)
        if nearest:
            return [(i, j, 1)]
        a, b = float(x - i), float(y - j)
        shares = {(m, n): (a if m else 1 - a) * (b if n else 1 - b) for m in (0, 1) for n in (0, 1)}
        return [(i + m, j + n, share) for (m, n), share in shares.items() if share]

    def features(self, fuser, w, x, y):
        size = fuser.resolution
        at = np.array([float(2 * x - 1), 1 - 2 / size - float(2 * y)])
        rows = [getattr(fuser, name, torch.zeros(0, 2)) for name in ("log_basis", "random_basis")]
        angles = torch.cat([*rows, getattr(fuser, "shared_basis", rows[0][:0])]).numpy() @ at
        if fuser.predictable_emb_size:
            k = fuser.predictable_emb_size
            values = fuser.affine(w[None])[0].double().numpy()
            own = values[: 2 * k].reshape(k, 2) * fuser.fourier_scale @ at + values[2 * k :]
            angles = np.concatenate([angles, own])
        table = 0
        for i, j, share in self.taps(x, y, size, self.nearest):
            column, row = min(max(i, 0), size - 1), min(max(j, 0), size - 1)
            table = table + share * fuser.const_embs[0, :, row, column].numpy()
        raw = at if fuser.use_raw_coords else []
        return np.concatenate([raw, np.sin(angles), np.cos(angles), table])

    def _at(self, index, x, y):
        """Features and image of block `index` at a point, or at the sample point of a cell."""
        block, w, layers, scales, rgb_weight = self.blocks[index]
        h, rgb = np.zeros(0), np.zeros(block.img_channels)
        if index > 0 and block.up == 1:
            h, rgb = self.at(index - 1, x, y)
        elif index > 0:
            size, above = self.blocks[index - 1][0].resolution, block.resolution
            scale = size if self.nearest else Fraction(above * (size - 1), above - 1)
            h = 0
            for i, j, share in self.taps(x, y, scale, self.nearest):
                below, image = self.at(index - 1, Fraction(i, size), Fraction(j, size))
                h, rgb = h + share * below, rgb + share * image
        if block.fuser() is not None:
            h = np.concatenate([h, self.features(block.fuser(), w, x, y)])
        for layer, weight, scale in zip(block.layers(), layers, scales):
            h = weight @ (h * scale) + layer.bias.double().numpy()
            h = np.where(h > 0, h, 0.2 * h) * math.sqrt(2)
        return h, rgb + rgb_weight @ h + block.torgb.bias.double().numpy()


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("entry", [{}, ALL_KINDS], ids=["published", "all-kinds"])
@torch.no_grad()
def test_render_is_the_definition(preset, entry):
    generator = small_network(preset, cfg=small_cfg(preset, **entry))
    ws = generator.mapping(torch.randn(2, 8), None)
    points = [(Fraction(3, 32), Fraction(5, 32)), (Fraction(2, 7), Fraction(5, 6))]
    points += [(Fraction(-1, 5), Fraction(9, 7)), (Fraction(31, 32), Fraction(65, 66))]
    for sample in range(2):
        literal = Literal(generator.synthesis, ws[sample])
        for x, y in points:
            region = (x, y, x + 1, y + 1)  # the first sample of a grid is its corner
            value = generator.synthesis.render(ws, region, size=1)[sample, :, 0, 0]
            expected = literal.at(len(literal.blocks) - 1, x, y)[1]
            np.testing.assert_allclose(value.numpy(), expected, rtol=0, atol=2e-5)


def test_scales_are_one_over_the_standard_deviation_and_belong_to_the_image():
    generator = small_network("inr-gan-bil-published")
    ws = generator.mapping(torch.randn(3, 8), None)
    synthesis = generator.synthesis
    seen = []
    handle = synthesis.b8.register_forward_hook(lambda module, inputs, output: seen.append(inputs))
    theta = synthesis.measure(synthesis.compose(ws), 2**30, False, None)
    handle.remove()
    (scale,) = [s for s in theta[1].scales if s is not None]
    weights, x = seen[0][:2]
    layer = synthesis.b8.conv0
    y = torch.einsum("noi,nihw->nohw", weights.layers[0], x) + layer.bias[:, None, None]
    y = torch.nn.functional.leaky_relu(y, 0.2) * math.sqrt(2)
    torch.testing.assert_close(scale, 1 / (y.std(dim=(2, 3)) + 1e-8))
    one_by_one = synthesis.measure(synthesis.compose(ws), 1, False, None)
    for whole, part in zip(theta, one_by_one):
        for a, b in zip(whole.scales, part.scales):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, rtol=1e-4, atol=0)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("entry", [{}, ALL_KINDS], ids=["published", "all-kinds"])
def test_training_phases_reach_every_parameter(preset, entry):
    generator = small_network(preset, cfg=small_cfg(preset, **entry)).train()
    discriminator = networks.build_discriminator(
        c_dim=0, img_resolution=32, img_channels=3, channel_base=256, channel_max=8
    )
    loss = StyleGAN2Loss(
        "cpu", generator.mapping, generator.synthesis, discriminator, pl_weight=2, r1_gamma=1
    )
    z = torch.randn(4, 8)
    c = torch.zeros(4, 0)
    batch = {"real_img": torch.zeros(4, 3, 32, 32), "real_c": c, "gen_z": z, "gen_c": c}
    discriminator.requires_grad_(False)
    for phase in ("Gmain", "Greg"):
        generator.zero_grad(set_to_none=True)
        loss.accumulate_gradients(phase, **batch, sync=True, gain=1)
        for name, parameter in generator.named_parameters():
            if phase == "Greg" and name.endswith("torgb.bias"):
                continue  # path lengths do not depend on what is added to the image
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
    assert generator.mapping.w_avg.abs().sum() > 0


@pytest.mark.parametrize("preset", PRESETS)
def test_float16_blocks(preset, monkeypatch):
    # What a GPU would do: on a CPU the blocks compute in float32 of their own accord.
    def as_wanted(wanted, stored, device, force_fp32=False):
        return stored if force_fp32 else wanted

    generator = small_network(preset, num_fp16_res=2, conv_clamp=256)
    ws = generator.mapping(torch.randn(2, 8), None).detach().requires_grad_(True)
    assert [b.use_fp16 for b in generator.synthesis.blocks()] == [False, False, True, True]
    monkeypatch.setattr("networks.layers.compute_dtype", as_wanted)
    image, exact = generator.synthesis(ws), generator.synthesis(ws, force_fp32=True)
    assert image.dtype == torch.float32
    # float16 has 11 significant bits and there are about five such layers.
    error = (image - exact).norm() / exact.norm()
    assert 1e-5 < error < 1e-2
    torch.testing.assert_close(generator.synthesis.render(ws), image)
    image.square().mean().backward()
    assert ws.grad.isfinite().all() and ws.grad.abs().sum() > 0


@pytest.mark.parametrize("preset", PRESETS)
def test_copies_and_pickles(preset):
    generator = small_network(preset)
    z = torch.randn(2, 8)
    expected = generator(z, None)
    for other in (
        copy.deepcopy(generator),
        pickle.loads(pickle.dumps(generator)),
        persistence.read(pickle.dumps(generator)),
    ):
        assert type(other) is networks.Generator and torch.equal(other(z, None), expected)
        assert other.synthesis.cfg == generator.synthesis.cfg
    assert generator.init_kwargs.synthesis_kwargs["cfg"] == small_cfg(preset)


@pytest.mark.parametrize("preset", PRESETS)
def test_nothing_is_remembered_between_calls(preset):
    generator = small_network(preset).requires_grad_(False)
    ws = generator.mapping(torch.randn(2, 8), None)
    before = generator.synthesis(ws)
    attributes = {name: set(vars(module)) for name, module in generator.named_modules()}
    generator.synthesis.b32.coord_fuser.const_embs += 1
    generator.synthesis.b16.coord_fuser.log_basis *= 1.1
    changed = generator.synthesis(ws)
    assert (changed - before).abs().max() > 1e-3
    torch.testing.assert_close(generator.synthesis.render(ws), changed, rtol=0, atol=0)
    assert attributes == {name: set(vars(module)) for name, module in generator.named_modules()}


@pytest.mark.parametrize(
    "resolution,lattices,num_ws",
    [
        (4, [4], 2),
        (16, [8, 16], 6),
        (64, [32, 64], 10),
        (128, [32, 64, 128], 13),
        (1024, [32, 64, 128, 256, 512, 1024], 20),
    ],
)
def test_other_resolutions(resolution, lattices, num_ws):
    kwargs = {"z_dim": 4, "c_dim": 0, "w_dim": 4, "img_channels": 3}
    with torch.device("meta"):
        synthesis = networks.build_generator(
            "inr-gan-published", img_resolution=resolution, **kwargs
        ).synthesis
    assert synthesis.lattices() == (tuple(lattices), tuple(lattices))
    assert synthesis.num_ws == num_ws
    if resolution == 1024:  # like 256: no diagonals, 32 random rows, 64 table channels
        assert synthesis.b1024.coord_fuser.total_dim == 2 * (20 + 32) + 64


@pytest.mark.parametrize("preset", PRESETS)
def test_every_block_gets_coordinates_unless_per_resolution(preset):
    cfg = small_cfg(preset)
    cfg["coords"]["per_resolution"] = False
    synthesis = small_network(preset, cfg=cfg).synthesis
    assert all(block.fuser() is not None for block in synthesis.blocks())
    ws = torch.randn(1, synthesis.num_ws, 8)
    torch.testing.assert_close(synthesis.render(ws, size=64)[:, :, ::2, ::2], synthesis(ws))


def test_fuser_without_frequencies_or_without_features():
    points = grid_points(Fraction(0), Fraction(1), 4, Fraction(0))
    sampling = small_network("inr-gan-published").synthesis.sampling
    (axis,) = axis_levels(points, (4,), sampling, (4,))
    level = GridLevel(axis, axis)
    fuser = PublishedCoordFuser(4, 8, const_emb_size=2, use_raw_coords=True)
    features = fuser(level, None, torch.float32)
    assert features.num_channels() == fuser.total_dim == 4
    u = torch.tensor([-1, -0.5, 0, 0.5])
    assert torch.equal(features.shared[0], u.expand(4, 4))
    assert torch.equal(features.shared[1], u.flip(0)[:, None].expand(4, 4))
    assert torch.equal(features.shared[2:], fuser.const_embs[0])
    only_own = PublishedCoordFuser(4, 8, predictable_emb_size=2)
    own = only_own(level, only_own.predict(torch.randn(3, 8)), torch.float32)
    assert own.shared is None and own.own.shape == (3, 2, 4, 4)


def test_references_are_resolved_against_the_root():
    cfg = {"a": {"b": [1, "${c}"]}, "c": "${a.d.0}", 4: "${generator.x}", "x": 5}
    cfg["a"]["d"] = {0: True}
    expected = {"a": {"b": [1, True], "d": {"0": True}}, "c": True, "4": 5, "x": 5}
    assert resolve_references(cfg) == expected
    published = published_cfg("bilinear")
    referring = copy.deepcopy(published)
    referring["input"]["coord_fuser_cfg"] = "${coords}"
    for key, value in referring["coords"]["res_configs"].items():
        name = "low_res_cfg" if value == referring["coords"]["low_res_cfg"] else "medium_res_cfg"
        referring["coords"]["res_configs"][key] = f"${{generator.coords.{name}}}"
    assert resolve_references(referring) == published


@pytest.mark.parametrize(
    "cfg,words",
    [
        ({"a": "${a}"}, "refers to itself"),
        ({"a": "${b}", "b": "${a}"}, "refers to itself"),
        ({"a": "${b.c}", "b": 3}, "'c', which is not there"),
        ({"a": "x${b}", "b": 3}, "of the form"),
        ({"a": "${}", "b": 3}, "of the form"),
        ({"a": "${env:HOME}"}, "'env:HOME', which is not there"),
        ({**{f"a{i}": [f"${{a{i + 1}}}"] * 9 for i in range(30)}, "a30": 1}, "more than"),
        (["a"], "must be a dictionary"),
    ],
)
def test_references_that_cannot_be_resolved(cfg, words):
    with pytest.raises(ValueError, match=words):
        resolve_references(cfg)


@pytest.mark.parametrize(
    "path,value,words",
    [
        ("upsampling_mode", None, "cfg.upsampling_mode=None is not supported"),
        ("upsampling_mode", "bilinear", "does not fit this preset"),
        ("use_noise", True, "cfg.use_noise=True"),
        ("fmm.enabled", False, "cfg.fmm.enabled=False"),
        ("fmm.rank", None, "cfg.fmm.rank must be an integer >= 1, got None"),
        ("fmm.layer_norm", True, "cfg.fmm.layer_norm=True is not a known key"),
        ("input.type", "const", "cfg.input.type=const is not supported, only coords"),
        ("input.resolution", 64, "at most 32"),
        ("input.resolution", 12, "power of two"),
        ("input.coord_fuser_cfg", None, "cfg.input.coord_fuser_cfg must be a dictionary"),
        ("coords.enabled", False, "cfg.coords.enabled=False"),
        ("coords.kernel_size", 3, "cfg.coords.kernel_size=3"),
        ("coords.coord_dim", 3, "cfg.coords.coord_dim=3"),
        ("coords.fallback", True, "cfg.coords.fallback=True"),
        ("coords.res_configs.32.log_emb_size", 8, "too small for the 20 logarithmic"),
        ("coords.res_configs.32.init_dist", "uniform", "32.init_dist must be randn or rand"),
        ("coords.res_configs.32.other_emb_size", 4, "32.other_emb_size=4 is not a known key"),
        ("coords.res_configs.low", {}, "'low', which is no lattice side"),
        ("num_extra_convs.32", 0.5, "num_extra_convs.32 must be an integer"),
        ("modulation", "style", "cfg.modulation=style is not a known key"),
    ],
)
def test_what_a_cfg_may_not_ask_for(path, value, words):
    cfg = small_cfg("inr-gan-published")
    *sections, key = path.split(".")
    section = functools.reduce(dict.__getitem__, sections, cfg)
    section[key] = value
    with pytest.raises(ValueError, match=words):
        small_network("inr-gan-published", cfg=cfg)


def test_missing_lattices_and_what_is_switched_off():
    cfg = small_cfg("inr-gan-published")
    cfg.update(unknown=False, other=None, fmaps=0.5)
    assert published_settings(cfg).fmm_activation == "demod"
    del cfg["coords"]["res_configs"]["16"]
    with pytest.raises(ValueError, match="cfg.coords.res_configs has no entry '16'"):
        small_network("inr-gan-published", cfg=cfg)
    del cfg["num_extra_convs"]
    names = {"tanh": "tanh", "sigmoid": "half-sigmoid", "softplus": "none"}
    for published, ours in names.items():
        cfg["fmm"]["activation"] = published
        settings = published_settings(cfg)
        assert settings.fmm_activation == ours and settings.extra_convs == {}


def test_squares_only():
    with pytest.raises(ValueError, match="squares"):
        small_network("inr-gan-published", img_shape=(3, 16, 32))
