"""Whole commands as a person gives them: a small sweep in a process of its own."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from vesselflow.errors import VesselflowError

#: Seconds after which a command that has not ended is given up.
LIMIT_S = 300

#: The smallest sweep that passes through everything; {grid} and the rest are filled in.
SPACE = """\
name: small
stores:
  a: synth:fundus?domain=a&sources=6&seed=0&size_px=64
data: {{train: a, working_size_px: 64}}
split: {{folds: 3, val_fraction: 0.3}}
folds: [0]
seeds: [0]
model: {{name: wnet}}
train: {{epochs: {epochs}, steps_per_epoch: 1, micro_batch_size: 2, checkpoint_every_s: 1e-9}}
score: {{epochs: {{every: {epochs}}}}}
grid: {grid}
resources: {{slots: {slots}, threads: 1}}
"""


class Sweep:
    """A running `vesselflow sweep`.

    Args:
        folder: For its space, its results and its output.
        epochs: Epochs of one step each.
        slots: Its slots.
        grid: Its axes, as YAML.
        dashboard: Whether Ray's dashboard runs, as it does unless told otherwise.
        results: Where they go; a folder of its own where nothing is said.
        options: More for the command.
        cpus: The CPUs that it and all its processes may use; None for all.
    """

    def __init__(
        self,
        folder: Path,
        *,
        epochs: int,
        slots: int,
        grid: str,
        dashboard: bool = True,
        results: Path | None = None,
        options: Sequence[str] = (),
        cpus: Sequence[int] | None = None,
    ) -> None:
        folder.mkdir(parents=True)
        self.results, self._log = results or folder / "results", folder / "log.txt"
        space = folder / "bench.yaml"
        space.write_text(SPACE.format(epochs=epochs, slots=slots, grid=grid), encoding="utf-8")
        command = [sys.executable, "-m", "vesselflow", "sweep", str(space), "--no-figures"]
        self.began = time.time()
        with self._log.open("wb") as sink:
            self.process = subprocess.Popen(
                [*command, "--results", str(self.results), *options],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**os.environ, "VESSELFLOW_DASHBOARD": str(int(dashboard))},
            )
        if cpus is not None:
            # Before it has started anything; what it starts inherits them.
            psutil.Process(self.process.pid).cpu_affinity(list(cpus))

    def first_step(self) -> float | None:
        """Time of day at which the first step of any run was written down."""
        return _earliest(self.results.glob("runs/*/attempts/*/rows/0000000001.json"))

    def wait(self) -> float:
        """Seconds until it ended; VesselflowError when it did not end well."""
        try:
            code = self.process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            self.stop()
            raise VesselflowError(f"a sweep did not end within {LIMIT_S} s") from None
        if code:
            raise self.failed()
        return time.time() - self.began

    def until(self, true: Any) -> Any:
        """Wait for something of the sweep; its value."""
        deadline = time.time() + LIMIT_S
        while not (found := true()):
            if self.process.poll() is not None or time.time() > deadline:
                self.stop()
                raise self.failed()
            time.sleep(0.02)
        return found

    def failed(self) -> VesselflowError:
        """What it said last."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return VesselflowError(f"a sweep failed: {' | '.join(lines[-3:])}")

    def family(self) -> list[psutil.Process]:
        """All its processes but itself."""
        with contextlib.suppress(psutil.Error):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def workers(self) -> list[psutil.Process]:
        """The processes in which slots train."""
        found = []
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                if "SlotWorker" in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def stop(self) -> None:
        """End it and all its processes."""
        family = self.family()
        for process in (self.process, *family):
            with contextlib.suppress(psutil.Error, OSError):
                process.kill()
        self.process.wait()


def row(values: Sequence[float], unit: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A peer's row of a bench."""
    return {
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "n": len(values),
        "unit": unit,
        "settings": dict(settings),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest of some ratios."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def target(what: str, value: float, most: float, unit: str = "") -> dict[str, Any]:
    """A target that is met by values not above it."""
    return {"what": what, "value": value, "target": f"<= {most:g}{unit}", "met": value <= most}


def _earliest(paths: Any) -> float | None:
    times = []
    for path in paths:
        with contextlib.suppress(OSError):
            times.append(path.stat().st_mtime)
    return min(times, default=None)
