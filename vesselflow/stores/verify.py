"""Checks a store against its own description, voxel by voxel."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from vesselflow.errors import UserError
from vesselflow.stores.arrays import array_faults
from vesselflow.stores.keypoints import Keypoints
from vesselflow.stores.reader import Store
from vesselflow.stores.schema import (
    SPLITS,
    SourceInfo,
    fills_box,
    fov_bounds,
    id_fault,
    numbers_fault,
    source_digests,
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
        missing: set[int] = set()
        for number, shard in enumerate(store.shards):
            try:
                store.check_shard(number)
            except UserError as error:
                faults.append(str(error))
                missing.update(shard.sources)
        for source in store.sources:
            if source.id in seen:
                faults.append(f"source '{source.id}': the id is used twice")
            seen.add(source.id)
            if source.index in missing:
                continue
            faults += [
                f"source '{source.id}': {fault}" for fault in _source_faults(store, source, tally)
            ]
        if store_digest(store.sources, store.layout) != store.digest:
            faults.append("the store's digest does not fit its sources")
    return Report(faults, tally.lines())


def _source_faults(store: Store, source: SourceInfo, tally: Tally) -> list[str]:
    layout = store.layout
    readers = {"image": store.image, "target": store.target, "fov": store.fov}
    try:
        arrays = {
            name: read(source.index) for name, read in readers.items() if name in layout.arrays()
        }
        if layout.kind == "keypoint":
            held = store.keypoints(source.index)
            arrays |= {"keypoints": held.positions, "classes": held.classes}
        if layout.heatmaps:
            arrays["heatmap"] = store.heatmap(source.index)
    except UserError as error:
        return [error.what]
    faults = [id_fault(source.id)] if id_fault(source.id) else []
    if source.split not in SPLITS:
        faults.append(f"split {source.split!r} is not train, test or empty")
    if source.channels != layout.channels:
        faults.append(f"the image has {source.channels} channel(s), the layout {layout.channels}")
    for name, numbers, least in (
        ("spacing_um", source.spacing_um, 0.0),
        ("origin", source.origin, -math.inf),
    ):
        if numbers_fault(numbers, layout.dims, least):
            faults.append(f"{name} is {numbers}")
    broken = array_faults(arrays, layout)
    if broken:
        return [*faults, *broken]
    points = None
    if layout.kind == "keypoint":
        points = Keypoints(arrays["keypoints"], arrays["classes"])
    found = suspicions(arrays["image"], arrays.get("target"), arrays["fov"], points)
    tally.add(source.id, source.shape, found)
    if fov_bounds(arrays["fov"]) != source.fov_box:
        faults.append(f"fov box is {fov_bounds(arrays['fov'])}, the index says {source.fov_box}")
    if source.fov_full and not fills_box(arrays["fov"]):
        faults.append("the fov does not fill its box, the index says that it does")
    if points is not None:
        counts = points.counts(len(layout.classes))
        if counts != source.keypoint_counts:
            faults.append(f"keypoints are {counts}, the index says {source.keypoint_counts}")
    image_digest, digest = source_digests({name: arrays[name] for name in layout.arrays()})
    if image_digest != source.image_digest:
        faults.append("the image's digest does not fit its pixels")
    if digest != source.digest:
        faults.append("the source's digest does not fit its pixels")
    return faults
