"""All seeds in one table: what people read, and the same for machines."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vesselflow.records.atomic import write_json, writing

#: Seconds are NaN-free here: what was not measured is null.
SCHEMA = pa.schema(
    [
        ("seed", pa.int64()),
        ("holds", pa.bool_()),
        ("seconds", pa.float64()),
        ("predicted_low_s", pa.float64()),
        ("predicted_high_s", pa.float64()),
        ("played", pa.int64()),
        ("kinds", pa.string()),
        ("repeated_after_notices", pa.int64()),
        ("repeated_after_kills", pa.int64()),
        ("most_repeated", pa.int64()),
        ("most_allowed", pa.int64()),
        ("most_interval_s", pa.float64()),
        ("node_to_step_median_s", pa.float64()),
        ("node_to_step_worst_s", pa.float64()),
        ("kill_to_step_median_s", pa.float64()),
        ("kill_to_step_worst_s", pa.float64()),
    ]
)


def row_of(report: Mapping[str, Any]) -> dict[str, Any]:
    """One seed, by its report (`Verdict.plain`)."""
    predicted = report.get("predicted_s") or {}
    follows = report["taken_up"]
    kills = [each for each in follows if not each["notice"]]
    gaps = report["kill_to_next_step_s"]
    node = [gap["seconds"] for gap in gaps if gap["kind"] == "lose-node"]
    other = [gap["seconds"] for gap in gaps if gap["kind"] != "lose-node"]
    return {
        "seed": report["seed"],
        "holds": report["holds"],
        "seconds": report["seconds"],
        "predicted_low_s": predicted.get("low"),
        "predicted_high_s": predicted.get("high"),
        "played": len(report["played"]),
        "kinds": " ".join(report["played"]),
        "repeated_after_notices": sum(e["repeated"] for e in follows if e["notice"]),
        "repeated_after_kills": sum(each["repeated"] for each in kills),
        "most_repeated": max((each["repeated"] for each in kills), default=0),
        "most_allowed": max((each["allowed"] for each in kills), default=0),
        "most_interval_s": report["most_interval_s"],
        "node_to_step_median_s": statistics.median(node) if node else None,
        "node_to_step_worst_s": max(node, default=None),
        "kill_to_step_median_s": statistics.median(other) if other else None,
        "kill_to_step_worst_s": max(other, default=None),
    }


def write_summary(folder: Path, reports: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Write ``chaos.parquet`` and ``chaos.json``, a row for each seed; the rows."""
    rows = [row_of(report) for report in sorted(reports, key=lambda report: report["seed"])]
    write_json(folder / "chaos.json", rows)
    with writing(folder / "chaos.parquet") as sink:
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), sink)
    return rows


def total(rows: Sequence[Mapping[str, Any]]) -> str:
    """All seeds in one line."""
    held = sum(row["holds"] for row in rows)
    broken = ", ".join(str(row["seed"]) for row in rows if not row["holds"])
    worst = max((row["node_to_step_worst_s"] or 0.0 for row in rows), default=0.0)
    return (
        f"{held} of {len(rows)} seeds hold"
        + (f"; not: {broken}" if broken else "")
        + f"; {sum(row['played'] for row in rows)} disturbances, "
        f"{sum(row['repeated_after_notices'] for row in rows)} steps repeated after notices, "
        f"{sum(row['repeated_after_kills'] for row in rows)} after kills"
        + (f"; from a lost node to the next step {worst:.1f} s at most" if worst else "")
    )
