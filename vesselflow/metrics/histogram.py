"""Pixels counted by their logit, exactly: all that a score or a threshold needs; counts add up.

Pixels are ranked by the logit, not by the probability: in float32 every logit above 17 is the
probability 1, so that a saturated model's ranking is lost in its probabilities. The bins are not
laid over a scale beforehand: each logit that occurs is a bin of its own, so that saturated,
calibrated and nearly constant models are counted alike. Every score at every threshold is a
function of these counts, and those of several images add up to those of the images pooled.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vesselflow.errors import ShapeError
from vesselflow.metrics import METRICS

#: Bins that a histogram holds at most before neighbours are joined, whose pixels then count as
#: tied: of an image, which is kept while others are counted, and of images pooled.
IMAGE_BINS = 2**20
POOL_BINS = 2**22
#: Pixels that are sorted at a time, which bounds what counting an image of any size needs: 0.9 GB
#: for one of 100 million pixels.
CHUNK = 2**22

_LARGEST = float(np.finfo(np.float32).max)

Counts = npt.NDArray[np.int64]
Logits = npt.NDArray[np.float32]
Thresholds = npt.NDArray[np.floating[Any]]


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
    """Pixels inside the field of view, by logit.

    Attributes:
        values: float32 (k,), finite, strictly rising: the logits that occur.
        positives: int64 (k,): pixels of the target, by logit.
        negatives: int64 (k,): pixels off the target, by logit.
        undefined: Pixels inside the field of view whose logit is NaN. They stand in no bin, and
            any makes every score NaN.
    """

    values: Logits
    positives: Counts
    negatives: Counts
    undefined: int = 0

    @classmethod
    def empty(cls) -> Histogram:
        """The histogram of no pixel."""
        return cls(np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64))

    @classmethod
    def of(
        cls,
        logits: npt.NDArray[Any],
        target: npt.NDArray[Any],
        fov: npt.NDArray[Any] | None = None,
    ) -> Histogram:
        """Count the pixels of an image.

        Args:
            logits: float of any shape, before the sigmoid (or any other score that ranks: equal
                values are ties); counted as float32, infinity as the largest finite number.
            target: bool or 0/1, same shape.
            fov: bool or 0/1, same shape; pixels that are 0 are left out. None: all count.

        Returns:
            Exact up to `IMAGE_BINS` different logits; beyond, see `joined`.

        Raises:
            ShapeError: The shapes differ.
            ValueError: The target or fov holds something else than 0 and 1, or the logits are no
                floats.
        """
        logits, target = np.asarray(logits), np.asarray(target)
        fov = None if fov is None else np.asarray(fov)
        if logits.shape != target.shape or (fov is not None and fov.shape != target.shape):
            shapes = [logits.shape, target.shape, *([] if fov is None else [fov.shape])]
            raise ShapeError(f"logits, target and fov should have one shape, not {shapes}")
        if not np.issubdtype(logits.dtype, np.floating):
            raise ValueError(f"logits are floats, not {logits.dtype}")
        truth = _binary(target, "target").ravel()
        values = logits.ravel()
        if fov is not None:
            inside = _binary(fov, "fov").ravel()
            if not inside.all():
                values, truth = values[inside], truth[inside]
        parts = (
            _counted(values[start : start + CHUNK], truth[start : start + CHUNK])
            for start in range(0, values.size, CHUNK)
        )
        return cls.sum(parts).joined(IMAGE_BINS)

    @classmethod
    def sum(cls, histograms: Iterable[Histogram]) -> Histogram:
        """The histogram of all images pooled; that of no pixel when there is none.

        Takes them one after another, so that memory is bounded when they are made on demand.
        """
        pending: list[Histogram] = []
        bins = 0
        for histogram in histograms:
            pending.append(histogram)
            bins += len(histogram.values)
            if bins > 2 * POOL_BINS:
                pending = [_merged(pending)]
                bins = len(pending[0].values)
        return _merged(pending)

    def __add__(self, other: Histogram) -> Histogram:
        return _merged([self, other])

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Histogram)
            and self.undefined == other.undefined
            and np.array_equal(self.values, other.values)
            and np.array_equal(self.positives, other.positives)
            and np.array_equal(self.negatives, other.negatives)
        )

    __hash__ = None  # type: ignore[assignment]  # holds arrays, as they are not hashable

    def joined(self, most: int) -> Histogram:
        """The same pixels in at most `most` bins; itself where it has no more.

        Neighbours are joined, under the lowest of their logits, while they hold less than a share
        of 4 / `most` of the positives and of the negatives, and of the pixels ranked above them
        less than a share of 2 ln(pixels) / `most`: the top of the ranking, where each pixel moves
        the precision, stays whole. At the bounds used here no score changes by more than 4e-5.
        """
        if len(self.values) <= most:
            return self
        codes = np.zeros(len(self.values), np.int64)
        for counts in (self.positives, self.negatives):
            codes += _above(counts) * (most // 4) // max(1, int(counts.sum()))
        pixels = self.positives + self.negatives
        steps = (most // 2 - 1) / math.log1p(float(pixels.sum()))
        codes += np.floor(np.log1p(_above(pixels).astype(np.float64)) * steps).astype(np.int64)
        starts = _starts(codes)
        return Histogram(
            self.values[starts],
            np.add.reduceat(self.positives, starts),
            np.add.reduceat(self.negatives, starts),
            self.undefined,
        )

    def confusion(self, threshold: float | Thresholds | None) -> Confusion:
        """Pixels by prediction and target, where prediction = (logit >= threshold).

        Args:
            threshold: A logit, infinite ones included, or an array of logits; None or NaN
                (undefined) gives NaN.

        Returns:
            Counts of the shape of `threshold`.
        """
        at = np.asarray(np.nan if threshold is None else threshold, dtype=np.float64)
        unknown = np.isnan(at) | bool(self.undefined)
        if unknown.all():
            nothing = np.full(at.shape, np.nan)
            return Confusion(nothing, nothing, nothing, nothing)
        index = np.searchsorted(self.values, at)
        tp, positives = _from(self.positives, index)
        fp, negatives = _from(self.negatives, index)
        counts = (tp, fp, positives - tp, negatives - fp)
        return Confusion(*(np.where(unknown, np.nan, each) for each in counts))


def _counted(values: npt.NDArray[Any], truth: npt.NDArray[np.bool_]) -> Histogram:
    known = ~np.isnan(values)
    undefined = int(values.size - np.count_nonzero(known))
    if undefined:
        values, truth = values[known], truth[known]
    # Clipped before they are narrowed, so that no float64 overflows. Zero has one sign.
    narrow = np.clip(values, -_LARGEST, _LARGEST).astype(np.float32) + np.float32(0)
    # The order of floats is that of their bits read as integers, once negative ones are turned
    # around; below them the target, so that one sort orders both.
    bits = narrow.view(np.int32)
    keys = np.where(bits < 0, bits ^ np.int32(2**31 - 1), bits).astype(np.int64)
    codes = np.sort((keys << 1) | truth)
    starts = _starts(codes >> 1)
    hits = np.concatenate([[0], np.cumsum(codes & 1)])
    positives = np.diff(hits[np.append(starts, codes.size)])
    negatives = np.diff(starts, append=codes.size) - positives
    keys = (codes[starts] >> 1).astype(np.int32)
    found = np.where(keys < 0, keys ^ np.int32(2**31 - 1), keys).view(np.float32)
    return Histogram(found, positives, negatives, undefined).joined(IMAGE_BINS)


def _starts(groups: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Where each run of equal values begins."""
    if not groups.size:
        return np.zeros(0, np.intp)
    return np.concatenate([[0], np.flatnonzero(groups[1:] != groups[:-1]) + 1])


