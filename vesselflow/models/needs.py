"""How large a sample must be, and how many a micro-batch: known without importing torch.

Batch-norm cannot normalise one value per channel, so a model that pools to one pixel, or whose
coarsest map is one pixel, cannot be trained on one sample. Tests hold these rules against the
models themselves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: Models of volumes.
VOLUMETRIC = ("unet3d",)
#: Images are padded to multiples of this many pixels: enough for encoders of depth 5.
DIVISOR_PX = 32
#: Architectures that normalise what they pooled to one pixel.
_POOLING = ("pan", "deeplabv3", "deeplabv3plus", "upernet")
#: PAN pools three times below its stride.
_PAN_STRIDES = 8
#: Encoders without batch-norm on their coarsest map (VGG halves the size once more behind its last,
#: a mix transformer has none) -> architectures whose decoder normalises that map itself.
_NORMALISED_LATER = {"vgg": ("unet", "manet", "linknet"), "mit_b": ("manet",)}


@dataclass(frozen=True)
class Needs:
    """What a model asks of its input.

    Attributes:
        stride: Of its coarsest map; sides must be multiples of it (or of one number each).
        least_px: Least side, likewise.
        pools: It normalises single pixels, so that a micro-batch needs two samples.
        normalises_coarsest: It normalises its coarsest map.
    """

    stride: int | tuple[int, ...]
    least_px: int | tuple[int, ...]
    pools: bool = False
    normalises_coarsest: bool = True

    def holds(self, size: Sequence[int]) -> bool:
        """Whether no side is too small."""
        each = zip(size, _each(self.least_px, size), strict=True)
        return all(side >= least for side, least in each)

    def trains(self, size: Sequence[int], samples: int) -> bool:
        """Whether batch-norm gets two values per channel everywhere."""
        if samples > 1:
            return True
        strides = _each(self.stride, size)
        pixels = math.prod(side // stride for side, stride in zip(size, strides, strict=True))
        return not self.pools and (pixels > 1 or not self.normalises_coarsest)


def _each(value: int | tuple[int, ...], size: Sequence[int]) -> tuple[int, ...]:
    return (value,) * len(size) if isinstance(value, int) else value


def axes_of(spec: Mapping[str, Any]) -> int:
    """Spatial axes of what a model takes: 2, or 3 for volumes."""
    return 3 if spec["name"] in VOLUMETRIC else 2


def divisor_of(spec: Mapping[str, Any]) -> int | tuple[int, ...]:
    """What the sides of a model's samples are padded to multiples of.

    Images are padded alike for all models, so that one resident copy serves all of them; volumes
    cannot afford that.
    """
    if spec["name"] == "unet3d":
        return _unet3d(spec)
    return DIVISOR_PX


def _unet3d(spec: Mapping[str, Any]) -> tuple[int, int, int]:
    halvings = len(spec["filters"]) - 1
    return 2 ** max(0, halvings - spec["flat_levels"]), 2**halvings, 2**halvings


def needs(spec: Mapping[str, Any]) -> Needs | None:
    """The needs of a model; None where only trying it tells (encoders of timm).

    Args:
        spec: Name and arguments with all defaults filled in.
    """
    name = spec["name"]
    if name == "unet3d":
        sides = _unet3d(spec)
        return Needs(sides, sides, normalises_coarsest=spec["norm"] != "group")
    if name == "wnet":
        stride = 2 ** (len(spec["filters"]) - 1)
        return Needs(stride, stride)
    encoder = spec["encoder"]
    if encoder.startswith("tu-"):
        return None
    stride = min(spec.get("output_stride", 32), 2 ** spec["depth"])
    later = [names for start, names in _NORMALISED_LATER.items() if encoder.startswith(start)]
    return Needs(
        stride,
        stride * (_PAN_STRIDES if name == "pan" else 1),
        pools=name in _POOLING or encoder.startswith("timm-sk"),
        normalises_coarsest=all(name in names for names in later),
    )
