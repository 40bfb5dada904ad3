"""How long slots worked on runs, and how often what a run had in memory was lost: pure, no Ray."""

from __future__ import annotations

from vesselflow.training.interval import Survival


class Exposure:
    """Counts the slot-seconds of work of a sweep, and the failures within them."""

    def __init__(self) -> None:
        self._began: dict[str, float] = {}
        self._sum_began = self._seconds = 0.0
        self._failures = 0

    def begin(self, run_id: str, now: float) -> None:
        """A slot begins to work on a run."""
        self.end(run_id, now)
        self._began[run_id] = now
        self._sum_began += now

    def end(self, run_id: str, now: float, *, failed: bool = False) -> None:
        """It works on it no more; `failed`: what was in its memory is lost."""
        began = self._began.pop(run_id, None)
        if began is None:
            return
        self._sum_began -= began
        self._seconds += max(0.0, now - began)
        self._failures += failed

    def survival(self, now: float) -> Survival:
        """What was seen until now, runs in work included."""
        working = len(self._began) * now - self._sum_began
        return Survival(self._seconds + max(0.0, working), self._failures)
