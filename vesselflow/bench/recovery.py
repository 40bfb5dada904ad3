"""Recovery: from the death of a worker to the next step of the run that it trained."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vesselflow.bench.commands import Sweep, row, target

ALONE, BESIDE = "kill, no other slot", "kill, another slot free"
MOST_S = {ALONE: 12.0, BESIDE: 3.0}
#: One run that goes on for as long as the bench needs it, and one that ends at once.
_GRIDS = {ALONE: "{train.epochs: [4000]}", BESIDE: "{train.epochs: [2, 4000]}"}


def recovery(rounds: int = 3, progress: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Measure the seconds from SIGKILL of a slot's worker to the next step of its run.

    Every step writes a checkpoint, so that the next step is seen by its file. With one slot, its
    process must come up again (and import torch); with two, of which one has nothing to do, the
    other takes the run.

    Args:
        rounds: How often each, interleaved; at least 1.
        progress: Called with a line of text as the bench goes on.

    Returns:
        As `overhead`.
    """
    say = progress or (lambda text: None)
    found: dict[str, list[float]] = {ALONE: [], BESIDE: []}
    with tempfile.TemporaryDirectory(prefix="vf-bench-") as name:
        for number in range(1, rounds + 1):
            for case, grid in _GRIDS.items():
                say(f"round {number} of {rounds}: {case}")
                slots = 1 if case is ALONE else 2
                folder = Path(name) / f"{number}-{slots}"
                found[case].append(_once(folder, grid, slots=slots))
    rows = {case: row(values, "s", {"run": "4,000 steps"}) for case, values in found.items()}
    return {
        "name": "recovery",
        "peers": rows,
        "ratios": {},
        "targets": [target(case, rows[case]["median"], MOST_S[case], " s") for case in rows],
    }


def _once(folder: Path, grid: str, *, slots: int) -> float:
    sweep = Sweep(folder, epochs=2, slots=slots, grid=grid, dashboard=False)
    try:
        runs = slots

        def long_run() -> Path | None:
            """The run that is still at work when all others have ended."""
            ended = {path.parent for path in sweep.results.glob("runs/*/accepted.json")}
            open_runs = [
                path
                for path in sweep.results.glob("runs/*")
                if path not in ended and _newest(path, 1) > 5
            ]
            return open_runs[0] if len(ended) == runs - 1 and open_runs else None

        run = sweep.until(long_run)
        # The other slot has settled down by now.
        time.sleep(3)
        busy = max(sweep.workers(), key=lambda process: process.cpu_percent(interval=1.0))
        killed = time.time()
        busy.kill()
        sweep.until(lambda: _newest(run, 2) > 0)
        stepped = min(
            path.stat().st_mtime for path in (run / "attempts" / "2").glob("checkpoints/*.ckpt")
        )
        return stepped - killed
    finally:
        sweep.stop()


def _newest(run: Path, attempt: int) -> int:
    """The newest step of which an attempt has a checkpoint."""
    with contextlib.suppress(OSError):
        folder = run / "attempts" / str(attempt) / "checkpoints"
        return max((int(path.stem) for path in folder.glob("*.ckpt")), default=0)
    return 0
