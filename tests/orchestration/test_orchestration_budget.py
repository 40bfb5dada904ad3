"""A real sweep with a budget: a run that there is no money for is left undone, and told."""

import fault_cases as cases
import pandas as pd
import pytest

from vesselflow.records.atomic import read_json
from vesselflow.records.runs import RunRecord
from vesselflow.records.status import RunState

pytestmark = pytest.mark.ray


def test_a_run_that_the_money_does_not_reach_for_is_left_undone(tmp_path):
    results = tmp_path / "results"
    # The first run takes seconds; the second would take days, at a dollar an hour.
    more = ("--set", "seeds=[0]", "--set", "loss.beta=0.5", "--set", "resources.slots=1")
    more += ("--set", "grid={train.epochs: [1, 1000000]}", "--set", "score.epochs=last")
    money = ("--set", "prices={local: 1}", "--budget", "20")
    driver = cases.start(cases.write_space(tmp_path), results, *more, *money)
    output, _ = driver.communicate(timeout=240)
    assert driver.returncode == 1, output
    lines = output.splitlines()
    assert "runs: 1 done now, 0 before" in lines
    assert "left undone: 1 run: epochs=1000000 fold 0 seed 0" in lines
    (why,) = [line for line in lines if line.startswith("budget: $20.00 would be passed: ")]
    assert "with one more run it may be $" in why
    assert lines[-1] == "the same command carries on, with a higher --budget or with none"
    assert "failed" not in output
    states = [RunRecord(results, run.name).status().state for run in (results / "runs").iterdir()]
    assert states == [RunState.FINISHED]
    (start,) = read_json(results / "tiny" / "spending.json")
    (machine,) = start["machines"]
    assert (machine["machine"], machine["count"], machine["price"]) == ("local", 1, 1.0)
    assert 0 < machine["dollars"] < 1
    (row,) = pd.read_parquet(results / "tiny" / "tables" / "cost.parquet").to_dict("records")
    assert (row["machine"], row["price"], row["price_from"]) == (
        "local",
        1.0,
        "prices of the space",
    )
    assert 0 < row["dollars"] < machine["dollars"]
    assert row["steps"] == 10
