"""Augmentations in a fixed order, as one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vesselflow.augment import AUGMENTATIONS
from vesselflow.augment.draws import Draws, Mover, Part
from vesselflow.config.scalars import ScalarSchedule
from vesselflow.errors import ShapeError
from vesselflow.targets.keypoints import Keypoints


class Timed:
    """A part at any progress of training: made anew for each where an argument is a schedule.

    So parts know plain numbers only, and every argument that a model lets be a schedule is one.

    Args:
        name: Of the part.
        arguments: All of them; numbers, schedules, tuples of both, and what else there is.
    """

    def __init__(self, name: str, arguments: Mapping[str, Any]) -> None:
        self.name, self._arguments = name, dict(arguments)
        self._make = AUGMENTATIONS.part(name).load()
        settled = all(_at(value, 0.0) == value for value in self._arguments.values())
        self._settled: Part | None = self._make(**self._arguments) if settled else None

    def at(self, progress: float) -> Part:
        """The part at a progress in [0, 1]."""
        if self._settled is not None:
            return self._settled
        arguments = {key: _at(value, progress) for key, value in self._arguments.items()}
        part: Part = self._make(**arguments)
        return part


def _at(value: Any, progress: float) -> Any:
    if isinstance(value, ScalarSchedule):
        return value.value(progress)
    if isinstance(value, tuple):
        return tuple(_at(entry, progress) for entry in value)
    return value


class Augmenter:
    """Applies parts one after another to a batch; made by `compose`.

    Args:
        parts: In order of application.
    """

    def __init__(self, parts: Sequence[Timed]) -> None:
        self.parts = tuple(parts)

    @property
    def grades(self) -> bool:
        """Whether any part changes values, and does not only move them."""
        return any(not isinstance(part.at(0.0), Mover) for part in self.parts)

    def __call__(
        self,
        image: Tensor,
        target: Tensor,
        fov: Tensor,
        *,
        generator: torch.Generator,
        progress: float = 0.0,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Augment a batch.

        Args:
            image: float (N, C, *S) in [0, 1].
            target: float (N, K, *S) in [0, 1]; soft after a warp. K may be 0.
            fov: float (N, 1, *S), 0 or 1.
            generator: On the CPU. Exactly one number is drawn from it, whatever is configured and
                whatever comes out; all further draws are keyed by that number, the part and the
                index of the sample.
            progress: Of training, in [0, 1], for arguments that are schedules.

        Returns:
            image, target and fov, moved together. A sample that no part chose is bit-identical; the
            given tensors are never written to. What lies beyond the frame comes in outside the fov,
            with image and target 0, or as a mirror image where a part says `border: reflect`;
            values change inside the fov only.

        Raises:
            ShapeError: The shapes do not fit each other.
        """
        image, target, fov, _ = self._augmented(image, target, fov, None, generator, progress)
        return image, target, fov

    def moved(
        self,
        image: Tensor,
        target: Tensor,
        fov: Tensor,
        keypoints: Keypoints,
        *,
        generator: torch.Generator,
        progress: float = 0.0,
    ) -> tuple[Tensor, Tensor, Tensor, Keypoints]:
        """Augment a batch that has keypoints, and move them with its pixels.

        Args:
            image: As of `__call__`.
            target: As of `__call__`.
            fov: As of `__call__`.
            keypoints: Of the batch.
            generator: As of `__call__`; one number is drawn.
            progress: As of `__call__`.

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
        image, target, fov, points = self._augmented(
            image, target, fov, keypoints, generator, progress
        )
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
        progress: float,
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
        for timed in self.parts:
            part, draws = timed.at(progress), Draws(base, timed.name, image.shape[0])
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
    models = {}
    for name, values in spec.items():
        AUGMENTATIONS.part(name, where="augment")
        models[name] = AUGMENTATIONS.arguments(name, values, where=f"augment.{name}")
    return Augmenter(
        [Timed(name, dict(models[name])) for name in AUGMENTATIONS.names() if name in models]
    )
