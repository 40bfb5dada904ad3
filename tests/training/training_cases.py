"""A tiny training and a tiny run, without Ray; as a script, the same in processes of their own."""

from __future__ import annotations

import errno
import importlib
import multiprocessing
import os
import pickle
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch

import vesselflow.training.giving as giving_module
import vesselflow.training.loop as loop_module
import vesselflow.training.step as step_module
from vesselflow.augment.compose import compose
from vesselflow.config.experiment import Experiment, Train, load_experiment
from vesselflow.feed.batches import ArraySamples, Batch, SampleTable
from vesselflow.feed.hard import Hard
from vesselflow.feed.layout import SampleLayout
from vesselflow.feed.local import LocalData
from vesselflow.feed.points import Points
from vesselflow.feed.sampling import SAMPLING
from vesselflow.feed.sources import BatchSource, KeyedBatches, WithUnlabelled
from vesselflow.losses import LOSSES
from vesselflow.models.needs import axes_of
from vesselflow.records import atomic
from vesselflow.records.runs import RunRecord
from vesselflow.runs.cells import Cell, Job
from vesselflow.runs.domains import Domain, make_domain
from vesselflow.runs.objective import Objective
from vesselflow.runs.protocols import Protocol
from vesselflow.runs.registries import REGISTRIES
from vesselflow.runs.specs import RunSpec
from vesselflow.stores.schema import Source
from vesselflow.stores.store import Store, write_store
from vesselflow.stores.synth import make_synth
from vesselflow.sweeps.context import Reports
from vesselflow.sweeps.execution import execute
from vesselflow.tasks.spec import TaskSpec
from vesselflow.training import packing
from vesselflow.training.group import Distributed, Group
from vesselflow.training.loop import Hooks, Trained, train
from vesselflow.training.stacking import Stack

SEED = 11
OBJECTIVE = Objective("dice", "max")
SAMPLES = 12
#: Of images: small, as a training of a test takes the time of its convolutions.
SIDE = 32
BASE: dict[str, Any] = {
    "data": {"train": "a", "working_size_px": SIDE},
    "augment": {
        "hflip": {},
        "rotate90": {},
        "affine": {"p": 0.8},
        "color_jitter": {"p": 0.8},
        "gaussian_noise": {"p": 0.8},
    },
    "model": {"name": "wnet", "filters": [4, 8], "dropout": 0.2},
    "optimizer": {"lr": 0.01},
    "schedule": {"name": "cosine"},
    "train": {
        "epochs": 2,
        "steps_per_epoch": 5,
        "micro_batch_size": 2,
        "micro_batches_per_step": 2,
        "ema": 0.9,
        "clip_norm": 1.0,
    },
}


def tiny_experiment(**changes: Mapping[str, Any]) -> Experiment:
    """`BASE`, with some keys of some sections changed."""
    data = {**BASE}
    for section, values in changes.items():
        old = {} if "name" in values or section == "augment" else data.get(section, {})
        data[section] = {**old, **values}
    return load_experiment(data, registries=REGISTRIES)


