"""Makes stores in several files of one, one of several, and an index over files that are there."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vesselflow.errors import UserError
from vesselflow.stores.reader import Store
from vesselflow.stores.schema import (
    Head,
    Source,
    SourceInfo,
    source_digests,
    store_digest,
    stored_arrays,
)
from vesselflow.stores.shards import SUFFIX, name_fault, sharded_head, write_index
from vesselflow.stores.writer import write_store

#: Called with what is done, how much there is, and a name.
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Sharded:
    """A store in several files that was made.

    Attributes:
        digest: Of the whole store.
        files: How many files it has.
        sources: How many sources.
    """

    digest: str
    files: int
    sources: int


def shard_store(
    path: str | os.PathLike[str],
    index: str | os.PathLike[str],
    *,
    sources_per_file: int | None = None,
    file_bytes: int | None = None,
    overwrite: bool = False,
    progress: Progress = lambda done, total, name: None,
) -> Sharded:
    """Write the sources of a store into several files beside an index.

    The files are named by their content, and the index is written last: until then nothing has
    changed for whoever reads what was there. Files that an earlier try left are kept, those of a
    try that fails are not. The digest stays that of the store.

    Args:
        path: A store, in one file or several.
        index: The index to make.
        sources_per_file: How many sources go into one file.
        file_bytes: Or: how large a file may become; one source may be larger.
        overwrite: Replace an index that is there, and the files that it was made with.
        progress: Called before each source.

    Raises:
        UserError: the store cannot be read, or does not hold what it says; the index exists; the
            files cannot be written; not exactly one of the two sizes, or one below 1.
    """
    index = _new_index(index, overwrite)
    before = _files_made(index)
    made: list[Path] = []
    try:
        with Store.open(path) as store:
            parts = _cuts(store, sources_per_file, file_bytes)
            planned = [_part(store, part) for part in parts]
            names = [
                f"{_stem(index)}-{number:04d}-{head.digest[:8]}.h5"
                for number, head in enumerate(planned)
            ]
            heads, sizes = [], []
            for name, head, part in zip(names, planned, parts, strict=True):
                target = index.parent / name
                if not _is_there(target, head):
                    made.append(target)
                    write_store(
                        target,
                        _sources(store, part, progress),
                        domain=head.domain,
                        importer=head.importer,
                        layout=head.layout,
                    )
                with Store.open(target) as written:
                    heads.append(_head(written))
                    sizes.append(written.nbytes)
            whole = _head(store)
            write_index(index, names, heads, sizes, whole)
    except BaseException:
        _remove(made)
        raise
    _remove([file for file in before if file.name not in names])
    return Sharded(whole.digest, len(names), len(whole.sources))


def join_store(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: Progress = lambda done, total, name: None,
) -> str:
    """Write the sources of a store into one file and return the digest, which stays the same.

    Args:
        path: A store, in one file or several.
        out: The file to make.
        overwrite: Replace a file that is there.
        progress: Called before each source.

    Raises:
        UserError: as of `write_store`; the store cannot be read, or does not hold what it says.
    """
    with Store.open(path) as store:
        return write_store(
            out,
            _sources(store, range(len(store)), progress),
            domain=store.domain,
            importer=store.importer,
            layout=store.layout,
            overwrite=overwrite,
        )


def index_stores(
    index: str | os.PathLike[str],
    paths: Sequence[str | os.PathLike[str]],
    *,
    overwrite: bool = False,
) -> Sharded:
    """Write an index over store files that lie beside it, in the given order.

    Args:
        index: The index to make.
        paths: The files, at least one.
        overwrite: Replace an index that is there.

    Raises:
        UserError: the index exists; a file cannot be opened, lies elsewhere, is named twice, has
            another layout or domain than the first, or a source whose id another one has.
    """
    index = _new_index(index, overwrite)
    names: list[str] = []
    heads: list[Head] = []
    sizes: list[int] = []
    owner: dict[str, str] = {}
    for path in paths:
        name = Path(os.path.relpath(path, index.parent)).as_posix()
        if name_fault(name):
            raise UserError(
                f"does not lie beside the index {index}",
                where=str(path),
                allowed="files in the folder of the index, or below it",
            )
        with Store.open(path) as store:
            if store.seal:
                raise UserError("is an index itself", where=str(path), allowed="store files")
            head = _head(store)
            sizes.append(store.nbytes)
        if heads:
            _check_alike(head, str(path), heads[0], names[0])
        for source in head.sources:
            if source.id in owner:
                raise UserError(
                    f"source '{source.id}' is in {owner[source.id]}, too",
                    where=str(path),
                    hint="ids must be unique in all files of a store",
                )
            owner[source.id] = name
        names.append(name)
        heads.append(head)
    importers = [head.importer for head in heads]
    alike = all(importer == importers[0] for importer in importers)
    importer = importers[0] if alike else {"name": "index", "importers": importers}
    whole = sharded_head(heads, importer)
    write_index(index, names, heads, sizes, whole)
    return Sharded(whole.digest, len(names), len(whole.sources))


def _new_index(index: str | os.PathLike[str], overwrite: bool) -> Path:
    path = Path(index)
    if path.suffix != ".json":
        raise UserError(
            "is no name for an index",
            where=str(path),
            allowed=f"one that ends in .json, such as {path.stem}{SUFFIX}",
        )
    if path.is_dir():
        raise UserError("is a folder", where=str(path), hint="give the name of a file")
    if path.exists() and not overwrite:
        raise UserError("exists already", where=str(path), hint="--overwrite replaces it")
    return path


def _stem(index: Path) -> str:
    return index.name.removesuffix(".json").removesuffix(".shards")


def _cuts(store: Store, sources_per_file: int | None, file_bytes: int | None) -> list[range]:
    """The sources of each file, in order."""
    if (sources_per_file is None) == (file_bytes is None):
        raise UserError("a file has a number of sources, or a size", allowed="one of the two")
    for what, value in (("sources in a file", sources_per_file), ("bytes", file_bytes)):
        if value is not None and value < 1:
            raise UserError(f"{value} {what} are not allowed", allowed="1 or more")
    if sources_per_file is not None:
        return cuts([1] * len(store), sources_per_file)
    assert file_bytes is not None
    return cuts([store.stored_bytes(source) for source in range(len(store))], file_bytes)


def cuts(sizes: Sequence[int], most: int) -> list[range]:
    """Contiguous runs whose sizes add up to at most `most`; one alone may be larger.

    Returns:
        They cover all positions in order, and none is empty.
    """
    found, start, held = [], 0, 0
    for place, size in enumerate(sizes):
        if place > start and held + size > most:
            found.append(range(start, place))
            start, held = place, 0
        held += size
    if sizes:
        found.append(range(start, len(sizes)))
    return found


def _part(store: Store, part: range) -> Head:
    """What the file with some sources of a store will say; no voxel is read."""
    sources = tuple(
        dataclasses.replace(store.sources[place], index=number) for number, place in enumerate(part)
    )
    digest = store_digest(sources, store.layout)
    return Head(store.layout, store.domain, digest, store.importer, sources)


def _is_there(path: Path, head: Head) -> bool:
    """Whether a file was written before; its name says its content, which is looked after."""
    if not path.exists():
        return False
    with Store.open(path) as found:
        if (found.layout, _entries(found.sources)) == (head.layout, _entries(head.sources)):
            return True
    raise UserError("exists already, and is another store", where=str(path), hint="move it away")


def _entries(sources: Sequence[SourceInfo]) -> list[SourceInfo]:
    """Entries to compare: stores that were written before do not say whether a fov is full."""
    return [dataclasses.replace(source, fov_full=False) for source in sources]


def _head(store: Store) -> Head:
    return Head(store.layout, store.domain, store.digest, store.importer, store.sources)


def _check_alike(head: Head, path: str, first: Head, name: str) -> None:
    """Refuse a file that is no part of the store whose first file is given."""
    one, other = first.layout.plain(), head.layout.plain()
    for key in dict.fromkeys((*one, *other)):
        if one.get(key) != other.get(key):
            raise UserError(
                f"{key} is {other.get(key)}, in {name} it is {one.get(key)}",
                where=path,
                hint="a store holds sources of one layout",
            )
    if head.domain != first.domain:
        raise UserError(
            f"the domain is '{head.domain}', in {name} it is '{first.domain}'",
            where=path,
            hint="a store is of one domain: import them with the same --domain",
        )


def _files_made(index: Path) -> list[Path]:
    """The files of an index that is there, as far as this command made them."""
    made = re.compile(re.escape(_stem(index)) + r"-\d{4,}-[0-9a-f]{8}\.h5")
    try:
        with Store.open(index) as store:
            names = [shard.name for shard in store.shards if store.seal]
    except UserError:
        return []
    return [index.parent / name for name in names if made.fullmatch(name)]


def _remove(files: Sequence[Path]) -> None:
    for file in files:
        with contextlib.suppress(OSError):
            file.unlink()


def _sources(store: Store, part: range, progress: Progress) -> Iterator[Source]:
    for place in part:
        progress(place, len(store), store.sources[place].id)
        yield source_of(store, place)


def source_of(store: Store, index: int) -> Source:
    """A source of a store, read whole, on its way into another one.

    Raises:
        UserError: An array is damaged, or not the one that the store names.
    """
    info, layout = store.sources[index], store.layout
    points = layout.kind == "keypoint"
    source = Source(
        id=info.id,
        group=info.group,
        image=store.image(index),
        target=None if points else store.target(index),
        fov=store.fov(index),
        split=info.split,
        lineage=info.lineage,
        spacing_um=info.spacing_um,
        keypoints=store.keypoints(index) if points else None,
        heatmap=store.heatmap(index) if layout.heatmaps else None,
        origin=info.origin,
    )
    _, digest = source_digests(stored_arrays(source, layout))
    if digest != info.digest:
        raise UserError(
            "the source's digest does not fit its pixels",
            where=f"{store.path}: source '{info.id}'",
            hint="'vesselflow data verify' looks for more of that",
        )
    return source
