"""The long tables of a sweep: pure functions of its runs' records and evaluations.

Two sweeps over the same runs give equal files, byte for byte; clocks, machines and costs stand in
`cost.parquet` alone.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vesselflow.evaluation.evaluated import (
    POOLED,
    Evaluated,
    evaluation_path,
    read_evaluated,
)
from vesselflow.evaluation.selection import choose_epoch, choose_point
from vesselflow.metrics import METRICS
from vesselflow.metrics.summary import nanmean_count
from vesselflow.records.atomic import write_bytes, write_json
from vesselflow.records.runs import RunRecord, RunState
from vesselflow.runs.cells import Cell
from vesselflow.runs.domains import ROLES, Domain
from vesselflow.runs.objective import Objective

#: Says, beside the tables, what chose and how was scored.
SCORING = "scoring.json"


@dataclass
class Scored:
    """A cell with everything that was found out about it.

    Attributes:
        cell: The cell.
        state: The run's state.
        epoch: Chosen on validation; None while something of it is not trained or not scored.
        value: The objective's at that epoch; NaN while incomplete, and where it is undefined.
        evaluated: (epoch, domain) -> its scores; empty while incomplete.
        message: Why it failed.
    """

    cell: Cell
    state: str
    epoch: int | None = None
    value: float = math.nan
    evaluated: dict[tuple[int, Domain], Evaluated] = field(default_factory=dict)
    message: str = ""

    @property
    def complete(self) -> bool:
        """Trained, and scored on every domain at every scored epoch."""
        return self.epoch is not None

    @property
    def threshold(self) -> float:
        """Chosen on validation at the chosen epoch."""
        if self.epoch is None:
            return math.nan
        return self.evaluated[self.epoch, self.cell.domains[0]].threshold

    def forget(self) -> None:
        """Hold it for incomplete, as when its run is reset."""
        self.epoch, self.value = None, math.nan
        self.evaluated.clear()


def score_cell(cell: Cell, results: Path, objective: Objective) -> Scored:
    """Read what there is of one cell."""
    status = RunRecord(results, cell.run.run_id).status()
    scored = Scored(cell, status.state.value, message=status.message)
    if status.state is not RunState.FINISHED:
        return scored
    found: dict[tuple[int, Domain], Evaluated] = {}
    for evaluation in cell.evaluations():
        evaluated = read_evaluated(evaluation_path(results, evaluation))
        if evaluated is None or evaluated.missing():
            return scored
        found[evaluation.epoch, evaluation.domain] = evaluated
    scored.evaluated = found
    scored.epoch, scored.value = chosen_epoch(
        {epoch: found[epoch, cell.domains[0]] for epoch in cell.run.epochs}, objective
    )
    return scored


def chosen_epoch(validation: Mapping[int, Evaluated], objective: Objective) -> tuple[int, float]:
    """The epoch that validation chooses, and the objective's value there.

    Args:
        validation: Epoch -> scores on the validation images; at least one.
        objective: By what.
    """
    values = {
        epoch: evaluated.value(POOLED, objective.metric) for epoch, evaluated in validation.items()
    }
    chosen = choose_epoch(values, objective)
    return chosen, values[chosen]


def validation_curve(validation: Evaluated) -> dict[str, float]:
    """The pooled scores of an epoch on validation, and its threshold, as its curve has them."""
    pooled = {
        f"val/{metric}": value for source, metric, value in validation.rows if source == POOLED
    }
    return {**pooled, "val/threshold": validation.threshold}


def point_scores(scored: Sequence[Scored], objective: Objective) -> dict[str, float]:
    """Point -> its runs' objective in one number, for points all of whose runs have a value."""
    values: dict[str, list[float]] = {}
    for row in scored:
        values.setdefault(row.cell.point, []).append(row.value)
    reduced = {point: objective.reduce(column) for point, column in values.items()}
    return {point: value for point, value in reduced.items() if not math.isnan(value)}


def selected_point(scored: Sequence[Scored], objective: Objective) -> str | None:
    """The point that validation chooses among the complete ones; None without any."""
    return choose_point(point_scores(scored, objective), objective)


