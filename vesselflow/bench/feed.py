"""Feed: samples out of shared memory, or streamed, against peers that read with h5py."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import ray
import torch
from torch.utils.data import DataLoader, Dataset

from vesselflow.bench.commands import row, spread
from vesselflow.bench.streaming import AHEAD_BYTES, KEYED, LEAST_OF_H5PY, WINDOW, in_order
from vesselflow.feed.draws import Uniform
from vesselflow.feed.layout import SampleLayout
from vesselflow.feed.memory import keep_freed_memory
from vesselflow.feed.order import sample_indices
from vesselflow.feed.ray_resident import ResidentSamples, materialise
from vesselflow.feed.ray_stream import StreamSamples
from vesselflow.feed.view import View
from vesselflow.stores.schema import layout_of
from vesselflow.stores.store import Source, write_store

#: Image and target are what every peer hands over and what its bytes are counted by.
OURS, BARE = "resident", "numpy gather"
#: What ours is held to: times the best loader, and of a bare gather.
LEAST_RATIO, LEAST_OF_BARE = 3.0, 0.8
LOADERS = {f"DataLoader, {count} worker{'s' * (count != 1)}": count for count in (0, 1, 2)}

#: Grey levels of noise to either side in patches: gzip packs them 1.7 times, photographs of fundus
#: 2.3 times. Vessels follow a field within this, and are an eighth of all pixels.
GRAIN, THIN = 1, 0.06

#: One epoch of a peer: takes the round, yields the image and the target of each batch.
Epoch = Callable[[int], Iterator[tuple[torch.Tensor, torch.Tensor]]]
#: A peer: takes the round, gives its rate in MB/s; and what is said of it.
Peer = tuple[Callable[[int], float], dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """Samples of one kind.

    Attributes:
        name: What they are.
        layout: Of a sample.
        batch: Samples of a batch.
        samples: How many there are, by default.
        window: Of the streamed order, in samples.
        grid: Samples along one side of a source of the store; 1: a source is a sample.
    """

    name: str
    layout: SampleLayout
    batch: int
    samples: int
    window: int
    grid: int = 1

    @property
    def used(self) -> int:
        """Bytes of a sample's image and target; they come first in its record."""
        return self.layout.nbytes - self.layout.voxels * self.layout.has_fov

    def arrays(self, records: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Image and target of what comes first in records: uint8 (m, `used`), as views."""
        layout, lead = self.layout, len(records)
        first = self.used - layout.voxels * layout.targets
        image = records[:, :first].numpy().view(layout.dtype)
        target = records[:, first:].view(lead, layout.targets, *layout.shape)
        return torch.from_numpy(image).view(lead, layout.channels, *layout.shape), target


CASES = (
    Case(
        "patches",
        SampleLayout((128, 128), channels=3),
        batch=32,
        samples=4000,
        window=1024,
        grid=10,
    ),
    Case(
        "volumes",
        SampleLayout((96, 96, 96), 1, dtype="float16", has_fov=False),
        batch=2,
        samples=160,
        window=64,
    ),
)


class SampleFile(Dataset[torch.Tensor]):
    """Samples of an HDF5 file, one chunk each and uncompressed: the best case of h5py.

    Args:
        path: File with a dataset "samples", uint8 (n, bytes of image and target).
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._samples: h5py.Dataset | None = None
        with h5py.File(path, "r") as file:
            self._n = len(file["samples"])

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index: int) -> torch.Tensor:
        if self._samples is None:
            # Opened where it is read: an open file does not travel to a worker.
            self._samples = h5py.File(self._path, "r")["samples"]
        return torch.from_numpy(self._samples[index])


