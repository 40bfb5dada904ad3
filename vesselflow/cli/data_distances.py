"""Distances and spacings of `vesselflow data inspect`: measured, and put into words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vesselflow.stores.store import Keypoints


def nearest(held: Keypoints, spacing_um: Sequence[float] | None) -> Any:
    """How far each keypoint is from the nearest other, of any class; in px without spacing.

    Returns:
        float64 (k,); (0,) of less than two keypoints.
    """
    import numpy as np
    from scipy.spatial import cKDTree

    if len(held) < 2:
        return np.zeros(0)
    places = held.positions * (1.0 if spacing_um is None else np.asarray(spacing_um))
    return cKDTree(places).query(places, k=2)[0][:, 1]


def spread(values: Any) -> dict[str, float] | None:
    """Least, median and most of numbers; None of no number."""
    import numpy as np

    if not len(values):
        return None
    low, middle, high = np.quantile(values, [0.0, 0.5, 1.0])
    return {"min": float(low), "median": float(middle), "max": float(high)}


def unit_of(spacing: Sequence[float] | None) -> tuple[str, float]:
    """The unit in which distances are told, and by what micrometres (or px) are multiplied for it.

    Args:
        spacing: Of a voxel, micrometres; below 10 nm distances are told in angstrom. None: px.
    """
    from vesselflow.stores.schema import ANGSTROM_PER_UM

    if spacing is None:
        return "px", 1.0
    return ("angstrom", ANGSTROM_PER_UM) if max(spacing) < 0.01 else ("um", 1.0)


def distance_text(
    found: Mapping[str, float] | None, spacing: Sequence[float] | None, short: bool = True
) -> str:
    """Distances in words, in what their field uses; "-" of none.

    Args:
        found: Of `spread`, in micrometres, or px where there is no spacing.
        spacing: As of `unit_of`.
        short: The least and the median only.
    """
    if not found:
        return "-"
    unit, scale = unit_of(spacing)
    least, median, most = (f"{found[name] * scale:.4g}" for name in ("min", "median", "max"))
    text = f"{least} to {most} {unit}, median {median}"
    return f"from {least}, median {median} {unit}" if short else text


def spacing_text(spacing: Sequence[float] | None) -> str:
    """Of a voxel, in micrometres: one number, x first where they differ, or "-"."""
    if spacing is None:
        return "-"
    if len(set(spacing)) == 1:
        return f"{spacing[0]:.4g}"
    return " x ".join(f"{side:.4g}" for side in reversed(spacing))
