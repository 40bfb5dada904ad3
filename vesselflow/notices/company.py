"""Whether Ray still runs on this machine, by the names of processes: no import, no connection."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

#: Ray's process that every node has.
RAYLET = "raylet"
#: Seconds between two looks, and those without it after which it does not come back: whoever
#: starts Ray anew with a cluster file kills this watcher and starts another one.
LOOK_S, ABSENT_S = 5.0, 60.0


def ray_runs(proc: str = "/proc") -> bool:
    """Whether a process of this user is Ray's; True where that cannot be known.

    Args:
        proc: Where the kernel shows processes.
    """
    try:
        numbers = [name for name in os.listdir(proc) if name.isdecimal()]
    except OSError:
        return True
    for number in numbers:
        try:
            with open(f"{proc}/{number}/comm", encoding="ascii", errors="replace") as file:
                ours = os.fstat(file.fileno()).st_uid == os.getuid()
                if ours and file.read().strip() == RAYLET:
                    return True
        except OSError:
            continue  # It has ended meanwhile.
    return False


class Company:
    """Knows when Ray has gone for good: it was there, and then it was not for `ABSENT_S`.

    Args:
        runs: Whether it is there.
        clock: Monotonic seconds.
    """

    def __init__(
        self, runs: Callable[[], bool] = ray_runs, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._runs, self._clock = runs, clock
        self._last: float | None = None
        self._next = 0.0

    def gone(self) -> bool:
        """Look, unless that was just done."""
        now = self._clock()
        if now >= self._next:
            self._next = now + LOOK_S
            if self._runs():
                self._last = now
        return self._last is not None and now - self._last >= ABSENT_S