def lost_records(scored: Sequence[Scored], results: Path) -> list[str]:
    """What the records of these runs lost, and what comes of it, a line each."""
    lines = [
        f"{row.cell.point} (fold {row.cell.run.fold} seed {row.cell.run.seed}): {row.message}"
        for row in scored
        # Nobody writes a message for a run that waits or runs: it tells of a damaged record.
        if row.message and row.state in (RunState.QUEUED.value, RunState.RUNNING.value)
    ]
    bare = 0
    for row in scored:
        if row.complete:
            record = RunRecord(results, row.cell.run.run_id)
            paths = {record.weights_path(epoch) for epoch, _ in row.evaluated}
            bare += not all(path.is_file() for path in paths)
    if bare:
        lines.append(
            f"the weights of {bare} finished {'run are' if bare == 1 else 'runs are'} gone: "
            "nothing is lost for this answer, but another score would train them again"
        )
    return lines


def write_tables(
    folder: Path, scored: Sequence[Scored], results: Path, objective: Objective
) -> dict[str, Path]:
    """Write all tables of a sweep; return their paths by name.

    Beside them stands `SCORING`: the objective, and each point's protocol.
    """
    axes = list(dict.fromkeys(key for row in scored for key in row.cell.params))
    tables = {
        "points": _points(scored, axes, objective),
        "runs": _runs(scored, axes),
        "epochs": _epochs(scored, results),
        "images": _images(scored),
        "cost": _cost(scored, results),
    }
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name, table in tables.items():
        sink = io.BytesIO()
        pq.write_table(table, sink)
        paths[name] = folder / f"{name}.parquet"
        write_bytes(paths[name], sink.getvalue())
    write_json(
        folder / SCORING,
        {
            "objective": asdict(objective),
            "protocols": {row.cell.point: row.cell.protocol.name for row in scored},
        },
    )
    return paths


def _config(row: Scored, axes: Sequence[str]) -> dict[str, str | None]:
    """Axis values as JSON text; None where a conditional axis does not hold."""
    params = row.cell.params
    return {
        f"config.{axis}": json.dumps(params[axis], sort_keys=True) if axis in params else None
        for axis in axes
    }


def _table(rows: list[dict[str, Any]], schema: list[tuple[str, pa.DataType]]) -> pa.Table:
    columns = {name: [row.get(name) for row in rows] for name, _ in schema}
    return pa.table(columns, schema=pa.schema(schema))


def _config_schema(axes: Sequence[str]) -> list[tuple[str, pa.DataType]]:
    return [(f"config.{axis}", pa.string()) for axis in axes]


def _points(scored: Sequence[Scored], axes: Sequence[str], objective: Objective) -> pa.Table:
    best = selected_point(scored, objective)
    groups: dict[str, list[Scored]] = {}
    for row in scored:
        groups.setdefault(row.cell.point, []).append(row)
    rows = []
    for point, members in groups.items():
        complete = [row for row in members if row.epoch is not None]
        first = members[0]
        for role in ROLES:
            names = dict.fromkeys(d.name for d in first.cell.domains if d.role == role)
            for name in names:
                for metric in METRICS.names():
                    values = [_pooled(row, role, name, metric) for row in complete]
                    mean, std, n, undefined = nanmean_count(values)
                    rows.append(
                        {
                            "point": point,
                            "index": first.cell.index,
                            **_config(first, axes),
                            "n_runs": len(complete),
                            "selected": point == best,
                            "domain": name,
                            "role": role,
                            "metric": metric,
                            "mean": mean,
                            "std": std,
                            "n": n,
                            "n_undefined": undefined,
                        }
                    )
    return _table(
        rows,
        [
            ("point", pa.string()),
            ("index", pa.int64()),
            *_config_schema(axes),
            ("n_runs", pa.int64()),
            ("selected", pa.bool_()),
            ("domain", pa.string()),
            ("role", pa.string()),
            ("metric", pa.string()),
            ("mean", pa.float64()),
            ("std", pa.float64()),
            ("n", pa.int64()),
            ("n_undefined", pa.int64()),
        ],
    )


