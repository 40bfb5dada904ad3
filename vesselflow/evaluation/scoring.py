"""Scoring a model on whole images: the evaluation protocol."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from vesselflow.augment.inputs import DatasetStatistics
from vesselflow.config.experiment import Experiment
from vesselflow.evaluation.domains import Domain
from vesselflow.evaluation.parts import POOLED, Part
from vesselflow.feed.batches import WholeImage, WholeImages
from vesselflow.inference.whole import predict_whole
from vesselflow.metrics import METRICS
from vesselflow.metrics.histogram import (
    Histogram,
    best_threshold,
    fraction,
    level,
    score,
)


def evaluate(
    model: nn.Module,
    images: Iterable[WholeImage],
    experiment: Experiment,
    *,
    threshold: float | None,
    device: str = "cpu",
    dataset_statistics: DatasetStatistics | None = None,
) -> Part:
    """Score a model on whole images, at native resolution, inside the fov, against the labels.

    Args:
        model: In evaluation mode.
        images: The domain's images.
        experiment: How images are prepared; `score` says which metric chooses the threshold.
        threshold: Frozen from validation; None chooses it here (on validation data only), as the
            one that is best for the pooled pixels.
        device: Where the model lives.
        dataset_statistics: For ``normalise.scope: dataset``.

    Returns:
        Per image and pooled (pixels of all images together) scores.
    """
    histograms: list[tuple[str, Histogram]] = []
    for whole in images:
        probability = predict_whole(
            model, whole, experiment, device=device, dataset_statistics=dataset_statistics
        )
        histograms.append((whole.source_id, Histogram.of(probability, whole.target, whole.fov)))
    pooled = Histogram.sum(histogram for _, histogram in histograms)
    chosen = (
        best_threshold(pooled, experiment.score.threshold_metric)
        if threshold is None
        else level(threshold)
    )
    rows = [
        (source_id, name, value)
        for source_id, histogram in [*histograms, (POOLED, pooled)]
        for name, value in score(histogram, chosen, METRICS.names()).items()
    ]
    return Part(fraction(chosen), tuple(rows))


def select(images: WholeImages, domain: Domain) -> Iterable[WholeImage]:
    """The domain's images out of all images of its store, one at a time."""
    for index in domain.sources:
        yield images[index]
