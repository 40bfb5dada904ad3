"""Files that are whole or absent, and files that notice when they are not.

A file is written under a temporary name in its own folder, flushed to the disk, and renamed. A
writer that is killed leaves at most a temporary file (its name starts with a dot and ends in
``.tmp``), which no reader looks at. A sealed file carries its length and checksum besides, so that
damage done by the disk is found when it is read.

In a bucket one PUT is whole or absent by itself, and a creation has a condition: the same functions
do that for a `BucketPath`.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import math
import os
import re
import secrets
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import psutil

from vesselflow.errors import StorageTrouble, UserError, VesselflowError
from vesselflow.records.bucket import BucketTrouble
from vesselflow.records.paths import AnyPath, BucketPath, any_path

_MAGIC = b"vesselflow sealed 1\n"
_LENGTH_BYTES = 8
_DIGEST_BYTES = 32
_HEADER_BYTES = len(_MAGIC) + _LENGTH_BYTES + _DIGEST_BYTES

_ELSEWHERE = "or choose another folder"
#: What another try may get over, once somebody or time has mended it: errno -> (what is wrong, next
#: step). A permission is among it: an expired ticket of a network file system looks the same, and
#: a run that waits for it loses nothing, where one that fails has to be trained again.
_TROUBLES = {
    errno.ENOSPC: ("no space is left on this disk", f"free some, {_ELSEWHERE}"),
    errno.EDQUOT: ("the disk quota is used up", f"free some, {_ELSEWHERE}"),
    errno.EACCES: ("no permission to write here", f"change the permission, {_ELSEWHERE}"),
    errno.EPERM: ("no permission to write here", f"change the permission, {_ELSEWHERE}"),
    errno.EROFS: ("this file system is read-only", f"mount it for writing, {_ELSEWHERE}"),
    errno.EIO: ("the disk answers with an error (EIO)", "look after the disk or its server"),
    errno.ESTALE: ("the file server knows this file no more (ESTALE)", "mount the share again"),
    errno.ETIMEDOUT: ("the file server does not answer", "look after the server or the network"),
    errno.ENFILE: ("this machine has too many open files", "close some programs"),
    errno.EMFILE: ("this process has too many open files", "raise the limit: ulimit -n"),
    **{
        number: ("the disk or its server is away", "look after the disk, its server, the network")
        for number in (
            *(errno.ENODEV, errno.ENXIO, errno.EREMOTEIO, errno.EHOSTDOWN, errno.EHOSTUNREACH),
            *(errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.ENOTCONN),
            *(errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.ESHUTDOWN),
            *(errno.EAGAIN, errno.EBUSY, errno.ENOLCK, errno.ENOMEDIUM, errno.EPROTO),
        )
    },
}
#: What no other try gets over, and a user can mend.
_ACTIONS = {
    errno.ENOTDIR: ("a part of this path is a file, not a folder", "choose another folder"),
    errno.EISDIR: ("this is a folder, not a file", "choose another name"),
    errno.EEXIST: ("a file stands where a folder should be", "move it away"),
    errno.ENAMETOOLONG: ("this name is too long for the file system", "choose a shorter one"),
    errno.EFBIG: ("this file is larger than a limit allows", "raise it: ulimit -f"),
}
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class Torn(VesselflowError):
    """A sealed file that is cut short, changed, or not sealed at all."""


@contextlib.contextmanager
def explained(path: AnyPath) -> Iterator[None]:
    """Turn errors of the file system into a UserError on `path`.

    Raises:
        StorageTrouble: Another try may succeed.
        UserError: A user must mend it first. What is neither is raised as it is.
    """
    try:
        yield
    except OSError as error:
        trouble = storage_trouble(error, path)
        if trouble is not None:
            raise trouble from error
        if error.errno not in _ACTIONS:
            raise
        what, hint = _ACTIONS[error.errno]
        raise UserError(what, where=str(path), hint=hint) from error


def storage_trouble(error: BaseException, path: AnyPath | str = "") -> StorageTrouble | None:
    """The trouble with the storage that an error is; None for any other error.

    Args:
        error: An OSError, or a StorageTrouble, which is returned as it is.
        path: Where it happened, if the error does not know.
    """
    if isinstance(error, StorageTrouble):
        return error
    if not isinstance(error, OSError) or error.errno not in _TROUBLES:
        return None
    what, hint = _TROUBLES[error.errno]
    if isinstance(error, BucketTrouble):
        what, hint = error.what, error.hint
    where = str(path or error.filename or "")
    return StorageTrouble(what, where=where, hint=hint, number=error.errno)


def write_bytes(path: str | AnyPath, data: bytes, *, flush: bool = True) -> None:
    """Write a file so that a reader sees the old content or the new one, never a part.

    Args:
        path: The file; its folder must be there.
        data: The whole content.
        flush: Whether it must outlive a power cut.

    Raises:
        StorageTrouble: No space, no permission, a disk that is away; nothing was changed.
        UserError: What else a user can mend; nothing was changed.
    """
    _replace(any_path(path), (data,), flush=flush)


@contextlib.contextmanager
def writing(path: str | AnyPath) -> Iterator[BinaryIO]:
    """A file for what does not fit into memory; it takes its place when the block ends well.

    Raises:
        UserError: As `write_bytes`; nothing was changed.
    """
    target = any_path(path)
    if isinstance(target, BucketPath):
        with explained(target), tempfile.TemporaryFile() as file:
            yield file
            file.seek(0)
            target.bucket.put(target.key, file)
        return
    temporary = target.parent / f".{os.getpid()}-{secrets.token_hex(8)}.tmp"
    with explained(target):
        try:
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
            _flush_folder(target.parent)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()


def write_text(path: str | AnyPath, text: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | AnyPath, value: Any, *, flush: bool = True) -> None:
    """`write_bytes` of `json_bytes`."""
    write_bytes(path, json_bytes(value), flush=flush)


def json_bytes(value: Any) -> bytes:
    """Strict JSON with sorted keys: equal values give equal bytes.

    JSON knows no NaN and no infinity: both become null. Scalars and arrays of numpy become plain.
    """
    text = json.dumps(_plain(value), sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False)
    return (text + "\n").encode("utf-8")


def read_json(path: str | AnyPath) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: There is none.
        json.JSONDecodeError: It is not JSON.
    """
    return json.loads(any_path(path).read_text(encoding="utf-8"))


