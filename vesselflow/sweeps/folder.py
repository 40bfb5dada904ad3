"""A sweep's folder: whose it is, whether it can be written, and what stands at its head."""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import os
import platform
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vesselflow import __version__
from vesselflow.config.grid import Expansion
from vesselflow.config.space import Space
from vesselflow.config.yaml_files import dump_yaml
from vesselflow.errors import UserError
from vesselflow.feed.folds import Fold, write_folds
from vesselflow.records.atomic import explained, read_json_or_none, write_json, write_text
from vesselflow.records.paths import AnyPath, BucketPath, names_in
from vesselflow.runs.initial import SUFFIXES
from vesselflow.runs.specs import StoreFacts, split_key

#: Says which space a results folder belongs to.
PROVENANCE = "provenance.json"


def sweep_folder(space: Space, profile: str | None, results: AnyPath) -> AnyPath:
    """The sweep's folder; one space's profiles have folders of their own."""
    return results / (f"{space.name}-{profile}" if profile else space.name)


def check_owner(file: Path, folder: AnyPath) -> None:
    """Refuse a sweep's folder that belongs to another space, or to no sweep at all."""
    head = folder / PROVENANCE
    if not folder.is_dir():
        return
    if not head.exists():
        # What a killed process left under a hidden name is nobody's.
        if any(not name.startswith(".") for name in names_in(folder)):
            raise UserError(
                f"this folder holds files, and no {PROVENANCE} that says whose results they are",
                where=str(folder),
                allowed="an empty or a new folder",
                hint="choose another with --results DIR, or another name: in the space",
            )
        return
    content = read_json_or_none(head)
    owner = content.get("space_file") if isinstance(content, dict) else None
    if not isinstance(owner, str):
        raise UserError(
            "this file does not say whose results these are (it is damaged)",
            where=str(head),
            hint="choose another folder with --results DIR, or move this one away",
        )
    if owner != file.name:
        raise UserError(
            f"this results folder belongs to the space '{owner}', not to '{file.name}'",
            where=str(folder),
            hint="give the space another name (its key name:), or choose another --results DIR",
        )


def check_writable(folder: AnyPath, *, probe: bool = True) -> None:
    """Refuse a folder that cannot be written or made; nothing is made, nothing is left.

    Args:
        folder: The folder; it need not be there.
        probe: Write a file and remove it again; without, only the permissions are asked for (of a
            bucket only whether it can be read).

    Raises:
        UserError: It says why.
    """
    if isinstance(folder, BucketPath):
        with explained(folder):
            folder.bucket.check()
            if probe:
                tried = folder / f".probe-{os.getpid()}-{secrets.token_hex(4)}"
                tried.touch()
                tried.unlink()
        return
    with writing(folder):
        base = next(entry for entry in (folder, *folder.parents) if os.path.lexists(entry))
        if not base.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(base))
        if not probe:
            if not os.access(base, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(base))
            return
        # Asking for the permission bits would not see a read-only file system.
        handle, name = tempfile.mkstemp(prefix=".probe-", dir=base)
        os.close(handle)
        os.unlink(name)


@contextlib.contextmanager
def writing(folder: AnyPath) -> Iterator[None]:
    """Turn errors of the file system into a UserError on a sweep's folder."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write here ({error.strerror or error})",
            where=str(folder),
            allowed="a folder with write permission",
            hint="choose another with --results DIR",
        ) from None


def write_head(
    space: Space,
    file: Path,
    profile: str | None,
    folder: AnyPath,
    stores: Mapping[str, StoreFacts],
    command: Sequence[str],
    noted: Mapping[str, Any],
) -> None:
    """Write what the sweep is: provenance with what else is `noted`, space, resolved space."""
    named = (point.experiment.train.stack for point in space.expand().points)
    stacked = ", ".join(dict.fromkeys(each for each in named if each is not None))
    firsts = (point.experiment.train.init_from for point in space.expand().points)
    unknown = ", ".join(dict.fromkeys(each for each in firsts if each and each.endswith(SUFFIXES)))
    unlabelled = {
        point.name: point.experiment.unlabelled
        for point in space.expand().points
        if point.experiment.unlabelled is not None
    }
    # First of all files: a folder without it is taken for somebody else's.
    write_json(
        folder / PROVENANCE,
        {
            "space_file": file.name,
            "name": space.name,
            "profile": profile,
            # Reports say it: these runs saw more than images.
            **({"stacked_on": stacked} if stacked else {}),
            **({"unlabelled": unlabelled} if unlabelled else {}),
            **({"weights_of_unknown_training": unknown} if unknown else {}),
            "command": list(command),
            "vesselflow": __version__,
            "commit": _commit(),
            "python": sys.version.split()[0],
            "platform": platform.platform(),
            "packages": _versions(),
            "stores": {
                name: {"path": str(fact.path), "digest": fact.digest, "sources": len(fact.sources)}
                for name, fact in stores.items()
            },
            **noted,
        },
    )
    write_text(folder / "space.yaml", file.read_text(encoding="utf-8"))
    write_text(folder / "resolved.yaml", dump_yaml(space.resolved()))


def write_splits(
    folder: AnyPath,
    expansion: Expansion,
    folds: Mapping[str, list[Fold]],
    stores: Mapping[str, StoreFacts],
) -> None:
    """Write every split that some point uses, for people and for `split.file`."""
    folder.mkdir(exist_ok=True)
    trains = {
        split_key(point.experiment): point.experiment.data.train for point in expansion.points
    }
    for number, (name, entry) in enumerate(folds.items()):
        train = trains[name]
        suffix = f"-{number}" if number else ""
        write_folds(folder / f"{train}{suffix}.json", entry, stores[train].sources)


def _versions() -> dict[str, str]:
    names = ("torch", "ray", "optuna", "numpy", "kornia", "segmentation-models-pytorch", "h5py")
    return {name: importlib.metadata.version(name) for name in names}


def _commit() -> str | None:
    """The commit of the code, where it runs from a checkout."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
