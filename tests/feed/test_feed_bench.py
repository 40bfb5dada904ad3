from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from vesselflow.bench import feed as bench
from vesselflow.bench.streaming import in_order
from vesselflow.feed.layout import SampleLayout
from vesselflow.stores.store import Store

PEERS = [
    "resident",
    "numpy gather",
    *bench.LOADERS,
    "stream, window",
    "stream, keyed",
    "h5py in order, whole arrays",
    "h5py in order, into kept arrays",
    "h5py in order, chunk by chunk",
]


@pytest.mark.bench
def test_the_bench_compares_ours_with_its_peers(ray_cluster: None) -> None:
    lines: list[str] = []
    found = bench.feed(rounds=1, samples=6, progress=lines.append)
    assert found["name"] == "feed"
    assert list(found["peers"]) == [
        f"{kind}: {peer}" for kind in ("patches", "volumes") for peer in PEERS
    ]
    for peer in found["peers"].values():
        assert 0 < peer["low"] <= peer["median"] <= peer["high"]
        assert peer["unit"] == "MB/s"
        assert peer["settings"]
    assert len(found["ratios"]) == 2 * (4 + 2)
    assert len(found["targets"]) == 2 * 3
    assert lines[0] == "writing 100 patches"
    assert "writing 6 volumes" in lines
    assert len(lines) == 2 * (1 + 2 * 10)


@pytest.mark.parametrize(
    "case",
    [
        bench.Case("patches", SampleLayout((4, 6), channels=3), 2, 1, window=4, grid=3),
        bench.Case("volumes", SampleLayout((3, 4, 5), 1, dtype="float16"), 2, 1, window=4),
        bench.Case("bare", SampleLayout((3, 4, 5), 1, 1, "float16", False), 2, 1, window=4),
    ],
    ids=lambda case: case.name,
)
def test_loaders_read_the_samples_that_the_store_holds(case: bench.Case, tmp_path: Path) -> None:
    store, file = bench._write(tmp_path, case, 2)
    with h5py.File(file, "r") as held:
        records = held["samples"][()]
        assert held["samples"].chunks == (1, case.used)
    assert records.shape == (2 * case.grid**2, case.used)
    image, target = (each.numpy() for each in case.arrays(torch.from_numpy(records)))
    with Store.open(store) as opened:
        sides = [side * case.grid for side in case.layout.shape]
        assert opened.image(1).shape == (*sides, case.layout.channels)
        at = tuple(slice(-side, None) for side in case.layout.shape)
        np.testing.assert_array_equal(np.moveaxis(image[-1], 0, -1), opened.image(1)[at])
        np.testing.assert_array_equal(target[-1, 0], 255 * opened.target(1)[at])
    # Each way of h5py reads all of the store's image and target, and no more.
    assert {read() for read in in_order(store).values()} == {len(records) * case.used}
