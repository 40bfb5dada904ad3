"""The index: it may be missing, stale, damaged or shared, and says nothing wrong."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vesselflow.records import index as index_module
from vesselflow.records.drivers import Driver
from vesselflow.records.index import Index, Stamp, stamp_of
from vesselflow.records.known import KnownRuns
from vesselflow.records.leases import Lease
from vesselflow.records.paths import Looks, Mark
from vesselflow.records.runs import RunRecord
from vesselflow.records.status import RunState

OLD = 1_000_000_000_000_000_000


def _stamp(number: int, newest_ns: int = OLD) -> Stamp:
    return Stamp(number.to_bytes(16, "little"), newest_ns)


def _look(path: Path) -> Mark | None:
    return Looks(path.parent).mark(path.name)


def _segments(results: Path) -> list[Path]:
    return sorted((results / "index").glob("*.seg"))


def _filled(results: Path, count: int = 3) -> None:
    with Index(results, "test", 1) as index:
        for number in range(count):
            index.put(f"n{number}", _stamp(number), f"payload {number}".encode())


def test_what_was_put_is_got_by_the_same_stamp_only(tmp_path: Path) -> None:
    index = Index(tmp_path, "test", 1)
    index.put("a", _stamp(1), b"one")
    index.put("b", _stamp(2), b"")
    for made in (lambda: index, lambda: Index(tmp_path, "test", 1)):
        again = made()
        assert again.get("a", _stamp(1)) == b"one"
        assert again.get("b", _stamp(2)) == b""
        assert again.get("a", _stamp(2)) is None
        assert again.get("c", _stamp(1)) is None
        index.flush()


def test_kinds_and_versions_do_not_see_each_other(tmp_path: Path) -> None:
    _filled(tmp_path)
    assert Index(tmp_path, "test", 1).get("n1", _stamp(1)) == b"payload 1"
    assert Index(tmp_path, "test", 2).get("n1", _stamp(1)) is None
    assert Index(tmp_path, "other", 1).get("n1", _stamp(1)) is None


def test_the_newest_entry_of_a_name_counts(tmp_path: Path) -> None:
    _filled(tmp_path)
    with Index(tmp_path, "test", 1) as index:
        index.put("n1", _stamp(7), b"new")
        assert index.get("n1", _stamp(1)) is None
    again = Index(tmp_path, "test", 1)
    assert again.get("n1", _stamp(7)) == b"new"
    assert again.get("n1", _stamp(1)) is None
    assert again.get("n2", _stamp(2)) == b"payload 2"


def test_without_a_folder_or_a_wish_to_keep_nothing_is_made(tmp_path: Path) -> None:
    with Index(tmp_path / "none", "test", 1, keep=False) as index:
        index.put("a", _stamp(1), b"one")
        assert index.get("a", _stamp(1)) is None
    with Index(tmp_path / "none", "test", 1) as index:
        pass
    assert not (tmp_path / "none").exists()


def test_what_was_put_before_keeping_was_wished_for_is_kept_then(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    young = stamp_of([_look(tmp_path / "file")])
    index = Index(tmp_path, "test", 1, keep=False)
    assert not index.put("a", _stamp(1), b"one")
    assert not index.put("b", young, b"two")
    index.flush()
    assert not (tmp_path / "index").exists()
    index.keep()
    assert index.put("c", _stamp(3), b"three")
    index.keep()
    again = Index(tmp_path, "test", 1)
    # It was too young when it was read, however long ago that is when it is kept.
    got = (again.get("a", _stamp(1)), again.get("b", young), again.get("c", _stamp(3)))
    assert got == (b"one", None, b"three")


def test_what_changed_just_now_is_not_kept(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    stamp = stamp_of([_look(file)])
    with Index(tmp_path, "test", 1) as index:
        index.put("a", stamp, b"one")
        assert index.get("a", stamp) is None
    assert _segments(tmp_path) == []
    # Nor what comes from a clock that is ahead.
    with Index(tmp_path, "test", 1) as index:
        index.put("a", _stamp(1, stamp.newest_ns + 10**12), b"one")
    assert _segments(tmp_path) == []


@pytest.mark.parametrize("where", [0, 20, 25, 40, 90, 120, -1])
def test_a_changed_byte_costs_entries_and_tells_nothing_wrong(tmp_path: Path, where: int) -> None:
    _filled(tmp_path)
    path = _segments(tmp_path)[0]
    content = bytearray(path.read_bytes())
    content[where] ^= 0xFF
    path.write_bytes(content)
    index = Index(tmp_path, "test", 1)
    got = [index.get(f"n{number}", _stamp(number)) for number in range(3)]
    assert set(got) <= {None, b"payload 0", b"payload 1", b"payload 2"}
    assert None in got
    for number, payload in enumerate(got):
        assert payload in (None, f"payload {number}".encode())


def test_a_segment_cut_short_anywhere(tmp_path: Path) -> None:
    _filled(tmp_path)
    path = _segments(tmp_path)[0]
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        index = Index(tmp_path, "test", 1)
        for number in range(3):
            assert index.get(f"n{number}", _stamp(number)) in (None, f"payload {number}".encode())
        assert index.get("n2", _stamp(2)) is None


def test_strangers_in_the_folder_are_passed_over(tmp_path: Path) -> None:
    _filled(tmp_path)
    folder = tmp_path / "index"
    name = _segments(tmp_path)[0].name
    (folder / "note.txt").write_text("hello")
    (folder / name.replace("test-1-", "test-1-0")).write_text("no number of 20 digits")
    (folder / f"{name[:-6]}ff.seg").mkdir()
    (folder / ".1-ab.tmp").write_text("half a segm")
    assert Index(tmp_path, "test", 1).get("n0", _stamp(0)) == b"payload 0"


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "index").write_text("no folder")
    with Index(tmp_path, "test", 1) as index:
        index.put("a", _stamp(1), b"one")
        assert index.get("a", _stamp(2)) is None
    assert (tmp_path / "index").read_text() == "no folder"


def test_two_drivers_add_to_one_index(tmp_path: Path) -> None:
    one, two = Index(tmp_path, "test", 1), Index(tmp_path, "test", 1)
    one.put("a", _stamp(1), b"one")
    two.put("b", _stamp(2), b"two")
    one.flush()
    two.flush()
    both = Index(tmp_path, "test", 1)
    assert (both.get("a", _stamp(1)), both.get("b", _stamp(2))) == (b"one", b"two")


def test_small_segments_are_joined_and_lose_nothing(tmp_path: Path) -> None:
    reader = None
    for number in range(20):
        with Index(tmp_path, "test", 1) as index:
            index.put(f"n{number}", _stamp(number), f"payload {number}".encode())
        if number == 3:
            reader = Index(tmp_path, "test", 1)
    assert len(_segments(tmp_path)) < 10
    index = Index(tmp_path, "test", 1)
    for number in range(20):
        assert index.get(f"n{number}", _stamp(number)) == f"payload {number}".encode()
    # One that was opened before goes on with what it has.
    assert reader is not None
    assert reader.get("n2", _stamp(2)) == b"payload 2"


def test_entries_of_records_that_are_gone_go_when_segments_are_joined(tmp_path: Path) -> None:
    for number in range(8):
        with Index(tmp_path, "test", 1, exists=lambda name: name != "n3") as index:
            index.put(f"n{number}", _stamp(number), b"x" * 100)
    again = Index(tmp_path, "test", 1)
    assert again.get("n3", _stamp(3)) is None
    assert again.get("n4", _stamp(4)) == b"x" * 100


def test_a_segment_of_which_little_counts_is_written_anew(tmp_path: Path) -> None:
    _filled(tmp_path, 10)
    first = _segments(tmp_path)[0]
    with Index(tmp_path, "test", 1) as index:
        for number in range(6):
            index.put(f"n{number}", _stamp(100 + number), b"new")
    assert first not in _segments(tmp_path)
    again = Index(tmp_path, "test", 1)
    assert again.get("n5", _stamp(105)) == b"new"
    assert again.get("n9", _stamp(9)) == b"payload 9"


def test_much_is_written_as_it_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "_SEGMENT_BYTES", 1000)
    index = Index(tmp_path, "test", 1)
    for number in range(40):
        index.put(f"n{number}", _stamp(number), bytes([number]) * 100)
    # Killed here, without a flush, most of it is there.
    assert len(_segments(tmp_path)) == 4
    again = Index(tmp_path, "test", 1)
    assert all(again.get(f"n{n}", _stamp(n)) == bytes([n]) * 100 for n in range(40))


def test_a_full_disk_costs_the_index_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with Index(tmp_path, "test", 1) as index:
            index.put("a", _stamp(1), b"one")
    assert _segments(tmp_path) == []
    _filled(tmp_path)
    assert len(_segments(tmp_path)) == 1


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.text("abcé0=-", min_size=1, max_size=30), st.binary(max_size=50)))
def test_any_names_and_payloads(tmp_path_factory: pytest.TempPathFactory, entries: dict) -> None:
    results = tmp_path_factory.mktemp("index")
    with Index(results, "test", 1) as index:
        for name, payload in entries.items():
            index.put(name, _stamp(len(name)), payload)
    again = Index(results, "test", 1)
    assert {name: again.get(name, _stamp(len(name))) for name in entries} == entries


def test_a_stamp_tells_every_change(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    seen = {stamp_of([_look(path)]).digest}

    def changed() -> bool:
        before = len(seen)
        seen.add(stamp_of([_look(path)]).digest)
        return len(seen) > before

    assert not changed()
    path.write_bytes(b"four")
    assert changed()
    times = path.stat()
    path.write_bytes(b"more")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    # Put back by hand, the time of change still tells: nobody can set it.
    assert changed()
    path.unlink()
    assert changed()
    assert _look(tmp_path / "no" / "file") is None


# -- runs ------------------------------------------------------------------------------------------


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are old enough as soon as they are written."""
    monkeypatch.setattr(index_module, "SETTLED_NS", -(10**12))


