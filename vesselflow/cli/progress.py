"""How far a slow command is, in a line of the terminal that is gone at the end."""

from __future__ import annotations

import shutil
import sys
import time

#: Progress is shown once a command has taken this long.
QUIET_S = 2.0


class Progress:
    """Says on a terminal how far a slow command is, in a line that is gone at the end.

    Into a pipe or a file it says nothing: what stays there is the command's answer.
    """

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.next = QUIET_S
        self.shown = False
        self.terminal = sys.stderr.isatty()

    def __call__(self, done: int, total: int, name: str) -> None:
        """Say it, now and then, once the command has taken long."""
        elapsed = time.monotonic() - self.start
        if not self.terminal or elapsed < self.next:
            return
        self.next = elapsed + 0.2
        self.shown = True
        # A line that is longer than the terminal could not be taken back.
        text = f"{done} of {total} ({name})"[: shutil.get_terminal_size().columns - 1]
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Take the line back, so that neither an answer nor an error sticks to it."""
        if self.shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
