"""HDF5 stores as a Ray Data source: streaming read tasks, Arrow blocks with binary columns.

The read tasks ask for no CPU: the CPUs belong to the slots, and a feed that waited for one of them
would wait for ever. Blocks come from tasks, so that Ray can make a lost block again from its
lineage.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray
from ray.data import DataContext, Dataset, Datasource
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask

from vesselflow.feed.batches import StorePath
from vesselflow.feed.blocks import Kind, table_bytes, tables
from vesselflow.feed.placement import placed, runs_of
from vesselflow.feed.ray_shared import SharedStore, readers
from vesselflow.feed.view import View
from vesselflow.stores.store import Store

#: The label in which Ray keeps the id of each node.
NODE_ID = "ray.io/node-id"


class StoreDatasource(Datasource):
    """Reads a store source by source, each read task a contiguous run of sources.

    Args:
        path: The store; every node opens it.
        view: How sources are seen.
        kind: As for `tables`.
        shards: Positions of the store's files that are read; None: all of them.

    No task reads of two files. Rows of a task come in store order; tasks may end in any order, so
    a reader that needs store order sorts by (source, ordinal).
    """

    def __init__(
        self,
        path: StorePath,
        view: View,
        kind: Kind = "samples",
        shards: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self._path, self._view, self._kind = path, view, kind
        with Store.open(path) as store:
            chosen = range(len(store.shards)) if shards is None else shards
            self._shards = [store.shards[place] for place in chosen]
            self.sources = sum(len(shard.sources) for shard in self._shards)
            share = self.sources / len(store.sources)
            self._bytes = int(table_bytes(store, view, kind) * share)

    def estimate_inmemory_data_size(self) -> int:
        """Bytes of all rows, at most."""
        return self._bytes

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: DataContext | None = None,
    ) -> list[ReadTask]:
        """One task for each of about `parallelism` runs of sources."""
        return [
            ReadTask(
                partial(tables, self._path, self._view, run, self._kind),
                BlockMetadata(
                    num_rows=len(run) if self._kind == "images" else None,
                    size_bytes=self._bytes * len(run) // self.sources,
                    input_files=None,
                    exec_stats=None,
                ),
                per_task_row_limit=per_task_row_limit,
            )
            for run in runs_of(self._shards, max(1, parallelism))
        ]


def read(
    datasource: Datasource,
    *,
    tasks: int,
    concurrency: int,
    node: str | None = None,
) -> Dataset:
    """A lazy dataset over a datasource, whose read tasks own no CPU.

    Args:
        datasource: What to read.
        tasks: How many read tasks.
        concurrency: How many of them run at once, at most.
        node: Where the tasks run, as long as it is there; None: anywhere.
    """
    # Without the fallback, tasks (also those that make lost blocks again) would wait for a node
    # that is gone for ever.
    near: dict[str, Any] = {}
    if node is not None:
        near = {"label_selector": {NODE_ID: node}, "fallback_strategy": [{"label_selector": {}}]}
    with _settings():
        return ray.data.read_datasource(
            datasource,
            num_cpus=0,
            concurrency=min(tasks, concurrency),
            override_num_blocks=tasks,
            **near,
        )


def read_all(path: StorePath, view: View, kind: Kind) -> Dataset:
    """All rows of a store, read into the object store of the cluster by tasks on its nodes.

    Of a store in several files each file is read by tasks of one node, as `readers` places them,
    so that no other one need fetch it.

    Args:
        path: The store; every node opens it.
        view: How sources are seen.
        kind: As for `tables`.
    """
    parts = []
    for node, cpus, shards in _reading_nodes(path):
        source = StoreDatasource(path, view, kind, shards)
        tasks = min(source.sources, 4 * cpus)
        parts.append(read(source, tasks=tasks, concurrency=cpus, node=node))
    whole = parts[0].union(*parts[1:]) if len(parts) > 1 else parts[0]
    with quiet():
        return whole.materialize()


def _reading_nodes(path: StorePath) -> list[tuple[str | None, int, list[int] | None]]:
    """Node, tasks at once and files of it; no node and no files: all of them, anywhere."""
    if isinstance(path, SharedStore) and path.seal:
        with Store.open(path) as store:
            shards = store.shards
        nodes = readers(path, shards)
        if len(nodes) > 1:
            found = placed(shards, nodes)
            return [
                (node.name, int(node.cpus), found[node.name]) for node in nodes if found[node.name]
            ]
    return [(None, reader_count(), None)]


@contextmanager
def _settings() -> Iterator[None]:
    """Settings that a dataset copies when it is made: no bars in the terminal."""
    with warnings.catch_warnings():
        # Making the first context of a process, Ray sets fields that it itself has deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        context = DataContext.get_current()
    before = (context.enable_progress_bars, context.print_on_execution_start)
    context.enable_progress_bars = context.print_on_execution_start = False
    try:
        yield
    finally:
        context.enable_progress_bars, context.print_on_execution_start = before


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Ray Data's notices off the terminal while a dataset runs; its errors raise anyway.

    Among them is a warning that no CPU is free, which is how things are meant to be here.
    """
    logger = logging.getLogger("ray.data")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def reader_count() -> int:
    """How many read tasks may run at once: one per CPU of the cluster."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))
