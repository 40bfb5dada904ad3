"""Metrics of segmentations, by name (`METRICS`), and all metrics (`ALL_METRICS`).

A metric is a function ``(histogram, threshold) -> value``, where `threshold` is a logit or an array
of logits; `vesselflow.metrics.histogram.score` calls them. Its entry here says all that tables,
figures and words need, so that a new metric is one function, one entry and its test.
"""

from vesselflow.metrics.detection import DETECTION
from vesselflow.metrics.registry import Metrics

METRICS = Metrics()
METRICS.add_metric(
    "dice",
    target="vesselflow.metrics.overlap:dice",
    chooses=True,
    label="Dice",
    undefined="neither prediction nor target has a pixel",
    shown=True,
)
METRICS.add_metric(
    "iou",
    target="vesselflow.metrics.overlap:iou",
    chooses=True,
    label="IoU",
    undefined="neither prediction nor target has a pixel",
)
METRICS.add_metric(
    "sensitivity",
    target="vesselflow.metrics.overlap:sensitivity",
    label="sensitivity",
    undefined="the target has no pixel",
)
METRICS.add_metric(
    "specificity",
    target="vesselflow.metrics.overlap:specificity",
    label="specificity",
    undefined="the target has every pixel",
)
METRICS.add_metric(
    "accuracy",
    target="vesselflow.metrics.overlap:accuracy",
    chooses=True,
    label="accuracy",
    undefined="there is no pixel",
)
METRICS.add_metric(
    "mcc",
    target="vesselflow.metrics.overlap:mcc",
    chooses=True,
    label="MCC",
    undefined="prediction or target has one class only",
    low=-1.0,
)
METRICS.add_metric(
    "roc_auc",
    target="vesselflow.metrics.ranking:roc_auc",
    label="AUC",
    undefined="positives or negatives are missing",
    version=2,
    changes={2: "ranks by exact logits instead of 65,536 levels of the probability"},
    thresholded=False,
    shown=True,
)
METRICS.add_metric(
    "pr_auc",
    target="vesselflow.metrics.ranking:pr_auc",
    label="average precision",
    undefined="positives or negatives are missing",
    version=2,
    changes={2: "ranks by exact logits instead of 65,536 levels of the probability"},
    thresholded=False,
)

#: Whatever they judge; names are unique.
ALL_METRICS = METRICS.joined(DETECTION)
