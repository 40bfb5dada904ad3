"""Metrics against hand-computed values, scikit-learn and their own identities."""

import math
import pickle
import time
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from vesselflow.errors import ShapeError, UserError
from vesselflow.metrics import METRICS
from vesselflow.metrics.histogram import (
    LEVELS,
    Histogram,
    best_threshold,
    fraction,
    level,
    quantise,
    score,
)
from vesselflow.metrics.summary import nanmean_count

NAMES = METRICS.names()
quick = settings(deadline=None, max_examples=40)
seeds = st.integers(0, 2**31)


def image(seed: int, shape: tuple[int, ...] = (24, 31)) -> tuple[np.ndarray, ...]:
    """Probabilities that know something of the target, with many ties at the ends; target; fov."""
    rng = np.random.default_rng(seed)
    target = (rng.random(shape) < 0.25).astype(np.uint8)
    probability = np.clip(0.25 + 0.3 * target + 0.3 * rng.standard_normal(shape), 0, 1)
    fov = (rng.random(shape) < 0.8).astype(np.uint8)
    return probability.astype(np.float32), target, fov


def by_hand() -> Histogram:
    """Levels 10 20 20 30 40 40 with target 0 0 1 1 0 1."""
    levels = np.array([10, 20, 20, 30, 40, 40], np.uint16)
    return Histogram.of(levels, np.array([0, 0, 1, 1, 0, 1], np.uint8))


#: (name, version) -> score of `by_hand()` at 30, where 30 40 40 are predicted: TP 2, FP 1, FN 1,
#: TN 2. A change of a number here changes published scores: it needs a new version.
GOLDEN = {
    ("dice", 1): 4 / 6,
    ("iou", 1): 2 / 4,
    ("sensitivity", 1): 2 / 3,
    ("specificity", 1): 2 / 3,
    ("accuracy", 1): 4 / 6,
    ("mcc", 1): (4 - 1) / 9,
    # Pairs (positive, negative) won, ties half: 20: 1 + 1/2; 30: 2; 40: 2 + 1/2; of 9.
    ("roc_auc", 1): 6 / 9,
    # From the top: 40: recall +1/3 at precision 1/2; 30: +1/3 at 2/3; 20: +1/3 at 3/5.
    ("pr_auc", 1): (1 / 2 + 2 / 3 + 3 / 5) / 3,
}


def test_scores_by_hand() -> None:
    found = score(by_hand(), 30)
    versions = {part.name: part.version for part in METRICS}
    assert list(found) == NAMES
    assert {(name, versions[name]): value for name, value in found.items()} == pytest.approx(
        GOLDEN, abs=1e-15
    )


def test_a_level_at_the_threshold_is_predicted() -> None:
    assert score(by_hand(), 40, ["sensitivity"]) == {"sensitivity": 1 / 3}
    assert score(by_hand(), 41, ["sensitivity"]) == {"sensitivity": 0.0}
    assert score(by_hand(), 0, ["sensitivity", "specificity"]) == {
        "sensitivity": 1.0,
        "specificity": 0.0,
    }


# ---- against scikit-learn -----------------------------------------------------------------------


def reference(values: np.ndarray, target: np.ndarray, threshold: float) -> dict[str, float]:
    predicted = values >= threshold
    return {
        "dice": sk.f1_score(target, predicted),
        "iou": sk.jaccard_score(target, predicted),
        "sensitivity": sk.recall_score(target, predicted),
        "specificity": sk.recall_score(target, predicted, pos_label=0),
        "accuracy": sk.accuracy_score(target, predicted),
        "mcc": sk.matthews_corrcoef(target, predicted),
        "roc_auc": sk.roc_auc_score(target, values),
        "pr_auc": sk.average_precision_score(target, values),
    }


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_scores_equal_scikit_learn(seed: int, threshold: float) -> None:
    probability, target, fov = image(seed, (60, 50))
    inside = fov > 0
    levels = quantise(probability)
    at = level(threshold)
    found = score(Histogram.of(levels, target, fov), at)
    exact = reference(levels[inside].astype(int), target[inside], at)
    assert found == pytest.approx(exact, abs=1e-12)
    # On the floats themselves, only pixels within half a level of the threshold may change sides.
    assert found == pytest.approx(
        reference(probability[inside].astype(float), target[inside], threshold), abs=1e-4
    )


