"""What a cluster file is checked against: this machine, these versions, the slots of a space."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from vesselflow import __version__
from vesselflow.clusters.document import Document
from vesselflow.clusters.files import ClusterFile


@dataclass(frozen=True)
class Slots:
    """What the slots of a space ask for.

    Attributes:
        space: The space's file, for messages.
        least: Slots that are asked for, whatever there is.
        workers: Workers of each.
        threads: CPUs of each worker.
        gpu: Share of a GPU of each worker.
        memory_gb: GB of memory of each worker; None when none is asked for.
    """

    space: str
    least: int = 1
    workers: int = 1
    threads: int = 1
    gpu: float = 0.0
    memory_gb: float | None = None

    def describe(self) -> str:
        """One worker of a slot in words: "8 CPUs and 0.5 GPU"."""
        text = f"{self.threads} CPU{'s' * (self.threads != 1)}"
        if self.gpu:
            text += f" and {self.gpu:g} GPU"
        if self.memory_gb:
            text += f" and {self.memory_gb:g} GB"
        return text


@dataclass(frozen=True)
class Surroundings:
    """Where `ray up` would be called.

    Attributes:
        folder: The working folder: Ray looks there for files to copy.
        home: What `~` stands for.
        environ: The environment.
        code: Folder of the vesselflow that runs.
        vesselflow: Its version.
        ray: Ray's version; None without Ray.
    """

    folder: Path
    home: Path
    environ: Mapping[str, str]
    code: Path
    vesselflow: str
    ray: str | None

    def local(self, path: str) -> Path:
        """A path of this machine as Ray understands it."""
        if path == "~" or path.startswith("~/"):
            return self.home / path[2:]
        return self.folder / path


def here() -> Surroundings:
    """Where this process runs."""
    import vesselflow

    try:
        ray: str | None = version("ray")
    except PackageNotFoundError:
        ray = None
    return Surroundings(
        folder=Path.cwd(),
        home=Path.home(),
        environ=os.environ,
        code=Path(vesselflow.__file__).parent,
        vesselflow=__version__,
        ray=ray,
    )


@dataclass(frozen=True)
class Checked:
    """A cluster file and what it is checked against.

    Attributes:
        document: The file.
        cluster: What it starts.
        around: Where `ray up` would be called.
        slots: What a space asks for; None without a space.
    """

    document: Document
    cluster: ClusterFile
    around: Surroundings
    slots: Slots | None = field(default=None)


@functools.cache
def code_digest(folder: Path) -> str:
    """A digest of all Python files and tables of a package, whatever their times."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".py", ".yaml") and "__pycache__" not in path.parts and path.is_file():
            digest.update(str(path.relative_to(folder)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
