"""Tables of a small sweep of any points, as evaluation writes them; scores are plain numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from reporting_examples import write_record

DOMAINS = (("val", "a"), ("test", "a"), ("ood", "b"))

#: Pooled (Dice, sensitivity, specificity) on validation of a run, by how it predicts.
PREDICTS = {
    "vessels": (0.8, 0.82, 0.97),
    "every pixel": (0.2, 1.0, 0.0),
    "almost every pixel": (0.2, 0.9998, 0.0003),
    "no pixel": (0.0, 0.0, 1.0),
    "almost no pixel": (0.01, 0.006, 0.999),
    "many vessels, much else": (0.3, 1.0, 0.02),
    "nothing defined": (math.nan, math.nan, 1.0),
    "all NaN": (math.nan, math.nan, math.nan),
}


def write_answer(
    results: Path,
    points: Mapping[str, Mapping[str, Any]],
    *,
    name: str = "answer",
    seeds: Sequence[int] = (0, 1),
    domains: Sequence[tuple[str, str]] = DOMAINS,
    selected: str | None = None,
    unfinished: Sequence[tuple[str, int]] = (),
    predicts: Mapping[tuple[str, int], str] | None = None,
    records: bool = False,
    thresholds: Sequence[float] = (0.47,),
) -> Path:
    """Write ``results/<name>/tables``; return ``results/<name>``.

    Args:
        points: Name -> the axes that apply to the point.
        selected: The chosen point.
        unfinished: (point, seed) of runs that are still queued.
        predicts: (point, seed) -> key of `PREDICTS` on validation; "vessels" where nothing is said.
        thresholds: Of the runs of the points, one after the other.
        records: Whether ``results/runs`` holds the records of the finished runs.
    """
    axes = list(dict.fromkeys(axis for config in points.values() for axis in config))
    rows: dict[str, list[dict[str, Any]]] = {"points": [], "runs": [], "images": []}
    for index, (point, values) in enumerate(points.items()):
        config = {
            f"config.{axis}": json.dumps(values[axis]) if axis in values else None for axis in axes
        }
        done = [seed for seed in seeds if (point, seed) not in unfinished]
        for seed in seeds:
            run_id = f"{index:04x}{seed:04x}".ljust(20, "f")
            head = {"run_id": run_id, "point": point, "fold": 0, "seed": seed}
            finished = seed in done
            rows["runs"].append(
                {**head, "state": "finished" if finished else "queued", "message": ""}
                | {"epoch": 4 if finished else None, **config}
                | {"threshold": thresholds[index % len(thresholds)]}
            )
            if not finished:
                continue
            if records:
                write_record(results, run_id, "finished")
            for role, domain in domains:
                kind = (
                    (predicts or {}).get((point, seed), "vessels") if role == "val" else "vessels"
                )
                scores = zip(("dice", "sensitivity", "specificity"), PREDICTS[kind], strict=True)
                rows["images"] += [
                    {**head, "epoch": epoch, "domain": domain, "role": role, "source_id": "*"}
                    | {"metric": metric, "value": value if epoch == 4 else 0.1}
                    for epoch in (2, 4)
                    for metric, value in (scores if epoch == 4 else [("dice", 0.1)])
                ]
        for role, domain in domains:
            for metric in ("dice", "roc_auc"):
                rows["points"].append(
                    {"point": point, "index": index, **config, "n_runs": len(done)}
                    | {"selected": point == selected, "domain": domain, "role": role}
                    | {"metric": metric, "mean": 0.8 if done else math.nan}
                    | {"std": 0.01 if len(done) > 1 else math.nan}
                    | {"n": len(done), "n_undefined": 0}
                )
    sweep = results / name
    (sweep / "tables").mkdir(parents=True)
    (sweep / "space.yaml").write_text(f"name: {name}\n", encoding="utf-8")
    for table, entries in rows.items():
        pd.DataFrame(entries).to_parquet(sweep / "tables" / f"{table}.parquet")
    return sweep
