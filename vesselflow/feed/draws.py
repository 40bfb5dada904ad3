"""Which sample comes where: pure functions of (seed, position), whoever asks and in what portions.

A run's samples are one endless stream, as in `order` or in `windows`. The uniform draws are that
stream. Every other way puts samples of its own at a share of the positions, and leaves the rest as
it is: with a share of 0 it is `Uniform`, bit for bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from vesselflow.errors import UserError
from vesselflow.feed.order import key, sample_indices, unit_numbers
from vesselflow.feed.windows import Windowed

if TYPE_CHECKING:
    from vesselflow.feed.batches import SampleTable

Indices = NDArray[np.int64]
Floats = NDArray[np.float64]

#: Positions whose random numbers are made at once.
_BLOCK = 4096


class Draws(Protocol):
    """The stream of samples of one run."""

    def at(self, position: int, count: int) -> Indices:
        """Numbers of the samples at `position` and the ``count - 1`` that follow."""


class Uniform:
    """Every sample once before any comes twice.

    Args:
        table: What is known of the samples.
        rows: int64 (n,), at least one: the samples of the fold's training part, in store order.
        seed: Seed of the run.
        window: Samples of the windows in which `rows` are shuffled (see `windows`), for which the
            table must be known; None: one keyed order of them all.
    """

    def __init__(
        self,
        *,
        table: SampleTable | None,
        rows: Indices,
        seed: int,
        window: int | None = None,
    ) -> None:
        self.rows = np.asarray(rows, dtype=np.int64)
        self._seed = key(seed, "order")
        self._windowed: Windowed | None = None
        if window is not None:
            assert table is not None
            source = table.source[self.rows]
            self._windowed = Windowed(seed=self._seed, source=source, window=window)

    def at(self, position: int, count: int) -> Indices:
        """Numbers of the samples at `position` and the ``count - 1`` that follow."""
        if self._windowed is not None:
            return self.rows[self._windowed.at(position, count)]
        order = sample_indices(seed=self._seed, position=position, count=count, n=len(self.rows))
        return self.rows[order]


class Shared(ABC):
    """Draws that put samples of their own, with replacement, at a share of the positions.

    The positions are spread evenly, so that of any `m` samples in a row at least
    ``floor(share * m)`` are drawn in this way.

    Args:
        table: What is known of the samples.
        rows: As of `Uniform`.
        seed: Seed of the run.
        share: In [0, 1].
        window: Of the positions that are left, as of `Uniform`.
    """

    def __init__(
        self,
        *,
        table: SampleTable,
        rows: Indices,
        seed: int,
        share: float,
        window: int | None = None,
    ) -> None:
        self._rest = Uniform(table=table, rows=rows, seed=seed, window=window)
        self._seed, self._share = key(seed, "sampling"), share

    def at(self, position: int, count: int) -> Indices:
        """Numbers of the samples at `position` and the ``count - 1`` that follow."""
        found = self._rest.at(position, count)
        own = chosen_positions(position, count, self._share)
        if own.any():
            found[own] = self.draw(uniforms(self._seed, position, count)[own])
        return found

    @abstractmethod
    def draw(self, numbers: Floats) -> Indices:
        """Samples by random numbers (k, 2) in [0, 1), a row for each."""


class Pooled(Shared):
    """Draws out of some of the samples, each of them equally often."""

    #: int64 (k,), at least one: which samples.
    pool: Indices

    def draw(self, numbers: Floats) -> Indices:
        """One of the pool by the first number."""
        return self.pool[_places(numbers[:, 0], len(self.pool))]


class Foreground(Pooled):
    """Samples with foreground: a class inside, somewhere in the field of view.

    Raises:
        UserError: No sample of `rows` has any.
    """

    def __init__(
        self,
        *,
        table: SampleTable,
        rows: Indices,
        seed: int,
        share: float,
        window: int | None = None,
    ) -> None:
        super().__init__(table=table, rows=rows, seed=seed, share=share, window=window)
        self.pool = rows[held_classes(table, rows).any(axis=1)]
        if not len(self.pool):
            raise _nothing()


class Classes(Shared):
    """For each sample a class is drawn, and then a sample that holds it; all equally likely.

    Classes that no sample of `rows` holds are left out.

    Raises:
        UserError: No sample of `rows` holds a class.
    """

    def __init__(
        self,
        *,
        table: SampleTable,
        rows: Indices,
        seed: int,
        share: float,
        window: int | None = None,
    ) -> None:
        super().__init__(table=table, rows=rows, seed=seed, share=share, window=window)
        pools = [rows[inside] for inside in held_classes(table, rows).T if inside.any()]
        if not pools:
            raise _nothing()
        self._members = np.concatenate(pools)
        self._sizes = np.array([len(pool) for pool in pools])
        self._first = np.cumsum(self._sizes) - self._sizes

    def draw(self, numbers: Floats) -> Indices:
        """A class by the first number, one of its samples by the second."""
        chosen = _places(numbers[:, 0], len(self._sizes))
        return self._members[self._first[chosen] + _places(numbers[:, 1], self._sizes[chosen])]


class AroundKeypoints(Pooled):
    """Patches that are cut around keypoints, each equally often.

    Args:
        table: What is known of the samples.
        rows: As of `Uniform`; those that are cut around keypoints come by the share alone.
        seed: Seed of the run.
        share: In [0, 1].
        jitter: Of the view, see `Around`.
        copies: Of the view.
        window: As of `Uniform`.

    Raises:
        UserError: There is none.
    """

    def __init__(
        self,
        *,
        table: SampleTable,
        rows: Indices,
        seed: int,
        share: float,
        jitter: float,
        copies: int,
        window: int | None = None,
    ) -> None:
        grid = table.of_grid(rows)
        super().__init__(table=table, rows=grid, seed=seed, share=share, window=window)
        self.pool = np.setdiff1d(rows, grid)
        if not len(self.pool):
            raise UserError(
                "no patch around a keypoint of the training part has enough field of view",
                where="sampling.name",
                allowed="uniform, foreground, or a lower data.min_fov",
            )


def held_classes(table: SampleTable, rows: Indices) -> NDArray[np.bool_]:
    """(n, K): whether sample `rows[i]` holds class k."""
    if table.held is None:
        raise ValueError("nobody has looked which classes the samples hold")
    return table.held[rows] > 0


def chosen_positions(position: int, count: int, share: float) -> NDArray[np.bool_]:
    """Which of `count` positions from `position` on belong to a share of them, spread evenly.

    >>> chosen_positions(0, 8, 0.25).astype(int).tolist()
    [0, 0, 0, 1, 0, 0, 0, 1]
    """
    ends = np.floor(np.arange(position, position + count + 1, dtype=np.float64) * share)
    return np.diff(ends) > 0


def uniforms(seed: int, position: int, count: int) -> Floats:
    """Random numbers (count, 2) in [0, 1) of the positions from `position` on."""
    first, last = position // _BLOCK, (position + max(1, count) - 1) // _BLOCK
    blocks = [_uniforms(seed, block) for block in range(first, last + 1)]
    start = position - first * _BLOCK
    return np.concatenate(blocks)[start : start + count]


@lru_cache(maxsize=8)
def _uniforms(seed: int, block: int) -> Floats:
    numbers = unit_numbers(key(seed, "draws", block), 2 * _BLOCK).reshape(_BLOCK, 2)
    numbers.setflags(write=False)
    return numbers


def _places(numbers: Floats, sizes: int | NDArray[np.int64]) -> Indices:
    """Numbers in [0, 1) as places below `sizes`."""
    return np.minimum((numbers * sizes).astype(np.int64), np.asarray(sizes) - 1)


def _nothing() -> UserError:
    return UserError(
        "no sample of the training part has any foreground",
        where="sampling.name",
        allowed="uniform, or a fold with foreground to train on",
    )
