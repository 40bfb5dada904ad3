"""Metrics against hand-computed values, scikit-learn and their own identities."""

import math
import pickle
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from vesselflow.errors import ShapeError, UserError
from vesselflow.metrics import METRICS
from vesselflow.metrics import histogram as module
from vesselflow.metrics.histogram import Histogram, score
from vesselflow.metrics.summary import nanmean_count
from vesselflow.metrics.thresholds.best import best as best_threshold

NAMES = METRICS.names()
quick = settings(deadline=None, max_examples=40)
seeds = st.integers(0, 2**31)


def image(seed: int, shape: tuple[int, ...] = (24, 31)) -> tuple[np.ndarray, ...]:
    """Logits that know something of the target, with ties; target; fov."""
    rng = np.random.default_rng(seed)
    target = (rng.random(shape) < 0.25).astype(np.uint8)
    logits = -1 + 1.5 * target + 1.5 * rng.standard_normal(shape)
    fov = (rng.random(shape) < 0.8).astype(np.uint8)
    return np.clip(logits, -2, 2).astype(np.float32), target, fov


def by_hand() -> Histogram:
    """Logits 1 2 2 3 4 4 with target 0 0 1 1 0 1."""
    logits = np.array([1, 2, 2, 3, 4, 4], np.float32)
    return Histogram.of(logits, np.array([0, 0, 1, 1, 0, 1], np.uint8))


#: (name, version) -> score of `by_hand()` at 3, where 3 4 4 are predicted: TP 2, FP 1, FN 1,
#: TN 2. A change of a number here changes published scores: it needs a new version.
GOLDEN = {
    ("dice", 1): 4 / 6,
    ("iou", 1): 2 / 4,
    ("sensitivity", 1): 2 / 3,
    ("specificity", 1): 2 / 3,
    ("accuracy", 1): 4 / 6,
    ("mcc", 1): (4 - 1) / 9,
    # Pairs (positive, negative) won, ties half: 2: 1 + 1/2; 3: 2; 4: 2 + 1/2; of 9.
    ("roc_auc", 2): 6 / 9,
    # From the top: 4: recall +1/3 at precision 1/2; 3: +1/3 at 2/3; 2: +1/3 at 3/5.
    ("pr_auc", 2): (1 / 2 + 2 / 3 + 3 / 5) / 3,
}


def test_scores_by_hand() -> None:
    found = score(by_hand(), 3.0)
    versions = {part.name: part.version for part in METRICS}
    assert list(found) == NAMES
    assert {(name, versions[name]): value for name, value in found.items()} == pytest.approx(
        GOLDEN, abs=1e-15
    )


def test_a_logit_at_the_threshold_is_predicted() -> None:
    assert score(by_hand(), 4.0, ["sensitivity"]) == {"sensitivity": 1 / 3}
    assert score(by_hand(), 4.0 + 1e-9, ["sensitivity"]) == {"sensitivity": 0.0}
    for threshold in (-math.inf, 1.0):
        assert score(by_hand(), threshold, ["sensitivity", "specificity"]) == {
            "sensitivity": 1.0,
            "specificity": 0.0,
        }
    nothing = score(by_hand(), math.inf, ["sensitivity", "specificity"])
    assert nothing == {"sensitivity": 0.0, "specificity": 1.0}


# ---- against scikit-learn, on logits that nobody has rounded ------------------------------------


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


