"""What every registered task promises: states that add up, scores by name, pictures."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from vesselflow.config.experiment import load_experiment
from vesselflow.feed.batches import WholeImage
from vesselflow.metrics.registry import names_of
from vesselflow.runs.protocols import Protocol
from vesselflow.runs.registries import REGISTRIES
from vesselflow.stores.keypoints import Keypoints as NativeKeypoints
from vesselflow.targets.keypoints import Keypoints
from vesselflow.tasks import TASKS
from vesselflow.tasks.spec import TaskSpec
from vesselflow.tasks.task import Task, build_task

EXPERIMENT = load_experiment({"data": {"train": "a"}}, registries=REGISTRIES)
#: (classes, axes)
CASES = [("one",), ("one", "two")]
SHAPES = {2: (64, 32), 3: (16, 32, 32)}


@pytest.fixture(params=TASKS.names())
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=itertools.product(CASES, SHAPES), ids=str)
def spec(name: str, request: pytest.FixtureRequest) -> TaskSpec:
    classes, axes = request.param
    keypoints = TASKS.task(name).kind == "keypoint"
    factor = (4,) * axes if keypoints else (1,) * axes
    widths = ((1.0,) * axes,) * len(classes) if keypoints else None
    return TaskSpec(name, 1, classes, axes, factor, ds_sigma=widths)


@pytest.fixture
def task(spec: TaskSpec) -> Task[Any]:
    return build_task(spec)


@pytest.fixture
def protocol(spec: TaskSpec) -> Protocol:
    part = TASKS.task(spec.name)
    radius = ("voxels", (4.0,) * len(spec.classes)) if part.kind == "keypoint" else None
    return Protocol(
        "best", part.objective, "none", task=part.name, classes=spec.classes, radius=radius
    )


def image_of(spec: TaskSpec, seed: int) -> WholeImage:
    random, shape = np.random.default_rng(seed), SHAPES[spec.axes]
    keypoints = TASKS.task(spec.name).kind == "keypoint"
    count, classes = 6, len(spec.classes)
    planes = (random.random((classes, *shape)) < 0.2).astype(np.uint8)
    fov = np.ones(shape, np.uint8)
    fov[:2] = 0
    return WholeImage(
        source_id=f"s{seed}",
        group="g",
        image=random.random((1, *shape)).astype(np.float32),
        fov_working=fov,
        centre=np.zeros(1, np.float32),
        scale=np.ones(1, np.float32),
        target=planes[:0] if keypoints else planes[0] if classes == 1 else planes,
        fov=fov,
        box=(0,) * spec.axes + shape,
        inner=shape,
        offset=(0,) * spec.axes,
        keypoints=NativeKeypoints(
            random.random((count, spec.axes)) * (np.array(shape) - 8) + 4,
            random.integers(0, classes, count).astype(np.int32),
        )
        if keypoints
        else None,
        spacing_um=(1e-3,) * spec.axes,
    )


class Noise(nn.Module):
    """Logits that hang on the image alone, of the task's grid."""

    def __init__(self, spec: TaskSpec) -> None:
        super().__init__()
        self._spec = spec

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        coarse = image[(..., *(slice(None, None, step) for step in self._spec.ds_factor))]
        return torch.cat([8 * coarse - 4 - kind for kind, _ in enumerate(self._spec.classes)], 1)


def predicted(task: Task[Any], protocol: Protocol, whole: WholeImage) -> Any:
    return task.predict(
        Noise(task.spec).eval(), whole, EXPERIMENT, protocol, device="cpu", dataset_statistics=None
    )


def states(task: Task[Any], protocol: Protocol, count: int = 3) -> list[Any]:
    wholes = [image_of(task.spec, seed) for seed in range(count)]
    return [task.state(predicted(task, protocol, whole), whole, protocol) for whole in wholes]


def same(one: dict[str, float], other: dict[str, float]) -> bool:
    return list(one) == list(other) and np.array_equal(
        list(one.values()), list(other.values()), equal_nan=True
    )


def test_it_says_what_planning_needs(name: str) -> None:
    part = TASKS.task(name)
    assert part.objective in part.metrics.choosing()
    assert part.kind in ("patch", "keypoint")
    assert TASKS.judging(part.objective).name == name


