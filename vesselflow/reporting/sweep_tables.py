"""The tables of one sweep, read and checked once, for terminal, figures and TensorBoard."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from vesselflow.config.objective import ObjectiveSpec
from vesselflow.errors import UserError, closest
from vesselflow.evaluation.long_tables import SCORING
from vesselflow.metrics.summary import Summary
from vesselflow.records.atomic import read_json_or_none
from vesselflow.records.bucket import BucketTrouble
from vesselflow.records.cache import local_copy
from vesselflow.records.paths import AnyPath, BucketPath, any_path
from vesselflow.reporting.wording import decode, point_text, printable, short_names
from vesselflow.runs.objective import Objective

#: The roles of domains, in the order in which they are shown.
ROLES = ("val", "test", "ood")
PREFIX = "config."

#: Share of the vessels, and of the background, that a run without signal may get otherwise.
_NEARLY = 0.01

_COLUMNS = {
    "points": (
        *("point", "index", "n_runs", "selected", "domain", "role"),
        *("metric", "mean", "std", "n", "n_undefined"),
    ),
    "runs": ("run_id", "point", "fold", "seed", "state", "epoch", "threshold"),
    "epochs": ("run_id", "point", "fold", "seed", "epoch", "step", "name", "value"),
    "images": (
        *("run_id", "point", "fold", "seed", "epoch"),
        *("domain", "role", "source_id", "metric", "value"),
    ),
    "cost": ("run_id", "attempt"),
}


@dataclass(frozen=True, order=True)
class DomainKey:
    """A named data set in the role that it plays for a run: "val", "test" or "ood"."""

    role: str
    name: str

    @property
    def label(self) -> str:
        """The name with its role ("a val", "a test"); the bare name out of distribution."""
        return self.name if self.role == "ood" else f"{self.name} {self.role}"


@dataclass(frozen=True)
class Completeness:
    """How much of a sweep its tables hold.

    Attributes:
        points: Points all of whose runs are trained and scored.
        points_total: Points of the sweep.
        runs: Runs that are trained and scored.
        runs_total: Runs of the sweep.
    """

    points: int
    points_total: int
    runs: int
    runs_total: int

    @property
    def complete(self) -> bool:
        """Whether no run is missing."""
        return self.runs == self.runs_total


#: What a threshold can predict that tells no pixel from another.
BLIND = ("every pixel", "almost every pixel", "no pixel", "almost no pixel", "no keypoint")


@dataclass(frozen=True)
class Blind:
    """A run whose threshold, chosen on validation, tells no pixel from another.

    Attributes:
        run_id: Name of the run.
        point: Its point.
        fold: Index of its fold.
        seed: Its seed.
        predicts: One of `BLIND`.
    """

    run_id: str
    point: str
    fold: int
    seed: int
    predicts: str


_NONE = Summary(math.nan, math.nan, 0, 0)


class SweepTables:
    """The tables of one sweep.

    A run counts as complete when it has an epoch that was chosen on validation.

    Attributes:
        folder: The sweep's folder, ``results/<sweep>``.
        points: One row per point x domain x metric.
        runs: One row per run.
    """

    def __init__(self, folder: AnyPath, points: pd.DataFrame, runs: pd.DataFrame) -> None:
        self.folder, self.points, self.runs = folder, points, runs

    @property
    def name(self) -> str:
        """Name of the sweep: that of its folder."""
        return self.folder.resolve().name

    @cached_property
    def axes(self) -> tuple[str, ...]:
        """Config keys of the grid's axes, in the order of the table's columns."""
        names = [str(column) for column in self.points.columns]
        return tuple(name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX))

    @cached_property
    def names(self) -> dict[str, str]:
        """Short, clear name of each axis."""
        return short_names(self.axes)

    @cached_property
    def order(self) -> tuple[str, ...]:
        """The points' names by grid index."""
        rows = self.points.drop_duplicates("point").sort_values(["index", "point"])
        return tuple(rows["point"])

    @cached_property
    def values(self) -> dict[str, dict[str, Any]]:
        """Point -> axis -> decoded value.

        None where the axis does not apply to the point; the value null is `wording.NULL`.
        """
        rows = self.points.drop_duplicates("point").set_index("point")
        return {
            point: {axis: decode(rows.at[point, PREFIX + axis]) for axis in self.axes}
            for point in self.order
        }

    @cached_property
    def _alike(self) -> set[str]:
        """Points whose text fits another one too, as numbers of many digits can look alike."""
        texts = {point: point_text(self.values[point], self.names) for point in self.order}
        taken = Counter(texts.values())
        return {point for point, text in texts.items() if taken[text] > 1}

    def text(self, point: str, *, between: str = ", ") -> str:
        """The point as a person says it, which fits no other point; its name without axes."""
        text = point_text(self.values[point], self.names, between=between)
        return f"{text} ({printable(point)})" if point in self._alike and text else text or point

    @cached_property
    def progress(self) -> Completeness:
        """How much of the sweep its tables hold."""
        done = self.runs["epoch"].notna()
        whole = done.groupby(self.runs["point"]).all()
        return Completeness(int(whole.sum()), len(whole), int(done.sum()), len(done))

    @cached_property
    def selected(self) -> str | None:
        """The point chosen on validation, or None while there is none."""
        rows = self.points[self.points["selected"].astype(bool)]
        return None if rows.empty else str(rows["point"].iloc[0])

    @cached_property
    def domains(self) -> tuple[DomainKey, ...]:
        """All domains: val, test, then out-of-distribution by name."""
        pairs = self.points[["role", "domain"]].dropna().drop_duplicates()
        found = [DomainKey(str(role), str(name)) for role, name in pairs.itertuples(index=False)]
        return tuple(sorted(found, key=lambda item: (_rank(item.role), item.name)))

    def of_role(self, role: str) -> tuple[DomainKey, ...]:
        """The domains of one role."""
        return tuple(domain for domain in self.domains if domain.role == role)

    @cached_property
    def _scores(self) -> dict[tuple[str, str, str, str], Summary]:
        columns = ["point", "role", "domain", "metric", "mean", "std", "n", "n_undefined"]
        return {
            (point, role, domain, metric): Summary(
                float(mean), float(std), _whole(n), _whole(n_undefined)
            )
            for point, role, domain, metric, mean, std, n, n_undefined in self.points[
                columns
            ].itertuples(index=False)
        }

    def score(self, point: str, domain: DomainKey | None, metric: str) -> Summary:
        """A point's score; one of NaN over no runs where there is none."""
        if domain is None:
            return _NONE
        return self._scores.get((point, domain.role, domain.name, metric), _NONE)

    @cached_property
    def _n_runs(self) -> dict[str, int]:
        rows = self.points.drop_duplicates("point")
        return {point: _whole(n) for point, n in zip(rows["point"], rows["n_runs"], strict=True)}

    def n_runs(self, point: str) -> int:
        """Runs of the point that have a result."""
        return self._n_runs[point]

    def gap(self, point: str, metric: str | None = None) -> float:
        """In-distribution mean minus the mean over the OOD domains; NaN when either is undefined.

        Each OOD domain weighs the same, whatever its number of images. The metric is the
        objective's where none is named.
        """
        metric = metric or self.objective.metric
        tests = self.of_role("test")
        inside = [self.score(point, domain, metric).mean for domain in tests]
        outside = [self.score(point, domain, metric).mean for domain in self.of_role("ood")]
        if not inside or not outside:
            return math.nan
        return sum(inside) / len(inside) - sum(outside) / len(outside)

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """Curves of all runs; empty when the sweep has none."""
        return read_table(self.folder / "tables" / "epochs.parquet", "epochs", required=False)

    @cached_property
    def images(self) -> pd.DataFrame:
        """Scores of all runs x epochs x images; empty when the sweep has none."""
        return read_table(self.folder / "tables" / "images.parquet", "images", required=False)

    @cached_property
    def complete(self) -> pd.DataFrame:
        """The rows of `runs` that are trained and scored."""
        return self.runs[self.runs["epoch"].notna()]

    @cached_property
    def run_scores(self) -> pd.DataFrame:
        """Scores pooled over each domain, of each run at the epoch that it chose on validation.

        Columns: run_id, point, fold, seed, epoch, domain, role, metric, value.
        """
        pooled = read_table(
            self.folder / "tables" / "images.parquet",
            "images",
            required=False,
            where={"source_id": "*", "chosen": True},
        )
        chosen = self.complete[["run_id", "point", "epoch"]]
        keys = ["run_id", "point", "epoch"]
        return pooled.merge(chosen.astype({"epoch": pooled["epoch"].dtype}), on=keys)

    @cached_property
    def blind(self) -> tuple[Blind, ...]:
        """The runs that found no signal on validation, in the order of the table of runs.

        Such a run predicts every pixel of the pooled validation images, or none, or all but 1 % of
        both vessels and background. Scores that are all undefined say neither.
        """
        scores = self.run_scores
        scores = scores[scores["role"] == "val"]
        values = {
            (run_id, point, metric): float(value)
            for run_id, point, metric, value in scores[
                ["run_id", "point", "metric", "value"]
            ].itertuples(index=False)
        }
        found = []
        for run_id, point, fold, seed in self.complete[
            ["run_id", "point", "fold", "seed"]
        ].itertuples(index=False):
            sensitivity = values.get((run_id, point, "sensitivity"), math.nan)
            specificity = values.get((run_id, point, "specificity"), math.nan)
            predicts = _predicts(sensitivity, specificity)
            if values.get((run_id, point, "picks")) == 0:
                predicts = "no keypoint"
            if predicts:
                found.append(Blind(str(run_id), str(point), int(fold), int(seed), predicts))
        return tuple(found)

    @cached_property
    def _scoring(self) -> dict[str, Any]:
        loaded = read_json_or_none(self.folder / "tables" / SCORING)
        return loaded if isinstance(loaded, dict) else {}

    @cached_property
    def objective(self) -> Objective:
        """By what validation chose; the default where the tables do not say.

        Raises:
            UserError: It names a metric that is not registered here.
        """
        given = self._scoring.get("objective")
        known = given if isinstance(given, dict) else {}
        fields = {key: known[key] for key in ObjectiveSpec.model_fields if key in known}
        try:
            return Objective.of(ObjectiveSpec(**fields))
        except ValidationError:
            return Objective.of(ObjectiveSpec())

    def protocol(self, point: str) -> str:
        """Name of the protocol by which a point was scored; "" where the tables do not say."""
        known = self._scoring.get("protocols")
        name = known.get(point) if isinstance(known, dict) else None
        return name if isinstance(name, str) else ""

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """What the sweep recorded about its making; empty when there is no record."""
        loaded = read_json_or_none(self.folder / "provenance.json")
        return loaded if isinstance(loaded, dict) else {}

    @cached_property
    def unlabelled(self) -> dict[str, str]:
        """Point -> the store whose images it learnt from without labels, of points that did."""
        noted = self.provenance.get("unlabelled")
        noted = noted if isinstance(noted, dict) else {}
        return {point: str(noted[point]) for point in self.order if point in noted}

    @cached_property
    def matched(self) -> tuple[str, int, float] | None:
        """How widths were matched; None where they are as given, or where nobody says.

        The point whose parameters all have, how many, and the largest share that one is off.
        """
        noted = self.provenance.get("matched")
        if not isinstance(noted, dict) or noted.get("reference") not in self.order:
            return None
        return str(noted["reference"]), int(noted["parameters"]), float(noted["within"])


