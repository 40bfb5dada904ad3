"""From a cluster file to the machines that a simulation takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vesselflow.clusters.files import ClusterFile, NodeType
from vesselflow.clusters.machines import prices_as_of, prices_region
from vesselflow.clusters.prices import PriceList
from vesselflow.errors import UserError
from vesselflow.sweeps.capacity import Node, workers_that_fit
from vesselflow.sweeps.simulation_model import MachineModel

#: Seconds from asking for a machine until slots start on it, with what `ray up` installs; guessed.
BOOT_S = {"aws": 180.0, "gcp": 150.0}
BOOT_SPREAD = 0.35
#: Seconds of notice that a cloud gives, and how often it comes in time; guessed.
NOTICE_S = {"aws": 120.0, "gcp": 30.0}
NOTICED = 0.9


@dataclass(frozen=True)
class SlotNeeds:
    """What one slot takes.

    Attributes:
        workers: Its DDP workers.
        threads: CPUs of each.
        gpu: GPUs of each.
        most: Slots that there are at most; None for one each run.
    """

    workers: int = 1
    threads: int = 1
    gpu: float = 0.0
    most: int | None = None


@dataclass(frozen=True)
class Fleet:
    """The machines of a cluster file.

    Attributes:
        machines: The workers that are going to be asked for.
        head_name: The head, as it is paid.
        head_price: Dollars an hour of the head.
        head_on_demand: Likewise, bought so that it stays.
        notes: What a person should know of it.
    """

    machines: tuple[MachineModel, ...]
    head_name: str
    head_price: float
    head_on_demand: float
    notes: tuple[str, ...] = ()


def fleet_of(
    cluster: ClusterFile,
    needs: SlotNeeds,
    runs: int,
    prices: PriceList,
    *,
    spot_hours: float,
    local_cpus: float,
    local_gpus: float,
) -> Fleet:
    """The machines that a cluster starts for so many runs.

    Kinds of workers are taken in the order of the file, each up to its own most, until every run
    has a slot. Where the file falls back to machines that stay, those are left out: they are for
    times without any other.

    Args:
        cluster: The file.
        needs: What a slot takes.
        runs: That are to be done.
        prices: What machines cost.
        spot_hours: Mean hours until a spot machine is taken away.
        local_cpus: CPUs of machines that somebody owns, of which the file says nothing.
        local_gpus: GPUs of them.

    Raises:
        UserError: No kind of worker holds a slot.
    """
    notes: list[str] = []
    slots = max(1, runs if needs.most is None else min(runs, needs.most))
    types, left = list(cluster.worker_types), cluster.max_workers
    if cluster.settings.on_demand_after_minutes is not None and any(t.spot for t in types):
        types = [node for node in types if node.spot]
    machines: list[MachineModel] = []
    for node in types:
        cpus = node.cpus if node.cpus is not None else local_cpus if _own(cluster) else None
        if cpus is None:
            notes.append(f"'{node.name}' ({node.instance_type}) is in no table: it is left out")
            continue
        gpus = node.gpus if node.gpus is not None else local_gpus if _own(cluster) else 0.0
        room = workers_that_fit([Node(cpus, gpus)], needs.threads, needs.gpu) / needs.workers
        if room * max(1, left) < 1:
            notes.append(f"'{node.name}' ({cpus:g} CPUs) cannot hold a slot: it is left out")
            continue
        count = min(node.max_workers, left, max(node.min_workers, math.ceil(slots / room - 1e-9)))
        if count > 0:
            machines.append(_model(cluster, node, cpus, gpus, count, prices, spot_hours))
            left, slots = left - count, max(0, math.ceil(slots - count * room))
    if not machines:
        raise UserError(
            "no kind of worker holds a slot of "
            f"{needs.workers} x {needs.threads} threads"
            + f" x {needs.gpu:g} GPU"
            * bool(needs.gpu),
            where=str(cluster.path),
            allowed=", ".join(f"{t.name} ({t.cpus or 0:g} CPUs)" for t in cluster.worker_types)
            or "kinds of nodes with max_workers above 0",
            hint="lower resources.workers or resources.threads, or take larger machines",
        )
    if _own(cluster):
        notes.append(f"machines of the file are taken to be like this one: {local_cpus:g} CPUs")
    elif any(kind.mean_life_s < math.inf for kind in machines):
        notes.append(f"a spot machine is taken to live {spot_hours:g} h on average (--spot-hours)")
    notes += _about_prices(cluster, machines)
    head = _name(cluster, cluster.head)
    market = "spot" if cluster.head.spot else "on-demand"
    quote = prices(f"{cluster.cloud}:{cluster.head.instance_type}", market)
    if _own(cluster):
        quote = prices("local", "own")
    return Fleet(tuple(machines), head, quote.paid, quote.on_demand, tuple(notes))


def _own(cluster: ClusterFile) -> bool:
    return cluster.cloud not in BOOT_S


def _name(cluster: ClusterFile, node: NodeType) -> str:
    if _own(cluster):
        return "local"
    return f"{cluster.cloud}:{node.instance_type}:{'spot' if node.spot else 'on-demand'}"


def _model(
    cluster: ClusterFile,
    node: NodeType,
    cpus: float,
    gpus: float,
    count: int,
    prices: PriceList,
    spot_hours: float,
) -> MachineModel:
    if _own(cluster):
        quote = prices("local", "own")
        return MachineModel("local", cpus, gpus, count, quote.paid, quote.on_demand)
    market = "spot" if node.spot else "on-demand"
    quote = prices(f"{cluster.cloud}:{node.instance_type}", market)
    return MachineModel(
        name=_name(cluster, node),
        cpus=cpus,
        gpus=gpus,
        count=count,
        price=quote.paid,
        on_demand=quote.on_demand,
        boot_s=BOOT_S[cluster.cloud],
        boot_spread=BOOT_SPREAD,
        mean_life_s=3600 * spot_hours if node.spot else math.inf,
        notice_s=NOTICE_S[cluster.cloud] if node.spot else 0.0,
        noticed=NOTICED,
    )


def _about_prices(cluster: ClusterFile, machines: Sequence[MachineModel]) -> list[str]:
    unknown = [kind.name for kind in machines if math.isnan(kind.price)]
    if unknown:
        return [f"no price is known of {', '.join(unknown)} (prices: in the space gives one)"]
    region = prices_region(cluster.cloud)
    if region and cluster.region and cluster.region != region:
        return [f"prices of {prices_as_of()} are those of {region}, not of {cluster.region}"]
    return []
