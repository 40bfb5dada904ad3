"""Batches of keypoints for the tests of targets, and an independent dense rendering."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from vesselflow.targets.keypoints import Keypoints


def keypoints(
    coordinates: object,
    sample: object = None,
    class_index: object = None,
    covariance: object = None,
) -> Keypoints:
    """Keypoints out of lists; of sample and class 0 where nothing is said."""
    places = torch.as_tensor(np.asarray(coordinates, dtype=np.float64))
    nothing = torch.zeros(len(places), dtype=torch.int64)
    return Keypoints(
        places,
        nothing if sample is None else torch.as_tensor(sample),
        nothing if class_index is None else torch.as_tensor(class_index),
        None if covariance is None else torch.as_tensor(np.asarray(covariance, dtype=np.float64)),
    )


def drawn(seed: int, count: int, shape: tuple[int, ...], beyond: float = 10.0) -> np.ndarray:
    """Coordinates, uniform over a patch and a little beyond."""
    draws = np.random.default_rng(seed)
    return draws.uniform(-beyond, np.array(shape) - 1 + beyond, (count, len(shape)))


def spreads(seed: int, count: int, axes: int, low: float, high: float) -> np.ndarray:
    """Covariances with standard deviations in [low, high], turned at random."""
    draws = np.random.default_rng(seed)
    turned = np.linalg.qr(draws.standard_normal((count, axes, axes)))[0]
    widths = draws.uniform(low, high, (count, axes))
    return (turned * widths[:, None] ** 2) @ turned.swapaxes(1, 2)


def dense(
    coordinates: np.ndarray, covariance: np.ndarray, shape: tuple[int, ...], combine: str = "max"
) -> np.ndarray:
    """The Gaussians at every voxel, one keypoint after another: no code of the package's."""
    mesh = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).astype(float)
    out = np.zeros(shape)
    for place, spread in zip(coordinates, covariance, strict=True):
        away = mesh - place
        squared = np.einsum("...i,ij,...j->...", away, np.linalg.inv(spread), away)
        one = np.exp(-squared / 2)
        out = np.maximum(out, one) if combine == "max" else out + one
    return np.minimum(out, 1)


def at_centres(volume: np.ndarray, factor: int, order: int = 3) -> np.ndarray:
    """A full-resolution map at the centres of coarse cells, by scipy's splines."""
    axes = [factor * np.arange(n // factor) + (factor - 1) / 2 for n in volume.shape]
    return ndimage.map_coordinates(
        volume, np.stack(np.meshgrid(*axes, indexing="ij")), order=order, mode="nearest"
    )
