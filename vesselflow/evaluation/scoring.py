"""Scoring a model on whole images: the evaluation protocol."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from torch import nn

from vesselflow.augment.inputs import DatasetStatistics
from vesselflow.config.experiment import Experiment
from vesselflow.evaluation.evaluated import POOLED, Evaluated
from vesselflow.feed.batches import WholeImage, WholeImages
from vesselflow.inference.whole import predict_whole
from vesselflow.metrics import METRICS
from vesselflow.metrics.histogram import Histogram, score
from vesselflow.metrics.thresholds import THRESHOLDS
from vesselflow.runs.domains import Domain
from vesselflow.runs.protocols import Protocol


def evaluate(
    model: nn.Module,
    images: Iterable[WholeImage],
    experiment: Experiment,
    protocol: Protocol,
    *,
    threshold_logit: float | None,
    metrics: Sequence[str] | None = None,
    device: str = "cpu",
    dataset_statistics: DatasetStatistics | None = None,
) -> Evaluated:
    """Score a model on whole images, at native resolution, inside the fov, against the labels.

    Args:
        model: In evaluation mode.
        images: The domain's images.
        experiment: How images are prepared.
        protocol: How they are predicted, and what chooses the threshold.
        threshold_logit: Frozen from validation, or as it was chosen before; None chooses it here
            (on validation data only), by the protocol's rule for the pooled pixels.
        metrics: Which are computed, in the registry's order; None for all.
        device: Where the model lives.
        dataset_statistics: For ``normalise.scope: dataset``.

    Returns:
        Per image and pooled (pixels of all images together) scores.
    """
    names = METRICS.names() if metrics is None else metrics
    rows: list[tuple[str, str, float]] = []
    waiting: list[tuple[str, Histogram]] = []

    def add(source_id: str, histogram: Histogram, threshold: float) -> None:
        scores = score(histogram, threshold, names)
        rows.extend((source_id, name, value) for name, value in scores.items())

    def counted() -> Iterator[Histogram]:
        for whole in images:
            logits = predict_whole(
                model,
                whole,
                experiment,
                tta=protocol.tta,
                window=protocol.window,
                overlap=protocol.overlap,
                device=device,
                dataset_statistics=dataset_statistics,
            )
            histogram = Histogram.of(logits, whole.target, whole.fov)
            if threshold_logit is None:
                # Scored once all images have chosen the threshold.
                waiting.append((whole.source_id, histogram))
            else:
                add(whole.source_id, histogram, threshold_logit)
            yield histogram

    pooled = Histogram.sum(counted())
    if threshold_logit is None:
        choose = THRESHOLDS.part(protocol.threshold).load()
        threshold_logit = float(choose(pooled, protocol.threshold_metric))
    for source_id, histogram in [*waiting, (POOLED, pooled)]:
        add(source_id, histogram, threshold_logit)
    return Evaluated(threshold_logit, tuple(rows))


def select(images: WholeImages, domain: Domain) -> Iterable[WholeImage]:
    """The domain's images out of all images of its store, one at a time."""
    for index in domain.sources:
        yield images[index]
