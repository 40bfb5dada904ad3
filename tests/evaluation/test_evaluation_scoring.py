"""The protocol: native size, untouched labels, inside the fov, thresholds frozen from val."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import training_cases as cases
from sklearn import metrics as sk
from torch import nn

from vesselflow.evaluation.domains import make_domain
from vesselflow.evaluation.parts import POOLED
from vesselflow.evaluation.scoring import evaluate, select
from vesselflow.feed.batches import ArrayImages, load_images
from vesselflow.inference.whole import predict_whole
from vesselflow.metrics import METRICS
from vesselflow.orchestration.runs import view_of
from vesselflow.stores.store import Store
from vesselflow.training.loop import build_model

EXPERIMENT = cases.tiny_experiment()
THRESHOLDED = [n for n in METRICS.names() if not n.endswith("auc")]


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


def _levels(probability: np.ndarray) -> np.ndarray:
    return np.rint(probability.astype(np.float64) * 65535) / 65535


def _sklearn(target: np.ndarray, probability: np.ndarray, threshold: float) -> dict[str, float]:
    predicted = _levels(probability) >= threshold - 1e-9
    tn, fp, fn, tp = sk.confusion_matrix(target, predicted, labels=[0, 1]).ravel()
    return {
        "dice": sk.f1_score(target, predicted),
        "iou": sk.jaccard_score(target, predicted),
        "sensitivity": sk.recall_score(target, predicted),
        "specificity": tn / (tn + fp),
        "accuracy": (tp + tn) / (tp + tn + fp + fn),
        "mcc": sk.matthews_corrcoef(target, predicted),
        "roc_auc": sk.roc_auc_score(target, _levels(probability)),
        "pr_auc": sk.average_precision_score(target, _levels(probability)),
    }


def test_scores_equal_scikit_learn_on_native_pixels_inside_the_fov(done, images, model):
    # A threshold amid the probabilities, so that no prediction has one class only.
    threshold = float(np.median(predict_whole(model, images["a"][0], EXPERIMENT)))
    threshold = round(threshold * 65535) / 65535
    part = evaluate(model, images["a"], EXPERIMENT, threshold=threshold)
    targets, probabilities = [], []
    for index, whole in enumerate(images["a"]):
        target, fov = _native(done, "a", index)
        assert target.shape == (96, 96) != whole.image.shape[1:]
        probability = predict_whole(model, whole, EXPERIMENT)
        assert probability.shape == target.shape
        targets.append(target[fov])
        probabilities.append(probability[fov])
        for name, value in _sklearn(targets[-1], probabilities[-1], part.threshold).items():
            assert part.value(whole.source_id, name) == pytest.approx(value, abs=1e-9), name
    pooled = _sklearn(np.concatenate(targets), np.concatenate(probabilities), part.threshold)
    for name, value in pooled.items():
        assert part.value(POOLED, name) == pytest.approx(value, abs=1e-9), name
    assert len(part.rows) == (len(images["a"]) + 1) * len(METRICS.names())
    assert list(dict.fromkeys(row[0] for row in part.rows)) == [*images["a"].ids, POOLED]


def test_threshold_is_chosen_when_there_is_none_and_frozen_otherwise(done, images, model):
    chosen = evaluate(model, images["a"], EXPERIMENT, threshold=None)
    best = chosen.value(POOLED, "dice")
    # No other threshold is better on the pooled pixels.
    for level in np.linspace(0, 65535, 25).round() / 65535:
        part = evaluate(model, images["a"], EXPERIMENT, threshold=float(level))
        assert part.threshold == level
        assert not part.value(POOLED, "dice") > best
    frozen = evaluate(model, images["b"], EXPERIMENT, threshold=chosen.threshold)
    assert frozen.threshold == chosen.threshold
    assert evaluate(model, images["b"], EXPERIMENT, threshold=None).value(
        POOLED, "dice"
    ) >= frozen.value(POOLED, "dice")


def test_threshold_metric_chooses(images, model):
    by_accuracy = cases.tiny_experiment(score={"threshold_metric": "accuracy"})
    part = evaluate(model, images["a"], by_accuracy, threshold=None)
    by_dice = evaluate(model, images["a"], EXPERIMENT, threshold=None)
    assert part.value(POOLED, "accuracy") > by_dice.value(POOLED, "accuracy")
    assert part.value(POOLED, "dice") < by_dice.value(POOLED, "dice")


def test_an_undefined_threshold_stays_undefined(images, model):
    part = evaluate(model, images["a"], EXPERIMENT, threshold=math.nan)
    assert math.isnan(part.threshold)
    assert all(math.isnan(v) for _, name, v in part.rows if name in THRESHOLDED)
    assert not math.isnan(part.value(POOLED, "roc_auc"))


class _Nan(nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image[:, :1] * torch.nan


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_a_model_of_nan_scores_nan(images, threshold):
    part = evaluate(_Nan(), images["a"], EXPERIMENT, threshold=threshold)
    assert all(math.isnan(value) for _, _, value in part.rows)
    assert len(part.rows) == 6 * len(METRICS.names())


def test_an_image_without_vessels_is_undefined(images, model):
    # Threshold 1: nothing is predicted either, so that Dice is 0 / 0.
    part = evaluate(model, images["empty"], EXPERIMENT, threshold=1.0)
    for name in ("dice", "iou", "sensitivity", "mcc", "roc_auc", "pr_auc"):
        assert math.isnan(part.value("e1", name)), name
    assert part.value("e1", "specificity") == 1.0
    assert not math.isnan(part.value("e0", "roc_auc"))
    # Among others it counts as background.
    assert not math.isnan(part.value(POOLED, "roc_auc"))


def test_a_domain_takes_its_sources_in_order(images):
    digests = [str(n) for n in range(5)]
    domain = make_domain("a", "test", "a", [4, 1], digests)
    assert domain.sources == (1, 4)
    ids = [whole.source_id for whole in select(images["a"], domain)]
    assert ids == [images["a"].ids[1], images["a"].ids[4]]
    assert domain.digest == make_domain("x", "ood", "y", [1, 4], digests).digest
    assert domain.digest != make_domain("a", "test", "a", [1, 3], digests).digest


# -- whole images ------------------------------------------------------------------------------


def test_flips_are_the_mean_of_four(images, model):
    whole = images["a"][0]
    flipped = cases.tiny_experiment(score={"tta": "flips"})

    def seen(axes: tuple[int, ...]) -> np.ndarray:
        # The image turned by hand; the model's answer turned back.
        turned = [np.flip(a, axes) for a in (whole.image.transpose(1, 2, 0), whole.fov_working)]
        centre, scale = whole.centre, whole.scale
        image = (turned[0] / np.float32(255) - centre) / scale * turned[1][..., None]
        x = torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32))
        with torch.no_grad():
            probability = torch.sigmoid(model(x))[0, 0].numpy()
        return np.flip(probability, axes)

    by_hand = np.mean([seen(axes) for axes in ((), (0,), (1,), (0, 1))], axis=0)
    from vesselflow.feed.view import to_native

    expected = to_native(np.ascontiguousarray(by_hand), whole)
    found = predict_whole(model, whole, flipped)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    plain = predict_whole(model, whole, EXPERIMENT)
    np.testing.assert_allclose(plain, to_native(seen(()).copy(), whole), atol=2e-5)
    assert np.abs(found - plain).max() > 1e-3


def test_a_prediction_does_not_depend_on_other_images(images, model):
    alone = predict_whole(model, images["b"][1], EXPERIMENT)
    rows = []
    for order in ((0, 1), (1, 0)):
        pair = [images["b"][index] for index in order]
        part = evaluate(model, pair, EXPERIMENT, threshold=0.5)
        rows.append(sorted(map(repr, part.rows)))
        assert predict_whole(model, images["b"][1], EXPERIMENT).tobytes() == alone.tobytes()
    assert rows[0] == rows[1]


def test_probability_is_zero_outside_the_fov_box(images, model):
    whole = images["a"][2]
    probability = predict_whole(model, whole, EXPERIMENT)
    y0, x0, y1, x1 = whole.box
    assert probability.dtype == np.float32
    assert probability[y0:y1, x0:x1].min() > 0
    probability[y0:y1, x0:x1] = 0
    assert not probability.any()


@pytest.mark.parametrize("scope", ["source", "dataset", "patch", "none"])
def test_every_scope_of_normalisation_predicts(images, model, scope):
    experiment = cases.tiny_experiment(normalise={"scope": scope})
    statistics = (np.full(3, 0.4, np.float32), np.full(3, 0.3, np.float32))
    found = predict_whole(model, images["a"][0], experiment, dataset_statistics=statistics)
    assert np.isfinite(found).all()
    if scope == "dataset":
        with pytest.raises(ValueError, match="statistics of the training part"):
            predict_whole(model, images["a"][0], experiment)
