"""Leases: who holds a run, decided without files, and held against real processes."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from vesselflow.records import drivers, leases
from vesselflow.records.leases import Claim, Lease, is_alive, who_holds


def _claim(number: int, heartbeat_s: float, **owner: object) -> Claim:
    return Claim(number, heartbeat_s, timeout_s=30, owner=owner)


def _alive(claim: Claim) -> bool:
    return True


def test_who_holds() -> None:
    old, new = _claim(1, 990), _claim(2, 980)
    assert who_holds([], 1000, _alive) is None
    assert who_holds([old], 1000, _alive) == old
    # The number counts, not the order and not the fresher heartbeat.
    assert who_holds([new, old], 1000, _alive) == new
    assert who_holds([old, new], 1010, _alive) == new
    assert who_holds([old, new], 1010.1, _alive) is None
    assert who_holds([old, new], 1000, lambda claim: claim.number != 2) is None
    assert who_holds([old, new], 1000, lambda claim: claim.number != 1) == new
    # A clock that is a little ahead of ours is no reason to take a run away.
    assert who_holds([_claim(1, 1005)], 1000, _alive) is not None
    assert who_holds([_claim(1, 0)], 1000, _alive) is None


def _me() -> dict[str, object]:
    process = psutil.Process()
    return {
        "host": socket.gethostname(),
        "boot": drivers.boot(),
        "pid": process.pid,
        "started": process.create_time(),
    }


def test_a_process_is_known_by_its_number_and_its_start() -> None:
    me = _me()
    assert is_alive(_claim(1, 0, **me))
    # The same number, given to another process since.
    assert not is_alive(_claim(1, 0, **{**me, "started": float(str(me["started"])) - 60}))
    # Of another machine, or of this one before it was booted, only the heartbeat is known.
    assert is_alive(_claim(1, 0, **{**me, "started": 0.0, "host": "elsewhere"}))
    assert is_alive(_claim(1, 0, **{**me, "started": 0.0, "boot": "before"}))
    assert is_alive(_claim(1, 0))


def test_a_dead_process_frees_its_lease_at_once(tmp_path: Path) -> None:
    code = (
        "import sys, time; from vesselflow.records.leases import Lease;"
        "print(Lease.claim(sys.argv[1], {}) is not None, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "True\n"
        assert Lease.claim(tmp_path, {}) is None
        child.kill()
        # Not waited for yet: the child is a zombie, which is as dead.
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        lease = Lease.claim(tmp_path, {})
    assert lease is not None
    assert lease.number == 2
    assert os.listdir(tmp_path / "claims") == ["2.json"]


def test_claim_beat_release(tmp_path: Path) -> None:
    first = Lease.claim(tmp_path, {"who": "one"})
    assert first is not None
    assert Lease.claim(tmp_path, {"who": "two"}) is None
    assert first.beat()
    holder = Lease.holder(tmp_path)
    assert holder is not None
    assert holder.owner["who"] == "one"
    assert holder.owner["pid"] == os.getpid()
    first.release()
    assert Lease.holder(tmp_path) is None
    assert not first.beat()
    second = Lease.claim(tmp_path, {"who": "two"})
    assert second is not None
    assert second.number == 2
    assert first.lost()
    first.release()
    assert second.beat()


def test_a_late_heartbeat_lets_others_in_and_its_owner_learns_it(tmp_path: Path) -> None:
    first = Lease.claim(tmp_path, {"host": "elsewhere", "pid": 1}, timeout_s=30)
    assert first is not None
    path = tmp_path / "claims" / "1.json"
    os.utime(path, (time.time() - 29, time.time() - 29))
    assert Lease.claim(tmp_path, {}) is None
    os.utime(path, (time.time() - 31, time.time() - 31))
    second = Lease.claim(tmp_path, {})
    assert second is not None
    assert first.lost()
    assert not first.beat()
    assert not second.lost()


def test_a_heartbeat_in_time_keeps_the_lease(tmp_path: Path) -> None:
    lease = Lease.claim(tmp_path, {"host": "elsewhere", "pid": 1}, timeout_s=30)
    assert lease is not None
    past = time.time() - 29
    os.utime(tmp_path / "claims" / "1.json", (past, past))
    assert lease.beat()
    assert (tmp_path / "claims" / "1.json").stat().st_mtime > past + 20


def test_a_lease_whose_run_was_reset_is_lost_though_its_number_is_taken_again(
    tmp_path: Path,
) -> None:
    old = Lease.claim(tmp_path / "run", {})
    assert old is not None
    (tmp_path / "run").rename(tmp_path / "gone")
    assert old.lost()
    new = Lease.claim(tmp_path / "run", {})
    assert new is not None
    assert new.number == old.number
    assert old.lost()
    old.release()
    assert not new.lost()
    assert Lease.holder(tmp_path / "run") is not None


def test_a_claimant_that_read_too_early_backs_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It saw no claim; until it creates number 1, two others have come and gone.
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "3.json").write_text('{"owner": {}, "timeout_s": 30, "token": "x"}')
    monkeypatch.setattr(leases, "_read", lambda folder: [])
    assert Lease.claim(tmp_path, {}) is None
    assert os.listdir(tmp_path / "claims") == ["3.json"]


def _compete(folder: str, barrier, wins) -> None:
    for turn in range(25):
        barrier.wait()
        lease = Lease.claim(f"{folder}/{turn}", {})
        if lease is not None:
            wins.put(turn)
        barrier.wait()
        assert lease is None or not lease.lost()


@pytest.mark.parametrize("taken", [False, True])
def test_of_racing_processes_exactly_one_holds(tmp_path: Path, taken: bool) -> None:
    if taken:
        # They race for the leases of a driver that is gone.
        for turn in range(25):
            lease = Lease.claim(tmp_path / str(turn), {"host": "elsewhere"})
            assert lease is not None
            os.utime(tmp_path / str(turn) / "claims" / "1.json", (1, 1))
    context = multiprocessing.get_context("spawn")
    barrier, wins = context.Barrier(3), context.Queue()
    racers = [
        context.Process(target=_compete, args=(str(tmp_path), barrier, wins)) for _ in range(3)
    ]
    for racer in racers:
        racer.start()
    won = [wins.get(timeout=60) for _ in range(25)]
    for racer in racers:
        racer.join(60)
        assert racer.exitcode == 0
    assert sorted(won) == list(range(25))
    assert wins.empty()
