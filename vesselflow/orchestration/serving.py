"""What a slot's processes do: one run after another, until the broker says close."""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import socket
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import psutil
import ray

from vesselflow.errors import UserError
from vesselflow.feed.ray_shared import SharedStore
from vesselflow.orchestration.broker import Answer
from vesselflow.records.drivers import sees
from vesselflow.records.paths import any_path
from vesselflow.sweeps.book import Grant, Place
from vesselflow.sweeps.cost_machine import Seat, machine_kind, share_of
from vesselflow.sweeps.cost_notes import Taken
from vesselflow.sweeps.faults import Fault
from vesselflow.sweeps.machine import cpus_here, gpus_here
from vesselflow.sweeps.policy import Event

if TYPE_CHECKING:
    from vesselflow.sweeps.context import Reports, Result
    from vesselflow.training.group import Group

#: What a first run would import in its midst.
_FIRST_RUN_NEEDS = (
    "vesselflow.augment.blurring",
    "vesselflow.augment.chain",
    "vesselflow.augment.channels",
    "vesselflow.augment.clahe",
    "vesselflow.augment.cropping",
    "vesselflow.augment.dropping",
    "vesselflow.augment.elastic",
    "vesselflow.augment.geometric",
    "vesselflow.augment.mixing",
    "vesselflow.augment.photometric",
)
#: What a worker met -> what that is to the policy.
EVENTS = {
    Fault.USER_CODE: Event.RAISED,
    Fault.DIVERGED: Event.DIVERGED,
    Fault.PEER_LOST: Event.PEER_LOST,
    Fault.CLUSTER: Event.CLUSTER,
    Fault.STORAGE: Event.STORAGE,
    Fault.OUT_OF_MEMORY: Event.OUT_OF_MEMORY,
    Fault.INTERRUPTED: Event.HANDED_BACK,
}


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
        token: The driver's in the results folder: who finds it there sees the same folder.
        stores: Those that it may have to open.
        memory_gb: A worker that holds more after a run is replaced; None never.
    """

    slot: str
    broker: str
    namespace: str
    results: str
    threads: int
    gpu: float
    token: str
    stores: tuple[SharedStore, ...] = ()
    memory_gb: float | None = None


class BrokerCalls:
    """The broker as a slot sees it: plain calls that wait for their answer.

    Args:
        actor: Handle of the actor.
        slot: Name of the slot.
    """

    def __init__(self, actor: Any, slot: str) -> None:
        self._actor, self._slot = actor, slot
        self.arrival = 0

    def arrive(self, places: Sequence[Place]) -> None:
        """Tell that the slot is there."""
        self.arrival = ray.get(self._actor.arrive.remote(self._slot, places))

    def data(self) -> Any:
        """What the driver provides for all runs; None while it is not there."""
        return ray.get(self._actor.data.remote())

    def claim(self) -> Answer:
        """What is to be done next."""
        order: Answer = ray.get(self._actor.claim.remote(self._slot, self.arrival))
        return order

    def beat(self, grant: int, place: tuple[str, int, int, int]) -> tuple[bool, float]:
        """Tell where the slot is; whether it is to go on, and when to beat again."""
        answer: tuple[bool, float] = ray.get(
            self._actor.beat.remote(self._slot, self.arrival, grant, place)
        )
        return answer

    def storage(self, text: str) -> None:
        """Tell that files cannot be written, or can again."""
        self._actor.storage.remote(self._slot, self.arrival, text)

    def note(self, text: str) -> None:
        """Tell the person."""
        self._actor.note.remote(text)

    def epoch(
        self, grant: int, run_id: str, epoch: int, step: int, values: Mapping[str, float]
    ) -> None:
        """Tell the curve of an epoch."""
        self._actor.epoch.remote(grant, run_id, epoch, step, values)

    def finish(self, grant: int, run_id: str, result: Result) -> None:
        """Tell that a run is done."""
        ray.get(self._actor.finish.remote(self._slot, grant, run_id, result.values, result.cost))

    def end(self, grant: int, run_id: str, event: Event, **details: Any) -> None:
        """Tell that a run ended without a result."""
        ray.get(self._actor.end.remote(self._slot, grant, run_id, event, details))


class Beacon:
    """Tells the broker where the slot is, about twice a second, and hears whether to stop.

    It beats in a thread of its own, so that a long step is not taken for silence.
    """

    def __init__(self, broker: BrokerCalls) -> None:
        self._broker = broker
        self._grant = 0
        self._place: tuple[str, int, int, int] = ("idle", 0, 0, 0)
        self._phase = "idle"
        #: The storage's trouble comes from the thread that writes checkpoints, too.
        self._lock = threading.Lock()
        self.stop = False
        threading.Thread(target=self._run, daemon=True, name="beacon").start()

    def take(self, grant: int) -> None:
        """From now on the slot works on a grant."""
        self.stop = False
        self._place = ("training", 0, 0, 0)
        self._grant = grant

    def rest(self) -> None:
        """From now on the slot works on nothing."""
        self._grant, self._place = 0, ("idle", 0, 0, 0)

    def phase(self, phase: str, epoch: int, step: int, steps: int) -> None:
        """Where it is."""
        with self._lock:
            self._place = (phase, epoch, step, steps)

    def storage(self, text: str) -> None:
        """Files cannot be written, or can again: the slot waits, and does not hang.

        It waits until it says where it is: it may go on while a checkpoint waits to be written.
        """
        with self._lock:
            phase, epoch, step, steps = self._place
            if phase != "waiting":
                self._phase = phase
            self._place = ("waiting" if text else self._phase, epoch, step, steps)
        self._broker.storage(text)

    def stopped(self) -> bool:
        """Whether what it holds is to be handed back."""
        return self.stop

    def _run(self) -> None:
        while True:
            grant = self._grant
            try:
                goes_on, wait = self._broker.beat(grant, self._place)
            except ray.exceptions.RayError:
                return  # The broker is gone: so is the sweep, and this process with it.
            if grant == self._grant:
                self.stop = not goes_on
            time.sleep(wait)


class GroupLost(Exception):
    """The ranks of a slot can talk no more; its processes end and begin anew."""


class Unfit(Exception):
    """A machine on which the slot cannot work; the message says why."""


def check_fit(settings: SlotConfig) -> None:
    """Raise `Unfit` where the results folder, a store or the GPU is not what the driver has."""
    import torch

    here = socket.gethostname()
    if settings.gpu and not torch.cuda.is_available():
        raise Unfit(f"{here} has no GPU that CUDA can use")
    if not sees(settings.results, settings.token):
        raise Unfit(f"{here} does not see the results folder {settings.results}")
    for store in settings.stores:
        try:
            store.check()
        except (UserError, OSError) as error:
            raise Unfit(f"{here} cannot read the store {store} ({error})") from None


def serve(settings: SlotConfig) -> str:
    """Serve runs in this process until the broker says close; rank 0 of a group leads.

    Returns:
        Why it ended: "closed", or "grown" when the process holds more memory than it may.

    Raises:
        Unfit: This machine cannot do the work.
    """
    from vesselflow.feed.ray_data import SlotData
    from vesselflow.sweeps.execution import execute
    from vesselflow.training.group import current_group
    from vesselflow.training.process import settle_process

    settle_process(settings.threads)
    check_fit(settings)
    group = current_group()
    broker = BrokerCalls(ray.get_actor(settings.broker, settings.namespace), settings.slot)
    places = _places(group)
    if group.rank == 0:
        broker.arrive(places)
    broker.arrival = group.share(broker.arrival)
    beacon = Beacon(broker) if group.rank == 0 else None
    for name in _FIRST_RUN_NEEDS:
        importlib.import_module(name)
    while (handles := broker.data()) is None:
        pass
    data = SlotData(handles)
    device = "cuda" if settings.gpu else "cpu"
    do = partial(
        execute,
        results=any_path(settings.results),
        data=data,
        group=group,
        device=device,
        slot=settings.slot,
    )
    return Server(
        settings,
        broker,
        group,
        beacon,
        do,
        seat=_seat(settings, group),
        slot_start_s=_start_s(),
    ).run()


class Server:
    """Claims runs and has them done; every rank of a group has one.

    Args:
        settings: Of the slot.
        broker: Whom to ask.
        group: The ranks.
        beacon: On rank 0.
        do: ``execute`` with everything but the run, the reports, how the run was taken, and what
            was seen of failures.
        grown: Whether the process holds too much memory.
        seat: Where the slot sits.
        slot_start_s: Seconds that its processes took to start.
    """

    def __init__(
        self,
        settings: SlotConfig,
        broker: Any,
        group: Group,
        beacon: Any,
        do: Callable[..., Result],
        grown: Callable[[], bool] | None = None,
        *,
        seat: Seat | None = None,
        slot_start_s: float = 0.0,
    ) -> None:
        self._settings, self._broker, self._group = settings, broker, group
        self._beacon, self._do = beacon, do
        self._grown = grown or partial(_grown, settings.memory_gb)
        self._seat, self._slot_start_s = seat or Seat(), slot_start_s
        self._free_since = time.monotonic()

    def run(self) -> str:
        """Serve until the broker says close."""
        while True:
            leads = self._group.rank == 0
            order: Answer = self._group.share(self._broker.claim() if leads else None)
            if order.word == "close":
                return "closed"
            if order.word == "wait":
                continue
            assert order.grant is not None
            worn = self._work(order.grant)
            self._free_since = time.monotonic()
            if self._group.share(worn or self._grown()):
                return "grown"

    def _work(self, given: Grant) -> bool:
        """Do one run and tell the broker how it ended.

        Returns:
            Whether this process had better be replaced.

        Raises:
            GroupLost: The ranks can talk no more: the group must end.
        """
        broker, grant, run_id = self._broker, given.number, given.run_id
        job = pickle.loads(zlib.decompress(given.payload))
        if self._beacon is not None:
            self._beacon.take(grant)
        try:
            result = self._do(
                job,
                reports=self._reports(grant, run_id),
                taken=self._taken(given),
                survival=given.survival,
            )
        finally:
            if self._beacon is not None:
                self._beacon.rest()
        lost = result.fault is Fault.PEER_LOST
        if self._group.rank == 0:
            if result.state == "finished":
                broker.finish(grant, run_id, result)
            elif result.state == "stopped":
                broker.end(grant, run_id, Event.HANDED_BACK)
            else:
                broker.end(
                    grant,
                    run_id,
                    EVENTS[result.fault or Fault.USER_CODE],
                    # What a broken connection says of itself helps nobody.
                    message="" if lost else result.message,
                    place=", ".join(filter(None, (self._where(), result.place))),
                    log=result.log,
                )
        if lost and self._group.size > 1:
            raise GroupLost("one of its workers lost another")
        return result.fault is Fault.OUT_OF_MEMORY

    def _taken(self, given: Grant) -> Taken:
        """What the run's cost is to know of how the slot came to it."""
        idle_s = time.monotonic() - self._free_since
        slot_start_s, self._slot_start_s = self._slot_start_s, 0.0
        return Taken(self._seat, given.reached, idle_s, slot_start_s)

    def _reports(self, grant: int, run_id: str) -> Reports:
        from vesselflow.sweeps.context import Reports

        if self._beacon is None:
            return Reports()
        return Reports(
            phase=self._beacon.phase,
            epoch=partial(self._broker.epoch, grant, run_id),
            should_stop=self._beacon.stopped,
            message=self._broker.note,
            storage=self._beacon.storage,
        )

    def _where(self) -> str:
        rank = f" rank {self._group.rank}" if self._group.size > 1 else ""
        return f"{self._settings.slot}{rank} on {socket.gethostname()}"


