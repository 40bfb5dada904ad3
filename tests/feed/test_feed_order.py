from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vesselflow.feed.order import key, sample_indices, share

#: Two cycles over five samples, seed 0.
GOLDEN = [0, 2, 4, 1, 3, 2, 1, 4, 0, 3]


def test_key_is_the_documented_hash() -> None:
    # Each part: 8 bytes of length, then "i<decimal>" or "s<text>"; the top bit is dropped.
    text = b"\0\0\0\0\0\0\0\2i7" + b"\0\0\0\0\0\0\0\6sorder"
    expected = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1
    assert key(7, "order") == expected
    assert key(np.int64(7), "order") == expected


def test_key_tells_parts_apart() -> None:
    keys = [key(1, 23), key(12, 3), key("1", 23), key(123), key("1", "23"), key(23, 1), key()]
    assert len(set(keys)) == len(keys)
    assert all(0 <= k < 2**63 for k in keys)


def test_key_does_not_depend_on_the_hash_seed_of_python() -> None:
    code = "from vesselflow.feed.order import key; print(key(3, 'order', 'g1'))"
    for seed in ("0", "1"):
        out = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert int(out.stdout) == key(3, "order", "g1")


def test_order_is_that_of_sorted_philox_words() -> None:
    # Golden: changing these numbers renames nothing but changes every run.
    assert sample_indices(seed=0, position=0, count=10, n=5).tolist() == GOLDEN
    words = [int(w) for w in np.random.Philox(key=key(0, "order", 1)).random_raw(5)]
    assert sorted(range(5), key=words.__getitem__) == GOLDEN[5:]


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**63 - 1), st.integers(1, 60), st.integers(0, 5))
def test_every_cycle_is_a_permutation(seed: int, n: int, cycle: int) -> None:
    found = sample_indices(seed=seed, position=cycle * n, count=n, n=n)
    assert sorted(found.tolist()) == list(range(n))


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 1000), st.integers(1, 40), st.integers(0, 100), st.lists(st.integers(0, 30)))
def test_the_stream_does_not_depend_on_how_it_is_cut(
    seed: int, n: int, position: int, counts: list[int]
) -> None:
    whole = sample_indices(seed=seed, position=position, count=sum(counts), n=n)
    parts = []
    for count in counts:
        parts += sample_indices(seed=seed, position=position, count=count, n=n).tolist()
        position += count
    assert whole.tolist() == parts


def test_cycles_and_seeds_differ() -> None:
    first, second = (sample_indices(seed=1, position=p, count=50, n=50) for p in (0, 50))
    other = sample_indices(seed=2, position=0, count=50, n=50)
    assert first.tolist() != second.tolist() != other.tolist() != first.tolist()


def test_the_caller_may_change_what_it_gets() -> None:
    sample_indices(seed=1, position=0, count=5, n=5)[:] = 0
    assert sorted(sample_indices(seed=1, position=0, count=5, n=5).tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("values", [(0, 0, 1), (3, -1, 1), (3, 0, -1)])
def test_no_order_without_samples(values: tuple[int, int, int]) -> None:
    n, position, count = values
    with pytest.raises(ValueError, match="no sample order"):
        sample_indices(seed=0, position=position, count=count, n=n)


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 64), st.integers(1, 16))
def test_shares_partition_the_micro_batches_in_order(micro_batches: int, workers: int) -> None:
    shares = [share(micro_batches, workers, rank) for rank in range(workers)]
    assert [i for part in shares for i in part] == list(range(micro_batches))
    sizes = [len(part) for part in shares]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)


def test_a_share_by_hand() -> None:
    # 8 over 3: two of 3 and one of 2.
    assert [share(8, 3, rank) for rank in range(3)] == [range(3), range(3, 6), range(6, 8)]


@pytest.mark.parametrize(("workers", "rank"), [(0, 0), (2, 2), (2, -1)])
def test_no_share_for_a_stranger(workers: int, rank: int) -> None:
    with pytest.raises(ValueError, match="no share"):
        share(4, workers, rank)


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_any_number_of_workers_reads_the_same_sequence(workers: int) -> None:
    micro_batches, size, n = 8, 3, 20
    read = []
    for step in range(4):
        for rank in range(workers):
            for index in share(micro_batches, workers, rank):
                at = (step * micro_batches + index) * size
                read += sample_indices(seed=9, position=at, count=size, n=n).tolist()
    assert read == sample_indices(seed=9, position=0, count=4 * 8 * 3, n=n).tolist()
