"""What happens in a sweep, as values: told by the book, read by whoever watches."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Started:
    """A slot took a run."""

    run_id: str
    slot: str


@dataclass(frozen=True)
class EpochDone:
    """A run ended an epoch; `values` are those of its curve."""

    run_id: str
    epoch: int
    step: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class Finished:
    """A run is trained and scored.

    Attributes:
        run_id: The run.
        values: Point -> value of the objective; NaN where undefined.
        cost: Seconds by kind, of the last attempt.
        at: Monotonic seconds of the broker's machine.
    """

    run_id: str
    values: Mapping[str, float]
    cost: Mapping[str, float]
    at: float


@dataclass(frozen=True)
class Failed:
    """A run ended without a result.

    Attributes:
        run_id: The run.
        message: Why, in one line.
        place: Where: slot, machine, rank, file and line, as far as known.
        log: File that has the whole story; "" when there is none.
        recorded: Whether the run's own record says so already.
    """

    run_id: str
    message: str
    place: str = ""
    log: str = ""
    recorded: bool = True


@dataclass(frozen=True)
class HandedBack:
    """A run waits again, to be resumed."""

    run_id: str


@dataclass(frozen=True)
class Message:
    """A line for the person."""

    text: str


Happening = Started | EpochDone | Finished | Failed | HandedBack | Message


@dataclass
class Ring(Generic[T]):
    """The latest entries, numbered from 0; older ones are forgotten.

    Args:
        size: How many are kept.
    """

    size: int
    end: int = 0
    _kept: deque[T] = field(default_factory=deque)

    def add(self, entry: T) -> None:
        """Append an entry."""
        self._kept.append(entry)
        self.end += 1
        if len(self._kept) > self.size:
            self._kept.popleft()

    def since(self, number: int) -> tuple[list[T], int]:
        """Entries from `number` on that are still kept, and how many of them are not."""
        begin = self.end - len(self._kept)
        skipped = max(0, begin - number)
        first = max(number, begin) - begin
        return [self._kept[index] for index in range(first, len(self._kept))], skipped
