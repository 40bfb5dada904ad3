"""An index over records: what was read from many small files, kept in few large ones.

The records are the truth. An entry holds what some files said and a stamp of these files (inode,
size, times of change); it is used only while the files on the disk have that very stamp. A missing,
stale or damaged index costs time, never an answer; why, and what was measured, stands in the
README of this room.

A segment is written whole and never changed: drivers that share a results folder add segments of
their own. ``index/<kind>-<version>-<when>-<token>.seg`` is a magic line, the checksum and length of
its head, the head (a stamp, a checksum and an end for each entry, and the names), and the payloads.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np

from vesselflow.errors import VesselflowError
from vesselflow.records.atomic import write_bytes
from vesselflow.records.cache import local_copy
from vesselflow.records.paths import AnyPath, BucketPath, Mark, any_path, names_in

_MAGIC = b"vesselflow index 1\n"
_FRAME = struct.Struct("<IQ")
_STAMP_BYTES = 16
_NAME = re.compile(r"(?P<kind>[a-z]+)-(?P<version>\d+)-\d{20}-[0-9a-f]+\.seg")

#: Files that changed later than this before they were read are not kept: another change within the
#: same tick of the file system's clock would leave the same stamp.
SETTLED_NS = 2_000_000_000
#: A segment is written when this much was put.
_SEGMENT_BYTES = 32 << 20
#: So many segments smaller than that are joined to one.
_MANY = 8


class Stamp(NamedTuple):
    """What files looked like when they were read.

    Attributes:
        digest: Equal when, and only when, each file is as it was.
        newest_ns: When the last of them changed, by the clock of their file system.
    """

    digest: bytes
    newest_ns: int


def stamp_of(marks: Iterable[Mark | None]) -> Stamp:
    """The stamp of some files and folders, in a fixed order; None for one that is not there."""
    newest, raw = 0, b""
    for mark in marks:
        if mark is None:
            raw += b"\0\0"
        else:
            raw += mark.raw + b"\0"
            newest = max(newest, mark.changed_ns)
    return Stamp(hashlib.blake2b(raw, digest_size=_STAMP_BYTES).digest(), newest)


class _Segment:
    """One segment, opened; its payloads stay on the disk."""

    def __init__(self, path: AnyPath) -> None:
        """Raises OSError or ValueError when it is not there, or not whole up to its payloads."""
        self.path, self.handle = path, -1
        file = local_copy(path) if isinstance(path, BucketPath) else path
        self.handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.bytes = os.fstat(self.handle).st_size
            start = len(_MAGIC) + _FRAME.size
            frame = os.pread(self.handle, start, 0)
            if len(frame) != start or not frame.startswith(_MAGIC):
                raise ValueError("no segment of this format")
            checksum, length = _FRAME.unpack(frame[len(_MAGIC) :])
            if length > self.bytes:
                raise ValueError("cut short within its head")
            head = os.pread(self.handle, length, start)
            if len(head) != length or zlib.crc32(head) != checksum:
                raise ValueError("its head is damaged")
        except BaseException:
            self.close()
            raise
        count = int.from_bytes(head[:8], "little")
        at = 8 + _STAMP_BYTES * count
        self.stamps = head[8:at]
        self.checksums = np.frombuffer(head, "<u4", count, at).tolist()
        ends = np.frombuffer(head, "<u8", count, at + 4 * count) + np.uint64(start + length)
        self.ends = ends.tolist()
        self.names = head[at + 12 * count :].decode("utf-8").split("\n") if count else []
        self.first = start + length

    def stamp(self, row: int) -> bytes:
        return self.stamps[_STAMP_BYTES * row : _STAMP_BYTES * (row + 1)]

    def payload(self, row: int) -> bytes | None:
        """None when it is damaged, or cannot be read."""
        begin = self.ends[row - 1] if row else self.first
        length = self.ends[row] - begin
        try:
            data = os.pread(self.handle, length, begin)
        except OSError:
            return None
        whole = len(data) == length and zlib.crc32(data) == self.checksums[row]
        return data if whole else None

    def close(self) -> None:
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1

    def __del__(self) -> None:
        self.close()


class _Pending(NamedTuple):
    stamp: bytes
    payload: bytes


class Index:
    """Entries of one kind in a results folder: name -> bytes, each valid for one stamp.

    Nothing here raises because of the storage: what cannot be read is not there, what cannot be
    written is written another time. Use it as a context, or call `flush` at the end.

    Args:
        results: The results folder.
        kind: Lower-case letters.
        version: Of the payloads; entries of another are not seen.
        exists: Whether there is still a record of that name; entries of others go when segments
            are joined.
        keep: Whether what is put is kept; without, nothing in the folder changes until `keep`.
    """

    def __init__(
        self,
        results: str | AnyPath,
        kind: str,
        version: int,
        *,
        exists: Callable[[str], bool] = lambda name: True,
        keep: bool = True,
    ) -> None:
        self.folder = any_path(results) / "index"
        self._kind, self._version, self._exists, self._keep = kind, version, exists, keep
        self._segments: list[_Segment] = []
        self._where: dict[str, tuple[_Segment, int]] = {}
        self._pending: dict[str, _Pending] = {}
        self._withheld: list[tuple[int, str, Stamp, bytes]] = []
        self._bytes = 0
        self._settled_ns: int | None = None
        self._load()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.flush()

    def get(self, name: str, stamp: Stamp) -> bytes | None:
        """What was put under `name` when its files had this stamp; None when nothing was."""
        pending = self._pending.get(name)
        if pending is not None:
            return pending.payload if pending.stamp == stamp.digest else None
        place = self._where.get(name)
        if place is None or place[0].stamp(place[1]) != stamp.digest:
            return None
        return place[0].payload(place[1])

    def put(self, name: str, stamp: Stamp, payload: bytes) -> bool:
        """Keep what was read of files that had this stamp *before* they were read.

        Args:
            name: Of the entry, without line breaks.
            stamp: Taken before the files were opened.
            payload: What they said.

        Returns:
            Whether it is kept: not when the files changed just now.
        """
        if not self._keep:
            if self._bytes < _SEGMENT_BYTES:
                self._withheld.append((time.time_ns(), name, stamp, payload))
                self._bytes += len(payload)
            return False
        if self._settled_ns is None:
            self._settled_ns = self._clock() - SETTLED_NS
        if stamp.newest_ns > self._settled_ns:
            return False
        self._pending[name] = _Pending(stamp.digest, payload)
        self._bytes += len(payload)
        if self._bytes >= _SEGMENT_BYTES:
            self._write()
        return True

    def keep(self) -> None:
        """From now on keep what is put, and of what was put before as much as fits a segment."""
        withheld, self._withheld = self._withheld, []
        if not self._keep:
            self._keep, self._bytes = True, 0
        if withheld:
            # How far the file system's clock is ahead of this machine's.
            ahead_ns = self._clock() - time.time_ns()
            for put_ns, name, stamp, payload in withheld:
                self._settled_ns = put_ns + ahead_ns - SETTLED_NS
                self.put(name, stamp, payload)
        self.flush()

    def flush(self) -> None:
        """Write what was put, and join segments where they have become many."""
        if not self._keep:
            return
        if self._pending:
            self._write()
        self._join()
        # What is read from now on is compared with a later time.
        self._settled_ns = None

    # -- within --------------------------------------------------------------------------------

    def _load(self) -> None:
        known = {segment.path for segment in self._segments}
        for path in self._paths():
            if path in known:
                continue
            try:
                segment = _Segment(path)
            except (OSError, ValueError):
                continue
            self._segments.append(segment)
            self._where.update((name, (segment, row)) for row, name in enumerate(segment.names))

    def _paths(self) -> list[AnyPath]:
        """The segments of this kind and version, oldest first."""
        try:
            names = sorted(names_in(self.folder))
        except OSError:
            return []
        found = ((name, _NAME.fullmatch(name)) for name in names)
        return [
            self.folder / name
            for name, match in found
            if match and (match["kind"], int(match["version"])) == (self._kind, self._version)
        ]

    def _clock(self) -> int:
        """The time by the clock of the file system; 0 when nothing can be written."""
        if isinstance(self.folder, BucketPath):
            return time.time_ns()  # What an object looks like does not hang on a clock.
        probe = self.folder / f".{os.getpid()}-{secrets.token_hex(8)}.tmp"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with probe.open("xb") as file:
                now = os.fstat(file.fileno()).st_mtime_ns
            probe.unlink()
            return now
        except OSError:
            return 0

    def _write(self) -> _Segment | None:
        entries = self._pending
        self._pending, self._bytes = {}, 0
        path = self._new_path()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_bytes(path, _packed(entries))
            segment = _Segment(path)
        except (OSError, ValueError, VesselflowError):
            return None
        self._segments.append(segment)
        self._where.update((name, (segment, row)) for row, name in enumerate(segment.names))
        return segment

    def _new_path(self) -> AnyPath:
        name = f"{self._kind}-{self._version}-{time.time_ns():020d}-{secrets.token_hex(4)}.seg"
        return self.folder / name

    def _join(self) -> None:
        """Write small segments, and those of which little still counts, anew as one."""
        self._load()
        live = dict.fromkeys(map(id, self._segments), 0)
        for segment, _ in self._where.values():
            live[id(segment)] += 1
        small = [segment for segment in self._segments if segment.bytes < _SEGMENT_BYTES]
        old = [segment for segment in self._segments if 2 * live[id(segment)] < len(segment.names)]
        if len(small) < _MANY and not old:
            return
        gone = {id(segment): segment for segment in (*old, *(small if len(small) >= _MANY else ()))}
        for name, entry in self._moved(gone):
            self._pending[name] = entry
            self._bytes += len(entry.payload)
            if self._bytes >= _SEGMENT_BYTES and self._write() is None:
                return
        if self._pending and self._write() is None:
            return
        for segment in gone.values():
            # Whoever reads it goes on doing so, or reads the records.
            with contextlib.suppress(OSError):
                segment.path.unlink()
            self._segments.remove(segment)

    def _moved(self, gone: dict[int, _Segment]) -> Iterator[tuple[str, _Pending]]:
        places = [(name, *place) for name, place in self._where.items() if id(place[0]) in gone]
        for name, segment, row in places:
            payload = segment.payload(row) if self._exists(name) else None
            if payload is None:
                self._where.pop(name, None)
            else:
                yield name, _Pending(segment.stamp(row), payload)


def _packed(entries: dict[str, _Pending]) -> bytes:
    """The bytes of a segment."""
    payloads = [entry.payload for entry in entries.values()]
    ends = np.cumsum([len(payload) for payload in payloads], dtype="<u8")
    head = b"".join(
        (
            len(entries).to_bytes(8, "little"),
            *(entry.stamp for entry in entries.values()),
            np.array([zlib.crc32(payload) for payload in payloads], "<u4").tobytes(),
            ends.tobytes(),
            "\n".join(entries).encode("utf-8"),
        )
    )
    return b"".join((_MAGIC, _FRAME.pack(zlib.crc32(head), len(head)), head, *payloads))
