"""Samples of a store that does not fit in memory, read ahead of their use."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import ray

from vesselflow.feed.ahead import Ahead, Sizes, spans
from vesselflow.feed.batches import Batch, StoreImages, StorePath, store_frames
from vesselflow.feed.blocks import sample_table
from vesselflow.feed.draws import Draws
from vesselflow.feed.gathering import Rows, gather_from_store
from vesselflow.feed.order import share
from vesselflow.feed.ray_ahead import Readers, budget
from vesselflow.feed.view import View, no_samples
from vesselflow.feed.working import sample_layout
from vesselflow.stores.store import Store

#: Bytes that are read at once, at most: large enough that asking for them costs little.
PIECE_BYTES = 16 * 2**20
#: Share of the free object store that resident data may take; the rest is for blocks in motion.
RESIDENT_SHARE = 0.7
#: Share of a node's free memory that resident data may take; the rest is for those who train.
MEMORY_SHARE = 0.5


@dataclass(frozen=True)
class NodeRoom:
    """What is free on one node that trains, in bytes.

    Attributes:
        object_store: Of Ray's object store there.
        memory: Of the node's memory. The object store is a part of it that is taken up only as
            it is filled, so that a store may be free for which there is no memory.
    """

    object_store: int
    memory: int


def choose(nbytes: int, nodes: Iterable[NodeRoom]) -> Literal["resident", "stream"]:
    """Whether data are held in the object store or streamed.

    Every node that trains comes to hold a copy of its own: the one with the least room decides.

    Args:
        nbytes: Bytes that the data would take.
        nodes: Those that train (a head that only leads does not count); of no node nothing is
            known, and data are streamed.
    """
    rooms = [min(RESIDENT_SHARE * node.object_store, MEMORY_SHARE * node.memory) for node in nodes]
    return "resident" if rooms and nbytes <= min(rooms) else "stream"


class StreamSamples:
    """Samples of some sources, read from the store in the order in which they are used.

    Bit-equal to gathering the same samples out of memory. Only the index (where each sample lies,
    statistics of its source) is held.

    Args:
        store_path: The store; every node opens it.
        view: How sources are seen.
        sources: Indices of the sources to draw from; None for all.
        index: The store's index, as `read_index` gives it; None reads it, by one pass over the
            store.
        ahead_bytes: What is held and read ahead, at most; None for this node's `budget`.

    Raises:
        UserError: The store cannot be read, or gives not one sample.
        IndexError: A source that the store does not have.
    """

    def __init__(
        self,
        store_path: StorePath,
        view: View,
        sources: Sequence[int] | None = None,
        index: Sequence[pa.Table] | None = None,
        ahead_bytes: int | None = None,
    ) -> None:
        self._path, self._view, self._ahead_bytes = store_path, view, ahead_bytes
        self._readers = Readers(store_path, view)
        with Store.open(store_path) as store:
            count = len(store.sources)
            self._bytes = sample_layout(store, view, store_frames(store, view)).nbytes
        chosen = range(count) if sources is None else sources
        if any(not 0 <= source < count for source in chosen):
            raise IndexError(f"sources are 0..{count - 1}, asked for {list(chosen)}")
        tables = ray.get(list(read_index(store_path, view))) if index is None else index
        tables = [table for table in tables if table.num_rows]
        if not tables:
            raise no_samples(view, str(self._path))
        self.table, _ = sample_table(tables)
        #: int64, the samples of the chosen sources, in store order.
        self.rows = np.flatnonzero(np.isin(self.table.source, list(chosen)))
        if not len(self.rows):
            raise no_samples(view, str(self._path))

    @property
    def n(self) -> int:
        """How many samples the whole store has, as in memory."""
        return len(self.table.source)

    @property
    def source(self) -> np.ndarray:
        """int32 (n,): the source index of each sample."""
        return self.table.source

    def gather(self, indices: np.ndarray) -> Batch:
        """Read the asked samples now, in the asked order; for few, as nothing is read ahead."""
        indices = np.asarray(indices, dtype=np.int64)
        rows = Rows(indices, self.table.source[indices], self.table.corner[indices])
        return self.table.batch(gather_from_store(self._path, self._view, rows), indices)

    def batches(
        self,
        draws: Draws,
        *,
        position: int,
        steps: int,
        micro_batch_size: int,
        micro_batches_per_step: int,
        workers: int = 1,
        rank: int = 0,
    ) -> Generator[Batch, None, None]:
        """The micro-batches of one worker over some steps, step by step, read ahead.

        Args:
            draws: Which sample comes where; asked once, before the first batch.
            position: Samples of the whole stream (all workers) that lie before the first step.
            steps: Optimizer steps.
            micro_batch_size: Samples of one micro-batch.
            micro_batches_per_step: Micro-batches of one step, over all workers.
            workers: How many share a step.
            rank: Which of them this one is.
        """
        mine = share(micro_batches_per_step, workers, rank)
        starts = (
            position + (step * micro_batches_per_step + index) * micro_batch_size
            for step in range(steps)
            for index in mine
        )
        return self.stream([draws.at(start, micro_batch_size) for start in starts])

    def stream(self, plan: Sequence[np.ndarray]) -> Generator[Batch, None, None]:
        """Batches of given samples, in the given order, read ahead of their use.

        Closing the iterator ends the reading.
        """
        order = np.concatenate([np.zeros(0, np.int64), *plan])
        room = budget() if self._ahead_bytes is None else self._ahead_bytes
        # While one span is used, the next one is read.
        pieces = min(PIECE_BYTES, room // 4)
        sizes = Sizes.of(self._bytes, piece_bytes=pieces, span_bytes=room // 2)
        ahead = Ahead(self._readers, self.table, spans(order, self.source, sizes), room)
        with closing(ahead.samples()) as samples:
            for indices in plan:
                records = np.empty((len(indices), self._bytes), dtype=np.uint8)
                for record in records:
                    found, row = next(samples)
                    found.fill(row, record)
                yield self.table.batch(records, indices)


def read_index(store_path: StorePath, view: View) -> tuple[ray.ObjectRef, ...]:
    """Read where each sample of a store lies, once, into blocks for whoever streams it.

    The blocks come from tasks: Ray makes a lost one again.

    Raises:
        UserError: The store cannot be read, or gives not one sample.
    """
    from vesselflow.feed.ray_datasource import read_all

    data = read_all(store_path, view, "index")
    if not data.count():
        raise no_samples(view, str(store_path))
    return tuple(data.to_arrow_refs())


@dataclass(frozen=True)
class Streamed:
    """Handle of a store that is read as it is used; small, and travels to every worker.

    Make one with `streamed`.

    Attributes:
        path: The store; every node opens it.
        view: How sources are seen.
        kind: "samples" or "images".
        index: Blocks of the samples' index; of whole images none is needed.
    """

    path: StorePath
    view: View
    kind: Literal["samples", "images"]
    index: tuple[ray.ObjectRef, ...] = ()

    def open(self) -> StreamSamples | StoreImages:
        """What stands in for resident samples, or resident whole images."""
        if self.kind == "samples":
            return StreamSamples(self.path, self.view, index=ray.get(list(self.index)))
        return StoreImages(self.path, self.view)


def streamed(store_path: StorePath, view: View, kind: Literal["samples", "images"]) -> Streamed:
    """Make ready to stream a store: its index is read here, once for all workers.

    Raises:
        UserError: The store cannot be read, or gives not one sample.
    """
    index = read_index(store_path, view) if kind == "samples" else ()
    return Streamed(store_path, view, kind, index)


class StreamBatches:
    """Micro-batches by (step, index) out of a stream, for a training loop that asks in order.

    It starts reading at the first batch that is asked for, and again wherever a batch is asked for
    that is not the next one: a run may resume at any step. What is read at a time ends with the
    epoch: the plan of a dataset, its tasks and what Ray keeps of them grow with an epoch, not with
    the run, and nothing is read ahead while the epoch is scored.

    Args:
        samples: What to draw from.
        draws: Which sample comes where; asked at the beginning of an epoch for all of it.
        steps: Optimizer steps of the whole run; nothing is read beyond them.
        steps_per_epoch: Steps of one epoch, at least 1.
        micro_batch_size: Samples of one micro-batch.
        micro_batches_per_step: Micro-batches of one step, over all workers.
        workers: How many share a step.
        rank: Which of them this one is.
    """

    def __init__(
        self,
        samples: StreamSamples,
        draws: Draws,
        *,
        steps: int,
        steps_per_epoch: int,
        micro_batch_size: int,
        micro_batches_per_step: int,
        workers: int = 1,
        rank: int = 0,
    ) -> None:
        self._samples, self._draws, self._steps = samples, draws, steps
        self._steps_per_epoch = steps_per_epoch
        self._size, self._count = micro_batch_size, micro_batches_per_step
        self._workers, self._rank = workers, rank
        self._mine = share(micro_batches_per_step, workers, rank)
        self._next: tuple[int, int] | None = None
        self._reader: Generator[Batch, None, None] | None = None

    def batch(self, step: int, index: int) -> Batch:
        """Micro-batch `index` of step `step`, one of this worker's.

        Raises:
            IndexError: The micro-batch is another worker's, or lies beyond the run.
        """
        if index not in self._mine or not 0 <= step < self._steps:
            raise IndexError(f"micro-batch {index} of step {step} is not this worker's")
        if self._reader is None or self._next != (step, index):
            self.close()
            left_of_epoch = self._steps_per_epoch - step % self._steps_per_epoch
            self._reader = self._samples.batches(
                self._draws,
                position=step * self._count * self._size,
                steps=min(self._steps - step, left_of_epoch),
                micro_batch_size=self._size,
                micro_batches_per_step=self._count,
                workers=self._workers,
                rank=self._rank,
            )
            for _ in range(index - self._mine.start):
                next(self._reader)
        found = next(self._reader)
        last = index + 1 == self._mine.stop
        self._next = (step + 1, self._mine.start) if last else (step, index + 1)
        if last and (step + 1) % self._steps_per_epoch == 0:
            self.close()
        return found

    def close(self) -> None:
        """End the reading."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
