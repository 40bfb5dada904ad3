"""Picks matched to true keypoints: all that a score or a threshold needs; those of images add up.

What a histogram is for pixels, this is for points. Picks are matched once (`matching.match`), so
that the pairs are right at every threshold; what is kept of each pick is its score and, if it has a
partner, how far that is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from vesselflow.errors import ShapeError
from vesselflow.metrics.matching import match

Floats = npt.NDArray[np.float64]
Threshold = float | Sequence[float] | npt.NDArray[np.floating[Any]] | None


@dataclass(frozen=True)
class Counts:
    """Picks and keypoints of each class at its threshold; float64 (C,), NaN where undefined."""

    tp: Floats
    fp: Floats
    fn: Floats


@dataclass(frozen=True, eq=False)
class Matches:
    """Picks of any number of images, by class and score.

    Picks are sorted by class, falling score and rising distance, so that the same picks are the
    same arrays in whatever order images were added.

    Attributes:
        truth: int64 (C,): true keypoints of each class.
        class_index: int64 (k,): the class of each pick.
        score: float64 (k,): larger ones are surer.
        voxels: float64 (k,): distance to the partner in voxels; NaN without one.
        angstrom: float64 (k,): the same in angstrom; NaN without a partner or without a spacing.
        undefined: Cells of heat-maps that were NaN. Any makes every score NaN.
    """

    truth: npt.NDArray[np.int64]
    class_index: npt.NDArray[np.int64]
    score: Floats
    voxels: Floats
    angstrom: Floats
    undefined: int = 0

    @classmethod
    def empty(cls, classes: int) -> Matches:
        """No image."""
        none = np.zeros(0)
        return cls(np.zeros(classes, np.int64), np.zeros(0, np.int64), none, none, none)

    @classmethod
    def of(
        cls,
        picks: npt.NDArray[Any],
        pick_classes: npt.NDArray[Any],
        scores: npt.NDArray[Any],
        truth: npt.NDArray[Any],
        truth_classes: npt.NDArray[Any],
        *,
        classes: int,
        radius_voxels: float | Sequence[float] | None = None,
        radius_angstrom: float | Sequence[float] | None = None,
        spacing_angstrom: Sequence[float] | None = None,
        undefined: int = 0,
    ) -> Matches:
        """Match the picks of an image to its keypoints, each class by itself.

        Args:
            picks: float (P, D) in voxels.
            pick_classes: int (P,).
            scores: float (P,), not NaN.
            truth: float (T, D) in voxels.
            truth_classes: int (T,).
            classes: How many classes there are.
            radius_voxels: The largest distance of a pair; one number, or one per class.
            radius_angstrom: The same in angstrom, in its place; needs the spacing.
            spacing_angstrom: Angstrom per voxel along each axis, where known.
            undefined: Cells of the heat-maps that were NaN.

        Raises:
            ShapeError: Shapes do not fit each other, or none or both radii are given.
            ValueError: A class is unknown, a spacing or radius is not positive, or a coordinate or
                score is NaN.
        """
        picks, truth = np.asarray(picks, np.float64), np.asarray(truth, np.float64)
        kinds, kinds_true = np.asarray(pick_classes, np.int64), np.asarray(truth_classes, np.int64)
        scores = np.asarray(scores, np.float64)
        if kinds.shape != (len(picks),) or kinds_true.shape != (len(truth),):
            raise ShapeError(f"classes are {kinds.shape}, {kinds_true.shape} for {len(picks)}, "
                             f"{len(truth)} points")  # fmt: skip
        for index in (kinds, kinds_true):
            if index.size and not (index.min() >= 0 and index.max() < classes):
                raise ValueError(f"classes are 0 to {classes - 1}, not {index.min(), index.max()}")
        if picks.ndim != 2 or truth.ndim != 2 or picks.shape[1] != truth.shape[1]:
            raise ShapeError(f"points are (P, D) and (T, D), not {picks.shape} and {truth.shape}")
        if (radius_voxels is None) == (radius_angstrom is None):
            raise ShapeError("the radius is given once, in voxels or in angstrom")
        spacing = None
        if spacing_angstrom is not None:
            spacing = np.asarray(spacing_angstrom, np.float64)
            if spacing.shape != picks.shape[1:] or not (spacing > 0).all():
                raise ValueError(f"a spacing is positive along each axis, not {spacing_angstrom}")
        elif radius_angstrom is not None:
            raise ShapeError("a radius in angstrom needs the spacing of the voxels")
        physical = radius_angstrom is not None
        radii = np.broadcast_to(
            np.asarray(radius_angstrom if physical else radius_voxels, np.float64), (classes,)
        )
        scale = spacing if physical and spacing is not None else np.ones(picks.shape[1:])
        voxels, angstrom = np.full(len(picks), np.nan), np.full(len(picks), np.nan)
        for kind in range(classes):
            own, true = np.flatnonzero(kinds == kind), np.flatnonzero(kinds_true == kind)
            pairs = match(picks[own] * scale, truth[true] * scale, float(radii[kind]), scores[own])
            matched = own[pairs.picks]
            away = picks[matched] - truth[true[pairs.truth]]
            voxels[matched] = np.linalg.norm(away, axis=1)
            if spacing is not None:
                angstrom[matched] = np.linalg.norm(away * spacing, axis=1)
        total = np.bincount(kinds_true, minlength=classes).astype(np.int64)
        return _sorted(total, kinds, scores, voxels, angstrom, undefined)

    @classmethod
    def sum(cls, matches: Iterable[Matches], classes: int) -> Matches:
        """All images pooled; `empty` when there is none.

        Raises:
            ShapeError: Their numbers of classes differ.
        """
        given = [cls.empty(classes), *matches]
        if any(each.classes != classes for each in given):
            raise ShapeError(f"not all matches have {classes} classes")
        return _sorted(
            np.sum([each.truth for each in given], axis=0),
            np.concatenate([each.class_index for each in given]),
            np.concatenate([each.score for each in given]),
            np.concatenate([each.voxels for each in given]),
            np.concatenate([each.angstrom for each in given]),
            sum(each.undefined for each in given),
        )

    def __add__(self, other: Matches) -> Matches:
        return Matches.sum([self, other], self.classes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Matches) and all(
            np.array_equal(one, self.arrays()[name], equal_nan=True)
            for name, one in other.arrays().items()
        )

    __hash__ = None  # type: ignore[assignment]  # holds arrays, as they are not hashable

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self.truth)

    @property
    def matched(self) -> npt.NDArray[np.bool_]:
        """Which picks have a partner."""
        return ~np.isnan(self.voxels)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What it holds, to be stored; see `of_arrays`."""
        return {each.name: np.asarray(getattr(self, each.name)) for each in fields(self)}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Matches:
        """What `arrays` gave.

        Raises:
            ShapeError: An array is missing, or has another shape.
        """
        missing = [each.name for each in fields(cls) if each.name not in arrays]
        if missing:
            raise ShapeError(f"matches lack {', '.join(missing)}")
        index = np.asarray(arrays["class_index"], np.int64)
        score, voxels, angstrom = (
            np.asarray(arrays[name], np.float64) for name in ("score", "voxels", "angstrom")
        )
        truth = np.asarray(arrays["truth"], np.int64)
        if (
            truth.ndim != 1
            or index.ndim != 1
            or {index.shape} != {c.shape for c in (score, voxels, angstrom)}
        ):
            raise ShapeError("the arrays of matches do not fit each other")
        return _sorted(truth, index, score, voxels, angstrom, int(arrays["undefined"]))

    def thresholds(self, threshold: Threshold) -> Floats:
        """One threshold per class, float64 (C,).

        Args:
            threshold: One number for all classes, or one per class; None or NaN is undefined.

        Raises:
            ShapeError: There is another number of them.
        """
        given = np.asarray(np.nan if threshold is None else threshold, np.float64)
        if given.shape not in ((), (self.classes,)):
            raise ShapeError(f"{given.shape} thresholds for {self.classes} classes")
        return np.full(self.classes, np.nan) if self.undefined else given + np.zeros(self.classes)

    def kept(self, threshold: Threshold) -> npt.NDArray[np.bool_]:
        """Which picks are at or above the threshold of their class; none where it is undefined."""
        return self.score >= self.thresholds(threshold)[self.class_index]

    def counts(self, threshold: Threshold) -> Counts:
        """True picks, false picks and missed keypoints of each class.

        Args:
            threshold: As of `thresholds`; infinite ones keep all picks, or none.
        """
        kept = self.kept(threshold)
        tp = self._per_class(kept & self.matched)
        unknown = np.isnan(self.thresholds(threshold))
        found = (tp, self._per_class(kept) - tp, self.truth - tp)
        return Counts(*(np.where(unknown, np.nan, each) for each in found))

    def of_class(self, index: int) -> Matches:
        """The picks and keypoints of one class, as the only one."""
        own = self.class_index == index
        return Matches(
            self.truth[index : index + 1],
            np.zeros(int(own.sum()), np.int64),
            self.score[own],
            self.voxels[own],
            self.angstrom[own],
            self.undefined,
        )

    def as_one_class(self, threshold: Threshold = -np.inf) -> Matches:
        """All classes as one: of each, the picks at or above its threshold.

        Scores of it at -inf are pooled over the classes ("micro"): counts are added up before they
        are divided.

        Raises:
            ValueError: A threshold is undefined.
        """
        if np.isnan(self.thresholds(threshold)).any() and not self.undefined:
            raise ValueError("classes without a threshold cannot be pooled")
        kept = self.kept(threshold)
        return _sorted(
            self.truth.sum(keepdims=True),
            np.zeros(int(kept.sum()), np.int64),
            self.score[kept],
            self.voxels[kept],
            self.angstrom[kept],
            self.undefined,
        )

    def _per_class(self, picks: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        return np.bincount(self.class_index[picks], minlength=self.classes).astype(np.int64)


def _sorted(
    truth: npt.NDArray[np.int64],
    class_index: npt.NDArray[np.int64],
    score: Floats,
    voxels: Floats,
    angstrom: Floats,
    undefined: int,
) -> Matches:
    order = np.lexsort((angstrom, voxels, -score, class_index))
    return Matches(
        truth, class_index[order], score[order], voxels[order], angstrom[order], undefined
    )
