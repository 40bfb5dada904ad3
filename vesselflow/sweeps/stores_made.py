"""The stores of a space: where they stand, what is known of them, and how they are made."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from vesselflow.config.paths import url_scheme
from vesselflow.config.space import Space
from vesselflow.config.store_specs import StoreSpec
from vesselflow.errors import UserError
from vesselflow.records.atomic import storage_trouble
from vesselflow.records.bucket import SCHEMES
from vesselflow.records.cache import cache_folder, local_copy
from vesselflow.records.paths import AnyPath, BucketPath, any_path
from vesselflow.runs.specs import StoreFacts
from vesselflow.sweeps import checks


def known_stores(
    space: Space,
    file: Path,
    results: AnyPath,
    notify: Callable[[str], None] = lambda text: None,
) -> dict[str, StoreFacts]:
    """What is known of every store that the space uses, before any is made.

    One in a bucket is fetched into this machine's cache; `notify` gets a line before.

    Raises:
        UserError: A store is neither there nor can be made.
    """
    facts = {}
    for name in used_stores(space):
        declared = space.stores[name]
        if origin := origin_of(declared):
            notify(f"the store '{name}' comes from {origin}")
        path = store_path(space, name, results)
        where = f"{file.name}: stores.{name}"
        if path.exists():
            facts[name] = _opened(name, path, where, origin)
        elif declared.importer is not None:
            if not Path(declared.importer.source).is_dir():
                raise UserError(
                    f"no such folder: {declared.importer.source}",
                    where=f"{where}.import.source",
                    allowed="the folder of the data set, as it was published",
                    hint=f"or make the store itself: {path}",
                )
            facts[name] = checks.planned(declared, name, path, where)
        elif declared.synth is None:
            raise missing_store(path, where)
        else:
            facts[name] = checks.planned(declared, name, path, where)
    return facts


def _opened(name: str, path: Path, where: str, origin: str) -> StoreFacts:
    from vesselflow.stores.store import Store

    try:
        with Store.open(path) as store:
            return StoreFacts(name, path, store.digest, tuple(store.sources), origin, store.layout)
    except UserError as error:
        raise UserError(str(error), where=where) from None


def missing_store(path: Path, where: str) -> UserError:
    """The error for a store that nobody said how to make."""
    return UserError(
        f"no such file: {path}",
        where=where,
        allowed="an HDF5 store, or a synthetic one such as synth:fundus",
        hint=f"make it with: vesselflow data import LAYOUT SOURCE {path}",
    )


def open_stores(
    space: Space, file: Path, results: AnyPath, notify: Callable[[str], None]
) -> dict[str, StoreFacts]:
    """Open every store that the space uses; make those that are declared as synthetic."""
    facts = {}
    for name in used_stores(space):
        path = store_path(space, name, results)
        where = f"{file.name}: stores.{name}"
        try:
            if not path.exists():
                make_store(space.stores[name], name, path, where, notify)
        except UserError as error:
            if error.where.startswith(where):
                raise
            raise UserError(str(error), where=where) from None
        facts[name] = _opened(name, path, where, origin_of(space.stores[name]))
    return facts


def borrowed_stores(
    space: Space, file: Path, results: AnyPath, scratch: Path, notify: Callable[[str], None]
) -> dict[str, StoreFacts]:
    """Open every store that the space uses; those that are missing are made in a scratch folder.

    Raises:
        UserError: A store can neither be opened nor made.
    """
    facts = {}
    for name in used_stores(space):
        path, where = store_path(space, name, results), f"{file.name}: stores.{name}"
        if not path.exists():
            path = scratch / f"{name}.h5"
            try:
                make_store(space.stores[name], name, path, where, notify)
            except UserError as error:
                if error.where.startswith(where):
                    raise
                raise UserError(str(error), where=where) from None
        facts[name] = _opened(name, path, where, origin_of(space.stores[name]))
    return facts


def used_stores(space: Space) -> list[str]:
    """Names of the stores that some point learns from or scores on, in order of first use."""
    names: dict[str, None] = {}
    for point in space.expand().points:
        names.update(dict.fromkeys(point.experiment.read))
    return list(names)


def store_path(space: Space, name: str, results: AnyPath) -> Path:
    """Where a store stands; a synthetic one stands in the results folder, named by content.

    With results in a bucket it stands in this machine's cache: HDF5 files are read in place.
    """
    from vesselflow.stores.synth import file_name

    declared = space.stores[name]
    if declared.synth is not None:
        base = cache_folder() if isinstance(results, BucketPath) else results
        return base / "stores" / file_name(declared.synth.arguments)
    assert declared.path is not None
    return _fetched(declared.path) if origin_of(declared) else Path(declared.path)


def origin_of(declared: StoreSpec) -> str:
    """The address in a bucket that a store is fetched from; "" for one of this machine."""
    path = declared.path or ""
    return path if url_scheme(path) in SCHEMES else ""


@functools.cache
def _fetched(address: str) -> Path:
    """The copy on this machine of a store in a bucket; of one in several files, of its index."""
    from vesselflow.stores.shards import index_at, is_index

    source = any_path(address)
    assert isinstance(source, BucketPath)
    try:
        copy = local_copy(source)
        return index_at(copy, source.parent) if is_index(copy) else copy
    except FileNotFoundError:
        raise UserError(f"no such object: {address}", hint="put the store there first") from None
    except OSError as error:
        raise storage_trouble(error, source) or error from None


def make_store(
    declared: StoreSpec, name: str, path: Path, where: str, notify: Callable[[str], None]
) -> None:
    """Make a synthetic store, or import one that says how; UserError for any other."""
    if declared.synth is not None:
        from vesselflow.stores.synth import make_synth

        drawn = declared.synth.arguments
        notify(f"making the synthetic store '{name}' ({drawn['sources']} images)")
        make_synth(path, **drawn)
        return
    if declared.importer is not None:
        from vesselflow.stores.importers.run import import_store

        notify(f"importing the store '{name}' from {declared.importer.source}")
        arguments = declared.importer.model_extra or {}
        made = import_store(
            declared.importer.layout, declared.importer.source, path, arguments, domain=name
        )
        for note in made.notes:
            notify(f"store '{name}': {note}")
        return
    raise missing_store(path, where)
