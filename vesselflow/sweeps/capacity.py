"""How many slots of how many workers a cluster carries: a pure function.

It cannot deadlock: slots own every CPU they use from their start to the end of the sweep; relay
trials own none; tasks that read data own none. Nothing waits for a resource that something else
holds while it waits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vesselflow.errors import UserError


@dataclass(frozen=True)
class Node:
    """What one machine of the cluster offers.

    Attributes:
        cpus: CPUs that slots may own.
        gpus: Graphics cards.
        memory: Bytes of memory; 0 where nobody asked.
        object_store: Bytes of it for shared data; 0 where nobody asked.
        name: Ray's id of the node; "" outside a cluster.
        market: "spot" or "on_demand", where the cluster file says so.
    """

    cpus: float
    gpus: float = 0.0
    memory: int = 0
    object_store: int = 0
    name: str = ""
    market: str = ""


@dataclass(frozen=True)
class SlotPlan:
    """Slots, and what each worker of a slot owns.

    Attributes:
        slots: Worker groups that run side by side.
        workers: DDP workers of each slot.
        threads: CPU threads (and CPUs owned) of each worker; fixed, because the bits of a
            convolution's gradient depend on it.
        gpu: Share of a GPU of each worker.
        relays: Trials in flight: enough points to keep every slot busy.
        room: Slots that the cluster could carry.
        least: Slots that are asked for, whatever there is.
        most: Slots that are never exceeded; None for as many as fit.
    """

    slots: int
    workers: int
    threads: int
    gpu: float
    relays: int
    room: int
    least: int = 1
    most: int | None = None

    @property
    def worker(self) -> str:
        """What a slot owns, in words."""
        device = f", {self.gpu:g} GPU" if self.gpu else ""
        return (
            f"{self.workers} worker{'s' * (self.workers != 1)} x {self.threads} CPU thread"
            f"{'s' * (self.threads != 1)}{device}"
        )

    def describe(self) -> str:
        """The plan in one line."""
        return (
            f"{self.slots} slot{'s' * (self.slots != 1)} x {self.worker}; {self.relays} points in "
            f"flight (the machines carry {self.room} such slots)"
        )


def workers_that_fit(nodes: Sequence[Node], threads: int, gpu: float) -> int:
    """Workers that the machines carry at once; a worker never spans two machines."""
    total = 0
    for node in nodes:
        by_cpu = math.floor(node.cpus / threads + 1e-9)
        # Fractions of a GPU cannot span two of them.
        by_gpu = math.floor(node.gpus) * math.floor(1 / gpu + 1e-9) if 0 < gpu <= 1 else by_cpu
        if gpu > 1:
            by_gpu = math.floor(node.gpus / gpu + 1e-9)
        total += min(by_cpu, by_gpu)
    return total


def make_plan(
    nodes: list[Node],
    *,
    slots: tuple[int, int | None],
    workers: int,
    threads: int,
    gpu: float,
    runs: int,
    runs_per_point: int,
    micro_batches_per_step: int,
    can_grow: bool = False,
    where: str = "",
) -> SlotPlan:
    """Compute the plan, or refuse with one line that says what would fit.

    Args:
        nodes: The machines there are.
        slots: Fewest and most (None: as many as fit); never more than there are runs.
        workers: DDP workers per slot.
        threads: CPU threads per worker.
        gpu: GPUs per worker (a fraction lets several share one).
        runs: Runs that are to be done.
        runs_per_point: Runs of one point (folds x seeds).
        micro_batches_per_step: A worker takes whole micro-batches, so there can be no more workers.
        can_grow: True when an autoscaler can add machines: then what does not fit yet may still.
        where: File of the space, for messages.

    Raises:
        UserError: More workers than micro-batches, or than the machines carry.
    """
    if workers > micro_batches_per_step:
        raise UserError(
            f"{workers} workers cannot share a step of {micro_batches_per_step} micro-batches",
            where=f"{where}: resources.workers" if where else "resources.workers",
            allowed=f"1 to train.micro_batches_per_step = {micro_batches_per_step}",
            hint="raise train.micro_batches_per_step (it changes results) or lower the workers",
        )
    least, most = slots
    fit = workers_that_fit(nodes, threads, gpu)
    room = fit // workers
    if least > room and not can_grow:
        several = f"{least} slots x " if least > 1 else ""
        raise UserError(
            f"{several}{workers} worker{'s' * (workers != 1)} x {threads} "
            f"thread{'s' * (threads != 1)}{f' x {gpu:g} GPU' if gpu else ''} do not fit",
            where=f"{where}: resources" if where else "resources",
            allowed=_most(nodes, fit),
            hint="lower "
            + ("resources.slots, " if least > 1 else "")
            + "resources.workers or resources.threads"
            + (", or resources.gpu" if gpu else ""),
        )
    count = max(1, min(max(room, least), most or runs, runs))
    relays = math.ceil(count / max(1, runs_per_point)) + 1
    return SlotPlan(count, workers, threads, gpu, relays, room, least, most)


def slots_that_fit(plan: SlotPlan, nodes: Sequence[Node]) -> int:
    """Slots of a plan that machines carry."""
    return workers_that_fit(nodes, plan.threads, plan.gpu) // plan.workers


def wanted_slots(plan: SlotPlan, nodes: Sequence[Node], outstanding: int) -> int:
    """How many slots there are to be now that these machines are there.

    None is started beyond what fits: it would wait, and fail, for what may never come. Machines
    are asked for by themselves (`wishes`).

    Args:
        plan: The plan.
        nodes: The machines that can take work now; there may be none.
        outstanding: Runs that have not ended: more slots than that have nothing to do.
    """
    room = slots_that_fit(plan, nodes)
    return max(0, min(room, outstanding if plan.most is None else min(plan.most, outstanding)))


def _most(nodes: list[Node], fit: int) -> str:
    machines = _machines(nodes)
    return f"at most {fit} workers on {machines}" if fit else f"what {machines} offers"


def _machines(nodes: list[Node]) -> str:
    cpus, gpus = sum(n.cpus for n in nodes), sum(n.gpus for n in nodes)
    text = f"{len(nodes)} machine{'s' * (len(nodes) != 1)} with {cpus:g} CPUs"
    return f"{text} and {gpus:g} GPUs" if gpus else text
