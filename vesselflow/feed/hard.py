"""Samples drawn by how hard they were: the more often, the larger their loss in the last epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vesselflow.feed.draws import Floats, Indices, Shared

if TYPE_CHECKING:
    from vesselflow.feed.batches import SampleTable


class Hard(Shared):
    """Samples by their mean loss in the last epoch in which they came; those unseen by the mean.

    What it has learnt is its state, which a checkpoint keeps: with it, draws are functions of
    (seed, position) as all others are. Nothing is learnt before the end of the first epoch, which
    is uniform; what is learnt within an epoch counts from its end on, so that an epoch can be read
    ahead.

    Args:
        table: What is known of the samples.
        rows: As of `Uniform`, rising.
        seed: Seed of the run.
        share: Of the samples that are drawn so, in [0, 1].
        power: To which losses are raised to be weights.
        window: As of `Uniform`.
    """

    def __init__(
        self,
        *,
        table: SampleTable,
        rows: Indices,
        seed: int,
        share: float,
        power: float,
        window: int | None = None,
    ) -> None:
        super().__init__(table=table, rows=rows, seed=seed, share=share, window=window)
        self._rows, self._power = np.asarray(rows, dtype=np.int64), power
        self._losses = np.full(len(rows), np.nan)
        self._sums, self._counts = np.zeros(len(rows)), np.zeros(len(rows), np.int64)
        self._ends: Floats | None = None

    def at(self, position: int, count: int) -> Indices:
        """Numbers of the samples at `position` and the ``count - 1`` that follow."""
        if self._ends is None:
            return self._rest.at(position, count)
        return super().at(position, count)

    def draw(self, numbers: Floats) -> Indices:
        """Each sample as often as its weight says."""
        assert self._ends is not None
        places = np.searchsorted(self._ends, numbers[:, 0] * self._ends[-1], side="right")
        return self._rows[np.minimum(places, len(self._rows) - 1)]

    def learn(self, position: int, losses: Floats) -> None:
        """Take in the losses of the samples from `position` on, which lie in the epoch that is on.

        Losses that are not finite are no losses.
        """
        places = np.searchsorted(self._rows, self.at(position, len(losses)))
        held = np.isfinite(losses)
        np.add.at(self._sums, places[held], losses[held])
        np.add.at(self._counts, places[held], 1)

    def end_epoch(self) -> None:
        """Draw by what was learnt, from the next sample on."""
        seen = self._counts > 0
        self._losses[seen] = self._sums[seen] / self._counts[seen]
        self._sums[:] = self._counts[:] = 0
        self._weigh()

    def state(self) -> dict[str, NDArray[np.generic]]:
        """All that was learnt: copies of arrays (n,)."""
        known = {"losses": self._losses, "sums": self._sums, "counts": self._counts}
        return {name: values.copy() for name, values in known.items()}

    def load(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Go on from what `state` gave."""
        self._losses[:], self._sums[:] = state["losses"], state["sums"]
        self._counts[:] = state["counts"]
        self._weigh()

    def _weigh(self) -> None:
        known = np.isfinite(self._losses)
        self._ends = None
        if known.any():
            losses = np.where(known, self._losses, self._losses[known].mean())
            weights = np.maximum(losses, 0) ** self._power
            if 0 < weights.sum() < np.inf:
                self._ends = np.cumsum(weights)
