"""The gate for storage trouble: what must not be lost is written until it is written.

A full disk, a quota, a file server that is away: whoever writes a run's record waits there, says
so, and goes on by itself when it is over. Nothing is lost and nothing fails; a stop ends the wait.

Imports no torch: the driver and the broker may use it as well.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from vesselflow.errors import Interrupted
from vesselflow.records.atomic import storage_trouble

T = TypeVar("T")

#: Seconds of the first pause between two tries, and of the longest; each is twice the one before.
FIRST_S, LONGEST_S = 0.5, 10.0
#: Seconds between two looks at whether a stop was asked, within a pause.
LOOK_S = 0.5


class Troubles:
    """What is wrong with the storage, as several gates of one run meet it: told as one trouble.

    A run has two: that of its steps, and that of the checkpoint which is written beside them.

    Args:
        tell: Told in one line what is wrong, and "" when nothing is any more; from any thread, one
            at a time.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._now: dict[int, str] = {}
        self._gates = 0

    def gate(self, should_stop: Callable[[], bool]) -> Gate:
        """Another gate; `should_stop` as of `Gate`."""
        self._gates += 1
        number = self._gates
        return Gate(lambda text: self._meet(number, text), lambda: self._over(number), should_stop)

    def repeat(self) -> None:
        """Tell the trouble again, if there is one: somebody begins to wait for its end."""
        with self._lock:
            if self._now:
                self._tell(self._told)

    @property
    def _told(self) -> str:
        """What is told: what is wrong for the one that met it first; "" for nothing."""
        return next(iter(self._now.values()), "")

    def _meet(self, gate: int, text: str) -> None:
        with self._lock:
            before = self._told
            self._now[gate] = text
            if self._told != before:
                self._tell(self._told)

    def _over(self, gate: int) -> None:
        with self._lock:
            before = self._told
            self._now.pop(gate, None)
            if self._told != before:
                self._tell(self._told)


class Gate:
    """Lets actions through that write, each as often as it needs.

    Args:
        trouble: Told in one line what is wrong, once for each trouble that is another than before.
        over: Told when a trouble that was told is over, or is waited for no longer.
        should_stop: Whether somebody asks to stop.
        sleep: Waits some seconds.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        trouble: Callable[[str], None],
        over: Callable[[], None],
        should_stop: Callable[[], bool],
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._trouble, self._over, self._should_stop = trouble, over, should_stop
        self._sleep, self._clock = sleep, clock
        #: Seconds waited so far.
        self.waited_s = 0.0

    def keep(self, action: Callable[[], T]) -> T:
        """Do what writes (or reads) until the storage lets it, and return its result.

        Args:
            action: May be done again after any part of it; what it raises that is no trouble of
                the storage is raised at once.

        Raises:
            Interrupted: A stop was asked while the trouble lasts; the action is not done.
        """
        told, pause = "", FIRST_S
        try:
            while True:
                try:
                    return action()
                except Exception as error:
                    trouble = storage_trouble(error)
                    if trouble is None:
                        raise
                    if str(trouble) != told:
                        told = str(trouble)
                        self._trouble(told)
                    if self._should_stop():
                        raise Interrupted(f"stopped while the storage was away: {told}") from error
                self._wait(pause)
                pause = min(2 * pause, LONGEST_S)
        finally:
            if told:
                self._over()

    def _wait(self, seconds: float) -> None:
        began = self._clock()
        while (left := began + seconds - self._clock()) > 0 and not self._should_stop():
            self._sleep(min(left, LOOK_S))
        self.waited_s += self._clock() - began
