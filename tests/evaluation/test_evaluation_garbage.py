"""What gc finds and removes, in a folder and in a bucket, and what it must leave."""

from __future__ import annotations

import io
import json
import os
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vesselflow.cli.main import main
from vesselflow.errors import UserError
from vesselflow.evaluation import garbage
from vesselflow.evaluation.garbage import check_idle, find_waste, remove
from vesselflow.records.atomic import write_bytes
from vesselflow.records.drivers import Driver
from vesselflow.records.paths import AnyPath
from vesselflow.records.runs import RunRecord


def _run(results: AnyPath, name: str, *, finish: bool = True) -> RunRecord:
    record = RunRecord(results, name)
    record.create("loss: {name: bce}\n", {})
    attempt = record.begin_attempt()
    for epoch in (1, 2, 3):
        attempt.write_rows(epoch, [{"epoch": epoch, "step": epoch}])
        attempt.checkpoints.save(epoch, b"state" * 10)
        record.keep_weights(epoch, b"weights" * epoch)
        picks = record.listings_folder / "0badcafe"
        picks.mkdir(parents=True, exist_ok=True)
        for domain in ("val_a", "ood_b_epoch3"):
            write_bytes(picks / f"{domain}_epoch{epoch}.csv", b"source,z_voxel\n")
    if finish:
        record.finish(attempt, {"steps": 3})
    return record


def _tables(
    results: AnyPath, sweep: str, rows: list[tuple[str, str, int | None]], best: str
) -> None:
    folder = results / sweep / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    runs = {
        "run_id": [row[0] for row in rows],
        "point": [row[1] for row in rows],
        "epoch": pa.array([row[2] for row in rows], pa.int64()),
    }
    names = sorted({row[1] for row in rows})
    points = {"point": names, "selected": [name == best for name in names]}
    for name, table in (("runs", runs), ("points", points)):
        sink = io.BytesIO()
        pq.write_table(pa.table(table), sink)
        write_bytes(folder / f"{name}.parquet", sink.getvalue())


@pytest.fixture
def results(anywhere: AnyPath) -> AnyPath:
    """Runs a and b of two points, c of two sweeps, d half scored, e in no table, f unfinished."""
    for name in "abcde":
        _run(anywhere, name)
    _run(anywhere, "f", finish=False)
    _tables(anywhere, "one", [("a", "p", 2), ("b", "q", 3), ("c", "q", 1)], "p")
    _tables(anywhere, "two", [("c", "x", 3), ("d", "x", None), ("f", "x", None)], "x")
    return anywhere


