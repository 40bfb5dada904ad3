"""Evaluations and tables by the index: whatever it holds, the same bytes as from the files."""

from __future__ import annotations

import itertools
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import training_cases as cases
from hypothesis import given, settings
from hypothesis import strategies as st

from vesselflow.evaluation import kept as kept_module
from vesselflow.evaluation import long_tables
from vesselflow.evaluation.evaluated import (
    POOLED,
    Evaluated,
    evaluation_path,
    read_evaluated,
    write_evaluated,
)
from vesselflow.evaluation.kept import KeptEvaluations
from vesselflow.evaluation.long_tables import Lookup, Scored, score_cell, write_tables
from vesselflow.metrics import METRICS
from vesselflow.records import index as index_module
from vesselflow.records.runs import RunRecord


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are old enough as soon as they are written."""
    monkeypatch.setattr(index_module, "SETTLED_NS", -(10**12))


@pytest.fixture
def results(done, tmp_path) -> Path:
    """A copy of the finished run's results folder."""
    shutil.copytree(done.results, tmp_path / "results")
    return tmp_path / "results"


def _look(done, results: Path) -> Scored:
    lookup = Lookup(results)
    row = lookup.score(done.cell, cases.OBJECTIVE)
    lookup.flush()
    return row


def _bytes(folder: Path, row: Scored, results: Path) -> dict[str, bytes]:
    paths = write_tables(folder, [row], results, cases.OBJECTIVE)
    return {name: path.read_bytes() for name, path in paths.items()}


def _segments(results: Path) -> list[str]:
    return sorted(entry.name for entry in (results / "index").glob("*.seg"))


def _from_files(done, results: Path) -> Scored:
    """What there is of the cell, each file read anew by `read_evaluated`."""
    row = score_cell(done.cell, results, cases.OBJECTIVE)
    row.evaluated = {
        (each.epoch, each.domain): read_evaluated(evaluation_path(results, each))
        for each in done.cell.evaluations()
        if row.complete
    }
    return row


def test_scores_are_those_of_the_files(done, results, settled):
    for _ in range(2):
        row = _look(done, results)
        for evaluation in done.cell.evaluations():
            known = read_evaluated(evaluation_path(results, evaluation))
            found = row.evaluated[evaluation.epoch, evaluation.domain]
            assert cases.differences(found.rows, known.rows) == []
            assert found.threshold_logit == known.threshold_logit
            assert found.missing(METRICS.names()) == known.missing(METRICS.names()) == []
            assert cases.differences(found.pooled, known.pooled) == []
            assert found.sources.equals(known.sources)
            assert found.metrics.equals(known.metrics)
            source, metric, value = known.rows[1]
            assert found.value(source, metric) == value
            assert found.value(POOLED, "dice") == known.value(POOLED, "dice")
            for wrong in (("nobody", "dice"), (POOLED, "nothing")):
                with pytest.raises(KeyError):
                    found.value(*wrong)
    assert len(_segments(results)) == 2


def test_no_file_of_scores_is_opened_when_the_index_holds(done, results, settled, monkeypatch):
    before = _bytes(results / "t1", _look(done, results), results)
    monkeypatch.delattr(kept_module, "read_scores")
    monkeypatch.delattr(RunRecord, "rows")
    assert _bytes(results / "t2", _look(done, results), results) == before


def test_tables_are_the_same_from_files_from_the_index_and_without(done, results, settled):
    made = [
        _bytes(results / "t0", _from_files(done, results), results),
        _bytes(results / "t1", _look(done, results), results),
        _bytes(results / "t2", _look(done, results), results),
    ]
    shutil.rmtree(results / "index")
    made.append(_bytes(results / "t3", score_cell(done.cell, results, cases.OBJECTIVE), results))
    assert made[0] == made[1] == made[2] == made[3]


