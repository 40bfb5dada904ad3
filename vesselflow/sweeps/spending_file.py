"""In a sweep's folder: what the machines of each of its starts have cost."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from vesselflow.errors import VesselflowError
from vesselflow.records.atomic import read_json_or_none, write_json
from vesselflow.records.paths import AnyPath

#: The file.
SPENDING = "spending.json"
#: Starts that are kept.
KEPT = 200
#: Seconds between two notes: what a killed driver leaves out at most.
NOTE_S = 60.0
#: Seconds for which the last word waits for the note before it.
LAST_S = 10.0


class SpendingFile:
    """Notes what a start has cost so far, now and then.

    Args:
        folder: The sweep's.
        clock: Monotonic seconds.
    """

    def __init__(self, folder: AnyPath, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = folder / SPENDING, clock
        self._start = {
            "start": secrets.token_hex(8),
            "began": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self._next = clock() + NOTE_S
        self._writing: threading.Thread | None = None

    def note(self, rows: Sequence[dict[str, Any]], *, last: bool = False) -> None:
        """Note what has been spent, when it is time to; nothing is raised.

        Before the last word nobody waits for the storage.

        Args:
            rows: As `Spending.rows` gives them.
            last: It is the last word.
        """
        if not rows or (not last and self._clock() < self._next):
            return
        if last:
            if self._writing is not None:
                self._writing.join(LAST_S)
            self._write(rows)
        elif self._writing is None or not self._writing.is_alive():
            self._next = self._clock() + NOTE_S
            self._writing = threading.Thread(target=self._write, args=(rows,), daemon=True)
            self._writing.start()

    def _write(self, rows: Sequence[dict[str, Any]]) -> None:
        with contextlib.suppress(OSError, VesselflowError):
            own = self._start["start"]
            starts = [one for one in read_spending(self._path) if one.get("start") != own]
            starts.append({**self._start, "machines": list(rows)})
            write_json(self._path, starts[-KEPT:])


def read_spending(path: AnyPath) -> list[dict[str, Any]]:
    """What was noted of each start; empty where nothing is there or nothing can be read."""
    content = read_json_or_none(path)
    return [one for one in content if isinstance(one, dict)] if isinstance(content, list) else []
