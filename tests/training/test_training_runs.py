"""Whole runs in one process: nothing of one is left for the next."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import training_cases as cases

import vesselflow.inference.whole as whole_module
import vesselflow.training.giving as giving_module
from vesselflow.evaluation.evaluated import evaluation_path, read_evaluated
from vesselflow.feed.batches import load_images
from vesselflow.feed.local import LocalData
from vesselflow.records.runs import RunRecord
from vesselflow.records.status import RunState
from vesselflow.runs.specs import view_of
from vesselflow.sweeps.context import Result
from vesselflow.sweeps.execution import execute
from vesselflow.sweeps.faults import Fault


@pytest.fixture(scope="module")
def stores(alone_folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in alone_folder.glob("*.h5")}


@pytest.fixture(scope="module")
def after_a(stores, tmp_path_factory) -> tuple[Path, Result]:
    """Run A, then run B, in this process."""
    folder, domains = tmp_path_factory.mktemp("after-a"), cases.tiny_domains(stores, "b")
    data = LocalData(stores)
    assert execute(cases.run_a(domains), folder / "a", data).state == "finished"
    return folder / "b", execute(cases.run_b(domains), folder / "b", data)


def test_a_run_does_not_depend_on_what_its_slot_ran_before(after_a, alone_folder: Path):
    folder, result = after_a
    assert result.state == "finished"
    ours, theirs = cases.files_of(folder, "bbbb"), cases.files_of(alone_folder / "alone", "bbbb")
    # Weights of two epochs, and two epochs on val, test and b.
    assert len(ours) == 2 + 2 * 3
    assert ours == theirs
    curves = [RunRecord(f, "bbbb").rows() for f in (folder, alone_folder / "alone")]
    assert cases.differences(*curves) == []


def test_a_finished_run_is_neither_trained_nor_scored_again(after_a, stores, monkeypatch):
    folder, result = after_a
    monkeypatch.delattr("vesselflow.sweeps.scoring_job.evaluate")
    again = execute(cases.run_b(cases.tiny_domains(stores, "b")), folder, LocalData(stores))
    assert (again.state, again.values) == ("finished", result.values)
    assert list(again.values) == ["point-bbbb"]
    assert again.steps == 0
    assert RunRecord(folder, "bbbb").status().attempts == 1


def test_a_new_domain_is_scored_without_training(after_a, stores):
    folder, result = after_a
    job = cases.run_b(cases.tiny_domains(stores, "b", "empty"))
    weights = cases.files_of(folder, "bbbb")
    again = execute(job, folder, LocalData(stores))
    assert (again.state, again.steps, again.values) == ("finished", 0, result.values)
    assert read_evaluated(evaluation_path(folder, job.evaluations[-1])) is not None
    assert cases.files_of(folder, "bbbb").items() > weights.items()


def test_a_stopped_run_goes_on_to_the_same_end(after_a, stores, tmp_path):
    job, stop = cases.run_b(cases.tiny_domains(stores, "b")), cases.StopAt("training", 4)
    first = execute(job, tmp_path, LocalData(stores), reports=stop.reports)
    assert (first.state, first.steps) == ("stopped", 5)
    assert RunRecord(tmp_path, "bbbb").status().state is RunState.PAUSED
    second = execute(job, tmp_path, LocalData(stores))
    assert (second.state, second.steps) == ("finished", 1)
    ours = cases.files_of(tmp_path, "bbbb")
    theirs = cases.files_of(after_a[0], "bbbb")
    assert ours == {name: theirs[name] for name in ours}
    # Both attempts say what they cost.
    assert [cost["steps"] for cost in RunRecord(tmp_path, "bbbb").costs()] == [5, 1]


def test_a_reset_run_is_scored_anew(after_a, stores, tmp_path):
    job = cases.run_b(cases.tiny_domains(stores, "b"))
    (cell,) = job.cells
    first, last = (cell.evaluation(epoch, cell.domains[2]) for epoch in (1, 2))
    path = evaluation_path(tmp_path, last)
    path.parent.mkdir()
    path.write_bytes(b"scores of the run as it was before it was reset")
    stale, other = evaluation_path(tmp_path, first), evaluation_path(after_a[0], last)
    stale.write_bytes(other.read_bytes())  # whole, but of other weights
    assert execute(job, tmp_path, LocalData(stores)).state == "finished"
    for name, content in cases.files_of(tmp_path, "bbbb").items():
        assert content == cases.files_of(after_a[0], "bbbb")[name]


def test_a_diverged_run_is_marked_and_the_next_one_works(after_a, stores, tmp_path, monkeypatch):
    job = cases.run_b(cases.tiny_domains(stores, "b"))
    bad = cases.changed(
        job, run_id="dddd", experiment=cases.tiny_experiment(train={"nan_tolerance": 1})
    )
    data = LocalData(stores)
    with monkeypatch.context() as patched:
        true = giving_module.normalise_by
        patched.setattr(giving_module, "normalise_by", lambda *args: true(*args) * float("nan"))
        result = execute(bad, tmp_path, data)
    assert result.state == "failed"
    assert result.message.startswith("Diverged: 2 gradients in a row were not finite, the last at")
    assert "'loss': nan" in result.message
    status = RunRecord(tmp_path, "dddd").status()
    assert (status.state, status.message) == (RunState.FAILED, result.message)
    log = (tmp_path / "runs/dddd/attempts/1/log.txt").read_text()
    assert "Traceback (most recent call last)" in log
    assert "Diverged" in log

    assert execute(job, tmp_path, data).state == "finished"
    theirs = cases.files_of(after_a[0], "bbbb")
    assert all(content == theirs[n] for n, content in cases.files_of(tmp_path, "bbbb").items())


def test_a_run_of_nan_scores_is_finished_with_nan(stores, tmp_path, monkeypatch):
    # A model that gives NaN when it is scored: no threshold, no preview, no crash.
    job = cases.run_b(cases.tiny_domains(stores, "empty"))
    true = whole_module.to_native
    monkeypatch.setattr(whole_module, "to_native", lambda *args: true(*args) * np.float32("nan"))
    result = execute(job, tmp_path, LocalData(stores))
    assert result.state == "finished", result.message
    assert list(map(math.isnan, result.values.values())) == [True]
    assert list((tmp_path / "runs/bbbb/previews").rglob("*.npz")) == []


def test_an_error_while_scoring_leaves_the_run_trained(stores, tmp_path):
    domains = cases.tiny_domains(stores, "b")
    job = cases.run_b(domains)
    for _ in range(2):  # by the attempt that trained it, and by one that only scores
        result = execute(job, tmp_path, LocalData({"a": stores["a"]}))
        assert (result.state, result.fault) == ("failed", Fault.USER_CODE)
        assert result.place.startswith("vesselflow/feed/local.py:")
        log = Path(result.log).read_text()
        assert RunRecord(tmp_path, "bbbb").status().state is RunState.FINISHED
        assert "not scored: KeyError: 'b'\nTraceback" in log
    again = execute(job, tmp_path, LocalData(stores))
    assert (again.state, again.steps) == ("finished", 0)


def test_a_fold_without_training_samples_says_so(stores, tmp_path):
    job = cases.changed(cases.run_b(cases.tiny_domains(stores)), train=())
    result = execute(job, tmp_path, LocalData(stores))
    assert result.state == "failed"
    assert "fold 0 has no training sample" in result.message


def test_accepted_record_counts_skipped_steps(after_a):
    accepted = json.loads((after_a[0] / "runs/bbbb/accepted.json").read_text())
    assert accepted["summary"] == {"skipped_steps": 0, "steps": 6}


def test_dataset_statistics_are_those_of_all_training_pixels(stores, tmp_path, monkeypatch):
    job = cases.run_a(cases.tiny_domains(stores, "b"))
    seen = []

    def spy(settings, image, fov, centre, scale, known):
        seen.append(known)
        return cases._normalise_by(settings, image, fov, centre, scale, known)

    monkeypatch.setattr(giving_module, "normalise_by", spy)
    monkeypatch.setattr(whole_module, "normalise_by", spy)
    assert execute(job, tmp_path, LocalData(stores)).state == "finished"
    images = load_images(stores["a"], view_of(job.run.experiment))
    pixels = np.concatenate(
        [images[n].image[:, images[n].fov_working > 0] for n in job.run.train], axis=1
    )
    assert pixels.shape[1] > 1000
    for centre, scale in seen:
        np.testing.assert_allclose(centre, pixels.mean(axis=1) / 255, rtol=1e-6)
        np.testing.assert_allclose(scale, pixels.std(axis=1) / 255, rtol=1e-6)
    assert len(seen) > 4
