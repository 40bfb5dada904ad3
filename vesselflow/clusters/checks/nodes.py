"""Kinds of nodes and their numbers: what stays, what may vanish, what can hold a slot."""

from __future__ import annotations

from collections.abc import Iterator

from vesselflow.clusters.checks.parts import Kind, kinds
from vesselflow.clusters.files import SETTINGS
from vesselflow.clusters.findings import Finding, error, warning
from vesselflow.clusters.machines import load_machines
from vesselflow.clusters.schema_sources import aws_instance_types
from vesselflow.clusters.surroundings import Checked
from vesselflow.errors import closest
from vesselflow.sweeps.capacity import Node, workers_that_fit

#: Resources by which the driver asks for machines of one market or the other.
SPOT, ON_DEMAND = "spot", "on_demand"
#: Of a machine's memory, what Ray leaves to workers: the rest is its store of shared objects.
WORKERS_SHARE = 0.7


def check_numbers(checked: Checked) -> Iterator[Finding]:
    """How many workers there may be."""
    document, cluster = checked.document, checked.cluster
    if document.at("max_workers") is None:
        yield warning(
            "max-workers",
            (),
            "max_workers is missing: Ray takes 2",
            hint="write how many workers you want to pay for at most",
        )
    elif cluster.max_workers == 0:
        yield error("max-workers", ("max_workers",), "0: no worker may start, and nothing trains")
    least = 0
    for kind in kinds(checked):
        node = kind.node
        if not kind.is_head and "max_workers" not in kind.given:
            yield warning(
                "max-workers",
                kind.keys,
                f"max_workers is missing: Ray takes as many as there may be at all "
                f"({cluster.max_workers})",
                hint="write how many of them you want to pay for at most",
            )
        if node.min_workers > node.max_workers:
            yield error(
                "min-workers",
                (*kind.keys, "min_workers"),
                f"{node.min_workers} workers at least and {node.max_workers} at most: the "
                "autoscaler ends with an AssertionError on the head, and no worker starts",
                allowed=f"0 to {node.max_workers}",
            )
        elif node.min_workers > 0:
            yield warning(
                "min-workers",
                (*kind.keys, "min_workers"),
                f"{node.min_workers} stay for as long as the cluster is up, work or none",
                allowed="0, to scale from and to zero",
            )
        least += node.min_workers
    if least > cluster.max_workers:
        yield error(
            "min-workers",
            ("max_workers",),
            f"the kinds of nodes want {least} workers at least, and there may be "
            f"{cluster.max_workers}",
            allowed=f"{least} or more",
        )
    if document.at("idle_timeout_minutes") is None:
        yield warning(
            "idle-timeout",
            (),
            "idle_timeout_minutes is missing: Ray takes 5, less than a new machine needs to start",
            allowed="10, for instance",
        )


def check_head(checked: Checked) -> Iterator[Finding]:
    """The head must stay, and have room for the driver."""
    document, cluster = checked.document, checked.cluster
    named = document.at("head_node_type")
    names = [node.name for node in cluster.types]
    if named not in names:
        what = "is missing" if named is None else f"'{named}' is no kind of node of this file"
        yield error(
            "head",
            ("head_node_type",) if named else (),
            f"head_node_type {what}",
            allowed=", ".join(names),
            hint=closest(named or "", names),
        )
    for kind in kinds(checked):
        if not kind.is_head:
            continue
        if kind.node.spot:
            yield error(
                "head-spot",
                kind.at_config,
                "the head may be taken away, and driver, queue and cluster with it",
                allowed="a machine on demand",
                hint="take the spot options out of the head's node_config",
            )
        cpus = kind.node.resources.get("CPU")
        if cpus is None or cpus > 0:
            has = "as many CPUs as its machine has" if cpus is None else f"{cpus:g} CPUs"
            yield warning(
                "head-cpus",
                (*kind.keys, "resources"),
                f"the head offers {has} to slots, which take them from the driver",
                allowed="resources: {CPU: 0}",
            )
        if kind.is_worker:
            yield warning(
                "head-workers",
                (*kind.keys, "max_workers"),
                f"up to {kind.node.max_workers} workers may be of the head's kind",
                allowed="max_workers: 0",
            )


