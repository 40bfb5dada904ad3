"""What the bench of two drivers refuses: a run that was done twice, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from vesselflow.bench import drivers
from vesselflow.errors import UserError, VesselflowError
from vesselflow.records.runs import RunRecord


def test_every_run_is_done_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drivers, "RUNS", 2)
    for name in ("r1", "r2"):
        record = RunRecord(tmp_path, name)
        record.create("", {})
        record.finish(record.begin_attempt(), {"steps": 1})
    drivers._check_once(tmp_path)
    RunRecord(tmp_path, "r2").begin_attempt()
    with pytest.raises(VesselflowError, match="in 3 attempts"):
        drivers._check_once(tmp_path)


def test_two_drivers_have_cpus_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drivers.os, "sched_getaffinity", lambda _: {5, 1, 2, 7, 9}, raising=False)
    assert drivers._halves() == [[1, 2], [5, 7]]
    monkeypatch.setattr(drivers.os, "sched_getaffinity", lambda _: {3}, raising=False)
    with pytest.raises(UserError, match="a CPU each"):
        drivers._halves()
