"""Weighted sums of losses: values, weights of 0, names of runs, and what a space file may say."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vesselflow.config.experiment import load_experiment
from vesselflow.config.fingerprint import run_id
from vesselflow.config.loading import load_space
from vesselflow.config.registry import Arguments, Registry
from vesselflow.config.space import Space
from vesselflow.errors import UserError
from vesselflow.losses import LOSSES
from vesselflow.losses.loss import Loss
from vesselflow.runs.registries import REGISTRIES
from vesselflow.runs.stale import mended_since

torch.set_num_threads(1)
RAMP = {"schedule": "linear", "from": 0, "to": 1}
FACTS: dict[str, Any] = {"seed": 0, "store_digest": "5" * 20, "split_digest": "7" * 20}


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    shape = (2, 1, 7, 9)
    fov = torch.rand(shape, generator=g) > 0.2
    return 2 * torch.randn(shape, generator=g), torch.rand(shape, generator=g), fov


def composed(**terms: Any) -> Loss:
    loss: Loss = LOSSES.build({"name": "compose", "terms": terms})
    return loss


def alone(name: str, **arguments: Any) -> float:
    return float(LOSSES.build({"name": name, **arguments})(*batch())[0])


# ---- values -------------------------------------------------------------------------------------


def test_the_sum_of_weighted_terms_with_their_own_arguments() -> None:
    total, terms = composed(
        bce={"weight": 0.25, "pos_weight": 3}, dice={"weight": 2}, lovasz={"errors": "hinge"}
    )(*batch())
    expected = {
        "bce": alone("bce", pos_weight=3),
        "dice": alone("dice"),
        "lovasz": alone("lovasz", errors="hinge"),
    }
    assert {name: value.item() for name, value in terms.items()} == expected
    assert not any(value.requires_grad for value in terms.values())
    summed = 0.25 * expected["bce"] + 2 * expected["dice"] + expected["lovasz"]
    assert total.item() == pytest.approx(summed, abs=1e-6)


def test_one_term_of_weight_one_is_that_loss_to_the_bit() -> None:
    assert composed(focal={})(*batch())[0].item() == alone("focal")


@settings(deadline=None, max_examples=25)
@given(beta=st.floats(0, 1), seed=st.integers(0, 2**31))
def test_bce_and_dice_are_combined(beta: float, seed: int) -> None:
    if beta in (0.0, 1.0):
        return
    ours = composed(bce={"weight": 1 - beta}, dice={"weight": beta})(*batch(seed))[0]
    combined = LOSSES.build({"name": "combined", "beta": beta})(*batch(seed))[0]
    assert ours.item() == combined.item()


def test_a_weight_of_zero_takes_no_part_and_is_logged() -> None:
    logits, target, fov = batch()
    logits[0, 0, 0, 0], target[0, 0, 0, 0], fov[0, 0, 0, 0] = -math.inf, 1.0, True
    logits.requires_grad_()
    total, terms = composed(bce={"weight": 0}, dice={"weight": 1})(logits, target, fov)
    total.backward()
    assert not torch.isfinite(terms["bce"])
    assert torch.isfinite(total)
    assert torch.isfinite(logits.grad).all()
    assert total.item() == terms["dice"].item()


def test_weights_follow_their_schedules_and_are_told_by_their_keys() -> None:
    loss = composed(bce={"weight": {**RAMP, "from": 1, "to": 0}}, dice={"weight": RAMP})
    for progress in (0.0, 0.25, 1.0):
        scalars = loss.scalars(progress)
        assert scalars["terms.dice.weight"] == progress
        assert scalars["terms.bce.weight"] == 1 - progress
        assert scalars["terms.bce.pos_weight"] == 1.0
        total, terms = loss(*batch(), progress=progress)
        expected = (1 - progress) * terms["bce"] + progress * terms["dice"]
        assert total.item() == pytest.approx(expected.item(), abs=1e-6)


def test_a_schedule_inside_a_term_is_followed() -> None:
    loss = composed(bce={"label_smoothing": {**RAMP, "to": 0.2}})
    assert loss(*batch(), progress=0.5)[0].item() == alone("bce", label_smoothing=0.1)


def test_no_weight_at_all_is_zero_with_a_gradient_of_zero() -> None:
    logits, target, fov = batch()
    logits[0, 0, 0, 0] = math.inf
    logits.requires_grad_()
    total, terms = composed(bce={"weight": RAMP}, dice={"weight": RAMP})(logits, target, fov)
    total.backward()
    assert total.item() == 0.0
    assert (logits.grad == 0).all()
    assert set(terms) == {"bce", "dice"}


def test_shares_of_the_gradient_are_those_of_the_weighted_terms() -> None:
    logits, target, fov = batch()
    weights = {"bce": 3.0, "dice": 0.5, "mse": 0.0}
    loss = composed(**{name: {"weight": weight} for name, weight in weights.items()})
    norms = {}
    for name, weight in weights.items():
        x = logits.clone().requires_grad_()
        (weight * LOSSES.build({"name": name})(x, target, fov)[0]).backward()
        norms[name] = float(x.grad.norm())
    for name, share in loss.gradient_shares(logits, target, fov, progress=0.0).items():
        assert share.item() == pytest.approx(norms[name] / sum(norms.values()), abs=1e-6)
    nothing = composed(bce={"weight": RAMP}).gradient_shares(logits, target, fov, progress=0.0)
    assert math.isnan(nothing["bce"])


# ---- what is taken ------------------------------------------------------------------------------

NAMES = ", ".join(name for name in LOSSES.names() if name != "compose")
WEIGHT = (
    "a number of at least 0 or a schedule ({schedule: constant|linear|cosine|step|exponential|"
    "warmup, from, to, start, end})"
)
TERMS = "a mapping: loss -> its arguments and weight"
BAD: list[tuple[Any, str]] = [
    ({"lovasz": {"weigth": 1}}, "loss.terms.lovasz.weigth: unknown key 'weigth'; allowed: errors, "
     "smooth, weight; did you mean 'weight'?"),
    ({"bec": {}}, f"loss.terms.bec: 'bec' is not allowed; allowed: {NAMES}; did you mean 'bce'?"),
    ({"compose": {"terms": {}}}, f"loss.terms.compose: 'compose' is not allowed; allowed: {NAMES}"),
    ({1: {}}, f"loss.terms.1: 1 is not allowed; allowed: {NAMES}"),
    ({"bce": {"weight": -1}}, f"loss.terms.bce.weight: -1 is not allowed; allowed: {WEIGHT}"),
    ({"bce": {"weight": True}}, f"loss.terms.bce.weight: true is not allowed; allowed: {WEIGHT}"),
    ({"bce": {"weight": {**RAMP, "to": -1}}}, "loss.terms.bce.weight.to: -1.0 is not allowed; "
     "allowed: a number of at least 0"),
    ({"dice": {"per": "imgae"}}, "loss.terms.dice.per: 'imgae' is not allowed; allowed: image, "
     "batch; did you mean 'image'?"),
    ({"bce": None}, "loss.terms.bce: null is not allowed; allowed: a mapping (pos_weight, "
     "label_smoothing, weight)"),
    ({"bce": {"weight": 0}, "dice": {"weight": 0}}, "loss: one of `terms` needs a weight above 0"),
    ({}, f"loss.terms: this is empty; allowed: {TERMS}"),
    ([], f"loss.terms: [] is not allowed; allowed: {TERMS}"),
]  # fmt: skip


@pytest.mark.parametrize(("terms", "line"), BAD, ids=[line.split(";")[0] for _, line in BAD])
def test_bad_terms_get_one_line(terms: Any, line: str) -> None:
    with pytest.raises(UserError) as caught:
        LOSSES.validate({"name": "compose", "terms": terms}, where="loss")
    assert str(caught.value) == line


def test_terms_are_required_and_all_faults_are_told_at_once() -> None:
    with pytest.raises(UserError, match=r"loss\.terms: this key is required"):
        LOSSES.validate({"name": "compose"}, where="loss")
    bad = {"bce": {"weight": -1, "pos_weigth": 1}, "lovas": {}}
    with pytest.raises(UserError) as caught:
        LOSSES.validate({"name": "compose", "terms": bad}, where="loss")
    found = sorted(error.where for error in caught.value.each())
    assert found == ["loss.terms.bce.pos_weigth", "loss.terms.bce.weight", "loss.terms.lovas"]


def test_what_is_validated_has_all_defaults_and_is_validated_to_itself() -> None:
    once = LOSSES.validate({"name": "compose", "terms": {"lovasz": {"weight": RAMP}, "bce": {}}})
    assert once["terms"]["bce"] == {"weight": 1.0, "pos_weight": 1.0, "label_smoothing": 0.0}
    assert LOSSES.validate(once) == once
    assert list(once["terms"]) == ["bce", "lovasz"]


def test_no_loss_has_an_argument_that_a_term_has() -> None:
    for part in LOSSES:
        assert "weight" not in part.arguments.model_fields, part.name


# ---- names of runs ------------------------------------------------------------------------------


def name_of(terms: dict[str, Any]) -> str:
    data = {"data": {"train": "a"}, "loss": {"name": "compose", "terms": terms}}
    return run_id(load_experiment(data, registries=REGISTRIES), registries=REGISTRIES, **FACTS)


def test_order_and_defaults_say_nothing_and_all_else_does() -> None:
    name = name_of({"bce": {}, "dice": {"weight": 2}})
    assert name_of({"dice": {"weight": 2.0, "smooth": 1}, "bce": {"weight": 1}}) == name
    others = [
        name_of({"bce": {}, "dice": {"weight": 3}}),
        name_of({"bce": {"pos_weight": 2}, "dice": {"weight": 2}}),
        name_of({"bce": {"weight": RAMP}, "dice": {"weight": 2}}),
        name_of({"bce": {}, "dice": {"weight": 2}, "mse": {}}),
        name_of({"bce": {}}),
    ]
    assert len({name, *others}) == 6


def test_a_version_of_a_term_renames_the_runs_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    terms: dict[str, Any] = {"bce": {}, "dice": {}}
    before = name_of(terms), name_of({"bce": {}})
    canonical = LOSSES.canonical({"name": "compose", "terms": terms})
    part = LOSSES.part("dice")
    newer = type(part)(part.name, part.target, part.arguments, 2, changes={2: "mended"})
    monkeypatch.setitem(LOSSES._parts, "dice", newer)
    assert name_of(terms) != before[0]
    assert name_of({"bce": {}}) == before[1]
    # And such runs are told to be stale.
    config = {"data": {"train": "a"}, "loss": {"name": "compose", "terms": terms}}
    then = {"experiment": {"loss": canonical}}
    (mended,) = mended_since(config, then, REGISTRIES)
    assert mended.line() == "loss.terms dice, version 1, is 2 now: mended"


def test_the_registry_is_looked_up_when_it_is_needed() -> None:
    # A loss that is registered later is a term, too.
    class Later(Arguments):
        size: float = 1.0

    registry: Registry = LOSSES
    registry.add("later", target="nowhere:nothing", arguments=Later)
    try:
        found = registry.validate({"name": "compose", "terms": {"later": {"size": 2}}})
        assert found["terms"] == {"later": {"weight": 1.0, "size": 2.0}}
    finally:
        del registry._parts["later"]


# ---- spaces -------------------------------------------------------------------------------------

STORES = "stores: {a: synth:fundus}\ndata: {train: a}\n"
LOSS = "loss: {name: compose, terms: {bce: {}, lovasz: {weight: 0.5}}}\n"


def load(folder: Path, text: str) -> Space:
    (folder / "space.yaml").write_text(STORES + text)
    return load_space(folder / "space.yaml", registries=REGISTRIES)


def test_terms_stand_in_a_file_and_their_keys_are_axes(tmp_path: Path) -> None:
    axes = "grid: {loss.terms.lovasz.weight: [0.5, 2], loss.terms.bce.pos_weight: [1, 4]}\n"
    points = load(tmp_path, LOSS + axes).expand().points
    found = [point.experiment.loss["terms"] for point in points]
    assert [(t["lovasz"]["weight"], t["bce"]["pos_weight"]) for t in found] == [
        (0.5, 1), (0.5, 4), (2, 1), (2, 4)
    ]  # fmt: skip
    assert len({point.name for point in points}) == 4


def test_all_terms_may_be_one_axis(tmp_path: Path) -> None:
    text = (
        "loss: {name: compose}\n"
        "grid: {loss.terms: {values: [{bce: {}}, {bce: {}, dice: {}}, {dice: {}, bce: {}}]}}\n"
    )
    expansion = load(tmp_path, text).expand()
    assert [sorted(point.experiment.loss["terms"]) for point in expansion.points] == [
        ["bce"], ["bce", "dice"]
    ]  # fmt: skip
    assert expansion.duplicates + expansion.repeated == 1


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("loss: {name: compose, terms: {bce: {weigth: 1}}}\n", "loss.terms.bce.weigth"),
        (LOSS + "grid: {loss.terms.lovasz.weigth: [1, 2]}\n", "loss.terms.lovasz.weigth"),
        (LOSS + "grid: {loss.term.lovasz.weight: [1, 2]}\n", "loss.term"),
    ],
)
def test_a_typo_in_a_file_is_told_with_its_key(tmp_path: Path, text: str, place: str) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, text).expand()
    assert place in str(caught.value)
    assert "did you mean" in str(caught.value)
