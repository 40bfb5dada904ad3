"""Losses against numbers computed by hand, independent formulas, torch and SMP."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segmentation_models_pytorch import losses as smp
from torch.nn import functional

from vesselflow.errors import UserError
from vesselflow.losses import LOSSES
from vesselflow.losses.bce import bce_loss
from vesselflow.losses.combined import combined_loss
from vesselflow.losses.dice import dice_loss
from vesselflow.losses.fbeta import fbeta_loss
from vesselflow.losses.focal import focal_loss
from vesselflow.losses.focal_tversky import focal_tversky_loss
from vesselflow.losses.fuzzy import fuzzy_loss
from vesselflow.losses.jaccard import jaccard_loss
from vesselflow.losses.lovasz import lovasz_loss
from vesselflow.losses.mcc import mcc_loss
from vesselflow.losses.mse import mse_loss
from vesselflow.losses.tversky import tversky_loss

torch.set_num_threads(1)
LN2, LN43 = math.log(2.0), math.log(4.0 / 3.0)


def image(*values: float) -> torch.Tensor:
    return torch.tensor(values).reshape(1, 1, 2, -1)


#: sigmoid gives 1/2, 3/4, 1/4, 1/2.
LOGITS = image(0.0, math.log(3.0), -math.log(3.0), 0.0)
HARD = image(1.0, 1.0, 0.0, 0.0)
SOFT = image(0.75, 1.0, 0.0, 0.0)


def value(spec: dict, target: torch.Tensor = HARD, fov: torch.Tensor | None = None) -> float:
    return LOSSES.build(spec)(LOGITS, target, fov)[0].item()


@pytest.mark.parametrize(
    ("spec", "target", "expected"),
    [
        # -(ln 1/2 + ln 3/4 + ln 3/4 + ln 1/2) / 4
        ({"name": "bce"}, HARD, (LN2 + LN43) / 2),
        # The two positives, ln 2 and ln 4/3, three times.
        ({"name": "bce", "pos_weight": 3}, HARD, (4 * LN2 + 4 * LN43) / 4),
        # As many positives as negatives: weight 1.
        ({"name": "bce", "pos_weight": "balanced"}, HARD, (LN2 + LN43) / 2),
        # Sum t = 7/4: weight (9/4) / (7/4) = 9/7. Pixel 1: (9/7 * 3/4 + 1/4) ln 2, 2: 9/7 ln 4/3.
        (
            {"name": "bce", "pos_weight": "balanced"},
            SOFT,
            ((27 / 28 + 1 / 4 + 1) * LN2 + (9 / 7 + 1) * LN43) / 4,
        ),
        # Targets 0.9 0.9 0.1 0.1. Pixels 1 and 4: ln 2; 2 and 3: 0.9 ln 4/3 + 0.1 ln 4.
        (
            {"name": "bce", "label_smoothing": 0.2},
            HARD,
            (2 * LN2 + 2 * (0.9 * LN43 + 0.2 * LN2)) / 4,
        ),
        # sum pt = 1/2 + 3/4 = 5/4, sum p = 2, sum t = 2: 1 - (5/2 + 1) / (4 + 1)
        ({"name": "dice"}, HARD, 0.3),
        # The same with s = 4: 1 - 6.5 / 8
        ({"name": "dice", "smooth": 4}, HARD, 0.1875),
        # Empty target: sum p / (sum p + s) = 2 / 3
        ({"name": "dice"}, 0 * HARD, 2 / 3),
        # 0.7 * bce + 0.3 * dice
        ({"name": "combined", "beta": 0.3}, HARD, 0.35 * (LN2 + LN43) + 0.09),
        # TP = 5/4, FP = 1/4 + 1/2, FN = 1/2 + 1/4: wrong = 3/4, 0.75 / (1.25 + 0.75 + 1)
        ({"name": "fuzzy"}, HARD, 0.25),
        # TP = 1/2 + 3/4, FP = 3/4, FN = 1/4 + 1/4: 0.2 * 0.75 + 0.8 * 0.5 = 0.55, over 1.25+0.55+1
        ({"name": "fuzzy", "beta": 0.8}, SOFT, 0.55 / 2.8),
        # TP = 3/8 + 3/4 = 9/8, FP = 2 - TP, FN = 7/4 - TP: wrong = 0.175 + 0.5, over 1.125+0.675+1
        ({"name": "tversky", "beta": 0.8}, SOFT, 0.675 / 2.8),
        # |t - p| = 1/2 1/4 1/4 1/2: (2 * 1/4 ln 2 + 2 * 1/16 ln 4/3) / 4
        ({"name": "focal"}, HARD, LN2 / 8 + LN43 / 32),
        # Positives by 0.9, negatives by 0.1; each class has ln 2 / 4 + ln(4/3) / 16.
        ({"name": "focal", "alpha": 0.9}, HARD, (LN2 / 4 + LN43 / 16) / 4),
        # TP = 5/4, FP = FN = 3/4: wrong = 3/2, over 5/4 + 3/2 + 1
        ({"name": "jaccard"}, HARD, 1.5 / 3.75),
        # beta 2: wrong = 4 * 3/4 + 3/4, over 5 * 5/4 + 15/4 + 1
        ({"name": "fbeta"}, HARD, 3.75 / 11),
        ({"name": "fbeta"}, 0 * HARD, 2 / 3),
        # beta 0.7: wrong = 3/4, over 5/4 + 3/4 + 1, to the power of 3/4
        ({"name": "focal_tversky"}, HARD, 0.25**0.75),
        # TP = TN = 5/4 + 1, FP = FN = 3/4: (81 - 9) / 16 over 3^2
        ({"name": "mcc"}, HARD, 1 - 4.5 / 9),
        # TP = 1, TN = 2 + 1, FP = 2, FN = 0: 3 over sqrt(3 * 1 * 5 * 3)
        ({"name": "mcc"}, 0 * HARD, 1 - 3 / math.sqrt(45)),
        # Errors 1/2 (t = 1), 1/2 (t = 0), 1/4 (1), 1/4 (0); J = 1/3, 2/4, 3/4, 4/5 with s = 1,
        # T = 2: 1/2 * J_2 + 1/4 * (J_4 - J_2)
        ({"name": "lovasz"}, HARD, 0.25 + 0.25 * 0.3),
        # Errors 1/4 (t = 3/4), 1/4 (1), 1/4 (0), 1/2 (0), the last first: J_1 = 1 / (7/4 + 1 + 1),
        # J_4 = 4 / (7/4 + 1/4 + 2 + 1)
        ({"name": "lovasz"}, SOFT, 0.5 / 3.75 + 0.25 * (0.8 - 1 / 3.75)),
        # Errors 1, 1 - ln 3, 1 - ln 3, 1: no error below 0
        ({"name": "lovasz", "errors": "hinge"}, HARD, 0.5),
        # p - t = -1/2 -1/4 1/4 1/2
        ({"name": "mse"}, HARD, (1 / 4 + 1 / 16 + 1 / 16 + 1 / 4) / 4),
        # p - t = -1/4 -1/4 1/4 1/2, weights 1 + 4 * 3/4 = 4, 5, 1, 1
        ({"name": "mse", "pos_weight": 5}, SOFT, (4 / 16 + 5 / 16 + 1 / 16 + 1 / 4) / 4),
    ],
)
def test_values_computed_by_hand(spec: dict, target: torch.Tensor, expected: float) -> None:
    assert value(spec, target) == pytest.approx(expected, abs=1e-6)


def test_fov_by_hand() -> None:
    # Without pixel 1: sum pt = 3/4, sum p = 3/2, sum t = 1: 1 - (3/2 + 1) / (5/2 + 1)
    fov = image(0.0, 1.0, 1.0, 1.0)
    assert value({"name": "dice"}, HARD, fov) == pytest.approx(1 - 2.5 / 3.5, abs=1e-6)
    assert value({"name": "bce"}, HARD, fov) == pytest.approx((2 * LN43 + LN2) / 3, abs=1e-6)


# ---- formulas of the design in float64 numpy, image by image ------------------------------------


def numpy_losses(x: np.ndarray, t: np.ndarray) -> dict[str, float]:
    """Every loss with its defaults for the pixels of one image, straight from the definitions."""
    p = 1.0 / (1.0 + np.exp(-x))
    bce = float(np.mean(-(t * np.log(p) + (1 - t) * np.log(1 - p))))
    dice = float(1 - (2 * np.sum(p * t) + 1) / (np.sum(p) + np.sum(t) + 1))

    def tversky(tp: float, fp: float, fn: float) -> float:
        return float(1 - (tp + 1) / (tp + 0.5 * fp + 0.5 * fn + 1))

    tp, fp, fn, tn = (p * t).sum(), (p * (1 - t)).sum(), ((1 - p) * t).sum(), np.dot(1 - p, 1 - t)
    both = (tp + fp + 1) * (tp + fn + 1) * (tn + fp + 1) * (tn + fn + 1)

    return {
        "bce": bce,
        "dice": dice,
        "combined": 0.5 * bce + 0.5 * dice,
        "fuzzy": tversky(
            np.minimum(p, t).sum(), np.maximum(p - t, 0).sum(), np.maximum(t - p, 0).sum()
        ),
        "tversky": tversky((p * t).sum(), (p * (1 - t)).sum(), ((1 - p) * t).sum()),
        "focal": float(np.mean(np.abs(t - p) ** 2 * -(t * np.log(p) + (1 - t) * np.log(1 - p)))),
        "mse": float(np.mean((p - t) ** 2)),
        "jaccard": float(1 - (tp + 1) / (tp + fp + fn + 1)),
        "fbeta": float(1 - (5 * tp + 1) / (5 * tp + 4 * fn + fp + 1)),
        "focal_tversky": float((1 - (tp + 1) / (tp + 0.3 * fp + 0.7 * fn + 1)) ** 0.75),
        "mcc": float(1 - ((tp + 1) * (tn + 1) - fp * fn) / np.sqrt(both)),
        "lovasz": lovasz_of_sets(np.abs(p - t), t),
        # Of the terms below.
        "compose": 0.5 * bce + 2 * float(1 - (2 * tp + 2) / (2 * tp + fp + fn + 2)),
    }


#: Arguments that a loss has no default for.
REQUIRED = {"compose": {"terms": {"dice": {"weight": 2, "smooth": 2}, "bce": {"weight": 0.5}}}}


def lovasz_of_sets(error: np.ndarray, t: np.ndarray) -> float:
    """The extension as an integral over cuts: J of the set with larger errors, at every cut."""
    cuts = np.sort(np.unique(np.append(error, 0.0)))
    total = 0.0
    for low, high in itertools.pairwise(cuts):
        wrong = error > low
        found, union = t[~wrong].sum(), t.sum() + (1 - t)[wrong].sum()
        total += (high - low) * (1 - (found + 1) / (union + 1))
    return total


def batch(seed: int, n: int = 3, soft: bool = True) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    logits = 2.0 * torch.randn(n, 1, 9, 7, generator=g)
    target = torch.rand(n, 1, 9, 7, generator=g)
    fov = torch.rand(n, 1, 9, 7, generator=g) > 0.3
    return logits, target if soft else (target > 0.8).float(), fov


@pytest.mark.parametrize("name", [part.name for part in LOSSES if not part.load().spatial])
@pytest.mark.parametrize("seed", [0, 1])
def test_defaults_equal_the_definitions_in_numpy(name: str, seed: int) -> None:
    logits, target, fov = batch(seed)
    each = [
        numpy_losses(x[m].double().numpy(), t[m].double().numpy())[name]
        for x, t, m in zip(logits, target, fov, strict=True)
    ]
    loss = LOSSES.build({"name": name, **REQUIRED.get(name, {})})
    assert loss(logits, target, fov)[0].item() == pytest.approx(np.mean(each), abs=1e-6)


# ---- libraries, where they agree, and where they do not -----------------------------------------


@pytest.mark.parametrize("weight", [1.0, 7.5])
def test_bce_is_that_of_torch(weight: float) -> None:
    logits, target, _ = batch(3)
    expected = functional.binary_cross_entropy_with_logits(
        logits, target, pos_weight=torch.tensor(weight)
    )
    ours = bce_loss(logits, target, pos_weight=weight, label_smoothing=0.0)
    assert ours.item() == pytest.approx(expected.item(), abs=1e-6)


def test_mse_is_that_of_torch() -> None:
    logits, target, _ = batch(3)
    expected = functional.mse_loss(torch.sigmoid(logits), target)
    assert mse_loss(logits, target, pos_weight=1.0).item() == pytest.approx(
        expected.item(), abs=1e-6
    )


def test_dice_pooled_over_the_batch_is_that_of_smp_on_hard_targets() -> None:
    logits, target, _ = batch(4, soft=False)
    # SMP writes the ratio without the factor 2, so its smooth counts double.
    expected = smp.DiceLoss("binary", smooth=1.5)(logits, target)
    ours = dice_loss(logits, target, smooth=3.0, per="batch")
    assert ours.item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.5, 1.0])
def test_fuzzy_is_the_tversky_of_smp_on_one_image(beta: float) -> None:
    # SMP 0.6 counts TP as (sum p + sum t - sum |p - t|) / 2, which is sum min(p, t).
    logits, target, _ = batch(5, n=1)
    expected = smp.TverskyLoss("binary", alpha=1 - beta, beta=beta, smooth=2.0)(logits, target)
    ours = fuzzy_loss(logits, target, beta=beta, smooth=2.0)
    assert ours.item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("alpha", [None, 0.25])
def test_focal_is_that_of_smp_on_hard_targets(alpha: float | None) -> None:
    logits, target, _ = batch(6, soft=False)
    expected = smp.FocalLoss("binary", alpha=alpha, gamma=2.0)(logits, target)
    ours = focal_loss(logits, target, gamma=2.0, alpha=alpha)
    assert ours.item() == pytest.approx(expected.item(), abs=1e-6)


def test_jaccard_is_that_of_smp_on_one_image() -> None:
    logits, target, _ = batch(9, n=1, soft=False)
    expected = smp.JaccardLoss("binary", smooth=2.0)(logits, target)
    assert jaccard_loss(logits, target, smooth=2.0).item() == pytest.approx(
        expected.item(), abs=1e-6
    )


@pytest.mark.parametrize("gamma", [4.0 / 3.0, 2.0])
def test_focal_tversky_is_that_of_smp_on_one_image(gamma: float) -> None:
    # SMP's gamma is the exponent itself, and its alpha weighs false alarms.
    logits, target, _ = batch(10, n=1, soft=False)
    theirs = smp.TverskyLoss("binary", alpha=0.3, beta=0.7, gamma=1 / gamma, smooth=2.0)
    ours = focal_tversky_loss(logits, target, beta=0.7, smooth=2.0, gamma=gamma)
    assert ours.item() == pytest.approx(theirs(logits, target).item(), abs=1e-6)


def test_mcc_is_that_of_smp_on_one_image() -> None:
    # SMP takes probabilities, and pools the batch.
    logits, target, _ = batch(11, n=1, soft=False)
    expected = smp.MCCLoss(eps=1e-6)(torch.sigmoid(logits), target)
    assert mcc_loss(logits, target, smooth=1e-6).item() == pytest.approx(expected.item(), abs=1e-5)


def test_known_fault_of_smp_an_empty_target_has_a_coefficient_of_chance() -> None:
    # However right the prediction is: half of it is the smoothing's.
    empty = torch.zeros(1, 1, 8, 8)
    theirs = smp.MCCLoss()(torch.sigmoid(empty - 20.0), empty)
    ours = mcc_loss(empty - 20.0, empty, smooth=1.0)
    assert theirs.item() > 0.4
    assert ours.item() == pytest.approx(0.0, abs=1e-6)


def test_lovasz_hinge_is_that_of_smp_image_by_image() -> None:
    logits, target, _ = batch(12, soft=False)
    ours = lovasz_loss(logits, target, errors="hinge", smooth=1e-6)
    assert ours.item() == pytest.approx(
        smp.LovaszLoss("binary", per_image=True)(logits, target).item(), abs=1e-5
    )


def test_lovasz_on_probabilities_is_that_of_two_classes_in_smp() -> None:
    # Of the classes (0, x), softmax is the sigmoid of x; SMP then means over both classes' losses.
    logits, target, _ = batch(13, soft=False)
    two = torch.cat([torch.zeros_like(logits), logits], 1)
    expected = smp.LovaszLoss("multiclass", per_image=True)(two, target[:, 0].long())
    vessel = lovasz_loss(logits, target, errors="probability", smooth=1e-6)
    background = lovasz_loss(-logits, 1 - target, errors="probability", smooth=1e-6)
    assert (vessel + background).item() / 2 == pytest.approx(expected.item(), abs=1e-5)


def test_known_fault_of_smp_empty_target_teaches_nothing() -> None:
    logits = torch.zeros(1, 1, 4, 4, requires_grad=True)
    empty = torch.zeros(1, 1, 4, 4)
    theirs = smp.DiceLoss("binary", smooth=1.0)(logits, empty)
    theirs.backward()
    assert theirs.item() == 0.0  # although half of every pixel is predicted
    assert (logits.grad == 0).all()
    ours = dice_loss(logits, empty, smooth=1.0, per="image")
    assert ours.item() == pytest.approx(8 / 9)


def test_known_fault_of_smp_a_batch_hides_the_image_that_was_missed() -> None:
    # One image full and found, one with a single pixel that is missed.
    logits = torch.full((2, 1, 8, 8), 20.0)
    logits[1] = -20.0
    target = torch.ones(2, 1, 8, 8)
    target[1] = 0.0
    target[1, 0, 0, 0] = 1.0
    theirs = smp.DiceLoss("binary")(logits, target)
    ours = dice_loss(logits, target, smooth=1e-6, per="image")
    assert theirs.item() < 0.01
    assert ours.item() == pytest.approx(0.5, abs=1e-3)


# ---- combined at its ends -----------------------------------------------------------------------

TERMS = {"pos_weight": 2.0, "label_smoothing": 0.1}
SETS = {"smooth": 1.0, "per": "image"}


def test_combined_at_its_ends_is_each_term_to_the_bit() -> None:
    logits, target, fov = batch(7)
    bce = bce_loss(logits, target, fov, **TERMS)
    dice = dice_loss(logits, target, fov, **SETS)
    assert combined_loss(logits, target, fov, beta=0.0, **TERMS, **SETS).item() == bce.item()
    assert combined_loss(logits, target, fov, beta=1.0, **TERMS, **SETS).item() == dice.item()


@pytest.mark.parametrize(("beta", "of"), [(0.0, "bce"), (1.0, "dice")])
def test_combined_at_its_ends_has_the_gradient_of_one_term(beta: float, of: str) -> None:
    logits, target, fov = batch(8)
    whole, alone = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    total, terms = LOSSES.build({"name": "combined", "beta": beta})(whole, target, fov)
    total.backward()
    LOSSES.build({"name": of})(alone, target, fov)[0].backward()
    assert torch.equal(whole.grad, alone.grad)
    assert set(terms) == {"bce", "dice"}


def test_combined_without_bce_survives_an_infinite_bce() -> None:
    # A logit of -inf on a positive pixel: bce is not finite, and neither is 0 times it.
    logits = LOGITS.clone()
    logits[0, 0, 0, 0] = -torch.inf
    logits.requires_grad_()
    total, terms = LOSSES.build({"name": "combined", "beta": 1.0})(logits, HARD)
    total.backward()
    assert not torch.isfinite(terms["bce"])
    assert torch.isfinite(total)
    assert torch.isfinite(logits.grad).all()


def test_terms_of_combined_are_unweighted() -> None:
    loss = LOSSES.build({"name": "combined", "beta": 0.25})
    total, terms = loss(LOGITS, HARD)
    assert terms["dice"].item() == pytest.approx(0.3, abs=1e-6)
    assert total.item() == pytest.approx(
        0.75 * terms["bce"].item() + 0.25 * terms["dice"].item(), abs=1e-6
    )


# ---- balanced weights ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("positives", "expected"), [(1, 256.0), (250, 3.0), (999, 1 / 256), (0, 1.0), (1000, 1.0)]
)
def test_balanced_weight_is_bounded_and_one_where_nothing_is_to_balance(
    positives: int, expected: float
) -> None:
    target = torch.zeros(1, 1, 10, 100)
    target.view(-1)[:positives] = 1.0
    logits = torch.linspace(-2, 2, 1000).reshape(target.shape)
    balanced = bce_loss(logits, target, pos_weight="balanced", label_smoothing=0.1)
    fixed = bce_loss(logits, target, pos_weight=expected, label_smoothing=0.1)
    assert balanced.item() == pytest.approx(fixed.item(), rel=1e-5)


# ---- rare foreground ----------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [{"name": "bce"}, {"name": "mse"}, {"name": "combined"}])
def test_a_weight_of_256_is_finite_in_bfloat16(spec: dict) -> None:
    loss = LOSSES.build({**spec, "pos_weight": 256})
    torch.manual_seed(0)
    target = torch.zeros(2, 2, 16, 16, 16)
    target[:, 0, 3, 4, 5] = 1.0
    target[:, 0, 3, 4, 6] = 0.6
    for size in (0.01, 1.0, 1e4):
        head = torch.nn.Conv3d(1, 2, 1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = head(size * torch.randn(2, 1, 16, 16, 16))
            total, _ = loss(logits, target)
        assert logits.dtype == torch.bfloat16
        total.backward()
        wide, _ = loss(logits.detach().double(), target.double())
        assert total.item() == pytest.approx(wide.item(), rel=1e-5)
        assert all(torch.isfinite(p.grad).all() for p in head.parameters())


@pytest.mark.parametrize("weight", [1.0, 8.0, 256.0])
def test_a_weight_moves_the_best_logits_of_a_heat_map_and_keeps_its_shape(weight: float) -> None:
    target = image(0.001, 0.1, 0.5, 0.9).double()
    best = (torch.logit(target) + math.log(weight)).requires_grad_()
    bce_loss(best, target, pos_weight=weight, label_smoothing=0.0).backward()
    assert best.grad.abs().max() < 1e-12
    # The squared error's stay where they are.
    plain = torch.logit(target).requires_grad_()
    mse_loss(plain, target, pos_weight=weight).backward()
    assert plain.grad.abs().max() < 1e-12


# ---- properties ---------------------------------------------------------------------------------

seeds = st.integers(0, 2**31)
quick = settings(deadline=None, max_examples=25)


@quick
@given(seed=seeds, beta=st.floats(0, 1), smooth=st.floats(1e-3, 100))
def test_fuzzy_is_exactly_zero_with_no_gradient_when_p_equals_t(
    seed: int, beta: float, smooth: float
) -> None:
    logits, _, fov = batch(seed)
    logits.requires_grad_()
    total = fuzzy_loss(logits, torch.sigmoid(logits.detach()), fov, beta=beta, smooth=smooth)
    total.backward()
    assert total.item() == 0.0
    assert (logits.grad == 0).all()


@quick
@given(seed=seeds)
def test_soft_dice_is_not_zero_when_p_equals_a_soft_t(seed: int) -> None:
    logits, _, fov = batch(seed)
    assert dice_loss(logits, torch.sigmoid(logits), fov, smooth=1.0, per="image").item() > 0.05


@quick
@given(
    seed=seeds,
    smooth=st.floats(1e-6, 1e3),
    scale=st.floats(0, 50),
    per=st.sampled_from(["image", "batch"]),
)
def test_dice_lies_between_0_and_1(seed: int, smooth: float, scale: float, per: str) -> None:
    logits, target, fov = batch(seed)
    assert 0.0 <= dice_loss(scale * logits, target, fov, smooth=smooth, per=per).item() <= 1.0


@quick
@given(seed=seeds, beta=st.floats(0, 1))
def test_combined_is_linear_in_beta(seed: int, beta: float) -> None:
    logits, target, fov = batch(seed)
    low, high = (
        combined_loss(logits, target, fov, beta=b, **TERMS, **SETS).item() for b in (0.0, 1.0)
    )
    here = combined_loss(logits, target, fov, beta=beta, **TERMS, **SETS).item()
    assert here == pytest.approx((1 - beta) * low + beta * high, abs=1e-6)


@quick
@given(seed=seeds, smooth=st.floats(1e-3, 100))
def test_fuzzy_at_one_half_is_the_fuzzy_dice(seed: int, smooth: float) -> None:
    logits, target, _ = batch(seed, n=1)
    p = torch.sigmoid(logits)
    both = 2 * torch.minimum(p, target).sum() + 2 * smooth
    expected = 1 - both / (p.sum() + target.sum() + 2 * smooth)
    ours = fuzzy_loss(logits, target, beta=0.5, smooth=smooth)
    assert ours.item() == pytest.approx(expected.item(), abs=1e-6)


@quick
@given(seed=seeds, beta=st.floats(0, 1))
def test_fuzzy_is_tversky_on_hard_targets(seed: int, beta: float) -> None:
    logits, target, fov = batch(seed, soft=False)
    fuzzy = fuzzy_loss(logits, target, fov, beta=beta, smooth=1.0)
    tversky = tversky_loss(logits, target, fov, beta=beta, smooth=1.0)
    assert fuzzy.item() == pytest.approx(tversky.item(), abs=1e-6)


@quick
@given(seed=seeds)
def test_tversky_at_one_half_is_dice_with_twice_the_smooth(seed: int) -> None:
    logits, target, fov = batch(seed)
    tversky = tversky_loss(logits, target, fov, beta=0.5, smooth=1.5)
    dice = dice_loss(logits, target, fov, smooth=3.0, per="image")
    assert tversky.item() == pytest.approx(dice.item(), abs=1e-6)


@quick
@given(seed=seeds)
def test_focal_without_focus_is_bce(seed: int) -> None:
    logits, target, fov = batch(seed)
    focal = focal_loss(logits, target, fov, gamma=0.0, alpha=None)
    bce = bce_loss(logits, target, fov, pos_weight=1.0, label_smoothing=0.0)
    assert focal.item() == pytest.approx(bce.item(), abs=1e-6)


def test_fuzzy_beta_above_one_half_favours_recall() -> None:
    target = image(1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0)
    missing = image(9.0, 9.0, -9.0, -9.0, -9.0, -9.0, -9.0, -9.0)
    excess = image(9.0, 9.0, 9.0, 9.0, 9.0, 9.0, -9.0, -9.0)

    def gap(beta: float) -> float:
        values = [fuzzy_loss(x, target, beta=beta, smooth=1e-6).item() for x in (missing, excess)]
        return values[0] - values[1]

    assert gap(0.8) > gap(0.5) > gap(0.2)
    assert gap(0.8) > 0.3
    # At 1 false alarms are free, at 0 misses are.
    assert fuzzy_loss(excess, target, beta=1.0, smooth=1.0).item() < 1e-3
    assert fuzzy_loss(missing, target, beta=0.0, smooth=1.0).item() < 1e-3


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_gradient_is_finite_where_p_reaches_t(gamma: float) -> None:
    logits = image(200.0, -200.0, 0.0, 17.0).requires_grad_()
    target = image(1.0, 0.0, 0.5, 1.0)
    focal_loss(logits, target, gamma=gamma, alpha=None).backward()
    assert torch.isfinite(logits.grad).all()


# ---- jaccard, fbeta, focal_tversky, mcc, lovasz -------------------------------------------------


@quick
@given(seed=seeds, smooth=st.floats(1e-3, 100))
def test_jaccard_follows_from_dice_image_by_image(seed: int, smooth: float) -> None:
    logits, target, fov = batch(seed, n=1)
    dice = dice_loss(logits, target, fov, smooth=2 * smooth, per="image").item()
    ours = jaccard_loss(logits, target, fov, smooth=smooth).item()
    assert ours == pytest.approx(2 * dice / (1 + dice), abs=1e-6)


@quick
@given(seed=seeds, beta=st.floats(0.1, 10), smooth=st.floats(1e-3, 100))
def test_fbeta_is_a_tversky_loss_and_dice_at_one(seed: int, beta: float, smooth: float) -> None:
    logits, target, fov = batch(seed)
    square = beta * beta
    tversky = tversky_loss(
        logits, target, fov, beta=square / (1 + square), smooth=smooth / (1 + square)
    )
    ours = fbeta_loss(logits, target, fov, beta=beta, smooth=smooth)
    assert ours.item() == pytest.approx(tversky.item(), abs=1e-6)
    dice = dice_loss(logits, target, fov, smooth=smooth, per="image")
    one = fbeta_loss(logits, target, fov, beta=1.0, smooth=smooth)
    assert one.item() == pytest.approx(dice.item(), abs=1e-6)


@quick
@given(seed=seeds, beta=st.floats(0, 1))
def test_focal_tversky_without_focus_is_tversky(seed: int, beta: float) -> None:
    logits, target, fov = batch(seed)
    focal = focal_tversky_loss(logits, target, fov, beta=beta, smooth=1.0, gamma=1.0)
    tversky = tversky_loss(logits, target, fov, beta=beta, smooth=1.0)
    assert focal.item() == pytest.approx(tversky.item(), abs=1e-6)


def test_gamma_of_focal_tversky_above_one_teaches_more_near_the_target() -> None:
    target = image(1.0, 1.0, 0.0, 0.0)

    def pull(size: float, gamma: float) -> float:
        logits = (size * (2 * target - 1)).requires_grad_()
        focal_tversky_loss(logits, target, beta=0.5, smooth=1.0, gamma=gamma).backward()
        return float(logits.grad.norm())

    assert pull(6.0, 2.0) > 2 * pull(6.0, 1.0)
    assert pull(-6.0, 2.0) < pull(-6.0, 1.0)
    exact = image(200.0, 200.0, -200.0, -200.0).requires_grad_()
    focal_tversky_loss(exact, target, beta=0.5, smooth=1.0, gamma=4.0).backward()
    assert (exact.grad == 0).all(), "where the power has no finite gradient"


@quick
@given(seed=seeds, smooth=st.floats(1e-3, 100), soft=st.booleans())
def test_mcc_is_the_same_for_the_complement_and_below_two(
    seed: int, smooth: float, soft: bool
) -> None:
    logits, target, fov = batch(seed, soft=soft)
    ours = mcc_loss(logits, target, fov, smooth=smooth).item()
    assert ours == pytest.approx(mcc_loss(-logits, 1 - target, fov, smooth=smooth).item(), abs=1e-5)
    assert 0.0 <= ours < 2.0


def test_mcc_of_right_of_chance_and_of_wrong() -> None:
    target = torch.zeros(1, 1, 40, 40)
    target[..., :10] = 1.0
    for size, expected in ((50.0, 0.0), (0.0, 1.0), (-50.0, 2.0)):
        loss = mcc_loss(size * (2 * target - 1), target, smooth=1e-3)
        assert loss.item() == pytest.approx(expected, abs=1e-4)
    # A skewed guess that knows nothing is no better than another one.
    assert mcc_loss(0 * target - 3.0, target, smooth=1e-3).item() == pytest.approx(1.0, abs=1e-4)


@quick
@given(seed=seeds, smooth=st.floats(1e-3, 100))
def test_lovasz_of_hard_predictions_is_jaccard(seed: int, smooth: float) -> None:
    logits, target, fov = batch(seed, soft=False)
    hard = 300.0 * torch.where(logits > 0, 1.0, -1.0)
    ours = lovasz_loss(hard, target, fov, errors="probability", smooth=smooth)
    assert ours.item() == pytest.approx(
        jaccard_loss(hard, target, fov, smooth=smooth).item(), abs=1e-6
    )


@quick
@given(seed=seeds, smooth=st.floats(1e-3, 100))
def test_lovasz_is_zero_with_no_gradient_when_p_equals_t(seed: int, smooth: float) -> None:
    logits, _, fov = batch(seed)
    logits.requires_grad_()
    target = torch.sigmoid(logits.detach())
    total = lovasz_loss(logits, target, fov, errors="probability", smooth=smooth)
    total.backward()
    assert total.item() == 0.0
    assert (logits.grad == 0).all()


@quick
@given(seed=seeds, share=st.floats(0, 1))
def test_lovasz_is_convex_in_the_errors(seed: int, share: float) -> None:
    # Of hinge errors above 0 the errors are linear in the logits; soft targets weigh the sets.
    first, target, fov = batch(seed)
    second = batch(seed + 1)[0]

    def at(logits: torch.Tensor) -> float:
        return lovasz_loss(logits.clamp(-0.9, 0.9), target, fov, errors="hinge", smooth=1.0).item()

    between = share * first.clamp(-0.9, 0.9) + (1 - share) * second.clamp(-0.9, 0.9)
    assert at(between) <= share * at(first) + (1 - share) * at(second) + 1e-5


def test_lovasz_weighs_pixels_exactly_in_a_large_image() -> None:
    # The difference of two indices of 10^6 pixels is 1e-6 of them: rounding, if it were taken.
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 1, 1000, 1000, generator=g)
    target = (torch.rand(1, 1, 1000, 1000, generator=g) > 0.9).float()
    gradients = []
    for dtype in (torch.float32, torch.float64):
        x = logits.to(dtype, copy=True).requires_grad_()
        lovasz_loss(x, target.to(dtype), errors="probability", smooth=1.0).backward()
        gradients.append(x.grad.double())
    assert (gradients[0] - gradients[1]).norm() < 1e-3 * gradients[1].norm()


def test_hinge_keeps_its_gradient_where_a_logit_is_confidently_wrong() -> None:
    target = image(1.0, 1.0, 0.0, 0.0)
    pulls = []
    for errors in ("hinge", "probability"):
        wrong = (-40.0 * (2 * target - 1)).requires_grad_()
        lovasz_loss(wrong, target, errors=errors, smooth=1.0).backward()
        pulls.append(wrong.grad.abs().max().item())
    assert pulls[0] > 0.1
    assert pulls[1] < 1e-9


def test_hinge_takes_the_side_of_a_soft_target() -> None:
    logits = image(2.0, -2.0, 2.0, -2.0)
    target = image(0.6, 0.4, 0.5, 0.0)
    # Only pixel 3 is wrong, by 3; J = 1 / (1.5 + 0.5 + 1)
    loss = lovasz_loss(logits, target, errors="hinge", smooth=1.0)
    assert loss.item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("spec", "key", "allowed"),
    [
        ({"name": "jaccard", "smooth": 0}, "loss.smooth", "above 0"),
        ({"name": "fbeta", "beta": 0}, "loss.beta", "above 0"),
        ({"name": "focal_tversky", "gamma": 0}, "loss.gamma", r"\[0.1, 10\]"),
        ({"name": "focal_tversky", "beta": 1.5}, "loss.beta", r"\[0, 1\]"),
        ({"name": "mcc", "smooth": -1}, "loss.smooth", "above 0"),
        ({"name": "lovasz", "errors": "hing"}, "loss.errors", "probability, hinge"),
    ],
)
def test_bad_values_are_one_line_with_the_key(spec: dict, key: str, allowed: str) -> None:
    with pytest.raises(UserError, match=allowed) as caught:
        LOSSES.validate(spec, where="loss")
    assert caught.value.where == key
