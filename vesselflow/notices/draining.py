"""Has a node drained, again and again until it is, without ever waiting for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from vesselflow.notices.sources import Notice

if TYPE_CHECKING:
    import subprocess

#: Seconds until a drain that failed is tried again: first, and at most.
AGAIN_S, LATEST_S = 1.0, 5.0
#: Seconds after which a drain that hangs is killed.
HANGS_S = 20.0
#: Seconds between two drains while a notice stands: Ray may have been started anew meanwhile.
RENEW_S = 20.0
#: The exit code of "this machine has no node in the cluster".
NO_NODE = 3


class Try(Protocol):
    """One try, under way."""

    def ended(self) -> tuple[int, str] | None:
        """Exit code and the last line it said; None while it is under way."""

    def kill(self) -> None:
        """End it."""


@dataclass(frozen=True)
class Command:
    """Starts tries.

    Attributes:
        words: The command, without message and seconds.
    """

    words: Sequence[str]

    def __call__(self, message: str, left_s: float | None) -> Try:
        """Start one."""
        words = [*self.words, "--message", message]
        if left_s is not None:
            words += ["--seconds", f"{max(1.0, left_s):.1f}"]
        return _Process(words)


class _Process:
    def __init__(self, words: Sequence[str]) -> None:
        import subprocess  # In the hour of a notice only: it takes a MB.

        self._process: subprocess.Popen[str] = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    def ended(self) -> tuple[int, str] | None:
        code = self._process.poll()
        if code is None:
            return None
        lines = self._process.communicate()[0].strip().splitlines()
        return code, lines[-1] if lines else f"exit code {code}"

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


class Draining:
    """Drains for the most urgent of the notices that stand.

    Args:
        start: (message, seconds left) -> a try.
        say: Gets a line for every event.
        clock: Monotonic seconds.

    Attributes:
        done: Whether the node was drained since the latest notice came.
        absent: Whether there was no node to be drained, as far as the latest try knows.
    """

    def __init__(
        self,
        start: Callable[[str, float | None], Try],
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._start, self._say, self._clock = start, say, clock
        self.done = self.absent = False
        self._notice: Notice | None = None
        self._ends: float | None = None
        self._try: Try | None = None
        self._tried_at = self._next = 0.0
        self._failed = 0
        self._told = ""

    def take(self, notice: Notice) -> bool:
        """Take a notice; False when it says nothing new, or less than the one that stands."""
        now = self._clock()
        ends = None if notice.left_s is None else now + notice.left_s
        standing = self._notice
        if standing is not None:
            firmer = notice.firm and not standing.firm
            # Some seconds of jitter between two answers are no news.
            sooner = ends is not None and (self._ends is None or ends < self._ends - 10)
            if not firmer and not sooner:
                return False
        self._notice, self._ends = notice, ends
        self.done, self._failed, self._next, self._told = False, 0, now, ""
        return True

    def turn(self) -> float | None:
        """Do what is due; seconds until something may be due again, None without a notice."""
        notice, now = self._notice, self._clock()
        if notice is None:
            return None
        if self._try is not None:
            ended = self._try.ended()
            if ended is None and now - self._tried_at < HANGS_S:
                return 0.1
            if ended is None:
                self._try.kill()
                ended = 1, f"no answer within {HANGS_S:.0f} s"
            self._try = None
            self._take_end(*ended, now)
        if now >= self._next:
            left = None if self._ends is None else self._ends - now
            self._try, self._tried_at = self._start(notice.text, left), now
            return 0.1
        return self._next - now

    def end(self) -> None:
        """Leave nothing behind."""
        if self._try is not None:
            self._try.kill()
            self._try = None

    def _take_end(self, code: int, line: str, now: float) -> None:
        self.absent = code == NO_NODE
        if code == 0:
            if not self.done:
                took = f"{now - self._tried_at:.1f} s"
                self._say(f"drained in {took}: {line}")
            self.done, self._failed, self._told = True, 0, ""
            self._next = now + RENEW_S
            return
        if code == NO_NODE and self.done:
            # As it should be: a drained node ends when its last work has.
            self._next = now + RENEW_S
            return
        self._failed += 1
        self._next = now + min(LATEST_S, AGAIN_S * 2 ** min(self._failed - 1, 10))
        if line != self._told:
            self._told = line
            self._say(f"NOT DRAINED: {line}; tried again until it is")
