"""Scores of picks against hand-computed values, scikit-learn and each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from vesselflow.errors import ShapeError, UserError
from vesselflow.metrics.detection import DETECTION
from vesselflow.metrics.detection.best import best_thresholds
from vesselflow.metrics.detection.scores import fbeta, score
from vesselflow.metrics.matches import Matches

quick = settings(deadline=None, max_examples=60)
seeds = st.integers(0, 2**31)
NAN = math.nan


def made(
    truth: list[int],
    picks: list[tuple[int, float, float]],
    angstrom_per_voxel: float = NAN,
    undefined: int = 0,
) -> Matches:
    """Matches of picks (class, score, distance or NaN)."""
    rows = np.array(picks, np.float64).reshape(-1, 3)
    return Matches.of_arrays(
        {
            "truth": np.array(truth),
            "class_index": rows[:, 0].astype(int),
            "score": rows[:, 1],
            "voxels": rows[:, 2],
            "angstrom": rows[:, 2] * angstrom_per_voxel,
            "undefined": np.array(undefined),
        }
    )


#: Class 0: five keypoints; by falling score hit, miss, hit, hit, miss. Class 1: two, never found.
BY_HAND = made(
    [5, 2],
    [(0, 0.9, 1.0), (0, 0.8, NAN), (0, 0.7, 2.0), (0, 0.6, 6.0), (0, 0.5, NAN), (1, 0.6, NAN)],
    angstrom_per_voxel=10,
)

#: (name, version) -> scores of `BY_HAND` at 0.6, by class. A change of a number here changes
#: published scores: it needs a new version.
GOLDEN = {
    # TP 3, FP 1, FN 2; TP 0, FP 1, FN 2.
    ("f1", 1): [6 / 9, 0],
    # 17 x 3 / (17 x 3 + 1 + 16 x 2)
    ("f4", 1): [51 / 84, 0],
    ("precision", 1): [3 / 4, 0],
    ("recall", 1): [3 / 5, 0],
    # Each step of 1/5 of the recall at the precisions 1, 2/3, 3/4.
    ("average_precision", 1): [(1 + 2 / 3 + 3 / 4) / 5, 0],
    ("error_voxels", 1): [3, NAN],
    ("median_error_voxels", 1): [2, NAN],
    ("error_angstrom", 1): [30, NAN],
    ("median_error_angstrom", 1): [20, NAN],
    ("picks", 1): [4, 1],
    ("true_picks", 1): [3, 0],
    ("false_picks", 1): [1, 1],
    ("missed", 1): [2, 2],
    ("threshold", 1): [0.6, 0.6],
}


def test_scores_by_hand() -> None:
    found = score(BY_HAND, 0.6)
    versions = DETECTION.versions()
    assert list(found) == DETECTION.names()
    assert {(name, versions[name]) for name in found} == set(GOLDEN)
    for (name, _), expected in GOLDEN.items():
        assert found[name] == pytest.approx(expected, abs=1e-15, nan_ok=True), name


def test_a_threshold_may_be_of_its_class() -> None:
    found = score(BY_HAND, [0.8, 0.7], ["picks", "missed", "precision"])
    assert found["picks"].tolist() == [2, 0]
    assert found["missed"].tolist() == [4, 2]
    assert found["precision"] == pytest.approx([1 / 2, NAN], nan_ok=True)
    with pytest.raises(ShapeError):
        score(BY_HAND, [0.5, 0.5, 0.5])
    with pytest.raises(UserError, match="recall"):
        score(BY_HAND, 0.5, ["recal"])


def test_undefined_is_nan() -> None:
    def at(matches: Matches, threshold: float | None = 0.5) -> dict[str, float]:
        return {name: float(values[0]) for name, values in score(matches, threshold).items()}

    counts = ("picks", "true_picks", "false_picks", "missed", "threshold")
    nothing = at(Matches.empty(1))
    assert [nothing[name] for name in counts] == [0, 0, 0, 0, 0.5]
    assert all(math.isnan(nothing[name]) for name in nothing if name not in counts)
    # Only false picks; no pick.
    wrong = at(made([0], [(0, 0.9, NAN)]))
    assert (wrong["precision"], wrong["f1"]) == (0, 0)
    assert all(math.isnan(wrong[name]) for name in ("recall", "average_precision", "error_voxels"))
    silent = at(made([3], []))
    assert (silent["recall"], silent["f1"], silent["average_precision"]) == (0, 0, 0)
    assert math.isnan(silent["precision"])
    # No threshold; a NaN in a heat-map; a volume without spacing among others.
    for found in (at(BY_HAND, None), at(BY_HAND, NAN)):
        assert {n for n, value in found.items() if not math.isnan(value)} == {"average_precision"}
    broken = at(made([1], [(0, 0.9, 1.0)], undefined=3))
    assert all(map(math.isnan, broken.values()))
    mixed = made([1], [(0, 0.9, 1.0)], 10) + made([1], [(0, 0.9, 3.0)])
    assert at(mixed)["error_voxels"] == 2
    assert math.isnan(at(mixed)["error_angstrom"])


@quick
@given(seeds, st.integers(0, 40))
def test_average_precision_is_scikit_learn_s_times_the_share_that_is_found(
    seed: int, count: int
) -> None:
    """scikit-learn does not know of keypoints that no pick finds."""
    draws = np.random.default_rng(seed)
    hits, scores = draws.random(count) < 0.4, draws.integers(0, 12, count) / 12
    missed = int(draws.integers(0, 4))
    matches = made(
        [int(hits.sum()) + missed],
        [(0, s, 1.0 if hit else NAN) for s, hit in zip(scores, hits, strict=True)],
    )
    (found,) = score(matches, None, ["average_precision"])["average_precision"]
    if hits.any():
        expected = average_precision_score(hits, scores) * hits.sum() / (hits.sum() + missed)
        assert found == pytest.approx(expected, abs=1e-12)
    else:
        assert found == 0 if missed else math.isnan(found)


def chance(seed: int) -> Matches:
    draws = np.random.default_rng(seed)
    rows = [
        (int(draws.integers(0, 2)), float(draws.integers(0, 9) / 8),
         float(draws.uniform(0, 3)) if draws.random() < 0.5 else NAN)
        for _ in range(draws.integers(0, 25))
    ]  # fmt: skip
    found = [sum(1 for c, _, d in rows if c == index and d == d) for index in range(2)]
    return made([n + int(draws.integers(0, 4)) for n in found], rows)


@quick
@given(seeds, st.sampled_from([0.5, 1.0, 4.0]))
def test_the_best_thresholds_are_better_than_all_others(seed: int, beta: float) -> None:
    matches = chance(seed)
    best = best_thresholds(matches, beta)
    for index in range(2):
        own = matches.of_class(index)
        if not own.truth[0]:
            assert math.isnan(best[index])
            continue
        if not own.matched.any():
            assert best[index] == math.inf
            continue
        (reached,) = fbeta(own, best[index], beta)
        others = [float(fbeta(own, t, beta)[0]) for t in (*np.arange(-0.05, 1.1, 0.0625), math.inf)]
        assert reached == pytest.approx(max(others), abs=1e-12)
        assert own.score.min() <= best[index] <= own.score.max()


def test_the_middle_of_the_longest_plateau_is_taken() -> None:
    # F1: at .9 2/3, at .5 1/2, at .4 4/5, below 2/3 again.
    matches = made([2], [(0, 0.9, 1), (0, 0.5, NAN), (0, 0.4, 1), (0, 0.1, NAN)])
    assert best_thresholds(matches) == pytest.approx([0.25])
    # At .9 as at .3 2/3: the lower end of the first plateau is .6, of the last one the last score.
    matches = made([2], [(0, 0.9, 1), (0, 0.6, NAN), (0, 0.35, NAN), (0, 0.3, 1)])
    assert score(matches, [0.9], ["f1"])["f1"] == score(matches, [0.3], ["f1"])["f1"]
    assert best_thresholds(matches) == pytest.approx([0.75])
    # All are right: from the surest to the least sure.
    matches = made([1], [(0, 0.8, 1)])
    assert best_thresholds(matches).tolist() == [0.8]
    # Of two of one length the lower one.
    rows = [(0.875, 1), (0.75, NAN), (0.625, NAN), (0.5, 1), (0.375, NAN)]
    assert best_thresholds(made([2], [(0, *row) for row in rows])).tolist() == [0.4375]
    # 1.49 / 50 is 2.98 / 100, though not in float64: both are the best, and the latter is longer.
    misses = [(0, 0.85 - 0.001 * number, NAN) for number in range(49)]
    matches = made([100], [(0, 0.9, 1), *misses, (0, 0.5, 1), (0, 0.1, NAN)])
    assert best_thresholds(matches, 0.7) == pytest.approx([0.3])
    # No number lies between these two.
    above = np.nextafter(0.5, 1)
    matches = made([1], [(0, above, 1), (0, 0.5, NAN)])
    assert best_thresholds(matches).tolist() == [above]


def test_thresholds_that_cannot_be_chosen() -> None:
    matches = made([0, 3, 1], [(0, 0.5, NAN), (1, 0.5, NAN), (2, 0.5, 1.0)])
    assert best_thresholds(matches).tolist() == pytest.approx([NAN, math.inf, 0.5], nan_ok=True)
    broken = made([1], [(0, 0.9, 1.0)], undefined=1)
    assert np.isnan(best_thresholds(broken)).all()


@quick
@given(seeds)
def test_classes_pool_to_their_counts(seed: int) -> None:
    matches = chance(seed)
    thresholds = [0.25, 0.6]
    apart = score(matches, thresholds, ["picks", "true_picks", "missed"])
    pooled = matches.as_one_class(thresholds)
    together = score(pooled, -math.inf, ["picks", "true_picks", "missed"])
    for name, values in apart.items():
        assert together[name].tolist() == [values.sum()]
    with pytest.raises(ValueError, match="pooled"):
        matches.as_one_class([0.5, NAN])


def test_every_metric_says_what_tables_need() -> None:
    for metric in DETECTION:
        assert metric.label
        assert metric.undefined
        assert metric.low < metric.high
        assert metric.load().__doc__
    assert [metric.name for metric in DETECTION if metric.chooses] == ["f1", "f4"]
    assert list(DETECTION.choosing().names()) == ["f1", "f4"]
