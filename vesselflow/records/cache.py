"""Local copies of objects of a bucket, by what they look like there: fetched once per machine."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from vesselflow.records.paths import BucketPath

#: Copies that nobody used for so long go.
KEPT_S = 30 * 24 * 3600.0


def cache_folder() -> Path:
    """Where copies are: ``$VESSELFLOW_CACHE``, else in the user's cache folder."""
    named = os.environ.get("VESSELFLOW_CACHE")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(base) / "vesselflow"


def local_copy(path: BucketPath) -> Path:
    """A file of this machine with the content that an object has now.

    Raises:
        FileNotFoundError: There is no such object.
        BucketTrouble: The bucket does not answer.
        OSError: No space is left for the copy.
    """
    entry = path.bucket.look(path.key)
    if entry is None:
        raise FileNotFoundError(f"no such object: {path}")
    name = hashlib.blake2b(f"{path} {entry.mark}".encode(), digest_size=16).hexdigest()
    folder = cache_folder() / "objects"
    target = folder / name
    with contextlib.suppress(OSError):
        if target.stat().st_size == entry.size:
            os.utime(target)
            return target
    folder.mkdir(parents=True, exist_ok=True)
    _clear(folder)
    temporary = folder / f".{name}-{secrets.token_hex(4)}"
    try:
        with temporary.open("xb") as file:
            path.bucket.get_into(path.key, file)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def stores_folder() -> Path:
    """Where stores and parts of them are that this machine fetched, named by their content."""
    return cache_folder() / "stores"


def fetched_once(
    name: str, fill: Callable[[BinaryIO], None], check: Callable[[Path], None]
) -> Path:
    """A file among the fetched stores, brought by one process while the others wait for it.

    Args:
        name: By which whoever wants the same content finds it.
        fill: Writes the content.
        check: Raises for a file that is not what the name says; it is not kept then.

    Raises:
        OSError: As `fill` and `check` raise it, or no space is left.
    """
    folder = stores_folder()
    target = folder / name
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():
            return target
        temporary = folder / f".{secrets.token_hex(4)}-{name}"
        try:
            with temporary.open("xb") as file:
                fill(file)
            check(temporary)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    return target


def file_from_bucket(source: BucketPath, name: str, check: Callable[[Path], None]) -> Path:
    """`fetched_once` of an object of a bucket.

    Raises:
        FileNotFoundError: There is no such object.
        BucketTrouble: The bucket does not answer.
    """
    return fetched_once(name, lambda file: source.bucket.get_into(source.key, file), check)


def _clear(folder: Path) -> None:
    for entry in os.scandir(folder):
        with contextlib.suppress(OSError):
            if time.time() - entry.stat().st_mtime > KEPT_S:
                os.unlink(entry.path)