def _predicts(sensitivity: float, specificity: float) -> str:
    """What a threshold predicts that tells no pixel from another; "" where it tells them apart.

    Of pixels without any vessel (sensitivity undefined) specificity alone speaks.
    """
    if specificity == 0 and not sensitivity < 1:
        return "every pixel"
    if specificity == 1 and not sensitivity > 0:
        return "no pixel"
    # A threshold chosen on noise leaves out a handful of pixels, seldom exactly none.
    if specificity <= _NEARLY and sensitivity >= 1 - _NEARLY:
        return "almost every pixel"
    if specificity >= 1 - _NEARLY and sensitivity <= _NEARLY:
        return "almost no pixel"
    return ""


def load_tables(folder: str | AnyPath) -> SweepTables:
    """Read the tables of a sweep.

    Args:
        folder: ``results/<sweep>`` or its ``tables`` folder; ``results`` itself where it holds a
            single sweep.

    Raises:
        UserError: There is no such folder, it is no sweep, it holds several, it has no results
            yet, or a table cannot be read.
    """
    sweep = find_sweep(folder)
    tables = sweep / "tables"
    points = read_table(tables / "points.parquet", "points", required=True)
    runs = read_table(tables / "runs.parquet", "runs", required=True)
    ended = runs["epoch"].notna() | (runs["state"] == "failed")
    if points.empty or not ended.any():
        raise UserError(
            "there are no results yet", where=str(sweep), hint="wait for the first run to end"
        )
    return SweepTables(sweep, points, runs)