def test_states_add_up_in_any_order(task: Task[Any], protocol: Protocol) -> None:
    each = states(task, protocol)
    pooled = task.pooled(iter(each))
    names = protocol.metrics.names()
    thresholds = task.thresholds(pooled, protocol)
    assert len(thresholds) == len(task.spec.classes)
    expected = dict(task.scores(pooled, thresholds, names))
    for order in ([2, 0, 1], [1, 2, 0]):
        other = task.pooled(each[index] for index in order)
        assert task.thresholds(other, protocol) == thresholds
        assert same(dict(task.scores(other, thresholds, names)), expected)
    alone = task.pooled([each[0]])
    assert same(
        dict(task.scores(alone, thresholds, names)),
        dict(task.scores(each[0], thresholds, names)),
    )


def test_scores_stand_by_name_and_class(task: Task[Any], protocol: Protocol) -> None:
    (state,) = states(task, protocol, 1)
    thresholds = task.thresholds(state, protocol)
    names = protocol.metrics.names()
    found = task.scores(state, thresholds, names)
    assert list(found) == names_of(names, task.spec.classes)
    some = task.scores(state, thresholds, names[1:2])
    assert same(dict(some), {key: found[key] for key in some})
    for name in names:
        metric, value = protocol.metrics.metric(name), found[name]
        assert math.isnan(value) or metric.low <= value <= metric.high


def test_nothing_pooled_has_no_threshold_and_no_score(task: Task[Any], protocol: Protocol) -> None:
    pooled = task.pooled([])
    thresholds = task.thresholds(pooled, protocol)
    assert all(map(math.isnan, thresholds))
    objective = TASKS.task(task.spec.name).objective
    assert all(map(math.isnan, task.scores(pooled, thresholds, [objective]).values()))


def test_the_best_threshold_is_at_least_as_good_as_any_other(
    task: Task[Any], protocol: Protocol
) -> None:
    pooled = task.pooled(states(task, protocol))
    objective = TASKS.task(task.spec.name).objective
    best = task.scores(pooled, task.thresholds(pooled, protocol), [objective])
    for logit in np.linspace(-6, 4, 21):
        others = task.scores(pooled, (float(logit),) * len(task.spec.classes), [objective])
        for name, value in others.items():
            assert math.isnan(value) or value <= best[name] + 1e-12


def test_supervision_is_on_the_grid_of_the_logits(task: Task[Any]) -> None:
    shape, classes = SHAPES[task.spec.axes], len(task.spec.classes)
    keypoints = TASKS.task(task.spec.name).kind == "keypoint"
    points = Keypoints(
        torch.rand(5, task.spec.axes, dtype=torch.float64) * 16,
        torch.tensor([0, 0, 1, 1, 1]),
        torch.zeros(5, dtype=torch.int64),
    )
    target = torch.rand(2, 0 if keypoints else classes, *shape)
    found, fov = task.supervise(
        target, torch.ones(2, 1, *shape), points if keypoints else None, None
    )
    cells = tuple(side // step for side, step in zip(shape, task.spec.ds_factor, strict=True))
    assert found.shape == (2, classes, *cells)
    assert fov.shape == (2, 1, *cells)
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert set(fov.unique().tolist()) <= {0.0, 1.0}


def test_a_picture_is_of_native_size(task: Task[Any], protocol: Protocol) -> None:
    whole = image_of(task.spec, 0)
    thresholds = (0.0,) * len(task.spec.classes)
    seen = task.picture(predicted(task, protocol, whole), whole, thresholds, protocol)
    for array in (seen.probability, seen.prediction, seen.target):
        assert array.shape == whole.fov.shape
    assert 0 <= seen.probability.min() <= seen.probability.max() <= 1
    assert seen.target.any()
    # A class that is predicted is seen, whatever the others do.
    one_alone = (-100.0, *[math.inf] * (len(task.spec.classes) - 1))
    for limits in (one_alone, one_alone[::-1]):
        assert task.picture(
            predicted(task, protocol, whole), whole, limits, protocol
        ).prediction.any()
    nothing = (math.inf,) * len(task.spec.classes)
    assert not task.picture(
        predicted(task, protocol, whole), whole, nothing, protocol
    ).prediction.any()
