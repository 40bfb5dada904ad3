"""By what validation chooses; and that no other place says by which metric."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vesselflow
from vesselflow.config.objective import ObjectiveSpec
from vesselflow.errors import UserError
from vesselflow.metrics import METRICS
from vesselflow.metrics.registry import Metrics
from vesselflow.runs.objective import Objective
from vesselflow.tasks import TASKS

PACKAGE = Path(vesselflow.__file__).parent
#: Where the metric of that name is: its registration and function, and the task's own; the losses
#: of that name are another thing.
MAY_SAY_IT = (
    "metrics/__init__.py",
    "metrics/overlap.py",
    "tasks/__init__.py",
    "losses/",
    "bench/step.py",
)

LARGER, SMALLER = Objective("dice", "max"), Objective("dice", "min")
values = st.floats(-10, 10) | st.just(math.nan)


def test_nothing_else_spells_the_default_metric() -> None:
    word = re.compile(rf"(?<![a-z]){TASKS.task('segment').objective}(?![a-z])", re.IGNORECASE)
    found = [
        f"{name}:{number}: {line.strip()}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for name in [path.relative_to(PACKAGE).as_posix()]
        if not name.startswith(MAY_SAY_IT)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if word.search(line)
    ]
    assert found == []


def test_a_space_that_says_nothing_chooses_by_the_mean_of_dice() -> None:
    assert Objective.of(ObjectiveSpec()) == Objective("dice", "max", "mean")
    assert Objective.of(ObjectiveSpec()).label == "val Dice"
    assert Objective.of(ObjectiveSpec()).curve == "val/dice"


def test_the_direction_is_the_metrics_own_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Objective.of(ObjectiveSpec(metric="iou", direction="min")).direction == "min"
    monkeypatch.setitem(vars(METRICS.metric("iou")), "direction", "min")
    assert Objective.of(ObjectiveSpec(metric="iou")).direction == "min"
    assert Objective.of(ObjectiveSpec(metric="iou", direction="max")).direction == "max"


def test_an_unknown_metric_gets_the_closest_one() -> None:
    with pytest.raises(UserError, match=r"objective.metric: unknown metric 'ioy'.*mean 'iou'"):
        Objective.of(ObjectiveSpec(metric="ioy"))


@given(values, values)
def test_better_is_strict_and_never_undefined(one: float, other: float) -> None:
    for objective, sign in ((LARGER, 1), (SMALLER, -1)):
        found = objective.better(one, other)
        assert found is (not math.isnan(one) and not sign * one <= sign * other)
        assert not (found and objective.better(other, one))


@given(st.dictionaries(st.integers(), values))
def test_the_best_is_the_first_of_equals(scores: dict[int, float]) -> None:
    defined = {key: value for key, value in scores.items() if not math.isnan(value)}
    for objective, best in ((LARGER, max), (SMALLER, min)):
        found = objective.best(scores)
        if defined:
            top = best(defined.values())
            assert found == next(key for key, value in defined.items() if value == top)
        else:
            assert found is None


@pytest.mark.parametrize(
    ("reduction", "direction", "expected"),
    [("mean", "max", 2.0), ("median", "max", 1.0), ("worst", "max", 0.0), ("worst", "min", 5.0)],
)
def test_runs_become_one_number(reduction: str, direction: str, expected: float) -> None:
    objective = Objective("dice", direction, reduction)
    assert objective.reduce(iter([1.0, 0.0, 5.0])) == expected
    assert math.isnan(objective.reduce([]))
    assert math.isnan(objective.reduce([1.0, math.nan]))


def test_no_value_is_worse_than_the_worst() -> None:
    assert not LARGER.better(LARGER.worst, -10.0)
    assert not SMALLER.better(SMALLER.worst, 10.0)


def test_a_metric_says_what_its_printing_needs() -> None:
    for metric in METRICS:
        assert metric.label
        assert metric.undefined
        assert metric.low < metric.high
        assert metric.digits > 0
    assert METRICS.metric("mcc").low == -1.0


def test_a_metric_that_cannot_be_is_refused() -> None:
    metrics = Metrics()
    metrics.add_metric("x", target="a:b", label="X", undefined="never")
    with pytest.raises(ValueError, match="metric 'x' is registered already"):
        metrics.add_metric("x", target="a:b", label="X", undefined="never")
    with pytest.raises(ValueError, match="no range"):
        metrics.add_metric("y", target="a:b", label="Y", undefined="never", low=1.0)
    with pytest.raises(ValueError, match="can choose none"):
        metrics.add_metric(
            "z", target="a:b", label="Z", undefined="never", thresholded=False, chooses=True
        )


def test_thresholds_are_chosen_by_metrics_that_depend_on_them() -> None:
    choosing = METRICS.choosing()
    assert TASKS.task("segment").objective in choosing
    assert "roc_auc" not in choosing
    with pytest.raises(UserError, match="unknown threshold metric 'roc_auc'"):
        choosing.part("roc_auc")
