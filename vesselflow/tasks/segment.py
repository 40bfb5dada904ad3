"""Segmentation: a mask for each class, every voxel by itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vesselflow.inference.whole import predict_whole
from vesselflow.metrics.histogram import Histogram, score
from vesselflow.metrics.registry import OF_CLASS
from vesselflow.metrics.thresholds import THRESHOLDS
from vesselflow.models.layers.convolutions import raised
from vesselflow.models.strided import cell_means
from vesselflow.tasks.activation import one_against_rest
from vesselflow.tasks.pictures import Shown
from vesselflow.tasks.spec import TaskSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vesselflow.augment.inputs import DatasetStatistics
    from vesselflow.config.experiment import Experiment
    from vesselflow.feed.batches import WholeImage
    from vesselflow.targets.keypoints import Keypoints
    from vesselflow.tasks.task import Judging

#: A histogram of each class.
Histograms = tuple[Histogram, ...]


class Segment:
    """Masks of one class or more, each with a threshold of its own.

    Classes that may overlap have a sigmoid each. Those that exclude each other share a softmax with
    the background, told as the logits of each class against all else.

    Args:
        spec: The settings.
    """

    def __init__(self, spec: TaskSpec) -> None:
        self.spec = spec

    def supervise(
        self, target: Tensor, fov: Tensor, keypoints: Keypoints | None, spacing: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """See `vesselflow.tasks.task.Task`: the masks as they are, or their means over cells.

        A mean counts what of a cell lies inside the fov; a cell of which half does is inside.
        """
        if self.spec.stride == 1:
            return target, fov
        seen, inside = (cell_means(each, self.spec.ds_factor) for each in (target * fov, fov))
        # Half of a cell is inside at least where it counts.
        return seen / inside.clamp(min=0.5), (inside >= 0.5).to(fov.dtype)

    def activated(self, logits: Tensor) -> Tensor:
        """See `vesselflow.tasks.task.Task`: as they are, or against all else."""
        return one_against_rest(logits) if self.spec.activation == "softmax" else logits

    def prepared(
        self, keypoints: Keypoints, shape: Sequence[int], spacing: Tensor | None
    ) -> Keypoints:
        """See `vesselflow.tasks.task.Task`: as they are."""
        return keypoints

    def predict(
        self,
        model: nn.Module,
        whole: WholeImage,
        experiment: Experiment,
        judging: Judging,
        *,
        device: str,
        dataset_statistics: DatasetStatistics | None,
    ) -> NDArray[np.float32]:
        """Logits (C, *S) in native px."""
        logits = predict_whole(
            lambda image: raised(self.activated(model(image)), self.spec.ds_factor),
            whole,
            experiment,
            tta=judging.tta,
            window=judging.window,
            overlap=judging.overlap,
            device=device,
            dataset_statistics=dataset_statistics,
        )
        return logits if logits.ndim > whole.fov.ndim else logits[None]

    def state(
        self, prediction: NDArray[np.float32], whole: WholeImage, judging: Judging
    ) -> Histograms:
        """Voxels inside the fov, counted by their logit, for each class."""
        seen = surest(prediction) if judging.exclusive else prediction
        return tuple(
            Histogram.of(logits, target, whole.fov)
            for logits, target in zip(seen, _planes(whole), strict=True)
        )

    def pooled(self, states: Iterable[Histograms]) -> Histograms:
        """See `vesselflow.tasks.task.Task`."""
        if len(self.spec.classes) == 1:
            # One after another, whatever the number of images.
            return (Histogram.sum(_only(states)),)
        given = list(states)
        return tuple(
            Histogram.sum(state[index] for state in given)
            for index in range(len(self.spec.classes))
        )

    def thresholds(self, pooled: Histograms, judging: Judging) -> tuple[float, ...]:
        """By the registered rule, each class by itself."""
        choose = THRESHOLDS.part(judging.threshold).load()
        return tuple(float(choose(each, judging.threshold_metric)) for each in pooled)

    def scores(
        self, state: Histograms, thresholds: Sequence[float], names: Sequence[str]
    ) -> Mapping[str, float]:
        """See `vesselflow.tasks.task.Task`; over classes the mean of those that are defined."""
        each = [score(*pair, names) for pair in zip(state, thresholds, strict=True)]
        if len(each) == 1:
            return each[0]
        found = {}
        for name in names:
            values = np.array([scores[name] for scores in each])
            found[name] = mean_over_classes(values)
            for kind, value in zip(self.spec.classes, values.tolist(), strict=True):
                found[f"{name}{OF_CLASS}{kind}"] = value
        return found

    def kept(self, prediction: Any) -> None:
        """Nothing: a mask is as large as its image."""

    def listing(self, kept: Mapping[str, Any], thresholds: Sequence[float]) -> None:
        """See `vesselflow.tasks.task.Task`."""

    def picture(
        self,
        prediction: NDArray[np.float32],
        whole: WholeImage,
        thresholds: Sequence[float],
        judging: Judging,
    ) -> Shown:
        """All classes in one picture."""
        import torch

        seen = surest(prediction) if judging.exclusive else prediction
        probability = torch.sigmoid(torch.from_numpy(prediction)).numpy()
        limits = np.asarray(thresholds).reshape(-1, *[1] * whole.fov.ndim)
        return Shown(
            np.asarray(np.nan_to_num(probability).max(axis=0)),
            np.asarray((seen >= limits).any(axis=0)),
            np.asarray((_planes(whole) > 0).any(axis=0)),
        )


def surest(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits (C, *S) of which each voxel keeps that of its surest class; the others are -inf.

    So no voxel is predicted as two classes, unless their thresholds are -inf, from which on every
    voxel is predicted. Of equals the first is kept, and NaN stays where it is.
    """
    unknown = np.isnan(logits)
    best = np.where(unknown, -np.inf, logits).argmax(axis=0)
    number = np.arange(len(logits)).reshape(-1, *[1] * best.ndim)
    return np.where((number == best) | unknown, logits, np.float32(-np.inf))


def mean_over_classes(values: NDArray[np.float64]) -> float:
    """The mean of the classes for which a score is defined; NaN where it is for none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _planes(whole: WholeImage) -> NDArray[Any]:
    """(C, *S), of one class as well."""
    return whole.target if whole.target.ndim > whole.fov.ndim else whole.target[None]


def _only(states: Iterable[Histograms]) -> Iterator[Histogram]:
    for (state,) in states:
        yield state
