"""Leases: which driver works on a run, when several share their results.

A claim is a file ``claims/<n>.json`` that is created only if absent; the highest number counts. It
names its driver, and is free again when the driver has been silent for its timeout by the clock of
whoever looks, or ended; at once when the driver was a process of this machine and is gone; and when
it was given back, which stands in it. The next claimant creates number n + 1, and of several
claimants exactly one can. A lease keeps two drivers from doing the same work twice; that one result
is accepted does not depend on it (see `RunRecord.finish`).
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vesselflow.records.atomic import create_exclusive, explained, json_bytes, read_json, write_json
from vesselflow.records.drivers import TIMEOUT_S, Driver, Heartbeats, is_token, may_live
from vesselflow.records.paths import AnyPath, names_in

#: What reading a file raises that is not JSON, or is another program's.
_DAMAGED = (ValueError, TypeError, KeyError, RecursionError)


@dataclass(frozen=True)
class Claim:
    """One claim as it was read.

    Attributes:
        number: The highest one counts.
        driver: Token of the driver whose heartbeat keeps it; empty when it cannot be read.
        token: Its own name; empty when it cannot be read.
        timeout_s: Silence of the driver at which it is free again.
        owner: Whose claim it is: host, boot, pid, started, and what the driver added.
        released: Whether it was given back.
    """

    number: int
    driver: str = ""
    token: str = ""
    timeout_s: float = TIMEOUT_S
    owner: Mapping[str, Any] | None = None
    released: bool = False


def holds(
    claim: Claim | None,
    silent_s: Callable[[str], float],
    may_live: Callable[[Mapping[str, Any]], bool] = may_live,
) -> bool:
    """Whether a run is held; otherwise whoever comes next may claim it.

    Args:
        claim: The claim with the highest number; None without any.
        silent_s: Of a driver's token: for how many seconds it has shown nothing new.
        may_live: False only for an owner that is known to be gone.
    """
    if claim is None or claim.released or not may_live(claim.owner or {}):
        return False
    return silent_s(claim.driver) <= claim.timeout_s


class Lease:
    """A held claim. Make one with `Lease.claim`; the heartbeat of its driver keeps it."""

    def __init__(self, folder: AnyPath, number: int, token: str, driver: Driver) -> None:
        self._folder, self.number, self._token, self._driver = folder, number, token, driver
        self._released = False

    @classmethod
    def claim(cls, folder: AnyPath, driver: Driver) -> Lease | None:
        """Claim the run in `folder`; None when another driver holds it, or was faster.

        After an error nothing is held, whatever the storage did: the same driver may try again.

        Args:
            folder: Folder of the run, ``<results>/runs/<run_id>``; made if absent.
            driver: The driver of the same results.

        Raises:
            UserError: The folder cannot be written, or no space is left.
            OSError: The storage is in trouble (EIO, ESTALE): nobody else need hold the run.
        """
        claims = folder / "claims"
        # Each file at its own time: the folder stands for whatever goes wrong with one of them.
        with explained(claims):
            return cls._claim(claims, driver)

    @classmethod
    def _claim(cls, folder: AnyPath, driver: Driver) -> Lease | None:
        folder.mkdir(parents=True, exist_ok=True)
        numbers = _numbers(folder)
        last = _read(folder, numbers)
        if holds(last, driver.others.silent_s) and not _is_stray(last, driver):
            return None
        number = max(numbers, default=0) + 1
        lease = cls(folder, number, secrets.token_hex(16), driver)
        # Before it is made: from then on it is not a stray one.
        driver.held.add(lease._token)
        try:
            # Not flushed to the disk: a claim need not outlive the machine that made it, and one
            # that cannot be read is free when its time is over.
            made = create_exclusive(lease._path, json_bytes(lease._content()), flush=False)
            # That the file is ours need not be asked: it was made a moment ago.
            if made and lease._passed():
                # Others claimed, and cleared lower numbers away, between reading and creating.
                lease._path.unlink(missing_ok=True)
                made = False
        except BaseException:
            lease._forget()
            raise
        if not made:
            lease._forget()
            return None
        for old in numbers:
            # One that stays is no harm: its number is lower, and does not count.
            with contextlib.suppress(OSError):
                _path(folder, old).unlink(missing_ok=True)
        return lease

    @staticmethod
    def holder(folder: AnyPath, others: Heartbeats) -> Claim | None:
        """The claim that holds the run in `folder` now, as far as `others` can tell.

        Raises:
            OSError: The storage is in trouble.
        """
        claims = folder / "claims"
        with explained(claims):
            last = _read(claims, _numbers(claims))
            return last if holds(last, others.silent_s) else None

    def release(self) -> bool:
        """Give the run back: the next claimant need not wait.

        Returns:
            Whether it is given back. When the storage did not take it, the driver does so at one
            of its next heartbeats.
        """
        self._forget()
        if self._released:
            return True
        self._released = True
        if self._give_back():
            return True
        self._driver.owes(self._give_back)
        return False

    def _give_back(self) -> bool:
        # Not by removing the file: an older holder that comes back to life would then find no
        # number above its own.
        # Also where a higher one counts now, whom a lower one does not trouble.
        try:
            if self._ours():
                write_json(self._path, {**self._content(), "released": True}, flush=False)
        except FileNotFoundError:
            return True
        except Exception:
            return False
        return True

    def _forget(self) -> None:
        self._driver.held.discard(self._token)

    def lost(self) -> bool:
        """Whether another claim counts now, or this one was cleared away."""
        try:
            return self._passed() or not self._ours()
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            return False

    def _passed(self) -> bool:
        """Whether another number counts; not as long as the storage does not tell."""
        try:
            return max(_numbers(self._folder), default=0) != self.number
        except OSError:
            return False

    def _ours(self) -> bool:
        """Whether the file of our number is still ours."""
        try:
            # After a reset the numbers begin again: the same number can be another's.
            token = read_json(self._path)["token"]
        except _DAMAGED:
            # Who damages a claim has claimed nothing.
            return True
        return not isinstance(token, str) or token == self._token

    def _content(self) -> dict[str, Any]:
        driver = self._driver
        return {
            "token": self._token,
            "driver": driver.token,
            "owner": driver.owner,
            "timeout_s": driver.timeout_s,
            "released": False,
        }

    @property
    def _path(self) -> AnyPath:
        return _path(self._folder, self.number)


def _path(claims: AnyPath, number: int) -> AnyPath:
    return claims / f"{number}.json"


def _numbers(claims: AnyPath) -> list[int]:
    names = (entry.removesuffix(".json") for entry in names_in(claims))
    return [int(name) for name in names if name.isdecimal()]


def _is_stray(claim: Claim | None, driver: Driver) -> bool:
    """Whether a claim was made in the driver's name by a call that ended in an error."""
    return claim is not None and claim.driver == driver.token and claim.token not in driver.held


def _read(claims: AnyPath, numbers: list[int]) -> Claim | None:
    """The claim that counts among those numbers; of a damaged one nothing is known."""
    for number in sorted(numbers, reverse=True):
        try:
            content = read_json(_path(claims, number))
            timeout_s, owner = float(content["timeout_s"]), dict(content["owner"])
        except FileNotFoundError:
            continue  # Cleared away while we read: a higher one is there, and a creation finds it.
        except (IsADirectoryError, *_DAMAGED):
            return Claim(number)
        driver, token = content.get("driver"), content.get("token")
        return Claim(
            number,
            driver if is_token(driver) else "",
            token if isinstance(token, str) else "",
            # Not below or equal zero and not NaN, either of which would free a claim that lives.
            timeout_s if timeout_s > 0 else TIMEOUT_S,
            owner,
            content.get("released") is True,
        )
    return None
