"""Files that are whole or absent, and files that notice when they are not.

A file is written under a temporary name in its own folder, flushed to the disk, and renamed. A
writer that is killed leaves at most a temporary file (its name starts with a dot and ends in
``.tmp``), which no reader looks at. A sealed file carries its length and checksum besides, so that
damage done by the disk is found when it is read.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vesselflow.errors import UserError, VesselflowError

_MAGIC = b"vesselflow sealed 1\n"
_LENGTH_BYTES = 8
_DIGEST_BYTES = 32
_HEADER_BYTES = len(_MAGIC) + _LENGTH_BYTES + _DIGEST_BYTES

_ELSEWHERE = "or choose another folder"
#: What a user can do something about: errno -> (what is wrong, next step).
_ACTIONS = {
    errno.ENOSPC: ("no space is left on this disk", f"free some, {_ELSEWHERE}"),
    errno.EDQUOT: ("the disk quota is used up", f"free some, {_ELSEWHERE}"),
    errno.EACCES: ("no permission to write here", f"change the permission, {_ELSEWHERE}"),
    errno.EPERM: ("no permission to write here", f"change the permission, {_ELSEWHERE}"),
    errno.EROFS: ("this file system is read-only", "choose another folder"),
    errno.ENOTDIR: ("a part of this path is a file, not a folder", "choose another folder"),
    errno.EISDIR: ("this is a folder, not a file", "choose another name"),
    errno.EEXIST: ("a file stands where a folder should be", "move it away"),
    errno.ENAMETOOLONG: ("this name is too long for the file system", "choose a shorter one"),
}
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class Torn(VesselflowError):
    """A sealed file that is cut short, changed, or not sealed at all."""


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn those errors of the file system that a user can mend into a UserError on `path`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _ACTIONS:
            raise
        what, hint = _ACTIONS[error.errno]
        raise UserError(what, where=str(path), hint=hint) from error


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file so that a reader sees the old content or the new one, never a part.

    Args:
        path: The file; its folder must be there.
        data: The whole content.

    Raises:
        UserError: No permission, no space, and what else a user can mend; nothing was changed.
    """
    _replace(Path(path), (data,))


def write_text(path: str | Path, text: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> None:
    """`write_bytes` of `json_bytes`."""
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """Strict JSON with sorted keys: equal values give equal bytes.

    JSON knows no NaN and no infinity: both become null. Scalars and arrays of numpy become plain.
    """
    text = json.dumps(_plain(value), sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False)
    return (text + "\n").encode("utf-8")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: There is none.
        json.JSONDecodeError: It is not JSON.
    """
    return json.loads(Path(path).read_text(encoding="utf-8"))


def read_json_or_none(path: str | Path) -> Any:
    """Read a JSON file; None when there is none, or what is there is not JSON.

    For files of which nobody knows what happened to them: cut short, overwritten, made a folder.
    """
    try:
        return read_json(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, RecursionError):
        return None


def create_exclusive(path: str | Path, data: bytes, *, flush: bool = True) -> bool:
    """Create a file unless it exists: of any number of racing processes exactly one succeeds.

    The content is finished under a temporary name and then linked, so that the file is whole from
    its first moment on (``O_EXCL`` alone would show it empty).

    Args:
        path: The file; its folder must be there.
        data: The whole content.
        flush: Whether it must outlive a power cut; without, a file torn by one may be found.

    Returns:
        Whether this call created the file.

    Raises:
        UserError: No permission, no space, or a file system that cannot link.
    """
    target = Path(path)
    with _temporary(target, (data,), flush=flush) as temporary:
        try:
            os.link(temporary, target)
        except FileExistsError:
            # NFS can say so of a link that it has just made, when its first answer was lost.
            return temporary.stat().st_nlink == 2
        except OSError as error:
            if error.errno in _NO_LINKS:
                raise UserError(
                    "this file system cannot link files, which exclusive claims need",
                    where=str(target.parent),
                    hint="choose a folder on another file system",
                ) from error
            raise
        if flush:
            _flush_folder(target.parent)
    return True


def write_sealed(path: str | Path, data: bytes) -> None:
    """`write_bytes` with a header that holds the length and the SHA-256 of `data`."""
    header = _MAGIC + len(data).to_bytes(_LENGTH_BYTES, "big") + hashlib.sha256(data).digest()
    _replace(Path(path), (header, data))


def read_sealed(path: str | Path) -> bytes:
    """Read what `write_sealed` wrote.

    Raises:
        FileNotFoundError: There is none.
        Torn: A byte is missing, changed or too many.
    """
    content = Path(path).read_bytes()
    if len(content) < _HEADER_BYTES:
        raise Torn(f"{path}: cut short within its header ({len(content)} bytes)")
    if not content.startswith(_MAGIC):
        raise Torn(f"{path}: its header is damaged, or of another program")
    start = len(_MAGIC) + _LENGTH_BYTES
    length = int.from_bytes(content[len(_MAGIC) : start], "big")
    data = content[_HEADER_BYTES:]
    if len(data) != length:
        raise Torn(f"{path}: {len(data)} bytes of content, its header says {length}")
    if hashlib.sha256(data).digest() != content[start:_HEADER_BYTES]:
        raise Torn(f"{path}: its checksum does not fit its content")
    return data


def _replace(path: Path, pieces: tuple[bytes, ...]) -> None:
    with _temporary(path, pieces) as temporary:
        os.replace(temporary, path)
        _flush_folder(path.parent)


@contextlib.contextmanager
def _temporary(path: Path, pieces: tuple[bytes, ...], *, flush: bool = True) -> Iterator[Path]:
    """A finished, flushed file beside `path`, removed at the end if it is still there."""
    # The target's name is left out: with it, a long but valid name would grow too long.
    temporary = path.parent / f".{os.getpid()}-{secrets.token_hex(8)}.tmp"
    with explained(path):
        try:
            with temporary.open("xb") as file:
                for piece in pieces:
                    file.write(piece)
                file.flush()
                if flush:
                    os.fsync(file.fileno())
            yield temporary
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()


def _flush_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the file system can flush a folder at all."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        # A plain float also of numpy's float64, which is a subclass with a repr of its own.
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return value
