"""Probabilities of whole images at their native size."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from vesselflow.augment.inputs import DatasetStatistics, normalise_by, unit
from vesselflow.config.experiment import Experiment
from vesselflow.feed.batches import WholeImage
from vesselflow.feed.view import to_native

_FLIPS: dict[str, tuple[tuple[int, ...], ...]] = {
    "none": ((),),
    "flips": ((), (2,), (3,), (2, 3)),
}


def predict_whole(
    model: nn.Module,
    whole: WholeImage,
    experiment: Experiment,
    *,
    device: torch.device | str = "cpu",
    dataset_statistics: DatasetStatistics | None = None,
) -> np.ndarray:
    """Vessel probability of one image, at its native size.

    The image is seen at the working resolution (float32, one image at a time, so that the result
    depends on nothing else) and the probability is brought back to native size before any
    threshold. Test-time augmentation takes the mean of the probabilities over flips.

    Returns:
        float32 (H, W) in [0, 1]; 0 outside the field of view's bounding box.
    """
    device = torch.device(device)
    image = unit(whole.image[None], device)
    fov = torch.from_numpy(np.array(whole.fov_working[None, None])).to(device).float()
    image = normalise_by(
        experiment.normalise, image, fov, whole.centre[None], whole.scale[None], dataset_statistics
    )
    if experiment.train.channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
    flips = _FLIPS[experiment.score.tta]
    with torch.inference_mode():
        total = torch.zeros((), device=device)
        for axes in flips:
            logits = model(torch.flip(image, axes) if axes else image).float()
            probability = torch.sigmoid(logits)
            total = total + (torch.flip(probability, axes) if axes else probability)
        mean = (total / len(flips))[0, 0]
    return to_native(mean.cpu().numpy(), whole)
