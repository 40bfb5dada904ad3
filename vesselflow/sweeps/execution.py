"""Does one run in one process, or one group of them: trains what is missing, then scores it.

Imports no Ray: a slot calls it, and so do tests and notebooks.
"""

from __future__ import annotations

import traceback
from pathlib import Path

from vesselflow.feed.sources import Data
from vesselflow.records.runs import RunState
from vesselflow.runs.cells import Job
from vesselflow.sweeps.context import Context, Reports, Result
from vesselflow.sweeps.scoring_job import ScoringJob
from vesselflow.sweeps.training_job import TrainingJob
from vesselflow.training.group import Group, Solo
from vesselflow.training.loop import Diverged


def execute(
    job: Job,
    results: Path,
    data: Data,
    *,
    group: Group | None = None,
    reports: Reports | None = None,
    device: str = "cpu",
    slot: str = "local",
) -> Result:
    """Bring one job to its end: train unless it is trained, score what is not scored.

    Every rank of the group calls it with the same arguments. An error in the run's code marks the
    run as failed and is returned (rank 0) or raised (other ranks, to end the group).
    """
    context = Context(job, results, data, group or Solo(), reports or Reports(), device, slot)
    work = _Work(context)
    try:
        return work.run()
    except Exception as error:
        message = f"{type(error).__name__}: {error}".splitlines()[0]
        attempt = work.training.attempt
        if context.group.rank == 0 and attempt is not None and not work.trained:
            context.record.fail(attempt, message, traceback.format_exc())
        # A divergence is met by all ranks at the same step, and scoring is rank 0's alone: then
        # no rank is left waiting for another.
        if context.group.size > 1 and not work.trained and not isinstance(error, Diverged):
            raise
        return Result("failed", message=message)


class _Work:
    def __init__(self, context: Context) -> None:
        self.context = context
        self.scoring = ScoringJob(context)
        self.training = TrainingJob(context, self.scoring)
        self.trained = False

    def run(self) -> Result:
        context, training = self.context, self.training
        leads = context.group.rank == 0
        self.trained = context.group.share(self._finished() if leads else None)
        if not self.trained:
            if not training.run():
                if training.attempt is not None:
                    context.record.pause(training.attempt, "stopped on request")
                return Result("stopped", steps=training.steps, cost=training.cost())
            self.trained = True
        if not leads:
            return Result("finished")
        values = self.scoring.run()
        return Result("finished", values, steps=training.steps, cost=training.cost())

    def _finished(self) -> bool:
        """Whether nothing is left to train; a run whose lost weights are needed is reopened."""
        context = self.context
        if context.record.status().state is not RunState.FINISHED:
            return False
        lost = self.scoring.lost_epoch()
        if lost is None:
            return True
        context.reports.message(
            f"{context.spec.label}: the weights of epoch {lost} are lost and a score of it is "
            "missing; the run is trained again"
        )
        context.record.reopen()
        return False
