"""The protocol: native size, untouched labels, inside the fov, thresholds frozen from val."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import training_cases as cases
from scipy.special import expit
from sklearn import metrics as sk
from torch import nn

from vesselflow.evaluation.evaluated import POOLED
from vesselflow.evaluation.scoring import evaluate, select
from vesselflow.feed.batches import ArrayImages, load_images
from vesselflow.inference.whole import predict_whole
from vesselflow.metrics import METRICS
from vesselflow.runs.domains import make_domain
from vesselflow.runs.protocols import Protocol
from vesselflow.runs.specs import view_of
from vesselflow.stores.store import Store
from vesselflow.training.loop import build_model

EXPERIMENT = cases.tiny_experiment()
PROTOCOL = Protocol("best", "dice", "none")
THRESHOLDED = [metric.name for metric in METRICS if metric.thresholded]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    # Untrained: its answers differ everywhere, and no flip leaves them as they are.
    return build_model(EXPERIMENT, 3, seed=1).eval()


@pytest.fixture(scope="module")
def images(done) -> dict[str, ArrayImages]:
    return {n: load_images(path, view_of(EXPERIMENT)) for n, path in done.stores.items()}


def _native(done, name: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    with Store.open(done.stores[name]) as store:
        return store.target(index), store.fov(index).astype(bool)


def _sklearn(target: np.ndarray, logits: np.ndarray, threshold: float) -> dict[str, float]:
    predicted = logits >= threshold
    tn, fp, fn, tp = sk.confusion_matrix(target, predicted, labels=[0, 1]).ravel()
    return {
        "dice": sk.f1_score(target, predicted),
        "iou": sk.jaccard_score(target, predicted),
        "sensitivity": sk.recall_score(target, predicted),
        "specificity": tn / (tn + fp),
        "accuracy": (tp + tn) / (tp + tn + fp + fn),
        "mcc": sk.matthews_corrcoef(target, predicted),
        "roc_auc": sk.roc_auc_score(target, logits),
        "pr_auc": sk.average_precision_score(target, logits),
    }


def test_scores_equal_scikit_learn_on_native_pixels_inside_the_fov(done, images, model):
    # A threshold amid the logits, so that no prediction has one class only.
    threshold = float(np.median(predict_whole(model, images["a"][0], EXPERIMENT)))
    found = evaluate(model, images["a"], EXPERIMENT, PROTOCOL, thresholds=[threshold])
    assert found.threshold_logit == threshold
    assert found.threshold == pytest.approx(expit(threshold))
    targets, logits = [], []
    for index, whole in enumerate(images["a"]):
        target, fov = _native(done, "a", index)
        assert target.shape == (96, 96) != whole.image.shape[1:]
        native = predict_whole(model, whole, EXPERIMENT)
        assert native.shape == target.shape
        targets.append(target[fov])
        logits.append(native[fov])
        for name, value in _sklearn(targets[-1], logits[-1], threshold).items():
            assert found.value(whole.source_id, name) == pytest.approx(value, abs=1e-9), name
    pooled = _sklearn(np.concatenate(targets), np.concatenate(logits), threshold)
    for name, value in pooled.items():
        assert found.value(POOLED, name) == pytest.approx(value, abs=1e-9), name
    assert len(found.rows) == (len(images["a"]) + 1) * len(METRICS.names())
    assert list(dict.fromkeys(row[0] for row in found.rows)) == [*images["a"].ids, POOLED]


def test_threshold_is_chosen_when_there_is_none_and_frozen_otherwise(done, images, model):
    chosen = evaluate(model, images["a"], EXPERIMENT, PROTOCOL, thresholds=None)
    best = chosen.value(POOLED, "dice")
    # No other threshold is better on the pooled pixels.
    for logit in [-np.inf, *np.linspace(-3, 3, 9), np.inf]:
        found = evaluate(model, images["a"], EXPERIMENT, PROTOCOL, thresholds=[float(logit)])
        assert found.threshold_logit == logit
        assert not found.value(POOLED, "dice") > best
    frozen = evaluate(model, images["b"], EXPERIMENT, PROTOCOL, thresholds=[chosen.threshold_logit])
    assert frozen.threshold_logit == chosen.threshold_logit
    assert evaluate(model, images["b"], EXPERIMENT, PROTOCOL, thresholds=None).value(
        POOLED, "dice"
    ) >= frozen.value(POOLED, "dice")


def test_threshold_metric_chooses(images, model):
    by_accuracy = Protocol("best", "accuracy", "none")
    found = evaluate(model, images["a"], EXPERIMENT, by_accuracy, thresholds=None)
    by_dice = evaluate(model, images["a"], EXPERIMENT, PROTOCOL, thresholds=None)
    assert found.value(POOLED, "accuracy") > by_dice.value(POOLED, "accuracy")
    assert found.value(POOLED, "dice") < by_dice.value(POOLED, "dice")


def test_a_threshold_that_nobody_chooses(images, model):
    halves = Protocol("half", "dice", "none")
    found = evaluate(model, images["a"], EXPERIMENT, halves, thresholds=None)
    assert found.threshold_logit == 0
    assert found.threshold == 0.5
    best = evaluate(model, images["a"], EXPERIMENT, PROTOCOL, thresholds=None)
    assert found.value(POOLED, "dice") < best.value(POOLED, "dice")
    assert found.value(POOLED, "roc_auc") == best.value(POOLED, "roc_auc")


def test_an_undefined_threshold_stays_undefined(images, model):
    found = evaluate(model, images["a"], EXPERIMENT, PROTOCOL, thresholds=[math.nan])
    assert math.isnan(found.threshold)
    assert all(math.isnan(v) for _, name, v in found.rows if name in THRESHOLDED)
    assert not math.isnan(found.value(POOLED, "roc_auc"))


class _Nan(nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image[:, :1] * torch.nan


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_a_model_of_nan_scores_nan(images, threshold):
    found = evaluate(_Nan(), images["a"], EXPERIMENT, PROTOCOL, thresholds=[threshold])
    assert all(math.isnan(value) for _, _, value in found.rows)
    assert len(found.rows) == 6 * len(METRICS.names())


def test_an_image_without_vessels_is_undefined(images, model):
    # Nothing is predicted either, so that Dice is 0 / 0.
    found = evaluate(model, images["empty"], EXPERIMENT, PROTOCOL, thresholds=[math.inf])
    assert found.threshold == 1.0
    for name in ("dice", "iou", "sensitivity", "mcc", "roc_auc", "pr_auc"):
        assert math.isnan(found.value("e1", name)), name
    assert found.value("e1", "specificity") == 1.0
    assert not math.isnan(found.value("e0", "roc_auc"))
    # Among others it counts as background.
    assert not math.isnan(found.value(POOLED, "roc_auc"))


def test_a_domain_takes_its_sources_in_order(images):
    digests = [str(n) for n in range(5)]
    domain = make_domain("a", "test", "a", [4, 1], digests)
    assert domain.sources == (1, 4)
    ids = [whole.source_id for whole in select(images["a"], domain)]
    assert ids == [images["a"].ids[1], images["a"].ids[4]]
    assert domain.digest == make_domain("x", "ood", "y", [1, 4], digests).digest
    assert domain.digest != make_domain("a", "test", "a", [1, 3], digests).digest


class _Sure(nn.Module):
    """Half of the pixels far beyond where a float32 probability is 1, half far below 0."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return 60 * image[:, :1]


