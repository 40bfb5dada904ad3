"""What every task offers: supervision of a training, and judgement of predictions."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from vesselflow.tasks import TASKS
from vesselflow.tasks.spec import TaskSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from vesselflow.augment.inputs import DatasetStatistics
    from vesselflow.config.experiment import Experiment
    from vesselflow.feed.batches import WholeImage
    from vesselflow.targets.keypoints import Keypoints

State = TypeVar("State")


class Judging(Protocol):
    """How predictions are made and judged: what a task needs of an evaluation protocol."""

    @property
    def threshold(self) -> str:
        """Rule by which validation chooses thresholds."""

    @property
    def threshold_metric(self) -> str:
        """The metric that the rule looks at."""

    @property
    def tta(self) -> str:
        """Test-time augmentation."""

    @property
    def window(self) -> int | tuple[int, ...] | None:
        """Size of the windows in working px."""

    @property
    def overlap(self) -> float:
        """Least share of a window that its neighbour covers too."""

    @property
    def radius(self) -> tuple[str, tuple[float, ...]] | None:
        """Of keypoints: the unit, and how far a pick may lie from its keypoint, per class."""

    @property
    def refinement(self) -> str:
        """Of keypoints: how a pick's place is found below a cell."""

    @property
    def exclusive(self) -> bool:
        """Whether one place holds one class at most, the surest."""


class Task(Protocol[State]):
    """One task, with its settings; `State` is what is kept of each image that was predicted.

    A state says every score at every threshold, and those of several images add up to that of the
    images pooled, so that no prediction is kept.

    Attributes:
        spec: The settings.
    """

    spec: TaskSpec

    def supervise(
        self, target: Tensor, fov: Tensor, keypoints: Keypoints | None, spacing: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What the loss compares logits with, after augmentation, on the device.

        Args:
            target: float (N, K, *S), soft masks; K is 0 where the store has none.
            fov: float (N, 1, *S), 0 or 1.
            keypoints: Of the batch, in working px of the samples; None of a store without.
            spacing: float64 (N, D), angstrom per working px; NaN where not known.

        Returns:
            Target (N, C, *S / ds_factor) in [0, 1], and fov (N, 1, *S / ds_factor), 0 or 1.
        """

    def activated(self, logits: Tensor) -> Tensor:
        """What the model gives, as logits of which each class has its own: sigmoid(them) = p.

        Args:
            logits: float (N, C, *S / ds_factor), of any floating type.
        """

    def prepared(
        self, keypoints: Keypoints, shape: Sequence[int], spacing: Tensor | None
    ) -> Keypoints:
        """The keypoints as augmentation is to move them.

        Args:
            keypoints: Of a batch.
            shape: S of its samples.
            spacing: As of `supervise`.
        """

    def predict(
        self,
        model: nn.Module,
        whole: WholeImage,
        experiment: Experiment,
        judging: Judging,
        *,
        device: str,
        dataset_statistics: DatasetStatistics | None,
    ) -> Any:
        """What the model says of one image, in native px: that of which `state` is made."""

    def state(self, prediction: Any, whole: WholeImage, judging: Judging) -> State:
        """All that a score needs of one image."""

    def pooled(self, states: Iterable[State]) -> State:
        """That of several images together; takes them one after another."""

    def thresholds(self, pooled: State, judging: Judging) -> tuple[float, ...]:
        """The logit from which each class is predicted, chosen on validation data.

        NaN where none can be chosen.
        """

    def scores(
        self, state: State, thresholds: Sequence[float], names: Sequence[str]
    ) -> Mapping[str, float]:
        """Scores at thresholds, one per class.

        Returns:
            Each metric over all classes and, where there are several, of each ("f1", "f1/rod"), in
            the order of `names`; NaN where undefined.
        """

    def kept(self, prediction: Any) -> Any:
        """What of a prediction is small enough to be kept for users; None for nothing."""

    def listing(
        self, kept: Mapping[str, Any], thresholds: Sequence[float]
    ) -> tuple[str, str] | None:
        """(ending, text) of a file with what was kept of each source; None without one."""

    def picture(
        self, prediction: Any, whole: WholeImage, thresholds: Sequence[float], judging: Judging
    ) -> Picture:
        """What a person sees of a prediction."""


class Picture(Protocol):
    """A prediction to look at, in native px; see `vesselflow.tasks.pictures.Shown`."""

    probability: NDArray[np.floating[Any]]
    prediction: NDArray[np.bool_]
    target: NDArray[np.bool_]


def build_task(spec: TaskSpec | None) -> Task[Any]:
    """The task of a spec; None: masks of one class."""
    spec = spec or TaskSpec()
    module, _, name = TASKS.task(spec.name).target.partition(":")
    task: Task[Any] = getattr(importlib.import_module(module), name)(spec)
    return task
