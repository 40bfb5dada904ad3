"""What an attempt notes of its cost while it works, so that a kill leaves it behind."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vesselflow.errors import VesselflowError
from vesselflow.records.attempts import Attempt
from vesselflow.sweeps.cost_machine import Seat

#: Seconds between two notes: what a driver's kill hides of an attempt at most. At the price of a
#: write to a bucket ($5 a million) it costs 0.06 cents an hour for a slot.
NOTE_S = 30.0


@dataclass(frozen=True)
class Taken:
    """How a slot came to the run that it works on.

    Attributes:
        seat: Where the slot sits.
        reached: Step to which the sweep knows that the run had come before; 0 where it had not.
        idle_s: Seconds that the slot waited for it.
        slot_start_s: Seconds that the slot's processes took to start, where it is their first run.
    """

    seat: Seat = field(default_factory=Seat)
    reached: int = 0
    idle_s: float = 0.0
    slot_start_s: float = 0.0


def reached_before(costs: list[dict[str, Any]]) -> int:
    """The furthest step that earlier attempts said they had done; 0 without any."""
    said = [(cost.get("from_step", 0), cost.get("steps", 0)) for cost in costs]
    steps = [
        int(start + done)
        for start, done in said
        if isinstance(start, int | float)
        and isinstance(done, int | float)
        and 0 <= start + done < 2**53
    ]
    return max(steps, default=0)


class CostNotes:
    """Writes an attempt's cost now and each `NOTE_S`, in a thread that training never waits for.

    Args:
        attempt: Whose cost it is.
        cost: What it is now.
    """

    def __init__(self, attempt: Attempt, cost: Callable[[], Mapping[str, Any]]) -> None:
        self._attempt, self._cost = attempt, cost
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True, name="cost-notes")
        self._thread.start()

    def write(self) -> None:
        """Write a note now.

        Raises:
            UserError: The storage does not take it.
        """
        with self._lock:
            self._attempt.write_cost(self._cost())

    def end(self) -> None:
        """Write no more by itself."""
        self._over.set()

    def _run(self) -> None:
        while True:
            with contextlib.suppress(OSError, VesselflowError), self._lock:
                # Ended meanwhile: the last word is the attempt's own.
                if self._over.is_set():
                    return
                self._attempt.write_cost(self._cost())
            if self._over.wait(NOTE_S):
                return