def feed(
    rounds: int = 5,
    samples: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Read shuffled batches of patches, and of volumes, peers interleaved; compare their rates.

    Patches are uint8, 128 px, 3 channels and a target, 32 to a batch, smooth with a grain that gzip
    packs as it packs photographs; volumes float16 noise, 96^3, one channel and a target, 2 to a
    batch. Ours come out of the object store in keyed order; patches
    carry the fov too (not counted), volumes need none, as it is full. The loaders read a file whose
    chunks are single samples, uncompressed, in the page cache, with workers that are already
    running: the best case of each. The bare gather copies rows of one numpy array of the same
    records, in the same order.

    The same store is streamed in windows (1,024 patches, 64 volumes) and in the keyed order, with
    at most 256 MiB held and read ahead, beside h5py that reads image and target of the store in the
    order of the file in three ways; the fastest is what the stream in windows is held to.

    Every peer reads one epoch per round, in an order that rotates; the first round warms all of
    them up and is not counted.

    Args:
        rounds: Counted rounds, at least 1.
        samples: Samples of each kind, rounded up to whole sources; None: 4,000 and 160.
        progress: Called with a line of text as the bench goes on.

    Returns:
        As of `bench.overhead.overhead`; rates in MB/s of image and target, ratios of the same
        round.
    """
    say = progress or (lambda text: None)
    peers: dict[str, Any] = {}
    ratios: dict[str, dict[str, float]] = {}
    targets = []
    keep_freed_memory()  # As workers do; peers in this process have the good of it, too.
    with _cluster():
        for case in CASES:
            rates, settings = _measured(case, rounds, samples or case.samples, say)
            for name, values in rates.items():
                peers[f"{case.name}: {name}"] = row(values, "MB/s", settings[name])
            ours = rates[OURS]
            for name in (BARE, *LOADERS):
                each = [own / theirs for own, theirs in zip(ours, rates[name], strict=True)]
                ratios[f"{case.name}: {OURS} / {name}"] = spread(each)
            ordered = [name for name in rates if name.startswith("h5py in order")]
            best_way = max(ordered, key=lambda name: statistics.median(rates[name]))
            for name in (WINDOW, KEYED):
                pairs = zip(rates[name], rates[best_way], strict=True)
                ratios[f"{case.name}: {name} / {best_way}"] = spread([a / b for a, b in pairs])
            streamed = ratios[f"{case.name}: {WINDOW} / {best_way}"]["median"]
            best = min(ratios[f"{case.name}: {OURS} / {name}"]["median"] for name in LOADERS)
            bare = ratios[f"{case.name}: {OURS} / {BARE}"]["median"]
            targets += [
                _least(f"{case.name}: {OURS} / the best DataLoader", best, LEAST_RATIO),
                _least(f"{case.name}: {OURS} / {BARE}", bare, LEAST_OF_BARE),
                _least(f"{case.name}: {WINDOW} / {best_way}", streamed, LEAST_OF_H5PY),
            ]
    return {"name": "feed", "peers": peers, "ratios": ratios, "targets": targets}


def _least(what: str, value: float, least: float) -> dict[str, Any]:
    return {"what": what, "value": value, "target": f">= {least:g}", "met": value >= least}


def _measured(
    case: Case, rounds: int, samples: int, say: Callable[[str], None]
) -> tuple[dict[str, list[float]], dict[str, dict[str, Any]]]:
    """Rates by peer and round, and the settings of each peer."""
    sources = max(1, -(-samples // case.grid**2))
    with tempfile.TemporaryDirectory(prefix="vesselflow-bench-") as folder:
        say(f"writing {sources * case.grid**2} {case.name}")
        store, file = _write(Path(folder), case, sources)
        shape = case.layout.shape
        view = View(None, "full" if case.grid == 1 else shape, None, 0.0, shape, scope="none")
        resident = materialise(store, view)
        opened = resident.open()
        assert opened.table.layout == case.layout
        n, held = resident.n, f"{resident.nbytes / 1e6:.0f} MB in the object store"
        stream = StreamSamples(store, view, ahead_bytes=AHEAD_BYTES)
        epochs: dict[str, tuple[Epoch, dict[str, Any]]] = {
            OURS: (partial(_resident_epoch, case, opened), {"order": "keyed", "as": held}),
            BARE: (
                partial(_bare_epoch, case, _records(file)),
                {"order": "keyed", "as": "one array, no fov"},
            ),
        }
        for name, workers in LOADERS.items():
            epochs[name] = (
                _loader_epoch(case, file, workers),
                {"file": "h5py, chunk = sample, uncompressed", "num_workers": workers},
            )
        for name, window in ((WINDOW, case.window), (KEYED, None)):
            order = "keyed" if window is None else f"windows of {window}"
            epochs[name] = (
                partial(_streamed_epoch, case, stream, window),
                {"order": order, "ahead": f"{AHEAD_BYTES >> 20} MiB at most"},
            )
        peers: dict[str, Peer] = {
            name: (partial(_rate, case, epoch, n=n), told) for name, (epoch, told) in epochs.items()
        }
        for name, read in in_order(store).items():
            peers[name] = (partial(_read_rate, read), {"file": "the store that is streamed"})
        rates: dict[str, list[float]] = {name: [] for name in peers}
        names = list(peers)
        for number in range(rounds + 1):
            shift = number % len(names)
            for name in names[shift:] + names[:shift]:
                rate = peers[name][0](number)
                say(f"{case.name}, round {number} of {rounds}, {name}: {rate:.0f} MB/s")
                if number:
                    rates[name].append(rate)
        settings = {name: {**told, "samples": n} for name, (_, told) in peers.items()}
        # Workers end, and blocks are let go, before the folder does.
        del epochs, peers, resident, opened, stream
    return rates, settings


def _read_rate(read: Callable[[], int], number: int) -> float:
    """MB/s of a way to read everything."""
    began = time.perf_counter()
    return read() / 1e6 / (time.perf_counter() - began)


def _rate(case: Case, epoch: Epoch, number: int, n: int) -> float:
    """MB/s of one epoch, of image and target."""
    layout = case.layout
    began, seen = time.perf_counter(), 0
    for image, target in epoch(number):
        assert image.shape[1:] == (layout.channels, *layout.shape)
        assert target.dtype == torch.uint8
        seen += len(image)
    wall_s = time.perf_counter() - began
    if seen != n:
        raise RuntimeError(f"an epoch of {n} samples gave {seen}")
    return seen * case.used / 1e6 / wall_s


def _batches(case: Case, number: int, n: int) -> Iterator[np.ndarray]:
    """The keyed order of an epoch, batch by batch."""
    for start in range(0, n, case.batch):
        count = min(case.batch, n - start)
        yield sample_indices(seed=0, position=number * n + start, count=count, n=n)


def _resident_epoch(
    case: Case, samples: ResidentSamples, number: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for rows in _batches(case, number, samples.n):
        batch = samples.gather(rows)
        yield torch.from_numpy(batch.image), torch.from_numpy(batch.target)


def _streamed_epoch(
    case: Case, samples: StreamSamples, window: int | None, number: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    draws = Uniform(table=samples.table, rows=samples.rows, seed=0, window=window)
    n = samples.n
    plan = [
        draws.at(number * n + start, min(case.batch, n - start))
        for start in range(0, n, case.batch)
    ]
    for batch in samples.stream(plan):
        yield torch.from_numpy(batch.image), torch.from_numpy(batch.target)


def _bare_epoch(
    case: Case, records: np.ndarray, number: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for rows in _batches(case, number, len(records)):
        yield case.arrays(torch.from_numpy(records[rows]))


def _loader_epoch(case: Case, file: Path, workers: int) -> Epoch:
    loader = DataLoader(
        SampleFile(str(file)),
        batch_size=case.batch,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        # A fork of a process that runs Ray's threads may hang.
        multiprocessing_context="spawn" if workers else None,
    )

    def epoch(number: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for batch in loader:
            yield case.arrays(batch)

    return epoch


def _records(file: Path) -> np.ndarray:
    """All of the loaders' samples as one array, (n, bytes of image and target)."""
    with h5py.File(file, "r") as held:
        samples: np.ndarray = held["samples"][()]
    return samples


def _write(folder: Path, case: Case, sources: int) -> tuple[Path, Path]:
    """The same samples twice: as a store of sources, and one by one for h5py."""
    layout, grid = case.layout, case.grid
    size = tuple(side * grid for side in layout.shape)
    store, file = folder / "store.h5", folder / "samples.h5"

    def source(index: int) -> Source:
        random = np.random.Generator(np.random.Philox(key=index))
        light = waves(random, size)
        if layout.dtype == "uint8":
            grain = random.integers(-GRAIN, GRAIN + 1, (*size, layout.channels), dtype=np.int16)
            image: Any = (128 + 80 * light[..., None] + grain).astype(np.uint8)
        else:
            image = random.random((*size, layout.channels), dtype=np.float32).astype(layout.dtype)
        target = (np.abs(light) < THIN).astype(np.uint8)
        return Source(f"s{index}", f"g{index}", image, target, np.ones(size, np.uint8))

    first = source(0)
    write_store(
        store,
        (source(i) for i in range(sources)),
        domain="bench",
        importer={"name": "bench"},
        layout=layout_of(first),
    )
    corners = list(
        itertools.product(*(range(0, side, n) for side, n in zip(size, layout.shape, strict=True)))
    )
    with h5py.File(file, "w") as out:
        held = out.create_dataset(
            "samples", (sources * len(corners), case.used), dtype=np.uint8, chunks=(1, case.used)
        )
        for index in range(sources):
            one, records = source(index), layout.empty(len(corners))
            arrays = layout.arrays(records)
            for place, corner in enumerate(corners):
                at = tuple(slice(c, c + n) for c, n in zip(corner, layout.shape, strict=True))
                arrays.image[place] = np.moveaxis(one.image[at], -1, 0)
                arrays.target[place, 0] = 255 * one.target[at]
            held[index * len(corners) : (index + 1) * len(corners)] = records[:, : case.used]
    return store, file


def waves(random: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    """A smooth field, float32 (*size) in [-1, 1]: along each axis a wave or more of 100 px."""
    axes = [
        np.sin(np.arange(side, dtype=np.float32) / 16 + random.uniform(0, 2 * np.pi))
        for side in size
    ]
    field = np.zeros(size, np.float32)
    for axis, wave in enumerate(axes):
        field += wave.reshape([-1 if each == axis else 1 for each in range(len(size))])
    return np.asarray(field / len(size))


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
