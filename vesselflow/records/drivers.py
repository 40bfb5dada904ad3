"""Drivers: who works on a results folder, and that they live, in one small file each.

A driver's file ``drivers/<token>.json`` is touched every few seconds, on behalf of all claims that
name its token (see `leases`): a thousand leases cost one touch. The file also proves that two
machines see the same results folder: who finds the token in it looks at the driver's own.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from vesselflow.records.atomic import explained, read_json_or_none, write_json

#: Age of its last heartbeat at which a driver's claims are free again, unless it says otherwise.
TIMEOUT_S = 30.0
#: Seconds after which the file of a driver that is silent is cleared away by the next one.
KEPT_S = 24 * 3600.0


class Driver:
    """One driver of a results folder. Make one with `Driver.begin`; call `beat` every few seconds.

    It can be pickled, and then works in the other process; only one of them may claim and beat.

    Attributes:
        token: Its name: nobody else's, ever.
        path: Its file.
        owner: Whose death frees its claims: host, boot, pid, started, and what the caller added.
        timeout_s: Age of its heartbeat at which its claims are free again.
        held: Tokens of the claims that it holds, or is making: a claim in its name that is not
            among them was made by a call that ended in an error, and is nobody's.
    """

    def __init__(self, path: Path, token: str, owner: Mapping[str, Any], timeout_s: float) -> None:
        self.path, self.token, self.owner, self.timeout_s = path, token, owner, timeout_s
        self.held: set[str] = set()
        self._owed: list[Callable[[], bool]] = []
        self._beat_s = time.time()

    @classmethod
    def begin(
        cls, results: str | Path, owner: Mapping[str, Any], *, timeout_s: float = TIMEOUT_S
    ) -> Driver:
        """Enter a results folder.

        Args:
            results: The results folder; made if absent.
            owner: As of `Lease.claim`.
            timeout_s: Age of the heartbeat at which others may take its runs over.

        Raises:
            UserError: The folder cannot be written.
            OSError: The storage is in trouble.
        """
        token = secrets.token_hex(16)
        path = driver_path(results, token)
        with explained(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        _clear(path.parent)
        driver = cls(path, token, identified(owner), timeout_s)
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
        now = time.time()
        in_time = now - self._beat_s <= self.timeout_s
        try:
            os.utime(self.path)
        except FileNotFoundError:
            in_time = False
            try:
                self._write()
            except Exception:
                # Whatever is wrong with the storage: the next beat tries again.
                return False
        except OSError:
            return in_time
        self._beat_s = now
        return in_time

    def owes(self, release: Callable[[], bool]) -> None:
        """Take on a release that could not be written; tried again at each beat until True."""
        self._owed.append(release)

    def end(self) -> None:
        """Leave: whatever claims are left in its name are free at once."""
        # The file stays for a day: with it gone, the age of each claim would count again.
        with contextlib.suppress(OSError):
            os.utime(self.path, (0, 0))

    def _write(self) -> None:
        content = {"token": self.token, "owner": self.owner, "timeout_s": self.timeout_s}
        write_json(self.path, content)


def driver_path(results: str | Path, token: str) -> Path:
    """Where the file of the driver called `token` is."""
    return Path(results) / "drivers" / f"{token}.json"


def is_token(text: object) -> bool:
    """Whether it can be a driver's name: nothing that could lead out of the folder."""
    return isinstance(text, str) and text.isascii() and text.isalnum()


def sees(results: str | Path, token: str) -> bool:
    """Whether this folder is the one in which the driver called `token` works.

    Raises:
        OSError: The storage is in trouble.
    """
    if not is_token(token):
        return False
    content = read_json_or_none(driver_path(results, token))
    return isinstance(content, dict) and content.get("token") == token


def identified(owner: Mapping[str, Any]) -> dict[str, Any]:
    """The owner with what is needed to tell whether it lives; this process unless it names one."""
    here = socket.gethostname()
    if "pid" not in owner:
        process = psutil.Process()
        owner = {**owner, "host": here, "pid": process.pid, "started": process.create_time()}
    # Of another machine's boot we know nothing: its heartbeat alone will decide.
    return {"boot": boot(), **owner} if owner.get("host") == here else dict(owner)


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


def _clear(folder: Path) -> None:
    """Clear away the files of drivers that are long gone."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            # Not the time of its heartbeat, which the end of a driver sets to zero.
            if time.time() - entry.stat(follow_symlinks=False).st_ctime > KEPT_S:
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)
