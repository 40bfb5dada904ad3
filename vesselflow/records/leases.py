"""Leases: which driver works on a run, when several share one results folder.

A claim is a file ``claims/<n>.json`` that is created only if absent; the highest number counts. Its
holder shows that it lives by the file's modification time. A claim is free again when that time is
too old, or at once when its holder is a process of this machine that is gone. The next claimant
creates number n + 1, and of several claimants exactly one can. A lease keeps two drivers from doing
the same work twice; that one result is accepted does not depend on it (see `RunRecord.finish`).

A driver that holds many claims has one heartbeat for all of them (see `drivers`): the newer of the
claim's own time and of its driver's counts. A claim that was given back (its time is 0) is free
whatever its driver does.

Clocks of machines that share a folder must agree to within a fraction of `timeout_s`; where they do
not, work may be done twice, and one of the two results is accepted.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from vesselflow.records.atomic import create_exclusive, explained, json_bytes, read_json
from vesselflow.records.drivers import (
    TIMEOUT_S,
    Driver,
    boot,
    driver_path,
    identified,
    is_token,
)

#: Age at which a claim that cannot be read is free again.
_UNKNOWN_TIMEOUT_S = 30.0
#: What reading a file raises that is not JSON, or is another program's.
_DAMAGED = (ValueError, TypeError, KeyError, RecursionError)
#: A process's start time is a little different each time that the wall clock is adjusted.
_SAME_START_S = 2.0


@dataclass(frozen=True)
class Claim:
    """One claim as it was read.

    Attributes:
        number: The highest one counts.
        heartbeat_s: When its holder last showed that it lives, in seconds of the wall clock; 0
            when it was given back.
        timeout_s: Age of the heartbeat at which the claim is free again.
        owner: Who made it: host, boot, pid, started, and what the caller added.
        driver: Token of the driver whose heartbeat counts for it too; empty without one.
        token: Its own name; empty when it cannot be read.
    """

    number: int
    heartbeat_s: float
    timeout_s: float
    owner: Mapping[str, Any]
    driver: str = ""
    token: str = ""


def who_holds(
    claims: Iterable[Claim], now: float, is_alive: Callable[[Claim], bool]
) -> Claim | None:
    """The claim that counts at `now`, or None when whoever comes next may claim.

    Args:
        claims: All claims on one run, in any order.
        now: Seconds of the wall clock.
        is_alive: False only for a claim whose holder is known to be gone.
    """
    last = max(claims, key=lambda claim: claim.number, default=None)
    if last is None or now - last.heartbeat_s > last.timeout_s or not is_alive(last):
        return None
    return last


def is_alive(claim: Claim) -> bool:
    """False when the claim's holder was a process of this machine and is gone.

    A process is told by its number and its start, so that another one that got the same number is
    not taken for it. Of another machine nothing is known but the heartbeat: True.
    """
    owner = claim.owner
    if owner.get("host") != socket.gethostname() or owner.get("boot") != boot():
        return True
    try:
        process = psutil.Process(int(owner["pid"]))
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return abs(process.create_time() - float(owner["started"])) < _SAME_START_S
    except psutil.NoSuchProcess:
        return False
    except (psutil.Error, KeyError, TypeError, ValueError):
        return True


class Lease:
    """A held claim. Make one with `Lease.claim`.

    Without a driver call `beat` every few seconds; with one its `Driver.beat` is enough.
    """

    def __init__(self, folder: Path, number: int, token: str, driver: Driver | None = None) -> None:
        self._folder, self.number, self._token, self._driver = folder, number, token, driver
        self._released = False

    @classmethod
    def claim(
        cls,
        folder: str | Path,
        owner: Mapping[str, Any],
        *,
        driver: Driver | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> Lease | None:
        """Claim the run in `folder`; None when another process holds it, or was faster.

        After an error nothing is held, whatever the storage did: the same driver may try again.

        Args:
            folder: Folder of the run, ``<results>/runs/<run_id>``; made if absent.
            owner: On whose behalf: ``host``, ``pid`` and ``started`` (its start time) tell whose
                death frees the lease (default: the driver's, or this process), the rest is for
                people.
            driver: The driver of the same results folder whose heartbeat keeps the lease.
            timeout_s: Age of the heartbeat at which others may take the run over; a driver's own
                where there is one.

        Raises:
            UserError: The folder cannot be written, or no space is left.
            OSError: The storage is in trouble (EIO, ESTALE): nobody else need hold the run.
        """
        claims_folder = Path(folder) / "claims"
        # Each file at its own time: the folder stands for whatever goes wrong with one of them.
        with explained(claims_folder):
            return cls._claim(claims_folder, owner, driver, timeout_s)

    @classmethod
    def _claim(
        cls, folder: Path, owner: Mapping[str, Any], driver: Driver | None, timeout_s: float
    ) -> Lease | None:
        folder.mkdir(parents=True, exist_ok=True)
        claims = _read(folder)
        holder = who_holds(claims, time.time(), is_alive)
        if holder is not None and not _is_stray(holder, driver):
            return None
        number = max((claim.number for claim in claims), default=0) + 1
        token = secrets.token_hex(16)
        content: dict[str, Any] = {"timeout_s": timeout_s, "token": token}
        if driver is None:
            content["owner"] = identified(owner)
        else:
            content |= {"owner": {**driver.owner, **owner}, "timeout_s": driver.timeout_s}
            content["driver"] = driver.token
            # Before it is made: from then on it is not a stray one.
            driver.held.add(token)
        lease = cls(folder, number, token, driver)
        try:
            # Not flushed to the disk: a claim need not outlive the machine that made it, and one
            # that cannot be read is free when its time is over.
            made = create_exclusive(_path(folder, number), json_bytes(content), flush=False)
            if made and lease.lost():
                # Others claimed, and cleared lower numbers away, between reading and creating.
                _path(folder, number).unlink(missing_ok=True)
                made = False
        except BaseException:
            lease._forget()
            raise
        if not made:
            lease._forget()
            return None
        for old in claims:
            # One that stays is no harm: its number is lower, and does not count.
            with contextlib.suppress(OSError):
                _path(folder, old.number).unlink(missing_ok=True)
        return lease

    @staticmethod
    def holder(folder: str | Path) -> Claim | None:
        """Who holds the run in `folder` now.

        Raises:
            OSError: The storage is in trouble.
        """
        claims_folder = Path(folder) / "claims"
        with explained(claims_folder):
            return who_holds(_read(claims_folder), time.time(), is_alive)

    def beat(self) -> bool:
        """Show that the holder lives; False when the lease is no longer held.

        Never raises: a heartbeat that cannot be written is one that is late. With a driver it only
        looks: the heartbeat is the driver's.
        """
        if self._released or self.lost():
            return False
        if self._driver is None:
            with contextlib.suppress(OSError):
                os.utime(self._path)
        return True

    def release(self) -> bool:
        """Give the run back: the next claimant need not wait.

        Returns:
            Whether it is given back. When the storage did not take it, a driver does so at one of
            its next heartbeats; without a driver the lease ends when its time is over.
        """
        self._forget()
        if self._released:
            return True
        self._released = True
        if self._give_back():
            return True
        if self._driver is not None:
            self._driver.owes(self._give_back)
        return False

    def _give_back(self) -> bool:
        if not self.lost():
            # Not by removing the file: an older holder that comes back to life would then find
            # no number above its own.
            try:
                os.utime(self._path, (0, 0))
            except FileNotFoundError:
                return True
            except OSError:
                return False
        return True

    def _forget(self) -> None:
        if self._driver is not None:
            self._driver.held.discard(self._token)

    def lost(self) -> bool:
        """Whether another claim counts now, or this one was cleared away."""
        try:
            if max(_numbers(self._folder), default=0) != self.number:
                return True
            # After a reset the numbers begin again: the same number can be another's.
            token = read_json(self._path)["token"]
            return isinstance(token, str) and token != self._token
        except (FileNotFoundError, NotADirectoryError):
            return True
        except (OSError, *_DAMAGED):
            # Who damages a claim has claimed nothing.
            return False

    @property
    def _path(self) -> Path:
        return _path(self._folder, self.number)


def _path(claims_folder: Path, number: int) -> Path:
    return claims_folder / f"{number}.json"


def _numbers(claims_folder: Path) -> list[int]:
    names = (entry.removesuffix(".json") for entry in os.listdir(claims_folder))
    return [int(name) for name in names if name.isdecimal()]


def _is_stray(claim: Claim, driver: Driver | None) -> bool:
    """Whether a claim was made in the driver's name by a call that ended in an error."""
    return driver is not None and claim.driver == driver.token and claim.token not in driver.held


def _read(claims_folder: Path) -> list[Claim]:
    claims = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for number in _numbers(claims_folder):
            path = _path(claims_folder, number)
            # A claim can be cleared away while we read: a higher one is there then.
            with contextlib.suppress(FileNotFoundError):
                beat_s = path.stat().st_mtime
                timeout_s, owner, driver, token = _content(path)
                if driver and beat_s > 0:
                    beat_s = _newer(beat_s, driver_path(claims_folder.parent.parent.parent, driver))
                claims.append(Claim(number, beat_s, timeout_s, owner, driver, token))
    return claims


def _newer(beat_s: float, driver: Path) -> float:
    """The newer of a claim's time and its driver's; 0 when the driver ended."""
    try:
        driver_s = driver.stat().st_mtime
    except (FileNotFoundError, NotADirectoryError):
        return beat_s
    return max(beat_s, driver_s) if driver_s > 0 else 0.0


def _content(path: Path) -> tuple[float, Mapping[str, Any], str, str]:
    """Timeout, owner, driver and token of a claim; of a damaged one only its time is known."""
    try:
        content = read_json(path)
        timeout_s, owner = float(content["timeout_s"]), dict(content["owner"])
    except (IsADirectoryError, *_DAMAGED):
        return _UNKNOWN_TIMEOUT_S, {}, "", ""
    driver, token = content.get("driver"), content.get("token")
    return (
        # Not below or equal zero and not NaN, either of which would free a claim that lives.
        timeout_s if timeout_s > 0 else _UNKNOWN_TIMEOUT_S,
        owner,
        driver if is_token(driver) else "",
        token if isinstance(token, str) else "",
    )
