"""A sweep that no machine can work for: what is said of it, and when. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

#: Seconds after which it is said again: minutes first, then hours.
AGAIN_S = (60.0, 300.0, 900.0, 1800.0, 3600.0)


class Waiting:
    """Since when a sweep waits for machines, and the lines that are due.

    Attributes:
        since: Monotonic seconds of its begin; None while it does not wait.
        what: What it waits for.
    """

    def __init__(self) -> None:
        self.since: float | None = None
        self.what = ""
        self._at = ""
        self._due: Iterator[float] = iter(())
        self._next = 0.0

    def look(self, what: str, now: float, at: str) -> list[str]:
        """One look at it.

        Args:
            what: What is waited for; "" when machines are there.
            now: Monotonic seconds.
            at: The time of day, for people.

        Returns:
            The lines that are due.
        """
        self.what = what
        if not what:
            since, self.since = self.since, None
            return [] if since is None else [f"machines are there, after {long(now - since)}"]
        if self.since is None:
            self.since, self._at = now, at
            self._due = itertools.chain(AGAIN_S, itertools.count(2 * AGAIN_S[-1], AGAIN_S[-1]))
            self._next = next(self._due)
            return [f"waits for machines: {what}"]
        waited = now - self.since
        if waited < self._next:
            return []
        while self._next <= waited:
            self._next = next(self._due)
        return [f"waits for machines since {self._at} ({long(waited)}): {what}"]

    def shown(self, now: float) -> tuple[str, float] | None:
        """What is waited for, and for how many seconds; None for nothing."""
        return None if self.since is None else (self.what, now - self.since)


def long(seconds: float) -> str:
    """A time in one unit: 90 s, 15 min, 5.5 h."""
    minutes = seconds / 60
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
