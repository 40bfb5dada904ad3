"""What to do when something happens to a run: a pure function from event to action."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Event(enum.Enum):
    """What happened to a run while a slot held it; the value is how a person is told."""

    WORKER_DIED = "its worker died on a machine that lives"
    PEER_LOST = "one of its workers lost another"
    PEER_GONE = "one of its workers lost another, or that one's machine"
    OUT_OF_MEMORY = "its worker ran out of memory"
    HUNG = "it made no progress"
    SILENT = "its slot fell silent"
    NODE_GONE = "its machine is gone"
    CLUSTER = "the cluster lost something that it needed"
    STORAGE = "the storage was in trouble"
    HANDED_BACK = "its slot handed it back"
    RAISED = "its code raised an error"
    DIVERGED = "its gradients were not finite"


class Action(enum.Enum):
    """What is done about it."""

    RESUME = "resume from the last checkpoint"
    FAIL = "mark as failed; the sweep goes on"


#: Another try would meet them again.
_FINAL = frozenset({Event.RAISED, Event.DIVERGED})
#: What the run itself may have caused: forgiven `retries` times.
_DEATHS = frozenset({Event.WORKER_DIED, Event.PEER_LOST, Event.OUT_OF_MEMORY, Event.HUNG})
#: What its surroundings caused, as far as one can tell: forgiven often, but not for ever, because
#: a run can also bring these about itself, time after time.
_MISHAPS = frozenset({Event.SILENT, Event.CLUSTER, Event.PEER_GONE})
#: What leaves a run with all that it had in memory on the storage.
_ORDERLY = frozenset({Event.HANDED_BACK, *_FINAL})
#: What a machine that is being shut down does to what runs on it.
_OF_LEAVING = frozenset({Event.WORKER_DIED, Event.PEER_LOST, Event.HUNG, *_MISHAPS})
#: Mishaps that are forgiven beyond `retries`.
PATIENCE = 8


@dataclass(frozen=True)
class Tally:
    """How often a run met what.

    Attributes:
        deaths: Ends that the run itself may have caused.
        mishaps: Ends that its surroundings seem to have caused.
    """

    deaths: int = 0
    mishaps: int = 0

    def with_event(self, event: Event) -> Tally:
        """The tally after one more event."""
        return Tally(self.deaths + (event in _DEATHS), self.mishaps + (event in _MISHAPS))


def decide(event: Event, tally: Tally, retries: int) -> Action:
    """Decide about one run.

    Args:
        event: What happened.
        tally: How often it met what, this time included.
        retries: Deaths that are forgiven.
    """
    if event in _FINAL:
        return Action.FAIL
    if event in _DEATHS and tally.deaths > retries:
        return Action.FAIL
    if event in _MISHAPS and tally.mishaps > retries + PATIENCE:
        return Action.FAIL
    return Action.RESUME


def loses_steps(event: Event) -> bool:
    """Whether the steps since the last checkpoint are lost with it."""
    return event not in _ORDERLY


def on_leaving_machine(event: Event) -> Event:
    """What an event is on a machine that was given notice: its end, which no run has caused."""
    return Event.NODE_GONE if event in _OF_LEAVING else event


def across_machines(event: Event) -> Event:
    """What an event is in a slot of several machines: whose end broke it, nobody there can tell."""
    return Event.PEER_GONE if event is Event.PEER_LOST else event


def last_words(event: Event, tally: Tally) -> str:
    """Why a run is given up, for the table of failures."""
    if event in _DEATHS:
        return f"killed its worker {tally.deaths} times on a live machine (last: {event.value})"
    if event in _MISHAPS:
        return f"was lost {tally.mishaps} times (last: {event.value})"
    return event.value
