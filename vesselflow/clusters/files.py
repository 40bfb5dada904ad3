"""What a cluster file starts: its cloud, its head, its kinds of workers, and our own settings.

Reading is lenient: what is wrong in a file is told by `vesselflow cluster check`, all at once. Here
only a file of which nothing can be made is an error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vesselflow.clusters.document import Document, read_document
from vesselflow.clusters.machines import Machine, Price, load_machines
from vesselflow.clusters.slurm_script import is_script, megabytes, read_script, whole
from vesselflow.errors import UserError

#: Clouds, and machines that somebody owns, by Ray's name of their provider.
CLOUDS = ("aws", "gcp", "local")
#: What stands for the provider of a script for Slurm.
SLURM = "slurm"
#: Where our own settings stand: Ray keeps this mapping and looks at nothing in it.
SETTINGS = ("metadata", "vesselflow")


class Settings(BaseModel):
    """What the file says to vesselflow, in `metadata.vesselflow`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    storage: str = Field("", description="folder or bucket of the results: s3://bucket/prefix")
    sweep: str = Field("", description="name of the sweep, as the machines are tagged")
    on_demand_after_minutes: float | None = Field(
        None, ge=0, description="without any worker for so long, machines that stay are asked for"
    )
    prices: dict[str, Price] = Field(
        {}, description="by kind of machine: {on_demand: $/h, spot: $/h} that are paid"
    )


@dataclass(frozen=True)
class NodeType:
    """One kind of node that a cluster file may start.

    Attributes:
        name: Its key in `available_node_types`.
        instance_type: Kind of machine, as the cloud calls it; "" on machines that somebody owns.
        spot: Whether it may vanish.
        min_workers: Nodes that are always there (of the head's type: beside the head).
        max_workers: Nodes that there are at most.
        cpus: CPUs that Ray counts on it: what the file says, else what the machine has; None for a
            machine that is not in the table.
        gpus: GPUs, likewise.
        memory_gb: GiB of memory of the machine; None when it is not in the table.
        resources: `resources` as the file gives them.
    """

    name: str
    instance_type: str
    spot: bool
    min_workers: int
    max_workers: int
    cpus: float | None = None
    gpus: float | None = None
    memory_gb: float | None = None
    resources: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ClusterFile:
    """What a cluster file starts.

    Attributes:
        path: The file.
        name: The cluster's name.
        cloud: "aws", "gcp", "local", or what else the file names.
        region: Of the cloud; "" when the file names none.
        zones: In which machines may be, in the order of the file.
        head: The head's type.
        worker_types: Types that workers may be of, in the order of the file.
        types: All types, the head's and those that may have no worker too.
        max_workers: Workers that there are at most, of all types together.
        settings: What the file says to vesselflow.
        document: The file, with the lines of its keys.
    """

    path: Path
    name: str
    cloud: str
    region: str
    zones: tuple[str, ...]
    head: NodeType
    worker_types: tuple[NodeType, ...]
    types: tuple[NodeType, ...]
    max_workers: int
    settings: Settings
    document: Document = field(repr=False)

    def machine(self, node: NodeType) -> Machine | None:
        """What a node's machine offers and costs; None where neither table nor file know it.

        A price that the file gives goes before that of the table.
        """
        known = load_machines(self.settings.prices).get((self.cloud, node.instance_type))
        if known:
            return known
        price = self.settings.prices.get(node.instance_type or node.name)
        if price is None or node.cpus is None or price.on_demand is None:
            return None
        spot = price.on_demand if price.spot is None else price.spot
        return Machine(
            self.cloud,
            node.instance_type or node.name,
            int(node.cpus),
            node.memory_gb or math.nan,
            int(node.gpus or 0),
            price.on_demand,
            spot,
        )


def read_cluster(path: str | Path) -> ClusterFile:
    """Read a cluster file, as far as anything can be made of it.

    Raises:
        UserError: The file cannot be read, is no YAML, or names no provider or no kinds of nodes.
    """
    return cluster_of(read_any(path))


def read_any(path: str | Path) -> Document:
    """Read a cluster file or a script for Slurm.

    Raises:
        UserError: As `read_document`.
    """
    return read_script(path) if is_script(path) else read_document(path)


def cluster_of(document: Document) -> ClusterFile:
    """What a document starts.

    Raises:
        UserError: As `read_cluster`.
    """
    where = str(document.path)
    cloud = document.at("provider", "type")
    if not isinstance(cloud, str):
        raise UserError(
            "the file names no provider", where=f"{where}: provider.type", allowed=", ".join(CLOUDS)
        )
    provider = document.mapping("provider")
    most = _whole(document.at("max_workers"), 0)
    if cloud == "local":
        head, types = _own_machines(provider)
        most = types[-1].max_workers
    elif cloud == SLURM:
        head, types = _queued(document)
        most = types[-1].max_workers
    else:
        head, types = _rented(document, cloud, most)
    return ClusterFile(
        path=document.path,
        name=str(document.at("cluster_name") or ""),
        cloud=cloud,
        region=str(provider.get("region") or ""),
        zones=zones_of(provider.get("availability_zone")),
        head=head,
        worker_types=tuple(node for node in types if node.max_workers > 0),
        types=types,
        max_workers=most,
        settings=settings_of(document),
        document=document,
    )


