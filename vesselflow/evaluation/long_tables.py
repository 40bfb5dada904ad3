"""The long tables of a sweep: pure functions of its runs' records and evaluations.

Two sweeps over the same runs give equal files, byte for byte; clocks, machines and costs stand in
`cost.parquet` alone. A table is written row group by row group, so that its size does not matter,
and only when what it is made of has changed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vesselflow.evaluation.cost_table import COLUMNS as COST_COLUMNS
from vesselflow.evaluation.cost_table import Pricing, attempt_cost, no_prices
from vesselflow.evaluation.evaluated import POOLED, Scores
from vesselflow.evaluation.kept import KeptEvaluations
from vesselflow.evaluation.selection import choose_epoch, choose_point
from vesselflow.metrics import ALL_METRICS
from vesselflow.metrics.registry import names_of
from vesselflow.metrics.summary import nanmean_count
from vesselflow.records.atomic import read_json_or_none, write_json, writing
from vesselflow.records.index import stamp_of
from vesselflow.records.known import KnownRuns
from vesselflow.records.paths import AnyPath, Looks, mark_of
from vesselflow.records.status import RunState
from vesselflow.runs.cells import Cell
from vesselflow.runs.domains import ROLES, Domain
from vesselflow.runs.objective import Objective

#: Says, beside the tables, what chose and how was scored.
SCORING = "scoring.json"


#: Rows of a row group: what Arrow takes for a table that it is given whole.
ROW_GROUP = 1 << 20
#: What the tables were made of, beside them.
_MADE = ".made.json"
#: Of the tables' layout: raised whenever equal inputs give other bytes.
_VERSION = 1


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
    evaluated: dict[tuple[int, Domain], Scores] = field(default_factory=dict)
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


class Lookup:
    """What there is of many cells, by the records and by the index over them.

    Args:
        results: The results folder.
        keep: Whether the index is written; without, nothing in the folder changes.
    """

    def __init__(self, results: AnyPath, *, keep: bool = True) -> None:
        self.results = results
        self._runs = KnownRuns(results, keep=keep)
        self._evaluations = KeptEvaluations(results, keep=keep)

    def fetch(self, cells: Sequence[Cell]) -> None:
        """Read what is not known yet of some cells at once, where that is faster than in turn."""
        self._runs.fetch(dict.fromkeys(cell.run.run_id for cell in cells))
        self._evaluations.fetch(each.name for cell in cells for each in cell.evaluations())

    def score(self, cell: Cell, objective: Objective) -> Scored:
        """What there is of one cell now."""
        status = self._runs.get(cell.run.run_id).status
        scored = Scored(cell, status.state.value, message=status.message)
        if status.state is not RunState.FINISHED:
            return scored
        found: dict[tuple[int, Domain], Scores] = {}
        metrics = cell.protocol.metrics.names()
        for evaluation in cell.evaluations():
            evaluated = self._evaluations.get(evaluation)
            if evaluated is None or evaluated.missing(metrics):
                return scored
            found[evaluation.epoch, evaluation.domain] = evaluated
        scored.evaluated = found
        scored.epoch, scored.value = chosen_epoch(
            {epoch: found[epoch, cell.domains[0]] for epoch in cell.run.epochs}, objective
        )
        return scored

    def flush(self) -> None:
        """Write what was read from files to the index."""
        self._runs.index.flush()
        self._evaluations.index.flush()

    def refresh(self) -> None:
        """Look anew at what may have changed; in a folder each file is looked at each time."""
        self._runs.refresh()
        self._evaluations.refresh()

    def keep(self) -> None:
        """From now on the index is written, what was read before included."""
        self._runs.index.keep()
        self._evaluations.index.keep()


def score_cell(cell: Cell, results: AnyPath, objective: Objective) -> Scored:
    """Read what there is of one cell; nothing in the folder changes."""
    return Lookup(results, keep=False).score(cell, objective)


def chosen_epoch(validation: Mapping[int, Scores], objective: Objective) -> tuple[int, float]:
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


def validation_curve(validation: Scores) -> dict[str, float]:
    """The pooled scores of an epoch on validation, and its threshold, as its curve has them."""
    pooled = {f"val/{metric}": value for metric, value in validation.pooled.items()}
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


def lost_records(scored: Sequence[Scored], results: AnyPath) -> list[str]:
    """What the records of these runs lost, and what comes of it, a line each."""
    lines = [
        f"{row.cell.point} (fold {row.cell.run.fold} seed {row.cell.run.seed}): {row.message}"
        for row in scored
        # Nobody writes a message for a run that waits or runs: it tells of a damaged record.
        if row.message and row.state in (RunState.QUEUED.value, RunState.RUNNING.value)
    ]
    bare, looks = 0, Looks(results / "runs")
    for row in scored:
        if row.complete:
            run_id = row.cell.run.run_id
            epochs = {epoch for epoch, _ in row.evaluated}
            files = (f"{run_id}/weights/{epoch}.pt" for epoch in epochs)
            bare += not all(looks.mark(file) for file in files)
    if bare:
        lines.append(
            f"the weights of {bare} finished {'run are' if bare == 1 else 'runs are'} gone: "
            "nothing is lost for this answer, but another score would train them again"
        )
    return lines


class _Table(NamedTuple):
    """A table that can be written.

    Attributes:
        schema: Its columns.
        pieces: Makes it, some rows at a time.
        inputs: What it is made of, in short; None where that cannot be told.
    """

    schema: pa.Schema
    pieces: Callable[[], Iterable[pa.Table]]
    inputs: str | None = None


def write_tables(
    folder: AnyPath,
    scored: Sequence[Scored],
    results: AnyPath,
    objective: Objective,
    *,
    pricing: Pricing = no_prices,
) -> dict[str, AnyPath]:
    """Write all tables of a sweep; return their paths by name.

    Beside them stands `SCORING`: the objective, and each point's protocol.
    Those that are large are written only when what they are made of has changed.

    Args:
        folder: Where to.
        scored: What is known of each cell.
        results: The results folder.
        objective: By which validation chose.
        pricing: What machines cost.

    Raises:
        UserError: The folder cannot be written.
        VesselflowError: An evaluation was changed by somebody while it was read.
    """
    axes = list(dict.fromkeys(key for row in scored for key in row.cell.params))
    runs = KnownRuns(results)
    runs.fetch(dict.fromkeys(row.cell.run.run_id for row in scored))
    tables = {
        "points": _points(scored, axes, objective),
        "runs": _runs(scored, axes),
        "epochs": _epochs(scored, runs),
        "images": _images(scored),
        "cost": _cost(scored, runs, pricing),
    }
    folder.mkdir(parents=True, exist_ok=True)
    noted = read_json_or_none(folder / _MADE)
    made = noted if isinstance(noted, dict) else {}
    paths = {name: folder / f"{name}.parquet" for name in tables}
    now = {}
    for name, table in tables.items():
        if table.inputs is None or made.get(name) != _made(paths[name], table.inputs):
            _write(paths[name], table)
        if table.inputs is not None:
            now[name] = _made(paths[name], table.inputs)
    write_json(
        folder / SCORING,
        {
            "objective": asdict(objective),
            "protocols": {row.cell.point: row.cell.protocol.name for row in scored},
        },
    )
    if now != made:
        write_json(folder / _MADE, now)
    runs.index.flush()
    return paths


def _made(path: AnyPath, inputs: str) -> list[str]:
    """What a table is made of, and the file that it is."""
    return [inputs, stamp_of([mark_of(path)]).digest.hex()]


def _write(path: AnyPath, table: _Table) -> None:
    """Write a table whole; of at most one row group it has the bytes of `pq.write_table`."""
    with writing(path) as sink, pq.ParquetWriter(sink, table.schema) as writer:
        some = False
        for group in _grouped(table.pieces(), ROW_GROUP):
            writer.write_table(group, row_group_size=ROW_GROUP)
            some = True
        if not some:
            writer.write_table(table.schema.empty_table())


def _grouped(pieces: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of `rows` each, the last one smaller."""
    held: list[pa.Table] = []
    count = 0
    for piece in pieces:
        held.append(piece)
        count += len(piece)
        while count >= rows:
            joined = pa.concat_tables(held)
            yield joined.slice(0, rows).combine_chunks()
            held, count = [joined.slice(rows)], count - rows
    if count:
        yield pa.concat_tables(held).combine_chunks()


