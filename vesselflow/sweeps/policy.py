"""What to do when something fails: a pure function from event to action."""

from __future__ import annotations

import enum


class Event(enum.Enum):
    """What happened to a run."""

    WORKER_DIED = "its worker died on a machine that lives"
    NODE_GONE = "its machine is gone"
    HANDED_BACK = "its slot handed it back"
    RAISED = "its code raised an error"
    DIVERGED = "its gradients were not finite"


class Action(enum.Enum):
    """What is done about it."""

    RESUME = "resume from the last checkpoint"
    FAIL = "mark as failed; the sweep goes on"


def decide(event: Event, deaths: int, retries: int) -> Action:
    """Decide about one run.

    Args:
        event: What happened.
        deaths: How often this run has killed its worker on a living machine, this time included.
        retries: Deaths that are forgiven.
    """
    if event in (Event.RAISED, Event.DIVERGED):
        return Action.FAIL
    if event is Event.WORKER_DIED and deaths > retries:
        return Action.FAIL
    return Action.RESUME
