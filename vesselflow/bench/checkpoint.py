"""Checkpoints: what they take from a training, against `torch.save` and torch's own async save."""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.checkpoint.state_dict_saver import async_save

from vesselflow.bench.commands import row, spread, target
from vesselflow.config.experiment import Experiment, load_experiment
from vesselflow.errors import VesselflowError
from vesselflow.feed.batches import Batch
from vesselflow.records.checkpoints import Checkpoints
from vesselflow.runs.registries import REGISTRIES
from vesselflow.sweeps.machine import cpus_here
from vesselflow.training.interval import PRIOR_S, SHORTEST_S, best_interval
from vesselflow.training.loop import Hooks, train
from vesselflow.training.process import settle_process
from vesselflow.training.saving import Saver, Write

OURS, PLAIN, ASYNC, NONE = "vesselflow", "torch.save in the loop", "DCP async_save", "no saving"
#: Most of a training's time that checkpoints may take, in percent.
MOST_PERCENT = 1.0
#: Steps that are not counted: libraries choose their ways, memory is touched for the first time.
WARM_STEPS = 6
#: Saves of a training, and seconds from one to the next: rarer ones would take hours to be seen.
SAVES, BETWEEN_S = 2, 6.0
#: The training that saves when the shipped rule says so ends after so many saves and some seconds
#: more; at the latest after `LONGEST_S`.
SHIPPED_SAVES, MORE_S, LONGEST_S = 2, 10.0, 300.0
SIDE_PX = 128


@dataclass
class Seen:
    """What one training let be seen.

    Attributes:
        steps: Seconds of each counted step without what it stood still.
        written: Of each counted step, whether a checkpoint was written beside it.
        stood: Seconds that each save held the training up.
        writes: Seconds of each write beside the steps.
        size: Bytes of a checkpoint.
    """

    steps: list[float] = field(default_factory=list)
    written: list[bool] = field(default_factory=list)
    stood: list[float] = field(default_factory=list)
    writes: list[float] = field(default_factory=list)
    size: int = 0

    @property
    def seconds(self) -> float:
        """All counted steps, and what they stood still."""
        return sum(self.steps) + sum(self.stood)

    @property
    def slower(self) -> float:
        """Seconds that steps beside a write took longer than the median of the others, per save."""
        beside = [step for step, written in zip(self.steps, self.written, strict=True) if written]
        alone = [
            step for step, written in zip(self.steps, self.written, strict=True) if not written
        ]
        if not beside or not alone:
            return 0.0
        return max(0.0, sum(beside) - len(beside) * statistics.median(alone)) / len(self.stood)

    @property
    def cost(self) -> float:
        """Seconds that a save takes from the training: held up, and slower."""
        return statistics.fmean(self.stood) + self.slower


class Timed(Saver):
    """Ours, with a watch."""

    def __init__(self, seen: Seen, folder: Path, save: Callable[[int], Write]) -> None:
        super().__init__(save, lambda: None)
        self.seen, self.folder = seen, folder

    def save(self, step: int, state: Any) -> None:
        """Keep a state in this way."""
        began = time.perf_counter()
        self.keep(step, state)
        self.seen.stood.append(time.perf_counter() - began)

    def keep(self, step: int, state: Any) -> None:
        """What `save` measures."""
        super().save(step, state)


class Plain(Timed):
    """`torch.save` of the state, while the training waits; not flushed to the disk."""

    def keep(self, step: int, state: Any) -> None:
        """See `Timed`."""
        path = self.folder / f"{step}.pt"
        torch.save(state, path)
        self.seen.size = path.stat().st_size


class Async(Timed):
    """`torch.distributed.checkpoint.async_save`: a copy, and a thread that writes."""

    _future: Future[Any] | None = None
    _noted: threading.Event

    @property
    def busy(self) -> bool:
        """Whether it writes."""
        return self._future is not None and not self._future.done()

    def keep(self, step: int, state: Any) -> None:
        """See `Timed`."""
        if self._future is not None:
            self._future.result()
        began = time.perf_counter()
        folder = self.folder / str(step)
        future = async_save(state, checkpoint_id=folder, no_dist=True)
        assert isinstance(future, Future)

        def written(_: Future[Any]) -> None:
            self.seen.writes.append(time.perf_counter() - began)
            self.seen.size = sum(path.stat().st_size for path in folder.iterdir())
            noted.set()

        self._noted = noted = threading.Event()
        future.add_done_callback(written)
        self._future = future

    def wait(self) -> None:
        """Wait for the last write, and for its note: callbacks come after the result."""
        if self._future is not None:
            self._future.result()
            self._noted.wait()