# ---- undefined is NaN ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "levels", "undefined"),
    [
        # no positives, none predicted
        ([0, 0], [1, 2], {"dice", "iou", "sensitivity", "mcc", "roc_auc", "pr_auc"}),
        # no positives, one predicted: dice and iou are 0
        ([0, 0], [1, 900], {"sensitivity", "mcc", "roc_auc", "pr_auc"}),
        # no negatives
        ([1, 1], [1, 900], {"specificity", "mcc", "roc_auc", "pr_auc"}),
        # both classes, nothing predicted: dice is 0
        ([0, 1], [1, 2], {"mcc"}),
        ([], [], set(NAMES)),
    ],
)
def test_undefined_is_nan_without_a_warning(
    target: list[int], levels: list[int], undefined: set[str]
) -> None:
    histogram = Histogram.of(np.array(levels, np.uint16), np.array(target, np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = score(histogram, 500)
    assert {name for name, value in found.items() if math.isnan(value)} == undefined


def test_nan_probabilities_are_counted_and_make_every_score_nan() -> None:
    probability, target, fov = image(0)
    fov[:3] = 0
    probability[:3] = np.nan  # outside the fov: of no consequence
    assert Histogram.of(probability, target, fov).undefined == 0
    fov[0, :2] = 1
    histogram = Histogram.of(probability, target, fov)
    assert histogram.undefined == 2
    assert all(math.isnan(value) for value in score(histogram, 100).values())
    assert best_threshold(histogram) is None
    assert (histogram + by_hand()).undefined == 2
    with pytest.raises(ValueError, match="93 of 744 probabilities are NaN"):
        quantise(probability)


def test_undefined_threshold_leaves_the_ranking_scores() -> None:
    found = score(by_hand(), None)
    assert {name for name, value in found.items() if not math.isnan(value)} == {
        "roc_auc",
        "pr_auc",
    }


# ---- quantising and counting --------------------------------------------------------------------


def test_quantise_rounds_to_the_nearest_level() -> None:
    values = np.array([0.0, 1.0, 0.5, 1 / 65535, 1.4 / 65535, 1.6 / 65535])
    assert quantise(values).tolist() == [0, 65535, 32768, 1, 1, 2]
    assert quantise(np.array([1 + 1e-7, -1e-7], np.float32)).tolist() == [65535, 0]
    assert quantise(np.array([1.0, 0.25], np.float16)).tolist() == [65535, 16384]
    assert quantise(np.empty((0, 3))).shape == (0, 3)


@pytest.mark.parametrize("bad", [1.001, -0.001, np.inf, 7.0])
def test_quantise_refuses_what_is_no_probability(bad: float) -> None:
    with pytest.raises(ValueError, match=r"not in \[0, 1\]"):
        quantise(np.array([0.5, bad]))


@quick
@given(st.integers(0, LEVELS - 1))
def test_levels_and_table_thresholds_convert_both_ways(threshold: int) -> None:
    assert level(fraction(threshold)) == threshold
    assert quantise(np.array([fraction(threshold)]))[0] == threshold


def test_undefined_thresholds_convert_both_ways() -> None:
    assert math.isnan(fraction(None))
    assert level(math.nan) is None
    with pytest.raises(ValueError, match=r"at 1\.5"):
        level(1.5)


def test_wrong_arrays_are_refused() -> None:
    probability, target, fov = image(0)
    with pytest.raises(ShapeError):
        Histogram.of(probability, target[1:], fov)
    with pytest.raises(ShapeError):
        Histogram.of(probability, target, fov[1:])
    with pytest.raises(ValueError, match="target should hold 0 and 1"):
        Histogram.of(probability, target * 255, fov)
    with pytest.raises(ValueError, match="target should hold 0 and 1"):
        Histogram.of(probability, target * 0.5, fov)
    with pytest.raises(ValueError, match="fov should hold 0 and 1"):
        Histogram.of(probability, target, fov * 255)
    with pytest.raises(ValueError, match="uint16 levels or floats"):
        Histogram.of(target, target, fov)
    for bad in (-1, LEVELS):
        with pytest.raises(ValueError, match="a level lies in"):
            score(by_hand(), bad)


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int64, np.float32])
def test_any_type_of_mask_counts_the_same(dtype: type) -> None:
    probability, target, fov = image(1)
    expected = Histogram.of(quantise(probability), target, fov)
    assert Histogram.of(probability, target.astype(dtype), fov.astype(dtype)) == expected
    assert Histogram.of(probability[..., None], target[..., None], fov[..., None]) == expected
    assert expected.positives.dtype == expected.negatives.dtype == np.int64
    assert int(expected.positives.sum()) == int((target * fov).sum())
    assert pickle.loads(pickle.dumps(expected)) == expected


