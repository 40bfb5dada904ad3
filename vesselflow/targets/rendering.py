"""Heat-maps of keypoints, rendered on the coarse grid: exact at its cells' centres, in batches.

A cell's value is that of the Gaussian at the cell's centre. Nothing is rendered at full resolution,
and nothing depends on where keypoints lie between cells, so that a target that is rendered after an
augmentation is the augmented target.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from vesselflow.errors import ShapeError, UserError
from vesselflow.targets.distances import Distances
from vesselflow.targets.grid import LEAST_CELLS, Grid
from vesselflow.targets.keypoints import Keypoints
from vesselflow.targets.ragged import Block, blocks
from vesselflow.targets.sigma import Sigma

Combine = Literal["max", "sum"]

#: Numbers that are held at a time: they should stay in the cache of a CPU.
CPU_NUMBERS = 2**20
ACCELERATOR_NUMBERS = 2**26

#: Coarse cells: the least standard deviation of a keypoint's own covariance.
LEAST_OWN_CELLS = 1e-3

_TINY = torch.finfo(torch.float32).tiny


@torch.no_grad()
def render_heatmaps(
    keypoints: Keypoints,
    grid: Grid,
    *,
    samples: int,
    classes: int,
    sigma: Sigma | None = None,
    spacing_angstrom: Tensor | None = None,
    combine: Combine = "max",
    truncate: float | None = None,
) -> Tensor:
    """Gaussians of amplitude 1 at the keypoints: exp(-(c - x)^T S^-1 (c - x) / 2) at a centre c.

    Computed in float64 and rounded last (distances to the nearest keypoint in float32, which moves
    no value by more than 1e-7). Values below 1.2e-38, the least normal number of float32, are 0.

    Args:
        keypoints: Of all samples; those outside the patch reach into it. With a covariance, each
            has its own shape; otherwise that of `sigma`.
        grid: The patch and its coarse grid, the same for all samples.
        samples: N, the samples of the batch; those without keypoints are 0.
        classes: C, the classes.
        sigma: Widths by class and axis; None exactly where the keypoints have covariances.
        spacing_angstrom: float (N, D) or (D,), angstrom per voxel, for a sigma in angstrom.
        combine: Where Gaussians of one class overlap: the largest ("max"), or their sum, at most 1
            ("sum").
        truncate: A Gaussian is 0 beyond this many standard deviations (an ellipsoid, not a box).
            None: never.

    Returns:
        float32 (N, C, *grid.cells) on the device of the keypoints.

    Raises:
        ShapeError: Axes, classes or samples do not fit each other, or both or none of sigma and
            covariance are given.
        UserError: A coordinate is not finite, a class or sample is unknown, a sigma is below a
            tenth of a coarse cell, a covariance is not positive definite or below
            `LEAST_OWN_CELLS`, `combine` is unknown or `truncate` is not positive.
    """
    _check_arguments(keypoints, grid, classes, sigma, combine, truncate)
    device = keypoints.coordinates.device
    if device.type == "mps":  # It has no float64.
        spacing = None if spacing_angstrom is None else spacing_angstrom.cpu()
        return render_heatmaps(
            keypoints.to("cpu"),
            grid,
            samples=samples,
            classes=classes,
            sigma=sigma,
            spacing_angstrom=spacing,
            combine=combine,
            truncate=truncate,
        ).to(device)
    out = torch.zeros((samples * classes, math.prod(grid.cells)), device=device)
    if len(keypoints):
        _check_indices(keypoints, samples, classes)
        voxels = None if sigma is None else sigma.in_voxels(keypoints, grid, spacing_angstrom)
        distances = Distances.of(keypoints, grid, voxels)
        _check_values(keypoints, distances)
        group = keypoints.sample * classes + keypoints.class_index
        numbers = CPU_NUMBERS if device.type == "cpu" else ACCELERATOR_NUMBERS
        if combine == "max":
            _largest(out, distances, group, truncate, numbers)
        else:
            _sum(out, distances, group, truncate, numbers)
    return out.reshape(samples, classes, *grid.cells)


def _largest(
    out: Tensor, distances: Distances, group: Tensor, truncate: float | None, numbers: int
) -> None:
    """The largest Gaussian is that of the keypoint at the least distance."""
    each = distances.cells if distances.separable else 2 * distances.cells
    for block, parts in blocks(group, each, numbers):
        least: Tensor | None = None
        for part in parts:
            here = distances.squared(part).amin(dim=1)
            least = here if least is None else torch.minimum(least, here)
        assert least is not None
        if truncate is not None:
            least = least.masked_fill(least > truncate**2, math.inf)
        _put(out, block, torch.exp(least.double().clamp(min=0) / -2))


def _sum(
    out: Tensor, distances: Distances, group: Tensor, truncate: float | None, numbers: int
) -> None:
    # Without correlation or an ellipsoid's edge a Gaussian is a product of factors of one axis
    # each, and their sum over keypoints a product of matrices.
    separable = truncate is None and distances.separable
    each = distances.cells // distances.shape[0] if separable else distances.cells
    for block, parts in blocks(group, each, numbers // 2):
        total: Tensor | None = None
        for part in parts:
            if separable:
                first, rest = distances.factors(part)
                here = torch.bmm(first.mT, rest).flatten(1)
            else:
                squared = distances.squared(part, exact=True)
                if truncate is not None:
                    squared = squared.masked_fill(squared > truncate**2, math.inf)
                here = torch.exp(squared.clamp_(min=0) / -2).sum(dim=1)
            total = here if total is None else total + here
        assert total is not None
        _put(out, block, total.clamp(max=1))


def _put(out: Tensor, block: Block, values: Tensor) -> None:
    rounded = values.float()
    # Denormal numbers make whatever reads them many times slower.
    out[block] = torch.where(rounded < _TINY, 0.0, rounded)


def _check_arguments(
    keypoints: Keypoints,
    grid: Grid,
    classes: int,
    sigma: Sigma | None,
    combine: str,
    truncate: float | None,
) -> None:
    if keypoints.axes != grid.axes:
        raise ShapeError(f"keypoints have {keypoints.axes} axes and the patch {grid.axes}")
    if (sigma is None) == (keypoints.covariance is None):
        raise ShapeError("keypoints have either a sigma or covariances of their own")
    if sigma is not None and sigma.classes != classes:
        raise ShapeError(f"sigma has {sigma.classes} classes and the target {classes}")
    if combine not in ("max", "sum"):
        raise UserError(f"combine {combine!r} is unknown", allowed="max, sum")
    if truncate is not None and not truncate > 0:
        raise UserError(f"truncate {truncate} is not allowed", allowed="a number above 0, or none")


def _check_indices(keypoints: Keypoints, samples: int, classes: int) -> None:
    # One question to the device for both.
    for what, index, count in (
        ("class", keypoints.class_index, classes),
        ("sample", keypoints.sample, samples),
    ):
        low, high = torch.stack(torch.aminmax(index)).tolist()
        if low < 0 or high >= count:
            raise UserError(
                f"keypoints are of {what} {low if low < 0 else high}",
                allowed=f"0 to {count - 1}" if count else "none",
            )


def _check_values(keypoints: Keypoints, distances: Distances) -> None:
    sound = torch.isfinite(keypoints.coordinates).all(dim=1)
    # What an augmentation narrows may fall below the bound, and must not end a run by that.
    least = LEAST_CELLS if keypoints.covariance is None else LEAST_OWN_CELLS
    wide = distances.least_sigma() >= least * (1 - 1e-6)
    if bool((sound & wide).all()):
        return
    worst = int((sound & wide).logical_not().nonzero()[0, 0])
    where = f"keypoint {worst} of the batch"
    if not sound[worst]:
        raise UserError(
            f"the coordinates {keypoints.coordinates[worst].tolist()} are not finite", where=where
        )
    if keypoints.covariance is not None:
        raise UserError(
            "the covariance is not positive definite, or narrower than "
            f"{LEAST_OWN_CELLS:g} coarse cells",
            where=where,
        )
    raise UserError(
        f"sigma is {float(distances.least_sigma()[worst]):.3g} coarse cells: the target would "
        "vanish between the centres of cells",
        where=where,
        allowed=f"{LEAST_CELLS:g} cells or more",
    )
