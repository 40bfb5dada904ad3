"""Drivers: one heartbeat for all leases of one, told from storage trouble and from another's."""

from __future__ import annotations

import errno
import os
import pickle
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vesselflow.errors import UserError
from vesselflow.records import atomic, drivers
from vesselflow.records.drivers import Driver, sees
from vesselflow.records.leases import Lease

ELSEWHERE = {"host": "elsewhere", "pid": 1, "started": 0.0}


def _run(results: Path, name: str = "r1") -> Path:
    return results / "runs" / name


def _claim(results: Path, driver: Driver | None, name: str = "r1") -> Lease:
    lease = Lease.claim(_run(results, name), {}, driver=driver)
    assert lease is not None
    return lease


def _age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def _all_age(results: Path, seconds: float) -> None:
    for path in (*results.glob("runs/*/claims/*.json"), *results.glob("drivers/*.json")):
        _age(path, seconds)


def test_one_touch_keeps_every_lease_of_a_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver.begin(tmp_path, ELSEWHERE)
    for number in range(20):
        _claim(tmp_path, driver, f"r{number}")
    _all_age(tmp_path, 29)
    touched: list[object] = []
    real = os.utime
    monkeypatch.setattr(os, "utime", lambda path, *rest: (touched.append(path), real(path, *rest)))
    assert driver.beat()
    assert touched == [driver.path]
    monkeypatch.undo()
    for path in tmp_path.glob("runs/*/claims/*.json"):
        _age(path, 3600)
    holder = Lease.holder(_run(tmp_path, "r7"))
    assert holder is not None
    assert holder.driver == driver.token
    assert holder.owner["host"] == "elsewhere"
    assert Lease.claim(_run(tmp_path, "r7"), {}) is None


def test_leases_of_a_driver_that_fell_silent_are_free(tmp_path: Path) -> None:
    driver = Driver.begin(tmp_path, ELSEWHERE)
    lease = _claim(tmp_path, driver)
    _all_age(tmp_path, 31)
    other = Driver.begin(tmp_path, {})
    assert Lease.claim(_run(tmp_path), {}, driver=other) is not None
    assert lease.lost()
    assert not lease.beat()


def test_the_fresher_of_claim_and_driver_counts(tmp_path: Path) -> None:
    driver = Driver.begin(tmp_path, ELSEWHERE)
    _age(driver.path, 31)
    _claim(tmp_path, driver)
    assert Lease.holder(_run(tmp_path)) is not None
    driver.path.unlink()
    # Of a driver without a file nothing more is known than of a claim without a driver.
    assert Lease.holder(_run(tmp_path)) is not None
    _age(_run(tmp_path) / "claims" / "1.json", 31)
    assert Lease.holder(_run(tmp_path)) is None


def test_a_lease_given_back_is_free_though_its_driver_lives(tmp_path: Path) -> None:
    driver, other = Driver.begin(tmp_path, ELSEWHERE), Driver.begin(tmp_path, {})
    lease = _claim(tmp_path, driver)
    assert Lease.claim(_run(tmp_path), {}, driver=other) is None
    assert lease.release()
    driver.beat()
    assert Lease.claim(_run(tmp_path), {}, driver=other) is not None


def test_a_driver_that_ended_holds_nothing(tmp_path: Path) -> None:
    driver = Driver.begin(tmp_path, ELSEWHERE)
    _claim(tmp_path, driver)
    driver.end()
    assert Lease.holder(_run(tmp_path)) is None


