"""Other libraries for the bench of augmentation, each at what is fastest for it."""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
#: What is timed: it augments the whole batch once, with a seed.
Run = Callable[[int], Any]

#: Libraries -> how they are run; one that is not installed is left out.
PEERS = {
    "albumentations": "uint8 (H, W, C), image by image, OpenCV on one thread; target and fov as "
    "masks; clahe of the lightness alone, elastic approximate",
    "MONAI": "float32 (C, H, W), image by image, without metadata; affine and elastic of the chain "
    "as one Rand2DElastic",
}
_MODULES = {"albumentations": "albumentations", "MONAI": "monai"}


def installed() -> list[str]:
    """Those of `PEERS` that are."""
    return [name for name, module in _MODULES.items() if importlib.util.find_spec(module)]


def peers_of(library: str, given: Tensors, chain: str) -> dict[str, Run]:
    """Name of a part, or `chain` -> what augments a batch by the nearest thing of a library.

    Args:
        library: One of `installed`.
        given: Image float (N, C, H, W) in [0, 1], target and fov (N, 1, H, W).
        chain: What the four parts that move pixels are called together.
    """
    make = {"albumentations": _albumentations, "MONAI": _monai}[library]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they tell of releases and their own imports
        return make(given, chain)


def _albumentations(given: Tensors, chain: str) -> dict[str, Run]:
    # It would ask the network for a newer release.
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations as a
    import cv2

    cv2.setNumThreads(1)
    images, targets, fovs = (
        np.ascontiguousarray((255 * each).round().byte().movedim(1, -1).numpy()) for each in given
    )
    side = images.shape[1]
    affine = a.Affine(rotate=(-15, 15), scale=(0.9, 1.1), translate_percent=(-0.05, 0.05), p=1)
    # 16 px of blurred noise, as strong as 2 px.
    elastic = a.ElasticTransform(alpha=120, sigma=16, approximate=True, p=1)
    holes = {"hole_height_range": (0.1, 0.1), "hole_width_range": (0.1, 0.1)}
    parts: Mapping[str, list[Any]] = {
        "hflip": [a.HorizontalFlip(p=1)],
        "vflip": [a.VerticalFlip(p=1)],
        "rotate90": [a.RandomRotate90(p=1)],
        "affine": [affine],
        "elastic": [elastic],
        "random_resized_crop": [a.RandomResizedCrop((side, side), scale=(0.5, 1.0), p=1)],
        "color_jitter": [a.ColorJitter((0.8, 1.2), (0.8, 1.2), (0.8, 1.2), (-0.02, 0.02), p=1)],
        "gamma": [a.RandomGamma((80, 125), p=1)],
        "channel_shift": [a.RGBShift(25, 25, 25, p=1)],
        "channel_shuffle": [a.ChannelShuffle(p=1)],
        "clahe": [a.CLAHE((1.0, 4.0), (8, 8), p=1)],
        "blur": [a.GaussianBlur(blur_limit=0, sigma_limit=(0.5, 1.5), p=1)],
        "sharpen": [a.UnsharpMask((9, 9), (1.0, 1.0), (0.0, 1.0), threshold=0, p=1)],
        "gaussian_noise": [a.GaussNoise(std_range=(0.0, 0.1), p=1)],
        "coarse_dropout": [a.CoarseDropout(num_holes_range=(8, 8), **holes, p=1)],
        "cutout": [a.CoarseDropout(num_holes_range=(1, 1), **holes, fill_mask=0, p=1)],
        chain: [a.HorizontalFlip(p=1), a.RandomRotate90(p=1), affine, elastic],
    }

    def runner(steps: list[Any]) -> Run:
        whole = a.Compose(steps)

        def run(seed: int) -> Any:
            whole.set_random_seed(seed)
            return [
                whole(image=image, masks=[target, fov])
                for image, target, fov in zip(images, targets[..., 0], fovs[..., 0], strict=True)
            ]

        return run

    return {name: runner(steps) for name, steps in parts.items()}


def _monai(given: Tensors, chain: str) -> dict[str, Run]:
    from monai import transforms as m
    from monai.data import set_track_meta

    keys, modes = ("image", "target", "fov"), ("bilinear", "bilinear", "nearest")
    warp: dict[str, Any] = {"prob": 1.0, "mode": modes, "padding_mode": "zeros"}
    turns = {
        "rotate_range": float(np.deg2rad(15)),
        "scale_range": 0.1,
        "translate_range": 0.05 * given[0].shape[-1],
    }
    bend = {"spacing": 32.0, "magnitude_range": (0.0, 2.0)}
    holes = [round(0.1 * n) for n in given[0].shape[-2:]]
    flip, quarter = m.RandFlipd(keys, 1.0, 1), m.RandRotate90d(keys, 1.0)
    parts: Mapping[str, list[Any]] = {
        "hflip": [flip],
        "vflip": [m.RandFlipd(keys, 1.0, 0)],
        "rotate90": [quarter],
        "affine": [m.RandAffined(keys, **warp, **turns)],
        "elastic": [m.Rand2DElasticd(keys, **bend, **warp)],
        "gamma": [m.RandAdjustContrastd("image", 1.0, (0.8, 1.25))],
        "channel_shift": [m.RandShiftIntensityd("image", 0.1, prob=1.0, channel_wise=True)],
        "blur": [m.RandGaussianSmoothd("image", (0.5, 1.5), (0.5, 1.5), prob=1.0)],
        "sharpen": [m.RandGaussianSharpend("image", prob=1.0)],
        "gaussian_noise": [m.RandGaussianNoised("image", 1.0, std=0.1)],
        "coarse_dropout": [m.RandCoarseDropoutd("image", 8, holes, fill_value=0.0, prob=1.0)],
        chain: [flip, quarter, m.Rand2DElasticd(keys, **bend, **warp, **turns)],
    }

    def runner(steps: list[Any]) -> Run:
        whole = m.Compose(steps)

        def run(seed: int) -> Any:
            set_track_meta(False)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    whole.set_random_state(seed)
                    return [
                        # A copy, as ours is one: RandCoarseDropout writes on what it is given.
                        whole({"image": image.clone(), "target": target, "fov": fov})
                        for image, target, fov in zip(*given, strict=True)
                    ]
            finally:
                set_track_meta(True)

        return run

    return {name: runner(steps) for name, steps in parts.items()}
