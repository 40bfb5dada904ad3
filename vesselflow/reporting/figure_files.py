"""Which files in ``report/figures`` are the report's own: old ones go, a user's stay.

``report/figures.json`` lists every file that the report wrote, by the hash of its content, and the
hash of the tables that it was drawn from. A file that is not listed, or was changed since, is the
user's: it is never removed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vesselflow.evaluation.answer import read_answer
from vesselflow.records.atomic import explained, write_bytes
from vesselflow.records.paths import AnyPath


def replace_figures(sweep: AnyPath, files: Mapping[str, bytes]) -> list[AnyPath]:
    """Write `files` (name -> content) and remove what an earlier report left beside them.

    Args:
        sweep: The sweep's folder.
        files: All files of this report's figures.

    Returns:
        The files, in their order.

    Raises:
        UserError: The folder cannot be written.
    """
    folder = sweep / "report" / "figures"
    with explained(folder):
        # Where a file has the folder's name, `mkdir` says so in words for programmers.
        if folder.is_file():
            raise NotADirectoryError(errno.ENOTDIR, "a file, not a folder")
        folder.mkdir(parents=True, exist_ok=True)
    old, _ = _listed(sweep)
    stale = {name: mark for name, mark in old.items() if name not in files}
    new = {name: _hash(content) for name, content in files.items()}
    tables = _hash_of_tables(sweep)
    # First the list, then the files: killed between the two, nothing is left that nobody owns.
    _list(sweep, {**stale, **new}, "")
    for name, content in files.items():
        write_bytes(folder / name, content)
    _remove(folder, stale)
    _list(sweep, new, tables)
    return [folder / name for name in files]


def remove_outdated(sweep: AnyPath) -> list[AnyPath]:
    """Remove the report's own figures where the tables changed since they were drawn.

    Returns:
        The files that were removed; none where the figures show the tables as they are.
    """
    old, tables = _listed(sweep)
    if not old or tables == _hash_of_tables(sweep):
        return []
    removed = _remove(sweep / "report" / "figures", old)
    _list(sweep, {}, "")
    return removed


def _listed(sweep: AnyPath) -> tuple[dict[str, str], str]:
    """Files by hash, and the hash of their tables; nothing where the list is missing or torn."""
    try:
        listing: Any = json.loads(_path(sweep).read_text(encoding="utf-8"))
        files = {str(name): mark for name, mark in listing["files"].items()}
        tables = str(listing["tables"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}, ""
    # A name with a folder in it was never written here: following it could lead anywhere.
    plain = {name: mark for name, mark in files.items() if Path(name).name == name}
    return plain, tables


def _list(sweep: AnyPath, files: Mapping[str, str], tables: str) -> None:
    text = json.dumps({"tables": tables, "files": dict(files)}, indent=1, sort_keys=True)
    write_bytes(_path(sweep), f"{text}\n".encode())


def _path(sweep: AnyPath) -> AnyPath:
    return sweep / "report" / "figures.json"


def _remove(folder: AnyPath, files: Mapping[str, str]) -> list[AnyPath]:
    removed = []
    for name, mark in files.items():
        path = folder / name
        with contextlib.suppress(OSError):
            if _hash(path.read_bytes()) == mark:
                path.unlink()
                removed.append(path)
    return removed


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _hash_of_tables(sweep: AnyPath) -> str:
    total = hashlib.sha256()
    for name, content in read_answer(sweep).items():
        total.update(f"{name} ".encode())
        if content is not None:
            total.update(_hash(content).encode())
    return total.hexdigest()