def tiny_samples() -> ArraySamples:
    """Bright bars on noise inside a disc, each sample of a source of its own."""
    random = np.random.default_rng(3)
    planes = random.integers(0, 120, (SAMPLES, 5, SIDE, SIDE), dtype=np.uint8)
    y, x = np.mgrid[:SIDE, :SIDE]
    for number, sample in enumerate(planes):
        sample[3] = 255 * (np.abs(x - 5 - 2 * number) < 2)
        sample[4] = (y - 16) ** 2 + (x - 16) ** 2 < 15**2
        sample[:3] += (sample[3] // 3)[None]
    sources = np.arange(SAMPLES, dtype=np.int32)
    nowhere = np.zeros(SAMPLES, dtype=np.int32)
    table = SampleTable(
        layout=SampleLayout((SIDE, SIDE), channels=3),
        source=sources,
        corner=np.zeros((SAMPLES, 2), dtype=np.int32),
        centre=np.full((SAMPLES, 3), 0.25, dtype=np.float32),
        scale=np.full((SAMPLES, 3), 0.2, dtype=np.float32),
    )
    return ArraySamples([planes.reshape(SAMPLES, -1)], nowhere, sources, table)


def tiny_unlabelled(noise: int = 8) -> ArraySamples:
    """Five images of another camera: dark, without structure; targets and fov are full."""
    planes = np.random.default_rng(noise).integers(0, 60, (5, 5, 64, 64), dtype=np.uint8)
    planes[:, 3:] = 1
    rows = np.arange(len(planes), dtype=np.int32)
    table = SampleTable(
        layout=SampleLayout((64, 64), channels=3),
        source=rows,
        corner=np.zeros((len(rows), 2), dtype=np.int32),
        centre=np.full((len(rows), 3), 0.1, dtype=np.float32),
        scale=np.full((len(rows), 3), 0.2, dtype=np.float32),
    )
    return ArraySamples([planes.reshape(len(rows), -1)], np.zeros_like(rows), rows, table)


def tiny_volumes(full: bool = False, has_fov: bool = True) -> ArraySamples:
    """Bright tubes on noise, 8 x 16 x 16, in 16-bit floats, each of a volume of its own.

    Args:
        full: All voxels lie in the fov.
        has_fov: Records hold the fov.
    """
    random = np.random.default_rng(5)
    layout = SampleLayout((8, 16, 16), channels=1, dtype="float16", has_fov=has_fov)
    records = layout.empty(SAMPLES)
    image, target, fov = layout.arrays(records)
    if has_fov:
        fov[:, :, 0 if full else 1 :, :, 0 if full else 2 :] = 1
    for number in range(SAMPLES):
        target[number, 0, :, 2 + number : 5 + number] = 255
    image[...] = 0.3 * random.random(image.shape) + target / 500
    rows = np.arange(SAMPLES, dtype=np.int32)
    table = SampleTable(
        layout=layout,
        source=rows,
        corner=np.zeros((SAMPLES, 3), dtype=np.int32),
        centre=np.full((SAMPLES, 1), 0.25, dtype=np.float32),
        scale=np.full((SAMPLES, 1), 0.2, dtype=np.float32),
    )
    return ArraySamples([records], np.zeros(SAMPLES, dtype=np.int32), rows, table)


def tiny_points() -> ArraySamples:
    """Bright blobs at keypoints of two classes, 8 x 16 x 16, each of a volume of its own."""
    random = np.random.default_rng(6)
    layout = SampleLayout((8, 16, 16), channels=1, targets=0, dtype="float32")
    records = layout.empty(SAMPLES)
    image, _, fov = layout.arrays(records)
    fov[:, :, :, :, 2:] = 1
    image[...] = 0.3 * random.random(image.shape)
    points = {}
    for number in range(SAMPLES):
        places = random.integers(1, (7, 15, 15), (number % 4, 3))
        image[(number, 0, *places.T)] += 1
        classes = np.arange(len(places))[:, None] % 2
        rows = np.concatenate([places, classes], axis=1).astype(np.float64)
        points[number] = np.concatenate([[[10.0, 10.0, 10.0, np.nan]], rows])
    rows = np.arange(SAMPLES, dtype=np.int32)
    table = SampleTable(
        layout=layout,
        source=rows,
        corner=np.zeros((SAMPLES, 3), dtype=np.int32),
        centre=np.full((SAMPLES, 1), 0.25, dtype=np.float32),
        scale=np.full((SAMPLES, 1), 0.2, dtype=np.float32),
        points=Points.of(points, 3),
    )
    return ArraySamples([records], np.zeros(SAMPLES, dtype=np.int32), rows, table)


@dataclass
class Trace:
    """What a training let be seen."""

    outcome: Trained
    curve: list[tuple[int, int, dict[str, float]]] = field(default_factory=list)
    checkpoints: dict[int, bytes] = field(default_factory=dict)
    weights: dict[int, bytes] = field(default_factory=dict)
    order: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    model: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def last(self) -> dict[str, Any]:
        return packing.load(self.checkpoints[max(self.checkpoints)])


class _Batches(KeyedBatches):
    """Notes what was asked for, and marks micro-batches to be spoilt by a scale of -1."""

    order: dict[tuple[int, int], list[int]]
    spoilt: set[tuple[int, int]]

    def batch(self, step: int, index: int) -> Batch:
        self.order[step, index] = self.indices(step, index).tolist()
        batch = super().batch(step, index)
        if (step, index) in self.spoilt:
            batch.scale = np.full_like(batch.scale, -1.0)
        return batch


def _beside(samples: ArraySamples, settings: Train) -> KeyedBatches:
    """Micro-batches of unlabelled samples."""
    rows = np.arange(samples.n)
    return KeyedBatches(
        samples,
        SAMPLING.build({"name": "uniform"}, table=samples.table, rows=rows, seed=SEED + 1),
        micro_batch_size=settings.micro_batch_size,
        micro_batches_per_step=settings.micro_batches_per_step,
    )


_normalise_by = giving_module.normalise_by


def spoiling(settings: Any, image: Any, fov: Any, centre: Any, scale: Any, known: Any) -> Any:
    """`normalise_by`, but NaN for a marked micro-batch (the true one never gives NaN)."""
    image = _normalise_by(settings, image, fov, centre, scale, known)
    return image * float("nan") if (scale < 0).any() else image


def run_tiny(
    experiment: Experiment,
    *,
    group: Group | None = None,
    resume: bytes | None = None,
    stop_after: int | None = None,
    spoilt: frozenset[tuple[int, int]] = frozenset(),
    hooks: Hooks | None = None,
    rows: tuple[int, ...] = tuple(range(2, SAMPLES)),
    initial: bytes | None = None,
    stack: Stack | None = None,
    unlabelled: ArraySamples | None = None,
) -> Trace:
    """Train on some rows of `tiny_samples`, or of `tiny_volumes` where the model takes those;
    `stop_after` steps, where given."""
    torch.set_num_threads(1)
    trace = Trace(Trained(False, 0, 0, 0))
    settings = experiment.train
    samples = tiny_volumes() if axes_of(experiment.model) == 3 else tiny_samples()
    task = None
    if experiment.task.name == "keypoints":
        samples, task = tiny_points(), POINTS_TASK
    draws = SAMPLING.build(experiment.sampling, table=samples.table, rows=np.array(rows), seed=SEED)
    batches = _Batches(
        samples,
        draws,
        micro_batch_size=settings.micro_batch_size,
        micro_batches_per_step=settings.micro_batches_per_step,
    )
    batches.order, batches.spoilt = trace.order, set(spoilt)
    given: BatchSource = batches
    if experiment.unlabelled is not None:
        other = tiny_volumes(full=True) if axes_of(experiment.model) == 3 else tiny_unlabelled()
        given = WithUnlabelled(batches, _beside(unlabelled or other, settings))
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return stop_after is not None and asked >= stop_after

    hooks = hooks or Hooks()
    hooks.should_stop = should_stop
    hooks.save = lambda step: lambda payload: trace.checkpoints.update({step: bytes(payload)})
    hooks.epoch = lambda epoch, step, values: trace.curve.append((epoch, step, values))
    hooks.keep_weights = lambda epoch, step, payload: trace.weights.update({epoch: payload})
    built = []
    normalise_by = giving_module.normalise_by
    build, loop_module.build_model = (
        loop_module.build_model,
        lambda *args: built.append(build(*args)) or built[0],
    )
    giving_module.normalise_by = spoiling
    try:
        trace.outcome = train(
            experiment,
            given,
            channels=samples.table.layout.channels,
            train_samples=len(rows),
            seed=SEED,
            group=group,
            hooks=hooks,
            resume=resume,
            task=task,
            memory=draws if isinstance(draws, Hard) else None,
            initial=initial,
            stack=stack,
        )
    finally:
        loop_module.build_model, giving_module.normalise_by = build, normalise_by
    trace.model = built[0].state_dict()
    return trace


_whole: dict[str, Trace] = {}


def whole(experiment: Experiment, spoilt: frozenset[tuple[int, int]] = frozenset()) -> Trace:
    """`run_tiny` to its end, once in a process: many tests hold another training against it.

    Returns:
        Its trace, which is to be left as it is.
    """
    key = f"{experiment!r} {sorted(spoilt)}"
    if key not in _whole:
        _whole[key] = run_tiny(experiment, spoilt=spoilt)
    return _whole[key]


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Where two nested states are not equal bit for bit (NaN equals NaN)."""
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return [f"{where}: {sorted(map(str, one.keys() ^ other.keys()))}"]
        return [d for key in one for d in differences(one[key], other[key], f"{where}/{key}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            return [f"{where}: {len(one)} and {len(other)} entries"]
        pairs = enumerate(zip(one, other, strict=True))
        return [d for n, (a, b) in pairs for d in differences(a, b, f"{where}/{n}")]
    if isinstance(one, torch.Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape
        same = same and one.numpy().tobytes() == other.numpy().tobytes()
    else:
        same = one == other or (one != one and other != other)
    return [] if same else [where]


# -- groups of workers -------------------------------------------------------------------------

#: Four micro-batches per step for up to four workers; 10 steps; one micro-batch spoilt.
SHARED = tiny_experiment(
    train={"steps_per_epoch": 5, "micro_batches_per_step": 4, "micro_batch_size": 2}
)
SPOILT = frozenset({(6, 1)})
#: Volumes: three workers share their steps, too.
VOLUMES = tiny_experiment(
    data={"working_size_px": None},
    augment={"hflip": {}, "zflip": {}, "rotate90": {}, "affine": {}, "gaussian_noise": {}},
    model={"name": "unet3d", "filters": [4, 8], "dropout": 0.2},
    train={"steps_per_epoch": 3, "micro_batches_per_step": 3},
)
#: The same with keypoints, whose Gaussians the augmentations transform.
POINTS = tiny_experiment(
    task={"name": "keypoints"},
    data={"working_size_px": None},
    augment=VOLUMES.augment,
    model={"name": "unet3d", "filters": [4, 8], "dropout": 0.2},
    loss={"name": "combined", "pos_weight": 8.0},
    train={"steps_per_epoch": 3, "micro_batches_per_step": 3},
)
POINTS_TASK = TaskSpec(
    "keypoints", 1, ("a", "b"), 3, (2, 2, 2), sigma_angstrom=((20.0,) * 3,) * 2, rigid=False
)
#: Hard samples twice as often: three epochs, the losses of two are learnt from.
HARD = tiny_experiment(
    sampling={"name": "hard", "share": 0.75, "power": 4.0},
    loss={"name": "dice"},
    train={"epochs": 3, "steps_per_epoch": 3, "micro_batches_per_step": 3},
)
#: Two terms that are composed, and their shares of the gradient in every third step.
SHARES = tiny_experiment(
    loss={
        "name": "compose",
        "terms": {"bce": {}, "lovasz": {"weight": {"schedule": "linear", "from": 0, "to": 2}}},
    },
    train={"steps_per_epoch": 4, "micro_batches_per_step": 3, "log_gradient_shares": 3},
)
#: What else a training may be told: its state is in checkpoints, and equal for all workers.
OPTIONS = tiny_experiment(
    data={"working_size_px": None, "unlabelled": "u"},
    augment={"hflip": {}},
    model={
        "name": "fpn3d",
        "filters": [4, 8],
        "pyramid_channels": 4,
        "norm": "batch",
        "presence": 0.3,
    },
    optimizer={"name": "lion", "lr": 0.003},
    schedule={"name": "plateau", "patience": 1, "threshold": 9.0},
    train={
        "epochs": 5,
        "steps_per_epoch": 2,
        "micro_batches_per_step": 3,
        "ema": None,
        "swa": {"start": 0.3},
        "stop": {"patience": 3},  # nothing is scored here: it ends after three epochs
        "freeze": ["encoder.0"],
        "encoder_lr_factor": 0.5,
        "no_decay_on_norms": True,
        "domain_weight": {"schedule": "linear", "from": 0, "to": 1},
    },
    score={"epochs": "all"},
)
GROUPS = {
    "images": (SHARED, (2, 3, 4)),
    "volumes": (VOLUMES, (2, 3)),
    "points": (POINTS, (3,)),
    "hard": (HARD, (3,)),
    "shares": (SHARES, (2,)),
    "options": (OPTIONS, (3,)),
}


def _worker(folder: Path, size: int, rank: int) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet-{size}", rank=rank, world_size=size
    )
    for kind, (experiment, sizes) in GROUPS.items():
        if size in sizes:
            trace = run_tiny(experiment, group=Distributed(), spoilt=SPOILT)
            (folder / f"{kind}-{size}-{rank}.pickle").write_bytes(pickle.dumps(trace))
    torch.distributed.destroy_process_group()


def before_forks(*experiments: Experiment) -> None:
    """What is imported late is imported here, once, and not by each worker."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    for name in ("kornia.geometry", "pandas", "vesselflow.tasks.segment"):
        importlib.import_module(name)
    for experiment in experiments:
        torch.optim.AdamW(loop_module.build_model(experiment, 3, SEED).parameters())
        compose(experiment.augment)
        LOSSES.build(experiment.loss)


def groups(folder: Path) -> None:
    """Train `GROUPS` on gloo groups of several sizes, one process per worker."""
    before_forks(*(experiment for experiment, _ in GROUPS.values()))
    context = multiprocessing.get_context("fork")  # no gradient was computed here yet
    for size in sorted({size for _, sizes in GROUPS.values() for size in sizes}):
        workers = [
            context.Process(target=_worker, args=(folder, size, rank)) for rank in range(size)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if any(worker.exitcode for worker in workers):
            raise SystemExit(f"a worker of {size} failed")


# -- whole runs --------------------------------------------------------------------------------


def tiny_stores(folder: Path) -> dict[str, Path]:
    """Two cameras, and `empty`: one image with vessels, one without."""
    stores = {name: folder / f"{name}.h5" for name in ("a", "b", "empty")}
    make_synth(stores["a"], "fundus", sources=5, seed=0, domain="a", size_px=96)
    make_synth(stores["b"], "fundus", sources=2, seed=1, domain="b", size_px=80)
    with Store.open(stores["b"]) as store:
        pair = [
            Source(
                id=f"e{index}",
                group=f"e{index}",
                image=store.image(index),
                target=store.target(index) * np.uint8(index == 0),
                fov=store.fov(index),
            )
            for index in range(2)
        ]
    write_store(stores["empty"], pair, domain="empty", importer={"name": "test"})
    return stores


def tiny_domains(stores: Mapping[str, Path], *outside: str) -> tuple[Domain, ...]:
    """Source 3 of `a` validates, source 4 tests."""
    digests = {}
    for name in ("a", *outside):
        with Store.open(stores[name]) as store:
            digests[name] = [source.digest for source in store.sources]
    return (
        make_domain("a", "val", "a", [3], digests["a"]),
        make_domain("a", "test", "a", [4], digests["a"]),
        *(
            make_domain(name, "ood", name, range(len(digests[name])), digests[name])
            for name in outside
        ),
    )


def tiny_job(
    run_id: str, experiment: Experiment, domains: tuple[Domain, ...], seed: int = 5
) -> Job:
    """A run that trains on sources 0 to 2 of `a`, for one point."""
    point = f"point-{run_id}"
    run = RunSpec(
        run_id=run_id,
        label=f"{point} fold 0 seed {seed}",
        fold=0,
        seed=seed,
        experiment=experiment,
        identity={"run": run_id},
        train=(0, 1, 2),
    )
    params = {"loss.name": experiment.loss["name"]}
    cell = Cell(point, 0, params, run, domains, Protocol.of(experiment))
    return Job((cell,), OBJECTIVE)


def changed(job: Job, domains: tuple[Domain, ...] | None = None, **changes: Any) -> Job:
    """The job with its run changed, or the domains of its cells."""
    run = replace(job.run, **changes)
    cells = (
        replace(cell, run=run, domains=cell.domains if domains is None else domains)
        for cell in job.cells
    )
    return replace(job, cells=tuple(cells))


def run_a(domains: tuple[Domain, ...]) -> Job:
    """Differs from `run_b` wherever something could be left behind in a process."""
    experiment = tiny_experiment(
        model={"name": "wnet", "filters": [4, 8, 8], "upsample": "bilinear"},
        loss={"name": "fuzzy"},
        train={"steps_per_epoch": 2, "amp": "bf16", "channels_last": False, "ema": None},
        normalise={"scope": "dataset"},
        score={"tta": "flips"},
    )
    return tiny_job("aaaa", experiment, domains, seed=6)


def run_b(domains: tuple[Domain, ...]) -> Job:
    experiment = tiny_experiment(train={"steps_per_epoch": 3}, score={"epochs": "all"})
    return tiny_job("bbbb", experiment, domains)


class StopAt:
    """Asks to stop from one moment of a run on, told by what it reports.

    Args:
        phase: The phase.
        step: Steps that are done then.
    """

    def __init__(self, phase: str, step: int) -> None:
        self.wanted, self.now = (phase, step), False
        self.told: list[str] = []
        self.reports = Reports(
            phase=self._phase, should_stop=lambda: self.now, storage=self.told.append
        )

    def _phase(self, phase: str, epoch: int, step: int, steps: int) -> None:
        self.now = self.now or (phase, step) == self.wanted


def files_of(results: Path, run_id: str) -> dict[str, bytes]:
    """Weights of a run, and all evaluations, by name."""
    found = [*(results / "runs" / run_id / "weights").iterdir()]
    found += (results / "evaluations").glob("*.parquet")
    return {path.name: path.read_bytes() for path in found}


def alone(folder: Path) -> None:
    """In a process that did nothing before: run B, then what is left of interrupted trainings."""
    torch.set_num_threads(1)
    stores = {path.stem: path for path in folder.glob("*.h5")}
    execute(run_b(tiny_domains(stores, "b")), folder / "alone", LocalData(stores))
    for path in folder.glob("*.ckpt"):
        trace = run_tiny(tiny_experiment(), resume=path.read_bytes())
        path.with_suffix(".pickle").write_bytes(pickle.dumps(trace))


#: Seconds that one worker of `_faulty` waits for another in a step.
LIMIT_S = 3.0


def _one_fault(fault: str, rank: int) -> None:
    """Let something happen to this rank in step 2 (of 6), once."""
    true, seen = giving_module.normalise_by, []

    def faulty(*args: Any) -> Any:
        seen.append(args)
        if len(seen) == 2 and rank == 1:
            if fault == "code":
                raise ValueError("a bad part\nand more of it")
            if fault == "memory":
                raise MemoryError
            if fault == "killed":
                os.kill(os.getpid(), 9)
        return true(*args)

    giving_module.normalise_by = faulty
    apply, applied = step_module.Stepper._apply, []

    def short_of_memory(*args: Any) -> None:
        applied.append(args)
        if len(applied) == 3 and rank == 1 and fault == "late":
            raise MemoryError
        apply(*args)

    step_module.Stepper._apply = short_of_memory
    if fault == "disk" and rank == 0:
        began = time.monotonic()
        replace_ = atomic.os.replace

        def full(source: Any, target: Any) -> None:
            # From the first checkpoint on, for longer than the others wait in a step.
            if str(target).endswith(".ckpt") and time.monotonic() - began < 1.5 * LIMIT_S:
                raise OSError(errno.ENOSPC, "No space left on device")
            replace_(source, target)

        atomic.os.replace = full


def _faulty(folder: Path, rank: int, faults: list[str]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meet-{faults[0]}",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=LIMIT_S),
    )
    group = Distributed()
    stores = {path.stem: path for path in folder.glob("*.h5")}
    job, data = run_b(tiny_domains(stores, "b")), LocalData(stores)
    before = giving_module.normalise_by, step_module.Stepper._apply, atomic.os.replace
    for fault in faults:
        told: list[str] = []
        _one_fault(fault, rank)
        reports = Reports(storage=told.append)
        results = folder / fault
        ended = [execute(job, results, data, group=group, reports=reports)]
        giving_module.normalise_by, step_module.Stepper._apply, atomic.os.replace = before
        state = RunRecord(results, job.run.run_id).status().state
        if fault not in ("killed", "code"):
            # By the same workers, without another word between them.
            ended.append(execute(job, results, data, group=group))
        seen = pickle.dumps((ended, state, told))
        (folder / f"{fault}-{rank}.pickle").write_bytes(seen)


def faults(folder: Path) -> None:
    """Run B on two workers to which things happen."""
    before_forks(SHARED)
    context = multiprocessing.get_context("fork")
    for kinds in (["code", "memory", "late", "disk"], ["killed"]):
        workers = [context.Process(target=_faulty, args=(folder, r, kinds)) for r in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()


if __name__ == "__main__":
    # Under its own name, so that what it pickles can be read where it was imported.
    import training_cases

    getattr(training_cases, sys.argv[1])(Path(sys.argv[2]))