def test_a_saturated_model_is_ranked_and_cut_by_its_logits(done, images):
    found = evaluate(_Sure(), images["a"], EXPERIMENT, PROTOCOL, thresholds=None)
    targets, logits = [], []
    for index, whole in enumerate(images["a"]):
        target, fov = _native(done, "a", index)
        targets.append(target[fov])
        logits.append(predict_whole(_Sure(), whole, EXPERIMENT)[fov])
    target, native = np.concatenate(targets), np.concatenate(logits)
    assert (np.abs(native) > 17).mean() > 0.3
    # Next to no two of them are tied, though in float32 their probabilities are.
    assert len(np.unique(native)) > 0.9 * len(native)
    assert len(np.unique(expit(native))) < 0.8 * len(native)
    for name, value in _sklearn(target, native, found.threshold_logit).items():
        assert found.value(POOLED, name) == pytest.approx(value, abs=1e-9), name


def test_domains_of_any_size_are_scored_one_image_at_a_time(images, model):
    chosen = evaluate(model, images["a"], EXPERIMENT, PROTOCOL, thresholds=None)
    seen = []

    def lazily():
        for whole in images["a"]:
            seen.append(whole.source_id)
            yield whole

    again = evaluate(model, lazily(), EXPERIMENT, PROTOCOL, thresholds=[chosen.threshold_logit])
    assert cases.differences(again.rows, chosen.rows) == []
    assert seen == list(images["a"].ids)
