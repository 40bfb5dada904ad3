"""Checks a patch store against its own description, pixel by pixel."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from vesselflow.errors import UserError
from vesselflow.stores.reader import Store
from vesselflow.stores.schema import (
    SPLITS,
    SourceInfo,
    array_digest,
    array_faults,
    fov_bounds,
    id_fault,
    source_digest,
    store_digest,
)
from vesselflow.stores.suspicions import Tally, suspicions


@dataclass(frozen=True)
class Report:
    """What a check of a store found.

    Attributes:
        faults: One line per fault, with the id of its source; empty when the store is sound.
        suspicions: One line per kind of suspicion (`suspicions.Tally`); they are no faults.
    """

    faults: list[str]
    suspicions: list[str]


def verify(path: str | os.PathLike[str]) -> list[str]:
    """The faults that `check` finds; empty when the store is sound."""
    return check(path).faults


def check(path: str | os.PathLike[str]) -> Report:
    """Read everything, compute all digests again and compare; name what looks wrong.

    Args:
        path: A store. A file that cannot be opened as a store is one fault.

    Raises:
        UserError: there is no such file.
    """
    if not Path(path).exists():
        raise UserError("no such store", where=str(path), hint="check the name")
    try:
        store = Store.open(path)
    except UserError as error:
        return Report([str(error).removeprefix(f"{path}: ")], [])
    tally = Tally()
    with store:
        faults = [] if store.sources else ["the store holds no sources"]
        seen: set[str] = set()
        for source in store.sources:
            if source.id in seen:
                faults.append(f"source '{source.id}': the id is used twice")
            seen.add(source.id)
            faults += [
                f"source '{source.id}': {fault}" for fault in _source_faults(store, source, tally)
            ]
        if store_digest(store.sources) != store.digest:
            faults.append("the store's digest does not fit its sources")
    return Report(faults, tally.lines())


def _source_faults(store: Store, source: SourceInfo, tally: Tally) -> list[str]:
    try:
        image, target, fov = (read(source.index) for read in (store.image, store.target, store.fov))
    except UserError as error:
        return [error.what]
    shape = (source.height, source.width, source.channels)
    faults = [id_fault(source.id)] if id_fault(source.id) else []
    if source.split not in SPLITS:
        faults.append(f"split {source.split!r} is not train, test or empty")
    if image.shape != shape:
        return [*faults, f"image is {image.shape}, the index says {shape}"]
    broken = array_faults(image, target, fov)
    if broken:
        return [*faults, *broken]
    tally.add(source.id, image.shape, suspicions(image, target, fov))
    if fov_bounds(fov) != source.fov_box:
        faults.append(f"fov box is {fov_bounds(fov)}, the index says {source.fov_box}")
    image_digest = array_digest("image", image)
    if image_digest != source.image_digest:
        faults.append("the image's digest does not fit its pixels")
    if source_digest(image_digest, target, fov) != source.digest:
        faults.append("the source's digest does not fit its pixels")
    return faults