def read_json_or_none(path: str | AnyPath) -> Any:
    """Read a JSON file; None when there is none, or what is there is not JSON.

    For files of which nobody knows what happened to them: cut short, overwritten, made a folder.
    """
    try:
        return read_json(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, RecursionError):
        return None


def create_exclusive(path: str | AnyPath, data: bytes, *, flush: bool = True) -> bool:
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
        StorageTrouble: No space, no permission, a disk that is away.
        UserError: A file system that cannot link, and what else a user can mend.
    """
    target = any_path(path)
    if isinstance(target, BucketPath):
        with explained(target):
            return target.bucket.create(target.key, data)
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


def write_sealed(path: str | AnyPath, *pieces: bytes | memoryview) -> None:
    """`write_bytes` of the pieces, with a header that holds their length and SHA-256."""
    checksum = hashlib.sha256()
    for piece in pieces:
        checksum.update(piece)
    length = sum(map(len, pieces))
    header = _MAGIC + length.to_bytes(_LENGTH_BYTES, "big") + checksum.digest()
    _replace(any_path(path), (header, *pieces))


def read_sealed(path: str | AnyPath) -> bytes:
    """Read what `write_sealed` wrote.

    Raises:
        FileNotFoundError: There is none.
        Torn: A byte is missing, changed or too many.
    """
    content = any_path(path).read_bytes()
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


def _replace(path: AnyPath, pieces: tuple[bytes | memoryview, ...], *, flush: bool = True) -> None:
    if isinstance(path, BucketPath):
        with explained(path):
            path.bucket.put(path.key, b"".join(pieces))
        return
    with _temporary(path, pieces, flush=flush) as temporary:
        os.replace(temporary, path)
        if flush:
            _flush_folder(path.parent)


@contextlib.contextmanager
def _temporary(
    path: Path, pieces: tuple[bytes | memoryview, ...], *, flush: bool = True
) -> Iterator[Path]:
    """A finished, flushed file beside `path`, removed at the end if it is still there."""
    # The target's name is left out: with it, a long but valid name would grow too long.
    temporary = path.parent / f".{os.getpid()}-{_here()}-{secrets.token_hex(8)}.tmp"
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


#: Age at which a temporary file is a killed writer's, whoever wrote it: a write takes seconds.
ABANDONED_S = 3600.0
_TEMPORARY = re.compile(r"\.(\d+)-([0-9a-f]{8})-[0-9a-f]{16}\.tmp")


def remove_abandoned(folder: str | AnyPath) -> int:
    """Remove the temporary files that killed writers left in a folder (not below it).

    One goes when the process of this machine that its name tells is gone, or when it is older than
    an hour by the clock of the file system; of a process of another machine nothing is known but
    the age. What cannot be looked at or removed stays: another sweep will meet it again.

    Returns:
        How many went.
    """
    removed = 0
    folder = any_path(folder)
    if isinstance(folder, BucketPath):
        return 0  # A PUT that was not finished left nothing.
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        found = [entry for entry in entries if _TEMPORARY.fullmatch(entry.name)]
        now = _clock_of(folder) if found else 0.0
        for entry in found:
            with contextlib.suppress(OSError):
                if _is_abandoned(entry.name, now - entry.stat(follow_symlinks=False).st_mtime):
                    os.unlink(entry.path)
                    removed += 1
    return removed


def is_abandoned(path: Path) -> bool:
    """Whether a file is a temporary one that a killed writer left (see `remove_abandoned`)."""
    if _TEMPORARY.fullmatch(path.name) is None:
        return False
    with contextlib.suppress(OSError):
        return _is_abandoned(path.name, _clock_of(path.parent) - path.lstat().st_mtime)
    return False


def _is_abandoned(name: str, age_s: float) -> bool:
    match = _TEMPORARY.fullmatch(name)
    if match is None:
        return False
    if match[2] == _here() and not psutil.pid_exists(int(match[1])):
        return True
    return age_s > ABANDONED_S


def _clock_of(folder: Path) -> float:
    """Now, by the clock that gives the folder's files their times (a server's, perhaps).

    0 when nothing can be written there: no file is known to be old then.
    """
    probe = folder / f".{os.getpid()}-{_here()}-{secrets.token_hex(8)}.tmp"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return 0.0
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


@functools.cache
def _here() -> str:
    """This machine, this boot and this table of processes, in which a pid is one process."""
    known = [socket.gethostname()]
    with contextlib.suppress(OSError):
        known.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        known.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256(" ".join(known).encode()).hexdigest()[:8]


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