def find_sweep(folder: str | AnyPath) -> AnyPath:
    """The sweep's folder that `folder` means; UserError says what to give instead."""
    path = any_path(folder)
    if path.name == "tables" and (path / "points.parquet").exists():
        path = path.parent
    if not path.is_dir():
        siblings = sweeps_of(path.parent)
        raise UserError(
            "there is no such folder" if not path.exists() else "this is a file, not a folder",
            where=str(folder),
            allowed=_names(siblings),
            hint=closest(path.name, [item.name for item in siblings])
            or "give the folder of a sweep: vesselflow report results/NAME",
        )
    if (path / "tables" / "points.parquet").is_file():
        return path
    if is_sweep(path):
        raise UserError(
            "this sweep has no results yet",
            where=str(folder),
            hint="its tables are written when runs end; carry on with the command that began it",
        )
    inside = sweeps_of(path)
    if len(inside) == 1:
        return find_sweep(inside[0])
    if inside:
        raise UserError(
            f"{len(inside)} sweeps are in this folder",
            where=str(folder),
            allowed=_names(inside),
            hint=f"name one of them: vesselflow report {inside[0]}",
        )
    raise UserError(
        "this folder is no sweep",
        where=str(folder),
        hint="run one first: vesselflow sweep search_spaces/NAME.yaml",
    )


