"""How fast runs are: which are alike, what finished ones tell, what the simulation gets of it."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "training"))
import training_cases as cases

from vesselflow.runs.cells import Job
from vesselflow.sweeps.pace import (
    Pace,
    given_pace,
    interval,
    joined,
    kind_of,
    noted_pace,
    run_model,
    spread,
)
from vesselflow.sweeps.simulation_model import Timeline


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    stores = cases.tiny_stores(tmp_path_factory.mktemp("stores"))
    found: Job = cases.run_b(cases.tiny_domains(stores, "b"))
    return found


SAME = (
    {"optimizer": {"lr": 0.5}},
    {"schedule": {"name": "constant"}},
    {"train": {"epochs": 7}},
    {"train": {"ema": 0.99}},
    {"data": {"unlabelled": "u"}},  # nobody looks
)
OTHER = (
    {"model": {"name": "wnet", "filters": [4, 16]}},
    {"train": {"micro_batch_size": 4}},
    {"train": {"ema": None}},
    {"data": {"working_size_px": 96}},
    {"loss": {"name": "fuzzy"}},
    {"augment": {"hflip": {}}},
    {"data": {"unlabelled": "u"}, "train": {"domain_weight": 0.5}},
    {"train": {"stack": "first/base"}},
    {"train": {"recompute": True}},
)


@pytest.mark.parametrize("change", SAME)
def test_numbers_that_change_no_work_make_no_kind(change: dict[str, Any]) -> None:
    assert kind_of(cases.tiny_experiment(**change)) == kind_of(cases.tiny_experiment())


@pytest.mark.parametrize("change", OTHER)
def test_what_changes_the_work_is_another_kind(change: dict[str, Any]) -> None:
    assert kind_of(cases.tiny_experiment(**change)) != kind_of(cases.tiny_experiment())


def _noted(**changes: Any) -> dict[str, Any]:
    return {
        "machine": "local",
        "steps": 6.0,
        "train_s": 3.0,
        "evaluate_s": 2.0,
        "start_s": 0.25,
        **changes,
    }


def test_a_finished_run_tells_its_pace(job: Job) -> None:
    images = sum(len(evaluation.domain.sources) for evaluation in job.evaluations)
    pace = noted_pace(job, [_noted(), _noted(steps=2.0, train_s=2.0)], "local")
    assert pace is not None
    assert pace.step_s == 5 / 8
    assert pace.image("a") == pace.image("b") == 4 / images
    assert (pace.start_s, pace.steps) == (0.25, 8)


@pytest.mark.parametrize(
    "noted",
    [
        [],
        [_noted(machine="aws:m5.large")],
        [_noted(), _noted(machine="aws:m5.large")],
        [_noted(steps=0.0)],
        [_noted(train_s=math.nan)],
        [{"machine": "local"}],
    ],
)
def test_others_tell_nothing(job: Job, noted: list[dict[str, Any]]) -> None:
    assert noted_pace(job, noted, "local") is None


def test_paces_are_joined_by_their_medians() -> None:
    paces = [Pace(step, {"a": step}, start_s=step, steps=3) for step in (1.0, 2.0, 9.0)]
    assert joined(paces) == Pace(2.0, {"a": 2.0}, start_s=2.0, steps=9)
    assert spread(paces[:1]) == 0
    assert spread([Pace(1.0), Pace(math.e)]) == pytest.approx(math.sqrt(0.5))


def test_a_given_speed_guesses_the_scoring(job: Job) -> None:
    experiment = cases.tiny_experiment(train={"micro_batch_size": 2, "micro_batches_per_step": 2})
    assert given_pace(4.0, experiment).image("any") == pytest.approx(0.35)
    flips = experiment.model_copy(
        update={"score": experiment.score.model_copy(update={"tta": "flips"})}
    )
    assert given_pace(4.0, flips).image("any") == pytest.approx(4 * 0.35)


def test_a_run_takes_its_steps_its_scores_and_its_pictures(job: Job) -> None:
    pace = Pace(2.0, {"a": 1.0, "b": 3.0}, start_s=5.0, save_s=0.0)
    run = run_model(job, pace, steps=6, trained=False, mean_life_s=math.inf)
    images = {
        (evaluation.epoch, evaluation.domain.role): len(evaluation.domain.sources)
        * pace.image(evaluation.domain.store)
        for evaluation in job.evaluations
    }
    scored_s = sum(images.values())
    pictures_s = 2 * (1.0 + 1.0 + 3.0)
    assert Timeline(run, 0).end_s == pytest.approx(5 + 12 + scored_s + pictures_s)
    trained = run_model(job, pace, steps=6, trained=True, mean_life_s=math.inf)
    assert Timeline(trained, 0).end_s == pytest.approx(5 + scored_s + pictures_s)


def test_checkpoints_are_as_frequent_as_losses_make_it_worth() -> None:
    assert interval(0.5, math.inf, 600) == pytest.approx(math.sqrt(2 * 0.5 * 3600))
    assert interval(0.5, 1800, 600) == pytest.approx(math.sqrt(2 * 0.5 * 1800))
    assert interval(0.001, 3600, 600) == 30
    assert interval(0.001, 3600, 10) == 10
    assert interval(1000, 3600, 600) == 600


def test_a_run_without_a_store_in_its_pace_takes_the_usual_time() -> None:
    assert Pace(1.0, {"": 2.0, "a": 3.0}).image("b") == 2.0
    assert Pace(1.0).image("b") == 0.0
    assert replace(Pace(1.0), image_s={"a": 1.0}).image("a") == 1.0