def _by_run(results: AnyPath, keep: garbage.Keep, kind: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for entry in find_waste(results, keep):
        if entry.kind.startswith(kind):
            _, run, rest = entry.path.split("/", 2)
            found.setdefault(run, []).append(rest)
    return {run: sorted(paths) for run, paths in found.items()}


def test_weights_of_epochs_that_no_table_chose(results: AnyPath) -> None:
    w = "weights/{}.pt".format
    assert _by_run(results, "chosen", "weights") == {
        "a": [w(1), w(3)],
        "b": [w(1), w(2)],
        # Chosen by one sweep or by the other.
        "c": [w(2)],
    }
    assert _by_run(results, "winners", "weights") == {
        "a": [w(1), w(3)],
        "b": [w(1), w(2), w(3)],
        "c": [w(1), w(2)],
    }
    assert _by_run(results, "all", "weights") == {}


def test_picks_go_with_the_weights_of_their_epoch(results: AnyPath) -> None:
    for keep in ("chosen", "winners", "all"):
        weights = _by_run(results, keep, "weights")
        gone = {run: {int(path[8:-3]) for path in paths} for run, paths in weights.items()}
        assert _by_run(results, keep, "picks") == {
            run: sorted(
                f"picks/0badcafe/{domain}_epoch{epoch}.csv"
                for domain in ("val_a", "ood_b_epoch3")
                for epoch in epochs
            )
            for run, epochs in gone.items()
        }


def test_checkpoints_go_of_finished_runs_alone(results: AnyPath) -> None:
    found = _by_run(results, "all", "checkpoints")
    assert sorted(found) == list("abcde")
    assert all(len(paths) == 2 for paths in found.values())


def test_runs_that_no_table_knows_go_when_asked_for(results: AnyPath) -> None:
    waste = find_waste(results, orphans=True)
    whole = {entry.path for entry in waste if entry.kind == "runs that no table knows"}
    assert whole
    assert all(path.startswith("runs/e/") for path in whole)
    remove(results, waste)
    assert not (results / "runs" / "e").exists()
    assert (results / "runs" / "f").exists()


def test_what_is_removed_is_what_was_found(results: AnyPath) -> None:
    before = {record: RunRecord(results, record).rows() for record in "abcdef"}
    waste = find_waste(results)
    freed = remove(results, waste)
    assert freed == sum(entry.bytes for entry in waste) > 0
    assert find_waste(results) == []
    assert remove(results, waste) in (0, freed)
    assert {record: RunRecord(results, record).rows() for record in "abcdef"} == before
    assert RunRecord(results, "a").read_weights(2) == b"weights" * 2
    assert RunRecord(results, "f").begin_attempt().resume_point() == (3, b"state" * 10)


def test_leftovers_of_a_folder(tmp_path: Path) -> None:
    results = tmp_path
    _run(results, "a")
    (results / "runs" / ".gone-b-1").mkdir()
    (results / "runs" / ".gone-b-1" / "x").write_bytes(b"1234")
    half = results / "runs" / "a" / f".{2**22}-00000000-{'0' * 16}.tmp"
    half.write_bytes(b"12")
    hour = time.time() - 3700
    os.utime(half, (hour, hour))
    young = results / "runs" / "a" / f".{2**22}-00000000-{'1' * 16}.tmp"
    young.write_bytes(b"12")
    old = Driver.begin(results, {})
    os.utime(old.path, (1, 1))
    (results / "runs" / "a" / "accepted.json.damaged-1").write_bytes(b"{")
    kinds = {entry.kind: entry.bytes for entry in find_waste(results, "all")}
    assert kinds.pop("checkpoints of finished runs") > 0
    assert kinds.pop("drivers of old sweeps") > 100
    assert kinds == {
        "runs that were reset": 4,
        "half-written files": 2,
        "damaged files set aside": 1,
    }
    remove(results, find_waste(results, "all"))
    assert young.exists()
    assert not (results / "runs" / ".gone-b-1").exists()


def test_a_table_that_cannot_be_read_lets_nothing_go(results: AnyPath) -> None:
    write_bytes(results / "two" / "tables" / "runs.parquet", b"PAR1")
    with pytest.raises(UserError, match="nobody knows what it needs"):
        find_waste(results)


def test_a_sweep_at_work_is_left_in_peace(
    anywhere: AnyPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(garbage, "WATCH_S", 3.0)
    dead = Driver.begin(anywhere, {"host": "elsewhere", "pid": 1, "started": 0.0})
    told: list[str] = []
    check_idle(anywhere, told.append)
    assert len(told) == 1
    alive = Driver.begin(anywhere, {"host": "elsewhere", "pid": 7, "started": 0.0})
    with pytest.raises(UserError, match="a sweep is at work here: process 7 on elsewhere"):
        check_idle(anywhere, lambda text: alive.beat() and None)
    for driver in (dead, alive):
        driver.end()
    told.clear()
    check_idle(anywhere, told.append)
    assert told == []


def test_the_command(results: AnyPath, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gc", str(results), "--dry-run", "--json"]) == 0
    would = json.loads(capsys.readouterr().out)
    assert not would["removed"]
    assert would["kinds"]["checkpoints of finished runs"]["files"] == 10
    assert main(["gc", str(results)]) == 0
    said = capsys.readouterr().out
    assert "weights of epochs that were not chosen" in said
    assert "freed" in said
    assert RunRecord(results, "a").read_weights(2) == b"weights" * 2
    assert main(["gc", str(results / "one")]) == 2
    assert "not that of one sweep" in capsys.readouterr().err
