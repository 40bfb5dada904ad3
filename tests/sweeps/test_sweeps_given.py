"""What `data inspect --augment` shows is what a training of the point gives its network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vesselflow.config.loading import load_space
from vesselflow.errors import UserError
from vesselflow.feed.local import LocalData
from vesselflow.runs.cells import Job
from vesselflow.runs.registries import REGISTRIES
from vesselflow.sweeps.estimate import with_stores
from vesselflow.sweeps.execution import execute
from vesselflow.sweeps.given import Drawn, given
from vesselflow.sweeps.planning import SweepPlan, plan_sweep
from vesselflow.training.giving import Given, Giver

SPACE = """
name: tiny
stores: {a: "synth:fundus?domain=a&sources=6&size_px=64"}
data: {train: a, working_size_px: 64, patch: 32}
split: {folds: 3, val_fraction: 0.25}
folds: [0]
augment:
  hflip: {}
  affine: {}
  gaussian_noise: {std: {schedule: linear, from: 0.0, to: 0.1}}
  mixup: {}
model: {name: wnet}
train:
  {epochs: 1, steps_per_epoch: 3, micro_batch_size: 4, micro_batches_per_step: 2,
   augment_by_source: {"a000[35]": 0}}
grid: {loss.name: [bce, dice]}
"""


@pytest.fixture
def plan(tmp_path: Path) -> SweepPlan:
    return planned(tmp_path, SPACE)


def planned(tmp_path: Path, text: str) -> SweepPlan:
    file = tmp_path / "space.yaml"
    file.write_text(text)
    space = load_space(file, registries=REGISTRIES)
    plan = plan_sweep(space, tmp_path / "results", fresh=True, notify=lambda text: None)
    return with_stores(plan, tmp_path, lambda text: None)


def test_it_is_what_a_training_gives(plan, tmp_path, monkeypatch) -> None:
    cell = plan.cells[1]
    shown = given(plan, cell, tmp_path, count=12, step=1)
    seen: list[Given] = []
    true = Giver.__call__

    def spy(giver: Giver, *args) -> Given:
        seen.append(true(giver, *args))
        return seen[-1]

    monkeypatch.setattr(Giver, "__call__", spy)
    data = LocalData({name: Path(str(each.path)) for name, each in plan.stores.items()})
    assert execute(Job((cell,), plan.objective), tmp_path / "r", data).state == "finished"
    assert len(seen) == 3 * 2
    images, targets, fovs = (
        torch.cat([getattr(each, name) for each in seen[2:]]) for name in ("image", "target", "fov")
    )
    assert len(shown) == 12
    for number, drawn in enumerate(shown):
        np.testing.assert_array_equal(drawn.after.image, images[number])
        np.testing.assert_array_equal(drawn.after.target, targets[number])
        np.testing.assert_array_equal(drawn.after.fov, fovs[number, 0])
    assert [drawn.name.split(", ")[1] for drawn in shown[6:10]] == [
        "step 1 #6",
        "step 1 #7",
        "step 2 #0",
        "step 2 #1",
    ]
    for drawn in shown:
        factor = 0 if drawn.name.startswith(("a0003", "a0005")) else 1
        assert drawn.name.endswith(f", augment x {factor}")
        assert factor or not drawn.parts
    assert len({drawn.name.split()[-1] for drawn in shown}) == 2
    # All that was drawn is said, and what is not mixed says so.
    told = [word for drawn in shown for word in drawn.parts]
    assert {word.split()[0] for word in told} == {"hflip", "affine", "gaussian_noise", "mixup"}
    for drawn in shown:
        assert drawn.before.image.min() >= 0
        assert 1 < drawn.before.image.max() <= 255  # as stored
        moved = {word.split()[0] for word in drawn.parts} - {"gaussian_noise"}
        assert np.array_equal(drawn.before.target, drawn.after.target) is (not moved)


def test_a_run_without_augmentation_shows_what_is_stored(plan, tmp_path) -> None:
    cell = plan.cells[0]
    bare = cell.run.experiment.model_copy(update={"augment": {}})
    cell = replace(cell, run=replace(cell.run, experiment=bare))
    for drawn in given(plan, cell, tmp_path, count=3):
        assert drawn.parts == ()
        np.testing.assert_array_equal(drawn.before.target, drawn.after.target)
        np.testing.assert_array_equal(drawn.before.fov, drawn.after.fov)


def test_factors_of_sources_are_said_and_change_no_other_sample(plan, tmp_path) -> None:
    flips = {"hflip": {"p": 0.5}, "gaussian_noise": {"p": 0.5}}
    cell = plan.cells[0]

    def shown(factors: tuple[float, ...]) -> list[Drawn]:
        experiment = cell.run.experiment.model_copy(update={"augment": flips})
        run = replace(cell.run, experiment=experiment, factors=factors)
        return given(plan, replace(cell, run=run), tmp_path, count=24)

    changed = cell.run.train[0]
    factors = [1.0] * 6
    before, same = shown(()), shown(tuple(factors))
    factors[changed] = 0.0
    after = shown(tuple(factors))
    assert [drawn.parts for drawn in same] == [drawn.parts for drawn in before]
    name, found = plan.stores["a"].sources[changed].id, 0
    for old, new in zip(before, after, strict=True):
        of_it = old.name.startswith(name)
        assert new.name == f"{old.name}, augment x {0 if of_it else 1}"
        assert new.parts == (() if of_it else old.parts)
        if not of_it:
            np.testing.assert_array_equal(new.after.image, old.after.image)
        elif old.parts:
            assert not np.array_equal(new.after.image, old.after.image)
            found += 1
    assert found


def test_a_step_that_is_not_there(plan, tmp_path) -> None:
    with pytest.raises(UserError, match="the run has no step 3; allowed: 0 to 2"):
        given(plan, plan.cells[0], tmp_path, count=3, step=3)
