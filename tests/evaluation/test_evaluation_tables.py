"""Tables of a small real run: equal bytes each time, undefined scores counted, no clocks."""

from __future__ import annotations

import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import training_cases as cases

sys.path.append(str(Path(__file__).parents[1] / "records"))
from record_damage import DAMAGE

from vesselflow.evaluation.evaluated import POOLED, Evaluated
from vesselflow.evaluation.long_tables import Scored, point_scores, score_cell, write_tables
from vesselflow.evaluation.previews import LONGEST_PX, extremes, native_image, write_previews
from vesselflow.feed.batches import ArrayImages, load_images
from vesselflow.metrics import METRICS
from vesselflow.runs.cells import Cell
from vesselflow.runs.domains import ROLES
from vesselflow.runs.specs import view_of
from vesselflow.stores.store import Store
from vesselflow.training.loop import build_model

CLOCKS = ("wall", "_s", "time", "host", "slot", "attempt", "steps_per", "date")


def _cell(done, **changes) -> Cell:
    run_id = changes.pop("run_id", done.job.run.run_id)
    cell = replace(
        done.cell,
        point="p0",
        params={"loss.name": "combined", "loss.beta": 0.5},
        run=replace(done.job.run, run_id=run_id),
    )
    return replace(cell, **changes)


def _score(cell: Cell, results: Path) -> Scored:
    return score_cell(cell, results, cases.OBJECTIVE)


def _write(folder: Path, scored: list[Scored], results: Path) -> dict[str, Path]:
    return write_tables(folder, scored, results, cases.OBJECTIVE)


@pytest.fixture
def scored(done) -> list[Scored]:
    """A finished run, and one of another point that nobody began."""
    missing = _cell(done, point="p1", index=1, run_id="none", params={"loss.name": "fuzzy"})
    return [_score(cell, done.results) for cell in (_cell(done), missing)]


@pytest.fixture
def tables(scored, done, tmp_path) -> dict[str, pd.DataFrame]:
    paths = _write(tmp_path / "tables", scored, done.results)
    return {name: pd.read_parquet(path) for name, path in paths.items()}


def test_tables_are_equal_byte_for_byte(scored, done, tmp_path):
    first = _write(tmp_path / "first", scored, done.results)
    again = [_score(row.cell, done.results) for row in scored]
    second = _write(tmp_path / "second", again, done.results)
    assert sorted(first) == ["cost", "epochs", "images", "points", "runs"]
    for name, path in first.items():
        assert path.read_bytes() == second[name].read_bytes(), name


def test_only_cost_knows_clocks_and_machines(tables):
    for name, table in tables.items():
        found = [c for c in table.columns if any(c.endswith(w) or w == c for w in CLOCKS)]
        assert bool(found) == (name == "cost"), (name, found)
    assert tables["cost"][["attempt", "steps"]].to_numpy().tolist() == [[1, 6.0]]


def test_images_hold_every_epoch_domain_and_image(tables, done):
    images = tables["images"]
    assert sorted(images.epoch.unique()) == [1, 2]
    assert set(images.role) == set(ROLES)
    rows = images.groupby(["epoch", "role", "domain"]).source_id.nunique()
    # One source validates, one tests, two each are outside; and all of them pooled.
    assert rows.to_dict() == {
        (epoch, role, domain): n
        for epoch in (1, 2)
        for role, domain, n in (
            ("val", "a", 2),
            ("test", "a", 2),
            ("ood", "b", 3),
            ("ood", "empty", 3),
        )
    }
    assert not images.duplicated(["epoch", "role", "domain", "source_id", "metric"]).any()
    # The threshold of an epoch is that of val, everywhere.
    assert (images.groupby("epoch").threshold.nunique() == 1).all()
    chosen = images[images.chosen].epoch.unique().tolist()
    assert chosen == tables["runs"].epoch.dropna().tolist()


def test_undefined_scores_are_counted(tables):
    images, points = tables["images"], tables["points"]
    without = images[(images.source_id == "e1") & (images.metric == "roc_auc")]
    assert len(without) == 2
    assert without["value"].isna().all()
    first = points[points.point == "p0"]
    assert (first.n + first.n_undefined == first.n_runs).all()
    assert (first.n_runs == 1).all()
    assert first["std"].isna().all()  # of one run
    assert first.selected.all()
    second = points[points.point == "p1"]
    assert (second.n_runs == 0).all()
    assert second["mean"].isna().all()
    assert not second.selected.any()


