"""A disk of its own for the results of a seed, small enough to be filled."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from vesselflow.chaos.stage import Storage
from vesselflow.errors import VesselflowError

#: Bytes besides thrice what the undisturbed sweep has left.
SPARE = 64 << 20
#: Bytes that are written at once to fill it; the last of them one by one page.
CHUNK, PAGE = 1 << 20, 4096
#: Seconds between two looks for what has become free meanwhile.
REFILL_S = 0.1


def why_not() -> str:
    """Why no disk can be made here; empty where one can."""
    if shutil.which("mount") is None or shutil.which("umount") is None:
        return "there is no `mount` here"
    place = Path(tempfile.mkdtemp(prefix="vf-disk-"))
    try:
        with SmallDisk(place, 1 << 20):
            return ""
    except VesselflowError as error:
        return str(error)
    finally:
        place.rmdir()


def free_place(place: Path) -> None:
    """Unmount what a chaos that was killed has left mounted there."""
    if os.path.ismount(place):
        _run("umount", "--lazy", str(place))


class SmallDisk(Storage):
    """A tmpfs at an empty folder; a context manager, after which its files stand in the folder.

    Args:
        place: The folder.
        size: Bytes that it holds.
    """

    def __init__(self, place: Path, size: int) -> None:
        self._place, self._filler = place, place / ".filler"
        self._size = size

    def __enter__(self) -> SmallDisk:
        _run("mount", "-t", "tmpfs", "-o", f"size={self._size}", "vesselflow-chaos", self._place)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._empty()
        kept = Path(tempfile.mkdtemp(prefix=f"{self._place.name}-", dir=self._place.parent))
        try:
            shutil.copytree(self._place, kept, symlinks=True, dirs_exist_ok=True)
        finally:
            # Lazily: whatever still stands in it must not keep it.
            _run("umount", "--lazy", self._place)
        self._place.rmdir()
        kept.rename(self._place)

    def fill(self, seconds: float, told: Callable[[], bool], most_s: float) -> None:
        """Let no byte be free for a while, also where files are removed meanwhile.

        Args:
            seconds: At least.
            told: Asked then whether it may end.
            most_s: Seconds after which it ends in any case.
        """
        began = time.monotonic()
        try:
            with self._filler.open("ab", buffering=0) as file:
                while (past := time.monotonic() - began) < seconds or not told():
                    if past > most_s:
                        break
                    for piece in (CHUNK, PAGE):
                        with contextlib.suppress(OSError):
                            while file.write(b"\0" * piece) == piece:
                                pass
                    time.sleep(REFILL_S)
        finally:
            self._empty()

    def _empty(self) -> None:
        self._filler.unlink(missing_ok=True)


def _run(*words: str | Path) -> None:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise VesselflowError(f"{words[0]}: {said}")
