"""Where a sweep is going to be, as far as time and money go: this machine, or a cluster's."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vesselflow.clusters.files import ClusterFile
from vesselflow.clusters.fleet import SlotNeeds, fleet_of
from vesselflow.clusters.prices import PriceList
from vesselflow.config.space import Space
from vesselflow.sweeps.capacity import Node, make_plan
from vesselflow.sweeps.cost_machine import machine_kind
from vesselflow.sweeps.machine import cpus_here, gpus_here
from vesselflow.sweeps.simulation_model import MachineModel, Settings

#: In times of the seconds in which a slot's processes start, which tell how busy a machine is: from
#: the command to the first start of a slot (imports, Ray), and from the last run to the end.
DRIVER_STARTS, END_STARTS = 2.0, 1.0
#: Seconds more to join a cluster; guessed.
AWAY_S = 10.0


@dataclass(frozen=True)
class Site:
    """Where a sweep is going to be.

    Attributes:
        machines: Its workers.
        settings: How the sweep works there.
        slots: Slots side by side, once all machines are there.
        head: The machine that leads, as it is paid; "" where it is a worker, too.
        notes: What a person should know of it.
    """

    machines: tuple[MachineModel, ...]
    settings: Settings
    slots: int
    head: str = ""
    notes: tuple[str, ...] = ()

    def settled(self, slot_s: float) -> Settings:
        """The settings, once it is known in how many seconds a slot's processes start."""
        return replace(
            self.settings,
            driver_s=self.settings.driver_s + DRIVER_STARTS * slot_s,
            slot_s=slot_s,
            end_s=self.settings.end_s + END_STARTS * slot_s,
        )


def site_here(space: Space, slots: int) -> Site:
    """This machine, as a sweep without --address uses it.

    Args:
        space: What is to be done.
        slots: Slots that it carries.
    """
    kind = machine_kind()
    quote = PriceList(space.prices)(kind.name, kind.market)
    machine = MachineModel(
        str(kind),
        float(cpus_here()),
        float(gpus_here()) if space.resources.gpu else 0.0,
        price=quote.paid,
        on_demand=quote.on_demand,
    )
    return Site((machine,), _settings(space), slots)


def site_there(space: Space, cluster: ClusterFile, runs: int, *, spot_hours: float) -> Site:
    """The machines of a cluster file.

    Args:
        space: What is to be done.
        cluster: The file.
        runs: That are to be done.
        spot_hours: Mean hours until a spot machine is taken away.

    Raises:
        UserError: No kind of worker holds a slot.
    """
    wanted, (least, most) = space.resources, space.slot_range
    fleet = fleet_of(
        cluster,
        SlotNeeds(wanted.workers, wanted.threads, wanted.gpu, most),
        runs,
        PriceList(space.prices, cluster.settings.prices),
        spot_hours=spot_hours,
        local_cpus=float(cpus_here()),
        local_gpus=float(gpus_here()),
    )
    points = space.expand().points
    slots = make_plan(
        [Node(kind.cpus, kind.gpus) for kind in fleet.machines for _ in range(kind.count)],
        slots=(least, most),
        workers=wanted.workers,
        threads=wanted.threads,
        gpu=wanted.gpu,
        runs=max(1, runs),
        runs_per_point=1,
        micro_batches_per_step=min(p.experiment.train.micro_batches_per_step for p in points),
        can_grow=True,
        where=space.file.name,
    )
    settings = replace(
        _settings(space),
        slots=(1, most),
        driver_s=AWAY_S,
        head_price=fleet.head_price,
        head_on_demand=fleet.head_on_demand,
    )
    return Site(fleet.machines, settings, slots.slots, fleet.head_name, fleet.notes)


def _settings(space: Space) -> Settings:
    wanted = space.resources
    return Settings(
        workers=wanted.workers,
        threads=wanted.threads,
        gpu=wanted.gpu,
        slots=space.slot_range,
        retries=wanted.retries,
    )
