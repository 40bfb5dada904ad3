"""Trainings that begin with given weights."""

from __future__ import annotations

import pytest
import torch
import training_cases as cases

from vesselflow.training import loop

EXPERIMENT = cases.tiny_experiment(
    train={"epochs": 2, "steps_per_epoch": 2, "ema": 0.9}, score={"epochs": "all"}
)


def test_given_weights_take_the_place_of_those_of_the_seed() -> None:
    first = cases.whole(EXPERIMENT)
    second = cases.run_tiny(EXPERIMENT, initial=first.weights[2])
    assert second.weights[1] != first.weights[1]
    # The averaged weights begin there, too, and nothing else of the first training is taken on.
    assert second.last["ema"].keys() == first.last["ema"].keys()
    assert second.outcome.step == 4
    assert second.curve[0][2]["train/loss"] < first.curve[0][2]["train/loss"]
    assert cases.run_tiny(EXPERIMENT, initial=first.weights[2]).weights == second.weights


@pytest.fixture(scope="module")
def begun() -> cases.Trace:
    return cases.run_tiny(EXPERIMENT, initial=cases.whole(EXPERIMENT).weights[1])


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_whoever_resumes_does_not_begin_again(begun: cases.Trace, stop_after: int) -> None:
    first = cases.whole(EXPERIMENT).weights[1]
    part = cases.run_tiny(EXPERIMENT, initial=first, stop_after=stop_after)
    resumed = cases.run_tiny(EXPERIMENT, initial=first, resume=part.checkpoints[stop_after])
    assert {**part.weights, **resumed.weights} == begun.weights


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("clip_norm", [None, 0.01])
def test_weights_that_no_loss_reaches_decay_like_all_others(
    monkeypatch: pytest.MonkeyPatch, micro_batches: int, clip_norm: float | None
) -> None:
    """Their gradient is zero, which an optimizer treats otherwise than none."""
    build = loop.build_model

    def with_unused(*args):
        model = build(*args)
        model.register_parameter("unused", torch.nn.Parameter(torch.ones(3)))
        return model

    monkeypatch.setattr(loop, "build_model", with_unused)
    trace = cases.run_tiny(
        cases.tiny_experiment(
            optimizer={"name": "adamw", "lr": 0.1, "weight_decay": 0.5},
            schedule={"name": "constant"},
            train={
                "epochs": 1,
                "steps_per_epoch": 2,
                "micro_batches_per_step": micro_batches,
                "clip_norm": clip_norm,
                "ema": None,
            },
        )
    )
    expected = torch.full((3,), (1 - 0.1 * 0.5) ** 2)
    torch.testing.assert_close(trace.model["unused"], expected)
