"""The step bench: its ratios, its plain loss, and that both ways train alike."""

from __future__ import annotations

import pytest
import torch

from vesselflow.bench import step as bench
from vesselflow.losses import LOSSES


def test_ratios_are_those_of_the_same_round() -> None:
    found = {bench.OURS: [10.0, 20.0, 41.2], bench.BARE: [10.0, 10.0, 40.0]}
    result = bench.summarise({"wnet": found}, {"on": "2 threads"})
    (ratio,) = result["ratios"].values()
    assert ratio == {"median": pytest.approx(1.03), "low": 1.0, "high": 2.0}
    (row,) = result["targets"]
    assert row["value"] == pytest.approx(1.03)
    slow = {**found, bench.OURS: [10.4, 10.4, 80.0]}
    assert not bench.summarise({"wnet": slow}, {})["targets"][0]["met"]
    assert result["peers"]["wnet, bare PyTorch"]["median"] == 10.0


def test_the_plain_loss_is_the_loss_of_the_shipped_defaults() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((2, 1, 16, 16), generator=generator)
    truth = (torch.rand((2, 1, 16, 16), generator=generator) < 0.2).float()
    ours, _ = LOSSES.build({"name": "combined"})(logits, truth, torch.ones_like(truth), progress=0)
    assert float(bench.plain_loss(logits, truth)) == pytest.approx(float(ours), rel=1e-5)


@pytest.mark.bench
def test_the_bench_runs() -> None:
    lines: list[str] = []
    result = bench.step(rounds=1, progress=lines.append, steps=2, epochs=2)
    assert len(lines) == 5
    assert len(result["ratios"]) == 2
