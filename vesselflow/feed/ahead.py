"""What a stream reads ahead: pieces of a store, each read once for all samples that need it soon.

Decided here; `ray_ahead` reads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from vesselflow.feed.batches import SampleTable
from vesselflow.feed.gathering import Box, Found, Rows


@dataclass(frozen=True)
class Sizes:
    """How much is read ahead, in samples, at least one each.

    Attributes:
        piece: Of a piece, at most: read by one task, kept until its last sample was used.
        span: Of a span, at most: a part of the order that is read in store order.
    """

    piece: int
    span: int

    @classmethod
    def of(cls, sample_bytes: int, *, piece_bytes: int, span_bytes: int) -> Sizes:
        """As many as a number of bytes holds."""
        piece = max(1, piece_bytes // max(1, sample_bytes))
        return cls(piece, max(piece, span_bytes // max(1, sample_bytes)))


@dataclass(frozen=True)
class Piece:
    """Some samples that are read at once.

    Attributes:
        rows: int64 (k,), their numbers, rising and distinct.
        first: The first place in the order at which one of them is used.
        uses: How often they are used, together.
    """

    rows: np.ndarray
    first: int
    uses: int


@dataclass(frozen=True)
class Span:
    """A part of the order, and the pieces that hold its samples.

    Attributes:
        pieces: In the order of their first use.
        piece: int64 (m,), of each place: which of the pieces.
        row: int64 (m,), of each place: which row of that piece.
    """

    pieces: tuple[Piece, ...]
    piece: np.ndarray
    row: np.ndarray


def spans(order: np.ndarray, source: np.ndarray, sizes: Sizes) -> Iterator[Span]:
    """Divide an order of samples into spans, and each of these into pieces.

    A piece is a part of the store: whole sources where they fit, so that none is unpacked twice in
    a span.

    Args:
        order: int64 (k,), numbers of samples, in the order in which they are used.
        source: int32 (n,), the source of each sample, in store order.
        sizes: Of spans and pieces.
    """
    start = 0
    while start < len(order):
        ahead = order[start : start + 2 * sizes.span]
        stop = start + span_end(source[ahead], sizes)
        yield _span(order[start:stop], source, start, sizes.piece)
        start = stop


def span_end(source: np.ndarray, sizes: Sizes) -> int:
    """Where a span ends best: where few sources are cut in two for what they are worth.

    A source that is used before and after the end is read twice. Minimal is the number of these
    sources by the length of the span; of equals the shortest is taken. Windows that hold whole
    sources are found so, and where nothing is shared between samples, spans are short.

    Args:
        source: int32 (k,), of the samples that lie ahead, in their order: those of two spans.
        sizes: Of spans and pieces.
    """
    if len(source) <= sizes.piece:
        return len(source)
    _, first = np.unique(source, return_index=True)
    _, back = np.unique(source[::-1], return_index=True)
    begun = np.cumsum(np.bincount(first, minlength=len(source)))
    ended = np.cumsum(np.bincount(len(source) - 1 - back, minlength=len(source)))
    lengths = np.arange(sizes.piece, min(sizes.span, len(source)) + 1)
    # Behind the last place that is known nothing is open.
    return int(lengths[np.argmin((begun - ended)[lengths - 1] / lengths)])


def _span(order: np.ndarray, source: np.ndarray, start: int, most: int) -> Span:
    rows, first, inverse, counts = np.unique(
        order, return_index=True, return_inverse=True, return_counts=True
    )
    owner = source[rows]
    cuts = [0]
    ends = np.append(np.flatnonzero(np.diff(owner)) + 1, len(rows)).tolist()
    for low, high in zip([0, *ends], ends, strict=False):
        if high - cuts[-1] > most and low > cuts[-1]:
            cuts.append(low)  # the source begins a piece of its own
        while high - cuts[-1] > most:
            cuts.append(cuts[-1] + most)
    bounds = np.array([*cuts, len(rows)])
    firsts = np.minimum.reduceat(first, bounds[:-1])
    by_use = np.argsort(firsts, kind="stable")
    pieces = tuple(
        Piece(rows[low:high], start + int(firsts[at]), int(counts[low:high].sum()))
        for at in by_use.tolist()
        for low, high in [bounds[at : at + 2].tolist()]
    )
    place = np.empty(len(by_use), np.int64)
    place[by_use] = np.arange(len(by_use))
    held = np.searchsorted(bounds, inverse, side="right") - 1
    return Span(pieces, place[held], inverse - bounds[held])


class Reads(Protocol):
    """Whoever reads pieces, meanwhile."""

    def read(self, rows: Rows) -> Any:
        """Have some samples read: a handle."""

    def get(self, handle: Any) -> list[Box] | np.ndarray:
        """Wait for them, as `Gatherer.read` gives them."""

    def cancel(self, handle: Any) -> None:
        """Nobody waits for them any more."""


class _Held:
    """A piece, from the moment at which it is known until its last sample was used."""

    def __init__(self, piece: Piece, size: int) -> None:
        self.piece, self.left, self.nbytes = piece, piece.uses, len(piece.rows) * size
        self.handle: Any = None
        self.found: Found | None = None


@dataclass(frozen=True)
class _Known:
    span: Span
    pieces: list[_Held]


class Ahead:
    """Gives the samples of an order one by one, while what comes next is read.

    What is asked for and what is held take at most `budget` bytes together, but for a piece that
    is needed now.

    Args:
        readers: Who reads.
        table: Where the samples lie.
        spans: Of the order, see `ahead.spans`.
        budget: In bytes.
    """

    def __init__(
        self, readers: Reads, table: SampleTable, spans: Iterator[Span], budget: int
    ) -> None:
        self._readers, self._table, self._budget = readers, table, budget
        self._known: deque[_Known] = deque()
        self._coming = self._pieces(spans)
        self._next = next(self._coming, None)
        self._taken = 0

    def samples(self) -> Generator[tuple[Found, int], None, None]:
        """Of each sample, in order, what holds it, and at which row; until the next is asked for.

        Closing the iterator ends the reading.
        """
        used = 0
        try:
            while self._known:
                known = self._known[0]
                for at, row in zip(known.span.piece.tolist(), known.span.row.tolist(), strict=True):
                    held = known.pieces[at]
                    if held.found is None:
                        self._ask(used)
                        held.found = Found(self._table.layout, self._readers.get(held.handle))
                    yield held.found, row
                    used += 1
                    held.left -= 1
                    if not held.left:
                        held.found = held.handle = None
                        self._taken -= held.nbytes
                        self._ask(used)
                self._known.popleft()
        finally:
            self._drop()

    def _pieces(self, spans: Iterator[Span]) -> Iterator[_Held]:
        """The pieces in the order in which they are needed first."""
        for span in spans:
            held = [_Held(piece, self._table.layout.nbytes) for piece in span.pieces]
            self._known.append(_Known(span, held))
            yield from held

    def _ask(self, used: int) -> None:
        """Have pieces read: those that are needed now, and others while there is room for them."""
        table = self._table
        while (held := self._next) is not None:
            room = self._taken + held.nbytes <= self._budget
            if not room and held.piece.first > used:
                return
            rows = held.piece.rows
            held.handle = self._readers.read(Rows(rows, table.source[rows], table.corner[rows]))
            self._taken += held.nbytes
            self._next = next(self._coming, None)

    def _drop(self) -> None:
        """Let go of everything; what waits to be read is not read any more."""
        for known in self._known:
            for held in known.pieces:
                if held.handle is not None and held.found is None:
                    self._readers.cancel(held.handle)
                held.handle = held.found = None
        self._known.clear()
        self._next = None
