"""The gate for storage trouble: what must not be lost is written until it is written.

A full disk, a quota, a file server that is away: whoever writes a run's record waits there, says
so, and goes on by itself when it is over. Nothing is lost and nothing fails; a stop ends the wait.

Imports no torch: the driver and the broker may use it as well.
"""

from __future__ import annotations

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