def _mended(path: Path) -> None:
    known = read_evaluated(path)
    rows = tuple((source, metric, 0.25) for source, metric, _ in known.rows)
    write_evaluated(path, replace(known, rows=rows))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def _spoilt(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[60] ^= 0xFF
    path.write_bytes(content)


def _touched(path: Path) -> None:
    os.utime(path)


def _other_versions(path: Path) -> None:
    known = read_evaluated(path)
    foreign = tuple((s, m, 99, v) for s, m, v in known.rows if m == "mcc")
    own = tuple(row for row in known.rows if row[1] != "mcc")
    write_evaluated(path, Evaluated(known.threshold_logit, own, foreign))


@pytest.mark.parametrize(
    "change",
    [_mended, _cut, _spoilt, Path.unlink, _touched, _other_versions],
    ids=lambda change: change.__name__.strip("_"),
)
@pytest.mark.parametrize("which", [0, -1])
def test_a_file_that_changed_is_read_again(
    done, results, settled, change: Callable[[Path], None], which: int
):
    assert _look(done, results).complete
    change(evaluation_path(results, done.cell.evaluations()[which]))
    for turn in range(2):
        row, true = _look(done, results), _from_files(done, results)
        assert (row.complete, row.epoch) == (true.complete, true.epoch)
        assert cases.differences(row.value, true.value) == []
        assert row.complete == (change in (_mended, _touched))
        written = _bytes(results / "t", row, results)
        assert written == _bytes(results / f"true{turn}", true, results)


def test_an_index_that_lost_its_layouts_or_all_is_made_again(done, results, settled):
    before = _bytes(results / "t0", _look(done, results), results)
    for name in _segments(results):
        path = results / "index" / name
        for place in range(0, path.stat().st_size, 97):
            content = bytearray(path.read_bytes())
            content[place] ^= 0xFF
            path.write_bytes(content)
            row = score_cell(done.cell, results, cases.OBJECTIVE)
            assert row.complete
            content[place] ^= 0xFF
            path.write_bytes(content)
        path.write_bytes(path.read_bytes()[:-40])
    assert _bytes(results / "t1", _look(done, results), results) == before


def test_a_metric_that_is_new_is_missing_though_the_index_holds(
    done, results, settled, monkeypatch
):
    assert _look(done, results).complete
    monkeypatch.setitem(vars(METRICS.metric("mcc")), "version", 99)
    assert not _look(done, results).complete


def test_scores_that_changed_while_tables_are_written(done, results, settled, monkeypatch):
    row = _look(done, results)
    before = _bytes(results / "t0", row, results)
    # The index is gone under us, the files are not.
    monkeypatch.setattr(index_module.Index, "get", lambda *_: None)
    assert _bytes(results / "t1", row, results) == before
    _mended(evaluation_path(results, done.cell.evaluations()[0]))
    with pytest.raises(kept_module.VesselflowError, match="changed while"):
        write_tables(results / "t2", [row], results, cases.OBJECTIVE)


def test_what_is_too_young_for_the_index_is_held_instead(done, results, monkeypatch):
    # However long it took to get here: a busy machine may be minutes away from what it copied.
    monkeypatch.setattr(index_module, "SETTLED_NS", 10**18)
    row = _look(done, results)
    assert all(each.fingerprint is None for each in row.evaluated.values())
    before = _bytes(results / "t0", row, results)
    for evaluation in done.cell.evaluations():
        _mended(evaluation_path(results, evaluation))
    # What was found stands together, whatever happened since.
    assert _bytes(results / "t1", row, results) == before


def test_large_tables_are_written_only_when_something_changed(done, results, settled):
    folder = results / "t"

    def written() -> dict[str, int]:
        _bytes(folder, _look(done, results), results)
        return {name: (folder / f"{name}.parquet").stat().st_ino for name in ("images", "epochs")}

    first = written()
    assert written() == first
    (folder / "images.parquet").write_bytes(b"damaged")
    second = written()
    assert second["images"] != first["images"]
    assert second["epochs"] == first["epochs"]
    assert pq.read_table(folder / "images.parquet").num_rows
    _mended(evaluation_path(results, done.cell.evaluations()[0]))
    third = written()
    assert third["images"] != second["images"]
    assert third["epochs"] != second["epochs"]
    (folder / "epochs.parquet").unlink()
    assert (written()["images"], (folder / "epochs.parquet").exists()) == (third["images"], True)
    (folder / ".made.json").write_text("{")
    assert set(written()) == {"images", "epochs"}


def test_another_point_of_the_same_run_writes_its_own_tables(done, results, settled):
    row = _look(done, results)
    first = _bytes(results / "t", row, results)
    other = replace(row, cell=replace(row.cell, point="another"))
    second = _bytes(results / "t", other, results)
    assert second["images"] != first["images"]
    assert second == _bytes(results / "u", other, results)


# -- row groups ------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(sizes=st.lists(st.integers(0, 9), max_size=12), rows=st.integers(1, 10))
def test_row_groups_have_the_bytes_of_a_table_written_whole(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], rows: int
) -> None:
    folder = tmp_path_factory.mktemp("groups")
    schema = pa.schema([("name", pa.string()), ("value", pa.float64())])
    ends = np.cumsum([0, *sizes])
    whole = pa.table(
        {
            "name": [None if n % 5 == 4 else f"n{n % 3}" for n in range(ends[-1])],
            "value": [math.nan if n % 7 == 6 else n / 3 for n in range(ends[-1])],
        },
        schema=schema,
    )
    pieces = [whole.slice(begin, end - begin) for begin, end in itertools.pairwise(ends)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_tables, "ROW_GROUP", rows)
        long_tables._write(folder / "a.parquet", long_tables._Table(schema, lambda: pieces))
    pq.write_table(whole, folder / "b.parquet", row_group_size=rows)
    assert (folder / "a.parquet").read_bytes() == (folder / "b.parquet").read_bytes()


def test_a_row_group_is_what_arrow_takes_by_itself(tmp_path: Path) -> None:
    table = pa.table({"value": np.zeros(long_tables.ROW_GROUP + 1)})
    pq.write_table(table, tmp_path / "whole.parquet")
    file = pq.ParquetFile(tmp_path / "whole.parquet")
    assert file.num_row_groups == 2
    assert file.metadata.row_group(0).num_rows == long_tables.ROW_GROUP


def test_batches_do_not_show(done, results, settled, monkeypatch):
    before = _bytes(results / "t0", _look(done, results), results)
    monkeypatch.setattr(long_tables, "_BATCH", 1)
    assert _bytes(results / "t1", _look(done, results), results) == before


def test_a_table_that_cannot_be_written_leaves_the_old_one(done, results, settled, monkeypatch):
    row = _look(done, results)
    before = _bytes(results / "t", row, results)
    monkeypatch.setattr(long_tables, "_made", lambda *_: [])

    def broken(*_: object) -> None:
        raise RuntimeError("stopped in the middle")

    monkeypatch.setattr(kept_module.Kept, "values", broken)
    with pytest.raises(RuntimeError, match="in the middle"):
        write_tables(results / "t", [row], results, cases.OBJECTIVE)
    assert (results / "t" / "images.parquet").read_bytes() == before["images"]
    assert [path.name for path in (results / "t").glob(".*.tmp")] == []


def test_looking_up_without_keeping_makes_nothing(done, results, settled):
    before = sorted(results.rglob("*"))
    assert Lookup(results, keep=False).score(done.cell, cases.OBJECTIVE).complete
    assert sorted(results.rglob("*")) == before
    assert KeptEvaluations(results / "nothing", keep=False).get(done.cell.evaluations()[0]) is None
