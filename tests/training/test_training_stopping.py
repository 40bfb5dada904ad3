"""Early stopping: what it looks at, when it ends a training, and that a kill changes nothing."""

from __future__ import annotations

import math

import pytest
import training_cases as cases
from hypothesis import given
from hypothesis import strategies as st

from vesselflow.config.experiment import Stop
from vesselflow.tasks.spec import TaskSpec
from vesselflow.training.loop import Hooks
from vesselflow.training.stopping import Patience, waited

NAN = math.nan


@pytest.mark.parametrize(
    ("scores", "threshold", "rises", "count"),
    [
        ([], 0.0, True, 0),
        ([0.5], 0.0, True, 0),
        ([0.5, 0.6, 0.6, 0.59], 0.0, True, 2),
        ([0.5, 0.4, 0.51], 0.0, True, 0),
        ([0.5, 0.4, 0.51], 0.02, True, 2),
        # Small steps that add up are seen: the best one stays the one that they are held against.
        ([0.5, 0.51, 0.52, 0.53], 0.025, True, 0),
        ([0.5, 0.4, 0.3], 0.0, False, 0),
        ([0.3, 0.4, 0.3], 0.0, False, 2),
        ([NAN, NAN], 0.0, True, 2),
        ([NAN, 0.1], 0.0, True, 0),
        ([0.5, NAN, 0.6], 0.0, True, 0),
        ([0.5, NAN, 0.5], 0.0, True, 2),
    ],
)
def test_scores_that_are_no_better_are_counted(scores, threshold, rises, count) -> None:
    assert waited(scores, threshold, rises=rises) == count


@given(st.lists(st.floats(0, 1), min_size=1), st.floats(0, 1))
def test_a_mirrored_score_waits_as_long(scores: list[float], threshold: float) -> None:
    assert waited(scores, threshold, rises=True) == waited(
        [-score for score in scores], threshold, rises=False
    )
    # What waits counts back to the best one.
    count = waited(scores, 0.0, rises=True)
    assert scores.index(max(scores)) == len(scores) - 1 - count


def test_the_task_says_which_score_where_none_is_named() -> None:
    assert Patience.of(Stop(patience=2), TaskSpec()).metric == "dice"
    keypoints = TaskSpec("keypoints", 1, ("a",), 3, (2, 2, 2), ds_sigma=((1.0,) * 3,))
    assert Patience.of(Stop(patience=2), keypoints).metric == "f1"
    error = Patience.of(Stop(patience=1, metric="error_voxels"), keypoints)
    assert not error.rises
    assert not error.over({"val/error_voxels": 0.3, "val/f1": 0.9})
    assert not error.over({"val/error_voxels": 0.2, "val/f1": 0.1})
    assert error.over({"val/error_voxels": 0.25, "val/f1": 0.95})


SCORES = {1: 0.5, 2: 0.6, 3: 0.6, 4: 0.55, 5: 0.9, 6: 0.9}


def trained(stop: dict | None, **settings) -> cases.Trace:
    experiment = cases.tiny_experiment(
        train={"epochs": 6, "steps_per_epoch": 2, "micro_batches_per_step": 1, "stop": stop},
        score={"epochs": "all"},
    )
    asked: list[int] = []

    def score(model, epoch: int, step: int) -> dict[str, float]:
        asked.append(epoch)
        return {"val/dice": SCORES[epoch]}

    trace = cases.run_tiny(experiment, hooks=Hooks(score=score), **settings)
    trace.asked = asked
    return trace


@pytest.fixture(scope="module")
def undisturbed() -> cases.Trace:
    return trained({"patience": 2})


def test_a_training_ends_where_its_score_gets_no_better(undisturbed: cases.Trace) -> None:
    whole, ended = trained(None), undisturbed
    assert (whole.outcome.finished, whole.outcome.stopped_epoch, whole.outcome.step) == (
        True,
        None,
        12,
    )
    assert (ended.outcome.finished, ended.outcome.stopped_epoch, ended.outcome.step) == (True, 4, 8)
    assert ended.asked == [1, 2, 3, 4]
    assert [epoch for epoch, _, _ in ended.curve] == [1, 2, 3, 4]
    # Until then it is the same training, and the epochs that are left have its last weights.
    assert sorted(ended.weights) == [1, 2, 3, 4, 5, 6]
    for epoch in SCORES:
        assert ended.weights[epoch] == whole.weights[min(epoch, 4)]
    assert whole.weights[5] != whole.weights[4]


def test_a_training_that_waits_long_enough_goes_to_its_end() -> None:
    trace = trained({"patience": 3})
    assert (trace.outcome.finished, trace.outcome.stopped_epoch, trace.outcome.step) == (
        True,
        None,
        12,
    )


@pytest.mark.parametrize("stop_after", range(1, 9))
def test_a_training_that_was_interrupted_ends_at_the_same_epoch(
    undisturbed: cases.Trace, stop_after: int
) -> None:
    first = trained({"patience": 2}, stop_after=stop_after)
    assert not first.outcome.finished
    resumed = trained({"patience": 2}, resume=first.checkpoints[stop_after])
    assert resumed.outcome.finished
    assert resumed.outcome.stopped_epoch == 4
    assert {**first.weights, **resumed.weights} == undisturbed.weights
    assert cases.differences(resumed.model, undisturbed.model) == []


def test_whoever_was_killed_after_its_last_score_ends_there_again(
    undisturbed: cases.Trace,
) -> None:
    """The state is kept before the epoch is scored: its score is made again."""
    resumed = trained({"patience": 2}, resume=undisturbed.checkpoints[8])
    assert resumed.asked == [4]
    assert (resumed.outcome.finished, resumed.outcome.stopped_epoch) == (True, 4)
