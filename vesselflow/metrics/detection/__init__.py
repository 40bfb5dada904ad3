"""Metrics of picked keypoints, by name.

A metric is a function ``(matches, threshold) -> values``, one per class (C,), where `threshold` is
a score, or one per class; NaN where it is undefined. `vesselflow.metrics.detection.scores.score`
calls them. Its entry here says all that tables, figures and words need.
"""

import math

from vesselflow.metrics.registry import Metrics

_HERE = "vesselflow.metrics.detection.scores"
_NOTHING = "there is neither a pick nor a keypoint"
_NO_PAIR = "no pick has a partner"
_NO_SPACING = "no pick has a partner, or one of them has no spacing"

DETECTION = Metrics()
DETECTION.add_metric(
    "f1", target=f"{_HERE}:f1", chooses=True, label="F1", undefined=_NOTHING, shown=True
)
# Misses count 16 times a false pick: the measure of the CZII cryo-ET challenge of 2024.
DETECTION.add_metric("f4", target=f"{_HERE}:f4", chooses=True, label="F4", undefined=_NOTHING)
DETECTION.add_metric(
    "precision", target=f"{_HERE}:precision", label="precision", undefined="there is no pick"
)
DETECTION.add_metric(
    "recall", target=f"{_HERE}:recall", label="recall", undefined="there is no keypoint"
)
DETECTION.add_metric(
    "average_precision",
    target=f"{_HERE}:average_precision",
    label="average precision",
    undefined="there is no keypoint",
    thresholded=False,
)
for _name, _label, _undefined in (
    ("error_voxels", "mean error in voxels", _NO_PAIR),
    ("median_error_voxels", "median error in voxels", _NO_PAIR),
    ("error_angstrom", "mean error in angstrom", _NO_SPACING),
    ("median_error_angstrom", "median error in angstrom", _NO_SPACING),
):
    DETECTION.add_metric(
        _name,
        target=f"{_HERE}:{_name}",
        label=_label,
        undefined=_undefined,
        direction="min",
        high=math.inf,
        shown=_name == "error_voxels",
    )
for _name, _label, _direction in (
    ("picks", "picks", "max"),
    ("true_picks", "true picks", "max"),
    ("false_picks", "false picks", "min"),
    ("missed", "missed keypoints", "min"),
):
    DETECTION.add_metric(
        _name,
        target=f"{_HERE}:{_name}",
        label=_label,
        undefined="there is no threshold",
        direction="max" if _direction == "max" else "min",
        high=math.inf,
        digits=0,
        over_classes="sum",
    )
DETECTION.add_metric(
    "threshold",
    target=f"{_HERE}:threshold_of",
    label="threshold (logit)",
    undefined="none could be chosen",
    low=-math.inf,
    high=math.inf,
)
