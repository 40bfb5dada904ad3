"""Whole runs whose checkpoints are slow, or cannot be written, while the training goes on."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import training_cases as cases

from vesselflow.feed.local import LocalData
from vesselflow.records import atomic
from vesselflow.records.runs import RunRecord
from vesselflow.records.status import RunState
from vesselflow.sweeps.context import Reports
from vesselflow.sweeps.execution import execute
from vesselflow.sweeps.faults import Fault
from vesselflow.training.interval import Survival

STEPS = 8


@pytest.fixture(scope="module")
def stores(alone_folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in alone_folder.glob("*.h5")}


@pytest.fixture(scope="module")
def job(stores):
    """One epoch, with a checkpoint after each step unless one is being written."""
    experiment = cases.tiny_experiment(
        train={"epochs": 1, "steps_per_epoch": STEPS, "checkpoint_every_s": 1e-9}
    )
    return cases.tiny_job("bbbb", experiment, cases.tiny_domains(stores))


@pytest.fixture(scope="module")
def undisturbed(stores, job, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert execute(job, folder, LocalData(stores)).state == "finished"
    return folder


def assert_undisturbed(results: Path, undisturbed: Path) -> None:
    assert cases.files_of(results, "bbbb") == cases.files_of(undisturbed, "bbbb")
    curves = [RunRecord(folder, "bbbb").rows() for folder in (results, undisturbed)]
    assert cases.differences(*curves) == []


class Disk:
    """What happens when a checkpoint takes its place, and what the run tells meanwhile."""

    def __init__(self, monkeypatch, act: Callable[[int], None]) -> None:
        self.written: list[int] = []
        self.costs: list[int] = []
        self.told: list[str] = []
        self.phases: list[tuple[str, int]] = []
        self.stop = False
        true = os.replace

        def replace(source, target) -> None:
            if str(target).endswith(".ckpt"):
                assert threading.current_thread() is not threading.main_thread()
                act(int(Path(target).stem))
            true(source, target)
            if str(target).endswith(".ckpt"):
                self.written.append(int(Path(target).stem))

        monkeypatch.setattr(atomic.os, "replace", replace)
        monkeypatch.setattr("vesselflow.sweeps.gate.FIRST_S", 0.0)

    def reports(self) -> Reports:
        def phase(name: str, epoch: int, step: int, steps: int) -> None:
            self.phases.append((name, step))

        return Reports(phase=phase, storage=self.told.append, should_stop=lambda: self.stop)

    @property
    def step(self) -> int:
        """The step that the training has come to."""
        return self.phases[-1][1]


def test_the_training_goes_on_while_a_checkpoint_waits_for_the_disk(
    stores, job, tmp_path, undisturbed, monkeypatch
):
    def full(step: int) -> None:
        if disk.step < 5:
            raise OSError(errno.ENOSPC, "No space left on device")

    disk = Disk(monkeypatch, full)
    result = execute(job, tmp_path, LocalData(stores), reports=disk.reports())
    assert (result.state, result.steps) == ("finished", STEPS)
    assert "no space is left on this disk" in disk.told[0]
    assert disk.told[-1] == ""
    # The first copy waited all the time; the order is kept, and nothing is written twice.
    assert disk.written[0] == 1
    assert disk.written == sorted(set(disk.written))
    assert disk.written[-1] == STEPS
    assert_undisturbed(tmp_path, undisturbed)
    assert RunRecord(tmp_path, "bbbb").status().attempts == 1


def test_a_stop_while_a_checkpoint_waits_writes_the_newest_state(
    stores, job, tmp_path, undisturbed, monkeypatch
):
    def full(step: int) -> None:
        if step < 5:
            if disk.step == 4:
                disk.stop = True
            raise OSError(errno.ENOSPC, "No space left on device")

    disk = Disk(monkeypatch, full)
    result = execute(job, tmp_path, LocalData(stores), reports=disk.reports())
    assert result.state == "stopped"
    record = RunRecord(tmp_path, "bbbb")
    assert record.status().state is RunState.PAUSED
    assert record.resume_point()[0] == result.steps >= 5
    assert disk.written == [result.steps]
    (cost,) = record.costs()
    assert cost["steps"] == result.steps
    disk.stop = False
    again = execute(job, tmp_path, LocalData(stores))
    assert (again.state, again.steps) == ("finished", STEPS - result.steps)
    assert_undisturbed(tmp_path, undisturbed)


def test_what_no_waiting_mends_ends_the_run_at_its_next_step(stores, job, tmp_path, monkeypatch):
    def broken(step: int) -> None:
        raise OSError(errno.ENOTDIR, "Not a directory")

    disk = Disk(monkeypatch, broken)
    result = execute(job, tmp_path, LocalData(stores), reports=disk.reports())
    assert (result.state, result.fault) == ("failed", Fault.USER_CODE)
    assert "a part of this path is a file, not a folder" in result.message
    assert result.steps < STEPS


def test_the_end_of_a_run_waits_for_its_file_and_says_so(
    stores, job, tmp_path, undisturbed, monkeypatch
):
    waits = threading.Event()

    def slow(step: int) -> None:
        # Until somebody waits: the epoch's end for the file before, then the run's end for its own.
        assert waits.wait(60)
        waits.clear()

    disk = Disk(monkeypatch, slow)
    reports = disk.reports()
    true = reports.phase

    def phase(name: str, *place: int) -> None:
        true(name, *place)
        if name == "saving":
            waits.set()

    reports.phase = phase
    result = execute(job, tmp_path, LocalData(stores), reports=reports)
    assert result.state == "finished"
    # The first copy was under way until the end of the epoch: no timed one came between.
    assert disk.written == [1, STEPS]
    assert [place for place in disk.phases if place[0] == "saving"] == [("saving", STEPS)] * 2
    assert disk.told == []
    assert_undisturbed(tmp_path, undisturbed)


def test_an_error_of_the_code_loses_no_copy_in_memory(stores, job, tmp_path, monkeypatch):
    waits = threading.Event()

    def slow(step: int) -> None:
        assert waits.wait(60)

    disk = Disk(monkeypatch, slow)
    reports = disk.reports()
    true = reports.phase

    def phase(name: str, epoch: int, step: int, steps: int) -> None:
        true(name, epoch, step, steps)
        if name == "saving":
            waits.set()
        elif step == 3:
            raise MemoryError

    reports.phase = phase
    result = execute(job, tmp_path, LocalData(stores), reports=reports)
    assert (result.state, result.fault) == ("handed back", Fault.OUT_OF_MEMORY)
    assert disk.written == [1]
    assert RunRecord(tmp_path, "bbbb").resume_point()[0] == 1


def test_the_interval_hangs_on_failures_and_changes_no_number(stores, job, tmp_path, undisturbed):
    rare = cases.tiny_experiment(train={"epochs": 1, "steps_per_epoch": STEPS})
    other = cases.changed(job, experiment=rare)
    result = execute(other, tmp_path, LocalData(stores), survival=Survival(1e6, 10**6))
    assert result.state == "finished"
    assert_undisturbed(tmp_path, undisturbed)