def model_logits(kind: str, seed: int, size: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Float64 logits as some kind of model gives them, and the target."""
    rng = np.random.default_rng(seed)
    target = rng.random(size) < 0.15
    known = np.where(target, 1.0, -1.0) + 1.2 * rng.standard_normal(size)
    logits = {
        "calibrated": 1.5 * known - 1.7,
        # Pure Dice loss: one end or the other, in float32 probabilities 0 or 1.
        "saturated": 40.0 * known,
        "saturated above": 60.0 + 10.0 * known,
        "saturated below": -90.0 + 10.0 * known,
        "beyond float32 probabilities": 300.0 * known,
        "constant": np.full(size, -1.7),
        "nearly constant": -1.7 + 1e-3 * known,
        "nearly constant, saturated": 50.0 + 1e-2 * known,
        "few values": np.round(known),
        "half precision": known.astype(np.float16).astype(np.float64),
    }
    return logits[kind], target


KINDS = [
    "calibrated",
    "saturated",
    "saturated above",
    "saturated below",
    "beyond float32 probabilities",
    "constant",
    "nearly constant",
    "nearly constant, saturated",
    "few values",
    "half precision",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(2))
def test_scores_equal_scikit_learn(kind: str, seed: int) -> None:
    logits, target = model_logits(kind, seed)
    histogram = Histogram.of(logits, target)
    threshold = float(np.quantile(logits, 0.8)) + 1e-7
    for at in (best_threshold(histogram, "dice"), threshold):
        expected = reference(logits, target, at)
        found = score(histogram, at)
        if not math.isnan(found["mcc"]):
            assert found == pytest.approx(expected, abs=1e-4)
        # Counted in float32, the same logits are scored exactly.
        exact = reference(logits.astype(np.float32).astype(float), target, at)
        undefined = {name for name, value in found.items() if math.isnan(value)}
        assert undefined <= {"mcc"}
        assert {n: v for n, v in found.items() if n not in undefined} == pytest.approx(
            {n: v for n, v in exact.items() if n not in undefined}, abs=1e-12
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", ["dice", "accuracy"])
def test_no_threshold_on_the_exact_logits_is_better(kind: str, metric: str) -> None:
    logits, target = model_logits(kind, 2, 1500)
    chosen = best_threshold(Histogram.of(logits, target), metric)
    kept = reference(logits, target, chosen)[metric]
    # Every cut between two neighbouring logits, below all and above all.
    order = np.argsort(-logits)
    tp = np.concatenate([[0], np.cumsum(target[order])])
    predicted = np.arange(len(tp))
    differs = np.append(np.diff(logits[order]) != 0, True)
    allowed = np.concatenate([[True], differs])
    dice = 2 * tp / (predicted + target.sum())
    accuracy = (len(target) - predicted - target.sum() + 2 * tp) / len(target)
    best = {"dice": dice, "accuracy": accuracy}[metric][allowed].max()
    assert kept == pytest.approx(best, abs=1e-4)


def test_saturated_probabilities_would_rank_worse() -> None:
    """What is mended: the same pixels ranked by their float32 probability tie at 1."""
    logits, target = model_logits("saturated", 3)
    with np.errstate(over="ignore"):
        probability = (1 / (1 + np.exp(-logits.astype(np.float32)))).astype(np.float64)
    by_logit = score(Histogram.of(logits, target), None)["pr_auc"]
    by_probability = score(Histogram.of(probability, target), None)["pr_auc"]
    assert by_logit == pytest.approx(sk.average_precision_score(target, logits), abs=1e-9)
    assert by_probability < by_logit - 0.02


# ---- joined bins --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_joined_bins_score_within_a_ten_thousandth(kind: str) -> None:
    # 2^15 bins for a million pixels; the shipped bounds are 32 and 128 times finer.
    logits, target = model_logits(kind, 4, 1_000_000)
    histogram = Histogram.of(logits, target)
    joined = histogram.joined(2**15)
    assert len(joined.values) <= 2**15
    assert joined.positives.sum() == target.sum()
    assert joined.negatives.sum() == (~target).sum()
    at = best_threshold(histogram, "dice")
    before, after = score(histogram, at), score(joined, at)
    undefined = {name for name, value in before.items() if math.isnan(value)}
    assert {n: v for n, v in after.items() if n not in undefined} == pytest.approx(
        {n: v for n, v in before.items() if n not in undefined}, abs=1e-4
    )
    assert score(histogram, best_threshold(joined, "dice"))["dice"] == pytest.approx(
        before["dice"], abs=1e-4
    )


def test_rare_positives_are_not_joined_away() -> None:
    # 40 positives among a million: each decides a fortieth of the recall.
    rng = np.random.default_rng(5)
    target = np.zeros(1_000_000, bool)
    target[::25_000] = True
    logits = rng.standard_normal(target.size) + 2.5 * target
    histogram = Histogram.of(logits, target)
    exact, joined = score(histogram, 1.0), score(histogram.joined(2**14), 1.0)
    assert joined["pr_auc"] == pytest.approx(exact["pr_auc"], abs=1e-4)
    assert joined["roc_auc"] == pytest.approx(exact["roc_auc"], abs=1e-4)


def test_an_image_and_a_pool_hold_at_most_so_many_bins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IMAGE_BINS", 300)
    monkeypatch.setattr(module, "POOL_BINS", 500)
    rng = np.random.default_rng(6)
    made = []

    def images() -> object:
        for _ in range(9):
            logits = rng.standard_normal(2000)
            made.append((logits, logits + rng.standard_normal(2000) > 1))
            yield Histogram.of(*made[-1])

    pooled = Histogram.sum(images())
    assert 250 < len(pooled.values) <= 500
    logits, target = (np.concatenate(part) for part in zip(*made, strict=True))
    found = score(pooled, 0.5)
    assert found == pytest.approx(reference(logits, target, 0.5), abs=0.01)
    assert pooled.positives.sum() + pooled.negatives.sum() == 18_000


# ---- undefined is NaN ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "logits", "undefined"),
    [
        # no positives, none predicted
        ([0, 0], [1, 2], {"dice", "iou", "sensitivity", "mcc", "roc_auc", "pr_auc"}),
        # no positives, one predicted: dice and iou are 0
        ([0, 0], [1, 9], {"sensitivity", "mcc", "roc_auc", "pr_auc"}),
        # no negatives
        ([1, 1], [1, 9], {"specificity", "mcc", "roc_auc", "pr_auc"}),
        # both classes, nothing predicted: dice is 0
        ([0, 1], [1, 2], {"mcc"}),
        ([], [], set(NAMES)),
    ],
)
def test_undefined_is_nan_without_a_warning(
    target: list[int], logits: list[int], undefined: set[str]
) -> None:
    histogram = Histogram.of(np.array(logits, np.float32), np.array(target, np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = score(histogram, 5.0)
    assert {name for name, value in found.items() if math.isnan(value)} == undefined


def test_nan_logits_are_counted_and_make_every_score_nan() -> None:
    logits, target, fov = image(0)
    fov[:3] = 0
    logits[:3] = np.nan  # outside the fov: of no consequence
    assert Histogram.of(logits, target, fov).undefined == 0
    fov[0, :2] = 1
    histogram = Histogram.of(logits, target, fov)
    assert histogram.undefined == 2
    assert all(math.isnan(value) for value in score(histogram, 0.5).values())
    assert math.isnan(best_threshold(histogram, "dice"))
    assert (histogram + by_hand()).undefined == 2


def test_undefined_threshold_leaves_the_ranking_scores() -> None:
    for threshold in (None, math.nan):
        found = score(by_hand(), threshold)
        assert {name for name, value in found.items() if not math.isnan(value)} == {
            "roc_auc",
            "pr_auc",
        }


# ---- counting -----------------------------------------------------------------------------------


def test_each_logit_is_a_bin() -> None:
    logits = np.array([0.0, -0.0, -1e-30, 2.5, -2.5, np.inf, -np.inf, 3e38, 1e300])
    found = Histogram.of(logits, logits > 0)
    largest = np.finfo(np.float32).max
    assert found.values.tolist() == [
        -largest,
        -2.5,
        float(np.float32(-1e-30)),
        0.0,
        2.5,
        float(np.float32(3e38)),
        largest,
    ]
    assert found.negatives.tolist() == [1, 1, 1, 2, 0, 0, 0]
    assert found.positives.tolist() == [0, 0, 0, 0, 1, 1, 2]


@quick
@given(
    st.lists(
        st.tuples(st.floats(width=32, allow_nan=False, allow_infinity=False), st.booleans()),
        max_size=40,
    )
)
def test_bins_are_the_sorted_distinct_logits(pixels: list[tuple[float, bool]]) -> None:
    logits = np.array([value for value, _ in pixels], np.float32)
    target = np.array([hit for _, hit in pixels], bool)
    found = Histogram.of(logits, target)
    assert found.values.tolist() == sorted({float(value) + 0.0 for value in logits})
    for value, positives, negatives in zip(
        found.values, found.positives, found.negatives, strict=True
    ):
        assert positives == (target & (logits == value)).sum()
        assert negatives == (~target & (logits == value)).sum()


def test_wrong_arrays_are_refused() -> None:
    logits, target, fov = image(0)
    with pytest.raises(ShapeError):
        Histogram.of(logits, target[1:], fov)
    with pytest.raises(ShapeError):
        Histogram.of(logits, target, fov[1:])
    with pytest.raises(ValueError, match="target should hold 0 and 1"):
        Histogram.of(logits, target * 255, fov)
    with pytest.raises(ValueError, match="target should hold 0 and 1"):
        Histogram.of(logits, target * 0.5, fov)
    with pytest.raises(ValueError, match="fov should hold 0 and 1"):
        Histogram.of(logits, target, fov * 255)
    with pytest.raises(ValueError, match="logits are floats, not uint8"):
        Histogram.of(target, target, fov)


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int64, np.float32])
def test_any_type_of_mask_counts_the_same(dtype: type) -> None:
    logits, target, fov = image(1)
    expected = Histogram.of(logits.astype(np.float64), target, fov)
    assert Histogram.of(logits, target.astype(dtype), fov.astype(dtype)) == expected
    assert Histogram.of(logits[..., None], target[..., None], fov[..., None]) == expected
    assert expected.positives.dtype == expected.negatives.dtype == np.int64
    assert expected.values.dtype == np.float32
    assert int(expected.positives.sum()) == int((target * fov).sum())
    assert pickle.loads(pickle.dumps(expected)) == expected


@pytest.mark.parametrize("chunk", [1, 7, 700, 10**6])
def test_an_image_is_counted_in_chunks(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    logits, target, fov = image(7)
    logits[3, 3:6] = np.nan
    expected = Histogram.of(logits, target, fov)
    monkeypatch.setattr(module, "CHUNK", chunk)
    assert Histogram.of(logits, target, fov) == expected


def test_strided_arrays_count_the_same() -> None:
    arrays = image(2)
    turned = [np.ascontiguousarray(array.T).T for array in arrays]
    assert Histogram.of(*turned) == Histogram.of(*arrays)


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
@given(seed=seeds, threshold=st.floats(-3, 3))
def test_identities(seed: int, threshold: float) -> None:
    arrays = image(seed)
    histogram = Histogram.of(*arrays)
    found = score(histogram, threshold)
    assert found["dice"] == pytest.approx(2 * found["iou"] / (1 + found["iou"]), abs=1e-12)
    ranged = {name: value for name, value in found.items() if name != "mcc"}
    assert all(0 <= value <= 1 for value in ranged.values())
    assert math.isnan(found["mcc"]) or -1 <= found["mcc"] <= 1
    swapped = Histogram.of(-arrays[0], 1 - arrays[1], arrays[2])
    assert score(swapped, 0.0, ["roc_auc"])["roc_auc"] == pytest.approx(found["roc_auc"], abs=1e-12)


@quick
@given(seed=seeds, scale=st.sampled_from([0.25, 2.0, 16.0]), metric=st.sampled_from(["dice"]))
def test_a_model_that_is_surer_ranks_and_chooses_the_same(
    seed: int, scale: float, metric: str
) -> None:
    # Powers of two, so that no rounding moves a pixel.
    logits, target, fov = image(seed)
    one, other = Histogram.of(logits, target, fov), Histogram.of(scale * logits, target, fov)
    assert best_threshold(other, metric) == scale * best_threshold(one, metric)
    assert score(other, scale * 0.3) == score(one, 0.3)


@pytest.mark.parametrize("name", NAMES)
def test_array_of_thresholds_equals_one_by_one(name: str) -> None:
    histogram = Histogram.of(*image(3))
    metric = METRICS.part(name).load()
    thresholds = np.array([[-np.inf, -1.9, -0.3], [0.4, math.nan, np.inf]])
    many = np.broadcast_to(metric(histogram, thresholds), thresholds.shape)
    each = [[float(metric(histogram, float(t))) for t in row] for row in thresholds]
    np.testing.assert_array_equal(many, each)


def test_mcc_of_a_large_pool_does_not_overflow() -> None:
    big = Histogram.of(*image(4))
    pool = Histogram(big.values, big.positives * 10**8, big.negatives * 10**8)
    assert score(pool, 0.5) == pytest.approx(score(big, 0.5), rel=1e-9)


def test_mcc_stays_within_one() -> None:
    # Without the bounds, more than one perfect prediction in five is 1.0000000000000002.
    counts = np.arange(1, 200)
    for positives in counts[:20]:
        for negatives in counts:
            perfect = Histogram(
                np.array([0.0, 1.0], np.float32),
                np.array([0, positives]),
                np.array([negatives, 0]),
            )
            assert score(perfect, 0.5, ["mcc"])["mcc"] <= 1.0
            assert score(perfect, 0.5, ["mcc"])["mcc"] == pytest.approx(1.0)


# ---- choosing a threshold -----------------------------------------------------------------------


def test_best_threshold_by_hand() -> None:
    # Dice at <= 1: 6/9, above 1 to 2: 6/8, above 2 to 3: 4/6, above 3 to 4: 2/5, above 4: 0.
    # Best above 1 to 2, middle 1.5.
    assert best_threshold(by_hand(), "dice") == 1.5


def test_best_threshold_takes_the_longest_of_equal_plateaus() -> None:
    # Accuracy is 3/4 above 1 to 2 (all but the lowest) and above 3 to 10 (only the highest).
    histogram = Histogram.of(np.array([1.0, 2, 3, 10]), np.array([0, 1, 0, 1], np.uint8))
    assert score(histogram, 1.5, ["accuracy"]) == score(histogram, 6.5, ["accuracy"])
    assert best_threshold(histogram, "accuracy") == 6.5


def test_best_threshold_of_a_perfect_ranking_is_in_the_middle_of_the_gap() -> None:
    assert best_threshold(Histogram.of(np.array([-50.0, 20.0]), np.array([0, 1])), "dice") == -15.0


@pytest.mark.parametrize("low", [1.0, 0.1, -3.7, 1e-30, 61.0])
def test_the_threshold_between_neighbours_is_one_of_float32(low: float) -> None:
    # No float32 lies between them, and half of the middles round down.
    values = [np.float32(low)]
    for _ in range(7):
        values.append(np.nextafter(values[-1], np.float32(np.inf)))
    for first in range(7):
        logits = np.array(values[first : first + 2])
        chosen = best_threshold(Histogram.of(logits, np.array([0, 1])), "dice")
        assert chosen == np.float32(chosen)
        assert (logits >= chosen).tolist() == [False, True]
        assert (logits.astype(np.float64) >= chosen).tolist() == [False, True]


def test_predicting_nothing_or_everything_can_be_best() -> None:
    # One positive, ranked lowest, among nine negatives: accuracy .9 when nothing is predicted.
    target = np.zeros(10, np.uint8)
    target[0] = 1
    logits = np.arange(10.0)
    assert best_threshold(Histogram.of(logits, target), "accuracy") == math.inf
    assert best_threshold(Histogram.of(np.zeros(10), target), "accuracy") == math.inf
    # Dice 2/11 for everything is more than any part of it has.
    assert best_threshold(Histogram.of(logits, target), "dice") == -math.inf
    # Nothing but positives, and one value.
    assert best_threshold(Histogram.of(np.ones(3), np.ones(3)), "accuracy") == -math.inf


@pytest.mark.parametrize("metric", ["dice", "mcc", "accuracy"])
@pytest.mark.parametrize("seed", [0, 1])
def test_best_threshold_is_the_best_of_all(metric: str, seed: int) -> None:
    histogram = Histogram.of(*image(seed))
    chosen = best_threshold(histogram, metric)
    cuts = [-math.inf, *np.unique(image(seed)[0]).tolist(), math.inf]
    values = [score(histogram, at, [metric])[metric] for at in cuts]
    assert score(histogram, chosen, [metric])[metric] == np.nanmax(values)


def test_best_threshold_is_undefined_without_positives() -> None:
    nothing = Histogram.of(np.array([1.0, 9.0]), np.array([0, 0], np.uint8))
    for metric in ("dice", "accuracy", "specificity", "mcc"):
        assert math.isnan(best_threshold(nothing, metric))
    assert math.isnan(best_threshold(Histogram.empty(), "dice"))


def test_best_threshold_refuses_what_cannot_choose() -> None:
    with pytest.raises(UserError, match="'roc_auc' does not depend on a threshold"):
        best_threshold(by_hand(), "roc_auc")
    with pytest.raises(UserError, match="did you mean 'dice'"):
        best_threshold(by_hand(), "dise")
    with pytest.raises(UserError, match="unknown metric"):
        score(by_hand(), 3.0, ["hausdorff"])


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
