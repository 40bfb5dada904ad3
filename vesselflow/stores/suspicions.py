"""What looks wrong in a source without being a fault: inverted masks, black images.

A store with suspicions is sound; whoever made it should look at the sources named. The bounds are
far from the real data tried: vessels are 6 to 14 % of the fov in CHASE_DB1 and STARE. Of patches of
64 px cut from these, 19 and 10 % have no vessel, which is why patches count only by the half.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesselflow.stores.keypoints import Keypoints
from vesselflow.stores.schema import Bytes

#: Kind -> what is said about it.
SUSPICIONS = {
    "mask empty": "the mask has no vessel inside the fov",
    "mask full": "the mask is vessel in all of the fov",
    "mask inverted": "the mask may be inverted, more than 70 % of the fov is vessel",
    "keypoint twice": "two keypoints of one class lie at the same place",
    "image black": "the image is nearly black (99 % of the fov below 16 of 255)",
    "image constant": "the image is the same everywhere in the fov",
}
#: More vessel than that inside the fov looks like background drawn white. Angiograms of the finest
#: capillaries reach one half.
INVERTED_SHARE = 0.7
#: Below this, of 255, a pixel is black: 12-bit values whose low byte was lost reach 15.
BLACK_LEVEL = 16
#: At most this share of a black image's fov is brighter: hot pixels, labels burnt in.
BRIGHT_SHARE = 0.01
#: A patch cut from an image may well hold no vessel, or nothing but one. What is at most that large
#: counts as a patch in a store of more than `FEW_SOURCES`, and then half of them must be suspect.
PATCH_PX = 512
FEW_SOURCES = 50


def suspicions(
    image: NDArray[Any], target: Bytes | None, fov: Bytes, keypoints: Keypoints | None = None
) -> list[str]:
    """Name what looks wrong in one source.

    Args:
        image: (*S, C); black is what images of 8 bits can be.
        target: uint8 or bool (*S) or (*S, K); 0 is background. None: there is no mask.
        fov: uint8 or bool (*S), 0 or 1, not empty; pixels outside do not count.
        keypoints: Of a keypoint store.

    Returns:
        Keys of `SUSPICIONS`, at most one about the truth and one about the image.
    """
    inside = fov.astype(bool, copy=False)
    found = []
    pixels = int(np.count_nonzero(inside))
    if target is not None:
        drawn = np.asarray(target > 0)
        drawn = drawn if drawn.ndim == inside.ndim else np.asarray(drawn.any(axis=-1))
        vessel = np.count_nonzero(inside & drawn)
        if vessel == 0:
            found.append("mask empty")
        elif vessel == pixels:
            found.append("mask full")
        elif vessel > INVERTED_SHARE * pixels:
            found.append("mask inverted")
    if keypoints is not None:
        rows = np.column_stack([keypoints.classes, keypoints.positions])
        if len(np.unique(rows, axis=0)) < len(rows):
            found.append("keypoint twice")
    channels = [image[..., channel] for channel in range(image.shape[-1])]
    first = np.unravel_index(inside.argmax(), inside.shape)
    if image.dtype == np.uint8 and _black(channels, inside, pixels):
        found.append("image black")
    elif not any(((channel != channel[first]) & inside).any() for channel in channels):
        found.append("image constant")
    return found


def _black(channels: Sequence[Bytes], inside: NDArray[np.bool_], pixels: int) -> bool:
    brightest = functools.reduce(np.maximum, channels)
    bright = np.count_nonzero((brightest >= BLACK_LEVEL) & inside)
    return bool(bright < BRIGHT_SHARE * pixels)


class Tally:
    """Gathers the suspicions of a store's sources into a line per kind."""

    def __init__(self) -> None:
        self.total = 0
        self._found: dict[str, list[str]] = {kind: [] for kind in SUSPICIONS}
        self._only_patches = dict.fromkeys(SUSPICIONS, True)

    def add(self, name: str, shape: Sequence[int], kinds: Sequence[str]) -> None:
        """Count one source.

        Args:
            name: Its id.
            shape: Spatial sizes of its image.
            kinds: What `suspicions` found.
        """
        self.total += 1
        for kind in kinds:
            self._found[kind].append(name)
            self._only_patches[kind] &= max(shape) <= PATCH_PX

    def lines(self) -> list[str]:
        """One line per kind: what, in how many sources, and the first five names."""
        lines = []
        for kind, names in self._found.items():
            usual = self._only_patches[kind] and self.total > FEW_SOURCES
            if names and not (usual and 2 * len(names) < self.total):
                more = f" and {len(names) - 5} more" if len(names) > 5 else ""
                shown = ", ".join(names[:5]) + more
                lines.append(
                    f"{SUSPICIONS[kind]} in {len(names)} of {self.total} source(s): {shown}"
                )
        return lines
