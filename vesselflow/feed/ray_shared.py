"""A store that every machine of a cluster finds: in place, in its cache, or by fetching it once.

A `SharedStore` is a path: whoever opens it gets the file of the machine that he is on. A machine
that has none fetches it, from the bucket that it came from or from the driver's machine in pieces,
into its cache under the store's digest; the others on that machine wait for it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

import ray

from vesselflow.errors import UserError
from vesselflow.records.bucket import BucketTrouble
from vesselflow.records.cache import cache_folder
from vesselflow.records.paths import BucketPath, any_path
from vesselflow.stores.store import Store

#: Bytes of one piece from the driver's machine, and pieces that are asked for ahead.
PIECE_BYTES, AHEAD = 32 << 20, 2


@dataclass(frozen=True)
class SharedStore(os.PathLike[str]):
    """A store of one sweep, wherever it is opened.

    Attributes:
        path: On the driver's machine, and on every machine that has it at the same place.
        digest: Of its content.
        origin: Address in a bucket that it came from; "" without.
        desk: Name and namespace of the `StoreDesk` on the driver's machine; None without.
    """

    path: str
    digest: str
    origin: str = ""
    desk: tuple[str, str] | None = None

    def __fspath__(self) -> str:
        """The file on this machine, fetched if need be.

        Raises:
            UserError: It is not here and cannot be fetched, or what was fetched is another store.
        """
        known = _HERE.get(self)
        if known is None or not os.path.exists(known):
            known = _HERE[self] = str(_located(self))
        return known

    def __str__(self) -> str:
        return self.path


#: What this process found.
_HERE: dict[SharedStore, str] = {}


class StoreDesk:
    """Hands stores of the driver's machine to others, piece by piece; an actor on that machine.

    Args:
        paths: Digest -> file.
    """

    def __init__(self, paths: Mapping[str, str]) -> None:
        self._paths = dict(paths)
        self._hashes: dict[str, str] = {}

    def about(self, digest: str) -> tuple[int, str]:
        """Bytes of a store's file, and their BLAKE2b checksum."""
        path = self._paths[digest]
        if digest not in self._hashes:
            with open(path, "rb") as file:
                self._hashes[digest] = _checksum(file)
        return os.path.getsize(path), self._hashes[digest]

    def read(self, digest: str, start: int) -> bytes:
        """A piece of a store's file; shorter at its end."""
        with open(self._paths[digest], "rb") as file:
            file.seek(start)
            return file.read(PIECE_BYTES)


def _located(store: SharedStore) -> Path:
    with contextlib.suppress(UserError, OSError):
        if _digest(Path(store.path)) == store.digest:
            return Path(store.path)
    folder = cache_folder() / "stores"
    target = folder / f"{store.digest}.h5"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder / f".{store.digest}.lock"):
            if not target.exists():
                _fetch(store, target)
    except (OSError, ray.exceptions.RayError) as error:
        if isinstance(error, BucketTrouble):
            raise
        raise UserError(
            f"this store is not on {socket.gethostname()} and cannot be fetched ({_line(error)})",
            where=store.path,
            hint="copy it there, or name its address in a bucket as the store's path",
        ) from None
    return target


def _fetch(store: SharedStore, target: Path) -> None:
    temporary = target.with_name(f".{store.digest}-{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            if store.origin:
                origin = any_path(store.origin)
                assert isinstance(origin, BucketPath)
                origin.bucket.get_into(origin.key, file)
            elif store.desk is not None:
                _from_desk(store.desk, store.digest, file)
            else:
                raise FileNotFoundError("no such file, and nobody to ask for it")
        if _digest(temporary) != store.digest:
            raise OSError("what came is another store, or damaged")
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _from_desk(name: tuple[str, str], digest: str, file: BinaryIO) -> None:
    try:
        desk = ray.get_actor(*name)
    except ValueError:
        raise OSError("the driver that has it is gone") from None
    size, checksum = ray.get(desk.about.remote(digest))
    print(f"fetching a store of {size / 1e6:.0f} MB from the driver", file=sys.stderr, flush=True)
    starts = range(0, size, PIECE_BYTES)
    pieces = [desk.read.remote(digest, start) for start in starts[:AHEAD]]
    for number in range(len(starts)):
        if number + AHEAD < len(starts):
            pieces.append(desk.read.remote(digest, starts[number + AHEAD]))
        file.write(ray.get(pieces[number]))
        pieces[number] = None
    file.flush()
    with open(file.name, "rb") as whole:
        if _checksum(whole) != checksum:
            raise OSError("it was damaged on its way")


def _digest(path: Path) -> str:
    with Store.open(path) as store:
        return store.digest


def _checksum(file: BufferedReader) -> str:
    return hashlib.file_digest(file, hashlib.blake2b).hexdigest()


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process of this machine at a time."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
