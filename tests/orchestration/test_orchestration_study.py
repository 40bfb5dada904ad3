"""The journal: finished points enter it, open trials are closed, a grid may grow."""

import pytest
from optuna.trial import TrialState

from vesselflow.config.grid import Point
from vesselflow.orchestration.study import (
    categories,
    enqueue,
    open_storage,
    open_study,
    parameters,
)
from vesselflow.orchestration.tuner import Definition


def _points(*betas: float, extra: bool = False) -> list[Point]:
    params = [{"loss.name": "combined", "loss.beta": beta} for beta in betas]
    if extra:
        params.append({"loss.name": "bce"})  # a conditional axis that does not hold
    return [Point(n, f"p{n}", entry, None) for n, entry in enumerate(params)]  # type: ignore[arg-type]


def test_finished_points_enter_once(tmp_path):
    points = _points(0.25, 0.75)
    storage = open_storage(tmp_path / "study.journal")
    for _ in range(2):
        study = open_study(storage, "s", points, {"p0": 0.5})
    assert [(t.params["loss.beta"], t.value) for t in study.trials] == [(0.25, 0.5)]


def test_trials_that_a_killed_driver_left_open_are_closed(tmp_path):
    points = _points(0.25, 0.5, 0.75)
    storage = open_storage(tmp_path / "study.journal")
    study = open_study(storage, "s", points, {})
    enqueue(study, points)
    study.ask()  # one runs, two wait: then the driver dies
    study = open_study(storage, "s", points, {})
    assert [t.state for t in study.trials] == [TrialState.FAIL] * 3


def test_each_trial_asks_for_the_parameters_of_its_own_point(tmp_path):
    points = _points(0.25, 0.75, extra=True)
    study = open_study(open_storage(tmp_path / "study.journal"), "s", points, {})
    enqueue(study, [points[2], points[0]])
    define = Definition(
        {p.name: parameters(p) for p in points}, categories(points), {"broker": "b"}
    )
    first, second = study.ask(), study.ask()
    assert define(first) == {"point_name": "p2", "broker": "b"}
    assert first.params == {"loss.name": "bce"}
    assert define(second)["point_name"] == "p0"
    assert second.params == {"loss.name": "combined", "loss.beta": 0.25}


def test_a_grown_grid_is_another_study_in_the_same_journal(tmp_path):
    storage = open_storage(tmp_path / "study.journal")
    open_study(storage, "two", _points(0.25, 0.75), {"p0": 0.5, "p1": 0.6})
    grown = open_study(storage, "three", _points(0.25, 0.5, 0.75), {"p0": 0.5, "p2": 0.6})
    assert sorted(t.params["loss.beta"] for t in grown.trials) == [0.25, 0.75]


def test_a_space_without_axes_has_one_point_by_name():
    point = Point(0, "only", {}, None)  # type: ignore[arg-type]
    assert parameters(point) == {"point": "only"}
    assert categories([point]) == {"point": ["only"]}


def test_values_that_are_equal_but_of_other_types_are_two(tmp_path):
    points = [Point(n, f"p{n}", {"x": value}, None) for n, value in enumerate([1, True, 1.5])]  # type: ignore[arg-type]
    assert [type(value) for value in categories(points)["x"]] == [int, bool, float]


@pytest.mark.parametrize("value", [[1, 2], {"schedule": "linear"}])
def test_what_is_no_scalar_becomes_text(value):
    point = Point(0, "p", {"x": value}, None)  # type: ignore[arg-type]
    assert isinstance(parameters(point)["x"], str)
