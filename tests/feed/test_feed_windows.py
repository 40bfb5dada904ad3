"""The order in windows: every sample once a cycle, pure in its position, and near its run."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vesselflow.feed.batches import SampleTable
from vesselflow.feed.layout import SampleLayout
from vesselflow.feed.order import key, sample_indices, share
from vesselflow.feed.sampling import SAMPLING
from vesselflow.feed.windows import RUNS_PER_WINDOW, Windowed, runs

#: Samples of each source, some of which a fold leaves out.
SIZES = st.lists(st.tuples(st.integers(1, 12), st.booleans()), min_size=1, max_size=15).filter(
    lambda sizes: any(taken for _, taken in sizes)
)


#: The second cycle of four sources of three samples, in windows of six, seed 5.
GOLDEN = [2, 10, 11, 1, 0, 9, 6, 3, 4, 5, 8, 7]


def owners(sizes: list[tuple[int, bool]]) -> np.ndarray:
    """The source of each sample of the sources that are taken."""
    parts = [np.full(size, i) for i, (size, taken) in enumerate(sizes) if taken]
    return np.concatenate(parts).astype(np.int32)


def windowed(source: np.ndarray, window: int, seed: int = 0) -> Windowed:
    return Windowed(seed=seed, source=source, window=window)


@settings(deadline=None, max_examples=100)
@given(SIZES, st.integers(1, 200))
def test_runs_are_whole_sources_and_cover_all(sizes: list[tuple[int, bool]], least: int) -> None:
    source = owners(sizes)
    bounds = runs(source, least)
    assert bounds[0] == 0
    assert bounds[-1] == len(source)
    assert (np.diff(bounds) > 0).all()
    assert all(source[cut - 1] != source[cut] for cut in bounds[1:-1])
    # As short as they can be: without its last source each would be too short.
    for low, high in itertools.pairwise(bounds.tolist()):
        before_last = np.searchsorted(source, source[high - 1])
        assert before_last - low < least
    assert (np.diff(bounds)[:-1] >= least).all()


@settings(deadline=None, max_examples=60)
@given(SIZES, st.integers(1, 200), st.integers(0, 2**63 - 1), st.integers(0, 3))
def test_every_cycle_gives_every_sample_once(
    sizes: list[tuple[int, bool]], window: int, seed: int, cycle: int
) -> None:
    source = owners(sizes)
    n = len(source)
    found = windowed(source, window, seed).at(cycle * n, n)
    assert sorted(found.tolist()) == list(range(n))


@settings(deadline=None, max_examples=60)
@given(SIZES, st.integers(1, 200), st.integers(0, 300), st.lists(st.integers(0, 40)))
def test_the_stream_does_not_depend_on_how_it_is_cut(
    sizes: list[tuple[int, bool]], window: int, position: int, counts: list[int]
) -> None:
    """Nor on what was asked before: over ends of windows and of cycles."""
    source = owners(sizes)
    whole = windowed(source, window).at(position, sum(counts))
    again, parts, end = windowed(source, window), [], position + sum(counts)
    for count in reversed(counts):
        parts = again.at(end - count, count).tolist() + parts
        end -= count
    assert whole.tolist() == parts


@settings(deadline=None, max_examples=60)
@given(SIZES, st.integers(1, 60), st.integers(0, 2**31))
def test_a_window_holds_what_lies_side_by_side(
    sizes: list[tuple[int, bool]], window: int, seed: int
) -> None:
    """Each window is a part of the sequence of whole runs: a reader goes through each run once."""
    source = owners(sizes)
    stream, n = windowed(source, window, seed), len(source)
    found = stream.at(0, n)
    # The runs in their order, which is that of the windows in which they begin.
    run_of = np.searchsorted(stream.bounds, found, side="right") - 1
    place = np.empty(n, np.int64)
    place[found] = np.arange(n) // window
    spans = [place[low:high] for low, high in itertools.pairwise(stream.bounds)]
    for span in spans:
        held = np.unique(span)
        assert held.tolist() == list(range(held[0], held[-1] + 1))
        # Neighbours within a run are never further apart than windows are.
        assert (np.diff(span) >= 0).all()
    # No more runs are open between two windows than one.
    for cut in range(window, n, window):
        assert len(set(run_of[:cut].tolist()) & set(run_of[cut:].tolist())) <= 1


@settings(deadline=None, max_examples=40)
@given(SIZES, st.integers(1, 60))
def test_no_sample_is_further_from_its_place_than_a_window_is_long(
    sizes: list[tuple[int, bool]], window: int
) -> None:
    source = owners(sizes)
    n = len(source)
    stream = windowed(source, window)
    # In windows of one sample there is nothing to shuffle in them: the order of the runs itself.
    least = max(1, min(window, n) // RUNS_PER_WINDOW)
    if not np.array_equal(runs(source, least), runs(source, 1)):
        return
    sequence, found = windowed(source, 1).at(0, n), stream.at(0, n)
    place = np.empty(n, np.int64)
    place[sequence] = np.arange(n)
    assert np.abs(place[found] - np.arange(n)).max() < window


def test_the_order_by_hand() -> None:
    # Golden: changing these numbers renames nothing but changes every run in windows.
    source = np.repeat(np.arange(4), 3)
    stream = windowed(source, 6, seed=5)
    assert stream.bounds.tolist() == [0, 3, 6, 9, 12]
    words = [int(w) for w in np.random.Philox(key=key(5, "runs", 1)).random_raw(4)]
    order = sorted(range(4), key=words.__getitem__)
    sequence = [3 * run + i for run in order for i in range(3)]
    words = [int(w) for w in np.random.Philox(key=key(5, "window", 1)).random_raw(12)]
    places = sorted(range(12), key=lambda place: (place // 6, words[place]))
    expected = [sequence[place] for place in places]
    assert stream.at(12, 12).tolist() == expected == GOLDEN


def test_cycles_and_seeds_differ() -> None:
    source = np.repeat(np.arange(10), 5)
    first, second = (windowed(source, 8, 1).at(at, 50).tolist() for at in (0, 50))
    assert len({tuple(first), tuple(second), tuple(windowed(source, 8, 2).at(0, 50))}) == 3


def test_a_window_as_long_as_the_store_shuffles_all_of_it() -> None:
    source = np.repeat(np.arange(20), 5)
    for window in (100, 10**30):
        found = windowed(source, window).at(0, 100)
        # Neighbours of a source are scattered: none of the runs of five is left.
        assert np.mean(np.diff(source[found]) == 0) < 0.3


def test_the_caller_may_change_what_it_gets() -> None:
    stream = windowed(np.arange(5), 5)
    stream.at(0, 5)[:] = 0
    assert sorted(stream.at(0, 5).tolist()) == list(range(5))


def test_no_order_without_samples() -> None:
    with pytest.raises(ValueError, match="no order"):
        windowed(np.zeros(0, np.int32), 4)
    with pytest.raises(ValueError, match="no order"):
        windowed(np.zeros(3, np.int32), 0)
    with pytest.raises(ValueError, match="no sample order"):
        windowed(np.zeros(3, np.int32), 2).at(-1, 2)


def table_of(source: np.ndarray) -> SampleTable:
    """Samples of which every other one holds the only class."""
    nothing = np.zeros((len(source), 2), np.int32)
    held = (np.arange(len(source)) % 2).astype(np.uint8)[:, None]
    return SampleTable(SampleLayout((4, 4), 1), source, nothing, nothing, nothing, held=held)


@pytest.mark.parametrize(
    "rule",
    [
        {"name": "uniform"},
        {"name": "foreground", "share": 0.4},
        {"name": "class", "share": 0.4},
        {"name": "hard", "share": 0.4},
    ],
    ids=lambda rule: str(rule["name"]),
)
def test_other_ways_leave_the_rest_in_windows(rule: dict[str, object]) -> None:
    source = np.repeat(np.arange(8, dtype=np.int32), 6)
    rows = np.flatnonzero(source != 3)
    draws = SAMPLING.build(rule, table=table_of(source), rows=rows, seed=3, window=10)
    plain = windowed(source[rows], 10, seed=key(3, "order"))
    found = draws.at(7, 200)
    agree = found == rows[plain.at(7, 200)]
    assert agree.mean() == 1 if rule["name"] in ("uniform", "hard") else 0.6 <= agree.mean() < 0.8
    # As ever: without windows it is the keyed order.
    keyed = SAMPLING.build(rule, table=table_of(source), rows=rows, seed=3).at(7, 200)
    order = rows[sample_indices(seed=key(3, "order"), position=7, count=200, n=len(rows))]
    assert (keyed == order).mean() >= 0.6
    assert keyed.tolist() != found.tolist()


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_workers_reads_the_same_sequence(workers: int) -> None:
    """Over three cycles, whose ends lie within micro-batches."""
    stream = windowed(np.repeat(np.arange(4), 5), 7)
    size, count, read = 3, 4, []
    for step in range(5):
        for rank in range(workers):
            for index in share(count, workers, rank):
                read += stream.at((step * count + index) * size, size).tolist()
    assert read == stream.at(0, 60).tolist()
