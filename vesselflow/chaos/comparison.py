"""What must hold after a sweep was disturbed. Pure, but for reading the tables."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vesselflow.chaos.marks import TakenUp
from vesselflow.evaluation.answer import ANSWER_TABLES

#: What was done to a driver -> the exit codes that it may have by that. One whose cluster's head
#: was killed may have been done before it noticed.
KILLED, HEADLESS, FULL = "killed", "the head was killed", "the disk was full"
CODES = {"": (0,), KILLED: (-9,), HEADLESS: (1, 0), FULL: (0, 2)}


@dataclass(frozen=True)
class Ended:
    """A driver that ended by itself, or that was killed.

    Attributes:
        number: 1 for the first.
        code: Its exit code; a signal's is negative.
        asked: What was done to it, one of `CODES`; empty for nothing.
    """

    number: int
    code: int
    asked: str = ""

    @property
    def well(self) -> bool:
        """Whether its code is one that fits what was done to it."""
        return self.code in CODES[self.asked]


@dataclass(frozen=True)
class Notice:
    """A node that was given notice, and then left alone until it had gone.

    Attributes:
        machine: Its name.
        working: Run -> attempt that worked there when it was given.
    """

    machine: str
    working: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """One thing that must hold.

    Attributes:
        what: In words.
        holds: Whether it does.
        seen: What was seen.
    """

    what: str
    holds: bool
    seen: str

    def plain(self) -> dict[str, Any]:
        """As it stands in the report."""
        return dict(vars(self))


def compare_tables(
    undisturbed: Mapping[str, bytes | None], disturbed: Mapping[str, bytes | None]
) -> list[Finding]:
    """Each table byte by byte, no column exempt."""
    findings = []
    for name in ANSWER_TABLES:
        ours, theirs = disturbed.get(name), undisturbed.get(name)
        same = ours is not None and ours == theirs
        seen = "equal" if same else f"{_digest(ours)} instead of {_digest(theirs)}"
        findings.append(Finding(f"table {name}", same, seen))
    return findings


def compare_codes(ended: Sequence[Ended]) -> Finding:
    """Every driver ends with a code that fits what was done to it; the last with 0."""
    told = [
        f"{each.number}: {each.code}" + (f" ({each.asked})" if each.asked else "") for each in ended
    ]
    well = all(each.well for each in ended) and bool(ended) and ended[-1].code == 0
    return Finding("exit codes", well, "; ".join(told) or "no driver ended")


def after_notices(follows: Iterable[TakenUp], notices: Iterable[Notice]) -> list[TakenUp]:
    """Those that took up what a notice had let go."""
    given = list(notices)
    return [
        each
        for each in follows
        if any(
            notice.working.get(each.run) == each.before and each.machine == notice.machine
            for notice in given
        )
    ]


def compare_work(
    redone: Sequence[str],
    taken_up: Iterable[TakenUp],
    notices: Iterable[Notice],
    *,
    missing: Sequence[str] = (),
    ended_twice: Sequence[str] = (),
) -> list[Finding]:
    """What was done twice.

    Args:
        redone: A line for each finished run that something happened to.
        taken_up: How attempts followed each other.
        notices: What was given notice.
        missing: Runs that have no result.
        ended_twice: A line for each run that several attempts trained to its end.
    """
    follows = list(taken_up)
    after = after_notices(follows, notices)
    again = sum(each.repeated for each in after)
    others = [each for each in follows if each not in after]
    faults = [each.fault for each in follows if each.fault]
    repeated = [each.repeated for each in others]
    return [
        Finding("runs without a result", not missing, ", ".join(missing) or "0"),
        Finding("finished runs redone", not redone, "; ".join(redone) or "0"),
        Finding("runs trained to their end twice", not ended_twice, "; ".join(ended_twice) or "0"),
        Finding(
            "steps repeated after a notice",
            again == 0,
            f"{again} of {len(after)} run(s) that went on elsewhere"
            + "".join(f"; {each.run} attempt {each.attempt}" for each in after if each.repeated),
        ),
        Finding(
            "steps repeated after a kill: at most one interval",
            not faults,
            f"{sum(repeated)} in {len(repeated)} attempt(s) that took a run up again, at most "
            f"{max(repeated, default=0)} in one" + "".join(f"; {fault}" for fault in faults),
        ),
    ]


def compare_words(silent: Sequence[str]) -> Finding:
    """Every trouble of the storage is told by a driver while it lasts."""
    return Finding("trouble of the storage is told", not silent, "; ".join(silent) or "yes")


def tell_gaps(gaps: Iterable[tuple[str, str, float]]) -> list[Finding]:
    """How long runs stood after kills: told, and no condition, for this machine may be busy.

    Args:
        gaps: Kind, run, and seconds from the kill to the run's next step, as of `next_steps`.
    """
    by_node: dict[bool, list[float]] = {True: [], False: []}
    for kind, _, seconds in gaps:
        by_node[kind == "lose-node"].append(seconds)
    return [
        Finding(
            "seconds from a lost node to the next step of its runs", True, _told(by_node[True])
        ),
        Finding("seconds from another kill to the next step", True, _told(by_node[False])),
    ]


def _told(seconds: Sequence[float]) -> str:
    if not seconds:
        return "none to measure"
    median, worst = statistics.median(seconds), max(seconds)
    return f"median {median:.1f}, worst {worst:.1f}, of {len(seconds)} (asked on quiet cores: 30)"


def _digest(content: bytes | None) -> str:
    return "no file" if content is None else hashlib.sha256(content).hexdigest()[:12]
