"""Drivers: who works on the results, and that they live, in one small file each.

A driver's file ``drivers/<token>.json`` is written anew every few seconds with a number that grows,
on behalf of all claims that name its token (see `leases`): a thousand leases cost one write. Who
wants to know whether a driver lives watches that number by a clock of its own (`Heartbeats`): no
two machines need agree on the time. The file also proves that two machines see the same results.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from vesselflow.records.atomic import explained, read_json_or_none, write_json
from vesselflow.records.paths import AnyPath, BucketPath, any_path, names_in

#: Seconds without a heartbeat after which a driver's claims are free again, unless it says
#: otherwise.
TIMEOUT_S = 30.0
#: Seconds after which the file of a driver that is silent is cleared away by the next one.
KEPT_S = 24 * 3600.0
#: Seconds for which what was read of a driver is not read again.
FRESH_S = 0.5
#: A process's start time is a little different each time that the wall clock is adjusted.
_SAME_START_S = 2.0


class Driver:
    """One driver of some results. Make one with `Driver.begin`; call `beat` every few seconds.

    It can be pickled, and then works in the other process; only one of them may claim and beat.

    Attributes:
        results: Where it works.
        token: Its name: nobody else's, ever.
        owner: Whose death frees its claims: host, boot, pid, started, and what the caller added.
        timeout_s: Silence after which its claims are free again.
        held: Tokens of the claims that it holds, or is making: a claim in its name that is not
            among them was made by a call that ended in an error, and is nobody's.
        others: What it has seen of other drivers.
    """

    def __init__(
        self, results: AnyPath, token: str, owner: Mapping[str, Any], timeout_s: float
    ) -> None:
        self.results, self.token, self.owner, self.timeout_s = results, token, owner, timeout_s
        self.held: set[str] = set()
        self.others = Heartbeats(results)
        self._owed: list[Callable[[], bool]] = []
        self._beats = 0
        self._last_s = _now()

    @property
    def path(self) -> AnyPath:
        """Its file."""
        return driver_path(self.results, self.token)

    @classmethod
    def begin(
        cls, results: str | AnyPath, owner: Mapping[str, Any], *, timeout_s: float = TIMEOUT_S
    ) -> Driver:
        """Enter some results.

        Args:
            results: Where they are; a folder is made if absent.
            owner: On whose behalf: ``host``, ``pid`` and ``started`` (its start time) tell whose
                death frees its claims (default: this process), the rest is for people.
            timeout_s: Silence after which others may take its runs over.

        Raises:
            UserError: The folder cannot be written.
            OSError: The storage is in trouble.
        """
        driver = cls(any_path(results), secrets.token_hex(16), identified(owner), timeout_s)
        folder = driver.path.parent
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
        _clear(folder)
        driver._write()
        return driver

    def beat(self) -> bool:
        """Show that the driver lives, for all its claims.

        Never raises: a heartbeat that cannot be written is one that is late.

        Returns:
            Whether nobody can have taken a run over since the last call. When False (this one came
            late, or those before it could not be written), ask each lease whether it is lost.
        """
        self._owed = [release for release in self._owed if not release()]
        began = _now()
        self._beats += 1
        try:
            self._write()
        except Exception:
            # Whatever is wrong with the storage: the next beat tries again.
            return _since(self._last_s) <= self.timeout_s
        # Others may have waited until this very write was done.
        in_time = _since(self._last_s) <= self.timeout_s
        self._last_s = began
        return in_time

    def owes(self, release: Callable[[], bool]) -> None:
        """Take on a release that could not be written; tried again at each beat until True."""
        self._owed.append(release)

    def end(self) -> None:
        """Leave: whatever claims are left in its name are free at once.

        Never raises: what cannot be written now is told by the silence.
        """
        with contextlib.suppress(Exception):
            self._write(ended=True)

    def _write(self, *, ended: bool = False) -> None:
        content = {
            "token": self.token,
            "owner": self.owner,
            "timeout_s": self.timeout_s,
            "beats": self._beats,
            "ended": ended,
        }
        # Not flushed to the disk: of a machine that lost its power, silence is true.
        write_json(self.path, content, flush=False)


class _Seen(NamedTuple):
    """A driver as it was read: what it showed, since when so, and when that was read last."""

    mark: object
    since_s: float
    read_s: float


class Heartbeats:
    """What one process has seen of drivers' heartbeats, by its own monotonic clock.

    A driver is silent for as long as its file shows the same. Nothing is known of the time before
    the first look: who comes anew waits a whole timeout until it takes a run from a machine that
    it cannot look into.

    Args:
        results: Where the drivers work.
        clock: Monotonic seconds.
    """

    def __init__(self, results: str | AnyPath, clock: Callable[[], float] = time.monotonic) -> None:
        self._results, self._clock = any_path(results), clock
        self._seen: dict[str, _Seen] = {}
        self._lock = threading.Lock()

    def silent_s(self, token: str) -> float:
        """Seconds for which a driver has shown nothing new; infinite when it ended.

        Raises:
            OSError: The storage is in trouble.
        """
        now = self._clock()
        with self._lock:
            seen = self._seen.get(token)
        if seen is None or now - seen.read_s > FRESH_S:
            # One that is gone, or cannot be read, shows nothing new either.
            content = read_json_or_none(driver_path(self._results, token))
            found = content if isinstance(content, dict) else {}
            mark: object = "ended" if found.get("ended") is True else found.get("beats")
            # A storage that answers slowly shows what was true when it was asked.
            since = seen.since_s if seen is not None and seen.mark == mark else self._clock()
            seen = _Seen(mark, since, now)
            with self._lock:
                self._seen[token] = seen
        return float("inf") if seen.mark == "ended" else max(0.0, now - seen.since_s)

    def __getstate__(self) -> AnyPath:
        return self._results

    def __setstate__(self, results: AnyPath) -> None:
        # A monotonic clock of another machine means nothing here.
        self.__init__(results)  # type: ignore[misc]


def driver_path(results: AnyPath, token: str) -> AnyPath:
    """Where the file of the driver called `token` is."""
    return results / "drivers" / f"{token}.json"


def is_token(text: object) -> bool:
    """Whether it can be a driver's name: nothing that could lead out of the folder."""
    return isinstance(text, str) and text.isascii() and text.isalnum()


