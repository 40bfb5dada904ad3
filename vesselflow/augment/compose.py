"""Augmentations in a fixed order, as one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vesselflow.augment import AUGMENTATIONS
from vesselflow.augment.draws import Draws, Mover, Part
from vesselflow.errors import ShapeError
from vesselflow.targets.keypoints import Keypoints


class Augmenter:
    """Applies parts one after another to a batch; made by `compose`.

    Args:
        parts: Names and parts, in order of application.
    """

    def __init__(self, parts: Sequence[tuple[str, Part]]) -> None:
        self.parts = tuple(parts)

    @property
    def grades(self) -> bool:
        """Whether any part changes values, and does not only move them."""
        return any(not isinstance(part, Mover) for _, part in self.parts)

    def __call__(
        self, image: Tensor, target: Tensor, fov: Tensor, *, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Augment a batch.

        Args:
            image: float (N, C, *S) in [0, 1].
            target: float (N, K, *S) in [0, 1]; soft after a warp. K may be 0.
            fov: float (N, 1, *S), 0 or 1.
            generator: On the CPU. Exactly one number is drawn from it, whatever is configured and
                whatever comes out; all further draws are keyed by that number, the part and the
                index of the sample.

        Returns:
            image, target and fov, moved together. A sample that no part chose is bit-identical; the
            given tensors are never written to. What lies beyond the frame comes in outside the fov,
            with image and target 0, or as a mirror image where a part says `border: reflect`;
            values change inside the fov only.

        Raises:
            ShapeError: The shapes do not fit each other.
        """
        image, target, fov, _ = self._augmented(image, target, fov, None, generator)
        return image, target, fov

    def moved(
        self,
        image: Tensor,
        target: Tensor,
        fov: Tensor,
        keypoints: Keypoints,
        *,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor, Tensor, Keypoints]:
        """Augment a batch that has keypoints, and move them with its pixels.

        Args:
            image: As of `__call__`.
            target: As of `__call__`.
            fov: As of `__call__`.
            keypoints: Of the batch.
            generator: As of `__call__`; one number is drawn.

        Returns:
            What `__call__` gives, bit for bit, and the keypoints where their pixels are now. Those
            of a sample that no part chose are bit-identical. Keypoints beyond the frame stay, so
            that their Gaussians reach into it; with `border: reflect` there are also mirror images
            (see `mirrors`). Covariances, if any, move along.

        Raises:
            ShapeError: The shapes do not fit each other.
        """
        if keypoints.axes != image.ndim - 2:
            raise ShapeError(
                f"keypoints of {keypoints.axes} axes do not fit image {tuple(image.shape)}"
            )
        image, target, fov, points = self._augmented(image, target, fov, keypoints, generator)
        assert points is not None
        return image, target, fov, points

    @torch.no_grad()
    def _augmented(
        self,
        image: Tensor,
        target: Tensor,
        fov: Tensor,
        keypoints: Keypoints | None,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor, Tensor, Keypoints | None]:
        if image.ndim not in (4, 5) or fov.shape != (image.shape[0], 1, *image.shape[2:]):
            raise ShapeError(
                "expected image (N, C, *S) and fov (N, 1, *S), got "
                f"{tuple(image.shape)} and {tuple(fov.shape)}"
            )
        if target.ndim != image.ndim or (target.shape[0], *target.shape[2:]) != (
            image.shape[0],
            *image.shape[2:],
        ):
            raise ShapeError(
                f"target {tuple(target.shape)} does not fit image {tuple(image.shape)}"
            )
        base = int(torch.randint(2**62, (1,), generator=generator).item())
        if self.parts:
            image, target, fov = image.clone(), target.clone(), fov.clone()
        for name, part in self.parts:
            draws = Draws(base, name, image.shape[0])
            part.apply(image, target, fov, draws)
            if keypoints is not None and isinstance(part, Mover):
                keypoints = part.move(keypoints, tuple(image.shape[2:]), draws)
        return image, target, fov, keypoints


def compose(spec: Mapping[str, Mapping[str, Any]]) -> Augmenter:
    """Build the `augment` section of a config.

    Args:
        spec: Name -> arguments, in any order; parts are applied in the order of the registry.

    Raises:
        UserError: Unknown name, unknown or bad argument.
    """
    for name, values in spec.items():
        AUGMENTATIONS.part(name, where="augment")
        AUGMENTATIONS.arguments(name, values, where=f"augment.{name}")
    return Augmenter(
        [
            (name, AUGMENTATIONS.build({"name": name, **spec[name]}))
            for name in AUGMENTATIONS.names()
            if name in spec
        ]
    )
