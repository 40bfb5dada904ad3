"""Whole images: what is averaged, brought to native size and left alone."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import expit, logit
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
import training_cases as cases

from vesselflow.errors import ShapeError
from vesselflow.evaluation.scoring import evaluate
from vesselflow.feed.batches import ArrayImages, WholeImage, load_images
from vesselflow.inference.whole import predict_whole, to_native
from vesselflow.runs.protocols import Protocol
from vesselflow.runs.specs import view_of
from vesselflow.training.loop import build_model

EXPERIMENT = cases.tiny_experiment()
PROTOCOL = Protocol("best", "dice", "none")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    # Untrained: its answers differ everywhere, and no flip leaves them as they are.
    torch.set_num_threads(1)
    return build_model(EXPERIMENT, 3, seed=1).eval()


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> dict[str, ArrayImages]:
    stores = cases.tiny_stores(tmp_path_factory.mktemp("stores"))
    return {n: load_images(path, view_of(EXPERIMENT)) for n, path in stores.items()}


def framed(
    box: tuple[int, int, int, int], inner: tuple[int, int], native: tuple[int, int]
) -> WholeImage:
    """An image of which only the geometry matters: its box resized to `inner`, at (2, 3)."""
    nothing = np.zeros(native, np.uint8)
    one = np.zeros(1, np.float32)
    return WholeImage(
        "s", "g", nothing[None], nothing, one, one, nothing, nothing, box, inner, (2, 3)
    )


def working(inner: tuple[int, int], seed: int, scale: float) -> torch.Tensor:
    """Logits (1, h, w) of padded arrays; the padding holds what must not be looked at."""
    rng = np.random.default_rng(seed)
    maps = np.full((1, inner[0] + 7, inner[1] + 9), 1e6)
    maps[0, 2 : 2 + inner[0], 3 : 3 + inner[1]] = scale * rng.standard_normal(inner)
    return torch.from_numpy(maps)


@pytest.mark.parametrize("size", [(40, 60), (12, 11), (7, 50)], ids=["grows", "shrinks", "both"])
def test_probabilities_are_resized_as_pillow_does(size: tuple[int, int]) -> None:
    inner = (20, 30)
    logits = working(inner, 0, 2.0)
    whole = framed((5, 4, 5 + size[0], 4 + size[1]), inner, (80, 90))
    found = to_native(logits, whole)[5 : 5 + size[0], 4 : 4 + size[1]]
    probability = expit(logits[0, 2:22, 3:33].numpy()).astype(np.float32)
    expected = Image.fromarray(probability).resize(size[::-1], Image.Resampling.BILINEAR)
    np.testing.assert_allclose(expit(found), np.asarray(expected), atol=2e-6)


def test_saturated_logits_keep_their_order_and_size() -> None:
    # By hand, twice as large: between logits 100 and 200 at a quarter of the way, 1 - p is
    # 3/4 e^-100 + 1/4 e^-200, so that the logit is 100 + ln(4/3); likewise below with p.
    maps = torch.tensor([[[100.0, 200.0], [-100.0, -200.0]]])
    whole = replace(framed((0, 0, 2, 4), (2, 2), (2, 4)), offset=(0, 0))
    found = to_native(maps, whole)
    between = 100 + np.log([1.0, 4 / 3, 4.0])
    np.testing.assert_allclose(found[0], [*between, 200], rtol=1e-6)
    np.testing.assert_allclose(found[1], [*-between, -200], rtol=1e-6)


def test_logits_beyond_the_range_of_float64_stay_ordered_at_the_ends() -> None:
    maps = torch.tensor([[[-5000.0, -650.0], [650.0, 5000.0]]])
    whole = replace(framed((0, 0, 4, 2), (2, 2), (4, 2)), offset=(0, 0))
    found = to_native(maps, whole)
    assert np.isfinite(found).all()
    assert found[0, 0] < found[0, 1] < 0 < found[3, 0] < found[3, 1]


def test_one_view_of_native_size_keeps_its_logits() -> None:
    inner = (20, 30)
    maps = working(inner, 1, 1000.0)
    found = to_native(maps, framed((1, 2, 21, 32), inner, (25, 40)))
    np.testing.assert_array_equal(found[1:21, 2:32], maps[0, 2:22, 3:33].float().numpy())
    found[1:21, 2:32] = -np.inf
    assert np.isneginf(found).all()


def test_views_are_averaged_as_probabilities() -> None:
    maps = torch.tensor([[[2.0]], [[-1.0]], [[40.0]]], dtype=torch.float64)
    whole = replace(framed((0, 0, 1, 1), (1, 1), (1, 1)), offset=(0, 0))
    expected = logit(expit(np.array([2.0, -1.0, 40.0])).mean())
    assert to_native(maps, whole)[0, 0] == pytest.approx(expected, rel=1e-6)


def test_nan_stays_nan() -> None:
    maps = working((20, 30), 2, 1.0)
    maps[0, 10, 10] = torch.nan
    for size in ((20, 30), (40, 60)):
        found = to_native(maps, framed((0, 0, *size), (20, 30), size))
        assert 1 <= np.isnan(found).sum() < 20


def test_maps_of_another_size_are_refused() -> None:
    whole = framed((0, 0, 40, 60), (20, 30), (40, 60))
    for wrong in (torch.zeros(1, 4, 4), torch.zeros(29, 39), torch.zeros(1, 1, 29, 39)):
        with pytest.raises(ShapeError, match=r"do not hold \(20, 30\) at \(2, 3\)"):
            to_native(wrong, whole)


# -- models ------------------------------------------------------------------------------------


def test_flips_are_the_mean_of_four(images, model):
    whole = images["a"][0]

    def seen(axes: tuple[int, ...]) -> torch.Tensor:
        # The image turned by hand; the model's answer turned back.
        turned = [np.flip(a, axes) for a in (whole.image.transpose(1, 2, 0), whole.fov_working)]
        image = (turned[0] / np.float32(255) - whole.centre) / whole.scale * turned[1][..., None]
        x = torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32))
        with torch.no_grad():
            return torch.from_numpy(np.flip(model(x)[0, 0].numpy(), axes).copy())

    views = torch.stack([seen(axes) for axes in ((), (0,), (1,), (0, 1))])
    found = predict_whole(model, whole, EXPERIMENT, tta="flips")
    np.testing.assert_allclose(expit(found), expit(to_native(views, whole)), atol=2e-5)
    plain = predict_whole(model, whole, EXPERIMENT)
    np.testing.assert_allclose(expit(plain), expit(to_native(views[:1], whole)), atol=2e-5)
    assert np.abs(expit(found) - expit(plain)).max() > 1e-3


def test_a_prediction_does_not_depend_on_other_images(images, model):
    alone = predict_whole(model, images["b"][1], EXPERIMENT)
    rows = []
    for order in ((0, 1), (1, 0)):
        pair = [images["b"][index] for index in order]
        scores = evaluate(model, pair, EXPERIMENT, PROTOCOL, thresholds=[0.5])
        rows.append(sorted(map(repr, scores.rows)))
        assert predict_whole(model, images["b"][1], EXPERIMENT).tobytes() == alone.tobytes()
    assert rows[0] == rows[1]


def test_nothing_is_predicted_outside_the_fov_box(images, model):
    whole = images["a"][2]
    found = predict_whole(model, whole, EXPERIMENT)
    y0, x0, y1, x1 = whole.box
    assert found.dtype == np.float32
    assert found.shape == whole.target.shape
    assert np.isfinite(found[y0:y1, x0:x1]).all()
    found[y0:y1, x0:x1] = -np.inf
    assert np.isneginf(found).all()


@pytest.mark.parametrize("scope", ["source", "dataset", "patch", "none"])
def test_every_scope_of_normalisation_predicts(images, model, scope):
    experiment = cases.tiny_experiment(normalise={"scope": scope})
    statistics = (np.full(3, 0.4, np.float32), np.full(3, 0.3, np.float32))
    whole = images["a"][0]
    found = predict_whole(model, whole, experiment, dataset_statistics=statistics)
    y0, x0, y1, x1 = whole.box
    assert np.isfinite(found[y0:y1, x0:x1]).all()
    if scope == "dataset":
        with pytest.raises(ValueError, match="statistics of the training part"):
            predict_whole(model, whole, experiment)
