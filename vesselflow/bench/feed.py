"""Feed: samples out of shared memory against `torch.utils.data.DataLoader` over h5py."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import ray
import torch
from torch.utils.data import DataLoader, Dataset

from vesselflow.bench.commands import spread
from vesselflow.feed.order import sample_indices
from vesselflow.feed.ray_resident import ResidentSamples, materialise
from vesselflow.feed.view import View
from vesselflow.stores.store import Source, write_store

SIDE_PX = 128
BATCH = 32
#: Image and target, what every peer hands over and what its bytes are counted by.
PLANES = 4
#: Patches per source of the store; the peers' file holds the same patches one by one.
GRID = 10
OURS = "resident"

#: One epoch of a peer: takes the round, yields the image and the target of each batch.
Epoch = Callable[[int], Iterator[tuple[torch.Tensor, torch.Tensor]]]


class PatchFile(Dataset[torch.Tensor]):
    """Patches of an HDF5 file, one chunk each and uncompressed: the best case of h5py.

    Args:
        path: File with a dataset "patches", uint8 (n, 4, 128, 128).
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._patches: h5py.Dataset | None = None
        with h5py.File(path, "r") as file:
            self._n = len(file["patches"])

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index: int) -> torch.Tensor:
        if self._patches is None:
            # Opened where it is read: an open file does not travel to a worker.
            self._patches = h5py.File(self._path, "r")["patches"]
        return torch.from_numpy(self._patches[index])


def feed(
    rounds: int = 5, samples: int = 4000, progress: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """Read shuffled batches of 32 patches, peers interleaved, and compare their rates.

    The patches are uint8, 128 px, 3 channels and a target. Ours come out of the object store in
    keyed order and carry the fov too (not counted). The peers read a file whose chunks are single
    patches, uncompressed, in the page cache, with workers that are already running: the best case
    of each. Every peer reads one epoch per round, in an order that rotates; the first round warms
    all of them up and is not counted.

    Args:
        rounds: Counted rounds, at least 1.
        samples: Patches, rounded up to whole sources of 100.
        progress: Called with a line of text as the bench goes on.

    Returns:
        ``{"name", "peers": {peer: {"median", "low", "high", "unit", "settings"}}, "ratios":
        {"resident / <peer>": {"median", "low", "high"}}}``; rates in MB/s of image and target,
        ratios of the same round.
    """
    say = progress or (lambda text: None)
    sources = max(1, -(-samples // GRID**2))
    with tempfile.TemporaryDirectory(prefix="vesselflow-bench-") as folder, _cluster():
        say(f"writing {sources * GRID**2} patches")
        store, file = _write(Path(folder), sources)
        view = View(None, SIDE_PX, None, 0.0, SIDE_PX, scope="none")
        resident = materialise(store, view)
        n = resident.n
        peers: dict[str, tuple[Epoch, str]] = {
            OURS: (
                partial(_resident_epoch, resident.open()),
                f"{resident.nbytes / 1e6:.0f} MB in the object store, keyed order, with fov",
            )
        }
        for workers in (0, 1, 2):
            name = f"DataLoader, {workers} worker{'s' if workers != 1 else ''}"
            peers[name] = (
                _loader_epoch(file, workers),
                f"h5py, chunk = sample, uncompressed, num_workers={workers}, shuffle",
            )
        rates: dict[str, list[float]] = {name: [] for name in peers}
        names = list(peers)
        for number in range(rounds + 1):
            shift = number % len(names)
            for name in names[shift:] + names[:shift]:
                rate = _rate(peers[name][0], number, n)
                say(f"round {number} of {rounds}, {name}: {rate:.0f} MB/s")
                if number:
                    rates[name].append(rate)
        settings = {name: text for name, (_, text) in peers.items()}
        # Workers end, and blocks are let go, before the folder and the cluster do.
        del peers, resident
    return {
        "name": "feed",
        "peers": {
            name: {**spread(rates[name]), "unit": "MB/s", "settings": settings[name]}
            for name in names
        },
        "ratios": {
            f"{OURS} / {name}": spread(
                [ours / theirs for ours, theirs in zip(rates[OURS], rates[name], strict=True)]
            )
            for name in names[1:]
        },
    }


def _rate(epoch: Epoch, number: int, n: int) -> float:
    """MB/s of one epoch, of image and target."""
    began, seen = time.perf_counter(), 0
    for image, target in epoch(number):
        assert image.shape[1:] == (3, SIDE_PX, SIDE_PX)
        assert target.dtype == torch.uint8
        seen += len(image)
    wall_s = time.perf_counter() - began
    if seen != n:
        raise RuntimeError(f"an epoch of {n} samples gave {seen}")
    return seen * PLANES * SIDE_PX**2 / 1e6 / wall_s


def _resident_epoch(
    samples: ResidentSamples, number: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    n = samples.n
    for start in range(0, n, BATCH):
        count = min(BATCH, n - start)
        rows = sample_indices(seed=0, position=number * n + start, count=count, n=n)
        batch = samples.gather(rows)
        yield torch.from_numpy(batch.image), torch.from_numpy(batch.target)


def _loader_epoch(file: Path, workers: int) -> Epoch:
    loader = DataLoader(
        PatchFile(str(file)),
        batch_size=BATCH,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        # A fork of a process that runs Ray's threads may hang.
        multiprocessing_context="spawn" if workers else None,
    )

    def epoch(number: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for batch in loader:
            yield batch[:, :3], batch[:, 3:]

    return epoch


def _write(folder: Path, sources: int) -> tuple[Path, Path]:
    """The same patches twice: as a store of sources, and one by one for h5py."""
    side = GRID * SIDE_PX
    fov = np.ones((side, side), dtype=np.uint8)
    store, file = folder / "store.h5", folder / "patches.h5"

    def source(index: int) -> Source:
        random = np.random.Generator(np.random.Philox(key=index))
        image = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
        target = (random.random((side, side), dtype=np.float32) < 0.1).astype(np.uint8)
        return Source(f"s{index}", f"g{index}", image, target, fov)

    write_store(
        store, (source(i) for i in range(sources)), domain="bench", importer={"name": "bench"}
    )
    shape = (PLANES, SIDE_PX, SIDE_PX)
    with h5py.File(file, "w") as out:
        patches = out.create_dataset(
            "patches", (sources * GRID**2, *shape), dtype=np.uint8, chunks=(1, *shape)
        )
        for index in range(sources):
            one = source(index)
            whole = np.concatenate([one.image, 255 * one.target[:, :, None]], axis=2)
            cut = whole.reshape(GRID, SIDE_PX, GRID, SIDE_PX, PLANES).transpose(0, 2, 4, 1, 3)
            patches[index * GRID**2 : (index + 1) * GRID**2] = cut.reshape(-1, *shape)
    return store, file


@contextmanager
def _cluster() -> Iterator[None]:
    """A Ray to put blocks into: the one that is there, or a small local one."""
    if ray.is_initialized():
        yield
        return
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        yield
    finally:
        ray.shutdown()
