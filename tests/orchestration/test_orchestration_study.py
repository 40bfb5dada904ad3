"""The study: rebuilt at each start, asked for one point after another, left as a journal."""

from __future__ import annotations

import itertools
import json
import math
import pickle
import threading

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from vesselflow.config.grid import Point
from vesselflow.orchestration.relay import OBJECTIVE, Follower
from vesselflow.orchestration.study import Study, categories, parameters
from vesselflow.orchestration.tuner import PointSearch
from vesselflow.runs.objective import Objective
from vesselflow.sweeps.book import PointState

MEAN = Objective("dice", "max")


def _points(*betas: float, extra: bool = False) -> list[Point]:
    params = [{"loss.name": "combined", "loss.beta": beta} for beta in betas]
    if extra:
        params.append({"loss.name": "bce"})  # a conditional axis that does not hold
    return [Point(n, f"p{n}", entry, None) for n, entry in enumerate(params)]  # type: ignore[arg-type]


def _search(study: Study, *points: str, skip=lambda name: False, over=None) -> PointSearch:
    return PointSearch(study, points, {"broker": "b"}, skip, over or threading.Event())


def test_finished_points_enter_once():
    study = Study("s", _points(0.25, 0.75), {"p0": 0.5, "p1": math.nan})
    study.enter({"p0": 0.5})
    assert [(t.params["loss.beta"], t.value) for t in study.trials] == [(0.25, 0.5)]


def test_each_trial_asks_for_the_parameters_of_its_own_point():
    study = Study("s", _points(0.25, 0.75, extra=True), {})
    search = _search(study, "p2", "p0")
    assert search.suggest("t0") == {"point_name": "p2", "broker": "b", "loss.name": "bce"}
    assert search.suggest("t1")["point_name"] == "p0"
    assert [t.params for t in study.trials] == [
        {"loss.name": "bce"},
        {"loss.name": "combined", "loss.beta": 0.25},
    ]
    assert search.suggest("t2") == PointSearch.FINISHED


def test_no_more_points_wait_in_the_study_than_were_asked_for():
    study = Study("s", _points(*(n / 50 for n in range(50))), {})
    search = _search(study, *study.points)
    search.suggest("t0")
    search.suggest("t1")
    assert len(study.trials) == 2


def test_the_study_is_told_whole_points_once_and_no_epoch():
    study = Study("s", _points(0.25, 0.5, 0.75), {})
    search = _search(study, *study.points)
    for trial in ("t0", "t1", "t2"):
        search.suggest(trial)
        search.on_trial_result(trial, {OBJECTIVE: 0.1, "training_iteration": 1})
    search.on_trial_complete("t0", {OBJECTIVE: 0.5, "whole": True})
    search.on_trial_complete("t1", {OBJECTIVE: math.nan, "whole": True})
    search.on_trial_complete("t2", {OBJECTIVE: 0.7, "whole": False})
    assert [t.state for t in study.trials] == [
        TrialState.COMPLETE,
        TrialState.FAIL,
        TrialState.FAIL,
    ]
    assert [t.intermediate_values for t in study.trials] == [{}, {}, {}]
    study.enter({"p0": 0.5, "p2": 0.75})
    assert [t.value for t in study.trials if t.state is TrialState.COMPLETE] == [0.5, 0.75]


def test_points_that_are_done_meanwhile_and_a_stop_begin_no_trial():
    study = Study("s", _points(0.25, 0.5, 0.75), {})
    over = threading.Event()
    search = _search(study, *study.points, skip=lambda name: name == "p0", over=over)
    assert search.suggest("t0")["point_name"] == "p1"
    over.set()
    assert search.suggest("t1") == PointSearch.FINISHED


def test_the_journal_that_is_left_is_one_that_optuna_reads(tmp_path):
    study = Study("s", _points(0.25, 0.5, 0.75), {"p0": 0.5}, maximise=False)
    search = _search(study, "p1", "p2")
    search.suggest("t1")
    study.enqueue("p2")
    path = tmp_path / "study.journal"
    path.write_text("torn{")
    study.close({"p0": 0.5, "p2": 0.25}, path)
    read = optuna.load_study(study_name="s", storage=JournalStorage(JournalFileBackend(str(path))))
    assert [(t.state, t.value) for t in read.trials] == [
        (TrialState.COMPLETE, 0.5),
        (TrialState.FAIL, None),
        (TrialState.FAIL, None),
        (TrialState.COMPLETE, 0.25),
    ]
    assert read.best_value == 0.25


def test_tune_may_pickle_the_search():
    study = Study("s", _points(0.25), {})
    assert isinstance(pickle.loads(pickle.dumps(_search(study, "p0"))), PointSearch)


def test_the_journal_grows_with_the_number_of_points_and_not_with_its_square():
    def size(side: int) -> int:
        grid = itertools.product(range(side), range(8), range(8))
        points = [
            Point(n, f"p{n}", {"a": a, "b": b, "c": c}, None)  # type: ignore[arg-type]
            for n, (a, b, c) in enumerate(grid)
        ]
        study = Study("s", points, {point.name: 0.5 for point in points})
        return sum(len(json.dumps(entry)) for entry in study.journal.read_logs(0))

    assert size(8) < 4.5 * size(2)


def test_a_space_without_axes_has_one_point_by_name():
    point = Point(0, "only", {}, None)  # type: ignore[arg-type]
    assert parameters(point) == {"point": "only"}
    assert categories([point]) == {"point": ["only"]}


def test_values_that_are_equal_but_of_other_types_are_two():
    points = [Point(n, f"p{n}", {"x": value}, None) for n, value in enumerate([1, True, 1.5])]  # type: ignore[arg-type]
    assert [type(value) for value in categories(points)["x"]] == [int, bool, float]


@pytest.mark.parametrize("value", [[1, 2], {"schedule": "linear"}])
def test_what_is_no_scalar_becomes_text(value):
    point = Point(0, "p", {"x": value}, None)  # type: ignore[arg-type]
    assert isinstance(parameters(point)["x"], str)


def test_a_relay_reports_what_is_known_and_ends_with_its_point():
    state = PointState({"a", "b"}, {"a": 0.5}, {"b": 0.25}, set(), 3)
    whole = PointState({"a", "b"}, {"a": 0.5, "b": 0.75}, {"b": 0.25}, set(), 4)
    asked = []

    def watch(point, seen):
        asked.append(seen)
        return [(state, False), (None, False), (whole, False)][len(asked) - 1]

    follower = Follower(watch, "p", MEAN)
    assert follower.step() == {
        OBJECTIVE: 0.375,
        "runs_done": 1,
        "runs_failed": 0,
        "whole": False,
        "done": False,
    }
    last = follower.step()
    assert (last[OBJECTIVE], last["whole"], last["done"]) == (0.625, True, True)
    assert asked == [-1, 3, 3]


def test_a_relay_ends_when_the_sweep_is_stopped():
    state = PointState({"a"}, {}, {}, set(), 3)
    report = Follower(lambda point, seen: (state, True), "p", MEAN).step()
    assert report["done"]
    assert not report["whole"]
    assert math.isnan(report[OBJECTIVE])
    assert Follower(lambda point, seen: (None, True), "p", MEAN).step()["done"]
