"""Learning a few samples by heart: which, how they are scored, and what is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vesselflow.config.loading import load_space
from vesselflow.feed.batches import ArraySamples, Batch, SampleTable
from vesselflow.feed.layout import SampleLayout
from vesselflow.feed.points import BatchPoints
from vesselflow.runs.registries import REGISTRIES
from vesselflow.sweeps import smoke as smoke_module
from vesselflow.sweeps.planning import SweepPlan, plan_sweep, with_stores
from vesselflow.sweeps.smoke import Smoke, as_image, bare, choose, smoke

torch.set_num_threads(1)

SPACE = """
name: tiny
stores:
  a: synth:fundus?domain=a&sources=6&size_px=64
data: {train: a, working_size_px: 64}
split: {folds: 3, val_fraction: 0.25}
folds: [0]
augment: {hflip: {}}
model: {name: wnet, filters: [4, 8]}
optimizer: {lr: 0.02}
train: {epochs: 1, steps_per_epoch: 4, micro_batch_size: 6, ema: 0.99}
"""


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> SweepPlan:
    folder = tmp_path_factory.mktemp("smoke")
    (folder / "space.yaml").write_text(SPACE)
    space = load_space(folder / "space.yaml", registries=REGISTRIES)
    return with_stores(plan_sweep(space, str(folder / "results")))


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def changed(plan: SweepPlan, **sections: dict[str, object]):
    """The plan's first cell with some keys of its experiment changed."""
    cell = plan.cells[0]
    experiment = cell.run.experiment
    update = {
        name: {**experiment.optimizer, **values}
        if name == "optimizer"
        else getattr(experiment, name).model_copy(update=values)
        for name, values in sections.items()
    }
    return replace(cell, run=replace(cell.run, experiment=experiment.model_copy(update=update)))


def test_enough_ends_it_and_nothing_is_written(plan, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(smoke_module, "STEPS_PER_EPOCH", 6)
    monkeypatch.setattr(smoke_module, "ENOUGH", 0.2)
    before = files(Path(plan.file).parent)
    found = smoke(plan, plan.cells[0], tmp_path)
    assert found.passed
    assert 0.2 < found.score <= 1
    assert found.steps < 60
    assert found.steps % 6 <= 1  # the step after the epoch that was enough is the last
    assert found.faults == []
    assert files(Path(plan.file).parent) == before
    assert files(tmp_path) == []


def test_what_does_not_learn_is_told_what_to_look_at(plan, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(smoke_module, "STEPS_PER_EPOCH", 2)
    monkeypatch.setattr(smoke_module, "EPOCHS", 2)
    still = smoke(plan, changed(plan, optimizer={"lr": 1e-9}), tmp_path)
    assert not still.passed
    assert [line.split(" (")[0] for line in still.faults] == ["the loss did not fall"]
    fast = smoke(plan, changed(plan, optimizer={"lr": 10.0}), tmp_path)
    assert any("of their length, more than 0.1: lower optimizer.lr" in line for line in fast.faults)


def test_no_gradient_and_no_finite_loss_have_words_of_their_own(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(smoke_module, "STEPS_PER_EPOCH", 2)
    monkeypatch.setattr(smoke_module, "EPOCHS", 2)
    normal = smoke_module.normalise_by
    monkeypatch.setattr(smoke_module, "normalise_by", lambda *args: 0 * normal(*args))
    flat = smoke(plan, plan.cells[0], tmp_path)
    assert flat.faults[0].startswith("normalise makes a constant of channel 0 (deviation 0, ")
    assert len([line for line in flat.faults if line.startswith("normalise")]) == 3
    monkeypatch.setattr(smoke_module, "normalise_by", lambda *args: np.nan * normal(*args))
    gone = smoke(plan, plan.cells[0], tmp_path)
    assert gone.faults[0].startswith("the normalised images are not finite")


def test_words_of_the_loss() -> None:
    def words(*losses: float) -> str:
        (line,) = smoke_module._of_loss(Smoke("dice", losses=list(losses)))
        return line

    assert words(float("nan"), 0.5).startswith("hardly a step had a finite loss")
    assert words(1.0, 0.95).startswith("the loss did not fall (from 1 to 0.95)")
    assert words(1.0, 0.5).startswith("the loss fell (from 1 to 0.5), but not far enough")


def test_what_is_left_of_an_experiment(plan) -> None:
    own = plan.cells[0].run.experiment
    found = bare(own)
    assert (found.augment, found.train.ema, found.train.micro_batch_size) == ({}, None, 4)
    assert found.score.threshold == "best"
    # The point itself: what is tried.
    for section in ("model", "loss", "optimizer", "schedule", "normalise", "data", "task"):
        assert getattr(found, section) == getattr(own, section)


def samples_of(held: list[bool]) -> ArraySamples:
    count = len(held)
    planes = np.zeros((count, 3, 4, 4), np.uint8)
    planes[:, 2] = 1
    planes[held, 1, 1, 1] = 255
    rows = np.arange(count, dtype=np.int32)
    table = SampleTable(
        layout=SampleLayout((4, 4), channels=1),
        source=rows,
        corner=np.zeros((count, 2), np.int32),
        centre=np.zeros((count, 1), np.float32),
        scale=np.ones((count, 1), np.float32),
    )
    return ArraySamples([planes.reshape(count, -1)], np.zeros(count, np.int32), rows, table)


def test_samples_that_hold_something_come_first() -> None:
    held = [number % 3 == 0 for number in range(30)]
    rows, full = choose(samples_of(held), np.arange(30))
    assert full
    assert len(set(rows.tolist())) == 4
    assert all(held[row] for row in rows)
    rows, full = choose(samples_of([False] * 9 + [True]), np.arange(10))
    assert not full
    assert 9 in rows
    rows, full = choose(samples_of([True, True]), np.arange(2))
    assert (rows.tolist(), full) == ([0, 1], True)


def test_a_sample_is_scored_in_its_own_px() -> None:
    points = BatchPoints(
        positions=np.array([[1.0, 2.0], [-3.0, 2.0], [0.0, 0.0]]),
        sample=np.array([1, 1, 0]),
        classes=np.array([1, 0, 0]),
        spacing_angstrom=np.array([[10.0, 10.0], [np.nan, np.nan]]),
    )
    batch = Batch(
        image=np.zeros((2, 1, 4, 6), np.float32),
        target=np.zeros((2, 0, 4, 6), np.uint8),
        fov=np.ones((2, 1, 4, 6), np.uint8),
        centre=np.zeros((2, 1), np.float32),
        scale=np.ones((2, 1), np.float32),
        source=np.zeros(2, np.int32),
        points=points,
    )
    first, second = as_image(batch, 0), as_image(batch, 1)
    assert (first.box, first.inner, first.offset) == ((0, 0, 4, 6), (4, 6), (0, 0))
    assert first.spacing_um == (0.001, 0.001)
    assert second.spacing_um is None
    assert first.keypoints is not None
    assert second.keypoints is not None
    assert first.keypoints.positions.tolist() == [[0.0, 0.0]]
    assert second.keypoints.positions.tolist() == [[1.0, 2.0]]  # the other lies outside
    assert second.keypoints.classes.tolist() == [1]
