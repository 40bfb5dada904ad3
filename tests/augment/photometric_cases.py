"""What values become, in numpy, scipy and loops: nothing of the code under test."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float64]


def blurred(image: Array, fov: Array, sigma: float) -> Array:
    """Planes (..., H, W) blurred over the fov (H, W or with slices), by `scipy.ndimage`."""
    sigmas = (*[0.0] * (image.ndim - 2), sigma, sigma)
    inside = np.broadcast_to(fov > 0, image.shape)
    top = ndimage.gaussian_filter(np.where(inside, image, 0.0), sigmas, mode="constant")
    bottom = ndimage.gaussian_filter(inside.astype(float), sigmas, mode="constant")
    return np.where(inside, top / np.maximum(bottom, 1e-12), image)


def sharpened(image: Array, fov: Array, sigma: float, amount: float) -> Array:
    sharp = np.clip(image + amount * (image - blurred(image, fov, sigma)), 0, 1)
    return np.where(fov > 0, sharp, image)


def equalised(image: Array, fov: Array, clip: float, tiles: int) -> Array:
    """CLAHE of one plane (H, W), px by px."""
    height, width = image.shape
    spans = []
    for size in (height, width):
        count = min(tiles, size)
        edges = [k * size // count for k in range(count + 1)]
        spans.append(list(itertools.pairwise(edges)))
    level = np.rint(255 * np.where(fov > 0, image, 0)).astype(int)
    tables, shares = {}, {}
    for i, (top, bottom) in enumerate(spans[0]):
        for j, (left, right) in enumerate(spans[1]):
            here = (slice(top, bottom), slice(left, right))
            values = level[here][fov[here] > 0]
            shares[i, j] = len(values) / level[here].size
            counts = np.bincount(values, minlength=256).astype(float)
            limit = clip * len(values) / 256
            excess = np.maximum(counts - limit, 0).sum()
            counts = np.minimum(counts, limit) + excess / 256
            tables[i, j] = np.cumsum(counts) / max(len(values), 1)

    def around(place: int, parts: list[tuple[int, int]]) -> list[tuple[int, float]]:
        centres = [(a + b - 1) / 2 for a, b in parts]
        if place <= centres[0]:
            return [(0, 1.0)]
        if place >= centres[-1]:
            return [(len(centres) - 1, 1.0)]
        k = max(n for n, centre in enumerate(centres) if centre <= place)
        behind = (place - centres[k]) / (centres[k + 1] - centres[k])
        return [(k, 1 - behind), (k + 1, behind)]

    result = image.copy()
    for y, x in zip(*np.nonzero(fov > 0), strict=True):
        near = [
            (i, j, a * b * shares[i, j])
            for i, a in around(y, spans[0])
            for j, b in around(x, spans[1])
        ]
        total = sum(weight for *_, weight in near)
        result[y, x] = sum(w * tables[i, j][level[y, x]] for i, j, w in near) / total
    return result


def log_uniform(u: float, low: float, high: float) -> float:
    return float(np.exp(np.log(low) + u * (np.log(high) - np.log(low))))


def boxes(numbers: Array, size: tuple[int, ...], most: int, limits: tuple[float, float]):
    """Corners and sides of the boxes that some numbers in [0, 1) say."""
    count, axes = 1 + int(most * numbers[0]), len(size)
    found = []
    for k in range(count):
        row = numbers[1 + 2 * axes * k : 1 + 2 * axes * (k + 1)]
        sides = [
            max(1, round(log_uniform(u, *limits) * n)) for u, n in zip(row, size, strict=False)
        ]
        starts = [
            int(u * (n - side + 1)) for u, n, side in zip(row[axes:], size, sides, strict=True)
        ]
        found.append((starts, sides))
    return found
