"""Where results are: a folder of this machine, or a prefix of a bucket, by one kind of path.

An `AnyPath` is a `pathlib.Path` or a `BucketPath`, which has those of its methods that make sense
for objects; the functions here do for both what `os` and `shutil` do for folders.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeAlias, TypeVar

from vesselflow.records.bucket import SCHEMES, Bucket, Entry


class BucketPath:
    """A key of a bucket as a path; it has no ``__fspath__``, so that no folder is made of it.

    Folders are what keys have in common: making one does nothing, and an empty one is none.

    Args:
        bucket: The bucket.
        key: Without a slash at either end; "" is the bucket itself.
    """

    __slots__ = ("bucket", "key")

    def __init__(self, bucket: Bucket, key: str) -> None:
        self.bucket, self.key = bucket, key

    def __truediv__(self, other: str) -> BucketPath:
        parts = [part for part in (self.key, *str(other).split("/")) if part]
        return BucketPath(self.bucket, "/".join(parts))

    def __str__(self) -> str:
        return self.bucket.address(self.key)

    def __repr__(self) -> str:
        return f"BucketPath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BucketPath) and str(self) == str(other)

    def __lt__(self, other: BucketPath) -> bool:
        return self.key < other.key

    def __hash__(self) -> int:
        return hash(str(self))

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by address."""
        return (any_path, (str(self),))

    @property
    def name(self) -> str:
        """The last part; the bucket's name for the bucket itself."""
        return self.key.rpartition("/")[2] or self.bucket.name

    @property
    def stem(self) -> str:
        """The name without its last suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The last suffix of the name, with its dot."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> BucketPath:
        """The path without its last part; of the bucket itself, the bucket."""
        return BucketPath(self.bucket, self.key.rpartition("/")[0])

    def with_name(self, name: str) -> BucketPath:
        """The path with another last part."""
        return self.parent / name

    def resolve(self) -> BucketPath:
        """Itself: an address is absolute."""
        return self

    def read_bytes(self) -> bytes:
        """The content; FileNotFoundError without one."""
        return self.bucket.get(self.key)

    def read_text(self, encoding: str = "utf-8") -> str:
        """The content as text; FileNotFoundError without one."""
        return self.read_bytes().decode(encoding)

    def exists(self) -> bool:
        """Whether there is an object of this key, or below it."""
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        """Whether there is an object of this key."""
        return bool(self.key) and self.bucket.look(self.key) is not None

    def is_dir(self) -> bool:
        """Whether there is an object below this key."""
        return any(True for _ in self.bucket.below(self.key, limit=1))

    def iterdir(self) -> Iterator[BucketPath]:
        """What is right below it; nothing where there is nothing."""
        folders, objects = self.bucket.children(self.key)
        for name in (*folders, *(entry.key.rpartition("/")[2] for entry in objects)):
            yield self / name

    def glob(self, pattern: str) -> Iterator[BucketPath]:
        """What is right below it and has a name of this pattern."""
        return (path for path in self.iterdir() if fnmatch.fnmatchcase(path.name, pattern))

    def rglob(self, pattern: str) -> Iterator[BucketPath]:
        """The objects below it whose name is of this pattern."""
        for entry in self.bucket.below(self.key):
            if fnmatch.fnmatchcase(entry.key.rpartition("/")[2], pattern):
                yield BucketPath(self.bucket, entry.key)

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: a key needs no folder."""

    def touch(self) -> None:
        """Make an empty object."""
        self.bucket.put(self.key, b"")

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object of this key; where there is none, nothing happens."""
        self.bucket.delete(self.key)

    def rename(self, target: BucketPath) -> BucketPath:
        """Give the object of this key another one."""
        self.bucket.move(self.key, target.key)
        return target


T = TypeVar("T")
R = TypeVar("R")

#: Requests that are under way at once.
ASKED_AT_ONCE = 32
#: Where results are.
AnyPath: TypeAlias = Path | BucketPath


def any_path(where: str | Path | BucketPath) -> AnyPath:
    """What a path or an address means.

    Raises:
        UserError: An address that is none of a bucket.
    """
    if isinstance(where, str) and where.startswith(tuple(f"{scheme}://" for scheme in SCHEMES)):
        return BucketPath(*Bucket.at(where))
    return where if isinstance(where, Path | BucketPath) else Path(where)


def names_in(folder: AnyPath) -> list[str]:
    """Names of what is in a folder, in no order; empty without a folder.

    Raises:
        OSError: The storage is in trouble.
    """
    if isinstance(folder, BucketPath):
        return [path.name for path in folder.iterdir()]
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def folders_in(folder: AnyPath) -> list[str]:
    """Names of the folders in a folder, in no order; empty without a folder.

    Raises:
        OSError: The storage is in trouble.
    """
    if isinstance(folder, BucketPath):
        return folder.bucket.children(folder.key)[0]
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def there(path: AnyPath) -> bool:
    """Whether there is a file of this name, or a folder or a dangling link where one should be."""
    return path.is_file() if isinstance(path, BucketPath) else os.path.lexists(path)


def at_once(ask: Callable[[T], R], about: Iterable[T]) -> list[R]:
    """The answers to many questions that a bucket answers in the time of a few, in their order."""
    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        return list(pool.map(ask, about))


def remove_tree(folder: AnyPath) -> None:
    """Remove a folder and all that is in it, as far as that is possible; nothing is raised."""
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        folder.bucket.delete([entry.key for entry in folder.bucket.below(folder.key)])


def remove_files(files: Sequence[AnyPath]) -> None:
    """Remove files; what is not there is no error. Of a bucket, all in one request.

    Raises:
        OSError: One cannot be removed.
    """
    objects = [file for file in files if isinstance(file, BucketPath)]
    if objects:
        objects[0].bucket.delete([file.key for file in objects])
    for file in files:
        if isinstance(file, Path):
            file.unlink(missing_ok=True)


class Mark(NamedTuple):
    """What a file looked like: another content, or another file of this name, looks different.

    Attributes:
        raw: To be compared.
        changed_ns: When it changed last, by the clock of its storage; 0 where `raw` tells two
            changes apart however fast they follow each other.
    """

    raw: bytes
    changed_ns: int


def mark_of(path: AnyPath) -> Mark | None:
    """What one file looks like now; None without one.

    Raises:
        OSError: The storage is in trouble.
    """
    if isinstance(path, Path):
        return _mark(str(path))
    return _entry_mark(path.bucket.look(path.key))


class Looks:
    """What the files below a folder look like.

    A folder is asked about each file at each call. A bucket is listed once, because a request for
    each of many thousand objects takes minutes; the listing serves all that look below the same
    root within `LISTED_S` seconds, until `refresh` is called.

    Args:
        root: The folder; only what is below it is asked for.
    """

    def __init__(self, root: AnyPath) -> None:
        self.root = root
        self._listing: _Listing | None = None

    def mark(self, path: str) -> Mark | None:
        """What the file or folder of a path relative to the root looks like; None without one.

        A folder of a bucket looks like the names of what is in it.

        Raises:
            OSError: The storage is in trouble.
        """
        if isinstance(self.root, Path):
            return _mark(f"{self.root}/{path}")
        listing = self._listed(self.root)
        entry = listing.entries.get(path)
        if entry is not None:
            return _entry_mark(entry)
        names = listing.children.get(path)
        return None if names is None else Mark("\n".join(sorted(names)).encode(), 0)

    def names(self, path: str) -> list[str]:
        """Names of what is in the folder of a relative path, sorted; empty without a folder."""
        if isinstance(self.root, Path):
            return sorted(names_in(self.root / path))
        return sorted(self._listed(self.root).children.get(path, ()))

    def sizes(self) -> list[tuple[str, int]]:
        """Relative path and size of every object; of a bucket only."""
        assert isinstance(self.root, BucketPath)
        return [(path, entry.size) for path, entry in self._listed(self.root).entries.items()]

    def refresh(self) -> None:
        """Look anew from now on."""
        self._listing = None
        _LISTINGS.pop(str(self.root), None)

    def _listed(self, root: BucketPath) -> _Listing:
        if self._listing is None:
            known = _LISTINGS.get(str(root))
            if known is None or time.monotonic() - known.made_s > LISTED_S:
                known = _LISTINGS[str(root)] = _list(root)
            self._listing = known
        return self._listing


#: Seconds for which a listing serves others than who made it.
LISTED_S = 20.0


class _Listing(NamedTuple):
    """All objects below a root, by keys relative to it, as they were when it was made."""

    entries: dict[str, Entry]
    children: dict[str, set[str]]
    made_s: float


_LISTINGS: dict[str, _Listing] = {}


def _list(root: BucketPath) -> _Listing:
    cut = len(root.key) + 1 if root.key else 0
    began = time.monotonic()
    entries = {entry.key[cut:]: entry for entry in root.bucket.below(root.key)}
    return _Listing(entries, _children(entries), began)


def _children(keys: Iterable[str]) -> dict[str, set[str]]:
    """Folder -> names in it, of relative keys; "" is the root."""
    found: dict[str, set[str]] = {}
    for key in keys:
        folder, _, name = key.rpartition("/")
        while name not in (names := found.setdefault(folder, set())):
            names.add(name)
            if not folder:
                break
            folder, _, name = folder.rpartition("/")
    return found


def _entry_mark(entry: Entry | None) -> Mark | None:
    return None if entry is None else Mark(f"{entry.size} {entry.mark}".encode(), 0)


def _mark(path: str) -> Mark | None:
    try:
        stat = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    content_ns, state_ns = stat.st_mtime_ns, stat.st_ctime_ns
    # As text: an inode can need 64 bits, a time can be before 1970.
    raw = f"{stat.st_ino} {stat.st_size} {content_ns} {state_ns}".encode()
    return Mark(raw, max(content_ns, state_ns))
