"""One evaluation: one run's weights of one epoch, on one domain, as one Parquet file.

Imports no torch: tables are made, and a finished sweep is recognised, without it.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vesselflow.config.experiment import Experiment
from vesselflow.config.fingerprint import evaluation_id
from vesselflow.metrics import METRICS
from vesselflow.records.atomic import write_bytes
from vesselflow.runs.domains import Domain

#: The source id under which the scores of all pixels of a domain together stand.
POOLED = "*"

#: Version of how a threshold is chosen and applied: 2 is among logits, without levels.
THRESHOLD_RULE = 2

_SCHEMA = pa.schema(
    [
        ("source_id", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("threshold_logit", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Part:
    """The scores of one evaluation.

    Attributes:
        threshold_logit: `prediction = logit >= threshold_logit`; -inf predicts every pixel, inf
            none; NaN when validation data have no vessel pixel, so that none could be chosen.
        rows: (source id or `POOLED`, metric, value) in the order of the domain's sources.
    """

    threshold_logit: float
    rows: tuple[tuple[str, str, float], ...]

    @property
    def threshold(self) -> float:
        """The threshold as a probability in [0, 1], for people.

        A saturated model's is 1 in float64 from a logit of 37 on, so that only the logit tells
        what is predicted.
        """
        return sigmoid(self.threshold_logit)

    def value(self, source_id: str, metric: str) -> float:
        """One score; KeyError when it is not there."""
        for row in self.rows:
            if row[0] == source_id and row[1] == metric:
                return row[2]
        raise KeyError((source_id, metric))


def sigmoid(logit: float) -> float:
    """The probability of a logit; 0 and 1 of the infinite ones, NaN of NaN."""
    # The exponent is never positive, so that nothing overflows.
    if logit < 0:
        return math.exp(logit) / (1.0 + math.exp(logit))
    return 1.0 / (1.0 + math.exp(-logit))


def part_id(run_id: str, epoch: int, domain: Domain, experiment: Experiment) -> str:
    """Name of the evaluation by all that determines it beyond the run."""
    settings = {
        "threshold_metric": experiment.score.threshold_metric,
        "tta": experiment.score.tta,
        "threshold": THRESHOLD_RULE,
        "metrics": {metric.name: metric.version for metric in METRICS},
    }
    return evaluation_id(run_id, epoch=epoch, domain_digest=domain.digest, settings=settings)


def part_path(results: Path, name: str) -> Path:
    """Where the evaluation called `name` stands."""
    return results / "evaluations" / f"{name}.parquet"


def write_part(path: Path, part: Part) -> None:
    """Write a part whole, its pages with checksums."""
    columns = list(zip(*part.rows, strict=True))
    table = pa.table(
        {
            "source_id": columns[0],
            "metric": columns[1],
            "value": columns[2],
            "threshold_logit": [part.threshold_logit] * len(part.rows),
        },
        schema=_SCHEMA,
    )
    sink = io.BytesIO()
    pq.write_table(table, sink, write_page_checksum=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, sink.getvalue())


def read_part(path: Path) -> Part | None:
    """Read a part; None when it is not there or not whole (it is then made again)."""
    try:
        # As bytes: given a path, Arrow would take folders called "a=b" above it for columns.
        content = pa.BufferReader(path.read_bytes())
        table = pq.read_table(content, page_checksum_verification=True)
    except (OSError, ValueError, pa.ArrowException):
        return None
    if table.schema.names != _SCHEMA.names or table.schema.types != _SCHEMA.types or not len(table):
        return None
    columns = [table.column(name).to_pylist() for name in ("source_id", "metric", "value")]
    return Part(table.column("threshold_logit")[0].as_py(), tuple(zip(*columns, strict=True)))