def is_sweep(path: AnyPath) -> bool:
    """Whether a folder belongs to a sweep, with or without results."""
    return any((path / name).exists() for name in ("space.yaml", "resolved.yaml", "tables"))


def sweeps_of(results: AnyPath) -> list[AnyPath]:
    """The sweeps in a results folder, by name."""
    try:
        inside = sorted(item for item in results.iterdir() if item.is_dir())
    except OSError:
        return []
    return [item for item in inside if is_sweep(item)]


def _names(sweeps: Iterable[AnyPath]) -> str:
    return ", ".join(str(item) for item in sweeps)


def read_table(
    path: AnyPath, table: str, *, required: bool = True, where: Mapping[str, Any] | None = None
) -> pd.DataFrame:
    """Read one Parquet table and check that it has its columns.

    Args:
        path: The file.
        table: "points", "runs", "epochs", "images" or "cost".
        required: Whether a missing file is an error; otherwise it reads as an empty table.
        where: Column -> value: other rows are left out, and never in memory all at once; a column
            that the table does not have asks for nothing.

    Raises:
        UserError: The file is missing, torn or of another version.
    """
    columns = _COLUMNS[table]
    if not path.exists():
        if required:
            raise UserError(
                "this table is missing",
                where=str(path),
                hint="run the sweep again: it trains nothing and writes its tables anew",
            )
        return pd.DataFrame({name: pd.Series(dtype="object") for name in columns})
    try:
        file = local_copy(path) if isinstance(path, BucketPath) else path
        frame = pd.read_parquet(file) if where is None else _read_rows(file, where)
    except BucketTrouble:
        raise
    except Exception as error:
        # pyarrow raises one of many types for a torn file; each of them means the same here.
        raise UserError(
            f"this is not a readable Parquet table ({type(error).__name__})",
            where=str(path),
            hint="run the sweep again: it trains nothing and writes its tables anew",
        ) from None
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise UserError(
            f"this table lacks the columns {', '.join(missing)}",
            where=str(path),
            hint="it is of another version of vesselflow; run the sweep again to write it anew",
        )
    return frame


def _read_rows(path: Path, where: Mapping[str, Any]) -> pd.DataFrame:
    """The rows that have these values, a row group at a time."""
    schema = pq.read_schema(path)
    # Text that repeats is compared, and left out, as numbers.
    texts = [field.name for field in schema if pa.types.is_string(field.type)]
    with pq.ParquetFile(path, read_dictionary=texts) as file:
        groups = []
        for number in range(file.num_row_groups):
            group = file.read_row_group(number)
            for column, value in where.items():
                if column in group.column_names:
                    group = group.filter(pc.equal(group[column], value))
            groups.append(group.cast(schema))
    return pa.concat_tables([schema.empty_table(), *groups]).to_pandas()


def _rank(role: str) -> int:
    return ROLES.index(role) if role in ROLES else len(ROLES)


def _whole(value: Any) -> int:
    return 0 if pd.isna(value) else int(value)