def test_points_count_what_is_undefined(scored, done, tmp_path):
    # The same run, but its pooled Dice outside is undefined.
    row = scored[0]
    domain = next(d for d in row.cell.domains if d.name == "empty")
    evaluated = {
        key: Evaluated(
            each.threshold_logit,
            tuple(
                (s, m, math.nan if (s, m) == (POOLED, "dice") and key[1] is domain else v)
                for s, m, v in each.rows
            ),
        )
        for key, each in row.evaluated.items()
    }
    other = replace(row.cell, run=replace(row.cell.run, seed=9))
    spoilt = replace(row, evaluated=evaluated, cell=other)
    points = pd.read_parquet(
        _write(tmp_path / "t", [row, spoilt], done.results)["points"]
    ).set_index(["domain", "role", "metric"])
    found = points.loc["empty", "ood", "dice"]
    assert (found.n_runs, found.n, found.n_undefined) == (2, 1, 1)
    assert found["mean"] == row.evaluated[row.epoch, domain].value(POOLED, "dice")
    assert points.loc["a", "val", "dice"].n_undefined == 0


def test_epochs_hold_the_curve(tables):
    curve = tables["epochs"].pivot(index="epoch", columns="name", values="value")
    assert curve.index.tolist() == [1, 2]
    assert {"train/loss", "train/lr", "train/grad_norm", "val/dice", "val/threshold"} <= {
        *curve.columns
    }
    assert curve["train/loss"].notna().all()
    assert {f"val/{name}" for name in METRICS.names()} <= {*curve.columns}


def test_runs_say_how_they_stand(tables):
    runs = tables["runs"].set_index("point")
    assert runs.loc["p0", "state"] == "finished"
    assert runs.loc["p1", "state"] == "queued"
    assert runs.loc["p0", "config.loss.name"] == '"combined"'
    assert runs.loc["p0", "config.loss.beta"] == "0.5"
    # An axis that does not hold for a point.
    assert pd.isna(runs.loc["p1", "config.loss.beta"])


def test_a_point_counts_when_all_its_runs_do(scored):
    complete, missing = scored
    assert complete.complete
    assert point_scores(scored, cases.OBJECTIVE) == {"p0": complete.value}
    assert complete.value == complete.evaluated[complete.epoch, complete.cell.domains[0]].value(
        POOLED, "dice"
    )
    half = replace(missing, cell=replace(missing.cell, point="p0", index=0))
    assert point_scores([complete, half], cases.OBJECTIVE) == {}


def test_a_run_without_one_of_its_parts_is_incomplete(done, scored, tmp_path):
    more = (*done.cell.domains, replace(done.cell.domains[-1], digest="other content"))
    row = _score(_cell(done, domains=more), done.results)
    assert (row.state, row.complete, row.evaluated) == ("finished", False, {})
    assert math.isnan(row.value)
    assert math.isnan(row.threshold)


# -- previews ----------------------------------------------------------------------------------


def test_a_finished_run_has_previews(done):
    folder = done.results / "runs" / done.job.run.run_id / "previews" / done.cell.protocol.name
    names = sorted(path.name for path in folder.glob("*.npz"))
    assert len(names) == 2 * 4
    scored = _score(_cell(done), done.results)
    for path in folder.glob("*.npz"):
        with np.load(path) as stored:
            shape = stored["probability"].shape
            assert stored["image"].shape == (*shape, 3)
            assert stored["target"].shape == stored["fov"].shape == shape
            assert {stored[n].dtype for n in ("image", "probability", "target", "fov")} == {
                np.dtype(np.uint8)
            }
            assert set(np.unique(stored["fov"])) <= {0, 1}
            role, domain = str(stored["role"]), str(stored["domain"])
            key = next(k for k in scored.evaluated if (k[1].role, k[1].name) == (role, domain))
            assert str(stored["metric"]) == "dice"
            assert float(stored["value"]) == scored.evaluated[scored.epoch, key[1]].value(
                str(stored["source_id"]), "dice"
            )
            assert float(stored["threshold"]) == scored.threshold
    # Labels and fov of small images are native and untouched.
    source = next(iter(folder.glob("val_a_best_*.npz")))
    with np.load(source) as stored, Store.open(done.stores["a"]) as store:
        np.testing.assert_array_equal(stored["target"], store.target(3))
        np.testing.assert_array_equal(stored["fov"], store.fov(3))


def test_extremes_leave_out_what_is_undefined():
    rows = [("s1", "dice", 0.2), ("s2", "dice", math.nan), ("s3", "dice", 0.9), ("s1", "iou", 1.0)]
    scores = Evaluated(0.5, (*rows, (POOLED, "dice", 0.95)))
    assert extremes(scores, cases.OBJECTIVE) == {"best": ("s3", 0.9), "worst": ("s1", 0.2)}
    smaller = replace(cases.OBJECTIVE, direction="min")
    assert extremes(scores, smaller) == {"best": ("s1", 0.2), "worst": ("s3", 0.9)}
    undefined = Evaluated(0.5, ((POOLED, "dice", 0.5), ("s2", "dice", math.nan)))
    assert extremes(undefined, cases.OBJECTIVE) == {}


