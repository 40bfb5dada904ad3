"""The order of samples for stores that are streamed: shuffled runs, shuffled again in windows.

A store is cut into runs: whole sources that lie side by side, so that a reader goes through each in
one go. Their order is keyed; along it, samples are shuffled within windows. As in `order`, an
endless stream that is a pure function of (seed, position), every sample once before any comes
twice.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from vesselflow.feed.order import cycles, key, shuffled

#: Runs that a window mixes, at least, where sources are small enough.
RUNS_PER_WINDOW = 16


class Windowed:
    """An endless stream of shuffled runs, shuffled in windows.

    Each cycle puts the runs into an order of its own, and cuts their samples, in this order, into
    windows of `window` samples (the last one of a cycle may be shorter). Within a window samples
    are shuffled. So a sample is never further from its place in the order of the runs than a
    window is long, and whoever holds a window reads every run once and in sequence.

    Args:
        seed: Key of the stream.
        source: int (n,), at least one: the source of each sample, in store order.
        window: Samples of a window, at least 1.

    Raises:
        ValueError: No sample, or a window without one.
    """

    def __init__(self, *, seed: int, source: NDArray[np.integer], window: int) -> None:
        if not len(source) or window < 1:
            raise ValueError(f"no order of {len(source)} samples in windows of {window}")
        self._seed, self._window = seed, min(window, len(source))
        #: int64 (r + 1,), where runs begin, and the end of the last one.
        self.bounds = runs(source, max(1, self._window // RUNS_PER_WINDOW))
        # Per instance: neither arrays nor this object are keys of a cache that outlives it.
        self._cycle = lru_cache(maxsize=2)(self._shuffled_cycle)

    def at(self, position: int, count: int) -> NDArray[np.int64]:
        """Samples at `position` and the ``count - 1`` that follow, values in [0, n).

        Raises:
            ValueError: A negative position or count.
        """
        return cycles(self._cycle, position=position, count=count, n=int(self.bounds[-1]))

    def _shuffled_cycle(self, cycle: int) -> NDArray[np.int64]:
        order = shuffled(key(self._seed, "runs", cycle), len(self.bounds) - 1)
        starts, sizes = self.bounds[:-1][order], np.diff(self.bounds)[order]
        # Samples run by run: each run's start, and how far a sample lies behind it.
        behind = np.arange(self.bounds[-1]) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        sequence = np.repeat(starts, sizes) + behind
        words = np.random.Philox(key=key(self._seed, "window", cycle)).random_raw(len(sequence))
        return sequence[np.lexsort((words, np.arange(len(sequence)) // self._window))]


def runs(source: NDArray[np.integer], least: int) -> NDArray[np.int64]:
    """Cut samples into runs of whole sources: each as few as hold at least `least` samples.

    A source is never cut, because the chunks that it is stored in hold parts of many samples; the
    last run may be shorter.

    Args:
        source: int (n,), at least one: the source of each sample, in store order.
        least: Samples of a run.

    Returns:
        int64 (r + 1,), rising from 0 to n: run `i` is ``bounds[i]:bounds[i + 1]``.

    >>> runs(np.array([0, 0, 0, 1, 2, 2, 4]), 2).tolist()
    [0, 3, 6, 7]
    """
    ends = np.append(np.flatnonzero(np.diff(source)) + 1, len(source))
    bounds = [0]
    for end in ends.tolist():
        if end - bounds[-1] >= least or end == len(source):
            bounds.append(end)
    return np.array(bounds, dtype=np.int64)
