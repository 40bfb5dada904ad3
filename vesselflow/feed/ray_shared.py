"""A store that every machine of a cluster finds: in place, in its cache, or by fetching it once.

A `SharedStore` is a path: whoever opens it gets the file of the machine that he is on. A machine
that has none fetches it, from the bucket that it came from or from the driver's machine in pieces,
into its cache under the store's digest; the others on that machine wait for it. Of a store in
several files each is fetched by itself, when it is opened.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vesselflow.errors import UserError
from vesselflow.feed.placement import Reader
from vesselflow.records.bucket import BucketTrouble
from vesselflow.records.cache import fetched_once, file_from_bucket, stores_folder
from vesselflow.records.paths import BucketPath, any_path
from vesselflow.stores.shards import SUFFIX, digest_check, shard_from_bucket
from vesselflow.stores.store import Shard, Store

#: Seconds in which a machine says which files it has; a new process takes one to five.
ANSWER_S = 20.0
#: Bytes of one piece from the driver's machine, and pieces that are asked for ahead.
PIECE_BYTES, AHEAD = 32 << 20, 2


@dataclass(frozen=True)
class SharedStore(os.PathLike[str]):
    """A store of one sweep, wherever it is opened.

    Of a store in several files the path is that of its index; each file is fetched by the
    machines that open it, and by no other. Make one with `shared_store`.

    Attributes:
        path: On the driver's machine, and on every machine that has it at the same place.
        digest: Of its content.
        origin: Address in a bucket that it came from; "" without.
        desk: Name and namespace of the `StoreDesk` on the driver's machine; None without.
        seal: Of its index; "" of a store in one file.
    """

    path: str
    digest: str
    origin: str = ""
    desk: tuple[str, str] | None = None
    seal: str = ""

    def __fspath__(self) -> str:
        """The file on this machine, or the index, fetched if need be.

        Raises:
            UserError: It is not here and cannot be fetched, or what was fetched is another store.
        """
        known = _HERE.get(self)
        if known is None or not os.path.exists(known):
            known = _HERE[self] = str(_located(self))
        return known

    def __str__(self) -> str:
        return self.path

    def shard(self, shard: Shard) -> Path:
        """A file of the store on this machine, fetched if need be.

        Raises:
            UserError: As for the store.
        """
        key = (self, shard.digest)
        known = _HERE.get(key)
        if known is None or not os.path.exists(known):
            known = _HERE[key] = str(_located_shard(self, shard))
        return Path(known)

    def check(self) -> None:
        """Refuse a machine that cannot open the store; nothing but an index is fetched for it.

        Raises:
            UserError: As for the store.
        """
        path = os.fspath(self)
        if not self.seal or self.origin or self.desk is not None:
            return
        with Store.open(path) as store:
            for shard in store.shards:
                if not self.holds(shard):
                    self.shard(shard)

    def holds(self, shard: Shard) -> bool:
        """Whether this machine seems to have a file of the store; it is not opened."""
        places = (Path(self.path).parent / shard.name, stores_folder() / f"{shard.digest}.h5")
        return any(place.exists() for place in places)


#: What this process found: of a store, and of a file of one by its digest.
_HERE: dict[SharedStore | tuple[SharedStore, str], str] = {}


def shared_store(
    path: Path, digest: str, origin: str = "", desk: tuple[str, str] | None = None
) -> SharedStore:
    """A store of this machine for all machines; the arguments are those of `SharedStore`."""
    with Store.open(path) as store:
        return SharedStore(str(path), digest, origin, desk, store.seal)


def desk_files(path: Path) -> dict[str, str]:
    """What a `StoreDesk` hands out of a store: name -> file."""
    with Store.open(path) as store:
        if not store.seal:
            return {store.digest: str(path)}
        files = {shard.digest: str(path.parent / shard.name) for shard in store.shards}
        return {**files, store.seal: str(path)}


class StoreDesk:
    """Hands stores of the driver's machine to others, piece by piece; an actor on that machine.

    Args:
        paths: Digest of a file, or seal of an index -> file; see `desk_files`.
    """

    def __init__(self, paths: Mapping[str, str]) -> None:
        self._paths = dict(paths)
        self._hashes: dict[str, str] = {}

    def about(self, digest: str) -> tuple[int, str]:
        """Bytes of a store's file, and their BLAKE2b checksum."""
        if digest not in self._paths:
            raise OSError("the driver does not have it")
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


