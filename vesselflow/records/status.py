"""How a run stands, at a glance, and the note of it in the run's folder."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from vesselflow.records.atomic import read_json_or_none
from vesselflow.records.curves import is_count
from vesselflow.records.paths import AnyPath


class RunState(enum.Enum):
    """How a run stands."""

    QUEUED = "queued"
    """Nothing was tried yet."""
    RUNNING = "running"
    """An attempt has begun and has not said how it ended: it trains, or it was killed."""
    PAUSED = "paused"
    """Stopped at a checkpoint on purpose (pruned, or handed back); can be taken up again."""
    FINISHED = "finished"
    """An attempt was accepted; nothing is left to train."""
    FAILED = "failed"
    """An attempt ended in an error that another try would meet again."""

    @property
    def terminal(self) -> bool:
        """Whether nothing more happens to the run by itself."""
        return self in (RunState.FINISHED, RunState.FAILED)


@dataclass(frozen=True)
class Status:
    """A run at a glance.

    Attributes:
        state: How it stands.
        attempts: How many attempts have begun.
        epochs: Epochs of which the newest attempt has written a curve.
        steps: The step of the newest rows, or all steps of a finished run.
        message: Why it failed or paused, in one line.
        accepted_attempt: Number of the accepted attempt.
    """

    state: RunState = RunState.QUEUED
    attempts: int = 0
    epochs: int = 0
    steps: int = 0
    message: str = ""
    accepted_attempt: int | None = None


def read_note(path: AnyPath) -> Status:
    """The note in a file; an empty one where there is none, or one of another version."""
    content = read_json_or_none(path)
    if not isinstance(content, dict):
        return Status()
    try:
        noted = Status(**{**content, "state": RunState(content["state"])})
    except (ValueError, TypeError, KeyError):
        return Status()
    counts = (noted.attempts, noted.epochs, noted.steps, noted.accepted_attempt or 0)
    known = all(map(is_count, counts)) and isinstance(noted.message, str)
    return noted if known else Status()
