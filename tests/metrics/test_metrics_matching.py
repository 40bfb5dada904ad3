"""Matching against all matchings there are, and matches that add up."""

from __future__ import annotations

import io
import math
import pickle
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vesselflow.errors import ShapeError
from vesselflow.metrics.matches import Matches
from vesselflow.metrics.matching import match

quick = settings(deadline=None, max_examples=60)
seeds = st.integers(0, 2**31)


def points(seed: int, count: int, side: float = 4.0, axes: int = 2) -> np.ndarray:
    """On a lattice of halves, so that ties and coincidences happen."""
    draws = np.random.default_rng(seed)
    return np.round(2 * draws.uniform(0, side, (count, axes))) / 2


def best_by_hand(picks: np.ndarray, truth: np.ndarray, radius: float) -> tuple[int, float]:
    """Pairs and total distance of the best of all matchings."""
    away = np.linalg.norm(picks[:, None] - truth, axis=2)
    best = (0, 0.0)
    wide = away if len(picks) <= len(truth) else away.T
    for columns in permutations(range(wide.shape[1]), wide.shape[0]):
        pairs = [d for row, c in enumerate(columns) if (d := wide[row, c]) <= radius]
        best = min(best, (-len(pairs), sum(pairs)))
    return -best[0], best[1]


@quick
@given(seeds, st.integers(0, 6), st.integers(0, 6), st.sampled_from([0.0, 0.5, 1.0, 1.5, 3.0]))
def test_a_matching_is_the_best_of_all(seed: int, p: int, t: int, radius: float) -> None:
    picks, truth = points(seed, p), points(seed + 1, t)
    found = match(picks, truth, radius)
    pairs, total = best_by_hand(picks, truth, radius)
    assert len(found.picks) == pairs
    assert found.distance.sum() == pytest.approx(total)
    assert list(found.picks) == sorted(set(found.picks))
    assert len(set(found.truth)) == len(found.truth)
    away = np.linalg.norm(picks[found.picks] - truth[found.truth], axis=1)
    assert np.array_equal(away, found.distance)
    assert (away <= radius).all()


@quick
@given(seeds, st.integers(0, 6), st.integers(0, 5), st.sampled_from([0.5, 1.0, 1.5, 3.0]))
def test_with_scores_it_has_the_most_pairs_at_every_threshold(
    seed: int, p: int, t: int, radius: float
) -> None:
    picks, truth = points(seed, p), points(seed + 1, t)
    scores = np.random.default_rng(seed).integers(0, 4, p) / 4
    found = match(picks, truth, radius, scores)
    for threshold in np.unique(scores):
        kept = scores >= threshold
        pairs, _ = best_by_hand(picks[kept], truth, radius)
        assert (scores[found.picks] >= threshold).sum() == pairs
    # Of all that do, it is the shortest: its picks could not be paired at less.
    _, total = best_by_hand(picks[found.picks], truth, radius)
    assert found.distance.sum() == pytest.approx(total)


def test_of_equal_scores_the_nearer_pick_is_right() -> None:
    picks, truth = np.array([[0.0, 0], [0.5, 0]]), np.array([[1.0, 0]])
    assert match(picks, truth, 2).picks.tolist() == [1]
    assert match(picks, truth, 2, np.array([0.5, 0.5])).picks.tolist() == [1]
    assert match(picks, truth, 2, np.array([0.6, 0.5])).picks.tolist() == [0]
    # Infinite logits rank, too.
    assert match(picks, truth, 2, np.array([math.inf, -math.inf])).picks.tolist() == [0]


def test_greedy_would_lose_a_pair() -> None:
    """The surer pick is nearest to the truth that the other one needs."""
    picks, truth = np.array([[1.0], [2.0]]), np.array([[0.0], [1.4]])
    found = match(picks, truth, 1.0, np.array([0.9, 0.5]))
    assert found.truth.tolist() == [0, 1]
    assert found.distance == pytest.approx([1.0, 0.6])


def test_a_distance_of_the_radius_counts() -> None:
    assert len(match(np.array([[0.0, 3]]), np.array([[4.0, 0]]), 5.0).picks) == 1
    assert len(match(np.array([[0.0, 3]]), np.array([[4.0, 0]]), np.nextafter(5, 0)).picks) == 0


def test_thousands_in_one_part_are_matched() -> None:
    draws = np.random.default_rng(0)
    truth = draws.uniform(0, 50, (2000, 3))
    picks = np.concatenate([truth + draws.normal(0, 0.5, truth.shape), truth[::2]])
    found = match(picks, truth, 6.0, draws.random(len(picks)))
    assert len(found.picks) == 2000
    assert len(match(picks, truth[:10], 6.0).picks) == 10


def test_what_cannot_be_matched_is_refused() -> None:
    two, three = np.zeros((1, 2)), np.zeros((1, 3))
    with pytest.raises(ShapeError):
        match(two, three, 1)
    with pytest.raises(ShapeError):
        match(two, np.zeros(2), 1)
    with pytest.raises(ShapeError):
        match(two, two, 1, np.zeros(2))
    for radius in (-1, math.nan, math.inf):
        with pytest.raises(ValueError, match="radius"):
            match(two, two, radius)
    for bad in (
        (two + math.nan, two, 1, None),
        (two, two + math.inf, 1, None),
        (two, two, 1, np.array([math.nan])),
    ):
        with pytest.raises(ValueError, match="finite"):
            match(*bad)


