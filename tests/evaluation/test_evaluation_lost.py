"""A finished run that lost something: taken up again where a number is missing, else left alone."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import training_cases as cases

from vesselflow.evaluation.evaluated import evaluation_path
from vesselflow.evaluation.long_tables import lost_records, score_cell
from vesselflow.feed.local import LocalData
from vesselflow.records.drivers import Driver
from vesselflow.records.leases import Lease
from vesselflow.records.runs import RunRecord
from vesselflow.records.status import RunState
from vesselflow.sweeps.context import Reports
from vesselflow.sweeps.execution import execute


@pytest.fixture
def again(done, tmp_path):
    """A copy of the finished run's results, and a function that does the run once more there."""
    shutil.copytree(done.results, tmp_path / "results")
    told: list[str] = []

    def run(job=done.job):
        data = LocalData(done.stores)
        return execute(job, tmp_path / "results", data, reports=Reports(message=told.append))

    run.results, run.told = tmp_path / "results", told
    run.record = RunRecord(run.results, done.job.run.run_id)
    return run


def _scores(results: Path, done, epoch: int, domain: int) -> Path:
    return evaluation_path(results, done.cell.evaluation(epoch, done.cell.domains[domain]))


def _same_files(results: Path, done) -> bool:
    run = done.job.run.run_id
    return cases.files_of(results, run) == cases.files_of(done.results, run)


def test_a_run_whose_record_is_gone_is_trained_again(again, done):
    shutil.rmtree(again.record.folder)
    result = again()
    assert (result.state, result.steps) == ("finished", 6)
    assert _same_files(again.results, done)


def test_weights_alone_are_not_missed(again, done):
    shutil.rmtree(again.record.folder / "weights")
    result = again()
    assert (result.state, result.steps) == ("finished", 0)
    assert not (again.record.folder / "weights").exists()


@pytest.mark.parametrize("damage", ["gone", "cut short", "a folder"])
def test_a_score_that_needs_lost_weights_trains_the_run_again(again, done, damage):
    weights = again.record.weights_path(1)
    content = weights.read_bytes()
    weights.unlink()
    if damage == "a folder":
        weights.mkdir()
    elif damage == "cut short":
        weights.write_bytes(content[: len(content) // 2])
    _scores(again.results, done, 1, 2).unlink()
    # As the broker does: whoever trains holds the run, and holds it to the end.
    lease = Lease.claim(again.record.folder, Driver.begin(again.results, {}))
    assert lease is not None
    result = again()
    assert (result.state, result.steps) == ("finished", 6), result.message
    assert not lease.lost()
    assert again.told == [
        f"{done.job.run.label}: the weights of epoch 1 are lost and a score of it is missing; "
        "the run is trained again"
    ]
    assert again.record.status().state is RunState.FINISHED
    assert _same_files(again.results, done)
    assert [path.name for path in again.record.folder.parent.iterdir()] == [done.job.run.run_id]


def test_weights_that_are_not_needed_are_not_looked_at(again, done):
    again.record.weights_path(1).unlink()
    _scores(again.results, done, 2, 2).unlink()
    result = again()
    assert (result.state, result.steps) == ("finished", 0)
    assert again.told == []
    assert _scores(again.results, done, 2, 2).exists()


def test_previews_without_their_weights_are_left_out_and_said(again, done):
    shutil.rmtree(again.record.previews_folder)
    again.record.weights_path(2).unlink()
    _scores(again.results, done, 1, 2).unlink()
    result = again()
    assert (result.state, result.steps) == ("finished", 0), result.message
    assert again.told == [f"{done.job.run.label}: no previews: the weights of epoch 2 are lost"]


@pytest.mark.parametrize("damage", ["cut short", "gone"])
def test_a_damaged_acceptance_is_mended_from_what_the_attempt_left(again, done, damage):
    before = (again.record.folder / "accepted.json").read_bytes()
    if damage == "gone":
        (again.record.folder / "accepted.json").unlink()
    else:
        (again.record.folder / "accepted.json").write_text("{")
    result = again()
    assert (result.state, result.steps) == ("finished", 0), result.message
    assert again.record.status().state is RunState.FINISHED
    assert (again.record.folder / "accepted.json").read_bytes() == before
    assert _same_files(again.results, done)


def test_a_new_domain_is_scored_by_weights_that_are_there(again, done):
    fewer = cases.changed(done.job, done.cell.domains[:2])
    again.record.weights_path(1).unlink()
    again.record.weights_path(2).unlink()
    assert again(fewer).steps == 0


def test_the_start_says_what_a_record_lost(again, done):
    cell = replace(done.cell, point="loss=combined")
    assert lost_records([score_cell(cell, again.results, cases.OBJECTIVE)], again.results) == []
    again.record.weights_path(1).unlink()
    row = score_cell(cell, again.results, cases.OBJECTIVE)
    assert row.complete
    assert lost_records([row, row], again.results) == [
        "the weights of 2 finished runs are gone: nothing is lost for this answer, but another "
        "score would train them again"
    ]
    (again.record.folder / "accepted.json").write_text("7")
    row = score_cell(cell, again.results, cases.OBJECTIVE)
    assert not row.complete
    assert lost_records([row], again.results) == [
        f"loss=combined (fold {cell.run.fold} seed {cell.run.seed}): accepted.json is damaged: "
        "the run does not count as finished, its attempts are kept"
    ]
    shutil.rmtree(again.record.folder)
    assert lost_records([score_cell(cell, again.results, cases.OBJECTIVE)], again.results) == []
