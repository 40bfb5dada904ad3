"""Probabilities of an image as two histograms: all that a score or threshold needs; they add up.

A probability is stored as one of 65536 levels (`quantise`). Per image there remain two histograms
over the levels, of the positive and of the negative pixels inside the field of view. Every score at
every threshold is a function of them, and the histograms of several images add up to those of the
images pooled.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vesselflow.errors import ShapeError, UserError
from vesselflow.metrics import METRICS

#: Number of levels of a quantised probability.
LEVELS = 65536
#: The highest level, that of probability 1.
TOP = LEVELS - 1

Counts = npt.NDArray[np.int64]
Levels = npt.NDArray[np.uint16]


def quantise(probability: npt.NDArray[Any]) -> Levels:
    """Round probabilities to levels: round(p * 65535), halves to even.

    The mapping is monotone, so p >= q implies level(p) >= level(q).

    Args:
        probability: float of any shape, in [0, 1].

    Returns:
        uint16 of the same shape.

    Raises:
        ValueError: A value is NaN (`Histogram.of` counts those instead), or lies further outside
            [0, 1] than half a level, which interpolation may do by rounding.
    """
    values = np.asarray(probability)
    if values.size:
        low, high = float(values.min()), float(values.max())
        if math.isnan(low) or math.isnan(high):
            count = int(np.isnan(values).sum())
            raise ValueError(f"{count} of {values.size} probabilities are NaN")
        if low * TOP < -0.5 or high * TOP > TOP + 0.49:
            raise ValueError(f"probabilities lie in [{low:g}, {high:g}], not in [0, 1]")
    # Half precision cannot hold 65535.
    wide = values.astype(np.float32, copy=False) if values.dtype.itemsize < 4 else values
    return np.asarray(np.rint(wide * TOP), dtype=np.uint16)


def level(threshold: float) -> int | None:
    """The level of a threshold in [0, 1]; None (undefined) for NaN.

    Raises:
        ValueError: The threshold lies outside [0, 1].
    """
    if math.isnan(threshold):
        return None
    if not 0.0 <= threshold <= 1.0:
        raise ValueError(f"a threshold lies in [0, 1], not at {threshold:g}")
    return round(threshold * TOP)


def fraction(threshold: int | None) -> float:
    """The threshold of a level as it stands in tables: level / 65535; NaN for None."""
    return math.nan if threshold is None else threshold / TOP


@dataclass(frozen=True)
class Confusion:
    """Pixels by prediction and target, for one threshold or an array of thresholds.

    Counts are float64, in which they are exact up to 2^53 and their products do not overflow.
    """

    tp: npt.NDArray[np.float64]
    fp: npt.NDArray[np.float64]
    fn: npt.NDArray[np.float64]
    tn: npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Histogram:
    """Pixels inside the field of view, by level of their probability.

    Attributes:
        positives: int64 (65536,): pixels of the target, by level.
        negatives: int64 (65536,): pixels off the target, by level.
        undefined: Pixels inside the field of view whose probability is NaN. They stand in neither
            histogram, and any makes every score NaN.
    """

    positives: Counts
    negatives: Counts
    undefined: int = 0

    @classmethod
    def empty(cls) -> Histogram:
        """The histogram of no pixel."""
        return cls(np.zeros(LEVELS, np.int64), np.zeros(LEVELS, np.int64))

    @classmethod
    def of(
        cls,
        probability: npt.NDArray[Any],
        target: npt.NDArray[Any],
        fov: npt.NDArray[Any] | None = None,
    ) -> Histogram:
        """Count the pixels of an image.

        Args:
            probability: uint16 levels, or float in [0, 1] (then `quantise` is applied, and NaN
                inside the fov is counted as undefined), any shape.
            target: bool or 0/1, same shape.
            fov: bool or 0/1, same shape; pixels that are 0 are left out. None: all count.

        Raises:
            ShapeError: The shapes differ.
            ValueError: The target or fov holds something else than 0 and 1, or a probability
                inside the fov lies outside [0, 1].
        """
        probability, target = np.asarray(probability), np.asarray(target)
        fov = None if fov is None else np.asarray(fov)
        if probability.shape != target.shape or (fov is not None and fov.shape != target.shape):
            shapes = [probability.shape, target.shape, *([] if fov is None else [fov.shape])]
            raise ShapeError(f"probability, target and fov should have one shape, not {shapes}")
        truth = _binary(target, "target").ravel()
        levels = probability.ravel()
        if fov is not None:
            inside = _binary(fov, "fov").ravel()
            if not inside.all():
                levels, truth = levels[inside], truth[inside]
        undefined = 0
        if levels.dtype != np.uint16:
            if not np.issubdtype(levels.dtype, np.floating):
                raise ValueError(f"probabilities are uint16 levels or floats, not {levels.dtype}")
            bad = np.isnan(levels)
            undefined = int(bad.sum())
            if undefined:
                levels, truth = levels[~bad], truth[~bad]
            levels = quantise(levels)
        # One pass counts both classes: the target becomes the 17th bit of the level.
        codes = np.add(levels, truth.view(np.uint8) * np.uint32(LEVELS), dtype=np.intp)
        counts = np.bincount(codes, minlength=2 * LEVELS).astype(np.int64, copy=False)
        return cls(counts[LEVELS:], counts[:LEVELS], undefined)

    @classmethod
    def sum(cls, histograms: Iterable[Histogram]) -> Histogram:
        """The histogram of all images pooled; that of no pixel when there is none."""
        total = cls.empty()
        for histogram in histograms:
            total = total + histogram
        return total

    def __add__(self, other: Histogram) -> Histogram:
        return Histogram(
            self.positives + other.positives,
            self.negatives + other.negatives,
            self.undefined + other.undefined,
        )

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Histogram)
            and self.undefined == other.undefined
            and np.array_equal(self.positives, other.positives)
            and np.array_equal(self.negatives, other.negatives)
        )

    __hash__ = None  # type: ignore[assignment]  # holds arrays, as they are not hashable

    def confusion(self, threshold: int | Counts | None) -> Confusion:
        """Pixels by prediction and target, where prediction = (level >= threshold).

        Args:
            threshold: A level in 0..65535, or an array of levels; None (undefined) gives NaN.

        Returns:
            Counts of the shape of `threshold`.

        Raises:
            ValueError: A level lies outside 0..65535.
        """
        if threshold is None or self.undefined:
            unknown = np.full(np.shape(0 if threshold is None else threshold), np.nan)
            return Confusion(unknown, unknown, unknown, unknown)
        index = np.asarray(threshold)
        if index.size and not (index.min() >= 0 and index.max() <= TOP):
            raise ValueError(f"a level lies in 0..{TOP}, not at {threshold}")
        tp, positives = _at_or_above(self.positives, index)
        fp, negatives = _at_or_above(self.negatives, index)
        return Confusion(tp, fp, positives - tp, negatives - fp)


def _at_or_above(
    counts: Counts, index: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.float64], np.float64]:
    if index.ndim == 0:
        above, below = counts[int(index) :].sum(), counts[: int(index)].sum()
        return np.asarray(above, np.float64), np.float64(above + below)
    above_all = np.cumsum(counts[::-1])[::-1]
    return above_all[index].astype(np.float64), np.float64(above_all[0])


def _binary(values: npt.NDArray[Any], name: str) -> npt.NDArray[np.bool_]:
    if values.dtype == np.bool_:
        return np.ascontiguousarray(values)
    mask = np.ascontiguousarray(values != 0)
    # 0/255 or soft values would be counted as something they are not.
    if values.size and (values.max() > 1 or (values != mask).any()):
        raise ValueError(f"the {name} should hold 0 and 1 only; it reaches {values.max()}")
    return mask


def score(
    histogram: Histogram, threshold: int | None, names: Sequence[str] | None = None
) -> dict[str, float]:
    """Scores of one image, or of several pooled, at one threshold.

    Args:
        histogram: Pixels inside the field of view.
        threshold: Level in 0..65535; a pixel is predicted when its level is at or above it. None
            (undefined): scores that need a threshold are NaN.
        names: Metrics, in this order; None for all.

    Returns:
        name -> value; NaN where undefined, and everywhere when a probability was NaN.

    Raises:
        UserError: A metric is unknown.
        ValueError: The threshold lies outside 0..65535.
    """
    chosen = METRICS.names() if names is None else names
    return {name: float(METRICS.part(name).load()(histogram, threshold)) for name in chosen}


def best_threshold(histogram: Histogram, metric: str = "dice") -> int | None:
    """The level at which `metric` is highest, over all 65536; to be called on validation only.

    Levels between two occurring probabilities predict the same pixels, so the best value holds on a
    plateau of levels. Of the longest one (the lowest of equals) the middle is taken: there the
    predictions change least when probabilities shift on another image.

    Args:
        histogram: Pixels of the validation images, pooled.
        metric: A metric that depends on the threshold.

    Returns:
        Level in 0..65535; None where the choice is undefined: no pixel of the target (a score that
        ignores the target chooses nothing), a NaN probability, or a metric that is NaN throughout.

    Raises:
        UserError: The metric is unknown, or does not depend on a threshold.
    """
    values = METRICS.part(metric).load()(histogram, np.arange(LEVELS))
    if values.shape != (LEVELS,):
        raise UserError(
            f"metric {metric!r} does not depend on a threshold, so it cannot choose one",
            hint="choose by 'dice'",
        )
    known = ~np.isnan(values)
    if not known.any() or not histogram.positives.any():
        return None
    best = np.where(known, values, -np.inf) >= np.nanmax(values)
    edges = np.flatnonzero(np.diff(best, prepend=False, append=False))
    first, last = edges[0::2], edges[1::2] - 1
    longest = int(np.argmax(last - first))
    return int((first[longest] + last[longest]) // 2)