def sees(results: str | AnyPath, token: str) -> bool:
    """Whether these are the results on which the driver called `token` works.

    Raises:
        OSError: The storage is in trouble.
    """
    if not is_token(token):
        return False
    content = read_json_or_none(driver_path(any_path(results), token))
    return isinstance(content, dict) and content.get("token") == token


def identified(owner: Mapping[str, Any]) -> dict[str, Any]:
    """The owner with what is needed to tell whether it lives; this process unless it names one."""
    here = socket.gethostname()
    if "pid" not in owner:
        process = psutil.Process()
        owner = {**owner, "host": here, "pid": process.pid, "started": process.create_time()}
    # Of another machine's boot we know nothing: its heartbeat alone will decide.
    return {"boot": boot(), **owner} if owner.get("host") == here else dict(owner)


def may_live(owner: Mapping[str, Any]) -> bool:
    """False when the owner was a process of this machine and is gone.

    A process is told by its number and its start, so that another one that got the same number is
    not taken for it. Of another machine nothing is known but the heartbeat: True.
    """
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


@functools.cache
def boot() -> str:
    """This boot of this machine, and the table of processes that a pid is a number in.

    Containers of one machine can share its name and its boot, and count processes separately.
    """
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{text} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{psutil.boot_time():.0f}"


def _now() -> tuple[float, float]:
    """Two clocks: the wall's, and one that nobody sets, and that goes on while a laptop sleeps."""
    kind = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.time(), time.clock_gettime(kind)


def _since(then: tuple[float, float]) -> float:
    """Seconds that may have passed: the more by either clock."""
    now = _now()
    return max(now[0] - then[0], now[1] - then[1])


def _clear(folder: AnyPath) -> None:
    """Clear away the files of drivers that are long gone; one that lives writes its own again."""
    with contextlib.suppress(OSError):
        now = time.time()
        if isinstance(folder, BucketPath):
            entries = folder.bucket.below(folder.key)
            old = [entry.key for entry in entries if now - entry.changed_s > KEPT_S]
            folder.bucket.delete(old)
            return
        for name in names_in(folder):
            with contextlib.suppress(OSError):
                if now - (folder / name).stat().st_mtime > KEPT_S:
                    (folder / name).unlink()
