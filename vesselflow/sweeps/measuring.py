"""A few real steps of each kind of run on this machine, in as many processes as there are slots.

Slots share memory and caches: a step beside others takes longer than one alone, and what is asked
is how long it takes beside others. Each process is a fresh one, as a slot's is.
"""

from __future__ import annotations

import base64
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from vesselflow.errors import VesselflowError
from vesselflow.runs.cells import Job
from vesselflow.sweeps.pace import Pace

#: Seconds for which steps of one kind are measured, and how many steps at least and at most.
MEASURE_S, LEAST_STEPS, MOST_STEPS = 3.0, 3, 400
#: Images of each store that are scored.
IMAGES = 2

_CHILD = "from vesselflow.sweeps.measuring import child; child()"


@dataclass(frozen=True)
class Task:
    """What each process measures.

    Attributes:
        jobs: One of each kind.
        stores: Name -> file.
        threads: CPU threads of a process.
        device: Where the model lives.
        seconds: For each kind.
    """

    jobs: tuple[Job, ...]
    stores: Mapping[str, Path]
    threads: int
    device: str = "cpu"
    seconds: float = MEASURE_S


@dataclass(frozen=True)
class Measured:
    """What was measured.

    Attributes:
        paces: Kind by kind, in the order of the jobs: what each process found.
        slot_s: Seconds that a process took to import what a slot imports.
        processes: That worked side by side.
    """

    paces: tuple[tuple[Pace, ...], ...]
    slot_s: float
    processes: int


def measure(
    task: Task, processes: int, told: Callable[[int, int], None] = lambda done, total: None
) -> Measured:
    """Measure, in so many processes side by side.

    Args:
        task: What.
        processes: How many, at least one.
        told: (kinds done, of how many).

    Raises:
        VesselflowError: A process failed; the message is its own.
    """
    sent = base64.b64encode(pickle.dumps(task)) + b"\n"
    environ = {
        **os.environ,
        "OMP_NUM_THREADS": str(task.threads),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    with tempfile.TemporaryFile() as words:
        group = [
            subprocess.Popen(
                [sys.executable, "-c", _CHILD],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
                env=environ,
            )
            for _ in range(processes)
        ]
        try:
            return _led(group, sent, task, told)
        except (OSError, ValueError, EOFError) as error:
            words.seek(0)
            lines = words.read().decode(errors="replace").strip().splitlines()
            reason = lines[-1] if lines else str(error)
            reason = reason.removeprefix(f"{VesselflowError.__module__}.VesselflowError: ")
            raise VesselflowError(f"the steps could not be measured: {reason}") from None
        finally:
            for process in group:
                process.kill()
                process.communicate()


def _led(
    group: Sequence[subprocess.Popen[bytes]],
    sent: bytes,
    task: Task,
    told: Callable[[int, int], None],
) -> Measured:
    for process in group:
        _stream(process.stdin).write(sent)
        _stream(process.stdin).flush()
    starts = [float(_answer(process)["slot_s"]) for process in group]
    paces = []
    for done in range(len(task.jobs)):
        # All begin a kind together.
        for process in group:
            _stream(process.stdin).write(b"go\n")
            _stream(process.stdin).flush()
        paces.append(tuple(Pace(**_answer(process)) for process in group))
        told(done + 1, len(task.jobs))
    return Measured(tuple(paces), sum(starts) / len(starts), len(group))


def _stream(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def _answer(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    line = _stream(process.stdout).readline()
    if not line:
        raise EOFError("a process ended")
    answer: dict[str, Any] = json.loads(line)
    return answer


# -- within a process ------------------------------------------------------------------------------


def child() -> None:
    """What each process does; it reads its task and its starts from stdin, answers on stdout."""
    began = time.monotonic()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Whatever else is printed is no answer.
    task: Task = pickle.loads(base64.b64decode(sys.stdin.readline()))
    from vesselflow.sweeps.timing import Timing

    with tempfile.TemporaryDirectory(prefix="vesselflow-measure-") as folder:
        timing = Timing(task.stores, task.threads, task.device, Path(folder))
        slot_s = time.monotonic() - began
        if task.jobs:
            # The first run of a process imports and compiles: no later one pays for it.
            timing.steps(task.jobs[0], 0.0, 1, 1)
        print(json.dumps({"slot_s": slot_s}), file=out, flush=True)
        for job in task.jobs:
            if not sys.stdin.readline():
                return
            pace = timing.steps(job, task.seconds, LEAST_STEPS, MOST_STEPS)
            pace = replace(pace, image_s=timing.scoring(job, IMAGES))
            print(json.dumps(asdict(pace)), file=out, flush=True)
