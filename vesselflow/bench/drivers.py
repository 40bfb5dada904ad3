"""Drivers: two drivers on one folder of results, each with slots of its own, against one."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vesselflow.bench.commands import Sweep, row, spread, target
from vesselflow.errors import UserError, VesselflowError
from vesselflow.evaluation.answer import read_answer
from vesselflow.records.runs import read_index

#: What this bench holds the project to: of the seconds that one driver takes.
MOST_RATIO = 0.6
ONE, TWO = "one driver", "two drivers"
#: Runs, and their steps: minutes for one slot, beside which the start of a Ray weighs little; they
#: save as often as by default.
RUNS, STEPS = 32, 100
OPTIONS = ("--set", f"train.steps_per_epoch={STEPS}", "--set", "train.checkpoint_every_s=600")


def drivers(rounds: int = 2, progress: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Measure a sweep of one slot, and the same sweep by two commands at once.

    Each command starts a Ray of its own with one slot of one thread, on CPUs of its own: half of
    this machine's, as if each had a machine of that size. They meet in the results alone. Each
    round looks at what they left: every run trained once, tables equal to the last
    byte.

    Args:
        rounds: Interleaved rounds, at least 1.
        progress: Called with a line of text as the bench goes on.

    Returns:
        As of `bench.overhead.overhead`.

    Raises:
        UserError: There are not two CPUs.
        VesselflowError: A run was done twice or not at all, or the tables differ.
    """
    say = progress or (lambda text: None)
    seconds: dict[str, list[float]] = {ONE: [], TWO: []}
    halves = _halves()
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
                        cpus=halves[which],
                    )
                    for which in range(count)
                ]
                for sweep in sweeps:
                    sweep.wait()
                seconds[label].append(time.time() - began)
                _check_once(results)
                (folder_of_tables,) = results.glob("*/tables")
                tables[label] = read_answer(folder_of_tables.parent)
            if tables[ONE] != tables[TWO] or None in tables[ONE].values():
                raise VesselflowError("two drivers made other tables than one")
    ratios = [two / one for one, two in zip(seconds[ONE], seconds[TWO], strict=True)]
    settings: Mapping[str, Any] = {
        "runs": f"{RUNS} of {STEPS} steps",
        "of a driver": f"1 slot of 1 thread, a Ray and {len(halves[0])} CPU(s) of its own",
    }
    return {
        "name": "drivers",
        "peers": {label: row(values, "s", settings) for label, values in seconds.items()},
        "ratios": {f"{TWO} / {ONE}": spread(ratios)},
        "targets": [target(f"{TWO} / {ONE}", spread(ratios)["median"], MOST_RATIO)],
    }


def _halves() -> list[list[int]]:
    """This process's CPUs, dealt to two drivers.

    Raises:
        UserError: There is one alone, or this system does not pin processes.
    """
    known = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(known) < 2:
        raise UserError(
            "two drivers need a CPU each that nothing else uses",
            where="vesselflow bench drivers",
            allowed="Linux, 2 CPUs or more",
        )
    half = len(known) // 2
    return [known[:half], known[half : 2 * half]]


def _check_once(results: Path) -> None:
    index = read_index(results)
    done = sum(status.accepted_attempt is not None for _, status in index)
    attempts = sum(status.attempts for _, status in index)
    if (len(index), done, attempts) != (RUNS, RUNS, RUNS):
        raise VesselflowError(
            f"{len(index)} runs, {done} done, in {attempts} attempts, instead of {RUNS} each"
        )
