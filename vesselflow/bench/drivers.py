"""Drivers: two drivers on one folder of results, each with slots of its own, against one."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vesselflow.bench.commands import Sweep, row, spread, target
from vesselflow.errors import VesselflowError
from vesselflow.records.runs import read_index

#: What this bench holds the project to: of the seconds that one driver takes.
MOST_RATIO = 0.6
ONE, TWO = "one driver", "two drivers"
#: Runs, and their steps, a minute and more for one slot; they save as often as by default.
RUNS, STEPS = 16, 100
OPTIONS = ("--set", f"train.steps_per_epoch={STEPS}", "--set", "train.checkpoint_every_s=600")
#: All but ``cost``, which says what it took.
TABLES = ("points", "runs", "epochs", "images")


def drivers(rounds: int = 2, progress: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Measure a sweep of one slot, and the same sweep by two commands at once.

    Each command starts a Ray of its own with one slot of one thread; they meet in the results
    alone. Each round looks at what they left: every run trained once, tables equal to the last
    byte.

    Args:
        rounds: Interleaved rounds, at least 1.
        progress: Called with a line of text as the bench goes on.

    Returns:
        As of `bench.overhead.overhead`.

    Raises:
        VesselflowError: A run was done twice or not at all, or the tables differ.
    """
    say = progress or (lambda text: None)
    seconds: dict[str, list[float]] = {ONE: [], TWO: []}
    grid = f"{{loss.beta: [{', '.join(f'{i / RUNS:.3f}' for i in range(RUNS))}]}}"
    with tempfile.TemporaryDirectory(prefix="vf-bench-") as name:
        for number in range(1, rounds + 1):
            tables = {}
            for label, count in ((ONE, 1), (TWO, 2)):
                say(f"round {number} of {rounds}, {label}")
                folder, began = Path(name) / f"{label}-{number}", time.time()
                results = folder / "results"
                sweeps = [
                    Sweep(
                        folder / str(which),
                        epochs=1,
                        slots=1,
                        grid=grid,
                        dashboard=False,
                        results=results,
                        options=OPTIONS,
                    )
                    for which in range(count)
                ]
                for sweep in sweeps:
                    sweep.wait()
                seconds[label].append(time.time() - began)
                _check_once(results)
                tables[label] = _tables(results)
            if tables[ONE] != tables[TWO]:
                raise VesselflowError("two drivers made other tables than one")
    ratios = [two / one for one, two in zip(seconds[ONE], seconds[TWO], strict=True)]
    settings: Mapping[str, Any] = {
        "runs": f"{RUNS} of {STEPS} steps",
        "of a driver": "1 slot of 1 thread, a Ray of its own",
    }
    return {
        "name": "drivers",
        "peers": {label: row(values, "s", settings) for label, values in seconds.items()},
        "ratios": {f"{TWO} / {ONE}": spread(ratios)},
        "targets": [target(f"{TWO} / {ONE}", spread(ratios)["median"], MOST_RATIO)],
    }


def _check_once(results: Path) -> None:
    index = read_index(results)
    done = sum(status.accepted_attempt is not None for _, status in index)
    attempts = sum(status.attempts for _, status in index)
    if (len(index), done, attempts) != (RUNS, RUNS, RUNS):
        raise VesselflowError(
            f"{len(index)} runs, {done} done, in {attempts} attempts, instead of {RUNS} each"
        )


def _tables(results: Path) -> dict[str, bytes]:
    (folder,) = results.glob("*/tables")
    return {name: (folder / f"{name}.parquet").read_bytes() for name in TABLES}