def test_native_image_stands_where_the_fov_is(done):
    images = load_images(done.stores["a"], view_of(done.job.run.experiment))
    with Store.open(done.stores["a"]) as store:
        native = store.image(0).astype(float)
    found = native_image(images[0])
    assert found.shape == native.shape == (96, 96, 3)
    assert found.dtype == np.uint8
    y0, x0, y1, x1 = images[0].box
    # Blurred by going through the working size, but in place.
    assert np.abs(found - native)[y0:y1, x0:x1].mean() < 12
    found[y0:y1, x0:x1] = 0
    assert not found.any()


def test_a_grey_image_becomes_three_channels(done):
    whole = load_images(done.stores["a"], view_of(done.job.run.experiment))[0]
    grey = native_image(replace(whole, image=whole.image[1:2]))
    assert (grey == grey[..., :1]).all()
    np.testing.assert_array_equal(grey[..., 0], native_image(whole)[..., 1])


def test_large_previews_are_reduced_and_old_ones_replaced(done, tmp_path):
    experiment = cases.tiny_experiment()
    whole = load_images(done.stores["a"], view_of(experiment))[3]
    box = tuple(9 * edge for edge in whole.box)
    large = replace(
        whole,
        target=np.repeat(np.repeat(whole.target, 9, 0), 9, 1),
        fov=np.repeat(np.repeat(whole.fov, 9, 0), 9, 1),
        box=box,
    )
    assert max(large.target.shape) == 864 > LONGEST_PX
    domain = replace(done.cell.domains[0], sources=(0,))
    scores = Evaluated(0.5, ((large.source_id, "dice", 0.5),))
    model = build_model(experiment, 3, seed=1).eval()
    (tmp_path / "val_a_worst_gone.npz").write_bytes(b"of an earlier evaluation")
    written = write_previews(
        tmp_path,
        model,
        ArrayImages([large]),
        domain,
        scores,
        experiment,
        done.cell.protocol,
        cases.OBJECTIVE,
    )
    assert sorted(tmp_path.iterdir()) == sorted(written)
    assert [path.name.split("_")[2] for path in written] == ["best", "worst"]
    with np.load(written[0]) as stored:
        assert stored["image"].shape == (LONGEST_PX, LONGEST_PX, 3)
        assert stored["target"].shape == (LONGEST_PX, LONGEST_PX)
        assert set(np.unique(stored["target"])) == {0, 1}


def test_null_is_a_value_and_an_axis_that_does_not_apply_is_missing(done, tmp_path):
    params = {"p0": {"loss.beta": 0.5, "train.ema": None}, "p1": {"train.ema": 0.9}}
    cells = [
        _cell(done, point=point, index=index, run_id="none", params=values)
        for index, (point, values) in enumerate(params.items())
    ]
    paths = _write(tmp_path, [Scored(cell, "queued") for cell in cells], done.results)
    for name in ("points", "runs"):
        table = pd.read_parquet(paths[name]).drop_duplicates("point").set_index("point")
        assert table["config.train.ema"].to_list() == ["null", "0.9"]
        assert table.loc["p0", "config.loss.beta"] == "0.5"
        assert pd.isna(table.loc["p1", "config.loss.beta"])


@pytest.mark.parametrize("kind", DAMAGE)
def test_tables_are_made_of_damaged_records(done, tmp_path, kind):
    cell = _cell(done)
    evaluations = tmp_path / "evaluations"
    evaluations.symlink_to(done.results / "evaluations", target_is_directory=True)
    names = sorted(
        path.relative_to(done.results)
        for path in (done.results / "runs" / cell.run.run_id).rglob("*.json")
    )
    assert len(names) >= 7
    for name in names:
        run = tmp_path / "runs" / cell.run.run_id
        shutil.copytree(
            done.results / "runs" / cell.run.run_id,
            run,
            ignore=shutil.ignore_patterns("*.pt", "*.ckpt", "*.npz"),
        )
        DAMAGE[kind](tmp_path / name)
        row = _score(cell, tmp_path)
        assert row.complete == (name.name != "accepted.json"), name
        paths = _write(tmp_path / "tables", [row], tmp_path)
        if row.complete:
            points = pd.read_parquet(paths["points"])
            assert points["selected"].all()
        assert len(pd.read_parquet(paths["cost"])) <= 1
        shutil.rmtree(run)
