"""One-to-one matching of predicted points to true ones within a radius: optimal, not greedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse import csgraph
from scipy.spatial import cKDTree

from vesselflow.errors import ShapeError

Points = npt.NDArray[np.floating[Any]]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Matching:
    """Pairs of a predicted and a true point, ordered by the predicted one.

    Attributes:
        picks: int64 (m,), strictly rising: indices of predicted points.
        truth: int64 (m,), all different: indices of true points.
        distance: float64 (m,): how far they are apart.
    """

    picks: Indices
    truth: Indices
    distance: npt.NDArray[np.float64]


def match(
    picks: Points, truth: Points, radius: float, scores: npt.NDArray[Any] | None = None
) -> Matching:
    """Match points one to one.

    Of all ways to pair points that are at most `radius` apart, one with the most pairs is taken,
    and of those the one with the least total distance.

    With scores, it is one that has the most pairs *at every threshold*: of the picks at or above
    any score, as many are matched as could be if the others were not there. Such a matching exists
    because sets of points that can be matched together form a matroid (Edmonds and Fulkerson,
    Transversals and matroid partition, 1965), in which taking the best first loses nothing; it is
    the one of largest weight, whatever rising weights the scores are given. Of those, again, the
    one with the least total distance. So one matching serves all thresholds, and a pick is right or
    wrong once and for all. Against COCO's greedy rule, where a pick takes the nearest truth that is
    left, it never loses a pair to the order.

    Args:
        picks: float (P, D), finite, in a unit in which distance is meant.
        truth: float (T, D), finite, in the same unit.
        radius: Largest distance of a pair, that included; at least 0.
        scores: float (P,), not NaN; larger ones come first. None: all alike.

    Returns:
        The pairs. Where several matchings are equally good, which one is a matter of the order of
        the points.

    Raises:
        ShapeError: The shapes do not fit each other.
        ValueError: The radius is negative or not finite, or a coordinate or score is NaN.
    """
    picks, truth = np.asarray(picks, np.float64), np.asarray(truth, np.float64)
    level = np.zeros(len(picks)) if scores is None else np.asarray(scores, np.float64)
    if picks.ndim != 2 or truth.ndim != 2 or picks.shape[1] != truth.shape[1]:
        raise ShapeError(f"points are (P, D) and (T, D), not {picks.shape} and {truth.shape}")
    if level.shape != (len(picks),):
        raise ShapeError(f"scores are ({len(picks)},), not {level.shape}")
    if not (np.isfinite(radius) and radius >= 0):
        raise ValueError(f"a radius is finite and at least 0, not {radius}")
    if np.isnan(level).any() or not (np.isfinite(picks).all() and np.isfinite(truth).all()):
        raise ValueError("points to be matched have finite coordinates, and scores that are no NaN")
    pick, true, distance = _edges(picks, truth, radius)
    if not len(pick):
        nothing = np.zeros(0, np.int64)
        return Matching(nothing, nothing, np.zeros(0))
    chosen = _heaviest(pick, true, _gains(pick, true, distance, level, radius))
    order = chosen[np.argsort(pick[chosen])]
    return Matching(pick[order], true[order], distance[order])


def _edges(
    picks: Points, truth: Points, radius: float
) -> tuple[Indices, Indices, npt.NDArray[np.float64]]:
    """All pairs within the radius."""
    # Grown by a rounding error: what counts is the distance as it is computed here, for all alike.
    near = cKDTree(picks).query_ball_point(truth, radius * (1 + 1e-9), return_sorted=True)
    pick = np.fromiter((p for each in near for p in each), np.int64)
    true = np.repeat(np.arange(len(truth)), [len(each) for each in near])
    distance = np.linalg.norm(picks[pick] - truth[true], axis=1)
    inside = distance <= radius
    return pick[inside], true[inside], distance[inside]


def _gains(
    pick: Indices,
    true: Indices,
    distance: npt.NDArray[np.float64],
    level: npt.NDArray[np.float64],
    radius: float,
) -> npt.NDArray[np.float64]:
    """What each pair is worth: first its pick's rank by score, then its nearness.

    A step of the rank outweighs all distances of a connected part together. Parts do not compete,
    so ranks are counted in each by itself and numbers stay small, and exact.
    """
    _, node_pick = np.unique(pick, return_inverse=True)
    _, node_true = np.unique(true, return_inverse=True)
    count = int(node_pick.max()) + 1
    total = count + int(node_true.max()) + 1
    graph = sparse.coo_array(
        (np.ones(len(pick), np.int8), (node_pick, count + node_true)), shape=(total, total)
    )
    part = csgraph.connected_components(graph, directed=False)[1][node_pick]
    # Rank of the score among those of the part, equal ones alike, from 1.
    order = np.lexsort((level[pick], part))
    scores, parts = level[pick][order], part[order]
    fresh = np.append(True, parts[1:] != parts[:-1])
    higher = np.append(True, scores[1:] != scores[:-1]) | fresh
    steps = np.cumsum(higher)
    rank = np.empty(len(pick))
    rank[order] = steps - np.maximum.accumulate(np.where(fresh, steps, 0)) + 1
    # Distances in units of the radius are at most 1, and a part has at most so many pairs.
    pairs = np.bincount(part, minlength=int(part.max()) + 1).max()
    near = distance / radius if radius else distance
    return rank * (min(pairs, count, total - count) + 1) - near


def _heaviest(pick: Indices, true: Indices, gains: npt.NDArray[np.float64]) -> Indices:
    """Edges of the matching of the largest total gain; all gains are above 0."""
    _, row = np.unique(pick, return_inverse=True)
    _, column = np.unique(true, return_inverse=True)
    rows, columns = int(row.max()) + 1, int(column.max()) + 1
    # Each pick may also stay alone, in a column of its own that costs most; a cost of 0 would be
    # taken for no edge.
    alone = np.arange(rows)
    most = float(gains.max()) + 1.0
    costs = sparse.csr_array(
        (
            np.concatenate([most - gains, np.full(rows, most)]),
            (np.concatenate([row, alone]), np.concatenate([column, columns + alone])),
        ),
        shape=(rows, columns + rows),
    )
    matched_rows, matched_columns = csgraph.min_weight_full_bipartite_matching(costs)
    taken = matched_columns < columns
    # Back to the places of the edges.
    keys = row * columns + column
    order = np.argsort(keys)
    wanted = matched_rows[taken] * columns + matched_columns[taken]
    return order[np.searchsorted(keys[order], wanted)]
