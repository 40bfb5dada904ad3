"""Losses against numbers computed by hand, independent formulas, torch and SMP."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segmentation_models_pytorch import losses as smp
from torch.nn import functional

from vesselflow.losses import LOSSES
from vesselflow.losses.bce import bce_loss
from vesselflow.losses.combined import combined_loss
from vesselflow.losses.dice import dice_loss
from vesselflow.losses.focal import focal_loss
from vesselflow.losses.fuzzy import fuzzy_loss
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
    }


def batch(seed: int, n: int = 3, soft: bool = True) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    logits = 2.0 * torch.randn(n, 1, 9, 7, generator=g)
    target = torch.rand(n, 1, 9, 7, generator=g)
    fov = torch.rand(n, 1, 9, 7, generator=g) > 0.3
    return logits, target if soft else (target > 0.8).float(), fov


@pytest.mark.parametrize("name", LOSSES.names())
@pytest.mark.parametrize("seed", [0, 1])
def test_defaults_equal_the_definitions_in_numpy(name: str, seed: int) -> None:
    logits, target, fov = batch(seed)
    each = [
        numpy_losses(x[m].double().numpy(), t[m].double().numpy())[name]
        for x, t, m in zip(logits, target, fov, strict=True)
    ]
    assert LOSSES.build({"name": name})(logits, target, fov)[0].item() == pytest.approx(
        np.mean(each), abs=1e-6
    )


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
