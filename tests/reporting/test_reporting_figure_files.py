import json

import pandas as pd
import pytest
from reporting_examples import write_sweep

from vesselflow.errors import UserError
from vesselflow.reporting.figure_files import remove_outdated, replace_figures
from vesselflow.reporting.sweep_tables import load_tables
from vesselflow.reporting.written import write_report


@pytest.fixture
def sweep(tmp_path):
    for table in ("points", "runs"):
        (tmp_path / "tables").mkdir(exist_ok=True)
        (tmp_path / "tables" / f"{table}.parquet").write_bytes(table.encode())
    return tmp_path


def names(sweep):
    return sorted(path.name for path in (sweep / "report" / "figures").iterdir())


def test_only_the_last_reports_files_stay(sweep):
    replace_figures(sweep, {"one.png": b"1", "one.csv": b"2", "two.png": b"3"})
    written = replace_figures(sweep, {"two.png": b"4"})
    assert [path.name for path in written] == ["two.png"]
    assert names(sweep) == ["two.png"]
    assert (sweep / "report" / "figures" / "two.png").read_bytes() == b"4"


def test_files_of_a_user_stay(sweep):
    replace_figures(sweep, {"one.png": b"1", "two.png": b"2", "two.csv": b"3"})
    figures = sweep / "report" / "figures"
    (figures / "mine.png").write_bytes(b"mine")
    (figures / "one_old.png").write_bytes(b"1")
    # A file that was changed since is no longer the report's.
    (figures / "two.csv").write_bytes(b"with my remarks")
    replace_figures(sweep, {})
    assert names(sweep) == ["mine.png", "one_old.png", "two.csv"]
    replace_figures(sweep, {"two.png": b"2"})
    replace_figures(sweep, {})
    assert names(sweep) == ["mine.png", "one_old.png", "two.csv"]


def test_figures_go_when_the_tables_moved_on(sweep):
    replace_figures(sweep, {"one.png": b"1"})
    (sweep / "report" / "figures" / "mine.png").write_bytes(b"mine")
    assert remove_outdated(sweep) == []
    assert names(sweep) == ["mine.png", "one.png"]
    (sweep / "tables" / "points.parquet").write_bytes(b"other")
    assert [path.name for path in remove_outdated(sweep)] == ["one.png"]
    assert names(sweep) == ["mine.png"]
    assert remove_outdated(sweep) == []


def test_cost_alone_makes_no_figure_old(sweep):
    replace_figures(sweep, {"one.png": b"1"})
    (sweep / "tables" / "cost.parquet").write_bytes(b"seconds")
    assert remove_outdated(sweep) == []


@pytest.mark.parametrize(
    "listing",
    [
        "",
        "[]",
        '{"files": ["one.png"]}',
        '{"files": {"one.png": 5}}',
        b"\xff\xfe",
    ],
)
def test_a_listing_that_is_none_owns_nothing(sweep, listing):
    replace_figures(sweep, {"one.png": b"1"})
    path = sweep / "report" / "figures.json"
    path.write_bytes(listing if isinstance(listing, bytes) else listing.encode())
    assert remove_outdated(sweep) == []
    replace_figures(sweep, {"two.png": b"2"})
    assert names(sweep) == ["one.png", "two.png"]


def test_a_listing_reaches_no_other_folder(sweep):
    replace_figures(sweep, {"one.png": b"1"})
    path = sweep / "report" / "figures.json"
    listing = json.loads(path.read_text(encoding="utf-8"))
    (sweep / "report" / "summary.md").write_bytes(b"1")
    listing["files"] = {"../summary.md": listing["files"]["one.png"]}
    path.write_text(json.dumps(listing), encoding="utf-8")
    replace_figures(sweep, {})
    assert (sweep / "report" / "summary.md").exists()


def test_cut_short_between_files_the_next_report_still_knows_them(sweep, monkeypatch):
    replace_figures(sweep, {"one.png": b"1"})
    from vesselflow.reporting import figure_files

    real = figure_files.write_bytes

    def full(path, data):
        if path.name == "three.png":
            raise UserError("no space is left on this disk")
        real(path, data)

    monkeypatch.setattr(figure_files, "write_bytes", full)
    with pytest.raises(UserError):
        replace_figures(sweep, {"two.png": b"2", "three.png": b"3"})
    assert names(sweep) == ["one.png", "two.png"]
    monkeypatch.undo()
    replace_figures(sweep, {"four.png": b"4"})
    assert names(sweep) == ["four.png"]


def test_figures_folder_that_is_a_file(sweep):
    (sweep / "report").mkdir()
    (sweep / "report" / "figures").write_bytes(b"")
    with pytest.raises(UserError, match=r"^[^\n]*a file, not a folder"):
        replace_figures(sweep, {"one.png": b"1"})


def test_report_of_an_axis_that_was_removed(tmp_path):
    sweep = write_sweep(
        tmp_path, betas=(0.0, 1.0), losses=("fuzzy", "combined"), folds=1, seeds=1, previews=False
    )
    write_report(load_tables(sweep))
    figures = sweep / "report" / "figures"
    (figures / "mine.csv").write_text("mine\n", encoding="utf-8")
    assert (figures / "dice_by_loss.name.png").exists()
    for table in ("points", "runs"):
        path = sweep / "tables" / f"{table}.parquet"
        frame = pd.read_parquet(path)
        frame[frame["config.loss.name"] == '"fuzzy"'].to_parquet(path)
    # Without figures: those of the tables as they were would pass for today's.
    report = write_report(load_tables(sweep), pictures=False)
    assert report.figures == ()
    assert names(sweep) == ["mine.csv"]
    report = write_report(load_tables(sweep))
    left = {path.name for path in report.figures}
    left |= {path.with_suffix(".csv").name for path in report.figures}
    assert set(names(sweep)) == {*left, "mine.csv"}
    assert "dice_by_loss.name.png" not in left
    write_report(load_tables(sweep), pictures=False)
    assert set(names(sweep)) == {*left, "mine.csv"}