def readers(store: SharedStore, shards: Sequence[Shard]) -> list[Reader]:
    """The machines of the cluster that have CPUs, and which files of a store each has.

    One that does not answer in time counts as one that has none.

    Args:
        store: A store in several files.
        shards: Its files.
    """
    cpus = {
        node["NodeID"]: node["Resources"]["CPU"]
        for node in ray.nodes()
        if node["Alive"] and node["Resources"].get("CPU", 0) >= 1
    }
    if len(cpus) < 2:
        return [Reader(node, count) for node, count in cpus.items()]
    asked = {}
    for node in sorted(cpus):
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        look = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(_held)
        asked[look.remote(store, list(shards))] = node
    ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_S)
    held: dict[str, frozenset[int]] = {}
    for answer in ready:
        with contextlib.suppress(ray.exceptions.RayError):
            held[asked[answer]] = ray.get(answer)
    for answer in late:
        ray.cancel(answer, force=True)
    return [Reader(node, cpus[node], held.get(node, frozenset())) for node in sorted(cpus)]


def _held(store: SharedStore, shards: Sequence[Shard]) -> frozenset[int]:
    return frozenset(place for place, shard in enumerate(shards) if store.holds(shard))


def _located(store: SharedStore) -> Path:
    with contextlib.suppress(UserError, OSError), Store.open(store.path) as found:
        if found.digest == store.digest:
            return Path(store.path)
    name = f"{store.seal}{SUFFIX}" if store.seal else f"{store.digest}.h5"
    with _told(store.path):
        if store.origin:
            check = digest_check(store.digest, store.seal)
            return file_from_bucket(_in_bucket(store.origin), name, check)
        return _fetched(store, name, store.digest, store.seal)


def _located_shard(store: SharedStore, shard: Shard) -> Path:
    beside = Path(store.path).parent / shard.name
    with contextlib.suppress(UserError, OSError):
        digest_check(shard.digest)(beside)
        return beside
    with _told(str(beside)):
        if store.origin:
            return shard_from_bucket(_in_bucket(store.origin).parent, shard)
        return _fetched(store, f"{shard.digest}.h5", shard.digest)


def _in_bucket(address: str) -> BucketPath:
    place = any_path(address)
    assert isinstance(place, BucketPath)
    return place


@contextlib.contextmanager
def _told(path: str) -> Iterator[None]:
    """Say in one line what hinders fetching; a bucket says it itself."""
    try:
        yield
    except (OSError, ray.exceptions.RayError) as error:
        if isinstance(error, BucketTrouble):
            raise
        raise UserError(
            f"this store is not on {socket.gethostname()} and cannot be fetched ({_line(error)})",
            where=path,
            hint="copy it there, or name its address in a bucket as the store's path",
        ) from None


def _fetched(store: SharedStore, name: str, digest: str, seal: str = "") -> Path:
    """A file from the driver's machine."""
    desk = store.desk

    def fill(file: BinaryIO) -> None:
        if desk is None:
            raise FileNotFoundError("no such file, and nobody to ask for it")
        _from_desk(desk, seal or digest, file)

    return fetched_once(name, fill, digest_check(digest, seal))


def _from_desk(name: tuple[str, str], digest: str, file: BinaryIO) -> None:
    try:
        desk = ray.get_actor(*name)
    except ValueError:
        raise OSError("the driver that has it is gone") from None
    size, checksum = ray.get(desk.about.remote(digest))
    print(f"fetching {size / 1e6:.0f} MB of a store from the driver", file=sys.stderr, flush=True)
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


def _checksum(file: BufferedReader) -> str:
    return hashlib.file_digest(file, hashlib.blake2b).hexdigest()


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
