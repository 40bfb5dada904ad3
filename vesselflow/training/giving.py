"""From a micro-batch of samples to what the network and the loss are given of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vesselflow.augment.compose import Augmenter, Mix
from vesselflow.augment.inputs import DatasetStatistics, Grades, normalise_by, unit
from vesselflow.config.experiment import Experiment
from vesselflow.feed.batches import Batch
from vesselflow.feed.order import key
from vesselflow.models.layers.handoff import HiddenMix
from vesselflow.targets.keypoints import Keypoints, exact_device
from vesselflow.tasks.task import Task
from vesselflow.training.stacking import Stack


@dataclass(frozen=True)
class Given:
    """A micro-batch as the network and the loss are given it.

    Attributes:
        image: float32 (N, C, *S), augmented, normalised, mixed; 0 outside the fov. Of a stacked
            run with the probabilities of others behind, (N, C + K, *S), mixed with it.
        fov: float32 (N, 1, *S), 0 or 1.
        target: float32 (N, K, *T), as the task has it.
        counted: float32 (N, 1, *T): what the loss counts.
        keypoints: Where augmentation took them, before samples were mixed; None without any.
        mixes: How each sample is mixed; None where it is not, or nothing is.
    """

    image: Tensor
    fov: Tensor
    target: Tensor
    counted: Tensor
    keypoints: Keypoints | None
    mixes: Sequence[Mix | None] = ()

    @property
    def behind_encoder(self) -> HiddenMix | None:
        """What is mixed of the encoder's maps; None for nothing."""
        mixes = {n: drawn for n, drawn in enumerate(self.mixes) if drawn and drawn.hidden}
        if not mixes:
            return None
        share, other = torch.ones(len(self.mixes)), torch.arange(len(self.mixes))
        for number, drawn in mixes.items():
            share[number], other[number] = drawn.share.flatten()[0], drawn.other
        return HiddenMix(share.to(self.image.device), other.to(self.image.device))


