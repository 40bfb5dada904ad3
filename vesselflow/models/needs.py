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

from vesselflow.errors import UserError
from vesselflow.models.arguments import GROUPS

#: Models of volumes.
VOLUMETRIC = ("unet3d", "unet25d", "encoded25d", "fpn3d")
#: Those that have no decoder at the stride of their coarsest level.
_ENDING = ("unet3d", "unet25d")
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


def divisor_of(spec: Mapping[str, Any], stride: int | tuple[int, ...] = 1) -> int | tuple[int, ...]:
    """What the sides of a model's samples are padded to multiples of.

    Images are padded alike for all models, so that one resident copy serves all of them; volumes
    cannot afford that.

    Args:
        spec: Name and arguments with all defaults filled in.
        stride: Of the output, which must divide the sides too.

    Raises:
        ValueError: The stride has another number of axes than the model.
    """
    own = _coarsest(spec) if spec["name"] in VOLUMETRIC else DIVISOR_PX
    if isinstance(own, int) and isinstance(stride, int):
        return math.lcm(own, stride)
    axes = axes_of(spec)
    each = zip(_each(own, (1,) * axes), _each(stride, (1,) * axes), strict=True)
    return tuple(math.lcm(one, other) for one, other in each)


def level_strides(spec: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    """Strides of the maps that a model can answer at by itself, finest first.

    Those of all its levels for models of volumes, of all blocks of its decoder for `unet`, of its
    pyramid for `fpn2d`; the others answer pixel by pixel only.

    Args:
        spec: Name and arguments with all defaults filled in.
    """
    if spec["name"] in VOLUMETRIC:
        levels = _levels(spec)
        return halved(levels, spec.get("flat_levels", levels))[: spec.get("depth")]
    finer = {"unet": spec.get("depth", 1), "fpn2d": spec.get("depth", 0) + 1}.get(spec["name"], 1)
    return tuple((2**level,) * 2 for level in range(finer))


def _levels(spec: Mapping[str, Any]) -> int:
    """Levels of a model of volumes, the voxels' own included."""
    return len(spec["filters"]) if "filters" in spec else int(spec["depth"]) + 1


def _coarsest(spec: Mapping[str, Any]) -> tuple[int, ...]:
    """The stride of the coarsest map of a model of volumes."""
    levels = _levels(spec)
    return halved(levels, spec.get("flat_levels", levels))[-1]


def native_stride(spec: Mapping[str, Any], stride: tuple[int, ...]) -> tuple[int, ...]:
    """The stride of the coarsest level whose voxels fill the cells of `stride` without a rest.

    Args:
        spec: Name and arguments with all defaults filled in.
        stride: Wanted, one number for each axis.

    Raises:
        ValueError: It has another number of axes than the model.
    """
    fitting = (
        own
        for own in reversed(level_strides(spec))
        if not any(side % part for side, part in zip(stride, own, strict=True))
    )
    return next(fitting)


def check_places(spec: Mapping[str, Any], stride: int | tuple[int, ...]) -> None:
    """Refuse gates of a decoder that an output stride leaves out.

    Args:
        spec: Name and arguments with all defaults filled in.
        stride: Of the output.

    Raises:
        UserError: The key in `where` is `model.se_at` or `model.skip_gate`.
    """
    if spec["name"] not in _ENDING:
        return
    wanted = (stride,) * axes_of(spec) if isinstance(stride, int) else stride
    if native_stride(spec, wanted) != level_strides(spec)[-1]:
        return
    ends = (
        f"with an output stride of {' x '.join(map(str, wanted))} a {spec['name']} of "
        f"{len(spec['filters'])} levels ends with its encoder; there is no "
    )
    hint = "or give model.filters more levels"
    if spec["se"] is not None and "encoder" not in spec["se_at"]:
        raise UserError(
            ends + " and no ".join(spec["se_at"]),
            where="model.se_at",
            allowed="encoder, or a list with it",
            hint=hint,
        )
    if spec.get("skip_gate") is not None:
        raise UserError(ends + "skip", where="model.skip_gate", allowed="null", hint=hint)


def halved(levels: int, flat_levels: int) -> tuple[tuple[int, int, int], ...]:
    """Strides of levels that are halved one after the other, the first of them in-plane only.

    Args:
        levels: How many, at least 1; the finest has stride 1.
        flat_levels: How many of the finest are not halved across slices.

    Returns:
        (depth, height, width) of each level, finest first.
    """
    return tuple((2 ** max(0, level - flat_levels), 2**level, 2**level) for level in range(levels))


def finer_by(coarse: tuple[int, int, int], fine: tuple[int, int, int]) -> tuple[int, int, int]:
    """By how much the grid of one stride is finer than that of a coarser one, along each axis."""
    return coarse[0] // fine[0], coarse[1] // fine[1], coarse[2] // fine[2]


def check_supervision(spec: Mapping[str, Any], stride: int | tuple[int, ...]) -> None:
    """Refuse deep supervision where no level of the decoder is coarser than the answer's.

    Args:
        spec: Name and arguments with all defaults filled in.
        stride: Of the output.

    Raises:
        UserError: The key in `where` is `model.deep_supervision`.
    """
    if spec.get("deep_supervision") is None:
        return
    levels, wanted = level_strides(spec), (stride,) * 3 if isinstance(stride, int) else stride
    finest = max(levels.index(native_stride(spec, wanted)), spec.get("finest_level", 0))
    # The decoder of a U-Net begins one level above the coarsest.
    coarsest = len(levels) - (2 if spec["name"] == "unet3d" else 1)
    if finest >= coarsest:
        raise UserError(
            f"no level of the decoder of this {spec['name']} of {len(levels)} levels is coarser "
            f"than its answer",
            where="model.deep_supervision",
            allowed="null",
            hint="or give model.filters more levels",
        )


def check_presence(spec: Mapping[str, Any], *, sparse: bool) -> None:
    """Refuse a head of presence beside heat-maps: a keypoint between cells is nowhere above 1/2.

    Args:
        spec: Name and arguments with all defaults filled in.
        sparse: What is learnt are heat-maps.

    Raises:
        UserError: The key in `where` is `model.presence`.
    """
    if sparse and spec.get("presence") is not None:
        raise UserError(
            "presence is that of masks; heat-maps of keypoints are learnt here",
            where="model.presence",
            allowed="null",
        )


def _normalises_alone(spec: Mapping[str, Any]) -> bool:
    """Whether each channel of each sample of the coarsest map is normalised by itself.

    Then two voxels must be there: of one nothing is left.
    """
    widths = {*spec.get("filters", ())[-1:], spec.get("segmentation_channels")}
    alone = {"instance": True, "group": bool({1, GROUPS} & widths), "layer": 1 in widths}
    return alone.get(spec["norm"], False)


def needs(spec: Mapping[str, Any]) -> Needs | None:
    """The needs of a model; None where only trying it tells.

    That is so of encoders of timm, and of maps that are reflected in networks of a library.

    Args:
        spec: Name and arguments with all defaults filled in.
    """
    name, reflected = spec["name"], spec["padding"] == "reflect"
    if reflected and "encoder" in spec:
        return None
    if name == "encoded25d":
        flat = needs({**spec, "name": "unet"})
        if flat is None or flat.pools:  # many slices may do for what pools one image
            return None
        sides = _coarsest(spec)
        # Transformers run all their stages, whatever the depth; kernels of 8 need as many pixels.
        least = (1, *(max(side, DIVISOR_PX) for side in sides[1:]))
        return Needs(sides, least, normalises_coarsest=flat.normalises_coarsest)
    if name in VOLUMETRIC:
        sides = _coarsest(spec)
        least = (*sides[:-1], 2 * sides[-1]) if _normalises_alone(spec) else sides
        if reflected:  # by one pixel, of two; and one slice, where kernels are as deep
            deep = spec.get("flat_levels", _levels(spec)) < _levels(spec)
            least = (sides[0] * (2 if deep else 1), *(2 * side for side in sides[1:]))
        return Needs(sides, least, normalises_coarsest=spec["norm"] == "batch")
    if name == "wnet":
        stride = 2 ** (len(spec["filters"]) - 1)
        least = 2 * stride if reflected or _normalises_alone(spec) else stride
        return Needs(stride, least, normalises_coarsest=spec["norm"] == "batch")
    encoder = spec["encoder"]
    if encoder.startswith("tu-"):
        return None
    stride = min(spec.get("output_stride", 32), 2 ** spec["depth"])
    later = [names for start, names in _NORMALISED_LATER.items() if encoder.startswith(start)]
    coarsest = all(name in names for names in later)
    least = stride * (_PAN_STRIDES if name == "pan" else 1)
    if name == "fpn2d":  # its fusion normalises that map, too
        coarsest = coarsest or spec["norm"] == "batch"
        least = 2 * stride if _normalises_alone(spec) else stride
    return Needs(
        stride,
        least,
        pools=name in _POOLING or encoder.startswith("timm-sk"),
        normalises_coarsest=coarsest,
    )
