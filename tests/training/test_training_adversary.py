"""A head that tells domains apart: its term, its gradients, and what it leaves alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import training_cases as cases

import vesselflow.training.step as step_module
from vesselflow.training.loop import load_weights
from vesselflow.training.parameters import unwrapped

UNET = {"name": "unet", "encoder": "resnet18", "depth": 3}
FPN = {"name": "fpn3d", "filters": [4, 8], "pyramid_channels": 4, "norm": "batch"}
NOTHING = {"schedule": "constant", "from": 0.0}


def trained(weight: Any, *, unlabelled: Any = None, **changes: Any) -> cases.Trace:
    settings = {"epochs": 1, "steps_per_epoch": 4, "ema": None, "clip_norm": None}
    model = changes.pop("model", {"name": "wnet", "filters": [4, 8], "dropout": 0.2})
    size = {"working_size_px": None} if model["name"] == "fpn3d" else {}
    experiment = cases.tiny_experiment(
        data={"unlabelled": "u", **size},
        model=model,
        augment=changes.pop("augment", {}),
        train={**settings, **changes, "domain_weight": weight},
    )
    return cases.run_tiny(experiment, unlabelled=unlabelled)


def same(one: cases.Trace, other: cases.Trace) -> bool:
    return cases.differences(one.model, other.model) == []


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_a_reversed_gradient_of_nothing_changes_nothing_but_the_head(micro_batches: int) -> None:
    # Clipped, too: the head's gradient counts in no norm but its own.
    more: dict[str, Any] = {"micro_batches_per_step": micro_batches, "clip_norm": 0.05}
    without = trained(0, **more)
    ((_, _, plain),) = without.curve
    listened = trained(NOTHING, **more)
    ((_, _, values),) = listened.curve
    # Running statistics among them: unlabelled images were seen, and left no trace there.
    assert same(without, listened)
    assert values.keys() - plain.keys() == {"train/term/domain", "train/domain_accuracy"}
    assert "adversary" not in without.last
    assert all(values[name] == plain[name] for name in plain)
    # What is kept of an epoch is the network alone.
    assert load_weights(listened.weights[1]).keys() == load_weights(without.weights[1]).keys()


def test_the_head_learns_and_a_weight_moves_the_network_and_hides_the_domain() -> None:
    more: dict[str, Any] = {"epochs": 8, "micro_batches_per_step": 1, "micro_batch_size": 4}
    told, hidden = trained(NOTHING, **more), trained(3.0, **more)
    ((*_, first), *_, (*_, last)) = told.curve
    assert last["train/term/domain"] < first["train/term/domain"] < 5
    assert last["train/domain_accuracy"] > 0.8
    assert not same(told, hidden)
    # Who cannot tell has a loss of log 2, .69.
    assert last["train/term/domain"] < 0.55 < hidden.curve[-1][2]["train/term/domain"]


def test_labels_of_unlabelled_images_are_not_looked_at_and_their_pixels_are() -> None:
    samples, other = cases.tiny_unlabelled(), cases.tiny_unlabelled()
    (block,) = other.blocks
    block.reshape(5, 5, -1)[:, 3] = np.random.default_rng(0).integers(0, 2, (5, 64 * 64))
    augment: dict[str, Any] = {"hflip": {}, "affine": {"p": 0.8}}
    one = trained(1.0, unlabelled=samples, augment=augment)
    assert same(one, trained(1.0, unlabelled=other, augment=augment))
    others = cases.tiny_unlabelled(noise=9)
    assert not same(one, trained(1.0, unlabelled=others, augment=augment))


def test_the_encoder_gets_the_gradient_reversed_and_times_its_weight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: list[dict[str, torch.Tensor]] = []
    finish = step_module.Stepper._finish

    def noted(self: Any, true: Any, gradient: Any, *rest: Any) -> Any:
        names = [f"model.{name}" for name, _ in unwrapped(self._model).named_parameters()]
        names += [f"head.{name}" for name, _ in self._adversary.named_parameters()]
        parts = gradient.split(self._sizes)
        found.append({name: part.clone() for name, part in zip(names, parts, strict=True)})
        return finish(self, true, gradient, *rest)

    monkeypatch.setattr(step_module.Stepper, "_finish", noted)
    for weight in (NOTHING, 0.5, 2.0):
        trained(weight, steps_per_epoch=1, micro_batches_per_step=2, model=FPN)
    nothing, half, two = found
    for name in nothing:
        if name.startswith("head."):
            assert torch.equal(nothing[name], two[name])
        else:
            ours, theirs = half[name] - nothing[name], two[name] - nothing[name]
            torch.testing.assert_close(4 * ours, theirs, rtol=1e-2, atol=1e-5)
    moved = {name.split(".")[1] for name in nothing if not torch.equal(nothing[name], two[name])}
    # The decoder gets nothing of it: it lies behind the features.
    assert moved == {"encoder"}


def test_a_training_is_resumed_with_its_head() -> None:
    experiment = cases.tiny_experiment(
        data={"unlabelled": "u"}, train={"domain_weight": 1.0, "micro_batches_per_step": 1}
    )
    whole = cases.run_tiny(experiment)
    before = cases.run_tiny(experiment, stop_after=4)
    after = cases.run_tiny(experiment, resume=before.checkpoints[4])
    assert cases.differences(whole.last, after.last) == []
    assert cases.differences(whole.curve, after.curve) == []


def test_a_schedule_is_followed_and_health_looks_at_the_network_alone() -> None:
    jump = {"schedule": "step", "from": 0.0, "to": 2.0}
    half, late = trained(NOTHING, log_health=True), trained(jump, log_health=True)
    assert not same(half, late)
    for trace in (half, late):
        ((_, _, values),) = trace.curve
        assert not any("adversary" in name or "hidden" in name for name in values)
        assert all(math.isfinite(value) for value in values.values())


@pytest.mark.parametrize(
    "model",
    [
        UNET,
        {"name": "unet25d", "filters": [2, 3]},
        FPN,
    ],
)
def test_every_kind_of_model_can_learn_it(model: dict[str, Any]) -> None:
    size = {"working_size_px": None} if model["name"] != "unet" else {}
    experiment = cases.tiny_experiment(
        data={"unlabelled": "u", **size},
        model=model,
        augment={"hflip": {}, "mixup": {"p": 1.0}},
        train={"epochs": 1, "steps_per_epoch": 2, "domain_weight": 1.0, "ema": None},
    )
    ((_, _, values),) = cases.run_tiny(experiment).curve
    assert 0 < values["train/term/domain"] < 50
    assert 0 <= values["train/domain_accuracy"] <= 1
