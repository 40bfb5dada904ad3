"""Peaks of heat-maps: local maxima, refined below a cell, the lesser of near ones left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage, sparse
from scipy.spatial import cKDTree

from vesselflow.errors import ShapeError, UserError
from vesselflow.inference.picks import Picks
from vesselflow.inference.refinement import REFINEMENTS, Floats, Indices, refined
from vesselflow.targets.grid import to_voxels

Refinement = Literal["paraboloid", "moments", "none"]


def find_peaks(
    heatmaps: npt.NDArray[np.floating[Any]],
    *,
    ds_factor: int | Sequence[int],
    threshold: float | Sequence[float],
    radius_voxels: float | Sequence[float] | None = None,
    radius_angstrom: float | Sequence[float] | None = None,
    spacing_angstrom: Sequence[float] | None = None,
    refinement: Refinement = "paraboloid",
    most: int | None = None,
) -> Picks:
    """The keypoints that a heat-map shows.

    A peak is a cell at or above the threshold of which no neighbour (diagonal ones and those of the
    border included) is higher; cells of one height that touch are one peak. Of peaks of one class
    at most a radius apart, the highest stays (greedily: one that is left out leaves out none). A
    peak's score is the height of its cell, and its place is refined: see `refinement.refined`.

    Args:
        heatmaps: float (C, *grid), 2-D or 3-D: probabilities, or anything at least 0 whose
            logarithm is meant. In float64 a saturated model keeps its ranking longer. NaN is no
            peak, and counted.
        ds_factor: Voxels of a cell: one number, or one per axis.
        threshold: One number, or one per class; NaN and inf give no peak.
        radius_voxels: Non-maximum suppression: one number, or one per class; 0 keeps all.
        radius_angstrom: The same in angstrom, in its place; needs the spacing.
        spacing_angstrom: Angstrom per voxel along each axis.
        refinement: "paraboloid", "moments" or "none".
        most: Picks of a class at most, the highest ones; None for all.

    Returns:
        Picks in full-resolution voxels: by class, falling score, then coordinates.

    Raises:
        ShapeError: The heat-map is not (C, y, x) or (C, z, y, x), or other numbers do not fit it.
        UserError: A radius is negative or given twice or never, or the refinement is unknown.
    """
    if heatmaps.ndim not in (3, 4) or not np.issubdtype(heatmaps.dtype, np.floating):
        raise ShapeError(
            f"heat-maps are float (C, y, x) or (C, z, y, x), not {heatmaps.dtype} {heatmaps.shape}"
        )
    if refinement not in REFINEMENTS:
        raise UserError(f"refinement {refinement!r} is unknown", allowed=", ".join(REFINEMENTS))
    classes, axes = heatmaps.shape[0], heatmaps.ndim - 1
    factor = _numbers(ds_factor, axes, "ds_factor")
    limits = _numbers(threshold, classes, "thresholds")
    radii, scale = _radii(radius_voxels, radius_angstrom, spacing_angstrom, classes, axes)
    found: list[tuple[Floats, Floats]] = []
    for index in range(classes):
        values = heatmaps[index]
        if values.dtype == np.float16:  # scipy's filters do not know it.
            values = values.astype(np.float32)
        cells, middle, flat = _maxima(values, float(limits[index]))
        score = values[tuple(cells.T)].astype(np.float64)
        place = to_voxels(refined(values, cells, middle, flat, refinement), factor)
        order = np.lexsort((*place.T[::-1], -score))
        kept = order[_apart(place[order] * scale, float(radii[index]), most)]
        found.append((place[kept], score[kept]))
    return Picks(
        np.concatenate([place for place, _ in found]) if found else np.zeros((0, axes)),
        np.repeat(np.arange(classes), [len(score) for _, score in found]),
        np.concatenate([score for _, score in found]) if found else np.zeros(0),
        undefined=int(np.isnan(heatmaps).sum()),
    )


def one_class_each(picks: Picks, radius: float, scale: Sequence[float]) -> Picks:
    """Picks of which none has a surer one of another class, or its own, within a radius.

    Greedily from the surest on, as in `find_peaks`: one that is left out leaves out none.

    Args:
        picks: Of several classes.
        radius: In the unit of `scale`; 0 keeps all.
        scale: Length of a voxel along each axis.

    Returns:
        Those that stay, in their order.
    """
    order = np.lexsort((*picks.coordinates.T[::-1], picks.class_index, -picks.score))
    places = picks.coordinates[order] * np.asarray(scale, np.float64)
    kept = np.sort(order[_apart(places, radius, None)])
    return Picks(
        picks.coordinates[kept], picks.class_index[kept], picks.score[kept], picks.undefined
    )


def _maxima(
    values: npt.NDArray[Any], threshold: float
) -> tuple[Indices, Floats, npt.NDArray[np.bool_]]:
    """Cells of local maxima, (n, D); the middles of their plateaus; whether there is one."""
    low = values.dtype.type(-np.inf)
    known = np.where(np.isnan(values), low, values)

    def highest(of: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.asarray(ndimage.maximum_filter(of, size=3, mode="constant", cval=low))

    top = (known >= threshold) & (known > low)
    if top.any():
        top &= known == highest(known)
    labels, count = ndimage.label(top, structure=np.ones((3,) * values.ndim))
    # A plateau of which one cell has a higher neighbour is a step, not a peak; that cell is not in
    # `top`, and has the height of those beside it.
    step = top & (highest(np.where(top, low, known)) == known) if count else top
    peak = np.ones(count + 1, bool)
    peak[labels[step]] = False
    cells = np.argwhere(top).astype(np.int64)
    label = labels[top]
    cells, label = cells[peak[label]], label[peak[label]]
    _, label = np.unique(label, return_inverse=True)
    size = np.bincount(label)
    middle = np.stack(
        [np.bincount(label, weights=cells[:, axis]) / size for axis in range(values.ndim)], axis=1
    ).reshape(-1, values.ndim)
    # The cell nearest to the middle stands for a plateau; of equals the first.
    away = ((cells - middle[label]) ** 2).sum(axis=1)
    order = np.lexsort((np.arange(len(cells)), away, label))
    _, first = np.unique(label[order], return_index=True)
    return cells[order[first]], middle, size > 1


def _apart(place: Floats, radius: float, most: int | None) -> Indices:
    """Indices of points, given from the highest on, that no higher one leaves out."""
    if not len(place):
        return np.zeros(0, np.int64)
    pairs = cKDTree(place).query_pairs(radius, output_type="ndarray") if radius > 0 else []
    alive = np.ones(len(place), bool)
    if len(pairs):
        first, second = np.sort(pairs, axis=1).T
        lower = sparse.csr_array(
            (np.ones(len(first), bool), (first, second)), shape=(len(place), len(place))
        )
        for index in np.unique(first):
            if alive[index]:
                alive[lower.indices[lower.indptr[index] : lower.indptr[index + 1]]] = False
    return np.flatnonzero(alive)[:most].astype(np.int64)


def _numbers(given: Any, count: int, name: str) -> Floats:
    numbers = np.asarray(given, np.float64)
    if numbers.shape not in ((), (count,)):
        raise ShapeError(f"{name} {given} should be one number, or {count}")
    return np.broadcast_to(numbers, (count,))


def _radii(voxels: Any, angstrom: Any, spacing: Any, classes: int, axes: int) -> tuple[Any, Floats]:
    """The radius of each class, and what coordinates in voxels are multiplied by for it."""
    if (voxels is None) == (angstrom is None):
        raise UserError("the radius is given once", allowed="radius_voxels or radius_angstrom")
    radii = _numbers(voxels if angstrom is None else angstrom, classes, "radii")
    if not (np.isfinite(radii) & (radii >= 0)).all():
        raise UserError(f"a radius of {radii.min():g} is not allowed", allowed="0 or more")
    if angstrom is None:
        return radii, np.ones(axes)
    if spacing is None:
        raise UserError("a radius in angstrom needs the spacing of the voxels")
    scale = _numbers(spacing, axes, "spacing")
    if not (np.isfinite(scale) & (scale > 0)).all():
        raise UserError(f"a spacing of {scale.min():g} is not allowed", allowed="above 0")
    return radii, scale
