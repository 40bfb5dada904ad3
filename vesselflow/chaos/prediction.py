"""How long a disturbed sweep should take: `vesselflow plan`, held against what chaos measures.

The speed comes from the undisturbed sweep on this machine, and so does what its command took beside
its runs; then the same schedule is simulated many times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from vesselflow.chaos.schedule import Event
from vesselflow.config.space import Space
from vesselflow.records.atomic import read_json_or_none
from vesselflow.sweeps.cost_machine import machine_kind, share_of
from vesselflow.sweeps.estimate import Estimate, Place, estimate
from vesselflow.sweeps.forecast import Forecast, forecast
from vesselflow.sweeps.machine import cpus_here
from vesselflow.sweeps.planning import plan_sweep
from vesselflow.sweeps.simulation import simulate
from vesselflow.sweeps.simulation_model import (
    Blow,
    Disturbance,
    MachineModel,
    Settings,
)

#: Of what a command takes beside its runs: until its slots start, a slot's start, the end.
DRIVER, SLOT, END = 0.5, 0.35, 0.15
#: Seconds until another node, or another cluster, takes the place of a lost one; of a notice.
NODE_S, CLUSTER_S, NOTICE_S = 3.5, 11.0, 30.0
#: Simulations of one seed.
SIMULATIONS = 100
#: Chaos forgives every kill.
FORGIVEN = 10**6

#: What chaos does -> what that is to the simulation. A second driver on the same cluster finds no
#: free CPU, a slow bucket delays nobody for long: they are nothing.
BLOWS = {
    "kill-worker": Blow.KILL_SLOT,
    "kill-rank": Blow.KILL_SLOT,
    "stop-for-good": Blow.FREEZE_SLOT,
    "stop-a-while": Blow.PAUSE_SLOT,
    "kill-driver": Blow.KILL_DRIVER,
    "kill-head": Blow.KILL_DRIVER,
    "lose-node": Blow.LOSE_MACHINE,
    "notice": Blow.NOTICE,
    "tear": Blow.TEAR,
    "cut-bucket": Blow.STORAGE,
    "full-disk": Blow.STORAGE,
}


def disturbances(events: Sequence[Event]) -> list[Disturbance]:
    """The schedule of a seed, as the simulation takes it."""
    seconds = {"lose-node": NODE_S, "notice": NOTICE_S, "kill-driver": 0.0, "kill-head": CLUSTER_S}
    return [
        Disturbance(
            at_s=event.pause_s,
            blow=BLOWS[event.kind],
            which=event.target,
            seconds=seconds.get(event.kind, event.seconds),
            after=event.after,
            leaves=NODE_S if event.kind == "notice" else None,
        )
        for event in events
        if event.kind in BLOWS
    ]


def predict(
    space: Space, reference: Path, events: Sequence[Event], *, nodes: int, cpus: int, seed: int
) -> Forecast | None:
    """How long a seed should take, by the undisturbed sweep and a simulation of its schedule.

    Args:
        space: What is swept.
        reference: The undisturbed results, made on this machine.
        events: The schedule.
        nodes: Nodes that carry slots.
        cpus: Of each.
        seed: Of the simulations.

    Returns:
        None where the undisturbed sweep does not tell how fast it was.
    """
    took = read_json_or_none(reference / "done.json")
    took_s = took.get("seconds") if isinstance(took, dict) else None
    found = _estimated(space, reference)
    if found is None or not isinstance(took_s, int | float):
        return None
    wanted = space.resources
    settings = Settings(
        workers=wanted.workers,
        threads=wanted.threads,
        slots=space.slot_range,
        retries=FORGIVEN,
    )
    here = MachineModel("here", cpus=float(cpus_here()))
    beside_s = max(1.0, took_s - simulate(found.runs, [here], settings).wall_s)
    settings = Settings(
        workers=wanted.workers,
        threads=wanted.threads,
        slots=space.slot_range,
        retries=FORGIVEN,
        driver_s=DRIVER * beside_s,
        slot_s=SLOT * beside_s,
        end_s=END * beside_s,
    )
    return forecast(
        found.runs,
        [MachineModel("node", cpus=float(cpus), count=nodes)],
        settings,
        doubt=found.doubt,
        kinds=found.kinds,
        seed=seed,
        simulations=SIMULATIONS,
        disturbances=disturbances(events),
    )


def _estimated(space: Space, reference: Path) -> Estimate | None:
    """All runs of a sweep, as fast as they were."""
    plan = plan_sweep(space, reference)
    for row in plan.scored:
        row.forget()
        row.state = "queued"
    wanted = space.resources
    share = share_of(
        wanted.workers, wanted.threads, wanted.gpu, machine_cpus=cpus_here(), machine_gpus=0
    )
    place = Place(machine_kind().name, share, wanted.threads, workers=wanted.workers)
    found = estimate(plan, place, mean_life_s=math.inf, known_only=True)
    return found if found.runs else None


def told(prediction: Forecast | None, seconds: float) -> str:
    """The prediction beside what was measured, in words."""
    if prediction is None:
        return "no prediction: the undisturbed sweep does not tell how fast it was"
    low, median, high = prediction.wall_s.low, prediction.wall_s.median, prediction.wall_s.high
    inside = "inside" if low <= seconds <= high else "OUTSIDE"
    return f"predicted {median:.0f} s ({low:.0f} to {high:.0f}): {seconds:.0f} s lie {inside}"
