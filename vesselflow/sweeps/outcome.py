"""What a sweep tells while it runs, and how it ended. Imports no Ray."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from vesselflow.errors import VesselflowError
from vesselflow.evaluation.cost_table import Pricing, no_prices
from vesselflow.evaluation.long_tables import write_tables
from vesselflow.records.atomic import read_json_or_none, write_json
from vesselflow.records.paths import AnyPath
from vesselflow.records.runs import RunRecord
from vesselflow.records.status import RunState
from vesselflow.sweeps.events import Happening
from vesselflow.sweeps.progress import Progress

if TYPE_CHECKING:
    from vesselflow.evaluation.long_tables import Scored
    from vesselflow.sweeps.planning import Prepared

#: In a sweep's folder: what kept its last start from its whole answer; gone when nothing did.
FAILURES = "failures.json"


class Stopped(VesselflowError):
    """A clean stop was asked for before the first run began; nothing was lost."""


class ClusterLost(VesselflowError):
    """The Ray cluster went away; the records are whole, and the same command carries on.

    Ray's threads may hang or end the process by themselves from here on: say the line, and end
    without waiting for them (`os._exit`).
    """


@dataclass(frozen=True)
class Failure:
    """Why one run has no result.

    Attributes:
        label: The run as a person names it ("beta=0.5 fold 0 seed 1").
        message: What happened, in one line.
        place: Where it happened: slot, node, phase, step; "" when unknown.
        log: File that tells more; "" when there is none.
    """

    label: str
    message: str
    place: str = ""
    log: str = ""

    def line(self) -> str:
        """All of it in one line."""
        where = f" ({self.place})" if self.place else ""
        log = f"; log: {self.log}" if self.log else ""
        return " ".join(f"{self.label}: {self.message}{where}{log}".split())


@dataclass
class Outcome:
    """How a sweep ended.

    Attributes:
        trained: Runs that this call brought to their end.
        failures: Runs that have no result, and why.
        stopped: True when it was stopped on request before its end.
        budget: Why a budget ended it before its end; "" where none did.
        undone: Runs that a budget left undone, as a person names them.
        spent: What its machines have cost, kind by kind, as `Spending.rows` says it.
        seconds: By phase of the driver.
    """

    trained: int = 0
    failures: list[Failure] = field(default_factory=list)
    stopped: bool = False
    budget: str = ""
    undone: list[str] = field(default_factory=list)
    spent: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass
class Watch:
    """What a sweep tells while it runs; every default does nothing.

    Attributes:
        progress: Gets a `Progress` about twice a second.
        event: Gets every event of `events`.
        notify: Gets a line for whatever takes long before the first run.
        stop: Set to ask for a clean stop.
    """

    progress: Callable[[Progress], None] = lambda progress: None
    event: Callable[[Happening], None] = lambda event: None
    notify: Callable[[str], None] = lambda text: None
    stop: threading.Event = field(default_factory=threading.Event)


def unfinished(prepared: Prepared, told: Sequence[Failure] = ()) -> list[Failure]:
    """Every run of a sweep that has no result, and why: the answer is whole when there is none.

    Args:
        prepared: The sweep, as it was read last.
        told: What is known of some of them; of the others their records say it.

    Returns:
        In the order of the cells. What was told of a run that has its result is left out.
    """
    known = {failure.label: failure for failure in told}
    return [
        known.get(row.cell.label) or _recorded(row, prepared.results)
        for row in prepared.scored
        if not row.complete
    ]


def conclude(prepared: Prepared, outcome: Outcome, pricing: Pricing = no_prices) -> Outcome:
    """End a sweep, however far it came: its tables, and what has no result and why.

    Args:
        prepared: The sweep, as it was read last.
        outcome: Its `failures` are what is known already; they are completed. What was stopped has
            not failed: nothing of it is written.
        pricing: What machines cost.

    Raises:
        UserError: A file of results is damaged beyond repair.
        OSError: The folder cannot be written.
    """
    tables = prepared.folder / "tables"
    write_tables(tables, prepared.scored, prepared.results, prepared.objective, pricing=pricing)
    told = {failure.label for failure in outcome.failures}
    outcome.failures = unfinished(prepared, outcome.failures)
    if outcome.budget:
        # What was not begun for want of money has not failed.
        told |= {row.cell.label for row in prepared.scored if row.state == RunState.FAILED.value}
        outcome.undone = [one.label for one in outcome.failures if one.label not in told]
        outcome.failures = [one for one in outcome.failures if one.label in told]
    if not outcome.stopped:
        write_failures(prepared.folder, outcome.failures)
    return outcome


def _recorded(row: Scored, results: AnyPath) -> Failure:
    """What the record of a run says of why it has no result."""
    record = RunRecord(results, row.cell.run.run_id)
    log = record.attempt_folder(record.status().attempts) / "log.txt"
    without = {"failed": "failed", "finished": "is trained, but not scored everywhere"}
    message = row.message or without.get(row.state, f"was not brought to its end ({row.state})")
    return Failure(row.cell.label, message, log=str(log) if log.exists() else "")


def write_failures(folder: AnyPath, failures: Sequence[Failure]) -> None:
    """Write what failed into a sweep's folder, or remove what an earlier start wrote there.

    Raises:
        OSError: The folder cannot be written.
    """
    file = folder / FAILURES
    if failures:
        write_json(file, [asdict(failure) for failure in failures])
    else:
        file.unlink(missing_ok=True)


def read_failures(folder: AnyPath) -> list[Failure]:
    """What the last start of a sweep wrote; empty when nothing failed, or nothing is readable."""
    content = read_json_or_none(folder / FAILURES)
    names = tuple(Failure.__dataclass_fields__)
    entries = content if isinstance(content, list) else []
    return [
        Failure(**{name: str(entry.get(name, "")) for name in names})
        for entry in entries
        if isinstance(entry, dict)
    ]
