"""What the blobs bench looks for picks in, and the picks of either peer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from vesselflow.bench.laplacian import Blobs, Volume
from vesselflow.feed.batches import WholeImage
from vesselflow.inference.peaks import one_class_each
from vesselflow.inference.picks import Picks
from vesselflow.metrics.matching import match
from vesselflow.tasks.keypoints import inside_fov

#: A keypoint is isolated where the nearest other one, of any class, is farther than this many
#: matching radii.
ISOLATED = 3.0


@dataclass(frozen=True, eq=False)
class Seen:
    """One source, as both peers see it.

    Attributes:
        whole: Of the feed: truth, field of view, spacing, and what a model sees.
        volume: What blobs are looked for in.
        truth: float64 (k, D): keypoints inside the field of view, in voxels.
        classes: int64 (k,).
        radii: float64 (C, D): matching radii in voxels along each axis.
    """

    whole: WholeImage
    volume: Volume
    truth: NDArray[np.float64]
    classes: NDArray[np.int64]
    radii: NDArray[np.float64]

    def inside(self, places: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which places lie in a voxel of the field of view."""
        return inside_fov(places, self.whole.fov)

    def isolated_errors(self, picks: Picks, thresholds: Sequence[float]) -> NDArray[np.float64]:
        """Errors in voxels of the picks of isolated keypoints, (n, 2): class and distance."""
        rows = []
        for kind, (radius, threshold) in enumerate(zip(self.radii, thresholds, strict=True)):
            own, true = picks.class_index == kind, self.classes == kind
            places, truth = picks.coordinates[own], self.truth[true]
            pairs = match(places / radius, truth / radius, 1.0, picks.score[own])
            lonely = np.full(len(truth), True)
            if len(self.truth) > 1 and len(truth):
                lonely = cKDTree(self.truth / radius).query(truth / radius, k=2)[0][:, 1] > ISOLATED
            kept = lonely[pairs.truth] & (picks.score[own][pairs.picks] >= threshold)
            away = places[pairs.picks[kept]] - truth[pairs.truth[kept]]
            rows.append(np.stack([np.full(len(away), kind), np.linalg.norm(away, axis=1)], axis=1))
        return np.concatenate(rows)


def exclusive(picks: Picks, limits: NDArray[np.float64], radii: NDArray[np.float64]) -> Picks:
    """Picks of which none has a surer one of any class within the largest radius.

    Args:
        picks: Their scores are of each class's own kind.
        limits: Thresholds by class, in which scores are told to be comparable.
        radii: float64 (C, D): matching radii in voxels along each axis.
    """
    usable = np.isfinite(limits) & (limits > 0)
    score = picks.score / np.where(usable, limits, np.inf)[picks.class_index]
    told = Picks(picks.coordinates, picks.class_index, score, undefined=0)
    return one_class_each(told, 1.0, (1 / radii.max(axis=0)).tolist())


def of_blobs(seen: Seen, blobs: Blobs, kind: int, fine: bool) -> Picks:
    """Blobs inside the field of view as picks of a class; their scores are responses."""
    places = blobs.places if fine else blobs.voxels.astype(np.float64)
    kept = seen.inside(places)
    return Picks(
        places[kept], np.full(int(kept.sum()), kind, np.int64), blobs.score[kept], undefined=0
    )


def joined(parts: Sequence[Picks]) -> Picks:
    """Those of all classes."""
    return Picks(
        np.concatenate([each.coordinates for each in parts]),
        np.concatenate([each.class_index for each in parts]),
        np.concatenate([each.score for each in parts]),
        undefined=0,
    )
