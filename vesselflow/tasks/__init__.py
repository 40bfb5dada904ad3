"""Tasks, by name: what is learnt from a store, and by what that is judged.

``TASKS.task("keypoints")`` says all that planning needs; what trains and scores is built by
`Task.load` with a `vesselflow.tasks.spec.TaskSpec`: see `vesselflow.tasks.task`. A task is its
file, its entry here and its test. This module imports no torch.
"""

from __future__ import annotations

from vesselflow.metrics import METRICS
from vesselflow.metrics.detection import DETECTION
from vesselflow.tasks.registry import Tasks

TASKS = Tasks()
TASKS.add_task(
    "segment",
    target="vesselflow.tasks.segment:Segment",
    kind="patch",
    metrics=METRICS,
    objective="dice",
    pooled="pixels",
)
TASKS.add_task(
    "keypoints",
    target="vesselflow.tasks.keypoints:PickKeypoints",
    kind="keypoint",
    metrics=DETECTION,
    objective="f1",
    pooled="picks and keypoints",
)
