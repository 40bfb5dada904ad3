"""Memory of a sweep that streams a store several times as large as Ray's object store."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from vesselflow.bench.commands import LIMIT_S, row, target
from vesselflow.errors import VesselflowError
from vesselflow.stores.store import Source, write_store

GIB = 2**30
OBJECT_STORE_BYTES = GIB // 4
#: The store's samples take so many times the object store.
TIMES = 4
#: What a stream may take beside the object store.
MOST_BYTES = 1.5 * GIB
#: Side of an image and of its patches in px. A patch takes five bytes a px: image, target, fov.
SIDE, PATCH = 1280, 128
#: Seconds between two looks.
PERIOD_S = 0.5

LARGE, IDLE = "large store", "tiny store"

#: Short epochs: each of them reads ahead as far as it may, and is ended before all of it is used.
_SPACE = """\
name: {name}
stores: {{a: {store}}}
data: {{train: a, patch: {patch}, shuffle: window(1024)}}
split: {{folds: {sources}, val_fraction: {fraction}}}
folds: [0]
seeds: [0]
model: {{name: wnet}}
train: {{epochs: 15, steps_per_epoch: 2, micro_batch_size: 8}}
resources: {{slots: 1, threads: 1, feed: stream}}
"""


def memory(
    rounds: int = 1,
    progress: Callable[[str], None] | None = None,
    *,
    object_store: int = OBJECT_STORE_BYTES,
) -> dict[str, Any]:
    """Measure the peak memory of a sweep that streams, and of one with next to nothing to read.

    Both are whole `vesselflow sweep` commands on a Ray of their own, with a small object store; one
    over a store whose samples take `TIMES` times as much, the other over four small images. Each
    trains 30 steps of 8 patches of 128 px and scores two images. Counted is the proportional set
    size of the command and all its processes, so that memory that several of them share counts
    once, every half second; the peak of the sum is reported.

    Args:
        rounds: How often, at least 1.
        progress: Called with a line of text as the bench goes on.
        object_store: Bytes of Ray's object store.

    Returns:
        As of `bench.overhead.overhead`, with a table of what took the memory at the peak.
    """
    say = progress or (lambda text: None)
    peaks: dict[str, list[float]] = {IDLE: [], LARGE: []}
    kinds: dict[str, Counter[str]] = {}
    sources = -(-TIMES * object_store // (5 * SIDE**2))
    with tempfile.TemporaryDirectory(prefix="vf-bench-") as name:
        folder = Path(name)
        spaces = {
            IDLE: _space(folder, "idle", 4, 2 * PATCH, say),
            LARGE: _space(folder, "large", sources, SIDE, say),
        }
        for number in range(rounds):
            for which, space in spaces.items():
                results = folder / f"results-{which[:4]}-{number}"
                say(f"{which}, round {number + 1} of {rounds}")
                found = _peak(space, results, object_store)
                peaks[which].append(found.total() / GIB)
                if peaks[which][-1] == max(peaks[which]):
                    kinds[which] = found
    above = [large - idle for large, idle in zip(peaks[LARGE], peaks[IDLE], strict=True)]
    settings = {
        "object store": f"{object_store / GIB:g} GiB",
        "samples": f"{sources * 5 * SIDE**2 / GIB:.2f} GiB, streamed in windows of 1,024",
        "of": "the command and all its processes, proportional set size",
    }
    order = [kind for kind, _ in kinds[LARGE].most_common()]
    return {
        "name": "memory",
        "peers": {
            f"peak of a sweep over a {which}": row(values, "GiB", settings)
            for which, values in peaks.items()
        },
        "ratios": {},
        "tables": [
            {
                "columns": ["processes, MiB at the peak", IDLE, LARGE],
                "rows": [[kind, *(_mib(kinds[which][kind]) for which in spaces)] for kind in order],
            }
        ],
        "targets": [
            target(
                "peak above that of an idle sweep",
                max(above),
                (MOST_BYTES + object_store) / GIB,
                " GiB",
            )
        ],
    }


def _mib(nbytes: int) -> str:
    return f"{nbytes / 2**20:,.0f}"


def _space(folder: Path, name: str, sources: int, side: int, say: Callable[[str], None]) -> Path:
    """A space over a store of images of a side; of all but a few, patches are trained on."""
    store, space = folder / f"{name}.h5", folder / f"{name}.yaml"
    say(f"writing {sources} images of {side} px")
    write_store(store, _images(sources, side), domain="bench", importer={"name": "bench"})
    text = _SPACE.format(
        name=name, store=store, patch=PATCH, sources=sources, fraction=1.5 / sources
    )
    space.write_text(text, encoding="utf-8")
    return space


def _images(count: int, side: int) -> Iterator[Source]:
    """Stripes that differ from image to image; what they show takes no memory."""
    along = np.arange(side, dtype=np.uint32)
    fov = np.ones((side, side), np.uint8)
    for index in range(count):
        grey = ((along[:, None] * (index + 3) + along) % 251).astype(np.uint8)
        target_ = (grey < 40).astype(np.uint8)
        image = np.repeat(grey[..., None], 3, axis=2)
        yield Source(f"s{index}", f"g{index}", image, target_, fov)


def _peak(space: Path, results: Path, object_store: int) -> Counter[str]:
    """Run a sweep; bytes by kind of process when all of them together held most.

    Raises:
        VesselflowError: It did not end well, or not in time.
    """
    log = results.with_suffix(".txt")
    command = [sys.executable, "-m", "vesselflow", "sweep", str(space), "--no-figures"]
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [*command, "--results", str(results)],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "VESSELFLOW_DASHBOARD": "0",
                "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(object_store),
            },
        )
    most: Counter[str] = Counter()
    family: list[psutil.Process] = []
    deadline = time.monotonic() + LIMIT_S
    try:
        while process.poll() is None and time.monotonic() < deadline:
            found, family = _held(process.pid)
            most = max(most, found, key=Counter.total)
            time.sleep(PERIOD_S)
    finally:
        if process.poll() is None:
            for each in family:
                _end(each)
            process.kill()
        code = process.wait()
    if code:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise VesselflowError(f"a sweep failed: {' | '.join(lines[-3:])}")
    return most


def _held(pid: int) -> tuple[Counter[str], list[psutil.Process]]:
    """Bytes by kind of a process and all below it, each page that is shared divided; and these."""
    found: Counter[str] = Counter()
    try:
        head = psutil.Process(pid)
        family = [head, *head.children(recursive=True)]
    except psutil.Error:
        return found, []
    for process in family:
        try:
            words = process.cmdline()
            kind = "the command" if process.pid == pid else _kind(process.name(), words)
            found[kind] += process.memory_full_info().pss
        except psutil.Error:  # it has ended
            continue
    return found, family


def _kind(name: str, words: list[str]) -> str:
    """What a process is called in the table."""
    title = words[0] if words else name
    if title.startswith("ray::"):
        actor = title.removeprefix("ray::").split(".")[0].split("(")[0].strip()
        return {"_Reader": "readers of the stream", "SlotWorker": "the slot's worker"}.get(
            actor, "other processes of Ray"
        )
    return "the object store's raylet" if name == "raylet" else "other processes of Ray"


def _end(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.Error:
        return
