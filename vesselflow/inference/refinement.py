"""Where between cells a peak of a heat-map lies."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

REFINEMENTS = ("paraboloid", "moments", "none")

#: Cells to either side over which moments are taken.
MOMENTS_REACH = 2
#: Logarithms below the peak's are held to this, which a cell of 0 has.
_DEEPEST = -100.0
#: Weight of a cell of no height beside that of the peak: with enough cells of 0 around it the
#: coefficients would be undetermined. Heavier, it would pull at peaks beyond the border.
_LEAST_WEIGHT = 1e-10
#: Peaks that are refined at a time, which bounds the memory that windows take.
_AT_ONCE = 4096


def refined(
    values: npt.NDArray[Any],
    cells: Indices,
    middle: Floats,
    flat: npt.NDArray[np.bool_],
    refinement: str,
) -> Floats:
    """Places of peaks in coordinates of cells.

    - "paraboloid": the top of a paraboloid through the logarithms of the peak and the cells that
      share a face or an edge with it, by least squares weighted with the squared heights (Guo, A
      simple algorithm for fitting a Gaussian function, IEEE Signal Processing Magazine 28, 2011).
      The logarithm of a Gaussian is one, so its place is exact whatever its width and shape. At the
      border there are cells on one side only, and two points fix no parabola: there the curvature
      along each axis is the median of that of the other peaks, and the cells fix a plane; without
      other peaks the window is moved inside, where neighbours disturb it more. Where there is no
      top, or it is more than a cell away, moments are taken.
    - "moments": the centre of mass of the cells up to `MOMENTS_REACH` to each side. Cells beyond
      the window or the border are missing on one side, which biases it towards the window's
      middle, and neighbours pull at it.
    - "none": the cell's centre.

    What each is off by is measured in this room's README.

    Args:
        values: float (*grid), at least 0.
        cells: int64 (n, D): peaks.
        middle: float64 (n, D): the middle of the plateau of each.
        flat: bool (n,): whether a peak has a plateau; where nothing says more, its place is the
            middle.
        refinement: One of `REFINEMENTS`.

    Returns:
        float64 (n, D), within a cell of the peak or of its plateau's middle.
    """
    place = middle.astype(np.float64)
    if refinement == "none" or not len(cells):
        return place
    rest = ~flat
    if refinement == "paraboloid" and min(values.shape) >= 3:
        top = _tops(values, cells, flat)
        near = np.abs(top - np.where(flat[:, None], middle, cells)).max(axis=1) <= 1
        place[near] = top[near]
        rest &= ~near
    if rest.any():
        place[rest] = _in_parts(lambda part: _moments(values, part), cells[rest])
    return place


def _in_parts(of: Callable[[Indices], Floats], cells: Indices) -> Floats:
    """What a function of peaks gives, some of them at a time."""
    starts = range(0, len(cells), _AT_ONCE)
    return np.concatenate([of(cells[start : start + _AT_ONCE]) for start in starts])


def _tops(values: npt.NDArray[Any], cells: Indices, flat: npt.NDArray[np.bool_]) -> Floats:
    """The top of each peak, (n, D); NaN where there is none."""
    axes = cells.shape[1]
    fitted = _in_parts(lambda part: _paraboloid(values, part), cells)
    top, curve = fitted[:, :axes], fitted[:, axes:]
    border = ((cells == 0) | (cells == np.array(values.shape) - 1)).any(axis=1)
    inner = ~border & ~flat & (np.abs(top - cells).max(axis=1) <= 1)
    if border.any() and inner.any():
        usual = np.median(curve[inner], axis=0)
        top[border] = _in_parts(lambda part: _plane(values, part, usual), cells[border])
    return top


def _moments(values: npt.NDArray[Any], cells: Indices) -> Floats:
    steps = _steps(cells.shape[1], MOMENTS_REACH)
    around = cells[:, None] + steps
    inside = ((around >= 0) & (around < values.shape)).all(axis=2)
    heights = values[tuple(np.moveaxis(np.clip(around, 0, np.array(values.shape) - 1), 2, 0))]
    mass = np.where(inside & (heights > 0), heights, 0.0).astype(np.float64)
    total = mass.sum(axis=1, keepdims=True)
    # NaN is not above 0, and a peak of height 0 has no mass.
    offset = mass @ steps / np.where(total > 0, total, 1.0)
    return np.asarray(cells + offset, np.float64)


def _paraboloid(values: npt.NDArray[Any], cells: Indices) -> Floats:
    """The top of each peak and its curvature along each axis, (n, 2 D); NaN where there is none."""
    axes = cells.shape[1]
    steps = _near_steps(axes)
    base = np.clip(cells, 1, np.array(values.shape) - 2)
    # 1, x, and x_i x_j for i <= j; squares halved, so that the coefficients are the second
    # derivatives.
    pairs = [(i, j) for i in range(axes) for j in range(i, axes)]
    squares = [steps[:, i] * steps[:, j] / (2 if i == j else 1) for i, j in pairs]
    design = np.stack([np.ones(len(steps)), *steps.T, *squares], axis=1).astype(np.float64)
    found = _least_squares(design, *_logarithms(values, cells, base))
    slope, curve = found[:, 1 : 1 + axes], np.empty((len(cells), axes, axes))
    for number, (i, j) in enumerate(pairs):
        curve[:, i, j] = curve[:, j, i] = found[:, 1 + axes + number]
    peaked = np.linalg.eigvalsh(curve)[:, -1] < -1e-6
    curve[~peaked] = -np.eye(axes)
    top = base + np.linalg.solve(-curve, slope[..., None])[..., 0]
    both = np.concatenate([top, np.diagonal(curve, axis1=1, axis2=2)], axis=1)
    return np.where(peaked[:, None], both, np.nan)


def _plane(values: npt.NDArray[Any], cells: Indices, curve: Floats) -> Floats:
    """The top of each peak, (n, D), where the curvature along each axis is known."""
    steps = _near_steps(cells.shape[1])
    design = np.concatenate([np.ones((len(steps), 1)), steps], axis=1)
    logs, weights = _logarithms(values, cells, cells)
    found = _least_squares(design, logs - (steps**2) @ curve / 2, weights)
    return np.asarray(cells - found[:, 1:] / curve, np.float64)


def _logarithms(values: npt.NDArray[Any], cells: Indices, base: Indices) -> tuple[Floats, Floats]:
    """Logarithms of the heights around `base` over those of the peaks, and weights, (n, k)."""
    around = base[:, None] + _near_steps(cells.shape[1])
    inside = ((around >= 0) & (around < values.shape)).all(axis=2)
    around = np.clip(around, 0, np.array(values.shape) - 1)
    heights = values[tuple(np.moveaxis(around, 2, 0))].astype(np.float64)
    highest = values[tuple(cells.T)].astype(np.float64)[:, None]
    sound = np.isfinite(heights) & (heights > 0) & np.isfinite(highest)
    ratio = np.where(sound, heights, 0.0) / np.where(highest > 0, highest, 1.0)
    logs = np.log(np.maximum(ratio, np.exp(_DEEPEST)))
    return logs, np.where(inside, ratio**2 + _LEAST_WEIGHT, 0.0)


def _least_squares(design: Floats, logs: Floats, weights: Floats) -> Floats:
    """Coefficients (n, f) of the columns of `design` (k, f) that fit `logs` (n, k)."""
    terms = design.shape[1]
    outer = (design[:, :, None] * design[:, None]).reshape(len(design), -1)
    normal = (weights @ outer).reshape(-1, terms, terms)
    right = ((weights * logs) @ design)[..., None]
    try:
        found = np.linalg.solve(normal, right)[..., 0]
    except np.linalg.LinAlgError:
        # Of a faint peak among zeros the cells around weigh nothing: the least of all solutions.
        found = (np.linalg.pinv(normal, hermitian=True) @ right)[..., 0]
    return np.asarray(found, np.float64)


def _steps(axes: int, reach: int) -> Indices:
    return np.array(list(product(range(-reach, reach + 1), repeat=axes)), np.int64)


def _near_steps(axes: int) -> Indices:
    """To the cell itself and those that share a face or an edge with it."""
    steps = _steps(axes, 1)
    return steps[np.abs(steps).sum(axis=1) <= 2]
