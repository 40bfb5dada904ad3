"""Leases: who holds a run, decided without files, and held in a folder and in a bucket."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
from typing import Any

import psutil
import pytest

from vesselflow.records import drivers, leases
from vesselflow.records.drivers import Driver, Heartbeats, may_live
from vesselflow.records.leases import Claim, Lease, holds
from vesselflow.records.paths import AnyPath, any_path, names_in

ELSEWHERE = {"host": "elsewhere", "pid": 1, "started": 0.0}


class Clock:
    """A monotonic clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def begin(results: AnyPath, owner: dict[str, Any] | None = None) -> tuple[Driver, Clock]:
    """A driver whose view of others follows a clock of its own."""
    driver, clock = Driver.begin(results, ELSEWHERE if owner is None else owner), Clock()
    driver.others = Heartbeats(results, clock)
    return driver, clock


def run(results: AnyPath, name: str = "r1") -> AnyPath:
    return results / "runs" / name


def claim(results: AnyPath, driver: Driver, name: str = "r1") -> Lease:
    lease = Lease.claim(run(results, name), driver)
    assert lease is not None
    return lease


def test_who_holds() -> None:
    held = Claim(1, "a", timeout_s=30, owner={})
    assert not holds(None, lambda token: 0)
    assert holds(held, {"a": 30.0}.__getitem__)
    assert not holds(held, {"a": 30.1}.__getitem__)
    assert not holds(held, {"a": float("inf")}.__getitem__)
    assert not holds(held, {"a": 0.0}.__getitem__, lambda owner: False)
    assert not holds(Claim(1, "a", owner={}, released=True), {"a": 0.0}.__getitem__)


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
    assert may_live(me)
    # The same number, given to another process since.
    assert not may_live({**me, "started": float(str(me["started"])) - 60})
    # Of another machine, or of this one before it was booted, only the heartbeat is known.
    assert may_live({**me, "started": 0.0, "host": "elsewhere"})
    assert may_live({**me, "started": 0.0, "boot": "before"})
    assert may_live({})


def test_claim_and_release(anywhere: AnyPath) -> None:
    one, _ = begin(anywhere, {"who": "one"})
    two, _ = begin(anywhere, {"who": "two"})
    first = claim(anywhere, one)
    assert Lease.claim(run(anywhere), two) is None
    # Not even the holder gets twice what it holds.
    assert Lease.claim(run(anywhere), one) is None
    holder = Lease.holder(run(anywhere), two.others)
    assert holder is not None
    assert holder.owner is not None
    assert (holder.owner["who"], holder.owner["pid"]) == ("one", os.getpid())
    assert first.release()
    assert Lease.holder(run(anywhere), two.others) is None
    second = claim(anywhere, two)
    assert second.number == 2
    assert names_in(run(anywhere) / "claims") == ["2.json"]
    assert first.lost()
    assert first.release()
    assert not second.lost()


def test_a_silent_driver_loses_its_runs_by_the_clock_of_whoever_looks(anywhere: AnyPath) -> None:
    silent, _ = begin(anywhere)
    lease = claim(anywhere, silent)
    other, clock = begin(anywhere)
    assert Lease.claim(run(anywhere), other) is None
    clock.now += 29
    assert Lease.claim(run(anywhere), other) is None
    silent.beat()
    clock.now += 29
    # It shows something new: from now on thirty seconds more.
    assert Lease.claim(run(anywhere), other) is None
    clock.now += 30.5
    taken = Lease.claim(run(anywhere), other)
    assert taken is not None
    assert lease.lost()
    lease.release()
    assert not taken.lost()


def test_a_driver_is_silent_only_from_the_first_look_on(anywhere: AnyPath) -> None:
    silent, _ = begin(anywhere)
    claim(anywhere, silent)
    other, clock = begin(anywhere)
    clock.now += 1e6
    assert Lease.claim(run(anywhere), other) is None
    clock.now += 31
    assert Lease.claim(run(anywhere), other) is not None


