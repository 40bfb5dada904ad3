"""Launch: from the command to the first training step, against importing torch and ray."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vesselflow.bench.commands import Sweep, row, spread, target

MOST_S, MOST_RATIO = 10.0, 4.0
FIRST, WHOLE, PEER = "command to first step", "whole sweep of 2 steps", "python: import torch, ray"


def launch(rounds: int = 3, progress: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Measure how long a sweep takes to its first step, and to its end with two steps.

    The command is given as a person gives it, dashboard on. The peer is a Python that imports torch
    and ray and ends: what no sweep can do without. Rounds are interleaved; one of each goes ahead
    uncounted, so that no file is read from the disk for the first time.

    Args:
        rounds: Interleaved rounds, at least 1.
        progress: Called with a line of text as the bench goes on.

    Returns:
        As `overhead`.
    """
    say = progress or (lambda text: None)
    first: list[float] = []
    whole: list[float] = []
    imports: list[float] = []
    with tempfile.TemporaryDirectory(prefix="vf-bench-") as name:
        for number in range(rounds + 1):
            say(f"round {number} of {rounds}" if number else "once, uncounted")
            began = time.time()
            subprocess.run([sys.executable, "-c", "import torch, ray"], check=True)
            imported = time.time() - began
            sweep = Sweep(Path(name) / str(number), epochs=2, slots=1, grid="{loss.beta: [0.5]}")
            ended = sweep.wait()
            stepped = sweep.first_step()
            assert stepped is not None
            if number:
                imports.append(imported)
                first.append(stepped - sweep.began)
                whole.append(ended)
    settings = {
        "space": "one run of two steps, six images of 64 px",
        "dashboard": "on (it starts beside a run that goes on)",
    }
    ratios = [a / b for a, b in zip(whole, imports, strict=True)]
    rows = {
        FIRST: row(first, "s", settings),
        WHOLE: row(whole, "s", settings),
        PEER: row(imports, "s", {}),
    }
    return {
        "name": "launch",
        "peers": rows,
        "ratios": {f"{WHOLE} / {PEER}": spread(ratios)},
        "targets": [
            target(FIRST, rows[FIRST]["median"], MOST_S, " s"),
            target(f"{WHOLE} / {PEER}", spread(ratios)["median"], MOST_RATIO),
        ],
    }