def _config(row: Scored, axes: Sequence[str]) -> dict[str, str | None]:
    """Axis values as JSON text; None where a conditional axis does not hold."""
    params = row.cell.params
    return {
        f"config.{axis}": json.dumps(params[axis], sort_keys=True) if axis in params else None
        for axis in axes
    }


def _table(rows: list[dict[str, Any]], schema: list[tuple[str, pa.DataType]]) -> _Table:
    columns = {name: [row.get(name) for row in rows] for name, _ in schema}
    made = pa.table(columns, schema=pa.schema(schema))
    return _Table(made.schema, lambda: [made])


def _inputs(what: str, rows: Iterable[tuple[Any, ...]]) -> str | None:
    """Hex digits over all that a table is made of; None where a row cannot tell."""
    joined = hashlib.blake2b(f"{what} {_VERSION} {sorted(ALL_METRICS.versions().items())}".encode())
    for row in rows:
        if None in row:
            return None
        joined.update(repr(row).encode("utf-8"))
    return joined.hexdigest()[:40]


def _config_schema(axes: Sequence[str]) -> list[tuple[str, pa.DataType]]:
    return [(f"config.{axis}", pa.string()) for axis in axes]


def _points(scored: Sequence[Scored], axes: Sequence[str], objective: Objective) -> _Table:
    best = selected_point(scored, objective)
    groups: dict[str, list[Scored]] = {}
    for row in scored:
        groups.setdefault(row.cell.point, []).append(row)
    rows = []
    for point, members in groups.items():
        complete = [row for row in members if row.epoch is not None]
        first = members[0]
        protocol = first.cell.protocol
        metrics = names_of(protocol.metrics.names(), protocol.classes)
        for role in ROLES:
            names = dict.fromkeys(d.name for d in first.cell.domains if d.role == role)
            for name in names:
                for metric in metrics:
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


