"""How a run is scored, and the version of the code that does it."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from vesselflow.config.experiment import Experiment, Score
from vesselflow.config.fingerprint import canonical_json, digest
from vesselflow.metrics import METRICS
from vesselflow.metrics.thresholds import THRESHOLDS

#: The rule that goes without saying.
DEFAULT_RULE = Score().threshold
#: Version of the code that makes scores out of weights: prediction, way back to native size,
#: counting of pixels. Raised whenever its numbers change: everything is then scored
#: again out of the weights that are kept, and nothing is trained.
SCORER = 1


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
    """

    threshold: str
    threshold_metric: str
    tta: str
    window: int | tuple[int, ...] | None = None
    overlap: float = 0.5

    @classmethod
    def of(cls, experiment: Experiment) -> Protocol:
        """The protocol of an experiment: its section `score`, but for which epochs are scored."""
        score = experiment.score
        return cls(score.threshold, score.threshold_metric, score.tta, score.window, score.overlap)

    def identity(self) -> dict[str, Any]:
        """What is hashed of it: settings and versions, those of what is computed out of it not.

        The rule and the metric that choose the threshold have their versions here, because all
        thresholded scores change with them; the metrics that are reported have theirs beside their
        values.
        """
        rule: dict[str, Any] = {
            "rule": THRESHOLDS.part(self.threshold).version,
            "metric": self.threshold_metric,
            "version": METRICS.metric(self.threshold_metric).version,
        }
        if self.threshold != DEFAULT_RULE:
            rule["name"] = self.threshold
        identity = {"scorer": SCORER, "threshold": rule, "tta": self.tta}
        if self.window is not None:
            identity |= {"window": self.window, "overlap": self.overlap}
        return identity

    @property
    def text(self) -> str:
        """The canonical JSON of its identity; cheap, as there are few different ones."""
        rule = THRESHOLDS.part(self.threshold).version
        return _text(self, SCORER, rule, METRICS.metric(self.threshold_metric).version)

    @property
    def name(self) -> str:
        """Eight hex digits over its identity."""
        return digest(self.identity(), 8)


@functools.lru_cache(maxsize=64)
def _text(protocol: Protocol, *versions: int) -> str:
    # The versions are part of the key, because they are part of the identity.
    return canonical_json(protocol.identity())