class Giver:
    """Augments, renders, normalises and mixes the micro-batches of one run, by keyed draws.

    Args:
        experiment: The run's experiment.
        augmenter: None leaves the samples as they are.
        task: What is learnt.
        seed: Seed of the run.
        device: Where all of it happens.
        dataset_statistics: Centre and scale (C,) for ``normalise.scope: dataset``.
        factors: On the probabilities of augmentation, of each source of the store; none: 1.
        stack: Networks whose probabilities are channels.
    """

    def __init__(
        self,
        experiment: Experiment,
        augmenter: Augmenter | None,
        task: Task[Any],
        *,
        seed: int,
        device: torch.device,
        dataset_statistics: DatasetStatistics | None = None,
        factors: Sequence[float] = (),
        stack: Stack | None = None,
    ) -> None:
        self._experiment, self._augmenter, self._task = experiment, augmenter, task
        self._seed, self._device, self._dataset = seed, device, dataset_statistics
        self._factors = tuple(factors)
        self._stack = stack
        self._generator = torch.Generator()

    def keyed(self, purpose: str, step: int, index: int) -> torch.Generator:
        """The generator of a micro-batch's draws.

        Args:
            purpose: `augment`, `augment unlabelled` or `mix`.
            step: From 0.
            index: Of the micro-batch in its step.
        """
        return self._generator.manual_seed(key(self._seed, purpose, step, index))

    def factors(self, batch: Batch) -> list[float] | None:
        """Of each sample of a batch, by its source; None where all are 1."""
        if not self._factors:
            return None
        return [self._factors[source] for source in batch.source.tolist()]

    def __call__(self, step: int, index: int, progress: float, batch: Batch) -> Given:
        """What is given of micro-batch `index` of a step.

        Args:
            step: From 0.
            index: Of the micro-batch in its step.
            progress: Of training, in [0, 1].
            batch: The samples, as stored.
        """
        keypoints, spacing = self._points(batch)
        factors = self.factors(batch)
        image, target, fov, keypoints = self._augmented(
            batch,
            unit(batch.target, self._device),
            keypoints,
            generator=self.keyed("augment", step, index),
            progress=progress,
            factors=factors,
        )
        mixes: Sequence[Mix | None] = ()
        judged = without_margin(fov, self._experiment.data.margin)
        target, counted = self._task.supervise(target, judged, keypoints, spacing)
        image = self._normalised(image, fov, batch)
        if self._stack is not None:
            # Before mixing: no network held the sources of both samples out.
            image = self._stack.held_out(image, batch.source)
        if self._augmenter is not None and self._augmenter.mixers:
            mixes = self._augmenter.mixes(
                len(image),
                target.shape[2:],
                generator=self.keyed("mix", step, index),
                progress=progress,
                factors=factors,
            )
            image, fov, target, counted = self._augmenter.mixed(image, fov, target, counted, mixes)
        return Given(image, fov, target, counted, keypoints, mixes)

    def unlabelled(self, step: int, index: int, progress: float, batch: Batch) -> Tensor:
        """The images that the network is given of samples whose labels are not looked at.

        They are augmented and normalised as the others are, by draws of their own, and not mixed.

        Args:
            step: From 0.
            index: Of the micro-batch in its step.
            progress: Of training, in [0, 1].
            batch: The samples, as stored.

        Returns:
            float32 (N, C, *S); 0 outside the fov.
        """
        image, _, fov, _ = self._augmented(
            batch,
            torch.zeros(len(batch.image), 0, *batch.image.shape[2:], device=self._device),
            None,
            generator=self.keyed("augment unlabelled", step, index),
            progress=progress,
        )
        return self._normalised(image, fov, batch)

    def _augmented(
        self,
        batch: Batch,
        target: Tensor,
        keypoints: Keypoints | None,
        *,
        generator: torch.Generator,
        progress: float,
        factors: list[float] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Keypoints | None]:
        """Image, target, fov and keypoints of a batch on the device, moved together."""
        image, fov = unit(batch.image, self._device), self._fov(batch)
        if self._augmenter is None:
            return image, target, fov, keypoints
        grades = None
        if self._augmenter.grades and not _whole(batch.image):
            grades = Grades.of(image, fov)
            image = grades.to_unit(image)
        # All three are copies of what is stored, so that they may be written into.
        if keypoints is None:
            image, target, fov = self._augmenter(
                image,
                target,
                fov,
                generator=generator,
                progress=progress,
                in_place=True,
                factors=factors,
            )
        else:
            image, target, fov, keypoints = self._augmenter.moved(
                image,
                target,
                fov,
                keypoints,
                generator=generator,
                progress=progress,
                in_place=True,
                factors=factors,
            )
        if grades is not None:
            image = grades.back(image)
        return image, target, fov, keypoints

    def _normalised(self, image: Tensor, fov: Tensor, batch: Batch) -> Tensor:
        return normalise_by(
            self._experiment.normalise, image, fov, batch.centre, batch.scale, self._dataset
        )

    def _fov(self, batch: Batch) -> Tensor:
        """The fov of a batch on the device, as floats; augmentation may write into it."""
        if batch.full_fov:
            return torch.ones(batch.fov.shape, device=self._device)
        return torch.from_numpy(np.array(batch.fov)).to(self._device).float()

    def _points(self, batch: Batch) -> tuple[Keypoints | None, Tensor | None]:
        """The keypoints of a batch, and the spacing of its samples; float64, on the device or near.

        Where the device has no float64 they stay on the CPU: there are few, and what is made of
        them follows the fov.
        """
        points = batch.points
        if points is None:
            return None, None
        device = exact_device(self._device)
        spacing = torch.from_numpy(points.spacing_angstrom).to(device)
        keypoints = Keypoints(
            torch.from_numpy(points.positions),
            torch.from_numpy(points.sample),
            torch.from_numpy(points.classes),
        ).to(device)
        return self._task.prepared(keypoints, batch.image.shape[2:], spacing), spacing


def without_margin(fov: Tensor, margin: int) -> Tensor:
    """The fov of samples without `margin` px at each of their edges.

    Normalisation and augmentation look at the whole sample; losses at what is left here.

    Args:
        fov: float (N, 1, *S), 0 or 1.
        margin: Below half of each side; 0 gives `fov` itself.

    Returns:
        float (N, 1, *S), of its own memory where something was cleared.
    """
    if margin == 0:
        return fov
    inner = tuple(
        slice(margin, side - margin) if axis > 1 else slice(None)
        for axis, side in enumerate(fov.shape)
    )
    left = torch.zeros_like(fov)
    left[inner] = fov[inner]
    return left


def _whole(image: np.ndarray) -> bool:
    """Whether an image has whole numbers, so that its values lie between 0 and a largest one."""
    return bool(np.issubdtype(image.dtype, np.integer))
