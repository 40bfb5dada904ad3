"""One try of a run: its part of the curve, its cost, its log, its checkpoints."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol

from vesselflow.records.atomic import explained, json_bytes, write_bytes, write_json
from vesselflow.records.checkpoints import Checkpoints
from vesselflow.records.curves import part_path, rows_of
from vesselflow.records.paths import AnyPath, BucketPath
from vesselflow.records.status import RunState, Status


class Run(Protocol):
    """What an attempt asks of the record of its run."""

    def attempt_folder(self, number: int) -> AnyPath:
        """Where an attempt writes."""

    def status(self, noted: Status | None = None) -> Status:
        """How the run stands; `noted` is its note, where that is known."""

    def write_status(self, status: Status) -> None:
        """Write a note of how it stands."""


class Written:
    """What an attempt wrote itself, so that it need not be read again.

    Attributes:
        resumed_from: Step and attempt that it resumed from; None for a fresh start.
        parts: The parts of its curve, as they would be read.
    """

    def __init__(self, resumed_from: tuple[int, int] | None) -> None:
        self.resumed_from = resumed_from
        self.parts: dict[int, list[dict[str, Any]]] = {}


class Attempt:
    """One try of a run; made by `RunRecord.begin_attempt`.

    Attributes:
        number: 1 for the first.
        folder: Where it writes.
        checkpoints: Its own checkpoints.
        written: What this process wrote of it; None for an attempt that another one began.
        noted: What it noted last of its run; None before.
    """

    def __init__(self, record: Run, number: int, resumes: tuple[int, bytes] | None) -> None:
        self._record, self.number, self._resumes = record, number, resumes
        self._logged: set[str] = set()
        self._log = b""
        self.written: Written | None = None
        self.noted: Status | None = None
        self.folder = record.attempt_folder(number)
        self.checkpoints = Checkpoints(self.folder / "checkpoints")

    def resume_point(self) -> tuple[int, bytes] | None:
        """Step and payload of the checkpoint that it resumes from; None for a fresh start."""
        return self._resumes

    def write_rows(self, part: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write one part of the curve; written again, a part replaces itself.

        Args:
            part: The step at which it was measured. The part counts when this attempt ends
                accepted, or when a later one resumes from a checkpoint of this or a later step.
            rows: Plain values; ``epoch`` shows in the run's status.
        """
        path = part_path(self.folder, part)
        with explained(path.parent):
            path.parent.mkdir(exist_ok=True)
        content = json_bytes(list(rows))
        write_bytes(path, content)
        if self.written is not None:
            self.written.parts[part] = rows_of(json.loads(content)) or []
        epochs = [int(row["epoch"]) for row in rows if "epoch" in row]
        self.note(steps=part, **({"epochs": max(epochs)} if epochs else {}))

    def note(self, **changes: Any) -> None:
        """Change the run's note, unless it is finished, or this attempt was taken over."""
        noted = self._record.status(self.noted)
        # An attempt that was taken over, or came too late, no longer speaks for the run.
        if self.number >= noted.attempts and noted.state is not RunState.FINISHED:
            self.noted = replace(noted, **changes)
            self._record.write_status(self.noted)

    def write_cost(self, cost: Mapping[str, Any]) -> None:
        """Write what the attempt cost: seconds, machine; replaces what it said before."""
        write_json(self.folder / "cost.json", dict(cost))

    def log(self, text: str) -> None:
        """Add a line, with the time, to the attempt's log: all of it, or nothing.

        Raises:
            StorageTrouble: The disk does not take it.
        """
        line = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {text}\n".encode()
        if isinstance(self.log_path, BucketPath):
            # An object cannot grow: it is written anew, as it is known here.
            write_bytes(self.log_path, self._log_so_far(self.log_path) + line)
            self._log += line
            return
        with explained(self.folder), open(self.log_path, "ab", buffering=0) as file:
            start = file.tell()
            try:
                while line:
                    line = line[file.write(line) :]
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(start)
                raise

    def _log_so_far(self, path: AnyPath) -> bytes:
        if not self._log:
            with contextlib.suppress(FileNotFoundError):
                self._log = path.read_bytes()
        return self._log

    def log_once(self, text: str) -> None:
        """`log`, unless this attempt logged the same text so already: for what is tried again."""
        if text not in self._logged:
            self.log(text)
            self._logged.add(text)

    @property
    def log_path(self) -> AnyPath:
        """Where the log is."""
        return self.folder / "log.txt"
