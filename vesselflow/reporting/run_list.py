"""The runs of a results folder: what their records say, joined with the sweeps' tables."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import pandas as pd

from vesselflow.errors import UserError, closest
from vesselflow.records.known import KnownRuns
from vesselflow.records.paths import AnyPath, BucketPath, Looks, any_path
from vesselflow.records.runs import RunRecord, read_index
from vesselflow.records.status import RunState
from vesselflow.reporting.sweep_tables import SweepTables, is_sweep, read_table, sweeps_of
from vesselflow.reporting.wording import printable

#: The state of a run that a table knows as trained, and that has no folder any more.
GONE = "gone"
_GONE = "its folder is gone from runs/; the next start of the sweep trains it again"


@dataclass(frozen=True)
class RunRow:
    """One run as a person sees it.

    Attributes:
        run_id: Name of the run.
        points: ``sweep/point`` of every sweep that has the run in its tables; the bare point where
            only one sweep is looked at.
        fold: Index of its fold; None while no table knows it.
        seed: Its seed; None while no table knows it.
        state: What its record says ("queued", "running", "paused", "finished", "failed"); "gone"
            where a table knows it as trained and its folder is no longer there.
        epochs: Epochs that its record has a curve of; None where only a table was read.
        epoch: The epoch chosen on validation; None while it is not scored.
        message: Why it failed, paused or is gone, in one line; "" otherwise.
    """

    run_id: str
    points: tuple[str, ...]
    fold: int | None
    seed: int | None
    state: str
    epochs: int | None
    epoch: int | None
    message: str

    def plain(self) -> dict[str, Any]:
        """The run as plain data, for JSON."""
        return {**asdict(self), "points": list(self.points)}


def sweep_runs(tables: SweepTables) -> list[RunRow]:
    """The runs of one sweep in the order of its table, in the state that the table knows."""
    return list(_table_rows("", tables.runs).values())


@dataclass(frozen=True)
class LostRun:
    """A run that the tables hold as finished and that its folder does not.

    Attributes:
        run_id: Name of the run.
        point: Its point.
        fold: Index of its fold.
        seed: Its seed.
        state: "gone" without a folder; otherwise what its record says.
    """

    run_id: str
    point: str
    fold: int
    seed: int
    state: str


def lost_runs(tables: SweepTables) -> list[LostRun]:
    """The finished runs of the tables whose record is gone or says otherwise, in their order.

    Their scores were true of the runs as they were. Empty where the tables stand alone.
    """
    results = results_of(tables.folder)
    if not has_records(results):
        return []
    runs, found = KnownRuns(results, keep=False), []
    for entry in tables.complete.to_dict("records"):
        record = RunRecord(results, str(entry["run_id"]))
        state = runs.get(record.run_id).status.state
        if state is not RunState.FINISHED:
            gone = not record.folder.is_dir()
            found.append(
                LostRun(
                    run_id=record.run_id,
                    point=str(entry["point"]),
                    fold=int(entry["fold"]),
                    seed=int(entry["seed"]),
                    state=GONE if gone else state.value,
                )
            )
    return found


def results_of(sweep: AnyPath) -> AnyPath:
    """The results folder of a sweep's folder."""
    return sweep.resolve().parent


def has_records(results: AnyPath) -> bool:
    """Whether a results folder holds records of runs, and not copied tables alone."""
    if isinstance(results, BucketPath):
        return bool(Looks(results / "runs").names(""))
    return (results / "runs").is_dir()


def results_at(folder: str | AnyPath) -> AnyPath:
    """The results folder that ``results`` or ``results/<sweep>`` means."""
    path = any_path(folder)
    return results_of(path) if is_sweep(path) else path


def load_runs(folder: str | AnyPath) -> list[RunRow]:
    """The runs of a results folder, or of one sweep in it, as they are now.

    Args:
        folder: ``results`` or ``results/<sweep>``.

    Returns:
        The runs of the sweeps' tables in their order, then those that are in no table by name.

    Raises:
        UserError: There is no such folder, or it holds no runs.
    """
    path = any_path(folder)
    if not path.is_dir():
        siblings = sweeps_of(path.parent)
        raise UserError(
            "there is no such folder" if not path.exists() else "this is a file, not a folder",
            where=str(folder),
            hint=closest(path.name, [item.name for item in siblings])
            or "give a results folder: vesselflow runs results",
        )
    single = is_sweep(path)
    results = results_of(path) if single else path
    sweeps = [path] if single else sweeps_of(path)
    rows: dict[str, RunRow] = {}
    for sweep in sweeps:
        table = sweep / "tables" / "runs.parquet"
        if table.exists():
            for run_id, row in _table_rows(sweep.resolve().name, read_table(table, "runs")).items():
                known = rows.get(run_id)
                rows[run_id] = _joined(known, row) if known else row
    recorded = _recorded(results, rows if single else None)
    for run_id, row in recorded.items():
        rows[run_id] = _joined(rows[run_id], row) if run_id in rows else row
    if has_records(results):
        for run_id, row in rows.items():
            if run_id not in recorded and row.state != "queued":
                rows[run_id] = replace(row, state=GONE, message=_GONE)
    if not rows:
        raise UserError(
            "this folder holds no runs",
            where=str(folder),
            hint="run a sweep first: vesselflow sweep search_spaces/NAME.yaml",
        )
    return list(rows.values())


def _recorded(results: AnyPath, only: dict[str, RunRow] | None) -> dict[str, RunRow]:
    """What the runs' own records say; of a sweep's runs alone where `only` is given."""
    return {
        name: RunRow(
            run_id=name,
            points=(),
            fold=None,
            seed=None,
            state=status.state.value,
            epochs=status.epochs,
            epoch=None,
            message=printable(status.message),
        )
        for name, status in read_index(results)
        if only is None or name in only
    }


def _joined(table: RunRow, newer: RunRow) -> RunRow:
    """Two accounts of one run: the state of the newer one, and everything that either knows."""
    return RunRow(
        run_id=table.run_id,
        points=(*table.points, *newer.points),
        fold=table.fold if newer.fold is None else newer.fold,
        seed=table.seed if newer.seed is None else newer.seed,
        state=newer.state,
        epochs=table.epochs if newer.epochs is None else newer.epochs,
        epoch=table.epoch if newer.epoch is None else newer.epoch,
        message=newer.message,
    )


def _table_rows(sweep: str, runs: pd.DataFrame) -> dict[str, RunRow]:
    rows: dict[str, RunRow] = {}
    for entry in runs.to_dict("records"):
        run_id = str(entry["run_id"])
        row = RunRow(
            run_id=run_id,
            points=(f"{sweep}/{entry['point']}" if sweep else str(entry["point"]),),
            fold=_whole(entry["fold"]),
            seed=_whole(entry["seed"]),
            state=str(entry["state"]),
            epochs=None,
            epoch=_whole(entry["epoch"]),
            message=printable(entry.get("message") or ""),
        )
        rows[run_id] = _joined(rows[run_id], row) if run_id in rows else row
    return rows


def _whole(value: Any) -> int | None:
    return None if pd.isna(value) else int(value)
