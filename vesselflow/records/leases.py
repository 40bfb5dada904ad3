"""Leases: which driver works on a run, when several share one results folder.

A claim is a file ``claims/<n>.json`` that is created only if absent; the highest number counts. Its
holder shows that it lives by the file's modification time. A claim is free again when that time is
too old, or at once when its holder is a process of this machine that is gone. The next claimant
creates number n + 1, and of several claimants exactly one can. A lease keeps two drivers from doing
the same work twice; that one result is accepted does not depend on it (see `RunRecord.finish`).

Clocks of machines that share a folder must agree to within a fraction of `timeout_s`; where they do
not, work may be done twice, and one of the two results is accepted.
"""

from __future__ import annotations

import contextlib
import functools
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
    """

    number: int
    heartbeat_s: float
    timeout_s: float
    owner: Mapping[str, Any]


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
    if owner.get("host") != socket.gethostname() or owner.get("boot") != _boot():
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
    """A held claim. Make one with `Lease.claim`; call `beat` every few seconds."""

    def __init__(self, folder: Path, number: int, token: str) -> None:
        self._folder, self.number, self._token = folder, number, token
        self._released = False

    @classmethod
    def claim(
        cls, folder: str | Path, owner: Mapping[str, Any], *, timeout_s: float = 30
    ) -> Lease | None:
        """Claim the run in `folder`; None when another process holds it, or was faster.

        Args:
            folder: Folder of the run; made if absent.
            owner: On whose behalf: ``host``, ``pid`` and ``started`` (its start time) tell whose
                death frees the lease (default: this process), the rest is for people.
            timeout_s: Age of the heartbeat at which others may take the run over.

        Raises:
            UserError: The folder cannot be written.
        """
        claims_folder = Path(folder) / "claims"
        with explained(claims_folder):
            claims_folder.mkdir(parents=True, exist_ok=True)
        claims = _read(claims_folder)
        if who_holds(claims, time.time(), is_alive) is not None:
            return None
        number = max((claim.number for claim in claims), default=0) + 1
        token = secrets.token_hex(16)
        content = {"owner": _identified(owner), "timeout_s": timeout_s, "token": token}
        if not create_exclusive(_path(claims_folder, number), json_bytes(content)):
            return None
        lease = cls(claims_folder, number, token)
        if lease.lost():
            # Others claimed, and cleared lower numbers away, between our reading and our creating.
            _path(claims_folder, number).unlink(missing_ok=True)
            return None
        for old in claims:
            # One that is a folder stays: its number is lower, and does not count.
            with contextlib.suppress(IsADirectoryError, PermissionError):
                _path(claims_folder, old.number).unlink(missing_ok=True)
        return lease

    @staticmethod
    def holder(folder: str | Path) -> Claim | None:
        """Who holds the run in `folder` now."""
        return who_holds(_read(Path(folder) / "claims"), time.time(), is_alive)

    def beat(self) -> bool:
        """Show that the holder lives; False when the lease is no longer held.

        Never raises: a heartbeat that cannot be written is one that is late.
        """
        if self._released or self.lost():
            return False
        with contextlib.suppress(OSError):
            os.utime(self._path)
        return True

    def release(self) -> None:
        """Give the run back: the next claimant need not wait."""
        if not self._released and not self.lost():
            # Not by removing the file: an older holder that comes back to life would then find
            # no number above its own.
            with contextlib.suppress(OSError):
                os.utime(self._path, (0, 0))
        self._released = True

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


def _read(claims_folder: Path) -> list[Claim]:
    claims = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for number in _numbers(claims_folder):
            path = _path(claims_folder, number)
            # A claim can be cleared away while we read: a higher one is there then.
            with contextlib.suppress(FileNotFoundError):
                heartbeat_s = path.stat().st_mtime
                timeout_s, owner = _content(path)
                claims.append(Claim(number, heartbeat_s, timeout_s, owner))
    return claims


def _content(path: Path) -> tuple[float, Mapping[str, Any]]:
    """Timeout and owner of a claim; of a damaged one only the heartbeat is known, and decides."""
    try:
        content = read_json(path)
        timeout_s, owner = float(content["timeout_s"]), dict(content["owner"])
    except (IsADirectoryError, *_DAMAGED):
        return _UNKNOWN_TIMEOUT_S, {}
    # Not below or equal zero and not NaN, either of which would free a claim that lives.
    return (timeout_s if timeout_s > 0 else _UNKNOWN_TIMEOUT_S), owner


def _identified(owner: Mapping[str, Any]) -> dict[str, Any]:
    """The owner with what is needed to tell whether it lives."""
    here = socket.gethostname()
    if "pid" not in owner:
        process = psutil.Process()
        owner = {**owner, "host": here, "pid": process.pid, "started": process.create_time()}
    # Of another machine's boot we know nothing: its heartbeat alone will decide.
    return {"boot": _boot(), **owner} if owner.get("host") == here else dict(owner)


@functools.cache
def _boot() -> str:
    """This boot of this machine, and the table of processes that a pid is a number in.

    Containers of one machine can share its name and its boot, and count processes separately.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{psutil.boot_time():.0f}"
