"""Slots kept alive: as many as the machines carry, each replaced when it ends.

A slot of one worker is one Ray actor: the worker's process and nothing beside it. A slot of several
workers is a Ray Train run, whose controller starts the group again when one of them dies.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vesselflow.orchestration.serving import SlotConfig, kill_process, serve
from vesselflow.sweeps.book import Place
from vesselflow.sweeps.capacity import SlotPlan

#: A host that lived so long is no failure to start, however it ended.
LIVED_S = 30.0
#: Seconds until a slot that did not start is tried again: after its first failure, and at most.
AGAIN_S, LONGEST_S = 1.0, 60.0
#: Seconds for which a slot that cannot be reached may still turn out to be on a machine that is
#: gone: the line to it breaks about when Ray finds its machine dead, sometimes a little earlier.
UNREACHABLE_S = 5.0
#: Failures in a row, of every slot and none ever served, after which the sweep gives up.
GIVE_UP = 3


class Host(Protocol):
    """The processes of one slot."""

    def ended(self) -> str | None:
        """None while it lives; then how it ended: "" as it should, else the reason."""

    def kill(self) -> None:
        """End it now."""

    def asks_ray(self) -> bool:
        """Whether a thread of this process waits for an answer of Ray's because of it."""


class ActorHost:
    """A slot of one worker: an actor that serves.

    Args:
        plan: What it owns.
        config: Of the slot.
    """

    def __init__(self, plan: SlotPlan, config: SlotConfig) -> None:
        options: dict[str, Any] = {"num_cpus": plan.threads}
        if plan.gpu:
            options["num_gpus"] = plan.gpu
        self._actor = ray.remote(SlotWorker).options(max_restarts=0, **options).remote()
        self._end = self._actor.serve.remote(config)
        self._unreachable_since: float | None = None

    def ended(self) -> str | None:
        """See `Host`."""
        done, _ = ray.wait([self._end], timeout=0)
        if not done:
            return None
        try:
            ray.get(self._end)
        except ray.exceptions.RayTaskError as error:
            return f"{type(error.cause).__name__}: {error.cause}".splitlines()[0]
        except ray.exceptions.ActorUnavailableError:
            now = time.monotonic()
            if self._unreachable_since is None:
                self._unreachable_since = now
            if now - self._unreachable_since < UNREACHABLE_S:
                return None
            self.kill()
            return "it cannot be reached any more"
        except ray.exceptions.RayActorError:
            return "its process died"
        except ray.exceptions.RayError as error:
            return str(error).splitlines()[0]
        return ""

    def kill(self) -> None:
        """See `Host`."""
        ray.kill(self._actor, no_restart=True)

    def asks_ray(self) -> bool:
        """See `Host`."""
        return False


class SlotWorker:
    """The one process of a slot of one worker; named so in Ray's dashboard."""

    def serve(self, config: SlotConfig) -> str:
        """See `serving.serve`."""
        return serve(config)


class TrainHost:
    """A slot of several workers: a Ray Train run in a thread of the driver.

    Args:
        plan: What it owns.
        config: Of the slot.
        scratch: Folder for Ray Train's own files.
        generation: Number of this start: Train would resume a run of the same name.
    """

    def __init__(self, plan: SlotPlan, config: SlotConfig, scratch: Path, generation: int) -> None:
        self._reason: str | None = None
        self._thread = threading.Thread(
            target=self._fit, args=(plan, config, scratch, generation), daemon=True
        )
        self._thread.start()

    def ended(self) -> str | None:
        """See `Host`."""
        return None if self._thread.is_alive() else self._reason

    def kill(self) -> None:
        """Nothing: its controller starts the group again when the workers are killed."""

    def asks_ray(self) -> bool:
        """See `Host`."""
        return self._thread.is_alive()

    def _fit(self, plan: SlotPlan, config: SlotConfig, scratch: Path, generation: int) -> None:
        try:
            _trainer(plan, config, scratch, generation).fit()
            self._reason = ""
        except Exception as error:
            cause = getattr(error, "training_failed_error", None) or error
            self._reason = str(cause).splitlines()[0] if str(cause) else type(cause).__name__


def _trainer(plan: SlotPlan, config: SlotConfig, scratch: Path, generation: int) -> Any:
    # Imported late: it imports torch, which slots of one worker need in their own process only.
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    resources = {"CPU": float(plan.threads)}
    if plan.gpu:
        resources["GPU"] = plan.gpu
    return TorchTrainer(
        _serve_in_group,
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
            storage_path=str(scratch),
            failure_config=FailureConfig(max_failures=-1),
        ),
    )


def _serve_in_group(config: dict[str, Any]) -> None:
    serve(config["settings"])


@dataclass
class _Slot:
    """One slot of the driver's list."""

    name: str
    host: Host | None = None
    generation: int = 0
    failures: int = 0
    served: bool = False
    began: float = 0.0
    again: float = 0.0
    reason: str = ""


