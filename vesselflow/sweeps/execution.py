"""Does one run in one process, or one group of them: trains what is missing, then scores it.

Imports no Ray: a slot calls it, and so do tests and notebooks.
"""

from __future__ import annotations

import contextlib

from vesselflow.errors import Interrupted
from vesselflow.feed.sources import Data
from vesselflow.records.attempts import Attempt
from vesselflow.records.paths import AnyPath
from vesselflow.runs.cells import Job
from vesselflow.sweeps.context import Context, Reports, Result
from vesselflow.sweeps.cost_notes import Taken
from vesselflow.sweeps.faults import Fault, classify
from vesselflow.sweeps.scoring_job import ScoringJob
from vesselflow.sweeps.training_job import TrainingJob
from vesselflow.training.failures import tell
from vesselflow.training.group import Group, Solo, lead
from vesselflow.training.interval import NOTHING_SEEN, Survival


def execute(
    job: Job,
    results: AnyPath,
    data: Data,
    *,
    group: Group | None = None,
    reports: Reports | None = None,
    device: str = "cpu",
    slot: str = "local",
    taken: Taken | None = None,
    survival: Survival = NOTHING_SEEN,
) -> Result:
    """Bring one job to its end: train unless it is trained, score what is not scored.

    Every rank of the group calls it with the same arguments, and none raises: an error that one
    rank meets is told to all, and ends the run on all of them. The run is marked as failed where
    another try would meet the error again; else it is handed back, to be resumed from its last
    checkpoint. After a fault `Fault.PEER_LOST` the group can talk no more: its processes must end.
    `survival` is what was seen of failures: it sets the time between two checkpoints, no number.
    """
    context = Context(
        job,
        results,
        data,
        group or Solo(),
        reports or Reports(),
        device,
        slot,
        taken,
        survival,
    )
    work = _Work(context)
    try:
        return work.run()
    except Exception as error:
        return work.failed(error)
    finally:
        work.training.end_notes()


class _Work:
    def __init__(self, context: Context) -> None:
        self.context = context
        self.scoring = ScoringJob(context)
        self.training = TrainingJob(context, self.scoring)
        self.trained = False

    def run(self) -> Result:
        context, training = self.context, self.training
        leads = context.group.rank == 0
        self.trained = lead(context.group, self._finished)
        if not self.trained:
            if not training.run():
                return self._stopped()
            self.trained = True
        if not leads:
            return Result("finished")
        values = self.scoring.run()
        context.record.tidy()
        return Result("finished", values, steps=training.steps, cost=training.close())

    def failed(self, error: Exception) -> Result:
        """How the run ends after an error; the record says so."""
        fault, told = classify(error), tell(error, self.context.group.rank)
        if fault is Fault.INTERRUPTED:
            return self._stopped()
        rank = f"rank {told.rank}: " if self.context.group.size > 1 else ""
        message = f"{rank}{told.text}"
        result = Result(
            "failed" if fault.ends_the_run else "handed back",
            message=message,
            fault=fault,
            place=told.place,
            steps=self.training.steps,
        )
        attempt = self.training.attempt or self._accepted()
        if self.context.group.rank == 0 and attempt is not None:
            result.log = str(attempt.log_path)
            try:
                self._note(attempt, result, told.trace)
            except Exception as other:
                # Told at least to who waits for the result: none of them shall wait in vain.
                result.message += f" (and the run's record does not say so: {other})"
        if self.training.attempt is not None:
            result.cost = self.training.close()
        return result

    def _note(self, attempt: Attempt, result: Result, trace: str) -> None:
        record, keep = self.context.record, self.context.gate.keep
        if self.trained:
            # Whatever it is, the run is trained: what is missing is scored at the next start.
            keep(lambda: attempt.log_once(f"not scored: {result.message}\n{trace}".rstrip()))
        elif result.state == "failed":
            keep(lambda: record.fail(attempt, result.message, trace))
        else:
            keep(lambda: attempt.log_once(f"handed back: {result.message}\n{trace}".rstrip()))
            keep(lambda: record.pause(attempt, f"handed back: {result.message}"))

    def _accepted(self) -> Attempt | None:
        """The attempt that trained the run, where this one only scores it."""
        return self.context.record.accepted_attempt() if self.trained else None

    def _stopped(self) -> Result:
        training = self.training
        attempt = training.attempt
        if attempt is not None and not self.trained:
            with contextlib.suppress(Interrupted):
                self.context.gate.keep(
                    lambda: self.context.record.pause(attempt, "stopped on request")
                )
        return Result("stopped", steps=training.steps, cost=training.close())

    def _finished(self) -> bool:
        """Whether nothing is left to train; a run whose lost weights are needed is reopened.

        A damaged acceptance is mended: the checkpoints of a scored run are gone.
        """
        context = self.context
        if not context.gate.keep(context.record.mend):
            return False
        lost = context.gate.keep(self.scoring.lost_epoch)
        if lost is None:
            return True
        context.reports.message(
            f"{context.spec.label}: the weights of epoch {lost} are lost and a score of it is "
            "missing; the run is trained again"
        )
        context.gate.keep(context.record.reopen)
        return False
