"""What a stream reads ahead: all of an order, each source once where it can be, within a budget."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from feed_stores import assert_same_batch, noise_source, noise_store
from hypothesis import given, settings
from hypothesis import strategies as st

from vesselflow.feed.ahead import Ahead, Sizes, span_end, spans
from vesselflow.feed.batches import SampleTable, load_samples
from vesselflow.feed.gathering import Found, Gatherer, Rows, boxes
from vesselflow.feed.layout import SampleLayout
from vesselflow.feed.view import View
from vesselflow.feed.windows import Windowed
from vesselflow.stores.store import Store, write_store

LAYOUT = SampleLayout((4, 4), channels=1)
SOURCES = st.lists(st.integers(1, 9), min_size=1, max_size=12)
SIZES = st.tuples(st.integers(1, 20), st.integers(1, 60)).map(
    lambda both: Sizes(both[0], max(both))
)


def owners(counts: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(counts), dtype=np.int32), counts)


class Reads:
    """Records that hold their numbers; notes what is asked for and held."""

    def __init__(self) -> None:
        self.asked: list[np.ndarray] = []
        self.cancelled: list[np.ndarray] = []

    def read(self, rows: Rows) -> np.ndarray:
        self.asked.append(rows.row)
        return rows.row

    def get(self, handle: np.ndarray) -> np.ndarray:
        return np.repeat(handle[:, None], LAYOUT.nbytes, axis=1)

    def cancel(self, handle: np.ndarray) -> None:
        self.cancelled.append(handle)


def table_of(source: np.ndarray) -> SampleTable:
    nothing = np.zeros((len(source), 2), np.int32)
    return SampleTable(LAYOUT, source, nothing, nothing, nothing)


@settings(deadline=None, max_examples=150)
@given(SOURCES, SIZES, st.data())
def test_spans_give_every_place_its_sample(
    counts: list[int], sizes: Sizes, data: st.DataObject
) -> None:
    source = owners(counts)
    order = np.array(data.draw(st.lists(st.integers(0, len(source) - 1), max_size=150)), np.int64)
    found, used = [], 0
    for span in spans(order, source, sizes):
        assert 0 < len(span.piece) <= sizes.span
        rows = [piece.rows for piece in span.pieces]
        assert all(0 < len(each) <= sizes.piece for each in rows)
        assert all((np.diff(each) > 0).all() for each in rows)
        # No sample is read twice within a span.
        assert len(np.unique(np.concatenate(rows))) == sum(map(len, rows))
        here = [rows[p][r] for p, r in zip(span.piece, span.row, strict=True)]
        firsts = [piece.first for piece in span.pieces]
        assert firsts == [used + span.piece.tolist().index(i) for i in range(len(rows))]
        assert firsts == sorted(firsts)
        assert [piece.uses for piece in span.pieces] == np.bincount(span.piece).tolist()
        found += here
        used += len(here)
    assert found == order.tolist()


@settings(deadline=None, max_examples=60)
@given(SOURCES, st.integers(1, 40), st.integers(0, 2**31))
def test_windows_are_read_source_by_source(counts: list[int], window: int, seed: int) -> None:
    """Where a span holds a window and more, only sources that a window cuts are read twice."""
    source = owners(counts)
    order = Windowed(seed=seed, source=source, window=window).at(0, len(source))
    sizes = Sizes(max(counts), 2 * (window + max(counts)))
    read: list[int] = []
    for span in spans(order, source, sizes):
        for piece in span.pieces:
            read += np.unique(source[piece.rows]).tolist()
    windows = -(-len(source) // window)
    assert len(read) - len(set(read)) <= windows - 1


def test_a_span_ends_where_no_source_is_cut() -> None:
    # Two windows of two sources each; a third begins.
    source = np.array([0, 1, 0, 1, 2, 3, 3, 2, 4, 5, 4, 5])
    assert span_end(source, Sizes(piece=3, span=6)) == 4
    assert span_end(source, Sizes(piece=5, span=11)) == 8
    # Nothing is shared: no longer than a piece.
    assert span_end(np.arange(12), Sizes(piece=3, span=6)) == 3
    # Everything is cut wherever it ends: as long as can be.
    assert span_end(np.tile([0, 1, 2], 4), Sizes(piece=2, span=6)) == 6
    assert span_end(np.array([7]), Sizes(piece=3, span=6)) == 1


def test_sizes_hold_a_sample_at_least() -> None:
    assert Sizes.of(100, piece_bytes=250, span_bytes=1000) == Sizes(2, 10)
    assert Sizes.of(100, piece_bytes=99, span_bytes=0) == Sizes(1, 1)
    assert Sizes.of(100, piece_bytes=500, span_bytes=200) == Sizes(5, 5)


@settings(deadline=None, max_examples=100)
@given(SOURCES, SIZES, st.integers(0, 100), st.data())
def test_what_is_ahead_stays_within_its_budget(
    counts: list[int], sizes: Sizes, room: int, data: st.DataObject
) -> None:
    source = owners(counts)
    order = np.array(data.draw(st.lists(st.integers(0, len(source) - 1), max_size=150)), np.int64)
    reads, size = Reads(), LAYOUT.nbytes
    ahead = Ahead(reads, table_of(source), spans(order, source, sizes), room * size)
    parts = list(spans(order, source, sizes))
    pieces = [piece for part in parts for piece in part.pieces]
    # The place after the last use of each piece, in the order in which they are read.
    ends: list[int] = []
    start = 0
    for part in parts:
        ends += [start + int(np.flatnonzero(part.piece == i)[-1]) for i in range(len(part.pieces))]
        start += len(part.piece)
    record = np.empty(LAYOUT.nbytes, np.int64)
    for place, (found, row) in enumerate(ahead.samples()):
        found.fill(row, record)
        assert record.tolist() == [order[place]] * len(record)
        held = [i for i in range(len(reads.asked)) if ends[i] >= place]
        ahead_of_need = [i for i in held if pieces[i].first > place]
        taken = sum(len(pieces[i].rows) for i in held)
        assert taken <= room or not ahead_of_need
    assert [rows.tolist() for rows in reads.asked] == [piece.rows.tolist() for piece in pieces]
    assert not reads.cancelled


def test_what_is_used_makes_room_for_what_comes() -> None:
    source = owners([1] * 30)
    reads = Reads()
    parts = spans(np.arange(30), source, Sizes(2, 2))
    samples = Ahead(reads, table_of(source), parts, 10 * LAYOUT.nbytes).samples()
    asked = [len(reads.asked) for _ in samples]
    assert asked == [min(15, 5 + place // 2) for place in range(30)]


def test_closing_lets_go_of_what_nobody_waits_for() -> None:
    source = owners([1] * 30)
    reads = Reads()
    parts = spans(np.arange(30), source, Sizes(2, 2))
    samples = Ahead(reads, table_of(source), parts, 10 * LAYOUT.nbytes).samples()
    next(samples)
    assert len(reads.asked) == 5
    samples.close()
    assert [rows.tolist() for rows in reads.cancelled] == [[2, 3], [4, 5], [6, 7], [8, 9]]
    assert len(reads.asked) == 5


def test_nothing_is_read_of_nothing() -> None:
    empty = np.zeros(0, np.int64)
    ahead = Ahead(Reads(), table_of(owners([1])), spans(empty, owners([1]), Sizes(1, 1)), 10)
    assert list(ahead.samples()) == []


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(*[st.integers(0, 3000)] * 2), min_size=1, max_size=30),
    st.sampled_from([1000, 100_000, 10**7]),
)
def test_boxes_are_no_larger_than_what_is_unpacked_for_them(
    corners: list[tuple[int, int]], most: int
) -> None:
    places = np.array(sorted(corners), np.int32)
    found = boxes(places, (32, 512), most)
    assert found[0] == 0
    assert found[-1] == len(places)
    for low, high in itertools.pairwise(found):
        part = places[low:high]
        assert len(part) > 0
        voxels = np.prod(part.max(axis=0) - part.min(axis=0) + (32, 512))
        # Of a patch, chunks of 256 px are unpacked whole.
        assert len(part) == 1 or voxels <= min(most, len(part) * 256 * 512)


def test_patches_of_a_chunk_are_read_together() -> None:
    grid = np.array([(y, x) for y in range(0, 512, 64) for x in range(0, 512, 64)], np.int32)
    assert boxes(grid, (64, 64), 10**9) == [0, 64]
    # A third of them: as many chunks, unpacked once.
    assert boxes(grid[::3], (64, 64), 10**9) == [0, 22]
    far = np.array([(0, 0), (5000, 5000)], np.int32)
    assert boxes(far, (64, 64), 10**9) == [0, 1, 2]


VIEWS = {
    "full": View(None, "full", None, 0.0, 32),
    "native": View(None, 64, 24, 0.5, 32),
    "resized": View(100, 64, 24, 0.5, 32),
}


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return noise_store(tmp_path_factory.mktemp("noise") / "n.h5")


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_what_is_gathered_is_what_memory_holds(noise: Path, view: View) -> None:
    memory, reader = load_samples(noise, view), Gatherer(noise, view)
    table, random = memory.table, np.random.default_rng(0)
    asked = [
        np.arange(memory.n),
        np.arange(memory.n)[::-1],
        random.integers(0, memory.n, 3),  # few and far apart
        random.permutation(memory.n),
        np.zeros(0, np.int64),
    ]
    # Twice: what it learnt about fovs changes nothing.
    for rows in (*asked, *asked):
        records = reader.gather(Rows(rows, table.source[rows], table.corner[rows]))
        assert_same_batch(table.batch(records, rows), memory.gather(rows))
        # The other way, as a stream takes it.
        given = reader.read(Rows(rows, table.source[rows], table.corner[rows]))
        found, records = Found(table.layout, given), np.zeros_like(records)
        for place, record in enumerate(records):
            found.fill(place, record)
        assert_same_batch(table.batch(records, rows), memory.gather(rows))
    reader.close()


def test_a_hole_in_a_fov_stays(tmp_path: Path) -> None:
    """Read whole, again and again: only a fov that is full is not read again."""
    sources = [noise_source(0), noise_source(1)]
    for index, source in enumerate(sources):
        fov = np.ones_like(source.fov)
        fov[40:50, 60:70] = index
        sources[index] = replace(source, fov=fov)
    path = tmp_path / "hole.h5"
    write_store(path, sources, domain="noise", importer={"name": "test"})
    view = View(None, 32, 16, 0.0, 1)
    memory, reader = load_samples(path, view), Gatherer(path, view)
    table, every = memory.table, np.arange(memory.n)
    for _ in range(2):
        records = reader.gather(Rows(every, table.source, table.corner))
        assert_same_batch(table.batch(records, every), memory.gather(every))
    reader.close()


def test_boxes_take_no_more_than_records(noise: Path) -> None:
    """What is ahead is bounded by the bytes of records."""
    table, reader = load_samples(noise, VIEWS["native"]).table, Gatherer(noise, VIEWS["native"])
    every = np.arange(len(table.source))
    for rows in (every, every[:1], every[::7], np.repeat(every[:1], 3)):
        given = reader.read(Rows(rows, table.source[rows], table.corner[rows]))
        size = given.nbytes if isinstance(given, np.ndarray) else sum(box.nbytes for box in given)
        assert size <= len(rows) * table.layout.nbytes
    # Patches that overlap: each pixel once.
    given = reader.read(Rows(every, table.source, table.corner))
    assert isinstance(given, list)
    assert sum(box.nbytes for box in given) < len(every) * table.layout.nbytes / 2
    reader.close()


def test_a_source_is_read_once_for_all_its_patches(
    noise: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows: list[tuple[int, ...]] = []
    true = Store.image

    def noting(self: Store, index: int, window: tuple[int, ...]) -> np.ndarray:
        windows.append((index, *window))
        return true(self, index, window)

    view = VIEWS["native"]
    table = load_samples(noise, view).table
    monkeypatch.setattr(Store, "image", noting)
    reader = Gatherer(noise, view)
    rows = np.flatnonzero(np.isin(table.source, [1, 4]))
    reader.gather(Rows(rows, table.source[rows], table.corner[rows]))
    assert [window[0] for window in windows] == [1, 4]
    reader.close()
