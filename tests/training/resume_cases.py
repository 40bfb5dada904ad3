"""Runs that are stopped, killed and damaged, each worker a process of its own that gloo joins.

As a script it is a nursery: a process in which torch is imported once and no gradient was computed,
that forks the workers of one attempt after the other, as it is told on its standard input.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import torch
import training_cases as cases

import vesselflow.training.giving as giving_module
import vesselflow.training.step as step_module
from vesselflow.config.experiment import Experiment
from vesselflow.feed.local import LocalData
from vesselflow.records import atomic
from vesselflow.runs.cells import Job
from vesselflow.sweeps.execution import execute
from vesselflow.training.group import Distributed, Solo

#: The micro-batch of which the gradient is not finite: (step, index).
SPOILT = (6, 1)
STEPS = 10
#: Seconds after which workers that have not ended are killed, and the test fails.
LIMIT_S = 120.0


def experiment(every_s: float) -> Experiment:
    """Augmentation, dropout, averaged weights; both epochs are scored; three micro-batches."""
    return cases.tiny_experiment(
        train={
            "steps_per_epoch": STEPS // 2,
            "micro_batches_per_step": 3,
            "checkpoint_every_s": every_s,
        },
        score={"epochs": "all"},
    )


def job(stores: dict[str, Path], every_s: float = 600.0) -> Job:
    """The run; `every_s` is no part of its name."""
    return cases.tiny_job("cccc", experiment(every_s), cases.tiny_domains(stores))


@dataclass
class Attempt:
    """One attempt, and what happens to it.

    Attributes:
        workers: How many.
        every_s: `train.checkpoint_every_s`.
        write_s: Seconds that a checkpoint's file takes longer.
        kill: (rank, step): SIGKILL when that step begins.
        all_die: Whether the others are killed as well.
        stop: (rank, step): asks to stop after that step.
    """

    workers: int = 1
    every_s: float = 600.0
    write_s: float = 0.0
    kill: tuple[int, int] | None = None
    all_die: bool = False
    stop: tuple[int, int] | None = None


@dataclass
class Nursery:
    """The forking process, as tests see it; a context.

    Args:
        folder: With the stores of `tiny_stores`.
    """

    folder: Path
    _process: subprocess.Popen[str] = field(init=False)

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate("", timeout=LIMIT_S)

    def run(self, results: Path, attempt: Attempt) -> list[tuple[str, int, str] | None]:
        """Do one attempt.

        Returns:
            State, steps and message of each worker's result; None for one that died.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([str(results), asdict(attempt)]), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, "the nursery died"
        return [entry and tuple(entry) for entry in json.loads(answer)]


def _disturb(attempt: Attempt, rank: int) -> None:
    """Let happen to this process what is to happen to it."""
    run, backward, replace_ = (
        step_module.Stepper.run,
        step_module.Stepper._backward,
        atomic.os.replace,
    )

    def run_step(self: Any, step: int, *args: Any, stop: bool, save: bool) -> Any:
        if attempt.kill == (rank, step):
            os.kill(os.getpid(), signal.SIGKILL)
        return run(self, step, *args, stop=stop or attempt.stop == (rank, step), save=save)

    def spoilt(self: Any, step: int, index: int, progress: float, batch: Any) -> torch.Tensor:
        if (step, index) == SPOILT:
            batch = replace(batch, scale=-abs(batch.scale))
        return backward(self, step, index, progress, batch)

    def slow(source: Any, target: Any) -> None:
        if str(target).endswith(".ckpt"):
            time.sleep(attempt.write_s)
        replace_(source, target)

    step_module.Stepper.run, step_module.Stepper._backward = run_step, spoilt
    giving_module.normalise_by = cases.spoiling
    atomic.os.replace = slow


def _worker(folder: Path, results: Path, attempt: Attempt, meet: Path, rank: int) -> None:
    _disturb(attempt, rank)
    if attempt.workers > 1:
        torch.distributed.init_process_group(
            "gloo",
            init_method=f"file://{meet}",
            rank=rank,
            world_size=attempt.workers,
            timeout=timedelta(seconds=LIMIT_S / 2),
        )
    stores = {path.stem: path for path in folder.glob("*.h5")}
    result = execute(
        job(stores, attempt.every_s),
        results,
        LocalData(stores),
        group=Distributed() if attempt.workers > 1 else Solo(),
    )
    told = [result.state, result.steps, result.message]
    Path(f"{meet}-{rank}").write_text(json.dumps(told))
    os._exit(0)  # without a word to those that are gone


def _fork(folder: Path, results: Path, attempt: Attempt, meet: Path) -> list[Any]:
    context = multiprocessing.get_context("fork")
    workers = [
        context.Process(target=_worker, args=(folder, results, attempt, meet, rank))
        for rank in range(attempt.workers)
    ]
    for worker in workers:
        worker.start()
    deadline = time.monotonic() + LIMIT_S
    while any(worker.is_alive() for worker in workers):
        died = any(worker.exitcode == -signal.SIGKILL for worker in workers)
        if (died and attempt.all_die) or time.monotonic() > deadline:
            for worker in workers:
                worker.kill()
        time.sleep(0.01)
    told = [Path(f"{meet}-{rank}") for rank in range(attempt.workers)]
    return [json.loads(path.read_text()) if path.exists() else None for path in told]


def nursery(folder: Path) -> None:
    """Fork workers for each line that comes in."""
    cases.before_forks(experiment(600.0))
    for number, line in enumerate(sys.stdin):
        results, given = json.loads(line)
        pairs = {key: tuple(given[key]) if given[key] else None for key in ("kill", "stop")}
        attempt = Attempt(**{**given, **pairs})
        print(json.dumps(_fork(folder, Path(results), attempt, folder / f"meet-{number}")))
        sys.stdout.flush()


if __name__ == "__main__":
    nursery(Path(sys.argv[1]))
