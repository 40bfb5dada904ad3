"""A metric that is new or mended computes itself alone, out of weights that are kept."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import training_cases as cases

from vesselflow.evaluation.evaluated import (
    POOLED,
    Evaluated,
    evaluation_path,
    read_evaluated,
    write_evaluated,
)
from vesselflow.evaluation.long_tables import score_cell, write_tables
from vesselflow.feed.local import LocalData
from vesselflow.metrics import METRICS
from vesselflow.records.runs import RunRecord
from vesselflow.sweeps import scoring_job
from vesselflow.sweeps.execution import execute


def prevalence(histogram, threshold=None):
    """Share of the pixels that are vessel."""
    positives = float(histogram.positives.sum())
    return np.asarray(positives / (positives + float(histogram.negatives.sum())))


@pytest.fixture
def results(done, tmp_path: Path) -> Path:
    shutil.copytree(done.results, tmp_path / "results")
    return tmp_path / "results"


@pytest.fixture
def registered():
    """A function that registers `prevalence` until the test ends."""

    def add() -> None:
        METRICS.add_metric(
            "prevalence",
            target=f"{__name__}:prevalence",
            label="prevalence",
            undefined="there is no pixel",
            thresholded=False,
        )

    yield add
    METRICS._parts.pop("prevalence", None)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...] | None]:
    """The metrics that each evaluation was asked for."""
    asked: list[tuple[str, ...] | None] = []
    true = scoring_job.evaluate

    def evaluate(*args, metrics=None, **given):
        asked.append(metrics if metrics is None else tuple(metrics))
        return true(*args, metrics=metrics, **given)

    monkeypatch.setattr(scoring_job, "evaluate", evaluate)
    return asked


def _again(done, results: Path):
    result = execute(done.job, results, LocalData(done.stores))
    assert (result.state, result.steps, result.message) == ("finished", 0, "")
    assert RunRecord(results, done.job.run.run_id).status().attempts == 1
    return result


def test_a_new_metric_computes_itself_alone(done, results, registered, computed, tmp_path):
    before = score_cell(done.cell, results, cases.OBJECTIVE)
    # Values that no scoring would give: whoever computes them again is seen.
    for evaluation in done.job.evaluations:
        path = evaluation_path(results, evaluation)
        known = read_evaluated(path)
        marked = tuple((s, m, 0.125 if m == "mcc" else v) for s, m, v in known.rows)
        write_evaluated(path, replace(known, rows=marked))
    registered()
    assert not score_cell(done.cell, results, cases.OBJECTIVE).complete
    _again(done, results)
    assert computed == [("prevalence",)] * len(done.job.evaluations)

    after = score_cell(done.cell, results, cases.OBJECTIVE)
    assert (after.epoch, after.value, after.threshold) == (
        before.epoch,
        before.value,
        before.threshold,
    )
    for key, evaluated in after.evaluated.items():
        assert evaluated.threshold_logit == before.evaluated[key].threshold_logit
        assert {v for _, m, v in evaluated.rows if m == "mcc"} == {0.125}
        others = [row for row in evaluated.rows if row[1] not in ("mcc", "prevalence")]
        kept = [row for row in before.evaluated[key].rows if row[1] != "mcc"]
        assert cases.differences(others, kept) == []
        assert 0 < evaluated.value(POOLED, "prevalence") < 1
    # It stands in the tables by itself, the curve included.
    paths = write_tables(tmp_path / "tables", [after], results, cases.OBJECTIVE)
    assert "prevalence" in set(pd.read_parquet(paths["points"])["metric"])
    assert "prevalence" in set(pd.read_parquet(paths["images"])["metric"])
    assert "val/prevalence" in set(pd.read_parquet(paths["epochs"])["name"])


def test_scores_that_came_in_two_steps_are_the_same_file(done, results, registered):
    registered()
    _again(done, results)
    joined = cases.files_of(results, done.job.run.run_id)
    for evaluation in done.job.evaluations:
        evaluation_path(results, evaluation).unlink()
    _again(done, results)
    assert cases.files_of(results, done.job.run.run_id) == joined


def test_a_mended_metric_is_computed_anew_and_the_old_one_kept(
    done, results, computed, monkeypatch
):
    path = evaluation_path(results, done.job.evaluations[0])
    before = read_evaluated(path)
    with monkeypatch.context() as mended:
        mended.setitem(vars(METRICS.metric("mcc")), "version", 2)
        assert read_evaluated(path).missing(METRICS.names()) == ["mcc"]
        _again(done, results)
        assert set(computed) == {("mcc",)}
        after = read_evaluated(path)
        assert cases.differences(after.rows, before.rows) == []
        assert {row[1:3] for row in after.foreign} == {("mcc", 1)}
    # Code that has the old one still finds its own, and scores nothing.
    computed.clear()
    _again(done, results)
    assert computed == []
    assert cases.differences(read_evaluated(path).rows, before.rows) == []


def test_mended_code_that_scores_evaluates_again_and_trains_nothing(
    done, results, computed, monkeypatch
):
    monkeypatch.setattr("vesselflow.runs.protocols.SCORER", 99)
    assert not score_cell(done.cell, results, cases.OBJECTIVE).complete
    _again(done, results)
    assert set(computed) == {None}
    assert score_cell(done.cell, results, cases.OBJECTIVE).complete


def test_each_file_is_read_once(done, results, monkeypatch):
    read: list[Path] = []
    true = scoring_job.read_evaluated

    def noted(path):
        read.append(path)
        return true(path)

    monkeypatch.setattr(scoring_job, "read_evaluated", noted)
    _again(done, results)
    assert len(read) == len(set(read)) == len(done.job.evaluations)


def test_rows_are_joined_in_the_order_of_sources_and_metrics():
    one = Evaluated(0.5, (("s2", "iou", 0.1), ("s1", "iou", 0.2), (POOLED, "iou", 0.3)))
    other = Evaluated(0.5, (("s2", "dice", 1.0), ("s1", "dice", 2.0), (POOLED, "dice", 3.0)))
    expected = [("s2", 1.0, 0.1), ("s1", 2.0, 0.2), (POOLED, 3.0, 0.3)]
    rows = [row for s, d, i in expected for row in ((s, "dice", d), (s, "iou", i))]
    assert list(one.joined(other).rows) == list(other.joined(one).rows) == rows
    assert one.missing(METRICS.names()) == [name for name in METRICS.names() if name != "iou"]
