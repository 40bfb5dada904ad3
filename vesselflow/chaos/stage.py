"""Where a seed is played, and what is told of it afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from vesselflow.chaos.comparison import Ended, Notice
from vesselflow.chaos.marks import Hit
from vesselflow.records.paths import AnyPath


class Line(NamedTuple):
    """A line of the timeline."""

    second: float
    text: str


@dataclass
class Played:
    """What happened.

    Attributes:
        timeline: What was done to whom, and what was seen.
        ended: Every driver, in the order of their ends.
        notices: Nodes that were given notice.
        kinds: Disturbances that were played; those that came too late are not among them.
        hits: What was done to which runs.
        torn: Run, attempt and step of each checkpoint that was torn.
        silent: A line for each disturbance of the storage of which no driver said anything.
        seconds: From the first driver's start to the last one's end.
        trouble: Why it was given up; empty when it was played to the end.
    """

    timeline: list[Line] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    hits: list[Hit] = field(default_factory=list)
    torn: list[tuple[str, int, int]] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    seconds: float = 0.0
    trouble: str = ""


class Storage:
    """What can be done to the storage; nothing to a folder."""

    def cut(self, seconds: float) -> None:
        """Let it be away for a while."""
        raise NotImplementedError

    def slow(self, seconds: float) -> None:
        """Let it be slow for a while."""
        raise NotImplementedError

    def fill(self, seconds: float, told: Callable[[], bool], most_s: float) -> None:
        """Let it be full for a while, at least until `told`, and at most `most_s`."""
        raise NotImplementedError


@dataclass(frozen=True)
class Stage:
    """Where a seed is played.

    Attributes:
        words: After ``vesselflow sweep``, without the address.
        results: Where the records are, as this process reaches them.
        steps: Run -> its steps, of every run of the sweep.
        folder: For logs.
        nodes: Nodes that carry slots.
        cpus: Of each.
        workers: Of a slot.
        limit_s: Seconds after which the seed has failed.
        env: What drivers and nodes are to export besides.
        storage: What can be done to the storage.
        look_s: Seconds between two looks at the records.
    """

    words: Sequence[str]
    results: AnyPath
    steps: Mapping[str, int]
    folder: Path
    nodes: int
    cpus: int
    workers: int
    limit_s: float
    env: Mapping[str, str] = field(default_factory=dict)
    storage: Storage = field(default_factory=Storage)
    look_s: float = 0.1