def _above(counts: Counts) -> Counts:
    """For each bin, the pixels of all higher ones."""
    return np.cumsum(counts[::-1])[::-1] - counts


def _from(
    counts: Counts, index: npt.NDArray[np.intp]
) -> tuple[npt.NDArray[np.float64], np.float64]:
    """Counts from each index on, and all of them."""
    if index.ndim == 0:
        above, below = counts[int(index) :].sum(), counts[: int(index)].sum()
        return np.asarray(above, np.float64), np.float64(above + below)
    above_all = np.append(np.cumsum(counts[::-1])[::-1], 0)
    return above_all[index].astype(np.float64), np.float64(above_all[0])


def _merged(histograms: Sequence[Histogram]) -> Histogram:
    if len(histograms) < 2:
        return histograms[0].joined(POOL_BINS) if histograms else Histogram.empty()
    undefined = sum(histogram.undefined for histogram in histograms)
    values = np.concatenate([histogram.values for histogram in histograms])
    # Stable, because that sort merges runs that are in order already.
    order = np.argsort(values, kind="stable")
    values = values[order]
    starts = _starts(values)

    def added(counts: list[Counts]) -> Counts:
        each = np.concatenate(counts)[order]
        return np.add.reduceat(each, starts) if len(starts) else each

    return Histogram(
        values[starts],
        added([histogram.positives for histogram in histograms]),
        added([histogram.negatives for histogram in histograms]),
        undefined,
    ).joined(POOL_BINS)


def _binary(values: npt.NDArray[Any], name: str) -> npt.NDArray[np.bool_]:
    if values.dtype == np.bool_:
        return np.ascontiguousarray(values)
    mask = np.ascontiguousarray(values != 0)
    # 0/255 or soft values would be counted as something they are not.
    if values.size and (values.max() > 1 or (values != mask).any()):
        raise ValueError(f"the {name} should hold 0 and 1 only; it reaches {values.max()}")
    return mask


def score(
    histogram: Histogram, threshold: float | None, names: Sequence[str] | None = None
) -> dict[str, float]:
    """Scores of one image, or of several pooled, at one threshold.

    Args:
        histogram: Pixels inside the field of view.
        threshold: A logit; a pixel is predicted when its own is at or above it. None or NaN
            (undefined): scores that need a threshold are NaN.
        names: Metrics, in this order; None for all.

    Returns:
        name -> value; NaN where undefined, and everywhere when a logit was NaN.

    Raises:
        UserError: A metric is unknown.
    """
    chosen = METRICS.names() if names is None else names
    return {name: float(METRICS.part(name).load()(histogram, threshold)) for name in chosen}
