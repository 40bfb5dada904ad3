"""Micro-batches of one source: its samples come in a row, before those of another."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from vesselflow.feed.draws import Indices
from vesselflow.feed.order import key, sample_indices, shuffled
from vesselflow.feed.windows import Windowed

if TYPE_CHECKING:
    from vesselflow.feed.batches import SampleTable


class BySource:
    """Runs of samples of one source, in a keyed order of the runs.

    Each cycle shuffles the samples of every source and cuts them into runs of `samples`. Where they
    do not divide evenly the last run of the source is filled from its first samples, so that a
    cycle holds every sample once or twice; more often only where a source has fewer than `samples`.
    Positions from a multiple of `samples` on are one run.

    Args:
        table: What is known of the samples.
        rows: As of `vesselflow.feed.draws.Uniform`.
        seed: Seed of the run.
        samples: Length of a run, at least 1. At 1 it is a keyed order of all samples.
        window: As of `Uniform`: runs are then shuffled in windows of as many samples.
    """

    def __init__(
        self,
        *,
        table: SampleTable,
        rows: Indices,
        seed: int,
        samples: int,
        window: int | None = None,
    ) -> None:
        self._seed, self._length = seed, samples
        rows = np.asarray(rows, dtype=np.int64)
        source = table.source[rows]
        self._members = [rows[source == each] for each in np.unique(source)]
        counts = [-(-len(members) // samples) for members in self._members]
        self._runs, self._windowed = sum(counts), None
        if window is not None:
            of_run = np.repeat(np.arange(len(counts)), counts)
            size = max(1, window // samples)
            self._windowed = Windowed(seed=key(seed, "order"), source=of_run, window=size)
        # Per instance: neither arrays nor this object are keys of a cache that outlives it.
        self._cycle = lru_cache(maxsize=2)(self._cut)

    def at(self, position: int, count: int) -> Indices:
        """Numbers of the samples at `position` and the ``count - 1`` that follow."""
        first = position // self._length
        last = -(-(position + count) // self._length)
        order = self._order(first, last - first)
        found = [
            self._cycle((first + place) // self._runs)[run]
            for place, run in enumerate(order.tolist())
        ]
        start = position - first * self._length
        flat = np.concatenate(found) if found else np.zeros(0, np.int64)
        return flat[start : start + count]

    def _order(self, position: int, count: int) -> Indices:
        """Numbers of the runs, an endless stream."""
        if self._windowed is not None:
            return self._windowed.at(position, count)
        seed = key(self._seed, "order")
        return sample_indices(seed=seed, position=position, count=count, n=self._runs)

    def _cut(self, cycle: int) -> Indices:
        """int64 (runs, samples): what the runs of a cycle hold."""
        parts = []
        for number, members in enumerate(self._members):
            mixed = members[shuffled(key(self._seed, "source", cycle, number), len(members))]
            runs = -(-len(members) // self._length)
            parts.append(np.resize(mixed, (runs, self._length)))
        return np.concatenate(parts)
