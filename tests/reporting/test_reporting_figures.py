import math

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from reporting_examples import BETAS, write_sweep

from vesselflow.errors import UserError
from vesselflow.reporting.figures import write_figures
from vesselflow.reporting.figures.in_against_out import draw_gap, nice_gaps
from vesselflow.reporting.overlays import (
    FALSE_NEGATIVE,
    FALSE_POSITIVE,
    TRUE_POSITIVE,
    Preview,
    chosen_previews,
    read_previews,
)
from vesselflow.reporting.sweep_tables import load_tables


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    return write_sweep(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def progress():
    """What is told while `figures` are drawn."""
    return []


@pytest.fixture(scope="module")
def figures(sweep, progress):
    written = write_figures(sweep, told=lambda done, total: progress.append((done, total)))
    return {path.stem: path for path in written}


def test_every_figure_is_a_picture_with_its_numbers(figures):
    assert sorted(figures) == [
        "dice_by_loss.beta",
        "dice_by_loss.name",
        "in_against_out",
        "learning_curves",
        "predictions",
    ]
    for path in figures.values():
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            assert min(picture.size) > 300
        assert not pd.read_csv(path.with_suffix(".csv")).empty


def test_axis_numbers_are_those_of_the_tables(sweep, figures):
    numbers = pd.read_csv(figures["dice_by_loss.beta"].with_suffix(".csv"))
    means = numbers[numbers["kind"] == "mean"]
    runs = numbers[numbers["kind"] == "run"]
    assert len(means) == 2 * len(BETAS) * 4
    assert len(runs) == 4 * len(means)
    points = pd.read_parquet(sweep / "tables" / "points.parquet")
    dice = points[points["metric"] == "dice"].set_index(["point", "role", "domain"])["mean"]
    drawn = means.set_index(["point", "role", "domain"])["dice"]
    pd.testing.assert_series_equal(
        drawn.sort_index(), dice.sort_index(), check_names=False, rtol=1e-12
    )
    # The faint dots are the runs behind the means: at the epoch chosen on val, pooled.
    of_runs = runs.groupby(["point", "role", "domain"])["dice"].mean()
    pd.testing.assert_series_equal(of_runs, dice.sort_index(), check_names=False, rtol=1e-12)
    assert set(means.loc[means["chosen"], "point"]) == {load_tables(sweep).selected}


def test_curves_are_means_over_runs(sweep, figures):
    numbers = pd.read_csv(figures["learning_curves"].with_suffix(".csv"))
    epochs = pd.read_parquet(sweep / "tables" / "epochs.parquet")
    point = "loss=fuzzy,beta=0.25"
    picked = numbers[(numbers["point"] == point) & (numbers["name"] == "val/dice")]
    values = epochs[(epochs["point"] == point) & (epochs["name"] == "val/dice")]
    third = values.loc[values["epoch"] == 3, "value"]
    row = picked[picked["epoch"] == 3].iloc[0]
    assert row["n"] == 4
    assert row["mean"] == pytest.approx(third.mean())
    assert row["std"] == pytest.approx(third.std(ddof=1))


def test_constant_beta_is_not_drawn_as_a_schedule(figures):
    numbers = pd.read_csv(figures["learning_curves"].with_suffix(".csv"))
    assert set(numbers["name"]) == {"train/loss", "val/dice"}


def test_moving_beta_gets_a_row(tmp_path):
    schedule = {"schedule": "linear", "from": 0.0, "to": 1.0}
    sweep = write_sweep(
        tmp_path, betas=(0.5, schedule), losses=("fuzzy",), folds=1, seeds=1, previews=False
    )
    written = {path.stem: path for path in write_figures(sweep)}
    numbers = pd.read_csv(written["learning_curves"].with_suffix(".csv"))
    assert "train/loss.beta" in set(numbers["name"])
    assert "predictions" not in written


def test_equal_tables_give_equal_files(tmp_path):
    pictures = []
    for name in ("one", "two"):
        sweep = write_sweep(
            tmp_path / name, betas=(0.0, 1.0), losses=("fuzzy",), folds=1, previews=False
        )
        pictures.append([path.read_bytes() for path in write_figures(sweep)])
    assert pictures[0] == pictures[1]


def test_undefined_scores_are_no_error_and_stay_empty_in_the_csv(tmp_path):
    undefined = [("loss=fuzzy,beta=0.0", name, "dice", 0) for name in ("a", "b", "c")]
    sweep = write_sweep(
        tmp_path, betas=(0.0, 1.0), losses=("fuzzy",), seeds=1, undefined=undefined, previews=False
    )
    written = {path.stem: path for path in write_figures(sweep)}
    numbers = pd.read_csv(written["dice_by_loss.beta"].with_suffix(".csv"))
    empty = numbers[numbers["point"] == "loss=fuzzy,beta=0.0"]
    assert empty["dice"].isna().all()
    assert set(empty.loc[empty["kind"] == "mean", "n_undefined"]) == {2}


def test_failed_run_is_left_out_of_all_figures(tmp_path):
    sweep = write_sweep(
        tmp_path, betas=(0.0, 0.5), losses=("fuzzy",), seeds=1, failed=["loss=fuzzy,beta=0.0"]
    )
    tables = load_tables(sweep)
    assert len(tables.complete) == 3
    written = {path.stem: path for path in write_figures(tables)}
    numbers = pd.read_csv(written["dice_by_loss.beta"].with_suffix(".csv"))
    dots = numbers[(numbers["kind"] == "run") & (numbers["role"] == "test")]
    assert dots["point"].value_counts().to_dict() == {
        "loss=fuzzy,beta=0.5": 2,
        "loss=fuzzy,beta=0.0": 1,
    }


def test_without_ood_there_is_no_gap_to_draw(tmp_path):
    domains = (("val", "a"), ("test", "a"))
    sweep = write_sweep(tmp_path, domains=domains, folds=1, seeds=1, previews=False)
    assert draw_gap(load_tables(sweep)) is None


def test_gaps_are_round_and_few():
    assert list(nice_gaps(0.033, 0.129)) == [0.04, 0.06, 0.08, 0.1, 0.12]
    assert list(nice_gaps(-0.5, 0.6)) == [-0.4, -0.2, 0.0, 0.2, 0.4, 0.6]


def preview(**changes):
    # One row of four pixels: hit, extra, missed, true background; a fifth lies outside the fov.
    values = {
        "run_id": "r",
        "domain": "a",
        "role": "test",
        "kind": "best",
        "source_id": "s",
        "image": np.full((1, 5, 3), 100, np.uint8),
        "probability": np.array([[128, 200, 127, 0, 255]], np.uint8),
        "target": np.array([[True, False, True, False, True]]),
        "fov": np.array([[True, True, True, True, False]]),
        "threshold": 0.5,
        "value": 0.5,
        "metric": "dice",
    }
    return Preview(**{**values, **changes})


def test_overlay_colours_are_hit_extra_missed_and_nothing_outside_the_fov():
    # 0.5 * 255 = 127.5 rounds to 128, as the probabilities were: 128 is in, 127 is not.
    row = preview().overlay()[0]
    assert [tuple(map(int, pixel)) for pixel in row] == [
        TRUE_POSITIVE,
        FALSE_POSITIVE,
        FALSE_NEGATIVE,
        (45, 45, 45),
        (18, 18, 18),
    ]


def test_without_a_threshold_nothing_is_predicted():
    assert not preview(threshold=math.nan).prediction.any()


def test_kept_prediction_is_shown_in_place_of_the_rounded_probability():
    # A threshold of 0.9999 is 255 in 8 bits: nothing of this could be told from the probability.
    saturated = np.full((1, 5), 255, np.uint8)
    kept = np.array([[True, True, False, False, True]])
    item = preview(probability=saturated, threshold=0.9999, kept=kept)
    assert item.prediction.tolist() == [[True, True, False, False, False]]
    assert tuple(item.overlay()[0, 2]) == FALSE_NEGATIVE
    assert preview(threshold=math.nan, kept=kept).prediction.any()


@pytest.mark.parametrize("fits", [True, False])
def test_prediction_is_read_where_a_file_holds_it(tmp_path, fits):
    folder = tmp_path / "run" / "previews"
    folder.mkdir(parents=True)
    arrays = {
        "image": np.zeros((4, 5, 3), np.uint8),
        "probability": np.full((4, 5), 255, np.uint8),
        "target": np.ones((4, 5), np.uint8),
        "fov": np.ones((4, 5), np.uint8),
        "threshold": np.float64(0.9999),
        "value": np.float64(0.5),
        "metric": np.str_("dice"),
    }
    np.savez_compressed(folder / "a_best_old.npz", **arrays)
    prediction = np.zeros((4, 5) if fits else (2, 2), np.uint8)
    np.savez_compressed(folder / "a_best_new.npz", **arrays, prediction=prediction)
    shown = {item.source_id: int(item.prediction.sum()) for item in read_previews(tmp_path / "run")}
    # Planes that do not fit each other are a torn file, which is left out.
    assert shown == ({"old": 20, "new": 0} if fits else {"old": 20})


def test_a_picture_of_a_volume_names_its_slice(tmp_path):
    folder = tmp_path / "run" / "previews"
    folder.mkdir(parents=True)
    item = preview()
    arrays = {name: getattr(item, name) for name in ("image", "probability", "target", "fov")}
    arrays |= {"threshold": 0.5, "value": 0.5, "metric": np.str_("dice")}
    for number, shown in enumerate((31, -1, None)):
        more = {} if shown is None else {"slice": np.int64(shown)}
        np.savez_compressed(folder / f"a_best_s{number}.npz", **arrays, **more)
    captions = [item.caption for item in read_previews(tmp_path / "run")]
    assert captions == ["best: s0, slice 31", "best: s1", "best: s2"]


def test_best_and_worst_of_the_chosen_points_runs(sweep):
    tables = load_tables(sweep)
    runs = tables.complete.loc[tables.complete["point"] == tables.selected, "run_id"]
    pairs = chosen_previews(tables)
    assert [best.domain for best, _ in pairs] == ["a", "b", "c"]
    for best, worst in pairs:
        assert {best.run_id, worst.run_id} <= set(runs)
        found = [
            float(np.load(path)["value"])
            for run in runs
            for path in (sweep.parent / "runs" / run / "previews").glob(f"{best.domain}_*")
        ]
        assert (best.value, worst.value) == (max(found), min(found))


def test_validation_previews_are_not_shown_and_torn_ones_are_left_out(tmp_path):
    sweep = write_sweep(tmp_path, betas=(0.0, 0.5), losses=("fuzzy",), folds=1, seeds=1)
    tables = load_tables(sweep)
    run = tables.complete.loc[tables.complete["point"] == tables.selected, "run_id"].iloc[0]
    folder = sweep.parent / "runs" / run / "previews"
    for path in folder.glob("b_*"):
        path.write_bytes(path.read_bytes()[:40])
    for kind in ("best", "worst"):
        with np.load(next(folder.glob(f"a_{kind}_*"))) as file:
            arrays = dict(file)
        arrays["value"] = np.float64(1.0 if kind == "best" else 0.0)
        extra = {"domain": np.str_("a"), "role": np.str_("val"), "source_id": np.str_("x")}
        np.savez_compressed(folder / f"val_a_{kind}_x.npz", **arrays, **extra)
    pairs = chosen_previews(tables)
    assert [best.domain for best, _ in pairs] == ["a", "c"]
    assert all(best.role != "val" and best.value < 1.0 for best, _ in pairs)


def test_progress_is_told(figures, progress):
    assert progress == [(done, 6) for done in range(7)]


def test_folder_that_is_no_sweep(tmp_path):
    with pytest.raises(UserError, match="no sweep"):
        write_figures(tmp_path)


def test_names_with_formula_signs_are_plain_text(tmp_path):
    losses = ("a$b_c$", "d")
    sweep = write_sweep(tmp_path, losses=losses, betas=(0.0, 1.0), folds=1, seeds=1, previews=False)
    assert write_figures(sweep)
