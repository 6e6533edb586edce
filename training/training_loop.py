"""The training loop: every step, and the order of everything before and after the steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch_utils.distributed import print0, rank_device
from torch_utils.host_memory import settled_objects
from torch_utils.images import save_image_grid
from training import setup
from training.ema import EMA
from training.inputs import choose_device
from training.maintenance import Maintenance, Schedule
from training.metric_runs import MetricRuns
from training.phases import build_phases, run_phase
from training.snapshot import RunSnapshots, setup_snapshot_image_grid
from training.stats_log import StatsLog

__all__ = ["save_image_grid", "setup_snapshot_image_grid", "training_loop"]


# The published signature: dictionaries as defaults are only read.
def training_loop(
    run_dir: str = ".",
    training_set_kwargs: dict[str, Any] = {},
    data_loader_kwargs: dict[str, Any] = {},
    G_kwargs: dict[str, Any] = {},
    D_kwargs: dict[str, Any] = {},
    G_opt_kwargs: dict[str, Any] = {},
    D_opt_kwargs: dict[str, Any] = {},
    augment_kwargs: dict[str, Any] | None = None,
    loss_kwargs: dict[str, Any] = {},
    metrics: list[str] = [],
    random_seed: int = 0,
    num_gpus: int = 1,
    rank: int = 0,
    batch_size: int = 4,
    batch_gpu: int = 4,
    ema_kimg: float = 10,
    ema_rampup: float | None = None,
    G_reg_interval: int | None = 4,
    D_reg_interval: int | None = 16,
    augment_p: float = 0,
    ada_target: float | None = None,
    ada_interval: int = 4,
    ada_kimg: float = 500,
    total_kimg: float = 25000,
    kimg_per_tick: float = 4,
    image_snapshot_ticks: int | None = 50,
    network_snapshot_ticks: int | None = 50,
    resume_pkl: str | None = None,
    cudnn_benchmark: bool = True,
    allow_tf32: bool = False,
    abort_fn: Callable[[], bool] | None = None,
    progress_fn: Callable[[float, float], None] | None = None,
    device: str = "auto",
    detectors: dict[str, str] | None = None,
    allow_code: bool = False,
) -> None:
    """Train G and D on a data set; write images, networks and statistics into ``run_dir``.

    Args:
        run_dir: Existing folder.
        training_set_kwargs, G_kwargs, D_kwargs, G_opt_kwargs, D_opt_kwargs, augment_kwargs,
            loss_kwargs: ``class_name`` and constructor arguments. augment_kwargs None = nothing.
        data_loader_kwargs: For `torch.utils.data.DataLoader`.
        metrics: Names of those that are evaluated at network snapshots.
        random_seed: Every process derives its own seed from it.
        num_gpus, rank: Size of the process group and place in it; the caller has initialised it.
        batch_size, batch_gpu: Images per step of all processes; per process and round.
        ema_kimg, ema_rampup: See `training.ema.EMA`.
        G_reg_interval, D_reg_interval: Steps between regularisations. None = within every step.
        augment_p, ada_target, ada_interval, ada_kimg: Initial p and `training.ada.AdaController`;
            ada_target None = fixed p.
        total_kimg, kimg_per_tick: Length of training and of a tick in thousands of real images.
        image_snapshot_ticks, network_snapshot_ticks: Ticks between snapshots. None = never.
        resume_pkl: Snapshot (file, URL) whose weights to start from.
        cudnn_benchmark, allow_tf32: Switches of CUDA's libraries.
        abort_fn: Called every tick; True, in all processes alike, ends the training.
        progress_fn: Called with (cur_kimg, total_kimg) at the start and every tick.
        device: "auto" = cuda or else cpu, "cpu", "cuda", "mps".
        detectors: Feature detector -> file, see `metrics.detectors`.
        allow_code: Run the code of the snapshot to resume from if it contains something unknown.

    Raises:
        UserError: The data or the snapshot cannot be used, or a metric is unknown.
    """
    torch_device = rank_device(choose_device(device, num_gpus), rank)
    metric_runs = MetricRuns(
        metrics,
        run_dir,
        training_set_kwargs,
        data_loader_kwargs,
        num_gpus,
        rank,
        torch_device,
        random_seed,
        detectors,
    )
    setup.prepare_process(random_seed, num_gpus, rank, torch_device, cudnn_benchmark, allow_tf32)
    print0("Loading training set...")
    training_set = setup.construct_dataset(training_set_kwargs)
    reals = setup.RealImages(
        training_set, rank, num_gpus, batch_size, random_seed, data_loader_kwargs, torch_device
    )
    setup.print_dataset(training_set)
    print0("Constructing networks...")
    G, D, G_ema = setup.build_networks(G_kwargs, D_kwargs, training_set, torch_device)
    if resume_pkl is not None:
        setup.resume_networks(resume_pkl, {"G": G, "D": D, "G_ema": G_ema}, allow_code)
    setup.print_networks(G, D, batch_gpu, torch_device)
    print0("Setting up augmentation...")
    augment = setup.Augmentation(
        augment_kwargs, augment_p, ada_target, ada_interval, ada_kimg, batch_size, torch_device
    )
    modules = {"G": G, "D": D, "G_ema": G_ema, "augment_pipe": augment.pipe}
    print0(f"Distributing across {num_gpus} GPUs...")
    setup.equalise_networks(*modules.values())
    print0("Setting up training phases...")
    latents = setup.Latents(training_set, G.z_dim, batch_size, num_gpus, torch_device)
    ema = EMA(G, ema_kimg, ema_rampup, G_ema)
    loss = setup.build_loss(loss_kwargs, modules, torch_device)
    phases = build_phases(
        G,
        D,
        G_opt_kwargs,
        D_opt_kwargs,
        G_reg_interval,
        D_reg_interval,
        # A regulariser of weight 0 gets no phase, and its network no slow-down for it.
        regularize_G=getattr(loss, "pl_weight", 1) != 0,
        regularize_D=getattr(loss, "r1_gamma", 1) != 0,
    )
    print0("Exporting sample images...")
    files = RunSnapshots(
        run_dir, training_set, training_set_kwargs, modules, batch_gpu, torch_device
    )
    files.save_images("fakes_init")
    print0("Initializing logs...")
    log = StatsLog(run_dir, rank == 0, torch_device, total_kimg, [p.name for p in phases])
    print0(f"Training for {total_kimg} kimg...\n")
    schedule = Schedule(
        total_kimg=total_kimg,
        kimg_per_tick=kimg_per_tick,
        image_snapshot_ticks=image_snapshot_ticks,
        network_snapshot_ticks=network_snapshot_ticks,
    )
    run = Maintenance(
        schedule, log, files, augment, metric_runs, torch_device, abort_fn, progress_fn
    )
    cur_nimg = batch_idx = 0
    with settled_objects(), run:
        while not run.done:
            real_img, real_c = reals.next(batch_gpu)
            for phase, (gen_z, gen_c) in zip(phases, latents.next(len(phases), batch_gpu)):
                if phase.is_due(batch_idx):
                    with log.timer.measure(phase.name):
                        run_phase(phase, loss, zip(real_img, real_c, gen_z, gen_c))
            ema.update(cur_nimg, batch_size)
            cur_nimg += batch_size
            batch_idx += 1
            augment.update(batch_idx)
            run.after_step(cur_nimg, batch_idx)
    print0("\nExiting...")
