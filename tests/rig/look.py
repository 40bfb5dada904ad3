"""Follows a sweep by its records and writes what it sees into a file, until it is to stop.

    python look.py RESULTS SWEEP FOLDER

Runs on the laptop, which reaches the bucket. FOLDER/progress.json is written anew again and again;
FOLDER/tables is the newest state of the sweep's tables. Once there is a FOLDER/stop it looks a last
time, and ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from vesselflow.chaos.watch import Watch
from vesselflow.evaluation.answer import read_answer
from vesselflow.records.atomic import read_json_or_none
from vesselflow.records.paths import any_path, names_in
from vesselflow.records.runs import RunRecord

EVERY_S = 0.5


def main() -> None:
    address, sweep, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    results = any_path(address)
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    seen: dict[str, Any] = {}
    stop = False
    while not stop:
        stop = (folder / "stop").exists()
        with contextlib.suppress(OSError):
            for run in names_in(results / "runs"):
                if not run.startswith("."):
                    seen[run] = look(RunRecord(results, run), seen.get(run, {}))
            text = json.dumps({"at": time.time(), "runs": seen}, indent=1)
            (folder / "next").write_text(text)
            os.replace(folder / "next", folder / "progress.json")
            for name, content in read_answer(results / sweep).items():
                if content is not None:
                    (folder / "tables" / f"{name}.parquet").write_bytes(content)
        time.sleep(EVERY_S)


def look(record: RunRecord, before: dict[str, Any]) -> dict[str, Any]:
    """What a run's records say, with when each was first seen (Unix time)."""
    now = time.time()
    watch = Watch(record.folder.parent.parent, {record.run_id: 1})
    attempts = dict(before.get("attempts", {}))
    for number in watch.attempts(record.run_id):
        folder = record.attempt_folder(number)
        one = attempts.setdefault(str(number), {"seen": now, "steps": {}})
        cost = read_json_or_none(folder / "cost.json") or {}
        one["host"] = cost.get("host", one.get("host", ""))
        one["done"] = int(cost.get("from_step", 0) + cost.get("steps", 0)) if cost else 0
        one["kind"] = f"{cost.get('machine', '')}:{cost.get('market', '')}"
        one["resumed"] = (
            (read_json_or_none(folder / "attempt.json") or {}).get("resumed_from") or {}
        ).get("step", 0)
        newest = watch.newest(record.run_id)
        if newest and newest[0] == number:
            one["steps"].setdefault(str(newest[1]), now)
    accepted = record.accepted() is not None
    return {"attempts": attempts, "accepted": before.get("accepted") or (now if accepted else None)}


if __name__ == "__main__":
    main()
