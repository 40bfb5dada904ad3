"""Pieces of a store, read ahead by processes beside the one that uses them.

Actors, not tasks: where the slots own all CPUs, Ray ends a worker that has had no task for a
second, and the next one would start another process and open the store again.
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vesselflow.feed.batches import StorePath
from vesselflow.feed.gathering import Box, Gatherer, Rows
from vesselflow.feed.memory import keep_freed_memory
from vesselflow.feed.view import View

#: Processes that read for one stream.
READERS = 2
#: Bytes that a stream holds and has read ahead together, at most ...
MOST_BYTES = 512 * 2**20
#: ... and of a node's object store, for the streams of all its CPUs.
STORE_SHARE = 0.5


def budget() -> int:
    """Bytes of the object store that one stream on this node may take up."""
    here = ray.get_runtime_context().get_node_id()
    resources: dict[str, float] = next(
        (node["Resources"] for node in ray.nodes() if node["NodeID"] == here), {}
    )
    store = resources.get("object_store_memory", 0)
    streams = max(1.0, resources.get("CPU", 1.0))
    return int(min(MOST_BYTES, STORE_SHARE * store / streams))


class _Reader:
    """Reads pieces of a store, which it opens at the first of them and keeps open."""

    def __init__(self, path: StorePath, view: View) -> None:
        keep_freed_memory()
        self._of = (path, view)
        self._gatherer: Gatherer | None = None

    def read(self, rows: Rows) -> list[Box] | np.ndarray:
        """What holds the samples, for `Found`."""
        if self._gatherer is None:
            self._gatherer = Gatherer(*self._of)
        return self._gatherer.read(rows)


class Readers:
    """The processes that read for one stream; started when they are first asked, on this node.

    They ask for no CPU: the CPUs belong to the slots. They end when nothing refers to them.

    Args:
        path: The store.
        view: How its sources are seen.
    """

    def __init__(self, path: StorePath, view: View) -> None:
        self._of = (path, view)
        self._actors: list[Any] = []
        self._asked = 0

    def read(self, rows: Rows) -> Any:
        """Have some samples read by one of them, after what it was asked before: a handle."""
        if not self._actors:
            here = ray.get_runtime_context().get_node_id()
            near = NodeAffinitySchedulingStrategy(here, soft=True)
            reader = ray.remote(
                num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=near
            )(_Reader)
            self._actors = [reader.remote(*self._of) for _ in range(READERS)]
        self._asked += 1
        return self._actors[self._asked % READERS].read.remote(rows)

    def get(self, handle: Any) -> list[Box] | np.ndarray:
        """What `read` gave the handle of; over shared memory, for as long as it is held."""
        found: list[Box] | np.ndarray = ray.get(handle)
        return found

    def cancel(self, handle: Any) -> None:
        """Do not read what nobody waits for any more; what is being read is read to its end."""
        with contextlib.suppress(Exception):  # it only saves work
            ray.cancel(handle)
