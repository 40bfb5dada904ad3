"""What the records of a sweep say while it is disturbed: how far it is, and what was accepted."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vesselflow.records.atomic import read_json_or_none
from vesselflow.records.checkpoints import Checkpoints
from vesselflow.records.paths import AnyPath, BucketPath, names_in, there
from vesselflow.records.runs import RunRecord


@dataclass(frozen=True)
class Accepted:
    """A run as it was when it was first seen to be accepted.

    Attributes:
        content: Of the file that says so.
        attempts: That had begun by then.
    """

    content: bytes
    attempts: int


class Watch:
    """Follows a sweep by its records alone.

    Args:
        results: Where they are.
        steps: Run -> its steps in all, of every run of the sweep; at least one.

    Attributes:
        accepted: Runs that were seen to be accepted.
        share: Of the sweep's steps, those that checkpoints hold, as last seen.
    """

    def __init__(self, results: AnyPath, steps: Mapping[str, int]) -> None:
        self.results, self._steps = results, dict(steps)
        self._reached = dict.fromkeys(steps, 0)
        self.accepted: dict[str, Accepted] = {}
        self.share = 0.0

    def look(self) -> float:
        """Look at all runs that are not done; the share of steps that are kept by now.

        A storage that is away is as it was when last seen.
        """
        for run in self._steps.keys() - self.accepted.keys():
            with contextlib.suppress(OSError):
                self._look_at(run)
        self.share = sum(self._reached.values()) / max(1, sum(self._steps.values()))
        return self.share

    def _look_at(self, run: str) -> None:
        record = RunRecord(self.results, run)
        if record.accepted() is not None:
            content = (record.folder / "accepted.json").read_bytes()
            self.accepted[run] = Accepted(content, len(self.attempts(run)))
            self._reached[run] = self._steps[run]
            return
        newest = self.newest(run)
        if newest is not None:
            # An older one may be all that is left of a torn one.
            self._reached[run] = max(self._reached[run], newest[1])

    def attempts(self, run: str) -> list[int]:
        """Numbers of a run's attempts, in order."""
        names = names_in(self.results / "runs" / run / "attempts")
        return sorted(int(name) for name in names if name.isdecimal())

    def newest(self, run: str) -> tuple[int, int] | None:
        """Attempt and step of a run's furthest checkpoint; None without any."""
        found = []
        for number in self.attempts(run):
            folder = RunRecord(self.results, run).attempt_folder(number) / "checkpoints"
            found += [(step, number) for step in Checkpoints(folder).steps()]
        return max(found)[::-1] if found else None

    def working(self) -> list[tuple[str, int, str]]:
        """Run, newest attempt and its machine, of all that have begun and are not accepted."""
        found = []
        for run in sorted(self._steps.keys() - self.accepted.keys()):
            if numbers := self.attempts(run):
                found.append((run, numbers[-1], self._machine(run, numbers[-1])))
        return found

    def _machine(self, run: str, attempt: int) -> str:
        cost = read_json_or_none(RunRecord(self.results, run).attempt_folder(attempt) / "cost.json")
        return str(cost.get("machine", "")) if isinstance(cost, dict) else ""

    def redone(self) -> list[str]:
        """A line for each run that something happened to after it was accepted."""
        found = []
        for run, then in sorted(self.accepted.items()):
            path = self.results / "runs" / run / "accepted.json"
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                found.append(f"{run}: its acceptance is gone")
                continue
            if content != then.content:
                found.append(f"{run}: another attempt is accepted than before")
            late = len(self.attempts(run)) - then.attempts
            if late or (late := self._begun_later(run)):
                found.append(f"{run}: {late} attempt(s) began after it was accepted")
        return found

    def _begun_later(self, run: str) -> int:
        """Attempts that began after the acceptance by their files; a bucket has whole seconds."""
        folder = self.results / "runs" / run
        if isinstance(folder, BucketPath):
            return 0
        accepted = (folder / "accepted.json").stat().st_mtime_ns
        begun = (folder / "attempts" / str(n) / "attempt.json" for n in self.attempts(run))
        return sum(path.exists() and path.stat().st_mtime_ns > accepted for path in begun)

    def chains(self) -> dict[str, list[tuple[int, int, str]]]:
        """Run -> number, step that it resumed from and machine of each of its attempts."""
        found: dict[str, list[tuple[int, int, str]]] = {}
        for run in sorted(self._steps):
            for number in self.attempts(run):
                folder = RunRecord(self.results, run).attempt_folder(number)
                content = read_json_or_none(folder / "attempt.json")
                if isinstance(content, dict):
                    point = content.get("resumed_from") or {}
                    each = (number, _count(point.get("step")), self._machine(run, number))
                    found.setdefault(run, []).append(each)
        return found

    def ended_twice(self) -> list[str]:
        """A line for each run that several attempts trained to its end."""
        found = []
        for run in sorted(self._steps):
            folders = (RunRecord(self.results, run).attempt_folder(n) for n in self.attempts(run))
            ended = sum(there(folder / "curve.json") for folder in folders)
            if ended > 1:
                found.append(f"{run}: by {ended} attempts")
        return found


def steps_of(results: AnyPath) -> dict[str, int]:
    """Run -> its steps, of the finished runs of some results."""
    found = {}
    for run in sorted(name for name in names_in(results / "runs") if name[0] != "."):
        accepted = RunRecord(results, run).accepted()
        if accepted is not None:
            found[run] = int(accepted["summary"].get("steps", 0))
    return found


def _count(value: Any) -> int:
    known = isinstance(value, int | float) and not isinstance(value, bool) and value == value
    return int(value) if known else 0
