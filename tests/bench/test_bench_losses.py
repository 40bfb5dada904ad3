"""The losses bench: its shares, its targets, and what it times."""

from __future__ import annotations

import pytest
import torch

from vesselflow.bench import losses as bench
from vesselflow.losses import LOSSES


def test_shares_are_those_of_the_step_of_the_same_round() -> None:
    times = {bench.STEP: [100.0, 200.0, 400.0], "bce": [5.0, 30.0, 40.0], "cldice": [90.0] * 3}
    result = bench.summarise(times)
    assert result["ratios"]["bce / step"] == {"median": 0.1, "low": 0.05, "high": 0.15}
    assert result["peers"]["bce"]["median"] == 30.0
    # What follows centre lines is reported and has no target.
    assert [row["what"] for row in result["targets"]] == ["bce, share of a step"]
    assert result["targets"][0]["met"]
    slow = bench.summarise({**times, "bce": [11.0, 22.0, 44.0]})
    assert not slow["targets"][0]["met"]


def test_every_loss_is_built_and_has_a_gradient_on_the_example() -> None:
    logits, target, fov = (image[:1, :, ::4, ::4] for image in bench.example())
    assert set(bench.LINES) < set(LOSSES.names())
    for name in LOSSES.names():
        x = logits.clone().requires_grad_()
        bench.built(name)(x, target, fov, progress=0.5)[0].backward()
        assert x.grad.abs().sum() > 0, name


def test_the_example_has_vessels_in_a_round_fov() -> None:
    logits, target, fov = bench.example()
    assert logits.shape == target.shape == fov.shape == bench.SHAPE
    assert fov.dtype == torch.bool
    assert 0.7 < fov.float().mean() < 0.85
    for image in target:
        assert 0.08 < image.mean() < 0.25
    assert logits[target > 0].mean() > logits[target == 0].mean()


@pytest.mark.bench
def test_the_bench_runs() -> None:
    lines: list[str] = []
    result = bench.losses(rounds=1, progress=lines.append)
    assert len(lines) == 2
    assert len(result["ratios"]) == len(LOSSES.names())