@dataclass
class Slots:
    """Keeps a wanted number of slots alive.

    Args:
        start: (name, generation) -> the processes of a slot.
        lose: Called with a slot's name, and whether it is gone for good, when it ended.
        starting: Called with a slot's name and a note when it is asked for, or waits.
        say: Tells the person.
        clock: Monotonic seconds.

    Attributes:
        slots: By name.
    """

    start: Callable[[str, int], Host]
    lose: Callable[[str, bool], None]
    starting: Callable[[str, str], None]
    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    slots: dict[str, _Slot] = field(default_factory=dict)
    _numbers: int = 0

    @property
    def alive(self) -> int:
        """Slots whose processes have not ended."""
        return sum(slot.host is not None for slot in self.slots.values())

    @property
    def asks_ray(self) -> bool:
        """Whether threads of this process wait for Ray because of slots: then it must not end."""
        return any(slot.host is not None and slot.host.asks_ray() for slot in self.slots.values())

    def served(self, name: str) -> None:
        """Note that a slot has done something: what ends it later is no failure to start."""
        if name in self.slots:
            self.slots[name].served = True

    def reconcile(self, wanted: int, *, ending: bool = False) -> None:
        """One look at all slots: take note of what ended, start what is missing.

        Args:
            wanted: Slots that there are to be; those beyond it are not started again.
            ending: Slots are to end by themselves; none is started.
        """
        now = self.clock()
        for slot in list(self.slots.values()):
            reason = slot.host.ended() if slot.host is not None else None
            if reason is not None:
                self._ended(slot, reason, now, ending)
        if ending:
            return
        idle = [slot for slot in self.slots.values() if slot.host is None]
        while len(self.slots) > wanted and idle:
            gone = idle.pop()
            del self.slots[gone.name]
            self.lose(gone.name, True)
        while len(self.slots) < wanted:
            name = f"slot-{self._numbers}"
            self._numbers += 1
            self.slots[name] = _Slot(name)
        for slot in self.slots.values():
            if slot.host is None and now >= slot.again:
                slot.host, slot.began = self.start(slot.name, slot.generation), now
                slot.generation += 1
                self.starting(slot.name, "")

    def hopeless(self) -> str | None:
        """Why no slot will ever serve, when none has and all were tried often enough."""
        tried = [slot for slot in self.slots.values() if slot.failures >= GIVE_UP]
        if not self.slots or len(tried) < len(self.slots):
            return None
        if any(slot.served for slot in self.slots.values()):
            return None
        return "; ".join(dict.fromkeys(slot.reason for slot in tried))

    def forgive(self) -> None:
        """Other machines are there than before: what did not start may start now."""
        for slot in self.slots.values():
            slot.failures, slot.again = 0, 0.0

    def kill(self, name: str) -> None:
        """End a slot's processes as far as its host can."""
        slot = self.slots.get(name)
        if slot is not None and slot.host is not None:
            slot.host.kill()

    def _ended(self, slot: _Slot, reason: str, now: float, ending: bool) -> None:
        lived = now - slot.began
        slot.host, slot.reason = None, reason
        # A quick end without a reason is one, too: nothing may start slots in a circle.
        failed = lived < LIVED_S and (bool(reason) or not slot.served)
        slot.failures = slot.failures + 1 if failed else 0
        slot.again = now
        if failed and slot.failures > 1 and not ending:
            wait = min(LONGEST_S, AGAIN_S * 2 ** (slot.failures - 2))
            slot.again = now + wait
            self.say(f"{slot.name} ended {slot.failures} times: {reason or 'no reason given'}")
            self.starting(slot.name, f"tried again in {wait:.0f} s")
        self.lose(slot.name, ending)


def kill_processes(places: Iterable[Place]) -> None:
    """SIGKILL worker processes wherever they live; a stopped one hears nothing else."""
    for place in places:
        where = NodeAffinitySchedulingStrategy(place.node, soft=False)
        ray.remote(kill_process).options(
            num_cpus=0, max_retries=0, scheduling_strategy=where
        ).remote(place.pid)


def kill_controllers() -> None:
    """End what stands between this process and its slots of several workers, however busy it is."""
    job = ray.get_runtime_context().get_job_id()
    core = ray._private.worker.global_worker.core_worker
    known = ray._private.state.actors(job_id=ray.JobID.from_hex(job), actor_state_name="ALIVE")
    for actor in known.values():
        if "TrainController" in actor["ActorClassName"]:
            core.kill_actor(ray.ActorID.from_hex(actor["ActorID"]), True)


def starter(plan: SlotPlan, config: SlotConfig, scratch: Path) -> Callable[[str, int], Host]:
    """How slots of a plan are started."""

    def start(name: str, generation: int) -> Host:
        own = replace(config, slot=name)
        if plan.workers == 1:
            return ActorHost(plan, own)
        return TrainHost(plan, own, scratch, generation)

    return start
