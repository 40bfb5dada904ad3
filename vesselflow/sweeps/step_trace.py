"""Every step and checkpoint of this process's runs, told to a local file as it happens.

For whoever wants to know to the step what a kill took: the records say how far a run came only as
often as it is kept. Off, unless `FOLDER` is exported; on one machine only, for its clock is the
machine's.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from vesselflow.records.atomic import explained

#: Names the folder; one file for each process.
FOLDER = "VESSELFLOW_STEP_TRACE"

#: What a mark may say: an attempt resumes; its first step is next; a step is done; a state was
#: copied; its checkpoint is whole on the storage; nothing is written beside the steps any more.
BEGIN, START, STEP, COPY, KEPT, FREE = "begin", "start", "step", "copy", "kept", "free"


class StepTrace:
    """The marks of one attempt. A line outlives a kill of the process, though not of the machine.

    Args:
        folder: Made where it is missing.
        run: Name of the run.
        attempt: Its number.

    Raises:
        UserError: The folder cannot be written.
    """

    def __init__(self, folder: Path, run: str, attempt: int) -> None:
        path = folder / f"{os.getpid()}.jsonl"
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)
        self._run, self._attempt = run, attempt
        self._interval_s: float | None = None

    def interval(self, seconds: float) -> bool:
        """Seconds between checkpoints, as it stands from now on; True when it was not known."""
        before, self._interval_s = self._interval_s, seconds
        return before is None

    def mark(self, what: str, step: int) -> None:
        """Note something of a step, at this moment."""
        content = {
            "at": time.monotonic(),
            "run": self._run,
            "attempt": self._attempt,
            "what": what,
            "step": step,
            "interval_s": self._interval_s,
        }
        # One write: lines of the thread that writes checkpoints come whole between the others.
        if not self._file.closed:
            self._file.write(json.dumps(content).encode() + b"\n")

    def close(self) -> None:
        """No more marks: those that come late are left out."""
        self._file.close()


def step_trace(run: str, attempt: int) -> StepTrace | None:
    """The trace of an attempt, where one is asked for."""
    folder = os.environ.get(FOLDER)
    return StepTrace(Path(folder), run, attempt) if folder else None
