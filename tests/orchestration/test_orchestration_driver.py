"""What the driver makes of what the broker tells, on a prepared sweep and without Ray."""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vesselflow import load_space
from vesselflow.errors import UserError
from vesselflow.orchestration.broker import Snapshot
from vesselflow.orchestration.driver import ASIDE_S, DASHBOARD_S, _Driver
from vesselflow.orchestration.reading import Beside
from vesselflow.records.runs import RunRecord
from vesselflow.records.status import RunState
from vesselflow.sweeps.book import JobState
from vesselflow.sweeps.events import EpochDone, Failed, Finished, Happening, Message, Started
from vesselflow.sweeps.outcome import Outcome, Watch
from vesselflow.sweeps.planning import Prepared, prepare

SPACE = """
stores: {a: "synth:fundus?sources=6&size_px=64"}
data: {train: a, working_size_px: 64}
split: {folds: 3, val_fraction: 0.3}
folds: [0]
seeds: [0, 1]
grid: {loss.beta: [0.25, 0.75]}
train: {epochs: 2, steps_per_epoch: 5}
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("driver")
    (folder / "tiny.yaml").write_text(SPACE)
    return prepare(load_space(folder / "tiny.yaml"), folder / "results")


class Stage:
    """A driver that is told what happened."""

    def __init__(self, prepared: Prepared) -> None:
        self.seen: list[Happening] = []
        self.outcome = Outcome()
        self.driver = _Driver(
            prepared, prepared.jobs(), Watch(event=self.seen.append), self.outcome
        )
        self.served: list[str] = []
        self.driver.slots = SimpleNamespace(served=self.served.append)  # type: ignore[assignment]

    def tell(self, *events: Happening, **more: Any) -> Snapshot:
        snapshot = Snapshot(
            slots=(),
            counts={**dict.fromkeys(JobState, 0), **more.pop("counts", {})},
            steps_done=more.pop("steps_done", 0),
            steps_total=40,
            outstanding=4,
            stopping=False,
            trouble=more.pop("trouble", None),
            events=events,
            skipped=0,
            seen=len(self.seen) + len(events),
            verdicts=(),
        )
        self.driver._take(snapshot)
        return snapshot


@pytest.fixture
def stage(prepared: Prepared) -> Stage:
    return Stage(prepared)


def _runs(prepared: Prepared, point: str) -> list[str]:
    return [cell.run.run_id for cell in prepared.cells if cell.point == point]


def test_a_point_has_a_score_once_all_its_runs_have_ended(stage, prepared):
    first, second = _runs(prepared, "beta=0.25")
    stage.tell(Started(first, "slot-0"), Finished(first, {"beta=0.25": 0.5}, {}, 1.0))
    assert stage.driver.scores == {}
    stage.tell(Finished(second, {"beta=0.25": 0.75}, {}, 2.0))
    assert stage.driver.scores == {"beta=0.25": 0.625}
    assert stage.outcome.trained == 2
    assert stage.served == ["slot-0"]
    best = stage.driver._best()
    assert best is not None
    assert (best.point, best.value, best.n) == ("beta=0.25", 0.625, 2)


def test_a_point_with_an_undefined_run_has_no_score(stage, prepared):
    first, second = _runs(prepared, "beta=0.25")
    stage.tell(Finished(first, {"beta=0.25": math.nan}, {}, 1.0))
    stage.tell(Finished(second, {"beta=0.25": 0.75}, {}, 2.0))
    assert stage.driver.scores == {}
    assert stage.driver._best() is None


def test_whoever_looks_on_gets_every_event(stage, prepared):
    run = _runs(prepared, "beta=0.25")[0]
    events = [Started(run, "s"), EpochDone(run, 1, 5, {"val/dice": 0.5}), Message("slow disk")]
    stage.tell(*events)
    assert stage.seen == events
    assert stage.driver.messages == ["slow disk"]


def test_a_run_that_was_given_up_fails_in_its_record_too(stage, prepared):
    run = _runs(prepared, "beta=0.75")[0]
    record = RunRecord(prepared.results, run)
    record.create("", {})
    record.begin_attempt()
    message = "killed its worker 3 times on a live machine"
    stage.tell(Failed(run, message, "slot-1 on host", "", recorded=False))
    assert record.status().state is RunState.FAILED
    assert record.status().message == message
    (failure,) = stage.driver._failures()
    assert (failure.label, failure.message, failure.place) == (
        "beta=0.75 fold 0 seed 0",
        message,
        "slot-1 on host",
    )


def test_progress_shows_trouble_and_never_a_time_below_zero(stage):
    look = stage.tell(
        counts={JobState.RUNNING: 2, JobState.FINISHED: 1},
        steps_done=50,
        trouble=("no space is left on this disk", 7.0),
    )
    progress = stage.driver._progress(look)
    assert (progress.runs_running, progress.runs_done, progress.runs_total) == (2, 1, 4)
    assert progress.trouble == ("no space is left on this disk", 7.0)
    assert progress.eta_s is None or progress.eta_s >= 0


def test_entries_carry_what_a_slot_needs_and_nothing_twice(stage, prepared):
    entries = stage.driver._entries()
    assert [entry.run_id for entry in entries] == [job.run.run_id for job in prepared.jobs()]
    assert all(entry.steps == 10 and entry.epochs == 2 for entry in entries)
    assert max(len(entry.payload) for entry in entries) < 10_000


def test_data_are_read_beside_the_loop_and_taken_once():
    gate = threading.Event()

    def read() -> str:
        gate.wait(10)
        return "data"

    reader = Beside(read)
    assert not reader.ready()
    gate.set()
    while not reader.ready():
        time.sleep(0.001)
    assert reader.take() == "data"
    assert not reader.ready()


def test_an_error_of_reading_reaches_the_loop():
    def read() -> None:
        raise UserError("no such file", where=str(Path("a.h5")))

    reader = Beside(read)
    reader._thread.join(10)
    with pytest.raises(UserError, match="no such file"):
        reader.ready()


def test_what_only_looks_on_starts_beside_runs_that_go_on(stage: Stage, monkeypatch) -> None:
    begun: list[str] = []
    driver = stage.driver
    driver.cluster = SimpleNamespace(open_dashboard=lambda: begun.append("dashboard"))
    monkeypatch.setattr(driver, "_start_trials", lambda: begun.append("trials"))
    # Nothing has begun: the dashboard alone, after a while, because it may tell why.
    driver._start_aside(driver.began + DASHBOARD_S - 1)
    assert begun == []
    driver._start_aside(driver.began + DASHBOARD_S + 1)
    assert begun == ["dashboard"]
    begun.clear()
    driver.began = driver.started_at = 1000.0
    driver._start_aside(1000.0 + ASIDE_S - 1)
    assert begun == []
    driver._start_aside(1000.0 + ASIDE_S + 1)
    assert begun == ["trials", "dashboard"]
