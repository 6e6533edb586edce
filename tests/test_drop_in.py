"""Scripts written against StyleGAN2-ADA's Python API run from this repository's root, unchanged.

The scripts below use only names and conventions of that API, the way tools around it do: load a
snapshot, map, truncate by hand, hook layers, re-create networks from their constructor arguments,
call the training loop, add a metric. Each runs in a process of its own.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.metrics import tiny_detectors

ROOT = Path(__file__).resolve().parents[1]
SIDE = 16

TRAIN = """
import json, sys
import torch
import dnnlib
from training import training_loop

folder, data = sys.argv[1:]
opts = dnnlib.EasyDict()
opts.training_set_kwargs = dnnlib.EasyDict(
    class_name='training.dataset.ImageFolderDataset', path=data, use_labels=True, max_size=12,
    xflip=False, resolution=16)
opts.data_loader_kwargs = dnnlib.EasyDict(pin_memory=True, num_workers=1, prefetch_factor=2)
opts.G_kwargs = dnnlib.EasyDict(
    class_name='training.networks.Generator', z_dim=8, w_dim=8,
    mapping_kwargs=dnnlib.EasyDict(num_layers=2),
    synthesis_kwargs=dnnlib.EasyDict(
        channel_base=64, channel_max=8, num_fp16_res=4, conv_clamp=256))
opts.D_kwargs = dnnlib.EasyDict(
    class_name='training.networks.Discriminator', block_kwargs=dnnlib.EasyDict(),
    mapping_kwargs=dnnlib.EasyDict(), epilogue_kwargs=dnnlib.EasyDict(mbstd_group_size=2),
    channel_base=64, channel_max=8, num_fp16_res=4, conv_clamp=256)
opts.G_opt_kwargs = dnnlib.EasyDict(
    class_name='torch.optim.Adam', lr=0.002, betas=[0, 0.99], eps=1e-8)
opts.D_opt_kwargs = dnnlib.EasyDict(
    class_name='torch.optim.Adam', lr=0.002, betas=[0, 0.99], eps=1e-8)
opts.loss_kwargs = dnnlib.EasyDict(class_name='training.loss.StyleGAN2Loss', r1_gamma=1)
opts.augment_kwargs = dnnlib.EasyDict(
    class_name='training.augment.AugmentPipe', xflip=1, brightness=1)
opts.update(ada_target=0.6, total_kimg=0.016, batch_size=4, batch_gpu=4, ema_kimg=1,
            image_snapshot_ticks=None, network_snapshot_ticks=100, metrics=[])
progress = []
training_loop.training_loop(
    rank=0, run_dir=folder, num_gpus=1, random_seed=0, cudnn_benchmark=False, device='cpu',
    progress_fn=lambda cur, total: progress.append(cur), abort_fn=lambda: False, **opts)
print(json.dumps(progress))
"""

EDIT = """
import copy, pickle, sys
import numpy as np
import torch
import dnnlib
import legacy
from torch_utils import misc, persistence
from training.networks import Generator, Discriminator, SynthesisLayer

device = torch.device('cpu')
with dnnlib.util.open_url(sys.argv[1]) as f:
    data = legacy.load_network_pkl(f)
G = data['G_ema'].to(device)
assert persistence.is_persistent(G) and data['training_set_kwargs']['resolution'] == 16
label = torch.zeros([1, G.c_dim], device=device)
label[:, 1] = 1
z = torch.from_numpy(np.random.RandomState(7).randn(1, G.z_dim)).to(device)

# Truncation by hand, as projectors and style mixers do it.
w_avg = G.mapping.w_avg
ws = G.mapping(z, label)
ws = w_avg + (ws - w_avg) * 0.5
img = G.synthesis(ws, noise_mode='const')
assert torch.allclose(img, G(z, label, truncation_psi=0.5, noise_mode='const'), atol=1e-5)
pixels = (img.permute(0, 2, 3, 1) * 127.5 + 128).clamp(0, 255).to(torch.uint8)
assert pixels.shape == (1, 16, 16, 3)

