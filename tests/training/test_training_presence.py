"""A head of presence in training: its term, its gradient, and what it leaves alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import training_cases as cases
from torch.nn import functional

import vesselflow.training.step as step_module
from vesselflow.tasks.spec import TaskSpec
from vesselflow.training.loop import load_weights

WNET: dict[str, Any] = {"name": "wnet", "filters": [4, 8]}
UNET: dict[str, Any] = {"name": "unet", "encoder": "resnet18", "depth": 3}


@pytest.fixture(autouse=True)
def wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """An output stride wraps the model, whose head is to be found all the same."""
    train = cases.train

    def strided(*args: Any, **more: Any) -> Any:
        return train(*args, **{**more, "task": TaskSpec(ds_factor=(4, 4))})

    monkeypatch.setattr(cases, "train", strided)


def trained(*, recompute: bool = False, optimizer: str = "adamw", **model: Any) -> cases.Trace:
    experiment = cases.tiny_experiment(
        optimizer={"name": optimizer, "lr": 0.01},
        model=model if "name" in model else {**WNET, **model},
        train={"epochs": 1, "steps_per_epoch": 3, "ema": None, "recompute": recompute},
        score={"epochs": "all"},
    )
    return cases.run_tiny(experiment)


def test_presence_is_a_term_of_its_own_and_moves_the_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    losses, of = [], step_module.presence_loss

    def noted(logits: torch.Tensor, target: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
        value = of(logits, target, counted)
        inside = (target * counted).amax(dim=(2, 3)) > 0.5
        assert logits.shape == (2, 1)
        expected = functional.binary_cross_entropy_with_logits(logits, inside.float())
        torch.testing.assert_close(value, expected)
        losses.append(value.item())
        return value

    plain = trained()
    with monkeypatch.context() as patched:
        patched.setattr(step_module, "presence_loss", noted)
        told = trained(presence=0.5)
    ((_, _, without),), ((_, _, values),) = plain.curve, told.curve
    assert values.keys() - without.keys() == {"train/term/presence"}
    assert len(losses) == 6
    assert values["train/term/presence"] == pytest.approx(sum(losses) / 6)
    before, after = plain.last["model"], told.last["model"]
    own = after.keys() - before.keys()
    assert own == {"model.presence.linear.weight", "model.presence.linear.bias"}
    # Its gradient has reached what is before the coarsest map.
    key = "model.second.down.1.chain.0.weight"
    assert not torch.equal(before[key], after[key])


def test_a_head_without_a_weight_to_speak_of_leaves_the_rest_as_it_is() -> None:
    # Adam divides by the gradient's own size: what is nearly 0 moves by its last bits.
    plain, told = (trained(optimizer="sgd", **more) for more in ({}, {"presence": 1e-30}))
    kept = load_weights(told.weights[1])
    for key, value in load_weights(plain.weights[1]).items():
        torch.testing.assert_close(kept[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", [WNET, UNET], ids=lambda model: model["name"])
def test_blocks_that_are_computed_again_are_heard_once(model: dict[str, Any]) -> None:
    kept, again = (trained(**model, presence=0.5, recompute=on) for on in (False, True))
    assert cases.differences(kept.last, again.last) == []
    assert cases.differences(kept.curve, again.curve) == []
