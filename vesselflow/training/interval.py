"""When a checkpoint is due: often enough for the failures that were seen, as rarely as it costs.

Imports no torch: whoever counts failures uses it as well.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

#: Seconds between two checkpoints at least, unless the run asks for less: many slots write to one
#: storage, and what can be saved by more of them is small.
SHORTEST_S = 30.0
#: Before anything was seen, one failure in an hour is expected: of a slot on spot machines in a
#: bad hour. It counts as one failure beside those that were seen.
PRIOR_S = 3600.0
#: Steps of which the undisturbed pace is the median; saves of which the cost is.
PACE_STEPS, COST_SAVES = 32, 5


@dataclass(frozen=True)
class Survival:
    """How long slots worked, and how often one lost what it had in memory.

    Attributes:
        seconds: Of work of all slots together.
        failures: Within them: dead or silent workers, lost machines; no stops and no notices.
    """

    seconds: float = 0.0
    failures: int = 0

    def mean_s(self, more_s: float = 0.0) -> float:
        """Mean time between failures of one slot, in seconds.

        The mean of failures that come at random (a Poisson process) with one more failure in
        `PRIOR_S` seconds: the posterior of a Gamma(1, 3600 s) prior of their rate. No failure at
        all gives a number, too, that grows with the time.

        Args:
            more_s: Seconds of work since then, without a failure.
        """
        return (PRIOR_S + self.seconds + more_s) / (1 + self.failures)


NOTHING_SEEN = Survival()


def best_interval(cost_s: float, mean_s: float) -> float:
    """Seconds between checkpoints that lose least: sqrt(2 cost mean).

    The work that a failure takes (half an interval) and what checkpoints cost are equal then; first
    order in cost / mean. Young, A first order approximation to the optimum checkpoint interval,
    CACM 17(9), 1974; where a checkpoint costs twice the mean or more, the mean, as Daly, A higher
    order estimate of the optimum checkpoint interval for restart dumps, FGCS 22(3), 2006, eq. 37.

    Args:
        cost_s: Seconds that one checkpoint takes from the training.
        mean_s: Mean time between failures.
    """
    return mean_s if cost_s >= 2 * mean_s else math.sqrt(2 * cost_s * mean_s)


class Due:
    """Tells when the next checkpoint is due, from what those before it have cost.

    A checkpoint costs the time for which the training stands still, and what its steps take longer
    while the file is written beside them.

    Args:
        longest_s: Longest time without a checkpoint, until it is written; it wins over
            `SHORTEST_S`.
        survival: What was seen of failures before.
        clock: Monotonic seconds.
    """

    def __init__(self, longest_s: float, survival: Survival, clock: Callable[[], float]) -> None:
        self._longest_s, self._survival, self._clock = longest_s, survival, clock
        self._began = self._saved = clock()
        self._pace: deque[float] = deque(maxlen=PACE_STEPS)
        self._costs: deque[float] = deque(maxlen=COST_SAVES)
        self._stood_s: float | None = None
        self._slower_s = 0.0

    def step(self, seconds: float, writing: bool) -> None:
        """A step was done.

        Args:
            seconds: That it took.
            writing: Whether a checkpoint was written beside it.
        """
        if not writing:
            self._pace.append(seconds)
        elif self._pace:
            self._slower_s += seconds - statistics.median(self._pace)

    def saved(self, began: float) -> None:
        """The state was copied; the training stood still from `began` until now."""
        if (cost := self._last_cost()) is not None:
            self._costs.append(cost)
        self._saved, self._slower_s = began, 0.0
        self._stood_s = self._clock() - began

    def interval_s(self, write_s: float = 0.0) -> float:
        """Seconds from one copy to the next, by what is known now.

        Args:
            write_s: Seconds from a copy to its whole file.
        """
        shortest, longest = SHORTEST_S, max(0.0, self._longest_s - write_s)
        last = self._last_cost()
        if last is None:
            return min(shortest, longest)
        cost_s = statistics.median([*self._costs, last])
        mean_s = self._survival.mean_s(self._clock() - self._began)
        return min(longest, max(shortest, best_interval(cost_s, mean_s)))

    def now(self, write_s: float = 0.0) -> bool:
        """Whether a checkpoint is due; `write_s` as of `interval_s`."""
        return self._clock() - self._saved >= self.interval_s(write_s)

    def _last_cost(self) -> float | None:
        """Seconds that the newest checkpoint has cost so far; None before the first."""
        return None if self._stood_s is None else self._stood_s + max(0.0, self._slower_s)
