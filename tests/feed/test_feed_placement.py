"""Which machine reads which files: each file once, where it is, as far as that is fair."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vesselflow.feed.placement import FETCH_COST, Reader, placed, runs_of
from vesselflow.stores.store import Shard


def shards_of(sizes: list[int], sources: int = 2) -> list[Shard]:
    return [
        Shard(f"{n}.h5", f"{n}", range(sources * n, sources * (n + 1)), size)
        for n, size in enumerate(sizes)
    ]


def reader(name: str, *held: int, cpus: float = 1) -> Reader:
    return Reader(name, cpus, frozenset(held))


def test_files_are_read_where_they_are() -> None:
    equal = shards_of([5, 5, 5, 5])
    assert placed(equal, [reader("a", 0, 1), reader("b", 2, 3)]) == {"a": [0, 1], "b": [2, 3]}
    assert placed(equal, [reader("a", 3, 1), reader("b", 2, 0)]) == {"a": [1, 3], "b": [0, 2]}
    # What both have is shared out.
    assert placed(equal, [reader("a", *range(4)), reader("b", *range(4))]) == {
        "a": [0, 2],
        "b": [1, 3],
    }


def test_files_that_nobody_has_are_shared_out_by_size_and_cpus() -> None:
    assert placed(shards_of([1, 1, 8, 6]), [reader("a"), reader("b")]) == {"a": [2], "b": [0, 1, 3]}
    assert placed(shards_of([4] * 4), [reader("a", cpus=3), reader("b")]) == {
        "a": [0, 1, 2],
        "b": [3],
    }


def test_one_that_has_them_all_does_not_read_them_all() -> None:
    found = placed(shards_of([5] * 8), [reader("a", *range(8)), reader("b"), reader("c")])
    assert {name: len(files) for name, files in found.items()} == {"a": 4, "b": 2, "c": 2}


@given(data=st.data())
def test_every_file_is_read_by_one_and_nobody_is_overloaded(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 50), min_size=1, max_size=12))
    places = st.frozensets(st.integers(0, len(sizes) - 1))
    readers = [
        Reader(f"n{n}", data.draw(st.sampled_from([1, 2, 4])), data.draw(places))
        for n in range(data.draw(st.integers(1, 4)))
    ]
    found = placed(shards_of(sizes), readers)
    assert sorted(place for files in found.values() for place in files) == list(range(len(sizes)))
    assert found == placed(shards_of(sizes), readers)

    def work(one: Reader) -> float:
        held = one.held
        return (
            sum(sizes[p] * (1 + FETCH_COST * (p not in held)) for p in found[one.name]) / one.cpus
        )

    # Nobody would have been done earlier with his last file elsewhere: list scheduling.
    most = max(sizes) * (1 + FETCH_COST)
    quickest = min((work(one) + most / one.cpus) for one in readers)
    assert all(work(one) <= quickest + 1e-9 for one in readers)


@given(counts=st.lists(st.integers(1, 9), min_size=1, max_size=6), tasks=st.integers(1, 40))
def test_runs_cover_all_sources_and_end_with_their_files(counts: list[int], tasks: int) -> None:
    shards, start = [], 0
    for number, count in enumerate(counts):
        shards.append(Shard(f"{number}", f"{number}", range(start, start + count), 1))
        start += count
    runs = runs_of(shards, tasks)
    assert [source for run in runs for source in run] == list(range(start))
    assert all(any(set(run) <= set(shard.sources) for shard in shards) for run in runs)
    assert all(runs)
    assert len(counts) <= len(runs) <= max(len(counts), tasks + len(counts))
    if len(counts) == 1:
        assert len(runs) == min(tasks, start)
