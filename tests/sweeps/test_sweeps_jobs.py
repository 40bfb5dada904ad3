"""Points that differ only in how they are scored share a training, and are all done in one start.

The jobs of a prepared sweep are executed in this process, as a slot does it.
"""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import pandas as pd
import pytest

from vesselflow.config.loading import load_space
from vesselflow.errors import UserError
from vesselflow.evaluation.long_tables import write_tables
from vesselflow.evaluation.scoring import evaluate
from vesselflow.feed.local import LocalData
from vesselflow.metrics import METRICS
from vesselflow.records.runs import RunRecord
from vesselflow.runs.cells import trainings
from vesselflow.runs.registries import REGISTRIES
from vesselflow.runs.specs import domain_view
from vesselflow.sweeps import scoring_job
from vesselflow.sweeps.context import Reports, Result
from vesselflow.sweeps.execution import execute
from vesselflow.sweeps.planning import Prepared, prepare

SPACE = """
stores:
  a: synth:fundus?domain=a&sources=5&seed=0&size_px=96
  b: synth:fundus?domain=b&sources=2&seed=1&size_px=96
  c: synth:fundus?domain=c&sources=2&seed=2&size_px=96
data: {train: a, ood: [b], working_size_px: 64}
split: {folds: 3}
folds: [0]
model: {name: wnet, filters: [4, 8]}
train: {epochs: 2, steps_per_epoch: 1, micro_batch_size: 2}
score: {epochs: all}
"""
AXES = {
    "threshold": "score.threshold_metric: [dice, accuracy]",
    "rule": "score.threshold: [best, half]",
    "flips": "score.tta: [none, flips]",
    "scale": "stores.b.scale: [0.5, 1.0]",
    "domains": "data.ood: [[b], [c], [b, c]]",
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One results folder for all sweeps here, so that they share stores and trainings."""
    return tmp_path_factory.mktemp("jobs") / "results"


def _prepared(results: Path, name: str, more: str, space: str = SPACE) -> Prepared:
    file = results.parent / f"{name}.yaml"
    file.write_text(f"{space}{more}\n")
    return prepare(load_space(file, registries=REGISTRIES), results)


def _done(prepared: Prepared, **reports: object) -> list[Result]:
    """One start: every job once."""
    data = LocalData({name: facts.path for name, facts in prepared.stores.items()})
    done = []
    for job in prepared.jobs():
        job = pickle.loads(pickle.dumps(job))  # it travels to a slot
        done.append(execute(job, prepared.results, data, reports=Reports(**reports)))
    prepared.rescore()
    return done


def _tables(prepared: Prepared, folder: Path) -> dict[str, pd.DataFrame]:
    paths = write_tables(folder, prepared.scored, prepared.results, prepared.objective)
    return {name: pd.read_parquet(path) for name, path in paths.items()}


@pytest.mark.parametrize("axis", AXES)
def test_points_that_differ_in_their_evaluation_are_done_in_one_start(results, tmp_path, axis):
    # A seed of its own, so that nobody did the run before.
    seed = 10 + list(AXES).index(axis)
    prepared = _prepared(results, axis, f"seeds: [{seed}]\ngrid: {{{AXES[axis]}}}")
    points = [point.name for point in prepared.expansion.points]
    assert len(points) == len(prepared.cells) > 1
    (job,) = prepared.jobs()
    assert job.points == tuple(points)
    assert len({evaluation.name for evaluation in job.evaluations}) == len(job.evaluations)

    (result,) = _done(prepared)
    assert (result.state, result.message) == ("finished", "")
    assert prepared.missing() == []
    assert prepared.jobs() == []
    assert RunRecord(results, job.run.run_id).status().attempts == 1
    assert result.values == {row.cell.point: row.value for row in prepared.scored}

    tables = _tables(prepared, tmp_path)
    assert (tables["points"].n_runs == 1).all()
    assert set(tables["images"].point) == set(tables["runs"].point) == set(points)
    assert tables["runs"].epoch.notna().all()
    # A point's curve is by its own protocol, whichever point it was trained for.
    curve = tables["epochs"][tables["epochs"].name.str.startswith("val/")]
    images = tables["images"]
    pooled = images[(images.role == "val") & (images.source_id == "*")]
    for point, epoch, metric, value in pooled[["point", "epoch", "metric", "value"]].itertuples(
        index=False
    ):
        here = (curve.point == point) & (curve.epoch == epoch) & (curve.name == f"val/{metric}")
        assert curve[here].value.tolist() == pytest.approx([value], abs=0, nan_ok=True)


def test_the_scale_of_a_domain_changes_its_scores_and_no_other(results, tmp_path):
    prepared = _prepared(results, "scales", f"grid: {{{AXES['scale']}}}")
    _done(prepared)
    images = _tables(prepared, tmp_path)["images"]
    by_point = {
        role: images[images.role == role].pivot(
            index=["epoch", "source_id", "metric"], columns="point", values="value"
        )
        for role in ("val", "test", "ood")
    }
    for role in ("val", "test"):
        half, whole = (by_point[role][column] for column in by_point[role])
        pd.testing.assert_series_equal(half, whole, check_names=False, check_exact=True)
    assert not by_point["ood"]["scale=0.5"].equals(by_point["ood"]["scale=1"])


def test_one_physical_size_of_a_pixel_for_all_cameras(results, tmp_path):
    space = SPACE.replace("working_size_px: 64", "spacing_um: 200")
    prepared = _prepared(results, "spacing", "seeds: [5]", space)
    (result,) = _done(prepared)
    assert (result.state, result.message) == ("finished", "")
    # 45 degrees of 290 um each, at 200 um: 65.25 px across the whole field of either camera.
    data = LocalData({name: facts.path for name, facts in prepared.stores.items()})
    (cell,) = prepared.cells
    for domain in cell.domains:
        images = data.images(domain.store, domain_view(cell.run.experiment, domain))
        for index in domain.sources:
            (_, width), (_, x0, _, x1) = images[index].inner, images[index].box
            spacing = prepared.stores[domain.store].sources[index].spacing_um
            assert width == round((x1 - x0) * spacing[1] / 200)
            # b sees as much, but its frame cuts the field on all sides.
            assert abs(width - (62 if domain.store == "b" else 65)) <= 1
    assert _tables(prepared, tmp_path)["images"].role.nunique() == 3


def test_thresholds_and_domains_are_each_points_own(results, tmp_path):
    prepared = _prepared(results, "both", f"grid: {{{AXES['threshold']}, {AXES['domains']}}}")
    _done(prepared)
    tables = _tables(prepared, tmp_path)
    images = tables["images"]
    thresholds = images.groupby(["point", "epoch"]).threshold.nunique()
    assert (thresholds == 1).all()
    of = {
        row.cell.point: (row.cell.protocol.threshold_metric, row.threshold)
        for row in prepared.scored
    }
    assert len(set(of.values())) == 2  # one for each metric, whatever the domains
    outside = images[images.role == "ood"].groupby("point").domain.unique().map(sorted)
    for row in prepared.scored:
        wanted = sorted(domain.name for domain in row.cell.domains if domain.role == "ood")
        assert outside[row.cell.point] == wanted


def test_one_more_point_of_a_run_that_is_done_is_scored_alone(results):
    _done(_prepared(results, "one", ""))
    prepared = _prepared(results, "two", f"grid: {{{AXES['flips']}}}")
    runs = {cell.run.run_id for cell in prepared.cells}
    flipped = prepared.cells[1]
    (job,) = prepared.jobs()
    assert {job.run.run_id} == runs
    assert job.points == (flipped.point,)
    (result,) = _done(prepared)
    assert (result.state, result.steps, list(result.values)) == ("finished", 0, [flipped.point])
    assert prepared.missing() == []


def test_epochs_are_reported_with_every_metric(results):
    # A run that nobody did yet.
    prepared = _prepared(results, "reported", "seeds: [7]")
    told: list[dict[str, float]] = []
    _done(prepared, epoch=lambda epoch, step, values: told.append(values))
    assert len(told) == 2
    for values in told:
        assert {f"val/{name}" for name in METRICS.names()} < values.keys()
        assert prepared.objective.curve in values


def test_the_objective_chooses_epoch_and_point(results, tmp_path):
    """By the metric, and in the direction, that the space says."""
    chosen = {}
    for direction in ("max", "min"):
        more = f"seeds: [0, 3]\nobjective: {{metric: specificity, direction: {direction}}}"
        prepared = _prepared(results, f"objective-{direction}", more)
        _done(prepared)
        best = max if direction == "max" else min
        for row in prepared.scored:
            values = {
                epoch: row.evaluated[epoch, row.cell.domains[0]].value("*", "specificity")
                for epoch in row.cell.run.epochs
            }
            assert row.value == best(values.values())
            assert values[row.epoch] == row.value
        chosen[direction] = [row.value for row in prepared.scored]
        points = _tables(prepared, tmp_path / direction)["points"]
        assert points.selected.all()
    assert chosen["max"] > chosen["min"]
    assert not any(map(math.isnan, chosen["max"]))


STOPPING = SPACE.replace("epochs: 2,", "epochs: 5, stop: {patience: 1, threshold: 0.9},")


def test_a_training_that_is_ended_early_has_every_cell_of_its_answer(
    results, tmp_path, monkeypatch
):
    prepared = _prepared(results, "stopping", "seeds: [6]", STOPPING)
    scored, said = [], []
    monkeypatch.setattr(
        scoring_job,
        "evaluate",
        lambda *given, **named: scored.append(1) or evaluate(*given, **named),
    )
    (result,) = _done(prepared, message=said.append)
    assert (result.state, result.message) == ("finished", "")
    line = "stopped after epoch 2 of 5 (train.stop): dice on validation was no better in 1 scored"
    assert [text for text in said if line in text]
    (job,) = {cell.run.run_id: cell for cell in prepared.cells}.values()
    record = RunRecord(results, job.run.run_id)
    assert record.accepted()["summary"] == {"steps": 2, "skipped_steps": 0, "stopped_epoch": 2}
    assert line in record.accepted_attempt().log_path.read_text()
    # Two epochs on val, test and one other camera; the three others are not scored again.
    assert len(scored) == 6
    assert prepared.missing() == []
    images = _tables(prepared, tmp_path)["images"].set_index(
        ["epoch", "role", "domain", "source_id", "metric"]
    )["value"]
    assert set(images.index.get_level_values("epoch")) == {1, 2, 3, 4, 5}
    for epoch in (3, 4, 5):
        pd.testing.assert_series_equal(images[epoch], images[2], check_exact=True)
    assert not images[1].equals(images[2])
    # The start after it has nothing to do.
    assert _prepared(results, "stopping", "seeds: [6]", STOPPING).jobs() == []


def test_scores_that_end_a_training_are_part_of_its_name(results):
    """Without early stopping such points share a training (above)."""
    for axis in ("flips", "rule"):
        prepared = _prepared(results, f"stop-{axis}", f"grid: {{{AXES[axis]}}}", STOPPING)
        assert len({cell.run.run_id for cell in prepared.cells}) == 2
        assert len(prepared.jobs()) == 2
        assert len(trainings(prepared.space)) == 2
    plain = _prepared(results, "stop-none", f"grid: {{{AXES['flips']}}}")
    assert len(trainings(plain.space)) == 1


def test_a_training_is_not_ended_by_a_score_of_another_task(results):
    space = STOPPING.replace("patience: 1", "patience: 1, metric: f1")
    with pytest.raises(UserError, match=r"train.stop.metric: unknown metric 'f1'; allowed: dice"):
        _prepared(results, "stop-f1", "", space)