# Block by block, with a style per layer.
x = image = None
w_idx = 0
for res in G.synthesis.block_resolutions:
    block = getattr(G.synthesis, f'b{res}')
    cur_ws = ws.narrow(1, w_idx, block.num_conv + block.num_torgb)
    x, image = block(x, image, cur_ws, noise_mode='const', force_fp32=True)
    w_idx += block.num_conv
assert torch.allclose(image, img, atol=1e-5)

# Noise buffers by name, hooks on layers.
noise = {name: buf for (name, buf) in G.synthesis.named_buffers() if 'noise_const' in name}
assert sorted(noise) == [f'b{r}.conv{i}.noise_const' for r in (16, 4, 8) for i in (0, 1)
                         if (r, i) != (4, 0)]
shapes, hooks = [], []
for module in G.synthesis.modules():
    if isinstance(module, SynthesisLayer):
        hooks.append(module.register_forward_hook(
            lambda mod, args, out: shapes.append(tuple(out.shape))))
G.synthesis(ws, noise_mode='none')
for hook in hooks:
    hook.remove()
assert len(shapes) == len(noise), shapes

# The same architecture again, with the weights copied, as resuming and converting tools do it.
G2 = Generator(*data['G'].init_args, **data['G'].init_kwargs).eval()
misc.copy_params_and_buffers(data['G_ema'], G2, require_all=True)
assert torch.equal(G2(z, label, noise_mode='const'), G(z, label, noise_mode='const'))
D = data['D']
D2 = Discriminator(*D.init_args, **D.init_kwargs).eval()
misc.copy_params_and_buffers(D, D2, require_all=True)
assert torch.equal(D2(img, label), D(img, label)) and D(img, label).shape == (1, 1)
misc.print_module_summary(G, [z.float(), label])

# Frozen copies, pickles.
G3 = copy.deepcopy(G).eval().requires_grad_(False).to(device)
with open(sys.argv[2], 'wb') as f:
    pickle.dump(dict(G=G3, D=D, G_ema=G3, augment_pipe=data['augment_pipe'],
                     training_set_kwargs=dict(data['training_set_kwargs'])), f)
with open(sys.argv[2], 'rb') as f:
    G4 = pickle.load(f)['G_ema']
assert type(G4) is type(G) and torch.equal(G4(z, label, noise_mode='const'),
                                           G(z, label, noise_mode='const'))
"""

OPS = """
import torch
from torch_utils import custom_ops, misc, training_stats
from torch_utils.ops import (
    bias_act, conv2d_gradfix, conv2d_resample, fma, grid_sample_gradfix, upfirdn2d)

custom_ops.verbosity = 'none'
conv2d_gradfix.enabled = True
grid_sample_gradfix.enabled = True
x = torch.randn([2, 4, 8, 8], requires_grad=True)
f = upfirdn2d.setup_filter([1, 3, 3, 1], device=x.device)
w = torch.randn([6, 4, 3, 3], requires_grad=True)
y = conv2d_resample.conv2d_resample(x=x, w=w, f=f, down=2, padding=1)
y = bias_act.bias_act(y, torch.zeros([6]), act='lrelu', gain=1.5, clamp=256, impl='cuda')
y = upfirdn2d.upsample2d(y, f)
assert y.shape == (2, 6, 8, 8)
theta = torch.eye(2, 3)[None].repeat(2, 1, 1)
grid = torch.nn.functional.affine_grid(theta, [2, 6, 8, 8], align_corners=False)
y = grid_sample_gradfix.grid_sample(y, grid)
y = fma.fma(y, torch.ones([]), torch.zeros([]))
with conv2d_gradfix.no_weight_gradients():
    (g,) = torch.autograd.grad(y.square().sum(), [x], create_graph=True)
