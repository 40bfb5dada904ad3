"""Rules by which validation data choose the threshold, by name.

``THRESHOLDS.part("best").load()(histogram, metric)`` gives a logit, frozen for all domains.
Like a metric, a rule is one function, its line here and its golden value.
"""

from vesselflow.config.registry import Registry

_HERE = "vesselflow.metrics.thresholds"

THRESHOLDS = Registry("threshold rule")
THRESHOLDS.add(
    "best",
    target=f"{_HERE}.best:best",
    version=2,
    changes={2: "chooses among all logits instead of 65,536 levels of the probability"},
)
THRESHOLDS.add("half", target=f"{_HERE}.half:half")
