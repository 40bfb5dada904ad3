"""Scoring a model on whole images: the evaluation protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from torch import nn

from vesselflow.augment.inputs import DatasetStatistics
from vesselflow.config.experiment import Experiment
from vesselflow.evaluation.evaluated import OF_CLASSES, POOLED, Evaluated
from vesselflow.feed.batches import WholeImage, WholeImages
from vesselflow.runs.domains import Domain
from vesselflow.runs.protocols import Protocol
from vesselflow.tasks.spec import TaskSpec
from vesselflow.tasks.task import build_task


def evaluate(
    model: nn.Module,
    images: Iterable[WholeImage],
    experiment: Experiment,
    protocol: Protocol,
    *,
    thresholds: Sequence[float] | None,
    task: TaskSpec | None = None,
    metrics: Sequence[str] | None = None,
    device: str = "cpu",
    dataset_statistics: DatasetStatistics | None = None,
    seen: Callable[[str, Any], None] | None = None,
) -> Evaluated:
    """Score a model on whole images, at native resolution, inside the fov, against the labels.

    Args:
        model: In evaluation mode.
        images: The domain's images.
        experiment: How images are prepared.
        protocol: How they are predicted, and what chooses the thresholds.
        thresholds: Logits, one per class, frozen from validation, or as they were chosen before;
            None chooses them here (on validation data only), by the protocol's rule for the pooled
            images.
        task: What the model was taught; None: one mask.
        metrics: Which are computed, in the registry's order; None for all of the task.
        device: Where the model lives.
        dataset_statistics: For ``normalise.scope: dataset``.
        seen: Gets each source's id and what the task predicted of it.

    Returns:
        Per image and pooled (all images together) scores.
    """
    judge = build_task(task)
    names = protocol.metrics.names() if metrics is None else metrics
    rows: list[tuple[str, str, float]] = []
    waiting: list[tuple[str, Any]] = []

    def add(source_id: str, state: Any, thresholds: Sequence[float]) -> None:
        scores = judge.scores(state, thresholds, names)
        rows.extend((source_id, name, value) for name, value in scores.items())

    def counted() -> Iterator[Any]:
        for whole in images:
            predicted = judge.predict(
                model,
                whole,
                experiment,
                protocol,
                device=device,
                dataset_statistics=dataset_statistics,
            )
            state = judge.state(predicted, whole, protocol)
            if seen is not None:
                seen(whole.source_id, predicted)
            del predicted
            if thresholds is None:
                # Scored once all images have chosen the threshold.
                waiting.append((whole.source_id, state))
            else:
                add(whole.source_id, state, thresholds)
            yield state

    pooled = judge.pooled(counted())
    frozen = judge.thresholds(pooled, protocol) if thresholds is None else tuple(thresholds)
    for source_id, state in [*waiting, (POOLED, pooled)]:
        add(source_id, state, frozen)
    if len(frozen) == 1:
        return Evaluated(frozen[0], tuple(rows))
    known = {name for source, name, _ in rows if source == POOLED}
    rows += [
        (POOLED, name, value)
        for kind, value in zip(protocol.classes, frozen, strict=True)
        if (name := f"{OF_CLASSES}{kind}") not in known
    ]
    return Evaluated(float("nan"), tuple(rows))


def select(images: WholeImages, domain: Domain) -> Iterable[WholeImage]:
    """The domain's images out of all images of its store, one at a time."""
    for index in domain.sources:
        yield images[index]