def check_markets(checked: Checked) -> Iterator[Finding]:
    """Several kinds that may vanish, and one that stays, which Ray takes last."""
    workers = [kind for kind in kinds(checked) if kind.is_worker and not kind.is_head]
    if not workers:
        yield error(
            "workers",
            ("available_node_types",),
            "no kind of node may have a worker",
            hint="give one max_workers: 8, for instance",
        )
        return
    spot, steady = [k for k in workers if k.node.spot], [k for k in workers if not k.node.spot]
    if not spot:
        yield warning(
            "spot",
            ("available_node_types",),
            "no kind of worker is spot: it costs thrice",
            hint="clusters/aws.yaml and clusters/gcp.yaml show spot workers",
        )
        return
    if len({k.node.instance_type for k in spot}) == 1:
        yield warning(
            "spot",
            spot[0].keys,
            f"{spot[0].node.instance_type or spot[0].name} is the only spot machine: where there "
            "is none of it, there is none",
            hint="add kinds with as many CPUs, of the same family of CPUs for equal bits",
        )
    if not steady:
        yield warning(
            "fallback",
            ("available_node_types",),
            "no kind of worker is on demand: without spot machines the sweep stands",
            hint="add one, as `steady` in clusters/aws.yaml",
        )
    elif checked.cluster.settings.on_demand_after_minutes is None:
        yield warning(
            "fallback",
            SETTINGS if checked.document.at(*SETTINGS) else (),
            "on_demand_after_minutes is missing: machines on demand are never asked for",
            allowed="metadata.vesselflow.on_demand_after_minutes: 15, for instance",
        )
    for kind in steady:
        if _before_spot(kind, spot):
            yield warning(
                "fallback",
                kind.keys,
                "offers what the spot workers do, at no lower priority: Ray may take it first",
                hint="give the spot workers a priority above it",
            )


def check_resources_of_markets(checked: Checked) -> Iterator[Finding]:
    """The resources by which the driver asks for one market or the other."""
    if checked.cluster.settings.on_demand_after_minutes is None:
        return
    for kind in kinds(checked):
        if not kind.is_worker or kind.is_head:
            continue
        mine, other = (SPOT, ON_DEMAND) if kind.node.spot else (ON_DEMAND, SPOT)
        place = (*kind.keys, "resources")
        if other in kind.node.resources:
            yield error(
                "market",
                (*place, other),
                f"the machine is {mine.replace('_', ' ')}, and offers the resource '{other}': the "
                "driver would ask for the wrong one",
                allowed=f"{mine}: 1000",
            )
        elif kind.node.resources.get(mine, 0) < 1:
            yield error(
                "market",
                place,
                f"offers no resource '{mine}', by which the driver asks: it never starts",
                allowed=f"{mine}: 1000",
            )


def _before_spot(kind: Kind, spot: list[Kind]) -> bool:
    """Whether Ray could prefer it to a spot kind for work that asks for neither market.

    Ray first takes the kind with the fewest resources that lie idle, then that of the highest
    priority.
    """
    mine = (-len(kind.node.resources), _priority(kind))
    alike = [k for k in spot if bool(k.node.gpus) == bool(kind.node.gpus)]
    return any(mine >= (-len(other.node.resources), _priority(other)) for other in alike)


def _priority(kind: Kind) -> int:
    given = kind.given.get("priority", 0)
    return given if isinstance(given, int) else 0


