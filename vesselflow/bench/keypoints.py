"""Keypoints: targets rendered on the coarse grid against dense ones, and what either takes."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from scipy import ndimage

from vesselflow.bench.commands import row, spread, target
from vesselflow.targets.grid import Grid
from vesselflow.targets.keypoints import Keypoints
from vesselflow.targets.rendering import Combine, render_heatmaps
from vesselflow.targets.sigma import Sigma

SIDE = 128
DS_FACTOR = 16
SIGMA_CELLS = 1.0
KEYPOINTS = 50
#: Patches of a batch of ours, and batches whose mean is a round's figure.
BATCH, BATCHES = 32, 20
#: Patches of a store whose bytes are counted.
STORED = 4

OURS = {"max": "batch, max", "sum": "batch, sum"}
NUMPY = "coarse grid, numpy, one by one"
FILTER = "dense, scipy.ndimage.gaussian_filter"
ANALYTIC = "dense, analytic"

#: One patch's keypoints, float64 (50, 3) -> its target, float32 (8, 8, 8).
Renderer = Callable[[np.ndarray], np.ndarray]


def keypoints(rounds: int = 3, progress: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Render targets of 128^3 patches with 50 keypoints on a grid of 1/16, peers interleaved.

    Ours renders batches of 32 patches in one thread, as every peer has: a second one wins nothing
    on so little, and where others are at work waits for them. A peer renders one patch at
    a time: at full resolution, as is done where targets are stored, and reads off the coarse
    cells' centres; or, as the best that a loop over patches can do, on the coarse grid in numpy.
    All give the same target (checked before anything is timed), but that gaussian_filter knows
    whole voxels only. Every peer takes its turn in each round, in an order that rotates; one round
    warms all of them up and is not counted.

    The bytes are those of HDF5 data sets of the same patches.

    Args:
        rounds: Counted rounds, at least 1.
        progress: Called with a line of text as the bench goes on.

    Returns:
        As of `feed`, with ``targets``; times in ms per patch.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measured(rounds, progress or (lambda text: None))
    finally:
        torch.set_num_threads(threads)


def _measured(rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    say("checking that all render the same")
    check()
    peers: dict[str, Callable[[int], float]] = {
        OURS["max"]: lambda number: _ours(number, "max"),
        OURS["sum"]: lambda number: _ours(number, "sum"),
        NUMPY: lambda number: _one_by_one(coarse_numpy, number, 20),
        FILTER: lambda number: _one_by_one(dense_filter, number, 1),
        ANALYTIC: lambda number: _one_by_one(dense_analytic, number, 1),
    }
    times: dict[str, list[float]] = {name: [] for name in peers}
    names = list(peers)
    for number in range(rounds + 1):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            took = peers[name](number)
            say(f"round {number} of {rounds}, {name}: {took:.3g} ms")
            if number:
                times[name].append(took)
    say("writing stores")
    with tempfile.TemporaryDirectory(prefix="vesselflow-bench-") as folder:
        stored = stored_bytes(Path(folder) / "bytes.h5")
    return summarise(times, stored)


def summarise(times: Mapping[str, list[float]], stored: Mapping[str, float]) -> dict[str, Any]:
    """The result of the bench from ms per patch by round, and bytes per patch."""
    how = f"{SIDE}^3, 1/{DS_FACTOR}, sigma {SIGMA_CELLS:g} cell, {KEYPOINTS} keypoints"
    batched = f"{how}; batches of {BATCH}, one thread"
    ours = set(OURS.values())
    settings = {name: {"how": batched if name in ours else how} for name in times}
    # The slower of ours counts.
    slow = [max(each) for each in zip(*(times[name] for name in OURS.values()), strict=True)]
    dense = [a / b for a, b in zip(times[FILTER], slow, strict=True)]
    points, maps = stored["keypoints"], stored["dense, float16"]
    return {
        "name": "keypoints",
        "peers": {
            **{name: row(values, "ms / patch", settings[name]) for name, values in times.items()},
            **{
                f"stored, {name}": row([value], "bytes / patch", {"how": "HDF5, " + how})
                for name, value in stored.items()
            },
        },
        "ratios": {
            **{
                f"{name} / ours": spread([a / b for a, b in zip(values, slow, strict=True)])
                for name, values in times.items()
                if name not in ours
            },
            **{
                f"stored, {name} / keypoints": spread([value / points])
                for name, value in stored.items()
                if name != "keypoints"
            },
        },
        "targets": [
            target("rendering of a patch", spread(slow)["median"], 0.05, " ms"),
            target("rendering, ours / scipy's", 1 / spread(dense)["median"], 1 / 1000),
            target("stored bytes, keypoints / dense", points / maps, 1 / 1000),
        ],
    }


def drawn(number: int) -> np.ndarray:
    """The keypoints of a patch, float64 (50, 3), on whole voxels, which gaussian_filter needs."""
    random = np.random.Generator(np.random.Philox(key=number))
    return random.integers(0, SIDE, (KEYPOINTS, 3)).astype(np.float64)


def batch(patches: list[np.ndarray]) -> Keypoints:
    """Patches as the keypoints of one batch."""
    classes = [torch.zeros(len(each), dtype=torch.int64) for each in patches]
    return Keypoints.of_samples([torch.from_numpy(each) for each in patches], classes)


def ours(points: Keypoints, samples: int, combine: Combine) -> torch.Tensor:
    """Our rendering of a batch, float32 (samples, 1, 8, 8, 8)."""
    grid = Grid.of((SIDE,) * 3, DS_FACTOR)
    sigma = Sigma.of(axes=3, classes=1, ds_sigma=SIGMA_CELLS)
    return render_heatmaps(points, grid, samples=samples, classes=1, sigma=sigma, combine=combine)


def coarse_numpy(points: np.ndarray, combine: Combine = "max") -> np.ndarray:
    """The best loop: products of factors on the coarse grid."""
    centres = DS_FACTOR * np.arange(SIDE // DS_FACTOR) + (DS_FACTOR - 1) / 2
    return _products(points, centres, combine).astype(np.float32)


def dense_analytic(points: np.ndarray, combine: Combine = "max") -> np.ndarray:
    """Every voxel of every Gaussian, one keypoint after another; then the centres."""
    factors = _factors(points, np.arange(SIDE, dtype=np.float64)).astype(np.float32)
    volume = np.zeros((SIDE,) * 3, np.float32)
    plane = np.empty_like(volume)
    for z, y, x in factors.transpose(1, 0, 2):
        np.multiply((z[:, None] * y)[..., None], x, out=plane)
        np.maximum(volume, plane, out=volume) if combine == "max" else np.add(
            volume, plane, out=volume
        )
    return at_centres(np.minimum(volume, 1))


def dense_filter(points: np.ndarray) -> np.ndarray:
    """Deltas, filtered at full resolution; Gaussians that overlap are added up."""
    sigma = SIGMA_CELLS * DS_FACTOR
    volume = np.zeros((SIDE,) * 3, np.float32)
    np.add.at(volume, tuple(points.astype(int).T), (2 * math.pi * sigma**2) ** 1.5)
    smooth = ndimage.gaussian_filter(volume, sigma, mode="constant")
    return at_centres(np.minimum(smooth, 1))


def at_centres(volume: np.ndarray) -> np.ndarray:
    """A full-resolution map at the centres of cells, which lie between two voxels on each axis."""
    for axis in range(3):
        first = np.arange(SIDE // DS_FACTOR) * DS_FACTOR + DS_FACTOR // 2 - 1
        volume = (volume.take(first, axis) + volume.take(first + 1, axis)) / 2
    return volume


def check() -> None:
    """Hold the peers against ours on one patch.

    Between voxels they interpolate: linearly, which is off by less than 1 / (8 sigma^2) of the
    largest second derivative along each axis, 1.5e-3 in all; scipy cuts its kernel at 4 sigma.
    """
    points = drawn(0)
    largest, added = (ours(batch([points]), 1, combine)[0, 0].numpy() for combine in ("max", "sum"))
    for name, one, other in (
        (NUMPY, coarse_numpy(points), largest),
        (NUMPY, coarse_numpy(points, "sum"), added),
        (ANALYTIC, dense_analytic(points), largest),
        (ANALYTIC, dense_analytic(points, "sum"), added),
        (FILTER, dense_filter(points), added),
    ):
        off = float(np.abs(one - other).max())
        if off > (1e-6 if name == NUMPY else 2e-2):
            raise RuntimeError(f"{name} renders another target than ours: off by {off:.2g}")


def stored_bytes(path: Path) -> dict[str, float]:
    """Bytes of a patch's target in an HDF5 file, by what is stored of it.

    Keypoints are their coordinates (float64) and classes (int16), and where each patch's begin.
    """
    patches = [drawn(number) for number in range(STORED)]
    with h5py.File(path, "w") as file:
        shape = (STORED, *(SIDE,) * 3)
        dense = np.stack([_products(each, np.arange(SIDE, dtype=float)) for each in patches])
        maps = dense.astype(np.float16).reshape(shape)
        coarse = np.stack([coarse_numpy(each) for each in patches])
        flat = np.concatenate(patches)
        begins = np.arange(STORED + 1, dtype=np.int64) * KEYPOINTS
        of = {
            "dense, float16": [file.create_dataset("dense", data=maps)],
            "dense, float16, gzip": [
                file.create_dataset(
                    "gzip", data=maps, chunks=(1, *shape[1:]), compression="gzip", shuffle=True
                )
            ],
            "coarse grid, float32": [file.create_dataset("coarse", data=coarse)],
            "keypoints": [
                file.create_dataset("coordinates", data=flat),
                file.create_dataset("classes", data=np.zeros(len(flat), np.int16)),
                file.create_dataset("begins", data=begins),
            ],
        }
        return {
            name: sum(each.id.get_storage_size() for each in sets) / STORED
            for name, sets in of.items()
        }


def _products(points: np.ndarray, places: np.ndarray, combine: Combine = "max") -> np.ndarray:
    """Gaussians at a grid of places, float64 (n, n, n)."""
    z, y, x = _factors(points, places)
    if combine == "sum":
        return np.minimum(np.einsum("ka,kb,kc->abc", z, y, x, optimize=True), 1)
    volume = np.zeros((len(places),) * 3)
    for one in range(len(points)):
        np.maximum(volume, z[one][:, None, None] * (y[one][:, None] * x[one]), out=volume)
    return volume


def _factors(points: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Factors of the Gaussians along each axis, float64 (3, k, n)."""
    away = (places - points.T[:, :, None]) / (SIGMA_CELLS * DS_FACTOR)
    return np.exp(-(away**2) / 2)


def _ours(number: int, combine: Combine) -> float:
    """Mean ms of a patch, over some batches."""
    batches = [
        batch([drawn((number * BATCHES + each) * BATCH + patch) for patch in range(BATCH)])
        for each in range(BATCHES)
    ]
    began = time.perf_counter()
    for points in batches:
        ours(points, BATCH, combine)
    return (time.perf_counter() - began) * 1e3 / (BATCH * BATCHES)


def _one_by_one(render: Renderer, number: int, patches: int) -> float:
    given = [drawn(number * patches + each) for each in range(patches)]
    began = time.perf_counter()
    for points in given:
        render(points)
    return (time.perf_counter() - began) * 1e3 / patches
