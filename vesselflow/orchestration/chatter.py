"""Ray's own words go to a file: what its C++ and Python threads write to stderr. No Ray here."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

#: A log that has grown beyond this begins anew.
LOG_BYTES = 16 * 2**20


class Chatter:
    """Sends file descriptor 2 to a log, for all threads and for C++; stdout is untouched.

    Args:
        log: Where to; appended. When it cannot be written, a file in the temporary folder is.

    Attributes:
        log: The file that is written.
    """

    def __init__(self, log: Path) -> None:
        handle, self.log = _opened(log)
        _flush()
        self._stderr = os.dup(2)
        os.dup2(handle, 2)
        os.close(handle)
        head = f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} process {os.getpid()}\n"
        with contextlib.suppress(OSError):  # A full disk is nothing that the log can mend.
            os.write(2, head.encode())

    def end(self) -> None:
        """Give stderr back; a second call does nothing."""
        if self._stderr < 0:
            return
        _flush()
        os.dup2(self._stderr, 2)
        os.close(self._stderr)
        self._stderr = -1


@contextlib.contextmanager
def diverted(log: Path) -> Iterator[Chatter]:
    """Chatter for the time of a block."""
    chatter = Chatter(log)
    try:
        yield chatter
    finally:
        chatter.end()


def _opened(log: Path) -> tuple[int, Path]:
    elsewhere = Path(tempfile.gettempdir()) / f"vesselflow-driver-{os.getpid()}.log"
    for file in (log, elsewhere):
        with contextlib.suppress(OSError):
            return os.open(file, _flags(file), 0o644), file
    return os.open(os.devnull, os.O_WRONLY), Path(os.devnull)


def _flags(file: Path) -> int:
    grown = file.exists() and file.stat().st_size > LOG_BYTES
    return os.O_WRONLY | os.O_CREAT | os.O_APPEND | (os.O_TRUNC if grown else 0)


def _flush() -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):  # Closed, or none at all.
        sys.stderr.flush()
