"""How long a disturbed sweep should take: the schedule as the simulation takes it, the words."""

from __future__ import annotations

from pathlib import Path

import pytest

from vesselflow.chaos.prediction import BLOWS, CLUSTER_S, disturbances, predict, told
from vesselflow.chaos.schedule import KINDS, Event
from vesselflow.config.loading import load_space
from vesselflow.config.space import Space
from vesselflow.feed.local import LocalData
from vesselflow.records.atomic import write_json
from vesselflow.runs.registries import REGISTRIES
from vesselflow.sweeps.cost_machine import Seat, machine_kind
from vesselflow.sweeps.cost_notes import Taken
from vesselflow.sweeps.execution import execute
from vesselflow.sweeps.machine import cpus_here
from vesselflow.sweeps.planning import prepare
from vesselflow.sweeps.simulation_model import Blow

SPACE = """
stores: {a: "synth:fundus?sources=6&size_px=64"}
data: {train: a, working_size_px: 64}
split: {folds: 3, val_fraction: 0.3}
folds: [0]
train: {epochs: 1, steps_per_epoch: 4, micro_batch_size: 2}
"""


def _event(kind: str, **changes: float) -> Event:
    given = {"after": 0.5, "pause_s": 1.5, "target": 3, "seconds": 4.0, **changes}
    return Event(kind, **given)  # type: ignore[arg-type]


def test_every_kind_is_a_blow_or_delays_nobody() -> None:
    assert set(BLOWS) | {"second-driver", "slow-bucket"} == set(KINDS)
    assert disturbances([_event("second-driver")]) == []


@pytest.mark.parametrize(
    ("kind", "blow", "seconds"),
    [
        ("kill-worker", Blow.KILL_SLOT, 4.0),
        ("stop-a-while", Blow.PAUSE_SLOT, 4.0),
        ("kill-driver", Blow.KILL_DRIVER, 0.0),
        ("notice", Blow.NOTICE, 30.0),
        ("cut-bucket", Blow.STORAGE, 4.0),
    ],
)
def test_a_blow_comes_by_the_share_of_steps_that_is_kept(
    kind: str, blow: Blow, seconds: float
) -> None:
    (one,) = disturbances([_event(kind)])
    assert (one.blow, one.seconds, one.after, one.at_s, one.which) == (blow, seconds, 0.5, 1.5, 3)
    assert (one.leaves is not None) == (kind == "notice")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Space, Path]:
    """A finished sweep of one run, of which it is said that its command took 20 s."""
    import torch

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("reference")
    (folder / "space.yaml").write_text(SPACE)
    space = load_space(folder / "space.yaml", registries=REGISTRIES)
    prepared = prepare(space, folder / "results")
    (job,) = prepared.jobs()
    taken = Taken(Seat(machine_kind(), 1 / cpus_here()))
    data = LocalData({"a": prepared.stores["a"].path})
    assert execute(job, folder / "results", data, taken=taken).state == "finished"
    write_json(folder / "results" / "done.json", {"seconds": 20.0})
    return space, folder / "results"


def test_an_undisturbed_seed_takes_what_the_undisturbed_sweep_took(reference) -> None:
    space, results = reference
    quiet = predict(space, results, [], nodes=2, cpus=1, seed=0)
    assert quiet is not None
    assert quiet.wall_s.median == pytest.approx(20, rel=0.2)
    assert quiet.wall_s.low < quiet.wall_s.median < quiet.wall_s.high
    # At once: the one run may take less than a pause.
    blow = _event("kill-head", after=0.0, pause_s=0.0)
    killed = predict(space, results, [blow], nodes=2, cpus=1, seed=0)
    assert killed is not None
    assert killed.wall_s.median > quiet.wall_s.median + CLUSTER_S - 1


def test_without_the_undisturbed_sweep_nothing_is_predicted(reference, tmp_path) -> None:
    space, results = reference
    assert predict(space, tmp_path, [], nodes=2, cpus=1, seed=0) is None
    (results / "done.json").rename(results / "gone.json")
    assert predict(space, results, [], nodes=2, cpus=1, seed=0) is None
    (results / "gone.json").rename(results / "done.json")
    assert told(None, 20.0).startswith("no prediction")


def test_it_is_told_whether_the_time_lies_inside(reference) -> None:
    space, results = reference
    found = predict(space, results, [], nodes=2, cpus=1, seed=0)
    assert found is not None
    assert told(found, found.wall_s.median).endswith(" s lie inside")
    assert told(found, 1000.0).endswith("1000 s lie OUTSIDE")
