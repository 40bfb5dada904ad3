"""A record with any one of its JSON files spoilt is read without an error, and told truly."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from record_damage import DAMAGE

from vesselflow.records.drivers import Driver, Heartbeats
from vesselflow.records.leases import Lease
from vesselflow.records.runs import RunRecord, read_index
from vesselflow.records.status import RunState


def _finished(results: Path) -> RunRecord:
    """A run that was killed once, resumed, and accepted."""
    record = RunRecord(results, "r1")
    record.create("loss: {name: bce}\n", {"fold": 0})
    lease = Lease.claim(record.folder, Driver.begin(results, {}))
    assert lease is not None
    for last in (3, 6):
        attempt = record.begin_attempt()
        point = attempt.resume_point()
        for step in range((point[0] if point else 0) + 1, last + 1):
            attempt.write_rows(step, [{"epoch": step, "step": step, "by": attempt.number}])
            if step != 3:
                attempt.checkpoints.save(step, str(step).encode())
        attempt.write_cost({"wall_s": 2.5, "slot": "a"})
    record.keep_weights(6, b"weights")
    assert record.finish(attempt, {"steps": 6})
    lease.release()
    return record


CURVE = [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2), (6, 2)]
FILES = (
    *("accepted.json", "claims/1.json", "identity.json", "status.json"),
    *("attempts/1/attempt.json", "attempts/2/attempt.json", "attempts/2/cost.json"),
    *("attempts/2/curve.json", "attempts/1/rows/0000000002.json"),
    "attempts/2/rows/0000000004.json",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return _finished(tmp_path_factory.mktemp("whole")).folder


@pytest.fixture
def record(whole: Path, tmp_path: Path) -> RunRecord:
    copy = RunRecord(tmp_path, "r1")
    shutil.copytree(whole, copy.folder)
    return copy


def _curve(record: RunRecord) -> list[tuple[int, int]]:
    return [(row["step"], row["by"]) for row in record.rows()]


def test_every_kind_of_json_file_is_tried(record: RunRecord) -> None:
    found = {path.relative_to(record.folder) for path in record.folder.rglob("*.json")}
    assert {Path(name) for name in FILES} <= found
    kinds = {name.name if name.stem.isalpha() else "number" for name in found}
    assert kinds == {Path(n).name if Path(n).stem.isalpha() else "number" for n in FILES}
    assert _curve(record) == CURVE


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_a_spoilt_file_is_no_error_and_no_false_claim(
    record: RunRecord, name: str, kind: str
) -> None:
    DAMAGE[kind](record.folder / name)
    before = sorted(map(str, record.folder.rglob("*")))
    status = record.status()
    assert (status.state is RunState.FINISHED) == (name != "accepted.json")
    assert read_index(record.folder.parent.parent) == [("r1", status)]
    # The joined curve and its parts stand in for each other.
    assert _curve(record) == CURVE
    assert {cost["attempt"] for cost in record.costs()} <= {1, 2}
    point = record.resume_point()
    assert point is not None
    assert point[:2] == (6, b"6")
    if name != "claims/1.json":
        assert Lease.holder(record.folder, Heartbeats(record.folder.parent.parent)) is None
    # Reading changes nothing.
    assert sorted(map(str, record.folder.rglob("*"))) == before
    # And it can be taken up again.
    attempt = record.begin_attempt()
    assert attempt.resume_point() == (6, b"6")
    assert record.finish(attempt, {"steps": 6}) == (name == "accepted.json")
    assert record.status().state is RunState.FINISHED
    assert record.status().message == ""


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize(
    "name", [n for n in FILES if n.startswith("attempts") and "curve" not in n]
)
def test_a_spoilt_part_of_an_unfinished_run_costs_that_part_alone(
    record: RunRecord, name: str, kind: str
) -> None:
    for finished in ("accepted.json", "status.json", "attempts/2/curve.json"):
        (record.folder / finished).unlink()
    DAMAGE[kind](record.folder / name)
    lost = [row for row in CURVE if name == _part(row)]
    assert _curve(record) == [row for row in CURVE if row not in lost]


def _part(row: tuple[int, int]) -> str:
    return f"attempts/{row[1]}/rows/{row[0]:010d}.json"


@pytest.mark.parametrize("kind", [kind for kind in DAMAGE if kind != "gone"])
def test_a_spoilt_acceptance_is_said_and_set_aside(record: RunRecord, kind: str) -> None:
    DAMAGE[kind](record.folder / "accepted.json")
    assert record.status().message == (
        "accepted.json is damaged: the run does not count as finished, its attempts are kept"
    )
    attempt = record.begin_attempt()
    (aside,) = record.folder.glob("accepted.json.damaged-*")
    assert f"accepted.json was damaged; it is set aside as {aside.name}" in (
        (attempt.folder / "log.txt").read_text()
    )
    assert record.status().state is RunState.RUNNING
    assert record.status().message == ""


def test_a_note_of_an_acceptance_that_is_gone_is_not_believed(record: RunRecord) -> None:
    (record.folder / "accepted.json").unlink()
    status = record.status()
    assert (status.state, status.accepted_attempt) == (RunState.RUNNING, None)
    assert status.message == (
        "accepted.json is gone: the run does not count as finished, its attempts are kept"
    )
    shutil.rmtree(record.folder / "attempts")
    assert record.status().state is RunState.QUEUED


@pytest.mark.parametrize("kind", [kind for kind in DAMAGE if kind != "gone"])
def test_a_spoilt_claim_holds_until_its_time_is_over(tmp_path: Path, kind: str) -> None:
    driver, other = Driver.begin(tmp_path, {"host": "elsewhere"}), Driver.begin(tmp_path, {})
    now = [0.0]
    other.others = Heartbeats(tmp_path, lambda: now[0])
    folder = tmp_path / "runs" / "r1"
    lease = Lease.claim(folder, driver)
    assert lease is not None
    DAMAGE[kind](folder / "claims" / "1.json")
    # Of its holder nothing is known: whoever looks waits as for one that may live.
    holder = Lease.holder(folder, other.others)
    assert holder is not None
    assert holder.number == 1
    now[0] = 29.0
    assert Lease.claim(folder, other) is None
    assert not lease.lost()
    now[0] = 31.0
    after = Lease.claim(folder, other)
    assert after is not None
    assert after.number == 2
    assert lease.lost()


@pytest.mark.parametrize("name", ["", "attempts", "claims", "attempts/2", "attempts/1/rows"])
def test_a_file_in_the_place_of_a_folder(record: RunRecord, name: str) -> None:
    place = record.folder / name
    shutil.rmtree(place)
    place.write_text("not a folder")
    state = record.status().state
    assert (state is RunState.FINISHED) == (name != "")
    assert set(_curve(record)) <= set(CURVE)
    assert len(record.costs()) <= 2
    record.resume_point()
    Lease.holder(record.folder, Heartbeats(record.folder.parent.parent))
    read_index(record.folder.parent.parent)


def test_a_checkpoint_that_is_a_folder_is_passed_over(record: RunRecord) -> None:
    newest = record.attempt_folder(2) / "checkpoints" / "0000000006.ckpt"
    newest.unlink()
    newest.mkdir()
    messages: list[str] = []
    point = record.resume_point(messages)
    assert point is not None
    assert point[0] == 5
    assert "checkpoint of step 6 of attempt 2 is passed over" in messages[0]