WAYS: dict[str, type[Timed]] = {OURS: Timed, PLAIN: Plain, ASYNC: Async, NONE: Timed}


class _Patches:
    """Random patches, the same for every step."""

    def __init__(self, size: int) -> None:
        random = np.random.Generator(np.random.Philox(key=0))
        shape = (size, 3, SIDE_PX, SIDE_PX)
        ones = np.ones((size, 1, SIDE_PX, SIDE_PX), dtype=np.uint8)
        self._batch = Batch(
            image=random.integers(0, 256, shape, dtype=np.uint8),
            target=random.integers(0, 2, ones.shape, dtype=np.uint8) * np.uint8(255),
            fov=ones,
            centre=np.full((size, 3), 0.5, dtype=np.float32),
            scale=np.full((size, 3), 0.25, dtype=np.float32),
            source=np.zeros(size, dtype=np.int32),
        )

    def batch(self, step: int, index: int) -> Batch:
        """Micro-batch `index` of step `step`."""
        return self._batch


def checkpoint(rounds: int = 3, progress: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Measure what checkpoints take from a training: U-Net with resnet34, AdamW, 4 patches of 128.

    Every training goes through the shipped loop, on all CPUs (what writes beside it competes with
    it), or on the GPU; only the way in which a state is kept differs. In each round every way
    trains once, in an order that rotates, with a save every few seconds, so that many are seen;
    first and last steps are not counted. A save costs what it held up and what the steps beside its
    write took longer than the median of the others; the stall is that, over the time between two
    saves that the shipped rule chooses for it when no failure was seen. At the end one training
    saves when the shipped rule says so, with the defaults.

    Args:
        rounds: Interleaved rounds, at least 1.
        progress: Called with a line of text as the bench goes on.

    Returns:
        As `overhead`.
    """
    say = progress or (lambda text: None)
    threads = cpus_here()
    settle_process(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    say("a first training, not counted")
    with tempfile.TemporaryDirectory(prefix="vf-bench-") as name, warnings.catch_warnings():
        # Said by each save of torch's, though it was told so.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        first = _train(Path(name) / "first", NONE, device, steps=4, saves=0)
        step_s = statistics.median(first.steps)
        between = max(8, round(BETWEEN_S / step_s))
        found: dict[str, list[Seen]] = {way: [] for way in WAYS}
        ways = list(WAYS)
        for number in range(rounds):
            shift = number % len(ways)
            for way in ways[shift:] + ways[:shift]:
                say(f"round {number + 1} of {rounds}: {way}")
                folder = Path(name) / f"{number}-{ways.index(way)}"
                found[way].append(_train(folder, way, device, steps=between, saves=SAVES))
        say(f"saving by the shipped rule, until {SHIPPED_SAVES} saves were seen")
        shipped = _train(Path(name) / "shipped", OURS, device, steps=1_000_000, saves=None)
    settings = {
        "training": f"unet, resnet34, AdamW, 4 x {SIDE_PX} px, {step_s:.2g} s a step",
        "on": torch.cuda.get_device_name() if device == "cuda" else f"{threads} threads",
    }
    return summarise(found, shipped, settings)


def stall_percent(cost_s: float) -> float:
    """Share of a training's time that saves take, at the interval that is chosen for their cost."""
    return 100 * cost_s / max(SHORTEST_S, best_interval(cost_s, PRIOR_S))


def summarise(
    found: dict[str, list[Seen]], shipped: Seen, settings: dict[str, Any]
) -> dict[str, Any]:
    """Rows, ratios and targets of what was seen.

    Args:
        found: Way -> its trainings, by round.
        shipped: The training that saved by the shipped rule.
        settings: Of all of them.
    """
    if not shipped.stood:
        raise VesselflowError("the training at the shipped interval saved nothing")
    rows: dict[str, dict[str, Any]] = {}
    for way, trainings in found.items():
        if way == NONE:
            continue
        every = {**settings, "saves": f"{len(trainings)} x {len(trainings[0].stood)}"}
        costs = [seen.cost for seen in trainings]
        rows[f"{way}: a save costs"] = row(costs, "s", every)
        rows[f"{way}: it holds up"] = row([s for seen in trainings for s in seen.stood], "s", every)
        writes = [s for seen in trainings for s in seen.writes]
        if writes:
            rows[f"{way}: it writes beside the steps"] = row(writes, "s", every)
        sizes = [seen.size / 1e6 for seen in trainings if seen.size]
        if sizes:
            rows[f"{way}: size"] = row(sizes, "MB", every)
        stalls = [stall_percent(cost) for cost in costs]
        rows[f"{way}: stall"] = row(stalls, "%", every)
    percent = 100 * len(shipped.stood) * shipped.cost / shipped.seconds
    once = {**settings, "saves": len(shipped.stood), "training": f"{shipped.seconds:.0f} s"}
    rows["as shipped, one training: stall"] = row([percent], "%", once)
    ratios = {
        f"{way} / {OURS}: cost": spread(
            [theirs.cost / ours.cost for theirs, ours in zip(found[way], found[OURS], strict=True)]
        )
        for way in (PLAIN, ASYNC)
    }
    for way in (OURS, PLAIN, ASYNC):
        ratios[f"time, {way} / {NONE}"] = spread(
            [
                saving.seconds / none.seconds
                for saving, none in zip(found[way], found[NONE], strict=True)
            ]
        )
    stall = rows[f"{OURS}: stall"]["median"]
    return {
        "name": "checkpoint",
        "peers": rows,
        "ratios": ratios,
        "targets": [
            target("stall by checkpoints", stall, MOST_PERCENT, " %"),
            target("stall by checkpoints, as shipped", percent, MOST_PERCENT, " %"),
        ],
    }


def _experiment(steps: int) -> Experiment:
    return load_experiment(
        {
            "data": {"train": "patches", "working_size_px": SIDE_PX},
            "model": {"name": "unet", "encoder": "resnet34"},
            "train": {"epochs": 1, "steps_per_epoch": steps},
        },
        registries=REGISTRIES,
    )


def _train(folder: Path, way: str, device: str, *, steps: int, saves: int | None) -> Seen:
    """One training, of `steps` counted steps after each save; saves None: by the shipped rule.

    The save at its end is not counted.
    """
    folder.mkdir(parents=True)
    last = WARM_STEPS + steps * max(1, saves or 0) + 1
    experiment = _experiment(last)
    at = {WARM_STEPS + number * steps for number in range(0 if way == NONE else saves or 0)}
    seen, checkpoints = Seen(), Checkpoints(folder)
    saver: Timed | None = None
    # Of the shipped rule: True; else it goes by a clock that only says when a save is wanted.
    rule, now, done = saves is None, 0.0, 0
    began = ended = saved = time.perf_counter()

    def save(step: int) -> Write:
        def write(payload: memoryview) -> None:
            begun = time.perf_counter()
            checkpoints.save(step, payload)
            if step < last:
                seen.writes.append(time.perf_counter() - begun)
                seen.size = len(payload)

        return write

    def make(_: Any, waiting: Any) -> Saver:
        nonlocal saver
        saver = WAYS[way](seen, folder, save)
        return saver

    def after(_: int, step: int) -> None:
        nonlocal now, done, ended, saved
        if device == "cuda":
            torch.cuda.synchronize()
        assert saver is not None
        this = time.perf_counter()
        held = sum(seen.stood[done:])
        saved = this if held else saved
        if WARM_STEPS < step < last:
            seen.steps.append(this - ended - held)
            seen.written.append(saver.busy or bool(held))
        done, ended = len(seen.stood), this
        # Asked before a step, for after it.
        if step + 1 in at:
            now += 1e6

    def enough() -> bool:
        """Of the shipped rule: whether enough saves were seen, and what came after."""
        this = time.perf_counter()
        return rule and (
            this > began + LONGEST_S or (len(seen.stood) >= SHIPPED_SAVES and this > saved + MORE_S)
        )

    train(
        experiment,
        _Patches(experiment.train.micro_batch_size),
        channels=3,
        train_samples=1,
        seed=0,
        device=device,
        hooks=Hooks(
            save=save,
            progress=after,
            should_stop=enough,
            clock=time.monotonic if rule else lambda: now,
        ),
        saver=make,
    )
    del seen.stood[done:]
    return seen