g.square().sum().backward()
assert x.grad is not None and torch.isfinite(x.grad).all()
assert bias_act.activation_funcs['lrelu'].def_gain == 2 ** 0.5
training_stats.init_multiprocessing(rank=0, sync_device=None)
collector = training_stats.Collector(regex='.*')
training_stats.report('Loss/test', g.detach())
collector.update()
assert collector.num('Loss/test') == g.numel()
assert misc.constant([1, 2], device=x.device).tolist() == [1, 2]
"""

METRICS = """
import json, sys
import numpy as np
import torch
import dnnlib
import legacy
from metrics import metric_main, metric_utils
from projector import project

URL = 'https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/'
snapshot, folder = sys.argv[1:]
with dnnlib.util.open_url(snapshot) as f:
    data = legacy.load_network_pkl(f)
G = data['G_ema'].eval().requires_grad_(False)
dataset_kwargs = dnnlib.EasyDict(data['training_set_kwargs'])

# A metric of one's own, built from the usual parts.
@metric_main.register_metric
def mean_distance(opts):
    opts.dataset_kwargs.update(max_size=None, xflip=False)
    kwargs = dict(opts=opts, detector_url=URL + 'inception-2015-12-05.pt',
                  detector_kwargs=dict(return_features=True), capture_mean_cov=True)
    real, _cov = metric_utils.compute_feature_stats_for_dataset(
        rel_lo=0, rel_hi=0.5, max_items=8, **kwargs).get_mean_cov()
    fake, _cov = metric_utils.compute_feature_stats_for_generator(
        rel_lo=0.5, rel_hi=1, max_items=8, **kwargs).get_mean_cov()
    return dict(mean_distance=float(np.square(real - fake).sum()))

assert metric_main.is_valid_metric('mean_distance')
assert 'fid50k_full' in metric_main.list_valid_metrics()
result = metric_main.calc_metric(
    metric='mean_distance', G=G, dataset_kwargs=dataset_kwargs, num_gpus=1, rank=0,
    device=torch.device('cpu'), progress=metric_utils.ProgressMonitor(verbose=False))
metric_main.report_metric(result, run_dir=folder, snapshot_pkl=snapshot)
assert result.results.mean_distance > 0 and result.num_gpus == 1

detector = metric_utils.get_feature_detector(URL + 'vgg16.pt', device=torch.device('cpu'))
image = torch.full([1, 3, 32, 32], 128.0)
assert detector(image, resize_images=False, return_lpips=True).shape[0] == 1

ws = project(G, target=torch.zeros([3, 16, 16]), num_steps=2, w_avg_samples=8, verbose=True,
             device=torch.device('cpu'), label=1)
assert ws.shape == (2, G.num_ws, G.w_dim)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scripts")


@pytest.fixture(scope="module")
def data(folder: Path) -> Path:
    rng = np.random.RandomState(0)
    path = folder / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(12):
            stream = io.BytesIO()
            Image.fromarray(rng.randint(0, 256, [SIDE, SIDE, 3], dtype=np.uint8)).save(
                stream, "png"
            )
            archive.writestr(f"{i:03d}.png", stream.getvalue())
        labels = [[f"{i:03d}.png", i % 3] for i in range(12)]
        archive.writestr("dataset.json", json.dumps({"labels": labels}))
    return path


