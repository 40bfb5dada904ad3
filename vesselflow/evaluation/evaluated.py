"""What one evaluation came to, as one Parquet file; each value beside its metric's version.

Imports no torch: tables are made, and a finished sweep is recognised, without it.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vesselflow.metrics import ALL_METRICS
from vesselflow.metrics.registry import OF_CLASS, base_of
from vesselflow.records.atomic import write_bytes
from vesselflow.records.bucket import BucketTrouble
from vesselflow.records.paths import AnyPath
from vesselflow.runs.evaluations import Evaluation

#: The source id under which the scores of all pixels of a domain together stand.
POOLED = "*"
#: The metric that holds the thresholds of several classes, among the pooled scores, and what its
#: name begins with there.
THRESHOLD = "threshold"
OF_CLASSES = f"{THRESHOLD}{OF_CLASS}"

T = TypeVar("T")

_SCHEMA = pa.schema(
    [
        ("source_id", pa.string()),
        ("metric", pa.string()),
        ("version", pa.int64()),
        ("value", pa.float64()),
        ("threshold_logit", pa.float64()),
    ]
)


#: Source ids, metrics, versions of the metrics, values: one of each for a score.
Columns = tuple[list[str], list[str], list[int], list[float]]


class Scores(Protocol):
    """What tables need of an evaluation: `Evaluated`, or `kept.Kept`, which holds less in memory.

    What is not said here is as in `Evaluated`.
    """

    @property
    def threshold(self) -> float:
        """The threshold as a probability in [0, 1], for people."""
        ...

    @property
    def thresholds(self) -> tuple[float, ...]:
        """The logit from which each class is predicted."""
        ...

    @property
    def pooled(self) -> dict[str, float]:
        """Metric -> its value over all pixels of the domain, in the order of the rows."""
        ...

    @property
    def sources(self) -> pa.StringArray:
        """Source ids of the rows."""
        ...

    @property
    def metrics(self) -> pa.StringArray:
        """Metrics of the rows."""
        ...

    @property
    def fingerprint(self) -> bytes | None:
        """Equal for the same content of the same file; None where that cannot be told."""
        ...

    def value(self, source_id: str, metric: str) -> float:
        """One score; KeyError when it is not there."""
        ...

    def values(self) -> np.ndarray:
        """The values of the rows, float64."""
        ...


@dataclass(frozen=True)
class Evaluated:
    """The scores of one evaluation.

    Attributes:
        threshold_logit: `prediction = logit >= threshold_logit`; -inf predicts every pixel, inf
            none; NaN when validation data have no vessel pixel, so that none could be chosen, and
            where there are several classes, whose `thresholds` stand among the rows.
        rows: (source id or `POOLED`, metric, value) in the order of the domain's sources, each
            with its metrics in the order of the registry; by the registry's versions. Of several
            classes "f1" is followed by "f1/rod" and so on.
        foreign: (source id, metric, version, value) that other code wrote: of metrics or versions
            that are not registered here. They are kept, so that two versions of the code on one
            results folder do not take turns in scoring it.
    """

    threshold_logit: float
    rows: tuple[tuple[str, str, float], ...]
    foreign: tuple[tuple[str, str, int, float], ...] = ()

    @property
    def threshold(self) -> float:
        """The threshold as a probability in [0, 1], for people.

        A saturated model's is 1 in float64 from a logit of 37 on, so that only the logit tells
        what is predicted.
        """
        return sigmoid(self.threshold_logit)

    @property
    def pooled(self) -> dict[str, float]:
        """As of `Scores`."""
        return {metric: value for source, metric, value in self.rows if source == POOLED}

    @property
    def sources(self) -> pa.StringArray:
        """As of `Scores`."""
        return pa.array([row[0] for row in self.rows], pa.string())

    @property
    def metrics(self) -> pa.StringArray:
        """As of `Scores`."""
        return pa.array([row[1] for row in self.rows], pa.string())

    @property
    def fingerprint(self) -> bytes | None:
        """As of `Scores`: it does not know its file."""
        return None

    def values(self) -> np.ndarray:
        """As of `Scores`."""
        return np.array([row[2] for row in self.rows], dtype=np.float64)

    def value(self, source_id: str, metric: str) -> float:
        """One score; KeyError when it is not there."""
        for row in self.rows:
            if row[0] == source_id and row[1] == metric:
                return row[2]
        raise KeyError((source_id, metric))

    def missing(self, names: Sequence[str]) -> list[str]:
        """Of some metrics those of which no value is here, in their order."""
        there = {base_of(metric) for _, metric, _ in self.rows}
        return [name for name in names if name not in there]

    @property
    def thresholds(self) -> tuple[float, ...]:
        """As of `Scores`."""
        return thresholds_of(self.pooled, self.threshold_logit)

    def joined(self, other: Evaluated) -> Evaluated:
        """With the rows of another one too, whose metrics are missing here."""
        return Evaluated(self.threshold_logit, ordered((*self.rows, *other.rows)), self.foreign)


def ordered(rows: Iterable[tuple[str, str, T]]) -> tuple[tuple[str, str, T], ...]:
    """By source, in the order in which they appear first; each with the registry's metrics."""
    given = list(rows)
    metrics = {name: place for place, name in enumerate(ALL_METRICS.names())}
    sources = {source: place for place, source in enumerate(dict.fromkeys(r[0] for r in given))}
    # Stable: those of classes follow in the order in which they are given.
    return tuple(sorted(given, key=lambda row: (sources[row[0]], metrics[base_of(row[1])])))


