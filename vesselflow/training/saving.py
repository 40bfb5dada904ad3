"""Checkpoints in two phases: a copy in memory between two steps, then the file, beside the next.

Rank 0 writes; the others wait for the copy only.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from vesselflow.errors import Interrupted
from vesselflow.training.packing import Snapshot

#: Writes one payload; called in a thread of its own. The payload holds until it returns.
Write = Callable[[memoryview], None]
#: Seconds that a write is given by a process that is about to end (Ctrl-C).
LAST_S = 10.0


class Saver:
    """Copies the state of a run, and has the copy written while the training goes on.

    There is one buffer: never two writes at a time, and in the order of the steps. What a write
    raises is raised by the next `save`, `check` or `wait`; as a context, at the latest at its end.

    Args:
        save: ``(step) -> write``: called at once; what it returns is called in a thread.
        waiting: Called when the training begins to wait for a write.

    Attributes:
        write_s: Seconds that the last write took; 0 before the first.
    """

    def __init__(self, save: Callable[[int], Write], waiting: Callable[[], None]) -> None:
        self._save, self._waiting = save, waiting
        self._snapshot = Snapshot()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self.write_s = 0.0

    @property
    def busy(self) -> bool:
        """Whether a copy is being written."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def failed(self) -> bool:
        """Whether the last write ended in an error that is still to be raised."""
        return not self.busy and self._error is not None

    def save(self, step: int, state: Any) -> None:
        """Copy a state, and begin to write it; a write before it is waited for.

        Args:
            step: Steps done.
            state: What `packing` takes; it may change as soon as this returns.
        """
        self._join()
        if isinstance(self._error, Interrupted):
            # A stop ended the wait for the storage: this newer copy takes its turn.
            self._error = None
        self.check()
        payload, write = self._snapshot.take(state), self._save(step)
        self._thread = threading.Thread(
            target=self._run, args=(write, payload), name=f"checkpoint {step}", daemon=True
        )
        self._thread.start()

    def check(self) -> None:
        """Raise what the last write raised, once, if it has ended so."""
        if self.failed:
            error, self._error = self._error, None
            assert error is not None
            raise error

    def wait(self) -> None:
        """Wait until the last copy is written, or could not be."""
        self._join()
        self.check()

    def __enter__(self) -> Saver:
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for the last write: whatever ends the training, a copy in memory is not lost.

        A process that is about to end (Ctrl-C) does so only for some seconds. What the write raises
        is no news beside an error of the training.
        """
        if kind is None:
            self.wait()
        else:
            self._join(None if issubclass(kind, Exception) else LAST_S)

    def _join(self, limit_s: float | None = None) -> None:
        if self._thread is not None and self._thread.is_alive():
            self._waiting()
            self._thread.join(limit_s)

    def _run(self, write: Write, payload: memoryview) -> None:
        began = time.monotonic()
        try:
            write(payload)
        except BaseException as error:
            self._error = error
        self.write_s = time.monotonic() - began