def run_script(folder: Path, name: str, text: str, *args: object, **environment: object) -> str:
    """Runs a script that lies elsewhere, with this repository on PYTHONPATH; returns stdout."""
    script = folder / f"{name}.py"
    script.write_text(text, encoding="utf-8")
    given = {name: str(value) for name, value in environment.items()}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **given}
    result = subprocess.run(
        [sys.executable, str(script), *map(str, args)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.fixture(scope="module")
def snapshot(folder: Path, data: Path) -> Path:
    run_dir = folder / "run"
    run_dir.mkdir()
    output = run_script(folder, "own_training", TRAIN, run_dir, data)
    progress = json.loads(output.splitlines()[-1])
    assert progress[0] == 0 and progress[-1] == pytest.approx(0.016)
    return run_dir / "network-snapshot-000000.pkl"


def test_a_training_script_with_old_class_paths_trains(snapshot: Path) -> None:
    assert snapshot.is_file()
    lines = (snapshot.parent / "stats.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[-1])["Progress/kimg"]["mean"] == pytest.approx(0.016)


def test_a_script_that_takes_networks_apart_and_puts_them_together(
    folder: Path, snapshot: Path
) -> None:
    run_script(folder, "edit", EDIT, snapshot, folder / "edited.pkl")
    assert (folder / "edited.pkl").stat().st_size > 0


def test_a_script_that_uses_the_operations(folder: Path) -> None:
    run_script(folder, "operations", OPS)


def test_a_script_with_a_metric_of_its_own_that_also_projects(folder: Path, snapshot: Path) -> None:
    tiny_detectors.make(folder / "detectors")
    results = folder / "results"
    results.mkdir()
    run_script(
        folder, "own_metric", METRICS, snapshot, results,
        GAN_DETECTOR_DIR=folder / "detectors", DNNLIB_CACHE_DIR=folder / "cache",
    )  # fmt: skip
    line = json.loads((results / "metric-mean_distance.jsonl").read_text(encoding="utf-8"))
    assert line["results"]["mean_distance"] > 0
    assert line["metric"] == "mean_distance"


def command_line(folder: Path, script: str, *options: str) -> None:
    """Runs a command of this repository the way a user does, in an empty environment of caches."""
    detectors = folder / "detectors"
    tiny_detectors.make(detectors)
    environment = {
        **os.environ,
        "GAN_DETECTOR_DIR": str(detectors),
        "DNNLIB_CACHE_DIR": str(folder / "cache"),
    }
    result = subprocess.run(
        [sys.executable, str(ROOT / script), *options],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]


def picture(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_every_command_takes_the_network_of_such_a_training(folder: Path, snapshot: Path) -> None:
    network = f"--network={snapshot}"
    command_line(folder, "generate.py", network, "--seeds=1-2", "--class=1", "--outdir=images")
    drawn = picture(folder / "images" / "seed0001.png")
    assert drawn.shape == (SIDE, SIDE, 3)

    command_line(folder, "legacy.py", f"--source={snapshot}", "--dest=net.safetensors")
    again = "--network=net.safetensors"
    command_line(folder, "generate.py", again, "--seeds=1", "--class=1", "--outdir=again")
    assert np.array_equal(picture(folder / "again" / "seed0001.png"), drawn)

    options = ["--rows=1,2", "--cols=3", "--styles=0-1", "--class=1", "--outdir=mix"]
    command_line(folder, "style_mixing.py", network, *options)
    assert np.array_equal(picture(folder / "mix" / "1-1.png"), drawn)
    assert picture(folder / "mix" / "grid.png").shape == (3 * SIDE, 2 * SIDE, 3)

    options = ["--target=images/seed0001.png", "--class=1", "--num-steps=3", "--outdir=found"]
    command_line(folder, "projector.py", network, *options)
    with np.load(folder / "found" / "projected_w.npz") as archive:
        assert archive["w"].dtype == np.float32 and archive["w"].ndim == 3
    options = ["--projected-w=found/projected_w.npz", "--class=1", "--outdir=found"]
    command_line(folder, "generate.py", network, *options)
    found = picture(folder / "found" / "proj.png")
    assert np.array_equal(picture(folder / "found" / "proj00.png"), found)

    # The mark of a run directory, which train.py writes.
    (snapshot.parent / "training_options.json").write_text("{}", encoding="utf-8")
    command_line(folder, "calc_metrics.py", network, "--metrics=fid5k", "--device=cpu")
    line = json.loads((snapshot.parent / "metric-fid5k.jsonl").read_text(encoding="utf-8"))
    assert line["snapshot_pkl"] == snapshot.name and line["results"]["fid5k"] > 0
