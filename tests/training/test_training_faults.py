"""Runs to which something happens: nothing is lost, no step is done twice, numbers are equal."""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import training_cases as cases

import vesselflow.tasks.segment as segment
import vesselflow.training.giving as giving_module
from vesselflow.evaluation.evaluated import evaluation_path
from vesselflow.feed.local import LocalData
from vesselflow.records import atomic
from vesselflow.records.checkpoints import FORMAT
from vesselflow.records.runs import RunRecord
from vesselflow.records.status import RunState
from vesselflow.sweeps import cost_notes
from vesselflow.sweeps.context import Reports, Result
from vesselflow.sweeps.cost_machine import MachineKind, Seat
from vesselflow.sweeps.cost_notes import Taken
from vesselflow.sweeps.execution import execute
from vesselflow.sweeps.faults import Fault


@pytest.fixture(scope="module")
def stores(alone_folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in alone_folder.glob("*.h5")}


@pytest.fixture(scope="module")
def job(stores):
    return cases.run_b(cases.tiny_domains(stores, "b"))


@pytest.fixture
def quick(monkeypatch) -> None:
    """No pauses between two tries."""
    monkeypatch.setattr("vesselflow.sweeps.gate.FIRST_S", 0.0)


def _assert_undisturbed(results: Path, alone_folder: Path) -> None:
    assert cases.files_of(results, "bbbb") == cases.files_of(alone_folder / "alone", "bbbb")
    curves = [RunRecord(f, "bbbb").rows() for f in (results, alone_folder / "alone")]
    assert cases.differences(*curves) == []


# -- the disk ----------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no mount here")
    if done.returncode:
        pytest.skip("nothing can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("moment", [("training", 1), ("evaluating", 3), ("training", 5)])
def test_a_full_disk_is_waited_for_and_costs_nothing(
    stores, job, small_disk: Path, alone_folder, moment
):
    ballast, told = small_disk / "ballast", []

    def phase(name: str, epoch: int, step: int, steps: int) -> None:
        if (name, step) == moment and not told:
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))

    def storage(text: str) -> None:
        told.append(text)
        ballast.unlink(missing_ok=True)

    results = small_disk / "results"
    reports = Reports(phase=phase, storage=storage)
    result = execute(job, results, LocalData(stores), reports=reports)
    assert (result.state, result.steps) == ("finished", 6)
    # The checkpoint and what the epoch writes may meet it at the same time.
    assert all("no space is left on this disk" in text for text in told[:-1])
    assert 2 <= len(told) <= 4
    assert told[-1] == ""
    _assert_undisturbed(results, alone_folder)
    assert RunRecord(results, "bbbb").status().attempts == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.ESTALE])
def test_whatever_is_written_waits(stores, job, tmp_path, alone_folder, monkeypatch, quick, number):
    # Each folder fails once, and of all tries to write a file two in five do.
    true_fsync, true_mkdir, failed, luck = os.fsync, os.mkdir, set(), random.Random(7)

    def fail(what: str) -> None:
        failed.add(what)
        raise OSError(number, os.strerror(number))

    def fsync(handle: int) -> None:
        path = os.readlink(f"/proc/self/fd/{handle}")
        if path.endswith(".tmp") and luck.random() < 0.4:
            fail(path)
        true_fsync(handle)

    def mkdir(path, *args, **kwargs) -> None:
        if str(path) not in failed and "results" in str(path):
            fail(str(path))
        true_mkdir(path, *args, **kwargs)

    monkeypatch.setattr(atomic.os, "fsync", fsync)
    monkeypatch.setattr(os, "mkdir", mkdir)
    told: list[str] = []
    results = tmp_path / "results"
    result = execute(job, results, LocalData(stores), reports=Reports(storage=told.append))
    assert (result.state, result.steps) == ("finished", 6), result.message
    assert len(failed) > 20
    assert len(told) > 20
    monkeypatch.undo()
    _assert_undisturbed(results, alone_folder)
    assert RunRecord(results, "bbbb").status().attempts == 1