def test_a_killed_driver_frees_its_leases_at_once(tmp_path: Path) -> None:
    code = (
        "import sys, time; from vesselflow.records.leases import Lease;"
        "from vesselflow.records.drivers import Driver;"
        "d = Driver.begin(sys.argv[1], {});"
        "print(Lease.claim(sys.argv[1] + '/runs/r1', {}, driver=d) is not None, flush=True);"
        "time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "True\n"
        mine = Driver.begin(tmp_path, {})
        assert Lease.claim(_run(tmp_path), {}, driver=mine) is None
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert Lease.claim(_run(tmp_path), {}, driver=mine) is not None


def test_a_late_beat_says_that_leases_may_be_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver.begin(tmp_path, {})
    assert driver.beat()
    now = time.time()
    monkeypatch.setattr(drivers.time, "time", lambda: now + 31)
    assert not driver.beat()
    assert driver.beat()


def test_a_beat_that_cannot_be_written_counts_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver.begin(tmp_path, {})
    now = time.time()

    def full(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "utime", full)
        patch.setattr(drivers.time, "time", lambda: now + 20)
        assert driver.beat()
        patch.setattr(drivers.time, "time", lambda: now + 31)
        assert not driver.beat()
    monkeypatch.setattr(drivers.time, "time", lambda: now + 33)
    # The disk is back; but in between others were free to take over.
    assert not driver.beat()
    assert driver.beat()


def test_a_driver_file_that_was_cleared_away_comes_back(tmp_path: Path) -> None:
    driver = Driver.begin(tmp_path, {})
    driver.path.unlink()
    assert not sees(tmp_path, driver.token)
    assert not driver.beat()
    assert sees(tmp_path, driver.token)
    assert driver.beat()


def test_a_token_proves_that_the_same_folder_is_seen(tmp_path: Path) -> None:
    driver = Driver.begin(tmp_path / "here", {})
    assert sees(tmp_path / "here", driver.token)
    assert not sees(tmp_path / "there", driver.token)
    (tmp_path / "there" / "drivers").mkdir(parents=True)
    (tmp_path / "there" / "drivers" / driver.path.name).write_text('{"token": "another"}')
    assert not sees(tmp_path / "there", driver.token)
    assert not sees(tmp_path / "here", "../../etc/passwd")


def test_a_driver_travels_to_the_process_that_claims(tmp_path: Path) -> None:
    driver = Driver.begin(tmp_path, ELSEWHERE)
    there = pickle.loads(pickle.dumps(driver))
    _claim(tmp_path, there)
    holder = Lease.holder(_run(tmp_path))
    assert holder is not None
    assert holder.driver == driver.token
    there.end()
    assert Lease.holder(_run(tmp_path)) is None


def test_the_owner_is_this_process_unless_told(tmp_path: Path) -> None:
    content = atomic.read_json(Driver.begin(tmp_path, {"who": "me"}).path)
    assert content["owner"]["who"] == "me"
    assert content["owner"]["host"] == socket.gethostname()
    assert content["owner"]["pid"] == os.getpid()
    assert content["timeout_s"] == 30


def test_files_of_drivers_long_gone_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = Driver.begin(tmp_path, ELSEWHERE)
    now = time.time()
    monkeypatch.setattr(drivers.time, "time", lambda: now + drivers.KEPT_S + 60)
    new = Driver.begin(tmp_path, ELSEWHERE)
    assert os.listdir(tmp_path / "drivers") == [new.path.name]
    assert old.token != new.token


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOSPC])
@pytest.mark.parametrize("where", ["listdir", "link"])
def test_trouble_with_the_storage_is_not_another_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, where: str
) -> None:
    driver = Driver.begin(tmp_path, {})

    def broken(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, where, broken)
        with pytest.raises((OSError, UserError)):
            Lease.claim(_run(tmp_path), {}, driver=driver)
    assert _claim(tmp_path, driver).beat()


def test_a_claim_that_was_made_though_an_error_was_told_is_the_drivers_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver.begin(tmp_path, {})
    real = os.link

    def linked_and_told_otherwise(*paths: str) -> None:
        real(*paths)
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", linked_and_told_otherwise)
        with pytest.raises((OSError, UserError)):
            Lease.claim(_run(tmp_path), {}, driver=driver)
    assert os.listdir(_run(tmp_path) / "claims") == ["1.json"]
    # For everybody else it is held: its driver lives.
    assert Lease.claim(_run(tmp_path), {}, driver=Driver.begin(tmp_path, {})) is None
    lease = _claim(tmp_path, driver)
    assert lease.number == 2
    # But what the driver knows that it holds, it does not get twice.
    assert Lease.claim(_run(tmp_path), {}, driver=driver) is None


def test_a_lease_that_could_not_be_given_back_is_so_at_the_next_beat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver.begin(tmp_path, ELSEWHERE)
    lease = _claim(tmp_path, driver)

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "utime", broken)
        assert not lease.release()
        driver.beat()
    assert Lease.holder(_run(tmp_path)) is not None
    driver.beat()
    assert Lease.holder(_run(tmp_path)) is None


def test_an_old_claim_is_not_undone_by_trouble_in_clearing_it_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Driver.begin(tmp_path, ELSEWHERE)
    _claim(tmp_path, first)
    first.end()
    real = Path.unlink

    def broken(path: Path, missing_ok: bool = False) -> None:
        if path.name == "1.json":
            raise OSError(errno.EIO, "Input/output error")
        real(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", broken)
    assert _claim(tmp_path, Driver.begin(tmp_path, {})).number == 2
