"""What a sweep needs on another machine: its space with what that names, and its stores.

Stores of this machine go into the results' bucket under their digests, once: whoever needs one
fetches it from there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vesselflow.config.space import Space
from vesselflow.config.yaml_files import load_yaml
from vesselflow.errors import UserError
from vesselflow.records.paths import AnyPath, BucketPath, there
from vesselflow.runs.initial import SUFFIXES
from vesselflow.sweeps.stores_made import missing_store, origin_of, store_path, used_stores

if TYPE_CHECKING:
    from vesselflow.stores.store import Store


@dataclass(frozen=True)
class Parcel:
    """What goes to the cluster.

    Attributes:
        folder: Holds the files; small.
        space: The space's file in it, relative.
        overrides: ``--set`` words that name the stores where they are now.
    """

    folder: Path
    space: str
    overrides: tuple[str, ...]


def pack(
    space: Space, results: AnyPath, folder: Path, notify: Callable[[str], None] = lambda text: None
) -> Parcel:
    """Put together what a sweep needs elsewhere.

    Args:
        space: The space, as it was read here.
        results: Where the results will be.
        folder: Empty; filled.
        notify: Gets a line for whatever takes long.

    Raises:
        UserError: A file or a store is missing, or nobody there could reach it.
    """
    files = _files(space)
    base = Path(*_common([file.parent.parts for file in files]))
    for file in files:
        target = folder / file.relative_to(base)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    overrides = []
    for name in used_stores(space):
        address = _sent(space, name, results, notify)
        if address:
            overrides.append(f"stores.{name}.path={address}")
    return Parcel(folder, files[0].relative_to(base).as_posix(), tuple(overrides))


def _files(space: Space) -> list[Path]:
    """The space's file, those that it extends, its split, and weights that runs begin with."""
    file = space.file.resolve()
    files = [file]
    while isinstance(base := load_yaml(files[-1]).get("extends"), str):
        files.append((files[-1].parent / base).resolve())
    given = space.expand().points[0].experiment.split.file
    if given is not None:
        files.append((file.parent / given).resolve())
    named = (point.experiment.train.init_from for point in space.expand().points)
    weights = dict.fromkeys(each for each in named if each and each.endswith(SUFFIXES))
    return files + [(file.parent / each).resolve() for each in weights]


def _common(paths: list[tuple[str, ...]]) -> tuple[str, ...]:
    shared = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return tuple(shared)


def _sent(space: Space, name: str, results: AnyPath, notify: Callable[[str], None]) -> str:
    """Where a store can be fetched from; "" where the driver makes it, or finds it by itself."""
    declared = space.stores[name]
    where = f"{space.file.name}: stores.{name}"
    if declared.synth is not None or origin_of(declared):
        return ""
    path = store_path(space, name, results)
    if not path.exists():
        raise missing_store(path, where)
    if not isinstance(results, BucketPath):
        notify(f"the store '{name}' must be on the cluster as {path}: its results are in a folder")
        return ""
    from vesselflow.stores.store import Store

    try:
        with Store.open(path) as store:
            if store.seal:
                return _sent_files(store, name, results / "stores", notify)
            digest = store.digest
    except UserError as error:
        raise UserError(str(error), where=where) from None
    target = results / "stores" / f"{path.stem}-{digest[:16]}.h5"
    if not there(target):
        _put(target, path, name, path.stat().st_size, notify)
    return str(target)


def _sent_files(store: Store, name: str, folder: BucketPath, notify: Callable[[str], None]) -> str:
    """Where a store in several files can be fetched from: a folder of its own, its index last."""
    stem = store.path.name.partition(".")[0]
    folder = folder / f"{stem}-{store.seal[:16]}"
    target = folder / store.path.name
    if there(target):
        return str(target)
    for number, shard in enumerate(store.shards):
        store.check_shard(number)
        if not there(folder / shard.name):
            _put(folder / shard.name, store.path.parent / shard.name, name, shard.nbytes, notify)
    target.bucket.put(target.key, store.path)
    return str(target)


def _put(
    target: BucketPath, path: Path, name: str, nbytes: int, notify: Callable[[str], None]
) -> None:
    notify(f"putting the store '{name}' into the bucket ({nbytes / 1e6:.0f} MB)")
    target.bucket.put(target.key, path)
