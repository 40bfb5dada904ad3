"""What every registered metric has to keep; a new one is held to it by being registered."""

from __future__ import annotations

import math

import numpy as np
import pytest
from contract_parts import metric_example
from hypothesis import given, settings
from hypothesis import strategies as st

from vesselflow.metrics import METRICS
from vesselflow.metrics.histogram import Histogram, score

NAMES = METRICS.names()

#: Logits and target of an image.
IMAGES = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=40)


def value(name: str, histogram: Histogram, threshold: float | None = 0.0) -> float:
    return score(histogram, threshold, [name])[name]


def image(pixels: list[tuple[int, bool]]) -> Histogram:
    logits = np.array([logit for logit, _ in pixels], np.float32)
    return Histogram.of(logits, np.array([truth for _, truth in pixels], np.uint8))


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=60)
@given(pixels=IMAGES, threshold=st.sampled_from([-math.inf, -1.0, 0.0, 1.0, math.inf]))
def test_in_its_range_or_undefined(
    name: str, pixels: list[tuple[int, bool]], threshold: float
) -> None:
    metric = METRICS.metric(name)
    found = value(name, image(pixels), threshold)
    assert math.isnan(found) or metric.low <= found <= metric.high


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=40)
@given(pixels=IMAGES, times=st.integers(2, 5))
def test_order_and_number_of_equal_pixels_do_not_matter(
    name: str, pixels: list[tuple[int, bool]], times: int
) -> None:
    one = value(name, image(pixels))
    others = [image(pixels[::-1]), image(pixels * times), Histogram.sum([image(pixels)] * times)]
    for other in others:
        assert value(name, other) == pytest.approx(one, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("name", NAMES)
def test_a_perfect_answer_has_the_best_value_and_a_wrong_one_a_worse(name: str) -> None:
    metric = METRICS.metric(name)
    truth = np.array([0, 0, 0, 1, 1], np.uint8)
    right = value(name, Histogram.of(np.where(truth, 2.0, -2.0).astype(np.float32), truth))
    wrong = value(name, Histogram.of(np.where(truth, -2.0, 2.0).astype(np.float32), truth))
    best = metric.high if metric.direction == "max" else metric.low
    assert right == pytest.approx(best, abs=1e-12)
    assert wrong < right if metric.direction == "max" else wrong > right


@pytest.mark.parametrize("name", NAMES)
def test_no_pixel_and_a_logit_that_is_none_are_undefined(name: str) -> None:
    assert math.isnan(value(name, Histogram.empty()))
    broken = Histogram.of(np.array([1, np.nan, -1], np.float32), np.array([1, 0, 0], np.uint8))
    assert math.isnan(value(name, broken))


@pytest.mark.parametrize("name", NAMES)
def test_it_needs_a_threshold_if_it_says_so(name: str) -> None:
    found = {value(name, metric_example(), threshold) for threshold in (1.0, 2.0, 3.0, 4.0, 5.0)}
    needs = METRICS.metric(name).thresholded
    assert (len(found) > 1) == needs
    assert math.isnan(value(name, metric_example(), None)) == needs


@pytest.mark.parametrize("name", [one for one in NAMES if METRICS.metric(one).thresholded])
def test_many_thresholds_at_once_are_each_by_itself(name: str) -> None:
    thresholds = np.array([-math.inf, 1.0, 2.5, 4.0, math.inf])
    together = METRICS.part(name).load()(metric_example(), thresholds)
    assert together.shape == thresholds.shape
    for at, found in zip(thresholds, together, strict=True):
        assert value(name, metric_example(), float(at)) == pytest.approx(
            float(found), abs=1e-12, nan_ok=True
        )


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_tables_need(name: str) -> None:
    metric = METRICS.metric(name)
    assert metric.label
    assert metric.undefined
    assert metric.digits > 0
    assert metric.low < metric.high
