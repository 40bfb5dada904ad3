"""All seeds in one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from vesselflow.chaos.command import Asked, Verdict, known
from vesselflow.chaos.comparison import Finding, Notice
from vesselflow.chaos.marks import TakenUp
from vesselflow.chaos.stage import Played
from vesselflow.chaos.summary import SCHEMA, total, write_summary
from vesselflow.records.atomic import write_json


def _verdict(seed: int, *, holds: bool = True) -> Verdict:
    played = Played(
        kinds=["notice", "lose-node"], notices=[Notice("node-1", {"run": 1})], seconds=50.0
    )
    follows = [
        TakenUp("run", 2, 1, "node-1", step=10, kept=10, reached=10, allowed=4),
        TakenUp("run", 3, 2, "node-2", step=12, kept=12, reached=15, allowed=4),
    ]
    gaps = [("lose-node", "run", 9.0), ("lose-node", "other", 11.0), ("tear", "run", 3.0)]
    return Verdict("k", seed, [], played, [Finding("it", holds, "")], follows, gaps, 0.3)


def test_a_row_for_each_seed(tmp_path: Path) -> None:
    reports = [_verdict(4, holds=False).plain(), _verdict(3).plain()]
    reports[1]["predicted_s"] = {"low": 1.0, "median": 2.0, "high": 3.0}
    rows = write_summary(tmp_path, reports)
    assert [row["seed"] for row in rows] == [3, 4]
    assert rows[0] == {
        "seed": 3,
        "holds": True,
        "seconds": 50.0,
        "predicted_low_s": 1.0,
        "predicted_high_s": 3.0,
        "played": 2,
        "kinds": "notice lose-node",
        "repeated_after_notices": 0,
        "repeated_after_kills": 3,
        "most_repeated": 3,
        "most_allowed": 4,
        "most_interval_s": 0.3,
        "node_to_step_median_s": 10.0,
        "node_to_step_worst_s": 11.0,
        "kill_to_step_median_s": 3.0,
        "kill_to_step_worst_s": 3.0,
    }
    assert json.loads((tmp_path / "chaos.json").read_text()) == rows
    assert pq.read_table(tmp_path / "chaos.parquet").to_pylist() == rows
    assert pq.read_schema(tmp_path / "chaos.parquet").names == SCHEMA.names
    line = total(rows)
    assert line.startswith("1 of 2 seeds hold; not: 4; 4 disturbances, 0 steps repeated after n")
    assert line.endswith("from a lost node to the next step 11.0 s at most")


def test_a_seed_is_known_by_what_it_was_played_on(tmp_path: Path) -> None:
    write_json(tmp_path / "chaos-3.json", _verdict(3).plain())
    found = known(tmp_path, 3, "k")
    assert found is not None
    assert found["holds"]
    assert known(tmp_path, 3, "other") is None
    assert known(tmp_path, 4, "k") is None
    (tmp_path / "chaos-3.json").write_text("[")
    assert known(tmp_path, 3, "k") is None


def test_what_decides_the_seeds_decides_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    class Resources:
        workers = 1

    class Space:
        resources = Resources()

    def key(**given: Any) -> str:
        return Asked(Space(), [], Path(), **given).key  # type: ignore[arg-type]

    monkeypatch.setattr("vesselflow.chaos.command.fingerprint", lambda space: "f")
    assert key() == key()
    assert len({key(), key(disk=True), key(limit_s=9.0), key(bucket=object())}) == 4
