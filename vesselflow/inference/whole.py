"""Predictions of whole images at their native size, as logits."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from vesselflow.augment.inputs import DatasetStatistics, normalise_by, unit
from vesselflow.config.experiment import Experiment
from vesselflow.errors import ShapeError
from vesselflow.feed.batches import WholeImage

_FLIPS: dict[str, tuple[tuple[int, ...], ...]] = {
    "none": ((),),
    "flips": ((), (2,), (3,), (2, 3)),
}

#: Logits are held to this range where probabilities are averaged: beyond it the smaller of the
#: two probabilities would underflow in float64.
_LARGEST = 700.0


def predict_whole(
    model: nn.Module,
    whole: WholeImage,
    experiment: Experiment,
    *,
    tta: str = "none",
    device: torch.device | str = "cpu",
    dataset_statistics: DatasetStatistics | None = None,
) -> np.ndarray:
    """Vessel logit of one image, at its native size: ln(p / (1 - p)) of its probability p.

    The image is seen at the working resolution (float32, one image at a time, so that the result
    depends on nothing else) and brought back to native size before any threshold. What is
    averaged, over flips (test-time augmentation) and between working pixels, is the probability;
    see `to_native` for how its logit is kept exact.

    Args:
        model: In evaluation mode.
        whole: The image.
        experiment: How images are prepared.
        tta: Test-time augmentation: a key of `_FLIPS`.
        device: Where the model lives.
        dataset_statistics: For ``normalise.scope: dataset``.

    Returns:
        float32 (H, W); -inf outside the field of view's bounding box, NaN where the model gave it.
    """
    device = torch.device(device)
    image = unit(whole.image[None], device)
    fov = torch.from_numpy(np.array(whole.fov_working[None, None])).to(device).float()
    image = normalise_by(
        experiment.normalise, image, fov, whole.centre[None], whole.scale[None], dataset_statistics
    )
    if experiment.train.channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
    views = []
    with torch.inference_mode():
        for axes in _FLIPS[tta]:
            logits = model(torch.flip(image, axes) if axes else image).float()
            views.append((torch.flip(logits, axes) if axes else logits)[0, 0].cpu())
        return to_native(torch.stack(views), whole)


def to_native(logits: Tensor, whole: WholeImage) -> np.ndarray:
    """Bring logits from the padded working resolution back to the native size.

    The padding is cut off; what is left is the mean of the probabilities over the views, resized
    to the fov's box, bilinearly (antialiased where it shrinks). Both p and 1 - p are averaged, in
    float64, and the logit is the difference of their logarithms: of p alone in float32 it would be
    lost above 17, where p rounds to 1. One view of native size keeps its logits as they are.

    Args:
        logits: float (V, h, w): views of one image at the padded working resolution.
        whole: The image that they belong to.

    Returns:
        float32 (H, W), -inf outside the fov's bounding box.

    Raises:
        ShapeError: The maps are smaller than the resized box, or not three-dimensional.
    """
    (top, left), (height, width) = whole.offset, whole.inner
    if logits.ndim != 3 or logits.shape[1] < top + height or logits.shape[2] < left + width:
        raise ShapeError(
            f"maps of {tuple(logits.shape)} do not hold {(height, width)} at {(top, left)}"
        )
    inside = logits[:, top : top + height, left : left + width]
    y0, x0, y1, x1 = whole.box
    size = (y1 - y0, x1 - x0)
    if len(inside) > 1 or size != (height, width):
        exact = inside.double().clamp(-_LARGEST, _LARGEST)
        vessel, background = (
            functional.interpolate(
                torch.sigmoid(sign * exact).mean(0)[None, None],
                size,
                mode="bilinear",
                antialias=True,
            )
            for sign in (1, -1)
        )
        inside = (vessel.log() - background.log())[0]
    native = np.full(whole.fov.shape, -np.inf, dtype=np.float32)
    native[y0:y1, x0:x1] = inside[0].numpy()
    return native
