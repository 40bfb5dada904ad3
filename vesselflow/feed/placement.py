"""Which machine reads which files of a store: the one that has them, as far as that is fair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vesselflow.stores.store import Shard

#: What a file costs a machine that must fetch it first, in times of reading it.
FETCH_COST = 1.0


@dataclass(frozen=True)
class Reader:
    """A machine that may read.

    Attributes:
        name: Its name.
        cpus: How many files it reads at once, at least 1.
        held: Positions of the files that it has.
    """

    name: str
    cpus: float
    held: frozenset[int] = frozenset()


def placed(shards: Sequence[Shard], readers: Sequence[Reader]) -> dict[str, list[int]]:
    """Give each file to one machine.

    Each file goes, in turn, to the machine that would be done with it first; fetching counts as
    reading once more. Those that the fewest machines have come first, but for those that nobody
    has; large ones come before small ones.

    Args:
        shards: The files.
        readers: At least one.

    Returns:
        Positions of files by machine, ascending; every file stands once. Equal arguments give
        equal results.
    """
    holders = [sum(place in reader.held for reader in readers) for place in range(len(shards))]
    turn = sorted(
        range(len(shards)),
        key=lambda place: (holders[place] or len(readers) + 1, -shards[place].nbytes, place),
    )
    busy = [0.0] * len(readers)
    found: dict[str, list[int]] = {reader.name: [] for reader in readers}
    for place in turn:
        ends = []
        for reader, before in zip(readers, busy, strict=True):
            fetched = place not in reader.held
            work = shards[place].nbytes * (1 + FETCH_COST * fetched) / max(reader.cpus, 1.0)
            ends.append((before + work, fetched))
        best = ends.index(min(ends))
        busy[best] = ends[best][0]
        found[readers[best].name].append(place)
    return {name: sorted(places) for name, places in found.items()}


def runs_of(shards: Sequence[Shard], tasks: int) -> list[list[int]]:
    """Contiguous runs of sources, of which none reaches over the end of a file.

    Args:
        shards: The files.
        tasks: How many runs there should be; each file has one at least, and no run is empty.

    Returns:
        All sources of the files, in order.
    """
    total = sum(len(shard.sources) for shard in shards)
    found = []
    for shard in shards:
        count = len(shard.sources)
        runs = min(count, max(1, round(tasks * count / total)))
        found += [part.tolist() for part in np.array_split(np.asarray(shard.sources), runs)]
    return found
