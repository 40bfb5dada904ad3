"""The weights that a run begins with, where they are those of another run or of a file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vesselflow.errors import UserError
from vesselflow.records.paths import AnyPath
from vesselflow.records.runs import RunRecord

#: Files of weights have these suffixes; whatever else is named is a run.
SUFFIXES = (".pt", ".pth")
#: Folder beside the runs that keeps files of weights, by their content.
FOLDER = "weights"


@dataclass(frozen=True)
class Initial:
    """Weights of a finished run in the same results folder.

    Attributes:
        run_id: The run.
        epoch: Of its weights, counted from 1.
    """

    run_id: str
    epoch: int

    @property
    def identity(self) -> dict[str, Any]:
        """What is hashed of it: a run's name and an epoch determine the weights."""
        return {"run": self.run_id, "epoch": self.epoch}

    @property
    def label(self) -> str:
        """What it is called in messages."""
        return f"run {self.run_id}"

    def read(self, results: AnyPath) -> bytes:
        """The weights, as they were kept."""
        return RunRecord(results, self.run_id).read_weights(self.epoch)


@dataclass(frozen=True)
class InitialFile:
    """Weights of a file that somebody else wrote; nobody knows what they were trained on.

    Attributes:
        path: The file, on the machine that plans the sweep.
        digest: SHA-256 of its bytes, hexadecimal.
    """

    path: Path
    digest: str

    @classmethod
    def of(cls, path: Path) -> InitialFile:
        """A file as it is now.

        Raises:
            OSError: It cannot be read.
        """
        return cls(path, hashlib.sha256(path.read_bytes()).hexdigest())

    @property
    def identity(self) -> dict[str, Any]:
        """What is hashed of it: its content, wherever it lies."""
        return {"weights": self.digest}

    @property
    def label(self) -> str:
        """What it is called in messages."""
        return self.path.name

    def kept(self, results: AnyPath) -> AnyPath:
        """Where a sweep keeps it."""
        return results / FOLDER / f"{self.digest}.pt"

    def read(self, results: AnyPath) -> bytes:
        """Its bytes, as kept by the sweep or as they are before it begins.

        Raises:
            UserError: They are gone, or others than when the sweep was planned.
        """
        for place in (self.kept(results), self.path):
            try:
                payload: bytes = place.read_bytes()
            except FileNotFoundError:
                continue
            if hashlib.sha256(payload).hexdigest() == self.digest:
                return payload
        raise UserError(
            f"{self.label} is gone, or has changed since the sweep was planned",
            where="train.init_from",
            hint="run the same command again",
        )