def _start_s() -> float:
    """Seconds that this process took until now.

    Ray keeps processes ready: one may have idled for hours before it became a slot. So a start is
    no longer than a few times what it has computed.
    """
    process = psutil.Process()
    used = process.cpu_times()
    return float(min(time.time() - process.create_time(), 3.0 * (used.user + used.system)))


def _seat(settings: SlotConfig, group: Group) -> Seat:
    """Which part of which machine the slot holds."""
    share = share_of(
        group.size,
        settings.threads,
        settings.gpu,
        machine_cpus=cpus_here(),
        machine_gpus=gpus_here() if settings.gpu else 0,
    )
    return Seat(machine_kind(), share)


def _places(group: Group) -> tuple[Place, ...]:
    """Where all ranks live (a collective call)."""
    node, host = ray.get_runtime_context().get_node_id(), socket.gethostname()
    here = Place(node, os.getpid(), host, str(machine_kind()))
    return tuple(group.collect(here))


def _grown(limit_gb: float | None) -> bool:
    """Whether this process holds more memory of its own than it may."""
    if limit_gb is None:
        return False
    return bool(psutil.Process().memory_full_info().uss > limit_gb * 1e9)


def kill_process(pid: int) -> bool:
    """SIGKILL one of Ray's worker processes on this machine, stopped ones included."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        if "ray::" in " ".join(process.cmdline()):
            process.kill()
            return True
    return False
