"""Trainings that begin with given weights."""

from __future__ import annotations

import pytest
import training_cases as cases

EXPERIMENT = cases.tiny_experiment(
    train={"epochs": 2, "steps_per_epoch": 2, "ema": 0.9}, score={"epochs": "all"}
)


def test_given_weights_take_the_place_of_those_of_the_seed() -> None:
    first = cases.run_tiny(EXPERIMENT)
    second = cases.run_tiny(EXPERIMENT, initial=first.weights[2])
    assert second.weights[1] != first.weights[1]
    # The averaged weights begin there, too, and nothing else of the first training is taken on.
    assert second.last["ema"].keys() == first.last["ema"].keys()
    assert second.outcome.step == 4
    assert second.curve[0][2]["train/loss"] < first.curve[0][2]["train/loss"]
    assert cases.run_tiny(EXPERIMENT, initial=first.weights[2]).weights == second.weights


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_whoever_resumes_does_not_begin_again(stop_after: int) -> None:
    first = cases.run_tiny(EXPERIMENT).weights[1]
    whole = cases.run_tiny(EXPERIMENT, initial=first)
    part = cases.run_tiny(EXPERIMENT, initial=first, stop_after=stop_after)
    resumed = cases.run_tiny(EXPERIMENT, initial=first, resume=part.checkpoints[stop_after])
    assert {**part.weights, **resumed.weights} == whole.weights