def test_a_disk_that_stays_full_is_waited_for_until_a_stop(
    stores, job, tmp_path, alone_folder, monkeypatch, quick
):
    stop, waited = cases.StopAt("training", 4), []

    def full(handle: int) -> None:
        if not stop.now:
            true(handle)
            return
        waited.append(handle)
        raise OSError(errno.ENOSPC, "No space left on device")

    true = os.fsync
    told: list[str] = []

    def storage(text: str) -> None:
        told.append(text)

    reports = Reports(
        phase=stop.reports.phase, should_stop=lambda: len(waited) > 3, storage=storage
    )
    with monkeypatch.context() as disk:
        disk.setattr(atomic.os, "fsync", full)
        result = execute(job, tmp_path, LocalData(stores), reports=reports)
    # It trained on to the end of the epoch, where the checkpoint waited.
    assert (result.state, result.steps) == ("stopped", 6)
    assert "no space is left" in told[0]
    assert RunRecord(tmp_path, "bbbb").status().state is RunState.RUNNING
    again = execute(job, tmp_path, LocalData(stores))
    assert (again.state, again.steps) == ("finished", 3)
    _assert_undisturbed(tmp_path, alone_folder)


# -- stops and kills ---------------------------------------------------------------------------


@pytest.mark.parametrize("step", [3, 6])
def test_a_stop_while_it_is_scored_repeats_no_step(stores, job, tmp_path, alone_folder, step):
    stop = cases.StopAt("evaluating", step)
    first = execute(job, tmp_path, LocalData(stores), reports=stop.reports)
    assert (first.state, first.steps) == ("stopped", step)
    status = RunRecord(tmp_path, "bbbb").status()
    assert (status.state, status.epochs) == (RunState.PAUSED, step // 3 - 1)
    second = execute(job, tmp_path, LocalData(stores))
    assert (second.state, second.steps) == ("finished", 6 - step)
    _assert_undisturbed(tmp_path, alone_folder)


def test_a_stop_at_the_last_step_leaves_the_scoring_to_the_next_attempt(
    stores, job, tmp_path, alone_folder
):
    stop = cases.StopAt("training", 5)
    first = execute(job, tmp_path, LocalData(stores), reports=stop.reports)
    assert (first.state, first.steps) == ("stopped", 6)
    second = execute(job, tmp_path, LocalData(stores))
    assert (second.state, second.steps) == ("finished", 0)
    _assert_undisturbed(tmp_path, alone_folder)


def test_a_trained_run_stops_between_two_images(stores, job, tmp_path, alone_folder, monkeypatch):
    predicted, now = [], []
    true = segment.predict_whole

    def predict(model, whole, *args, **kwargs):
        predicted.append(whole.source_id)
        if len(predicted) == 2 + 2:  # val of both epochs while it trains; test, then the first of b
            now.append(True)
        return true(model, whole, *args, **kwargs)

    monkeypatch.setattr(segment, "predict_whole", predict)
    reports = Reports(should_stop=lambda: bool(now))
    first = execute(job, tmp_path, LocalData(stores), reports=reports)
    assert (first.state, len(predicted)) == ("stopped", 4)
    assert RunRecord(tmp_path, "bbbb").status().state is RunState.FINISHED
    assert list(tmp_path.rglob("*.ckpt"))
    second = execute(job, tmp_path, LocalData(stores))
    assert (second.state, second.steps) == ("finished", 0)
    _assert_undisturbed(tmp_path, alone_folder)


class _Killed(BaseException):
    """What nothing may catch, as nothing catches SIGKILL."""


def _killed_at(job, results: Path, data: LocalData, phase: str, step: int) -> None:
    def killing(name: str, epoch: int, done: int, steps: int) -> None:
        if (name, done) == (phase, step):
            raise _Killed

    with pytest.raises(_Killed):
        execute(job, results, data, reports=Reports(phase=killing))


@pytest.mark.parametrize("step", [3, 6])
def test_a_kill_while_it_is_scored_repeats_no_step_and_costs_what_it_cost(
    stores, job, tmp_path, alone_folder, step
):
    _killed_at(job, tmp_path, LocalData(stores), "evaluating", step)
    record = RunRecord(tmp_path, "bbbb")
    (cost,) = record.costs()
    assert cost["steps"] == step
    assert cost["train_s"] > 0
    assert cost["wall_s"] >= cost["train_s"]
    again = execute(job, tmp_path, LocalData(stores))
    assert (again.state, again.steps) == ("finished", 6 - step)
    assert [cost["steps"] for cost in record.costs()] == [step, 6 - step]
    _assert_undisturbed(tmp_path, alone_folder)


def test_steps_beyond_the_checkpoint_are_repeated_and_counted(stores, job, tmp_path, alone_folder):
    _killed_at(job, tmp_path, LocalData(stores), "training", 5)
    heard = Taken(Seat(MachineKind("aws:m5.large", "spot"), 0.5), reached=5, idle_s=2.0)
    assert execute(job, tmp_path, LocalData(stores), taken=heard).state == "finished"
    first, second = RunRecord(tmp_path, "bbbb").costs()
    assert (first["from_step"], first["steps"], first["reached"]) == (0, 3, 0)
    assert (second["from_step"], second["steps"], second["reached"]) == (3, 3, 5)
    assert (second["machine"], second["market"], second["share"]) == ("aws:m5.large", "spot", 0.5)
    assert second["idle_s"] == 2.0
    parts = ("start_s", "train_s", "evaluate_s", "save_s")
    assert all(second[part] > 0 for part in parts)
    for cost in (first, second):
        assert sum(cost[part] for part in parts) <= cost["wall_s"]
    _assert_undisturbed(tmp_path, alone_folder)


def test_a_kill_of_the_driver_too_leaves_what_the_attempt_noted(stores, job, tmp_path, monkeypatch):
    monkeypatch.setattr(cost_notes, "NOTE_S", 0.01)
    record = RunRecord(tmp_path, "bbbb")

    def killing(name: str, epoch: int, done: int, steps: int) -> None:
        if (name, done) == ("training", 5):
            # The thread beside the training writes in its own time.
            for _ in range(1000):
                if record.costs()[0]["steps"] == 5:
                    raise _Killed
                time.sleep(0.01)

    with pytest.raises(_Killed):
        execute(job, tmp_path, LocalData(stores), reports=Reports(phase=killing))
    assert execute(job, tmp_path, LocalData(stores)).state == "finished"
    assert [cost["reached"] for cost in record.costs()] == [0, 5]
    last = (record.attempt_folder(2) / "cost.json").read_bytes()
    time.sleep(0.1)
    assert (record.attempt_folder(2) / "cost.json").read_bytes() == last, "it writes no more"


def test_the_checkpoints_of_a_scored_run_go(stores, job, tmp_path, monkeypatch):
    results, data = tmp_path / "results", LocalData(stores)
    _killed_at(job, results, data, "training", 5)
    assert len(list(results.rglob("*.ckpt"))) == 1
    assert execute(job, results, data).state == "finished"
    assert list(results.rglob("*.ckpt")) == []
    # Found finished, with what a killed process left.
    left = results / "runs/bbbb/attempts/1/checkpoints"
    left.mkdir()
    (left / "0000000003.ckpt").write_bytes(b"left")
    assert execute(job, results, data).steps == 0
    assert not left.exists()


def test_what_a_checkpoint_holds_has_its_format_number():
    # Another state needs another number, or old checkpoints are read as if they were new ones.
    state = cases.run_tiny(cases.tiny_experiment(), stop_after=1).last
    # "losses" came without one: only runs of schedules that came with it look at them, and none of
    # these has a checkpoint without.
    known = "ema in_a_row losses means means_counts model optimizer pending skipped step"
    assert (FORMAT, " ".join(sorted(state))) == (4, known)


# -- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:538] Connection closed by peer"), "PEER_LOST"),
        (type("ActorDiedError", (Exception,), {"__module__": "ray.exceptions"})("x"), "CLUSTER"),
        (OSError(errno.ESTALE, "Stale file handle"), "STORAGE"),
        (MemoryError(), "OUT_OF_MEMORY"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_the_code_s_fault_hands_the_run_back(
    stores, job, tmp_path, alone_folder, monkeypatch, error, fault
):
    true, calls = giving_module.normalise_by, []

    def failing(*args):
        calls.append(args)
        if len(calls) == 9:  # two micro-batches a step: in the fifth
            raise error
        return true(*args)

    monkeypatch.setattr(giving_module, "normalise_by", failing)
    result = execute(job, tmp_path, LocalData(stores))
    assert (result.state, result.fault) == ("handed back", Fault[fault])
    record = RunRecord(tmp_path, "bbbb")
    assert record.status().state is RunState.PAUSED
    assert record.status().message.startswith("handed back: ")
    assert "Traceback" in Path(result.log).read_text()
    again = execute(job, tmp_path, LocalData(stores))
    assert (again.state, again.steps) == ("finished", 3)
    _assert_undisturbed(tmp_path, alone_folder)


def test_weights_that_cannot_be_read_now_are_not_lost(
    stores, job, tmp_path, alone_folder, monkeypatch, quick
):
    data = LocalData(stores)
    assert execute(job, tmp_path, data).state == "finished"
    evaluation_path(tmp_path, job.evaluations[-1]).unlink()
    true, calls = Path.read_bytes, []

    def away(path: Path) -> bytes:
        if path.suffix == ".pt":
            calls.append(path)
            if len(calls) < 4:
                raise OSError(errno.ESTALE, "Stale file handle")
        return true(path)

    monkeypatch.setattr(Path, "read_bytes", away)
    told: list[str] = []
    result = execute(job, tmp_path, data, reports=Reports(storage=told.append))
    assert (result.state, result.steps) == ("finished", 0)
    assert len(told) == 2
    assert RunRecord(tmp_path, "bbbb").status().attempts == 1
    _assert_undisturbed(tmp_path, alone_folder)


# -- groups ------------------------------------------------------------------------------------


def _ranks(folder: Path, fault: str) -> list[tuple[list[Result], RunState, list[str]]]:
    return [
        pickle.loads((folder / f"{fault}-{rank}.pickle").read_bytes())
        for rank in range(2)
        if (folder / f"{fault}-{rank}.pickle").exists()
    ]


def test_an_error_on_rank_1_is_told_with_its_place_and_fails_the_run_on_all(faults_folder):
    (first, state, _), (second, _, _) = _ranks(faults_folder, "code")
    assert state is RunState.FAILED
    for (result,) in (first, second):
        assert (result.state, result.fault) == ("failed", Fault.USER_CODE)
        assert result.message == "rank 1: ValueError: a bad part"
        assert "training_cases.py:" in result.place
    log = (faults_folder / "code/runs/bbbb/attempts/1/log.txt").read_text()
    assert "and more of it" in log
    assert "in faulty" in log


@pytest.mark.parametrize("fault", ["memory", "late"])
def test_a_group_that_met_an_error_goes_on_with_the_next_run(faults_folder, alone_folder, fault):
    for rank, (ended, state, _) in enumerate(_ranks(faults_folder, fault)):
        assert [result.state for result in ended] == ["handed back", "finished"]
        assert ended[0].fault is Fault.OUT_OF_MEMORY
        assert ended[0].message.startswith("rank 1: MemoryError")
        assert rank or state is RunState.PAUSED  # rank 0 notes it
        assert ended[1].steps == (0 if rank else {"memory": 6, "late": 3}[fault])
    _assert_undisturbed(faults_folder / fault, alone_folder)


def test_the_others_wait_for_a_disk_longer_than_for_a_step(faults_folder, alone_folder):
    ranks = _ranks(faults_folder, "disk")
    for ended, _, _ in ranks:
        assert [result.state for result in ended] == ["finished", "finished"]
    assert "no space is left" in ranks[0][2][0]
    _assert_undisturbed(faults_folder / "disk", alone_folder)


def test_a_killed_rank_is_no_failure_of_the_run(faults_folder):
    ((ended, state, _),) = _ranks(faults_folder, "killed")
    (result,) = ended
    assert (result.state, result.fault) == ("handed back", Fault.PEER_LOST)
    assert state is RunState.PAUSED