def _runs(scored: Sequence[Scored], axes: Sequence[str]) -> _Table:
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


def _repeated(rows: Sequence[Scored], lengths: Sequence[int]) -> dict[str, pa.Array]:
    """The columns of `_HEAD`, each run's values as often as it has rows."""
    heads = [_head(row) for row in rows]
    places = pa.array(np.repeat(np.arange(len(heads)), lengths))
    return {
        name: pa.array([head[name] for head in heads], kind).take(places) for name, kind in _HEAD
    }


#: Runs, or evaluations, of which a table is made at a time.
_BATCH = 1000


def _batches(entries: Iterable[Any]) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for entry in entries:
        batch.append(entry)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _epochs(scored: Sequence[Scored], runs: KnownRuns) -> _Table:
    schema = pa.schema(
        [
            *_HEAD,
            ("epoch", pa.int64()),
            ("step", pa.int64()),
            ("name", pa.string()),
            ("value", pa.float64()),
        ]
    )

    def curve(row: Scored) -> Iterator[tuple[int, int, str, float]]:
        for entry in runs.get(row.cell.run.run_id).rows():
            epoch, step = entry.get("epoch"), entry["step"]
            if not isinstance(epoch, int):
                continue  # a damaged row: of no epoch, so of no curve
            values = {name: v for name, v in entry.items() if name not in ("epoch", "step")}
            validation = row.evaluated.get((epoch, row.cell.domains[0]))
            if validation is not None:
                # The record has them by the protocol of the point that it was trained for.
                values = {name: v for name, v in values.items() if not name.startswith("val/")}
                values |= validation_curve(validation)
            for name in sorted(values):
                yield epoch, step, name, float(values[name])

    def pieces() -> Iterator[pa.Table]:
        for batch in _batches(scored):
            curves = [list(curve(row)) for row in batch]
            head = _repeated(batch, [len(rows) for rows in curves])
            columns = list(zip(*(entry for rows in curves for entry in rows), strict=True))
            named = dict(zip(("epoch", "step", "name", "value"), columns, strict=False))
            if named:
                yield pa.table({**head, **named}, schema=schema)

    inputs = (
        (*_head(row).values(), runs.get(row.cell.run.run_id).fingerprint, *_validation(row))
        for row in scored
    )
    return _Table(schema, pieces, _inputs("epochs", inputs))


def _validation(row: Scored) -> list[Any]:
    """What the scores of a cell's curve are made of."""
    validation = row.cell.domains[0]
    return [
        part
        for (epoch, domain), evaluated in row.evaluated.items()
        if domain == validation
        for part in (epoch, evaluated.fingerprint)
    ]


def _images(scored: Sequence[Scored]) -> _Table:
    schema = pa.schema(
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
        ]
    )

    def pieces() -> Iterator[pa.Table]:
        every = (
            (row, epoch, domain, evaluated)
            for row in scored
            for (epoch, domain), evaluated in row.evaluated.items()
        )
        for batch in _batches(every):
            values = [evaluated.values() for *_, evaluated in batch]
            lengths = [len(column) for column in values]
            places = pa.array(np.repeat(np.arange(len(batch)), lengths))

            def spread(column: list[Any], kind: pa.DataType, places: pa.Array = places) -> pa.Array:
                return pa.array(column, kind).take(places)

            yield pa.table(
                {
                    **_repeated([row for row, *_ in batch], lengths),
                    "epoch": spread([epoch for _, epoch, _, _ in batch], pa.int64()),
                    "domain": spread([domain.name for _, _, domain, _ in batch], pa.string()),
                    "role": spread([domain.role for _, _, domain, _ in batch], pa.string()),
                    "source_id": pa.concat_arrays([each.sources for *_, each in batch]),
                    "metric": pa.concat_arrays([each.metrics for *_, each in batch]),
                    "value": np.concatenate(values),
                    "threshold": spread([each.threshold for *_, each in batch], pa.float64()),
                    "chosen": spread(
                        [epoch == row.epoch for row, epoch, _, _ in batch], pa.bool_()
                    ),
                },
                schema=schema,
            )

    inputs = (
        (*_head(row).values(), row.epoch or 0, epoch, domain.name, domain.role, each.fingerprint)
        for row in scored
        for (epoch, domain), each in row.evaluated.items()
    )
    return _Table(schema, pieces, _inputs("images", inputs))


def _cost(scored: Sequence[Scored], runs: KnownRuns, pricing: Pricing) -> _Table:
    rows = [
        {**_head(row), **attempt_cost(noted, pricing)}
        for row in scored
        for noted in runs.get(row.cell.run.run_id).costs()
    ]
    return _table(rows, [*_HEAD, *COST_COLUMNS])