def _finish(results: Path, run_id: str, value: float = 0.5) -> RunRecord:
    record = RunRecord(results, run_id)
    record.create("model: x", {})
    attempt = record.begin_attempt()
    attempt.write_rows(2, [{"epoch": 1, "step": 2, "loss": value, "val/dice": float("nan")}])
    attempt.write_rows(4, [{"epoch": 2, "step": 4, "loss": value / 3}])
    record.finish(attempt, {"steps": 4})
    attempt.write_cost({"wall_s": 1.5, "host": "here", "rate": float("nan")})
    return record


def _said(results: Path, run_id: str, *, keep: bool = True) -> str:
    """All that is known of a run, as text, in which NaN equals NaN."""
    runs = KnownRuns(results, keep=keep)
    known = runs.get(run_id)
    said = repr((known.status, known.rows(), known.costs()))
    runs.index.flush()
    return said


def _true(results: Path, run_id: str) -> str:
    record = RunRecord(results, run_id)
    return repr((record.status(), record.rows(), record.costs()))


def test_a_finished_run_is_read_from_the_index(
    tmp_path: Path, settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    _finish(tmp_path, "r1")
    true = _true(tmp_path, "r1")
    assert _said(tmp_path, "r1") == true
    assert len(_segments(tmp_path)) == 1
    for name in ("status", "rows", "costs", "accepted"):
        monkeypatch.delattr(RunRecord, name)
    assert _said(tmp_path, "r1") == true


def _reopen(record: RunRecord) -> None:
    record.reopen()


def _reset(record: RunRecord) -> None:
    record.reset()


def _again(record: RunRecord) -> None:
    record.reset()
    _finish(record.folder.parents[1], record.run_id, value=0.25)


def _reopened_and_done(record: RunRecord) -> None:
    record.reopen()
    attempt = record.begin_attempt()
    attempt.write_rows(2, [{"epoch": 1, "step": 2, "loss": 7.0}])
    record.finish(attempt, {"steps": 2})


def _one_more_attempt(record: RunRecord) -> None:
    record.begin_attempt()


def _cost(record: RunRecord) -> None:
    (record.attempt_folder(1) / "cost.json").write_text(json.dumps({"wall_s": 9.5}))


def _lost_cost(record: RunRecord) -> None:
    (record.attempt_folder(1) / "cost.json").unlink()


def _torn_acceptance(record: RunRecord) -> None:
    path = record.folder / "accepted.json"
    path.write_bytes(path.read_bytes()[:9])


def _other_steps(record: RunRecord) -> None:
    path = record.folder / "accepted.json"
    path.write_text(path.read_text().replace("4", "6"))


def _torn_curve(record: RunRecord) -> None:
    path = record.attempt_folder(1) / "curve.json"
    path.write_bytes(path.read_bytes()[:9])


def _no_attempts(record: RunRecord) -> None:
    shutil.rmtree(record.folder / "attempts")


def _claimed(record: RunRecord) -> None:
    lease = Lease.claim(record.folder, Driver.begin(record.folder.parent.parent, {}))
    assert lease is not None


@pytest.mark.parametrize(
    "change",
    [
        *(_reopen, _reset, _again, _reopened_and_done, _one_more_attempt, _cost, _lost_cost),
        *(_torn_acceptance, _other_steps, _torn_curve, _no_attempts, _claimed),
    ],
    ids=lambda change: change.__name__.strip("_"),
)
def test_an_index_that_is_behind_says_nothing_wrong(
    tmp_path: Path, settled: None, change: Callable[[RunRecord], None]
) -> None:
    record, other = _finish(tmp_path, "r1"), _finish(tmp_path, "r2", 0.125)
    assert _said(tmp_path, "r1") == _true(tmp_path, "r1")
    change(record)
    for _ in range(2):
        assert _said(tmp_path, "r1", keep=False) == _true(tmp_path, "r1")
        assert _said(tmp_path, "r1") == _true(tmp_path, "r1")
        assert _said(tmp_path, "r2") == _true(tmp_path, other.run_id)


def test_a_damaged_curve_is_put_together_from_its_parts_each_time(
    tmp_path: Path, settled: None
) -> None:
    record = _finish(tmp_path, "r1")
    _torn_curve(record)
    before = _said(tmp_path, "r1")
    assert "'loss': 0.5" in before
    # A part changes, and no file that the stamp knows.
    part = record.attempt_folder(1) / "rows" / "0000000002.json"
    part.write_text(part.read_text().replace("0.5", "0.7"))
    assert _said(tmp_path, "r1") == before.replace("'loss': 0.5", "'loss': 0.7")


def test_runs_that_are_not_finished_are_asked_each_time(tmp_path: Path, settled: None) -> None:
    assert KnownRuns(tmp_path).get("none").status.state is RunState.QUEUED
    record = RunRecord(tmp_path, "r1")
    record.create("", {})
    attempt = record.begin_attempt()
    assert _said(tmp_path, "r1") == _true(tmp_path, "r1")
    record.fail(attempt, "it broke", "")
    assert _said(tmp_path, "r1") == _true(tmp_path, "r1")
    assert _segments(tmp_path) == []


def test_a_run_that_was_finished_just_now_waits_for_its_place(tmp_path: Path) -> None:
    _finish(tmp_path, "r1")
    assert _said(tmp_path, "r1") == _true(tmp_path, "r1")
    assert _segments(tmp_path) == []


def test_readers_and_writers_at_the_same_time(tmp_path: Path, settled: None) -> None:
    for number in range(12):
        _finish(tmp_path, f"r{number}", value=float(number))
    true = {f"r{number}": _true(tmp_path, f"r{number}") for number in range(12)}
    wrong: list[str] = []

    def work(turn: int) -> None:
        for number in range(12):
            name = f"r{(turn * 5 + number) % 12}"
            if _said(tmp_path, name) != true[name]:
                wrong.append(name)

    threads = [threading.Thread(target=work, args=(turn,)) for turn in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
