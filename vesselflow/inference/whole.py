"""Predictions of whole images and volumes at their native size, as logits."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vesselflow.augment.inputs import DatasetStatistics, channels_last, normalise_by, unit
from vesselflow.config.experiment import Experiment
from vesselflow.errors import ShapeError
from vesselflow.feed.batches import WholeImage
from vesselflow.feed.view import box_size, per_axis, slices
from vesselflow.inference.windows import blended

#: Logits are held to this range where probabilities are averaged: beyond it the smaller of the
#: two probabilities would underflow in float64.
_LARGEST = 700.0


def predict_whole(
    model: Callable[[Tensor], Tensor],
    whole: WholeImage,
    experiment: Experiment,
    *,
    tta: str = "none",
    window: int | tuple[int, ...] | None = None,
    overlap: float = 0.5,
    device: torch.device | str = "cpu",
    dataset_statistics: DatasetStatistics | None = None,
) -> np.ndarray:
    """Vessel logit of one image, at its native size: ln(p / (1 - p)) of its probability p.

    The image is seen at the working resolution (float32, one image at a time, so that the result
    depends on nothing else) and brought back to native size before any threshold. What is
    averaged, over flips (test-time augmentation) and between working pixels, is the probability;
    see `to_native` for how its logit is kept exact.

    Args:
        model: Gives the logits (1, C, *S / stride) of an image; in evaluation mode.
        whole: The image.
        experiment: How images are prepared.
        tta: Test-time augmentation: "none", or "flips" along every set of axes.
        window: Size of the windows in working px, of all axes or one for each, in which what is too
            large is predicted (see `vesselflow.inference.windows`); None predicts it in one piece.
        overlap: Least share of a window that its neighbour covers too.
        device: Where the model lives.
        dataset_statistics: For ``normalise.scope: dataset``.

    Returns:
        float32 (*S), of several classes (C, *S); -inf outside the field of view's bounding box, NaN
        where the model gave it.
    """
    maps = predict_working(
        model,
        whole,
        experiment,
        tta=tta,
        window=window,
        overlap=overlap,
        device=device,
        dataset_statistics=dataset_statistics,
    )
    # As inference tensors, out of which fewer copies are made.
    with torch.inference_mode():
        native = [to_native(maps[:, index], whole) for index in range(maps.shape[1])]
    return native[0] if len(native) == 1 else np.stack(native)


def predict_working(
    model: Callable[[Tensor], Tensor],
    whole: WholeImage,
    experiment: Experiment,
    *,
    tta: str = "none",
    window: int | tuple[int, ...] | None = None,
    overlap: float = 0.5,
    stride: Sequence[int] = (1,),
    device: torch.device | str = "cpu",
    dataset_statistics: DatasetStatistics | None = None,
) -> Tensor:
    """Logits of one image at the padded working resolution, those of each view.

    Args:
        model: As of `predict_whole`, and so are the others.
        whole: The image.
        experiment: How images are prepared.
        tta: Test-time augmentation.
        window: Size of the windows.
        overlap: Of the windows.
        stride: Working px of a cell of the model's output along each axis, or one number for all;
            flips of the image are flips of its cells, as sides are whole numbers of cells.
        device: Where the model lives.
        dataset_statistics: For ``normalise.scope: dataset``.

    Returns:
        float32 (V, C, *s / stride) on the CPU.
    """
    device = torch.device(device)
    image = unit(whole.image[None], device)
    fov = torch.from_numpy(np.array(whole.fov_working[None, None])).to(device).float()
    image = normalise_by(
        experiment.normalise, image, fov, whole.centre[None], whole.scale[None], dataset_statistics
    )
    spatial = image.ndim - 2
    if experiment.train.channels_last:
        image = image.contiguous(memory_format=channels_last(spatial))
    sides = per_axis(window or tuple(image.shape[2:]), spatial, "score.window")
    views = []
    with torch.inference_mode():
        for axes in _flips(spatial) if tta == "flips" else [()]:
            seen = torch.flip(image, axes) if axes else image
            logits = blended(model, seen, sides, overlap, stride)
            views.append((torch.flip(logits, axes) if axes else logits)[0].cpu())
        return torch.stack(views)


def box_of_working(values: Tensor, whole: WholeImage) -> Tensor:
    """A map of the padded working image brought to native size: 0 outside the fov's box.

    Args:
        values: float (*s).
        whole: The image that it belongs to.
    """
    size = box_size(whole.box)
    native = torch.zeros(whole.fov.shape, dtype=values.dtype)
    native[slices(whole.box, size)] = _resized(values[slices(whole.offset, whole.inner)], size)
    return native


def _flips(spatial: int) -> Iterator[tuple[int, ...]]:
    """Every set of spatial axes of a batch, the empty one first: 4 of images, 8 of volumes."""
    axes = range(2, 2 + spatial)
    for count in range(spatial + 1):
        yield from itertools.combinations(axes, count)


def to_native(logits: Tensor, whole: WholeImage) -> np.ndarray:
    """Bring logits from the padded working resolution back to the native size.

    The padding is cut off; what is left is the mean of the probabilities over the views, resized
    to the fov's box, linearly along each axis (antialiased where it shrinks). Both p and 1 - p are
    averaged, in float64, and the logit is the difference of their logarithms: of p alone in float32
    it would be lost above 17, where p rounds to 1. One view of native size keeps its logits as they
    are.

    Args:
        logits: float (V, *s): views of one image at the padded working resolution.
        whole: The image that they belong to.

    Returns:
        float32 (*S), -inf outside the fov's bounding box.

    Raises:
        ShapeError: The maps are smaller than the resized box, or of other axes.
    """
    ends = [first + size for first, size in zip(whole.offset, whole.inner, strict=True)]
    if logits.ndim != 1 + len(ends) or any(
        side < end for side, end in zip(logits.shape[1:], ends, strict=True)
    ):
        raise ShapeError(
            f"maps of {tuple(logits.shape)} do not hold {whole.inner} at {whole.offset}"
        )
    inside = logits[(slice(None), *slices(whole.offset, whole.inner))]
    size = box_size(whole.box)
    if len(inside) > 1 or size != whole.inner:
        exact = inside.double().clamp(-_LARGEST, _LARGEST)
        vessel, background = (
            _resized(torch.sigmoid(sign * exact).mean(0), size) for sign in (1, -1)
        )
        inside = (vessel.log() - background.log())[None]
    native = np.full(whole.fov.shape, -np.inf, dtype=np.float32)
    native[slices(whole.box, size)] = inside[0].numpy()
    return native


def _resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """A map (*s) at another size: slices of a volume first, then along its axis."""

    def plane(batch: Tensor, size: Sequence[int]) -> Tensor:
        return functional.interpolate(batch[:, None], list(size), mode="bilinear", antialias=True)[
            :, 0
        ]

    if maps.ndim == 2:
        return plane(maps[None], size)[0]
    slices = plane(maps, size[1:])
    if len(slices) == size[0]:
        return slices
    flat = slices.flatten(1)
    return plane(flat[None], (size[0], flat.shape[1]))[0].view(*size)
