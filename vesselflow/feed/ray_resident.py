"""A store held once in Ray's object store and seen by every worker of a node without a copy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, cast, overload

import numpy as np
import pyarrow as pa
import ray

from vesselflow.feed.batches import ArrayImages, ArraySamples, StorePath, WholeImage
from vesselflow.feed.blocks import binary_rows, sample_table, table_bytes, tables, whole_image
from vesselflow.feed.view import View, no_samples
from vesselflow.stores.store import Store

#: Bytes up to which data are read by the process that asks for them: it has read them before Ray
#: Data has started its first job (5 s and 6 s of CPU time on two cores).
SMALL_BYTES = 256 * 2**20


class ResidentSamples(ArraySamples):
    """Samples in shared memory: read-only, one copy per node, whoever opens them."""

    def __init__(self, tables: list[pa.Table], refs: tuple[ray.ObjectRef, ...]) -> None:
        # The arrays below hold the tables' memory; the references keep the blocks from eviction
        # on the other nodes, whence a restarted worker fetches them.
        self._refs = refs
        blocks: list[np.ndarray] = []
        for table in tables:
            blocks += [block for block in binary_rows(table["record"]) if len(block)]
        known, order = sample_table(tables)
        sizes = [len(block) for block in blocks]
        block = np.repeat(np.arange(len(blocks), dtype=np.int32), sizes)[order]
        row = np.concatenate([np.arange(size, dtype=np.int32) for size in sizes])[order]
        super().__init__(blocks, block, row, known)


class ResidentImages(ArrayImages):
    """Whole images in shared memory: read-only, one copy per node."""

    def __init__(self, images: list[WholeImage], refs: tuple[ray.ObjectRef, ...]) -> None:
        super().__init__(images)
        self._refs = refs


Opened = TypeVar("Opened", bound=ResidentSamples | ResidentImages)


@dataclass(frozen=True)
class Resident(Generic[Opened]):
    """Handle of a materialised store; small, and travels to every worker.

    Attributes:
        kind: "samples" or "images".
        refs: The blocks.
        nbytes: Bytes of all blocks in the object store.
        n: Rows: samples, or sources.
    """

    kind: Literal["samples", "images"]
    refs: tuple[ray.ObjectRef, ...]
    nbytes: int
    n: int

    def open(self) -> Opened:
        """Map the blocks into this process.

        On a node that does not have them yet they are fetched once, for all its workers. Rows are
        in store order, in whatever order the blocks were made.

        Returns:
            What `load_samples` or `load_images` give, over read-only shared memory.
        """
        tables = [table for table in ray.get(list(self.refs)) if table.num_rows]
        if self.kind == "samples":
            return cast(Opened, ResidentSamples(tables, self.refs))
        found = [
            (int(table["source"][row].as_py()), whole_image(table, row))
            for table in tables
            for row in range(table.num_rows)
        ]
        found.sort(key=lambda pair: pair[0])
        return cast(Opened, ResidentImages([whole for _, whole in found], self.refs))


def read_small(
    store_path: StorePath,
    view: View,
    kind: Literal["samples", "images"] = "samples",
    most: int = SMALL_BYTES,
) -> pa.Table | None:
    """Read a small store in this process; Ray need not have started.

    Args:
        store_path: The store.
        view: How sources are seen.
        kind: Samples to train on, or whole images to score.
        most: Bytes that still are small.

    Returns:
        All rows in store order, for `hold`; None when they may take more than `most` bytes.

    Raises:
        UserError: The store cannot be read, or gives not one sample.
    """
    with Store.open(store_path) as store:
        if table_bytes(store, view, kind) > most:
            return None
        sources = range(len(store.sources))
    found = [table for table in tables(store_path, view, sources, kind) if table.num_rows]
    if not found:
        raise no_samples(view, str(store_path))
    return pa.concat_tables(found)


def hold(table: pa.Table, kind: Literal["samples", "images"]) -> Resident[Any]:
    """Put what `read_small` read into the object store.

    The block has no lineage, but its first copy lies on the node of this process, which owns it:
    where that is lost, all that is left is lost too.
    """
    return Resident(kind, (ray.put(table),), table.nbytes, table.num_rows)


@overload
def materialise(
    store_path: StorePath, view: View, kind: Literal["samples"] = "samples"
) -> Resident[ResidentSamples]: ...


@overload
def materialise(
    store_path: StorePath, view: View, kind: Literal["images"]
) -> Resident[ResidentImages]: ...


def materialise(
    store_path: StorePath, view: View, kind: Literal["samples", "images"] = "samples"
) -> Resident[ResidentSamples] | Resident[ResidentImages]:
    """Read a store once into the object store of the cluster, by tasks on all its nodes.

    The blocks live as long as the handle, or something that was opened from it.

    Args:
        store_path: The store; every node opens it.
        view: How sources are seen.
        kind: Samples to train on, or whole images to score.

    Raises:
        UserError: The store cannot be read, or gives not one sample.
    """
    # Ray Data takes a second to import.
    from vesselflow.feed.ray_datasource import read_all

    data = read_all(store_path, view, kind)
    rows = data.count()
    if not rows:
        raise no_samples(view, str(store_path))
    return Resident(kind, tuple(data.to_arrow_refs()), data.size_bytes(), rows)
