"""Micro-batches of one source."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vesselflow.feed.batches import SampleTable
from vesselflow.feed.draws import Draws
from vesselflow.feed.layout import SampleLayout
from vesselflow.feed.order import share
from vesselflow.feed.sampling import SAMPLING

SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=5)


def table_of(sizes: list[int]) -> SampleTable:
    """Sources of so many samples."""
    source = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    nothing = np.zeros((len(source), 2), np.int32)
    return SampleTable(SampleLayout((4, 4), channels=1), source, nothing, nothing, nothing)


def draws_of(sizes: list[int], samples: int, seed: int = 0, window: int | None = None) -> Draws:
    table = table_of(sizes)
    rule: dict[str, Any] = {"name": "by_source", "samples": samples}
    rows = np.arange(len(table.source))
    return SAMPLING.build(rule, table=table, rows=rows, seed=seed, window=window)


@settings(deadline=None, max_examples=60)
@given(SIZES, st.integers(1, 6), st.integers(0, 9), st.sampled_from([None, 1, 8]))
def test_runs_are_of_one_source_and_a_cycle_leaves_nothing_out(
    sizes: list[int], samples: int, seed: int, window: int | None
) -> None:
    draws, source = draws_of(sizes, samples, seed, window), table_of(sizes).source
    runs = [-(-size // samples) for size in sizes]
    length = sum(runs) * samples
    for cycle in (0, 3):
        found = draws.at(cycle * length, length).reshape(-1, samples)
        assert (source[found] == source[found[:, :1]]).all()
        # Filled runs hold what comes twice, and no more than it takes.
        filled = [count * samples for count in runs]
        assert np.bincount(source[found.ravel()], minlength=len(sizes)).tolist() == filled
        times = np.bincount(found.ravel(), minlength=len(source))
        for number, size in enumerate(sizes):
            own = times[source == number]
            assert own.min() == filled[number] // size
            assert own.max() - own.min() <= 1


@settings(deadline=None, max_examples=40)
@given(SIZES, st.integers(1, 6), st.integers(0, 10**6), st.lists(st.integers(1, 9)))
def test_draws_are_functions_of_seed_and_position(
    sizes: list[int], samples: int, position: int, cuts: list[int]
) -> None:
    whole = draws_of(sizes, samples).at(position, sum(cuts))
    fresh, found, end = draws_of(sizes, samples), [], position + sum(cuts)
    for cut in reversed(cuts):  # backwards: nothing is remembered
        end -= cut
        found[:0] = fresh.at(end, cut).tolist()
    assert whole.tolist() == found


def test_cycles_and_seeds_differ() -> None:
    sizes, length = [8, 8, 8], 24
    first = draws_of(sizes, 4).at(0, length)
    assert first.tolist() != draws_of(sizes, 4).at(length, length).tolist()
    assert first.tolist() != draws_of(sizes, 4, seed=1).at(0, length).tolist()
    # What a run holds changes, not only where it lies.
    again = draws_of(sizes, 4).at(length, length)
    assert {frozenset(r) for r in first.reshape(-1, 4).tolist()} != {
        frozenset(r) for r in again.reshape(-1, 4).tolist()
    }


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_workers_reads_the_same_sequence(workers: int) -> None:
    draws, read = draws_of([5, 7, 3], 3), []
    for step in range(5):
        for rank in range(workers):
            for index in share(4, workers, rank):
                read += draws.at((step * 4 + index) * 3, 3).tolist()
    assert read == draws.at(0, 60).tolist()