def settings_of(document: Document) -> Settings:
    """Our own settings; those that are wrong are as if they were not given (the check names them).

    Each is taken by itself, so that one that is wrong costs no other.
    """
    given = document.mapping(*SETTINGS)
    good = {}
    for key, value in given.items():
        try:
            Settings.model_validate({key: value})
        except ValidationError:
            continue
        good[key] = value
    return Settings.model_validate(good)


def zones_of(text: Any) -> tuple[str, ...]:
    """The zones of `availability_zone`, which holds them with commas between."""
    return tuple(zone.strip() for zone in str(text or "").split(",") if zone.strip())


def is_spot(cloud: str, node_config: dict[str, Any]) -> bool:
    """Whether a machine of this configuration may be taken away at any moment."""
    if cloud == "aws":
        options = node_config.get("InstanceMarketOptions")
        return isinstance(options, dict) and options.get("MarketType") == "spot"
    scheduling = node_config.get("scheduling")
    for entry in scheduling if isinstance(scheduling, list) else [scheduling]:
        if isinstance(entry, dict) and (
            entry.get("preemptible") is True or entry.get("provisioningModel") == "SPOT"
        ):
            return True
    return False


def _rented(document: Document, cloud: str, most: int) -> tuple[NodeType, tuple[NodeType, ...]]:
    types = document.mapping("available_node_types")
    named = {name: value for name, value in types.items() if isinstance(value, dict)}
    if not named:
        raise UserError(
            "the file names no kinds of nodes",
            where=f"{document.path}: available_node_types",
            hint="clusters/aws.yaml shows one",
        )
    first = str(document.at("head_node_type") or next(iter(named)))
    nodes = {
        name: _node_type(name, value, cloud, 0 if name == first else most)
        for name, value in named.items()
    }
    head = nodes.get(first) or next(iter(nodes.values()))
    return head, tuple(nodes.values())


def _node_type(name: str, value: dict[str, Any], cloud: str, most: int) -> NodeType:
    config = value.get("node_config")
    config = config if isinstance(config, dict) else {}
    key = {"aws": "InstanceType", "gcp": "machineType"}.get(cloud, "")
    # A machine type of Google Cloud may be an address that ends in its name.
    kind = str(config.get(key) or "").rpartition("/")[2]
    machine = load_machines().get((cloud, kind))
    given = value.get("resources")
    resources = {
        str(resource): float(amount)
        for resource, amount in (given if isinstance(given, dict) else {}).items()
        if isinstance(amount, int | float) and not isinstance(amount, bool)
    }
    return NodeType(
        name=name,
        instance_type=kind,
        spot=is_spot(cloud, config),
        min_workers=_whole(value.get("min_workers"), 0),
        max_workers=_whole(value.get("max_workers"), most),
        cpus=resources.get("CPU", machine.cpus if machine else None),
        gpus=resources.get("GPU", machine.gpus if machine else None),
        memory_gb=machine.memory_gb if machine else None,
        resources=resources,
    )


def _own_machines(provider: dict[str, Any]) -> tuple[NodeType, tuple[NodeType, ...]]:
    """Machines that somebody owns: what they hold is known once they have started."""
    addresses = provider.get("worker_ips")
    count = len(addresses) if isinstance(addresses, list) else 0
    head = NodeType("head", "", False, 0, 0)
    return head, (head, NodeType("worker", "", False, count, count))


def _queued(document: Document) -> tuple[NodeType, tuple[NodeType, ...]]:
    """Nodes of one job: all alike, slots on the head's too. They go when the job's time is up."""
    options = document.mapping("sbatch")
    nodes, cpus = whole(options, "nodes", 1), whole(options, "cpus-per-task", 1)
    memory = megabytes(str(options.get("mem", ""))) / 1024
    memory = memory or megabytes(str(options.get("mem-per-cpu", ""))) * cpus / 1024
    gpus = whole(options, "gpus-per-node", 0) or whole(options, "gres", 0)
    node = NodeType(
        "node",
        "",
        True,
        nodes,
        nodes,
        float(cpus),
        float(gpus),
        memory or None,
        {"CPU": float(cpus)},
    )
    return NodeType("head", "", True, 0, 0), (node,)


def _whole(value: Any, otherwise: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else otherwise
