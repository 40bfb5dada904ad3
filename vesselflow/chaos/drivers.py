"""The sweep's own command, as a person gives it, again and again."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from vesselflow.chaos.comparison import Ended
from vesselflow.chaos.machines import environment


class Driver:
    """A running ``vesselflow sweep``.

    Args:
        number: 1 for the first of a sweep.
        words: After ``vesselflow sweep``.
        log: What it says is added there.
        env: What it is to export besides.
    """

    def __init__(self, number: int, words: Sequence[str], log: Path, env: Mapping[str, str]):
        self.number, self.log, self.asked = number, log, ""
        with log.open("ab") as sink:
            sink.write(f"--- driver {number}: vesselflow sweep {' '.join(words)}\n".encode())
            sink.flush()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "vesselflow", "sweep", *words],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=environment(env),
                start_new_session=True,
            )

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def ended(self) -> Ended:
        """How it ended; to be asked when it has."""
        code = self.code
        assert code is not None
        return Ended(self.number, code, self.asked)

    def wait(self, limit_s: float) -> int | None:
        """Its exit code; None when it has not ended by then."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(limit_s)
        return None

    def kill(self) -> None:
        """SIGKILL, to the process alone: what it started must see by itself that it is gone."""
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """Let nothing of it be left."""
        family: list[psutil.Process] = []
        with contextlib.suppress(psutil.Error):
            family = psutil.Process(self._process.pid).children(recursive=True)
        if self.code is None:
            self.kill()
        for process in family:
            with contextlib.suppress(psutil.Error):
                process.kill()

    def last_words(self, lines: int = 3) -> str:
        """The end of what all drivers said, in one line."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return " | ".join(line.strip() for line in text.strip().splitlines()[-lines:])
