"""The order of samples: a pure function of (seed, position), the same for any number of workers.

Nothing here keeps a generator: a run resumed at any step, on any number of workers, reads on where
an undisturbed run would be.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np


def key(*parts: int | str) -> int:
    """The 63-bit key of a random draw: a hash of what the draw is for.

    Each part is hashed with its type and length, so that ``key(1, 23)``, ``key(12, 3)`` and
    ``key("1", 23)`` differ. The same on every machine and for every hash seed of Python.

    Args:
        *parts: Seed, purpose, indices ("order", cycle), ...

    Returns:
        An integer in [0, 2**63), which fits every generator's seed.

    >>> key(0, "order") == key(0, "order"), key(1, 23) == key(12, 3)
    (True, False)
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        # numpy integers hash as the plain integers that they equal.
        text = ("s" + part if isinstance(part, str) else f"i{int(part)}").encode()
        digest.update(len(text).to_bytes(8, "big"))
        digest.update(text)
    return int.from_bytes(digest.digest(), "big") >> 1


def shuffled(seed: int, n: int) -> np.ndarray:
    """int64 (n,): the numbers below n in a keyed order."""
    # Sorting raw words: numpy promises that a bit generator's words never change between releases,
    # and promises nothing of the kind for `Generator.permutation`.
    words = np.random.Philox(key=seed).random_raw(n)
    return np.argsort(words, kind="stable").astype(np.int64)


@lru_cache(maxsize=16)
def _cycle(seed: int, n: int, cycle: int) -> np.ndarray:
    order = shuffled(key(seed, "order", cycle), n)
    order.setflags(write=False)
    return order


def unit_numbers(seed: int, count: int) -> np.ndarray:
    """float64 (count,) in [0, 1), out of raw words, which numpy promises never to change."""
    words = np.random.Philox(key=seed).random_raw(count)
    return np.asarray((words >> np.uint64(11)) * 2.0**-53)


def sample_indices(*, seed: int, position: int, count: int, n: int) -> np.ndarray:
    """Part of an endless stream of keyed permutations of ``0 .. n-1``.

    Cycle ``c`` is the permutation keyed by (seed, c); position ``p`` of the stream is element
    ``p % n`` of cycle ``p // n``. So every sample comes once before any comes twice.

    Args:
        seed: Key of the stream.
        position: Where to begin, from 0.
        count: How many indices.
        n: Number of samples, at least 1.

    Returns:
        int64 (count,), values in [0, n).

    Raises:
        ValueError: n below 1, or a negative position or count.
    """
    return cycles(partial(_cycle, seed, n), position=position, count=count, n=n)


def cycles(
    cycle_of: Callable[[int], np.ndarray], *, position: int, count: int, n: int
) -> np.ndarray:
    """Part of an endless stream that is made of cycles of `n`.

    Args:
        cycle_of: Gives a cycle by its number: int64 (n,).
        position: Where to begin, from 0.
        count: How many entries.
        n: Length of every cycle.

    Returns:
        int64 (count,), a copy.

    Raises:
        ValueError: n below 1, or a negative position or count.
    """
    if n < 1 or position < 0 or count < 0:
        raise ValueError(f"no sample order for n={n}, position={position}, count={count}")
    parts, end = [], position + count
    while position < end:
        cycle, start = divmod(position, n)
        stop = min(n, start + end - position)
        parts.append(cycle_of(cycle)[start:stop])
        position += stop - start
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def share(micro_batches: int, workers: int, rank: int) -> range:
    """The micro-batches of a step that one worker takes: whole ones, a contiguous block.

    The blocks of all ranks, in the order of the ranks, are ``0 .. micro_batches-1``; their lengths
    differ by at most one, longer ones first.

    Raises:
        ValueError: No workers, or a rank that is none of theirs.
    """
    if workers < 1 or not 0 <= rank < workers or micro_batches < 0:
        raise ValueError(f"no share for rank {rank} of {workers} workers")
    whole, rest = divmod(micro_batches, workers)
    start = rank * whole + min(rank, rest)
    return range(start, start + whole + (rank < rest))
