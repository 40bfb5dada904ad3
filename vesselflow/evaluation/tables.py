"""The long tables of a sweep: pure functions of its runs' records and evaluations.

Two sweeps over the same runs give equal files, byte for byte; clocks, machines and costs stand in
`cost.parquet` alone.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vesselflow.config.experiment import Experiment
from vesselflow.evaluation.parts import POOLED, Part, part_id, part_path, read_part
from vesselflow.evaluation.selection import choose_epoch, choose_point
from vesselflow.metrics import METRICS
from vesselflow.metrics.summary import nanmean_count
from vesselflow.records.atomic import write_bytes
from vesselflow.records.runs import RunRecord, RunState
from vesselflow.runs.domains import ROLES, Domain


@dataclass(frozen=True)
class Cell:
    """One point's run on one fold with one seed.

    Attributes:
        point: Name of the point.
        index: Place of the point in the expansion.
        params: Axis key -> value.
        run_id: Name of the run.
        fold: Index of the fold.
        seed: Seed of the run.
        experiment: The run's experiment.
        domains: `val` first.
    """

    point: str
    index: int
    params: Mapping[str, Any]
    run_id: str
    fold: int
    seed: int
    experiment: Experiment
    domains: tuple[Domain, ...]


@dataclass
class Scored:
    """A cell with everything that was found out about it.

    Attributes:
        cell: The cell.
        state: The run's state.
        epoch: Chosen on validation; None while unscored.
        parts: (epoch, domain) -> its scores.
        message: Why it failed.
    """

    cell: Cell
    state: str
    epoch: int | None = None
    parts: dict[tuple[int, Domain], Part] = field(default_factory=dict)
    message: str = ""

    @property
    def complete(self) -> bool:
        """Trained, and scored on every domain at every scored epoch."""
        return self.epoch is not None

    @property
    def validation(self) -> float:
        """Pooled validation score of the chosen epoch; NaN while incomplete."""
        if self.epoch is None:
            return math.nan
        metric = self.cell.experiment.score.threshold_metric
        return self.parts[self.epoch, self.cell.domains[0]].value(POOLED, metric)

    @property
    def threshold(self) -> float:
        """Chosen on validation at the chosen epoch."""
        if self.epoch is None:
            return math.nan
        return self.parts[self.epoch, self.cell.domains[0]].threshold


def score_cell(cell: Cell, results: Path) -> Scored:
    """Read what there is of one cell."""
    status = RunRecord(results, cell.run_id).status()
    scored = Scored(cell, status.state.value, message=status.message)
    if status.state is not RunState.FINISHED:
        return scored
    epochs = cell.experiment.score.at(cell.experiment.train.epochs)
    for epoch in epochs:
        for domain in cell.domains:
            name = part_id(cell.run_id, epoch, domain, cell.experiment)
            part = read_part(part_path(results, name))
            if part is None:
                scored.parts.clear()
                return scored
            scored.parts[epoch, domain] = part
    metric = cell.experiment.score.threshold_metric
    scored.epoch = choose_epoch(
        {epoch: scored.parts[epoch, cell.domains[0]].value(POOLED, metric) for epoch in epochs}
    )
    return scored


def point_scores(scored: Sequence[Scored]) -> dict[str, float]:
    """Point -> mean validation score, for points all of whose runs are complete."""
    values: dict[str, list[float]] = {}
    for row in scored:
        values.setdefault(row.cell.point, []).append(row.validation if row.complete else math.nan)
    return {
        point: sum(column) / len(column)
        for point, column in values.items()
        if not any(math.isnan(value) for value in column)
    }


def selected_point(scored: Sequence[Scored]) -> str | None:
    """The point that validation chooses among the complete ones; None without any."""
    return choose_point(point_scores(scored))


def lost_records(scored: Sequence[Scored], results: Path) -> list[str]:
    """What the records of these runs lost, and what comes of it, a line each."""
    lines = [
        f"{row.cell.point} (fold {row.cell.fold} seed {row.cell.seed}): {row.message}"
        for row in scored
        # Nobody writes a message for a run that waits or runs: it tells of a damaged record.
        if row.message and row.state in (RunState.QUEUED.value, RunState.RUNNING.value)
    ]
    bare = 0
    for row in scored:
        if row.complete:
            record = RunRecord(results, row.cell.run_id)
            paths = {record.weights_path(epoch) for epoch, _ in row.parts}
            bare += not all(path.is_file() for path in paths)
    if bare:
        lines.append(
            f"the weights of {bare} finished {'run are' if bare == 1 else 'runs are'} gone: "
            "nothing is lost for this answer, but another score would train them again"
        )
    return lines


def write_tables(folder: Path, scored: Sequence[Scored], results: Path) -> dict[str, Path]:
    """Write all tables of a sweep; return their paths by name."""
    axes = list(dict.fromkeys(key for row in scored for key in row.cell.params))
    tables = {
        "points": _points(scored, axes),
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


def _points(scored: Sequence[Scored], axes: Sequence[str]) -> pa.Table:
    best = selected_point(scored)
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
    return row.parts[row.epoch, domain].value(POOLED, metric)


def _head(row: Scored) -> dict[str, Any]:
    cell = row.cell
    return {"run_id": cell.run_id, "point": cell.point, "fold": cell.fold, "seed": cell.seed}


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
        for entry in RunRecord(results, row.cell.run_id).rows():
            if not isinstance(entry.get("epoch"), int):
                continue  # a damaged row: of no epoch, so of no curve
            place = {"epoch": entry["epoch"], "step": entry["step"]}
            for name, value in entry.items():
                if name not in place:
                    rows.append({**_head(row), **place, "name": name, "value": float(value)})
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
            "threshold": part.threshold,
            "chosen": epoch == row.epoch,
        }
        for row in scored
        for (epoch, domain), part in row.parts.items()
        for source, metric, value in part.rows
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
        for cost in RunRecord(results, row.cell.run_id).costs()
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
