"""Norms of gradients and updates by blocks, and what is said of them."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
import training_cases as cases
from torch import nn

from vesselflow.feed.local import LocalData
from vesselflow.sweeps.context import Reports
from vesselflow.sweeps.execution import execute
from vesselflow.training.health import Health, warnings
from vesselflow.training.parameters import freeze

torch.set_num_threads(1)


class Net(nn.Module):
    """Two blocks, and a parameter of its own between what belongs to the first."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor([3.0]))
        self.body = nn.Linear(2, 1)
        self.head = nn.Linear(1, 1, bias=False)
        for parameter in (self.body.weight, self.body.bias, self.head.weight):
            nn.init.constant_(parameter, 2.0)


def test_norms_by_hand() -> None:
    net = Net()
    health = Health(net)
    gradient = torch.tensor([5.0, 2.0, 1.0, -2.0, 0.0])  # gain; body's weights and bias; head
    health.begin()
    with torch.no_grad():
        net.gain += 0.3
        net.body.weight += torch.tensor([[1.0, 0.0]])
    assert health.values(gradient) == pytest.approx(
        {
            "health/skipped": 0.0,
            "health/grad_norm/gain": 5.0,
            "health/grad_norm/body": 3.0,
            "health/grad_norm/head": 0.0,
            "health/update_ratio/gain": 0.1,
            "health/update_ratio/body": 1 / math.sqrt(12),
            "health/update_ratio/head": 0.0,
        }
    )
    skipped = health.values(gradient)  # nothing was begun
    assert skipped["health/skipped"] == 1.0
    assert not any("update" in name for name in skipped)


def test_frozen_parameters_count_nowhere() -> None:
    net = Net()
    freeze(net, ("gain", "body.bias"))
    values = Health(net).values(torch.tensor([3.0, 4.0, 1.0]))
    assert values == {
        "health/skipped": 1.0,
        "health/grad_norm/body": 5.0,
        "health/grad_norm/head": 1.0,
    }


def test_what_is_said() -> None:
    values = {
        "train/grad_norm": 0.0,
        "health/grad_norm/body": 0.0,
        "health/grad_norm/head": 1e-9,
        "health/update_ratio/body": 0.1,
        "health/update_ratio/head": 0.234,
        "health/update_ratio/gain": math.nan,
        "health/skipped": 1.0,
    }
    assert dict(warnings(values)) == {
        "health/grad_norm/body": "the gradient of 'body' was 0 for a whole epoch: it learns "
        "nothing; look at the loss, at empty targets and at activations that died",
        "health/update_ratio/head": "each step moved the weights of 'head' by 0.23 of their "
        "length, more than 0.1: lower optimizer.lr, or set train.clip_norm or a warm-up",
    }


def test_looking_changes_no_bit_and_is_in_the_curve() -> None:
    spoilt = frozenset({(4, 0)})  # the last step of an epoch
    blind = cases.whole(cases.tiny_experiment(), spoilt)
    looking = cases.tiny_experiment(train={"log_health": True})
    seen = cases.run_tiny(looking, spoilt=spoilt)
    assert cases.differences(seen.last["model"], blind.last["model"]) == []
    assert cases.differences(seen.last["optimizer"], blind.last["optimizer"]) == []
    assert seen.weights == blind.weights
    for (_, _, one), (_, _, other) in zip(seen.curve, blind.curve, strict=True):
        assert one.items() >= other.items()
        assert {name for name in one if name not in other} == {
            "health/skipped",
            *(f"health/{what}/{block}" for what in ("grad_norm", "update_ratio")
              for block in ("first", "second")),
        }  # fmt: skip
        assert all(0 < one[name] < 1e3 for name in one if name.startswith("health/grad_norm"))
    assert [values["health/skipped"] for _, _, values in seen.curve] == [0.2, 0.0]
    before = cases.run_tiny(looking, spoilt=spoilt, stop_after=3)
    after = cases.run_tiny(looking, spoilt=spoilt, resume=before.checkpoints[3])
    assert cases.differences(after.last, seen.last) == []
    assert cases.differences(before.curve + after.curve, seen.curve) == []


def test_the_blocks_of_a_step_make_up_its_gradient_before_clipping() -> None:
    steps = {"epochs": 3, "steps_per_epoch": 1, "clip_norm": 0.01, "log_health": True}
    trace = cases.run_tiny(cases.tiny_experiment(train=steps))
    for _, _, values in trace.curve:
        parts = [values[f"health/grad_norm/{block}"] for block in ("first", "second")]
        assert math.hypot(*parts) == pytest.approx(values["train/grad_norm"], rel=1e-5)
        assert values["train/grad_norm"] > 0.01


def test_a_warning_is_said_once_and_stands_in_the_log(tmp_path: Path) -> None:
    stores = cases.tiny_stores(tmp_path)
    experiment = cases.tiny_experiment(
        optimizer={"name": "sgd", "lr": 10.0},
        schedule={"name": "constant", "warmup": 0.0},
        train={"epochs": 2, "steps_per_epoch": 2, "clip_norm": None, "log_health": True},
    )
    said: list[str] = []
    job = cases.tiny_job("dddd", experiment, cases.tiny_domains(stores, "b"))
    result = execute(
        job, tmp_path / "results", LocalData(stores), reports=Reports(message=said.append)
    )
    assert result.state == "finished", result.message
    assert 1 <= len(said) <= 2  # of two blocks, in the first epoch of the two that meets it
    words = r"^point-dddd fold 0 seed 5: epoch \d: each step moved the weights of '(first|second)' "
    assert all(re.match(words, line) for line in said)
    log = Path(result.log or next((tmp_path / "results").rglob("log.txt"))).read_text()
    for line in said:
        assert log.count(line.split(": ", 1)[1]) == 1