# ---- matches -----------------------------------------------------------------------------------


def drawn(seed: int, classes: int = 3, spacing: bool = True) -> Matches:
    """The matches of a small volume."""
    draws = np.random.default_rng(seed)
    p, t = draws.integers(0, 12, 2)
    return Matches.of(
        points(seed, p, 3, 3),
        draws.integers(0, classes, p),
        draws.integers(0, 5, p) / 4,
        points(seed + 1, t, 3, 3),
        draws.integers(0, classes, t),
        classes=classes,
        radius_voxels=[1.0, 2.0, 1.5][:classes],
        spacing_angstrom=[10, 10, 20] if spacing else None,
        undefined=int(seed % 17 == 0),
    )


@quick
@given(st.lists(seeds, min_size=1, max_size=5), seeds)
def test_images_may_be_added_in_any_order_and_any_groups(each: list[int], shuffle: int) -> None:
    parts = [drawn(seed) for seed in each]
    whole = Matches.sum(parts, 3)
    mixed = [parts[i] for i in np.random.default_rng(shuffle).permutation(len(parts))]
    assert Matches.sum(mixed, 3) == whole
    left, right = parts[0], parts[-1]
    for part in parts[1:]:
        left = left + part
    for part in parts[-2::-1]:
        right = part + right
    assert left == right == whole
    assert whole + Matches.empty(3) == whole
    assert Matches.empty(3) + whole == whole
    assert whole.truth.sum() == sum(part.truth.sum() for part in parts)


@quick
@given(seeds)
def test_what_is_stored_comes_back(seed: int) -> None:
    matches = drawn(seed, spacing=bool(seed % 2))
    sink = io.BytesIO()
    np.savez(sink, **matches.arrays())
    sink.seek(0)
    with np.load(sink) as stored:
        assert Matches.of_arrays(stored) == matches
    assert pickle.loads(pickle.dumps(matches)) == matches
    assert matches != matches + drawn(1)


def test_what_is_stored_otherwise_is_refused() -> None:
    arrays = drawn(1).arrays()
    for name in arrays:
        with pytest.raises(ShapeError, match=name):
            Matches.of_arrays({key: value for key, value in arrays.items() if key != name})
    with pytest.raises(ShapeError):
        Matches.of_arrays({**arrays, "score": np.zeros(99)})


def test_a_radius_is_of_its_class_and_its_unit() -> None:
    picks, truth = np.array([[0.0, 0, 2], [0, 2, 0], [0, 0, 2]]), np.zeros((2, 3))
    given = {
        "picks": picks,
        "pick_classes": np.array([0, 0, 1]),
        "scores": np.array([0.5, 0.25, 1.0]),
        "truth": truth,
        "truth_classes": np.array([0, 1]),
        "classes": 2,
    }
    found = Matches.of(**given, radius_voxels=[2, 1])  # type: ignore[arg-type]
    assert found.matched.tolist() == [True, False, False]
    assert found.voxels[0] == 2
    assert np.isnan(found.angstrom).all()
    # Along x a voxel is three times as long: the surer pick is too far away.
    found = Matches.of(**given, radius_angstrom=3, spacing_angstrom=[1, 1, 3])  # type: ignore[arg-type]
    assert found.score.tolist() == [0.5, 0.25, 1.0]
    assert found.matched.tolist() == [False, True, False]
    assert (found.voxels[1], found.angstrom[1]) == (2, 2)
    found = Matches.of(**given, radius_voxels=2, spacing_angstrom=[1, 1, 3])  # type: ignore[arg-type]
    assert found.angstrom.tolist()[::2] == [6, 6]


def test_matches_of_wrong_arguments_are_refused() -> None:
    one, kind, score = np.zeros((1, 2)), np.zeros(1, int), np.ones(1)

    def of(**changes: object) -> Matches:
        given = {"picks": one, "pick_classes": kind, "scores": score, "truth": one,
                 "truth_classes": kind, "classes": 1, "radius_voxels": 1}  # fmt: skip
        return Matches.of(**{**given, **changes})  # type: ignore[arg-type]

    assert of().matched.tolist() == [True]
    for changes in (
        {"radius_voxels": None},
        {"radius_angstrom": 1},
        {"radius_voxels": None, "radius_angstrom": 1},
        {"pick_classes": np.zeros(2, int)},
        {"truth": np.zeros((1, 3))},
    ):
        with pytest.raises(ShapeError):
            of(**changes)
    for changes in (
        {"pick_classes": kind + 1},
        {"truth_classes": kind - 1},
        {"scores": score * math.nan},
        {"spacing_angstrom": [1, 0]},
        {"radius_voxels": -1},
    ):
        with pytest.raises(ValueError, match=r"not|radius|finite"):
            of(**changes)
    with pytest.raises(ShapeError, match="1 classes"):
        Matches.empty(1) + Matches.empty(2)
