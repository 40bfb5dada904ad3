"""Slots: warm Ray Train worker groups that take one run after another."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import pickle
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import ray
import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from vesselflow.feed.batches import Samples, WholeImages
from vesselflow.feed.order import key
from vesselflow.feed.ray_resident import Resident
from vesselflow.feed.ray_stream import StreamBatches, Streamed, StreamSamples
from vesselflow.feed.view import View
from vesselflow.runs.cells import Job
from vesselflow.sweeps.capacity import Plan

if TYPE_CHECKING:
    from vesselflow.feed.sources import BatchSource, Order

#: (kind, store, view) -> handle of data that are resident, or read as they are used.
Handles = Mapping[tuple[str, str, View], Resident | Streamed]
#: What a first run would import in its midst: 1.5 s of its steps (optimizers ask for dynamo).
_FIRST_RUN_NEEDS = (
    "torch._dynamo",
    "vesselflow.augment.geometric",
    "vesselflow.augment.photometric",
)
#: Seconds between two beats of a slot.
BEAT_S = 0.5


@dataclass(frozen=True)
class SlotConfig:
    """What every worker of a slot is told at its start.

    Attributes:
        slot: Name of the slot.
        broker: Name of the broker actor.
        namespace: Ray namespace of the broker.
        results: The results folder.
        threads: CPU threads of each worker.
        gpu: Share of a GPU of each worker.
        handles: The data.
        memory_gb: A worker that holds more after a run is replaced; None never.
    """

    slot: str
    broker: str
    namespace: str
    results: str
    threads: int
    gpu: float
    handles: Handles
    memory_gb: float | None = None


class SlotData:
    """Samples and whole images, resident or streamed; each is opened once per process."""

    def __init__(self, handles: Handles) -> None:
        self._handles = handles
        self._opened: dict[tuple[str, str, View], Any] = {}

    def samples(self, store: str, view: View) -> Samples:
        """All samples of a store."""
        return self._open(("samples", store, view))

    def images(self, store: str, view: View) -> WholeImages:
        """All whole images of a store, at the geometry of a view (its patches do not matter)."""
        return self._open(("images", store, image_view(view)))

    def batches(self, samples: Samples, rows: np.ndarray, order: Order) -> BatchSource:
        """Micro-batches gathered out of shared memory, or streamed: bit-equal."""
        if not isinstance(samples, StreamSamples):
            return order.gathered(samples, rows)
        return StreamBatches(
            samples.only(rows),
            seed=key(order.seed, "order"),
            steps=order.steps,
            micro_batch_size=order.micro_batch_size,
            micro_batches_per_step=order.micro_batches_per_step,
            workers=order.workers,
            rank=order.rank,
        )

    def _open(self, name: tuple[str, str, View]) -> Any:
        if name not in self._opened:
            self._opened[name] = self._handles[name].open()
        return self._opened[name]


def image_view(view: View) -> View:
    """The view of whole images: what patches are cut does not change it."""
    return replace(view, patch="full", stride=None, min_fov=0.0)


class _Beacon:
    """Tells the broker where the slot is, twice a second, and hears whether it is to stop."""

    def __init__(self, broker: Any, slot: str) -> None:
        self._broker, self._slot = broker, slot
        self._place: tuple[str, int, int, int] = ("idle", 0, 0, 0)
        self.stop = False
        threading.Thread(target=self._run, daemon=True).start()

    def phase(self, phase: str, epoch: int, step: int, steps: int) -> None:
        self._place = (phase, epoch, step, steps)

    def stopped(self) -> bool:
        return self.stop

    def _run(self) -> None:
        while True:
            time.sleep(BEAT_S)
            try:
                self.stop = ray.get(self._broker.beat.remote(self._slot, *self._place))
            except ray.exceptions.RayError:
                return  # The broker is gone: so is the sweep, and this process with it.


def serve(config: dict[str, Any]) -> None:
    """The training function of a slot: run after run, until the broker says close."""
    import torch

    from vesselflow.sweeps.context import Reports
    from vesselflow.sweeps.execution import execute
    from vesselflow.training.group import current_group
    from vesselflow.training.process import settle_process

    settings: SlotConfig = config["settings"]
    settle_process(settings.threads)
    for name in _FIRST_RUN_NEEDS:
        importlib.import_module(name)
    group = current_group()
    broker = ray.get_actor(settings.broker, settings.namespace)
    data = SlotData(settings.handles)
    device = "cuda" if settings.gpu and torch.cuda.is_available() else "cpu"
    node = ray.get_runtime_context().get_node_id()
    beacon = _Beacon(broker, settings.slot) if group.rank == 0 else None
    pending = ray.get(broker.arrive.remote(settings.slot, node)) if group.rank == 0 else None
    while True:
        if group.rank == 0:
            order = (
                ("run", pending)
                if pending is not None
                else ray.get(broker.claim.remote(settings.slot))
            )
        else:
            order = None
        word, payload = group.share(order)
        pending = None
        if word == "close":
            return
        if word == "wait":
            continue
        job: Job = pickle.loads(payload)
        run_id = job.run.run_id
        reports = Reports()
        if beacon is not None:
            beacon.phase("training", 0, 0, 0)
            reports = Reports(
                phase=beacon.phase,
                epoch=partial(broker.epoch.remote, run_id),
                message=broker.note.remote,
                should_stop=beacon.stopped,
                storage=partial(_tell_storage, broker, job.run.label),
            )
        try:
            result = execute(
                job,
                Path(settings.results),
                data,
                group=group,
                reports=reports,
                device=device,
                slot=settings.slot,
            )
        except Exception as error:
            # On every rank: the group must end together, or the others wait in a collective call.
            # The run is marked as failed first, so that the restarted group does not repeat it.
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            ray.get(broker.finish.remote(settings.slot, run_id, "failed", {"message": text}))
            traceback.print_exc()
            raise
        if result.state == "handed back":
            # The group ends and begins anew; the broker gives the run back to it, and counts.
            raise RuntimeError(result.message)
        if group.rank == 0:
            fields = asdict(result)
            state = fields.pop("state")
            ray.get(broker.finish.remote(settings.slot, run_id, state, fields))
        if group.share(_grown(settings.memory_gb)):
            return  # The driver starts the slot anew.


def _tell_storage(broker: Any, label: str, text: str) -> None:
    broker.note.remote(f"{label}: waits: {text}" if text else f"{label}: the storage is back")


def _grown(limit_gb: float | None) -> bool:
    """Whether this process holds more memory of its own than it may."""
    if limit_gb is None:
        return False
    return bool(psutil.Process().memory_full_info().uss > limit_gb * 1e9)


class Slots:
    """The slots of a sweep, one Ray Train run each, started from threads of the driver.

    Args:
        plan: How many, and what each owns.
        config: What is told to all of them; `slot` is filled in.
        storage: Folder for Ray Train's own files.
        gone: Called with a slot's name when it ended.
        closed: Whether slots are to end; one that ends while they are not is started anew.
    """

    def __init__(
        self,
        plan: Plan,
        config: SlotConfig,
        storage: Path,
        *,
        gone: Callable[[str], None],
        closed: Callable[[], bool],
    ) -> None:
        self._gone, self._closed = gone, closed
        self.errors: list[str] = []
        self._threads = [
            threading.Thread(
                target=self._serve, args=(plan, config, storage, f"slot-{n}"), daemon=True
            )
            for n in range(plan.slots)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> int:
        """Slots that have not ended."""
        return sum(thread.is_alive() for thread in self._threads)

    def join(self, timeout_s: float) -> None:
        """Wait for all slots to end."""
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _serve(self, plan: Plan, config: SlotConfig, storage: Path, name: str) -> None:
        """Keep one slot alive until slots are to end, or until it cannot be kept alive."""
        for generation in itertools.count():
            try:
                self._trainer(plan, replace(config, slot=name), storage, generation).fit()
                again = not self._closed()
            except Exception as error:
                self.errors.append(f"{name}: {error}".splitlines()[0])
                again = False
            with contextlib.suppress(Exception):  # Ray is gone at the end of a stopped sweep.
                self._gone(name)
            if not again:
                return

    def _trainer(
        self, plan: Plan, config: SlotConfig, storage: Path, generation: int
    ) -> TorchTrainer:
        resources = {"CPU": float(plan.threads)}
        if plan.gpu:
            resources["GPU"] = plan.gpu
        return TorchTrainer(
            serve,
            train_loop_config={"settings": config},
            torch_config=TorchConfig(backend="nccl" if plan.gpu >= 1 else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=plan.workers,
                use_gpu=bool(plan.gpu),
                resources_per_worker=resources,
                placement_strategy="PACK",
            ),
            run_config=RunConfig(
                name=f"{config.slot}-{generation}",
                storage_path=str(storage),
                failure_config=FailureConfig(max_failures=-1),
            ),
        )
