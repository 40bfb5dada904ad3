"""How a run is scored, and the version of the code that does it."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vesselflow.config.experiment import Experiment, Score, Stop
from vesselflow.config.fingerprint import canonical_json, digest
from vesselflow.errors import UserError
from vesselflow.metrics.registry import Metrics
from vesselflow.metrics.thresholds import THRESHOLDS
from vesselflow.runs.resolved import metric_of, radius_of
from vesselflow.tasks import TASKS
from vesselflow.tasks.spec import TaskSpec

if TYPE_CHECKING:
    from vesselflow.stores.layout import Layout

#: The rule that goes without saying.
DEFAULT_RULE = Score().threshold
#: Version of the code that makes scores out of weights: prediction, way back to native size,
#: counting of pixels. Raised whenever its numbers change: everything is then scored
#: again out of the weights that are kept, and nothing is trained.
SCORER = 1
#: The same of picked keypoints: prediction, peaks, refinement, way back, matching.
PICK_SCORER = 1


@dataclass(frozen=True)
class Protocol:
    """How a run's weights become scores; the same for all its epochs and domains.

    Attributes:
        threshold: Rule by which the validation images choose the threshold that is frozen for all
            domains.
        threshold_metric: Metric that the rule `best` looks at.
        tta: Test-time augmentation.
        window: Size of the windows in which images are predicted; None: in one piece.
        overlap: Least share of a window that its neighbour covers too.
        task: Name of the task, which says by what metrics predictions are judged.
        classes: Names of its classes.
        radius: Of keypoints: ("voxels" or "angstrom", one number per class), see `radius_of`.
        refinement: Of keypoints: how a pick's place is found below a cell.
        exclusive: Whether one place holds one class at most: picks of different classes keep the
            radius too; of masks, a voxel is of the surest class or of none.
    """

    threshold: str
    threshold_metric: str
    tta: str
    window: int | tuple[int, ...] | None = None
    overlap: float = 0.5
    task: str = "segment"
    classes: tuple[str, ...] = ("vessel",)
    radius: tuple[str, tuple[float, ...]] | None = None
    refinement: str = "paraboloid"
    exclusive: bool = False

    @classmethod
    def of(
        cls,
        experiment: Experiment,
        task: TaskSpec | None = None,
        layout: Layout | None = None,
    ) -> Protocol:
        """The protocol of an experiment: its section `score`, but for which epochs are scored.

        Args:
            experiment: The point's.
            task: What its runs learn; None: to segment one mask.
            layout: Of its training store, which says what the space leaves open.

        Raises:
            UserError: The threshold's metric is of another task, no radius is known, or one place
                is to hold one class where classes may overlap.
        """
        score, task = experiment.score, task or TaskSpec()
        part = TASKS.task(task.name)
        found = cls(
            score.threshold,
            metric_of(score.threshold_metric, part, where="score.threshold_metric"),
            score.tta,
            score.window,
            score.overlap,
            part.name,
            task.classes,
        )
        if part.kind != "keypoint":
            return replace(found, exclusive=_one_class(score, task, layout))
        radius = radius_of(experiment, task, layout)
        return replace(found, radius=radius, refinement=score.refinement, exclusive=score.exclusive)

    @property
    def metrics(self) -> Metrics:
        """By which predictions are judged."""
        return TASKS.task(self.task).metrics

    def identity(self) -> dict[str, Any]:
        """What is hashed of it: settings and versions, those of what is computed out of it not.

        The rule and the metric that choose the threshold have their versions here, because all
        thresholded scores change with them; the metrics that are reported have theirs beside their
        values.
        """
        rule: dict[str, Any] = {
            "rule": THRESHOLDS.part(self.threshold).version,
            "metric": self.threshold_metric,
            "version": self.metrics.metric(self.threshold_metric).version,
        }
        if self.threshold != DEFAULT_RULE:
            rule["name"] = self.threshold
        identity = {"scorer": SCORER, "threshold": rule, "tta": self.tta}
        if self.window is not None:
            identity |= {"window": self.window, "overlap": self.overlap}
        if self.radius is not None:
            # Picks have their own code behind them.
            identity |= {"scorer": PICK_SCORER, "task": self.task, "classes": self.classes}
            identity |= {"radius": self.radius, "refinement": self.refinement}
        if self.exclusive:
            identity["exclusive"] = True
        return identity

    def judging(self, stop: Stop) -> dict[str, Any]:
        """What is hashed of it where its scores end trainings early: they are part of a result.

        Raises:
            UserError: The metric is of another task.
        """
        name = metric_of(stop.metric, TASKS.task(self.task), where="train.stop.metric")
        version = self.metrics.metric(name).version
        return {"metric": name, "version": version, "by": self.identity()}

    @property
    def text(self) -> str:
        """The canonical JSON of its identity; cheap, as there are few different ones."""
        rule = THRESHOLDS.part(self.threshold).version
        metric = self.metrics.metric(self.threshold_metric).version
        return _text(self, SCORER, PICK_SCORER, rule, metric)

    @property
    def name(self) -> str:
        """Eight hex digits over its identity."""
        return digest(self.identity(), 8)


def _one_class(score: Score, task: TaskSpec, layout: Layout | None) -> bool:
    """Whether a voxel is of one class at most; said of one class alone it means nothing."""
    if not score.exclusive or len(task.classes) == 1:
        return False
    if layout is not None and layout.target != "labels":
        raise UserError(
            f"the classes {', '.join(task.classes)} may overlap",
            where="score.exclusive",
            allowed="false, or a store whose classes exclude each other",
        )
    return True


@functools.lru_cache(maxsize=64)
def _text(protocol: Protocol, *versions: int) -> str:
    # The versions are part of the key, because they are part of the identity.
    return canonical_json(protocol.identity())