def check_machines(checked: Checked) -> Iterator[Finding]:
    """What the file says of machines against what they are."""
    cloud = checked.cluster.cloud
    names = [name for where, name in load_machines() if where == cloud]
    for kind in kinds(checked):
        node = kind.node
        machine = load_machines().get((cloud, node.instance_type))
        if machine is None:
            if cloud == "aws" and node.instance_type not in aws_instance_types():
                continue  # EC2's schema says so.
            if node.instance_type and checked.cluster.machine(node) is None:
                key = "InstanceType" if cloud == "aws" else "machineType"
                yield warning(
                    "machine-unknown",
                    (*kind.at_config, key),
                    f"'{node.instance_type}' is not in the table of machines: no price is known",
                    hint=closest(node.instance_type, names)
                    or "name it: metadata.vesselflow.prices: {"
                    + node.instance_type
                    + ": {on_demand: 1.0, spot: 0.4}}",
                )
            continue
        if kind.is_head:
            continue
        for resource, has in (("CPU", machine.cpus), ("GPU", machine.gpus)):
            said = node.resources.get(resource)
            place = (*kind.keys, "resources")
            if said is not None and said > has:
                yield error(
                    "resources",
                    (*place, resource),
                    f"{said:g} {resource}s, and {machine.name} has {has}",
                    allowed=f"{has} or fewer",
                )
            elif said is None and has and cloud == "gcp":
                yield error(
                    "resources",
                    place,
                    f"{resource} is missing, and on Google Cloud Ray does not look it up: nothing "
                    f"that asks for a {resource} starts this kind",
                    allowed=f"{resource}: {has}",
                )


def check_slots(checked: Checked) -> Iterator[Finding]:
    """Whether the workers can hold the slots of the space."""
    slots = checked.slots
    if slots is None:
        return
    need = slots.workers * slots.least
    fits: list[int] = []  # Workers that each machine carries, of all machines that there may be.
    workers = [kind for kind in kinds(checked) if kind.is_worker]
    for kind in workers:
        node = kind.node
        if slots.gpu and node.gpus == 0:
            continue  # Meant for slots without a GPU.
        if node.cpus is None or (slots.gpu and node.gpus is None):
            fits += [need] * node.max_workers
            yield warning(
                "slot",
                (*kind.keys, "resources"),
                "whether it can hold a slot is not known: neither file nor table say what it has",
                hint="write resources: {CPU: ..., GPU: ...}",
            )
            continue
        fit = workers_that_fit([Node(node.cpus, node.gpus or 0.0)], slots.threads, slots.gpu)
        if slots.memory_gb and node.memory_gb is not None:
            fit = min(fit, int(node.memory_gb * WORKERS_SHARE / slots.memory_gb))
        fits += [fit] * node.max_workers
        if fit == 0 and not (node.gpus and not slots.gpu):
            memory = f", {node.memory_gb:g} GB" if node.memory_gb else ""
            yield warning(
                "slot",
                kind.keys,
                f"cannot hold one worker of {slots.space}, which takes {slots.describe()}: it has "
                f"{node.cpus:g} CPUs, {node.gpus or 0:g} GPUs{memory}",
                hint="take a larger machine, or lower resources of the space",
            )
        elif 0 < fit < slots.workers:
            yield warning(
                "slot",
                kind.keys,
                f"holds {fit} of the {slots.workers} workers of a slot of {slots.space}: slots "
                "span machines, and stop when any of them goes",
                hint="take a larger machine, or lower resources.workers of the space",
            )
    if not workers:
        return
    total = sum(sorted(fits, reverse=True)[: checked.cluster.max_workers])
    if total < slots.workers:
        yield error(
            "slot",
            ("available_node_types",),
            f"no slot of {slots.space} fits: it takes {_workers(slots.workers)} of "
            f"{slots.describe()}{' each' if slots.workers > 1 else ''}",
            hint="take larger machines, or lower resources of the space",
        )
    elif total < need:
        yield warning(
            "slot",
            ("max_workers",),
            f"{_workers(total)} fit on all machines, and {slots.space} asks for {need}",
            hint="raise max_workers, or lower resources.slots of the space",
        )


def _workers(count: int) -> str:
    return f"{count} worker{'s' * (count != 1)}"