def test_no_clock_but_the_readers_own_counts(
    anywhere: AnyPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The driver's machine is an hour behind, and then a day ahead.
    real = drivers.time.time
    for shift in (-3600.0, 86_400.0):
        monkeypatch.setattr(drivers.time, "time", lambda shift=shift: real() + shift)
        driver, _ = begin(anywhere)
        lease = claim(anywhere, driver, f"shift{shift}")
        driver.beat()
        monkeypatch.setattr(drivers.time, "time", real)
        other, clock = begin(anywhere)
        assert Lease.claim(run(anywhere, f"shift{shift}"), other) is None
        clock.now += 20
        assert Lease.claim(run(anywhere, f"shift{shift}"), other) is None
        assert not lease.lost()


def test_a_driver_that_ended_holds_nothing(anywhere: AnyPath) -> None:
    driver, _ = begin(anywhere)
    claim(anywhere, driver)
    other, clock = begin(anywhere)
    assert Lease.claim(run(anywhere), other) is None
    driver.end()
    clock.now += 1
    assert Lease.claim(run(anywhere), other) is not None


def test_a_killed_process_frees_its_runs_at_once(anywhere: AnyPath) -> None:
    code = (
        "import sys, time; from vesselflow.records.leases import Lease;"
        "from vesselflow.records.drivers import Driver;"
        "from vesselflow.records.paths import any_path;"
        "results = any_path(sys.argv[1]); driver = Driver.begin(results, {});"
        "print(Lease.claim(results / 'runs' / 'r1', driver) is not None, flush=True);"
        "time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(anywhere)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "True\n"
        mine, _ = begin(anywhere, {})
        assert Lease.claim(run(anywhere), mine) is None
        child.kill()
        # Not waited for yet: the child is a zombie, which is as dead.
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert claim(anywhere, mine).number == 2


def test_a_lease_whose_run_was_reset_is_lost_though_its_number_is_taken_again(
    anywhere: AnyPath,
) -> None:
    driver, _ = begin(anywhere)
    old = claim(anywhere, driver)
    path = run(anywhere) / "claims" / "1.json"
    path.unlink()
    assert old.lost()
    new = claim(anywhere, begin(anywhere)[0])
    assert new.number == old.number
    assert old.lost()
    old.release()
    assert not new.lost()
    assert Lease.holder(run(anywhere), driver.others) is not None


def test_a_claimant_that_read_too_early_backs_off(
    anywhere: AnyPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It saw no claim; until it creates number 1, two others have come and gone.
    driver, _ = begin(anywhere)
    for _ in range(3):
        claim(anywhere, driver).release()
    real = leases._numbers
    answers: list[list[int]] = [[]]
    monkeypatch.setattr(
        leases, "_numbers", lambda folder: answers.pop() if answers else real(folder)
    )
    assert Lease.claim(run(anywhere), begin(anywhere)[0]) is None
    assert names_in(run(anywhere) / "claims") == ["3.json"]


def _compete(results: str, turns: int, barrier, wins) -> None:
    where = any_path(results)
    driver = Driver.begin(where, {})
    for turn in range(turns):
        barrier.wait()
        lease = Lease.claim(run(where, str(turn)), driver)
        if lease is not None:
            wins.put(turn)
        barrier.wait()
        assert lease is None or not lease.lost()


@pytest.mark.parametrize("taken", [False, True])
def test_of_racing_processes_exactly_one_holds(anywhere: AnyPath, taken: bool) -> None:
    turns = 15
    if taken:
        # They race for the runs of a driver that ended.
        gone, _ = begin(anywhere)
        for turn in range(turns):
            claim(anywhere, gone, str(turn))
        gone.end()
    context = multiprocessing.get_context("spawn")
    barrier, wins = context.Barrier(3), context.Queue()
    racers = [
        context.Process(target=_compete, args=(str(anywhere), turns, barrier, wins))
        for _ in range(3)
    ]
    for racer in racers:
        racer.start()
    won = [wins.get(timeout=120) for _ in range(turns)]
    for racer in racers:
        racer.join(60)
        assert racer.exitcode == 0
    assert sorted(won) == list(range(turns))
    assert wins.empty()
