"""How a run is scored, and the version of the code that does it."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from vesselflow.config.experiment import Experiment
from vesselflow.config.fingerprint import canonical_json, digest
from vesselflow.metrics import METRICS

#: Version of the code that makes scores out of weights: prediction, way back to native size,
#: counting of pixels, threshold rule. Raised whenever its numbers change: everything is then scored
#: again out of the weights that are kept, and nothing is trained.
SCORER = 1

#: Version of how a threshold is chosen and applied: 2 is among logits, without levels.
THRESHOLD_RULE = 2


@dataclass(frozen=True)
class Protocol:
    """How a run's weights become scores; the same for all its epochs and domains.

    Attributes:
        threshold_metric: Metric whose best threshold on the validation images is frozen for all
            domains.
        tta: Test-time augmentation.
    """

    threshold_metric: str
    tta: str

    @classmethod
    def of(cls, experiment: Experiment) -> Protocol:
        """The protocol of an experiment: its section `score`, but for which epochs are scored."""
        return cls(experiment.score.threshold_metric, experiment.score.tta)

    def identity(self) -> dict[str, Any]:
        """What is hashed of it: settings and versions, those of what is computed out of it not.

        The metric that chooses the threshold has its version here, because all thresholded scores
        change with it; the metrics that are reported have theirs beside their values.
        """
        return {
            "scorer": SCORER,
            "threshold": {
                "rule": THRESHOLD_RULE,
                "metric": self.threshold_metric,
                "version": METRICS.metric(self.threshold_metric).version,
            },
            "tta": self.tta,
        }

    @property
    def text(self) -> str:
        """The canonical JSON of its identity; cheap, as there are few different ones."""
        version = METRICS.metric(self.threshold_metric).version
        return _text(self, SCORER, THRESHOLD_RULE, version)

    @property
    def name(self) -> str:
        """Eight hex digits over its identity."""
        return digest(self.identity(), 8)


@functools.lru_cache(maxsize=64)
def _text(protocol: Protocol, *versions: int) -> str:
    # The versions are part of the key, because they are part of the identity.
    return canonical_json(protocol.identity())