def _pooled(row: Scored, role: str, name: str, metric: str) -> float:
    assert row.epoch is not None
    domain = next(d for d in row.cell.domains if d.role == role and d.name == name)
    return row.evaluated[row.epoch, domain].value(POOLED, metric)


def _head(row: Scored) -> dict[str, Any]:
    cell = row.cell
    return {
        "run_id": cell.run.run_id,
        "point": cell.point,
        "fold": cell.run.fold,
        "seed": cell.run.seed,
    }


_HEAD: list[tuple[str, pa.DataType]] = [
    ("run_id", pa.string()),
    ("point", pa.string()),
    ("fold", pa.int64()),
    ("seed", pa.int64()),
]


def _runs(scored: Sequence[Scored], axes: Sequence[str]) -> pa.Table:
    rows = [
        {
            **_head(row),
            "state": row.state,
            "epoch": row.epoch,
            "threshold": row.threshold,
            "message": row.message,
            **_config(row, axes),
        }
        for row in scored
    ]
    return _table(
        rows,
        [
            *_HEAD,
            ("state", pa.string()),
            ("epoch", pa.int64()),
            ("threshold", pa.float64()),
            ("message", pa.string()),
            *_config_schema(axes),
        ],
    )


def _epochs(scored: Sequence[Scored], results: Path) -> pa.Table:
    rows = []
    for row in scored:
        for entry in RunRecord(results, row.cell.run.run_id).rows():
            if not isinstance(entry.get("epoch"), int):
                continue  # a damaged row: of no epoch, so of no curve
            place = {"epoch": entry["epoch"], "step": entry["step"]}
            curve = {name: value for name, value in entry.items() if name not in place}
            validation = row.evaluated.get((entry["epoch"], row.cell.domains[0]))
            if validation is not None:
                # The record has them by the protocol of the point that it was trained for.
                curve = {name: v for name, v in curve.items() if not name.startswith("val/")}
                curve |= validation_curve(validation)
            for name in sorted(curve):
                rows.append({**_head(row), **place, "name": name, "value": float(curve[name])})
    return _table(
        rows,
        [
            *_HEAD,
            ("epoch", pa.int64()),
            ("step", pa.int64()),
            ("name", pa.string()),
            ("value", pa.float64()),
        ],
    )


def _images(scored: Sequence[Scored]) -> pa.Table:
    rows = [
        {
            **_head(row),
            "epoch": epoch,
            "domain": domain.name,
            "role": domain.role,
            "source_id": source,
            "metric": metric,
            "value": value,
            "threshold": evaluated.threshold,
            "chosen": epoch == row.epoch,
        }
        for row in scored
        for (epoch, domain), evaluated in row.evaluated.items()
        for source, metric, value in evaluated.rows
    ]
    return _table(
        rows,
        [
            *_HEAD,
            ("epoch", pa.int64()),
            ("domain", pa.string()),
            ("role", pa.string()),
            ("source_id", pa.string()),
            ("metric", pa.string()),
            ("value", pa.float64()),
            ("threshold", pa.float64()),
            ("chosen", pa.bool_()),
        ],
    )


def _cost(scored: Sequence[Scored], results: Path) -> pa.Table:
    texts = ("slot", "host")
    numbers = ("wall_s", "train_s", "evaluate_s", "start_s", "steps", "steps_per_s")
    rows = [
        {**_head(row), "attempt": cost["attempt"]}
        | {name: cost[name] for name in texts if isinstance(cost.get(name), str)}
        | {name: float(cost[name]) for name in numbers if isinstance(cost.get(name), int | float)}
        for row in scored
        for cost in RunRecord(results, row.cell.run.run_id).costs()
    ]
    return _table(
        rows,
        [
            *_HEAD,
            ("attempt", pa.int64()),
            *((name, pa.string()) for name in texts),
            *((name, pa.float64()) for name in numbers),
        ],
    )
