"""Drivers: one heartbeat for all leases of one, told from storage trouble and from another's."""

from __future__ import annotations

import errno
import os
import pickle
import socket
import time
from pathlib import Path

import pytest
from test_records_leases import ELSEWHERE, begin, claim, run

from vesselflow.errors import UserError
from vesselflow.records import atomic, drivers
from vesselflow.records.drivers import Driver, sees
from vesselflow.records.leases import Lease
from vesselflow.records.paths import AnyPath, any_path, names_in


def test_one_write_keeps_every_lease_of_a_driver(
    anywhere: AnyPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, _ = begin(anywhere)
    for number in range(20):
        claim(anywhere, driver, f"r{number}")
    other, clock = begin(anywhere)
    assert other.others.silent_s(driver.token) == 0
    written: list[object] = []
    real = drivers.write_json
    monkeypatch.setattr(
        drivers, "write_json", lambda path, *a, **k: (written.append(path), real(path, *a, **k))
    )
    clock.now += 29
    assert driver.beat()
    assert written == [driver.path]
    clock.now += 29
    for number in range(20):
        assert Lease.claim(run(anywhere, f"r{number}"), other) is None


def test_a_lease_given_back_is_free_though_its_driver_lives(anywhere: AnyPath) -> None:
    driver, other = begin(anywhere)[0], begin(anywhere)[0]
    lease = claim(anywhere, driver)
    assert Lease.claim(run(anywhere), other) is None
    assert lease.release()
    driver.beat()
    assert Lease.claim(run(anywhere), other) is not None


def test_a_driver_without_a_file_is_one_that_is_silent(anywhere: AnyPath) -> None:
    driver, (other, clock) = begin(anywhere)[0], begin(anywhere)
    claim(anywhere, driver)
    driver.path.unlink()
    assert Lease.claim(run(anywhere), other) is None
    clock.now += 29
    assert Lease.claim(run(anywhere), other) is None
    clock.now += 2
    assert Lease.claim(run(anywhere), other) is not None


def test_a_late_beat_says_that_leases_may_be_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver.begin(tmp_path, {})
    assert driver.beat()
    real = time.clock_gettime
    # A laptop that slept, or a process that was stopped.
    monkeypatch.setattr(drivers.time, "clock_gettime", lambda kind: real(kind) + 31)
    assert not driver.beat()
    assert driver.beat()
    now = time.time()
    # A clock that was set back and forth makes nobody sure of what is not sure.
    monkeypatch.setattr(drivers.time, "time", lambda: now - 3600)
    assert driver.beat()
    monkeypatch.setattr(drivers.time, "time", lambda: now)
    assert not driver.beat()
    assert driver.beat()


def test_a_beat_that_cannot_be_written_counts_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver.begin(tmp_path, {})
    now = time.time()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(drivers, "write_json", full)
        patch.setattr(drivers.time, "time", lambda: now + 20)
        assert driver.beat()
        patch.setattr(drivers.time, "time", lambda: now + 31)
        assert not driver.beat()
    monkeypatch.setattr(drivers.time, "time", lambda: now + 33)
    # The disk is back; but in between others were free to take over.
    assert not driver.beat()
    assert driver.beat()


def test_a_driver_file_that_was_cleared_away_comes_back(anywhere: AnyPath) -> None:
    driver = Driver.begin(anywhere, {})
    driver.path.unlink()
    assert not sees(anywhere, driver.token)
    assert driver.beat()
    assert sees(anywhere, driver.token)


def test_a_token_proves_that_the_same_results_are_seen(tmp_path: Path, bucket: str) -> None:
    driver = Driver.begin(tmp_path / "here", {})
    assert sees(tmp_path / "here", driver.token)
    assert not sees(tmp_path / "there", driver.token)
    (tmp_path / "there" / "drivers").mkdir(parents=True)
    (tmp_path / "there" / "drivers" / driver.path.name).write_text('{"token": "another"}')
    assert not sees(tmp_path / "there", driver.token)
    assert not sees(tmp_path / "here", "../../etc/passwd")
    away = Driver.begin(any_path(bucket) / "a", {})
    assert sees(str(any_path(bucket) / "a"), away.token)
    assert not sees(any_path(bucket) / "b", away.token)


def test_a_driver_travels_to_the_process_that_claims(anywhere: AnyPath) -> None:
    driver = Driver.begin(anywhere, ELSEWHERE)
    there = pickle.loads(pickle.dumps(driver))
    claim(anywhere, there)
    other, clock = begin(anywhere)
    holder = Lease.holder(run(anywhere), other.others)
    assert holder is not None
    assert holder.driver == driver.token
    there.end()
    clock.now += 1
    assert Lease.holder(run(anywhere), other.others) is None


def test_the_owner_is_this_process_unless_told(tmp_path: Path) -> None:
    content = atomic.read_json(Driver.begin(tmp_path, {"who": "me"}).path)
    assert content["owner"]["who"] == "me"
    assert content["owner"]["host"] == socket.gethostname()
    assert content["owner"]["pid"] == os.getpid()
    assert content["timeout_s"] == 30


def test_files_of_drivers_long_gone_go(anywhere: AnyPath, monkeypatch: pytest.MonkeyPatch) -> None:
    old = Driver.begin(anywhere, ELSEWHERE)
    now = time.time()
    monkeypatch.setattr(drivers.time, "time", lambda: now + drivers.KEPT_S + 60)
    new = Driver.begin(anywhere, ELSEWHERE)
    assert names_in(anywhere / "drivers") == [new.path.name]
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
            Lease.claim(run(tmp_path), driver)
    assert not claim(tmp_path, driver).lost()


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
            Lease.claim(run(tmp_path), driver)
    assert os.listdir(run(tmp_path) / "claims") == ["1.json"]
    # For everybody else it is held: its driver lives.
    assert Lease.claim(run(tmp_path), Driver.begin(tmp_path, {})) is None
    lease = claim(tmp_path, driver)
    assert lease.number == 2
    # But what the driver knows that it holds, it does not get twice.
    assert Lease.claim(run(tmp_path), driver) is None


def test_a_lease_that_could_not_be_given_back_is_so_at_the_next_beat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vesselflow.records import leases

    driver, other = begin(tmp_path)[0], begin(tmp_path)[0]
    lease = claim(tmp_path, driver)

    def broken(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(leases, "write_json", broken)
        assert not lease.release()
        driver.beat()
    assert Lease.holder(run(tmp_path), other.others) is not None
    driver.beat()
    assert Lease.holder(run(tmp_path), other.others) is None


def test_an_old_claim_is_not_undone_by_trouble_in_clearing_it_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Driver.begin(tmp_path, ELSEWHERE)
    claim(tmp_path, first)
    first.end()
    real = Path.unlink

    def broken(path: Path, missing_ok: bool = False) -> None:
        if path.name == "1.json":
            raise OSError(errno.EIO, "Input/output error")
        real(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", broken)
    assert claim(tmp_path, Driver.begin(tmp_path, {})).number == 2