def test_strided_arrays_count_the_same() -> None:
    probability, target, fov = image(2)
    turned = [np.ascontiguousarray(array.T).T for array in (probability, target, fov)]
    assert Histogram.of(*turned) == Histogram.of(probability, target, fov)


@quick
@given(seed=seeds)
def test_histograms_add_up_to_the_pooled_image(seed: int) -> None:
    images = [image(seed + i) for i in range(3)]
    each = [Histogram.of(*one) for one in images]
    pooled = Histogram.of(*(np.concatenate(arrays) for arrays in zip(*images, strict=True)))
    assert each[0] + each[1] + each[2] == pooled == Histogram.sum(each)
    assert Histogram.sum([]) == Histogram.empty()


@quick
@given(seed=seeds, axis=st.sampled_from([0, 1, (0, 1)]))
def test_flips_change_no_score(seed: int, axis: int | tuple[int, int]) -> None:
    arrays = image(seed)
    assert Histogram.of(*(np.flip(array, axis) for array in arrays)) == Histogram.of(*arrays)


@quick
@given(seed=seeds, threshold=st.integers(0, LEVELS - 1))
def test_identities(seed: int, threshold: int) -> None:
    histogram = Histogram.of(*image(seed))
    found = score(histogram, threshold)
    assert found["dice"] == pytest.approx(2 * found["iou"] / (1 + found["iou"]), abs=1e-12)
    ranged = {name: value for name, value in found.items() if name != "mcc"}
    assert all(0 <= value <= 1 for value in ranged.values())
    assert math.isnan(found["mcc"]) or -1 <= found["mcc"] <= 1
    swapped = Histogram(histogram.negatives[::-1], histogram.positives[::-1])
    assert score(swapped, 0, ["roc_auc"])["roc_auc"] == pytest.approx(found["roc_auc"], abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_array_of_thresholds_equals_one_by_one(name: str) -> None:
    histogram = Histogram.of(*image(3))
    metric = METRICS.part(name).load()
    levels = np.array([[0, 5, 20000], [32768, 65000, 65535]])
    many = np.broadcast_to(metric(histogram, levels), levels.shape)
    each = [[float(metric(histogram, int(t))) for t in row] for row in levels]
    np.testing.assert_array_equal(many, each)


def test_mcc_of_a_large_pool_does_not_overflow() -> None:
    big = Histogram.of(*image(4))
    pool = Histogram(big.positives * 10**8, big.negatives * 10**8)
    one, many = score(big, 30000), score(pool, 30000)
    assert many == pytest.approx(one, rel=1e-9)


# ---- choosing a threshold -----------------------------------------------------------------------


def test_best_threshold_by_hand() -> None:
    # Dice at <=10: 6/9, at 11..20: 6/8, at 21..30: 4/6, at 31..40: 2/5, above: 0.
    # Best on 11..20, middle 15.
    assert best_threshold(by_hand()) == 15


def test_best_threshold_takes_the_longest_of_equal_plateaus() -> None:
    # Accuracy is 3/4 on 11..20 (all but the lowest) and on 31..100 (only the highest), 2/4 between.
    histogram = Histogram.of(
        np.array([10, 20, 30, 100], np.uint16), np.array([0, 1, 0, 1], np.uint8)
    )
    assert score(histogram, 15, ["accuracy"]) == score(histogram, 65, ["accuracy"])
    assert best_threshold(histogram, "accuracy") == 65


def test_best_threshold_of_a_perfect_ranking_is_in_the_middle_of_the_gap() -> None:
    histogram = Histogram.of(np.array([100, 1000], np.uint16), np.array([0, 1], np.uint8))
    assert best_threshold(histogram) == (101 + 1000) // 2


@pytest.mark.parametrize("metric", ["dice", "mcc", "accuracy"])
@pytest.mark.parametrize("seed", [0, 1])
def test_best_threshold_is_the_best_of_all(metric: str, seed: int) -> None:
    histogram = Histogram.of(*image(seed))
    chosen = best_threshold(histogram, metric)
    levels = np.unique(np.concatenate([[0], quantise(image(seed)[0]).ravel()]))
    values = [score(histogram, int(at), [metric])[metric] for at in levels]
    assert score(histogram, chosen, [metric])[metric] == np.nanmax(values)


def test_best_threshold_is_undefined_without_positives() -> None:
    nothing = Histogram.of(np.array([1, 900], np.uint16), np.array([0, 0], np.uint8))
    for metric in ("dice", "accuracy", "specificity", "mcc"):
        assert best_threshold(nothing, metric) is None
    assert best_threshold(Histogram.empty()) is None


def test_best_threshold_refuses_what_cannot_choose() -> None:
    with pytest.raises(UserError, match="'roc_auc' does not depend on a threshold"):
        best_threshold(by_hand(), "roc_auc")
    with pytest.raises(UserError, match="did you mean 'dice'"):
        best_threshold(by_hand(), "dise")
    with pytest.raises(UserError, match="unknown metric"):
        score(by_hand(), 3, ["hausdorff"])


# ---- means --------------------------------------------------------------------------------------


def test_means_count_what_is_undefined() -> None:
    # Mean of 1, 2, 6 is 3; deviations -2, -1, 3: variance 14 / 2.
    found = nanmean_count([1.0, math.nan, 2.0, 6.0])
    assert found == (3.0, pytest.approx(math.sqrt(7)), 3, 1)
    assert nanmean_count([4.0])[0] == 4.0
    assert math.isnan(nanmean_count([4.0]).std)
    empty = nanmean_count([math.nan])
    assert math.isnan(empty.mean)
    assert (empty.n, empty.n_undefined) == (0, 1)
    assert nanmean_count([]).n_undefined == 0


def test_an_image_is_counted_and_scored_in_milliseconds() -> None:
    probability, target, fov = image(5, (999, 960))
    levels = quantise(probability)
    histogram = Histogram.of(levels, target, fov)

    def best_of(call: object) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            call()  # type: ignore[operator]
            times.append(time.perf_counter() - start)
        return min(times)

    # Measured at 2.5 ms and 0.6 ms; a Python loop over pixels or levels takes 100 times as long.
    assert best_of(lambda: Histogram.of(levels, target, fov)) < 0.05
    assert best_of(lambda: score(histogram, 30000)) < 0.02
    assert best_of(lambda: best_threshold(histogram)) < 0.05
