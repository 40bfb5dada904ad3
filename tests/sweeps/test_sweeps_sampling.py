"""Ways of drawing samples: refused before the first run where there is nothing to draw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sweep_cases import done, prepared

from vesselflow.errors import UserError
from vesselflow.stores.store import Source, write_store

SPACE = """
stores: {a: a.h5}
data: {train: a, patch: 32}
split: {folds: 2, val_fraction: 0.5}
folds: [0]
model: {name: wnet, filters: [4, 8]}
train: {epochs: 1, micro_batch_size: 2}
"""


@pytest.mark.parametrize("name", ["foreground", "class"])
def test_a_training_part_without_foreground_is_refused(tmp_path: Path, name: str) -> None:
    ones = np.ones((48, 48), np.uint8)
    sources = [
        Source(f"s{i}", f"g{i}", np.full((48, 48, 3), 10 + i, np.uint8), 0 * ones, ones)
        for i in range(4)
    ]
    write_store(tmp_path / "a.h5", sources, domain="a", importer={"name": "test"})
    prepared(tmp_path / "results", SPACE)
    with pytest.raises(UserError) as refused:
        prepared(tmp_path / "results", f"{SPACE}sampling: {{name: {name}}}\n")
    assert str(refused.value) == (
        "space.yaml: sampling.name: the training part of fold 0 (store 'a') has no foreground, "
        f"which {name} draws; allowed: uniform, or folds with foreground to train on"
    )


def test_keypoints_are_not_drawn_where_there_are_none(tmp_path: Path) -> None:
    text = SPACE.replace("a.h5", "'synth:fundus?sources=4&size_px=64'")
    with pytest.raises(UserError) as refused:
        prepared(tmp_path / "results", text + "grid: {sampling.name: [uniform, keypoint]}\n")
    assert str(refused.value) == (
        "space.yaml: grid.sampling.name: keypoint needs a keypoint store, 'a' is a patch store; "
        "allowed: uniform, foreground, class, hard, by_source"
    )


KEYPOINTS = """
stores:
  a: synth:tomogram?sources=4&seed=0&size_px=48&depth_px=32
data: {train: a, patch: [16, 32, 32]}
split: {folds: 2, val_fraction: 0.5}
folds: [0]
model: {name: unet3d, filters: [4, 8]}
sampling: {name: keypoint}
train: {epochs: 2, steps_per_epoch: 2, micro_batch_size: 2}
"""


def test_whole_volumes_are_not_cut_around_keypoints(tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        prepared(tmp_path / "results", KEYPOINTS.replace(", patch: [16, 32, 32]", ""))
    assert str(refused.value) == (
        "space.yaml: sampling.name: whole images cannot be cut around keypoints; "
        "allowed: uniform, or a data.patch in px"
    )


def test_a_sweep_that_draws_patches_around_keypoints(tmp_path: Path) -> None:
    sweep = prepared(tmp_path / "results", KEYPOINTS)
    done(sweep)
    assert sweep.missing() == []
