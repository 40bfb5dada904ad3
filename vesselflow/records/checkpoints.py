"""Checkpoints of one attempt: sealed files, of which the newest whole one counts.

Each says in which format its payload is. One of another format is passed over as a damaged one is:
the run goes on from an older one, or from its start.
"""

from __future__ import annotations

from vesselflow.records.atomic import Torn, explained, read_sealed, write_sealed
from vesselflow.records.paths import AnyPath, any_path, names_in

_SUFFIX = ".ckpt"
#: Format of the payload, raised whenever what the training loop puts into it changes: 1 had no
#: number; 2 holds what is still to be told of an epoch; 3 was packed, 4 is one buffer of values.
FORMAT = 4
_HEADER = b"vesselflow checkpoint "


class Checkpoints:
    """The checkpoints in one folder, one sealed file per step.

    One process writes to a folder; any number may read. A payload is bytes: what is in it is the
    caller's business.

    Args:
        folder: Made at the first `save`.
        keep: How many of the newest are kept, at least 1. With 2, a checkpoint that the disk
            damages costs the steps since the one before it, not the run.

    Attributes:
        messages: What `newest` had to pass over, one line each.
    """

    def __init__(self, folder: str | AnyPath, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, not {keep}")
        self.folder, self.keep = any_path(folder), keep
        self.messages: list[str] = []
        # Listed at the first save: nobody else writes here.
        self._saved: set[int] | None = None

    def save(self, step: int, payload: bytes | memoryview) -> None:
        """Keep a checkpoint; older ones go only when it is safely on the disk.

        Raises:
            StorageTrouble: No permission, no space; the checkpoints before it are untouched.
        """
        if step < 0:
            raise ValueError(f"a step is at least 0, not {step}")
        with explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        write_sealed(self._path(step), _HEADER + b"%d\n" % FORMAT, payload)
        self._saved = {step, *(self.steps() if self._saved is None else self._saved)}
        for old in sorted(self._saved, reverse=True)[self.keep :]:
            if old != step:
                self._path(old).unlink(missing_ok=True)
                self._saved.discard(old)

    def load(self, step: int) -> bytes:
        """The payload of one step.

        Raises:
            FileNotFoundError: There is none (a writer that is alive may just have pruned it).
            Torn: It is damaged, or of another format.
        """
        path = self._path(step)
        try:
            content = read_sealed(path)
        except IsADirectoryError:
            raise Torn(f"{path}: this is a folder, not a file") from None
        number, end = b"1", 0
        if content.startswith(_HEADER):
            end = content.index(b"\n") + 1
            number = content[len(_HEADER) : end - 1]
        if number != b"%d" % FORMAT:
            raise Torn(
                f"{path}: it is of format {number.decode(errors='replace')}, "
                f"this vesselflow reads {FORMAT}"
            )
        return content[end:]

    def newest(self) -> tuple[int, bytes] | None:
        """Step and payload of the newest whole checkpoint, or None when there is none."""
        passed: set[int] = set()
        # Listed anew each time: a writer that is still alive may prune what was listed.
        while steps := [step for step in self.steps() if step not in passed]:
            try:
                return steps[0], self.load(steps[0])
            except FileNotFoundError:
                continue
            except Torn as fault:
                passed.add(steps[0])
                self.messages.append(f"checkpoint of step {steps[0]} is passed over: {fault}")
        return None

    def steps(self) -> list[int]:
        """Steps of which there is a file, whole or not, newest first."""
        found = names_in(self.folder)
        names = (name.removesuffix(_SUFFIX) for name in found if name.endswith(_SUFFIX))
        return sorted((int(name) for name in names if name.isdecimal()), reverse=True)

    def _path(self, step: int) -> AnyPath:
        return self.folder / f"{step:010d}{_SUFFIX}"
