"""A store in several files: one index, and the store files that it names.

The index is a small JSON file. It holds all that a store says of itself (so that opening it opens
no other file), and of each file its name, relative to the index, its digest and its size::

    {"at": ..., "seal": ...,
    "vesselflow shards": 1, "kind": ..., "domain": ..., "digest": ..., "importer": ...,
    "layout": ..., "files": [{"name": ..., "digest": ..., "bytes": ..., "sources": [...]}, ...]}

The seal is a digest of the bytes behind the first line. In a copy of an index from a bucket `at`
says where the files are that do not lie beside it. Each file is a whole store, and is held to the
index when it is opened.
"""

from __future__ import annotations

import bisect
import dataclasses
import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from vesselflow.config.fingerprint import canonical_json
from vesselflow.config.paths import url_scheme
from vesselflow.errors import UserError
from vesselflow.records import atomic
from vesselflow.records.bucket import SCHEMES
from vesselflow.records.cache import file_from_bucket, stores_folder
from vesselflow.records.paths import BucketPath, any_path
from vesselflow.stores.hdf5 import BROKEN, StoreFile
from vesselflow.stores.layout import Layout
from vesselflow.stores.schema import Head, Shard, SourceInfo, store_digest

#: What indices are called; another `.json` is taken, too.
SUFFIX = ".shards.json"
#: The key that tells an index from other JSON, and the newest form of it.
KEY, FORM = "vesselflow shards", 1
#: Files of one store that are open at once: an order that goes to and fro opens none again, and
#: no limit of the system is reached.
OPEN_FILES = 8
_AGAIN = "make it again with 'vesselflow data shard' or 'vesselflow data index'"


@runtime_checkable
class Finder(Protocol):
    """Finds the files of an index, wherever they are; a path that is one can be opened."""

    def shard(self, shard: Shard) -> Path:
        """The file on this machine, fetched if need be."""


