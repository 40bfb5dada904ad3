"""Metrics, by name.

A metric is a function ``(histogram, threshold) -> value``, where `threshold` is a logit or an array
of logits; `vesselflow.metrics.histogram.score` calls them.
"""

from vesselflow.config.registry import Registry

METRICS = Registry("metric")
METRICS.add("dice", target="vesselflow.metrics.overlap:dice")
METRICS.add("iou", target="vesselflow.metrics.overlap:iou")
METRICS.add("sensitivity", target="vesselflow.metrics.overlap:sensitivity")
METRICS.add("specificity", target="vesselflow.metrics.overlap:specificity")
METRICS.add("accuracy", target="vesselflow.metrics.overlap:accuracy")
METRICS.add("mcc", target="vesselflow.metrics.overlap:mcc")
METRICS.add("roc_auc", target="vesselflow.metrics.ranking:roc_auc", version=2)
METRICS.add("pr_auc", target="vesselflow.metrics.ranking:pr_auc", version=2)
