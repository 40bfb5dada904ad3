"""Scoring a model on whole images: the evaluation protocol."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn

from vesselflow.augment.inputs import DatasetStatistics
from vesselflow.config.experiment import Experiment
from vesselflow.evaluation.parts import POOLED, Part
from vesselflow.feed.batches import WholeImage, WholeImages
from vesselflow.inference.whole import predict_whole
from vesselflow.metrics import METRICS
from vesselflow.metrics.histogram import Histogram, best_threshold, score
from vesselflow.runs.domains import Domain


def evaluate(
    model: nn.Module,
    images: Iterable[WholeImage],
    experiment: Experiment,
    *,
    threshold_logit: float | None,
    device: str = "cpu",
    dataset_statistics: DatasetStatistics | None = None,
) -> Part:
    """Score a model on whole images, at native resolution, inside the fov, against the labels.

    Args:
        model: In evaluation mode.
        images: The domain's images.
        experiment: How images are prepared; `score` says which metric chooses the threshold.
        threshold_logit: Frozen from validation; None chooses it here (on validation data only), as
            the one that is best for the pooled pixels.
        device: Where the model lives.
        dataset_statistics: For ``normalise.scope: dataset``.

    Returns:
        Per image and pooled (pixels of all images together) scores.
    """
    names = METRICS.names()
    rows: list[tuple[str, str, float]] = []
    waiting: list[tuple[str, Histogram]] = []

    def add(source_id: str, histogram: Histogram, threshold: float) -> None:
        scores = score(histogram, threshold, names)
        rows.extend((source_id, name, value) for name, value in scores.items())

    def counted() -> Iterator[Histogram]:
        for whole in images:
            logits = predict_whole(
                model, whole, experiment, device=device, dataset_statistics=dataset_statistics
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
        threshold_logit = best_threshold(pooled, experiment.score.threshold_metric)
    for source_id, histogram in [*waiting, (POOLED, pooled)]:
        add(source_id, histogram, threshold_logit)
    return Part(threshold_logit, tuple(rows))


def select(images: WholeImages, domain: Domain) -> Iterable[WholeImage]:
    """The domain's images out of all images of its store, one at a time."""
    for index in domain.sources:
        yield images[index]
