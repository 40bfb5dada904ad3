"""Times a few steps of a run, and the scoring of a few images, in this process; writes scratch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from vesselflow.errors import VesselflowError
from vesselflow.evaluation.scoring import evaluate
from vesselflow.feed.local import LocalData
from vesselflow.runs.cells import Job
from vesselflow.sweeps.context import Context, Reports, bare
from vesselflow.sweeps.execution import execute
from vesselflow.sweeps.pace import Pace
from vesselflow.training.group import Solo
from vesselflow.training.loop import build_model
from vesselflow.training.process import settle_process


class Timing:
    """Times what slots do, by what slots call.

    Args:
        stores: Name -> file.
        threads: CPU threads of this process.
        device: Where models live.
        scratch: A folder that may be written into.
    """

    def __init__(
        self, stores: Mapping[str, Path], threads: int, device: str, scratch: Path
    ) -> None:
        settle_process(threads)
        self._data, self._device, self._scratch = LocalData(dict(stores)), device, scratch
        self._tries = 0

    def steps(self, job: Job, seconds: float, least: int, most: int) -> Pace:
        """Train a run's first steps.

        Args:
            job: The run.
            seconds: It is stopped after so many of them,
            least: but not before so many steps,
            most: and at the latest after so many.

        Raises:
            VesselflowError: It failed.
        """
        self._tries += 1
        job = _with_random_weights(job)
        watch = _Stopwatch(seconds, least, most)
        result = execute(
            job,
            self._scratch / str(self._tries),
            self._data,
            reports=Reports(phase=watch.phase, should_stop=watch.enough),
            device=self._device,
        )
        if result.state not in ("stopped", "finished"):
            raise VesselflowError(f"{job.run.label}: {result.message}")
        cost = result.cost
        return Pace(
            step_s=watch.step_s(cost["train_s"] / max(1.0, cost["steps"])),
            start_s=cost["start_s"],
            save_s=cost["save_s"],
            steps=int(cost["steps"]),
            run_steps=watch.run_steps,
            source="measured here",
        )

    def scoring(self, job: Job, images: int) -> dict[str, float]:
        """Score some images of each store that the run is scored on: store -> seconds of one."""
        job = _with_random_weights(job)
        experiment = job.run.experiment
        context = Context(job, self._scratch, self._data, Solo(), Reports(), self._device, "timing")
        found: dict[str, float] = {}
        model = None
        for domain in dict.fromkeys(evaluation.domain for evaluation in job.evaluations):
            whole = context.images(domain)
            chosen = [whole[index] for index in domain.sources[:images]]
            if domain.store in found or not chosen:
                continue
            if model is None:
                channels = int(chosen[0].image.shape[0])
                model = (
                    build_model(experiment, channels, job.run.seed, job.run.task)
                    .to(self._device)
                    .eval()
                )
                if context.stack is not None:
                    context.stack.attach(model)
            began = time.monotonic()
            evaluate(
                model,
                chosen,
                experiment,
                job.protocols[0],
                thresholds=None,
                task=job.run.task,
                device=self._device,
                dataset_statistics=context.statistics,
            )
            found[domain.store] = (time.monotonic() - began) / len(chosen)
        return found


def _with_random_weights(job: Job) -> Job:
    """The job as it begins without weights of others, which change no time.

    Those of a run lie in another folder than this one, those of an encoder perhaps on the network.
    """
    run = replace(job.run, initial=None, experiment=bare(job.run.experiment))
    return replace(job, cells=tuple(replace(cell, run=run) for cell in job.cells))


class _Stopwatch:
    """Times the steps of a run by what it reports, and stops it after enough of them."""

    def __init__(self, seconds: float, least: int, most: int) -> None:
        self._seconds, self._least, self._most = seconds, least, most
        self._began = self._last = self._now = 0.0
        self._done = -1
        self._each: list[float] = []
        self.run_steps = 0

    def phase(self, phase: str, epoch: int, step: int, steps: int) -> None:
        """The run tells where it is: when it begins, and after each step."""
        self._now = time.monotonic()
        if phase != "training":
            self._last = 0.0  # An epoch is scored: what comes next took longer than its step.
            return
        self._done, self.run_steps = self._done + 1, steps
        if self._done == 0:
            self._began = self._now
        elif self._last and self._done > 1:
            # Not the first step: it makes ready what the others use.
            self._each.append(self._now - self._last)
        self._last = self._now

    def enough(self) -> bool:
        """Whether the run is to stop."""
        if self._done < self._least:
            return False
        return self._done >= self._most or self._now - self._began >= self._seconds

    def step_s(self, otherwise: float) -> float:
        """Seconds of a step; `otherwise` where none could be timed by itself."""
        return max(1e-9, statistics.fmean(self._each) if self._each else otherwise)