def is_index(path: Path) -> bool:
    """Whether a file begins as an index does; False for one that cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(1) == b"{"
    except OSError:
        return False


class ShardedFiles:
    """A store in several files, opened read-only.

    Args:
        path: The index.
        finder: Finds the files; None: they lie beside the index, or where it says.

    Attributes:
        path: The index.
        head: What it says.
        shards: The files.
        seal: Digest of the index.

    Raises:
        UserError: it is no index, damaged, or newer.
    """

    def __init__(self, path: Path, finder: Finder | None = None) -> None:
        self.path, self._finder = path, finder
        try:
            content = path.read_bytes()
            values = json.loads(content)
            _check_form(path, values)
            if values["seal"] != _digest(content.partition(b"\n")[2]):
                raise ValueError("the seal does not fit the index")
            self.head, self.shards = _parsed(values)
            self.seal: str = values["seal"]
            self._at: str = values.get("at", "")
            if self._at and url_scheme(self._at) not in SCHEMES:
                raise ValueError("the files are in no bucket")
        except UserError:
            raise
        except BROKEN as error:
            what = "the index of the store is damaged"
            raise UserError(what, where=str(path), hint=_AGAIN) from error
        self._starts = [shard.sources.start for shard in self.shards]
        self._open: OrderedDict[int, StoreFile] = OrderedDict()

    def read(self, index: int, name: str, part: Any) -> NDArray[Any]:
        """As `StoreFile.read`, of the file that holds the source."""
        file, place = self._of(index)
        return file.read(place, name, part)

    def stored_bytes(self, index: int) -> int:
        """As `StoreFile.stored_bytes`, of the file that holds the source."""
        file, place = self._of(index)
        return file.stored_bytes(place)

    def close(self) -> None:
        """Close all files."""
        while self._open:
            self._open.popitem()[1].close()

    def opened(self, number: int) -> StoreFile:
        """One of the files, held to the index.

        Raises:
            UserError: it is missing, damaged, or not the one that the index names.
        """
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        shard = self.shards[number]
        path = self._found(shard)
        if not path.exists():
            raise UserError(
                "no such file",
                where=str(path),
                hint=f"{self.path} names it: they must lie in the same place",
            )
        file = StoreFile(path)
        if not _same(file.head, self.head, shard):
            file.close()
            raise UserError(
                f"is not the file that {self.path} names: its content is another",
                where=str(path),
                hint=_AGAIN,
            )
        self._open[number] = file
        if len(self._open) > OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        return file

    def _of(self, index: int) -> tuple[StoreFile, int]:
        number = bisect.bisect_right(self._starts, index) - 1
        return self.opened(number), index - self._starts[number]

    def _found(self, shard: Shard) -> Path:
        if self._finder is not None:
            return self._finder.shard(shard)
        beside = self.path.parent / shard.name
        if self.path.is_symlink() and not beside.exists():
            beside = self.path.resolve().parent / shard.name
        if not self._at or beside.exists():
            return beside
        folder = any_path(self._at)
        assert isinstance(folder, BucketPath)
        return shard_from_bucket(folder, shard)


def shard_from_bucket(folder: BucketPath, shard: Shard) -> Path:
    """The copy on this machine of a file of a store in a bucket, fetched once.

    Raises:
        UserError: It is not there, or another one; the bucket does not answer.
    """
    source = folder / shard.name
    try:
        return file_from_bucket(source, f"{shard.digest}.h5", digest_check(shard.digest))
    except FileNotFoundError:
        hint = "put it beside the store's index"
        raise UserError(f"no such object: {source}", hint=hint) from None
    except OSError as error:
        trouble = atomic.storage_trouble(error, source)
        raise trouble or UserError(str(error), where=str(source), hint=_AGAIN) from None


def digest_check(digest: str, seal: str = "") -> Callable[[Path], None]:
    """A check that a file is the store, or the index, with a digest (and a seal).

    It raises OSError for another one, UserError for what is no store.
    """

    def check(path: Path) -> None:
        file = ShardedFiles(path) if seal else StoreFile(path)
        file.close()
        if file.head.digest != digest or (seal and file.seal != seal):
            raise OSError("what came is another store, or damaged")

    return check


def write_index(
    path: Path, names: Sequence[str], heads: Sequence[Head], sizes: Sequence[int], head: Head
) -> None:
    """Write an index, whole or not at all.

    Args:
        path: Where; the files lie beside it.
        names: Of the files, relative to it.
        heads: What each file says of itself.
        sizes: Bytes of each file.
        head: Of the whole store: what is not of any source, and all sources in order.

    Raises:
        OSError: no permission, disk full.
    """
    files = [
        {
            "name": name,
            "digest": each.digest,
            "bytes": size,
            "sources": [source.plain() for source in each.sources],
        }
        for name, each, size in zip(names, heads, sizes, strict=True)
    ]
    values = {
        KEY: FORM,
        "kind": head.layout.kind,
        "domain": head.domain,
        "digest": head.digest,
        "importer": head.importer,
        "layout": head.layout.plain(),
        "files": files,
    }
    _write(path, sealed(values))


def index_at(copy: Path, folder: BucketPath) -> Path:
    """The copy on this machine of an index in a bucket, which says where its files are.

    They are fetched when they are opened, each once.

    Args:
        copy: The index as it came.
        folder: The one in the bucket that it lies in.

    Raises:
        UserError: it is no index, damaged, or newer.
        OSError: no space is left for it.
    """
    seal, at = ShardedFiles(copy).seal, str(folder)
    path = stores_folder() / f"{seal}-{_digest(at.encode())[:16]}{SUFFIX}"
    if not path.exists():
        _write(path, sealed(json.loads(copy.read_bytes()), at))
    return path


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_bytes(path, content)


def sealed(values: Mapping[str, Any], at: str = "") -> bytes:
    """The bytes of an index.

    Args:
        values: All that it says.
        at: Address of the folder in a bucket where its files are; "" for those beside it.
    """
    plain = {key: value for key, value in values.items() if key not in ("seal", "at")}
    body = f"{canonical_json(plain, escaped=False)[1:]}\n".encode()
    head = {"at": at} if at else {}
    line = canonical_json({**head, "seal": _digest(body)}, escaped=False)
    return f"{line[:-1]},\n".encode() + body


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def name_fault(name: str) -> str:
    """What is wrong with the name of a file in an index, or ""."""
    parts = PurePosixPath(name).parts
    wrong = not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name
    return "must lie beside the index or below it" if wrong else ""


def sharded_head(heads: Sequence[Head], importer: Mapping[str, Any]) -> Head:
    """What the whole of some stores of one layout and domain says of itself, in their order."""
    sources = [source for head in heads for source in head.sources]
    numbered = tuple(dataclasses.replace(each, index=n) for n, each in enumerate(sources))
    first = heads[0]
    return Head(
        first.layout, first.domain, store_digest(numbered, first.layout), importer, numbered
    )


def _check_form(path: Path, values: Any) -> None:
    form = values.get(KEY) if isinstance(values, dict) else None
    if not isinstance(form, int):
        raise UserError(
            "a JSON file, but not the index of a store",
            where=str(path),
            hint="make one with 'vesselflow data shard' or 'vesselflow data index'",
        )
    if form > FORM:
        raise UserError(
            f"the index has form {form}, newer than this version of vesselflow",
            where=str(path),
            allowed=f"form 1 to {FORM}",
            hint="update vesselflow",
        )


def _parsed(values: dict[str, Any]) -> tuple[Head, tuple[Shard, ...]]:
    layout = Layout.of(values["layout"])
    sources: list[SourceInfo] = []
    shards = []
    for file in values["files"]:
        start = len(sources)
        sources += (SourceInfo.of(start + n, each) for n, each in enumerate(file["sources"]))
        if name_fault(file["name"]):
            raise ValueError("a file lies elsewhere")
        held = range(start, len(sources))
        shards.append(Shard(file["name"], file["digest"], held, int(file["bytes"])))
    if not sources or not all(shard.sources for shard in shards):
        raise ValueError("a file without sources")
    if layout.kind != values["kind"] or len({s.id for s in sources}) < len(sources):
        raise ValueError("another kind, or an id that is used twice")
    head = Head(layout, values["domain"], values["digest"], values["importer"], tuple(sources))
    return head, tuple(shards)


def _same(found: Head, whole: Head, shard: Shard) -> bool:
    """Whether a file is the one that an index names, source by source."""
    start = shard.sources.start
    mine = whole.sources[start : shard.sources.stop]
    known = (shard.digest, whole.layout, whole.domain)
    return (found.digest, found.layout, found.domain) == known and [
        dataclasses.replace(source, index=start + n) for n, source in enumerate(found.sources)
    ] == list(mine)