def thresholds_of(pooled: Mapping[str, float], threshold_logit: float) -> tuple[float, ...]:
    """The thresholds of several classes, which stand among the pooled scores, or the only one."""
    found = tuple(value for metric, value in pooled.items() if metric.startswith(OF_CLASSES))
    return found or (threshold_logit,)


def sigmoid(logit: float) -> float:
    """The probability of a logit; 0 and 1 of the infinite ones, NaN of NaN."""
    # The exponent is never positive, so that nothing overflows.
    if logit < 0:
        return math.exp(logit) / (1.0 + math.exp(logit))
    return 1.0 / (1.0 + math.exp(-logit))


def evaluation_path(results: AnyPath, evaluation: Evaluation) -> AnyPath:
    """Where the scores of an evaluation stand."""
    return results / "evaluations" / f"{evaluation.name}.parquet"


def write_evaluated(path: AnyPath, evaluated: Evaluated) -> None:
    """Write the scores whole, their pages with checksums."""
    versions = ALL_METRICS.versions()
    own = ((source, name, versions[base_of(name)], value) for source, name, value in evaluated.rows)
    rows = [*own, *evaluated.foreign]
    columns = list(zip(*rows, strict=True)) or [()] * 4
    table = pa.table(
        {
            "source_id": columns[0],
            "metric": columns[1],
            "version": columns[2],
            "value": columns[3],
            "threshold_logit": [evaluated.threshold_logit] * len(rows),
        },
        schema=_SCHEMA,
    )
    sink = io.BytesIO()
    pq.write_table(table, sink, write_page_checksum=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, sink.getvalue())


def read_evaluated(path: AnyPath) -> Evaluated | None:
    """Read what is there; None when nothing is, or it is not whole (it is then made again).

    Values by other versions than those registered are set apart: see `Evaluated.missing`.
    """
    found = read_scores(path)
    return None if found is None else _parted(found[0], zip(*found[1], strict=True))


def read_scores(path: AnyPath) -> tuple[float, Columns] | None:
    """The threshold as a logit, and the columns of a file: all that stands in it, unsorted.

    Returns:
        None when nothing is there, or it is not whole.
    """
    try:
        # As bytes: given a path, Arrow would take folders called "a=b" above it for columns.
        content = pa.BufferReader(path.read_bytes())
        # `pq.read_table` takes three times as long: it makes a data set of the one file first.
        file = pq.ParquetFile(content, page_checksum_verification=True)
        table = file.read(use_threads=False)
    except BucketTrouble:
        raise  # What is there is not made again because the network was away.
    except (OSError, ValueError, pa.ArrowException):
        return None
    if table.schema.names != _SCHEMA.names or table.schema.types != _SCHEMA.types or not len(table):
        return None
    sources, metrics, versions, values, logits = (column.to_pylist() for column in table.columns)
    return logits[0], (sources, metrics, versions, values)


def _parted(logit: float, rows: Iterable[tuple[str, str, int, float]]) -> Evaluated:
    versions = ALL_METRICS.versions()
    own, foreign = [], []
    for source, metric, version, value in rows:
        if versions.get(base_of(metric)) == version:
            own.append((source, metric, value))
        else:
            foreign.append((source, metric, version, value))
    # What was foreign to the code that wrote it stands at the end.
    return Evaluated(logit, ordered(own), tuple(foreign))
