"""Masks that are learnt on a coarser grid than the image's, in a whole small sweep."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import sweep_cases
import torch

from vesselflow.errors import UserError
from vesselflow.evaluation.long_tables import write_tables

torch.set_num_threads(1)

SPACE = """
stores:
  a: "synth:fundus?domain=a&sources=4&size_px=96"
  b: "synth:fundus?domain=b&sources=2&seed=1&size_px=80"
data: {train: a, ood: [b], working_size_px: 64}
split: {folds: 2, val_fraction: 0.5}
folds: [0]
model: {name: wnet, filters: [4, 8]}
augment: {hflip: {}, affine: {}}
optimizer: {lr: 0.01}
train: {epochs: 1, steps_per_epoch: 12, micro_batch_size: 2}
grid: {task.ds_factor: [null, 1, 2, [4, 2]]}
"""


def test_masks_are_learnt_on_cells_and_scored_at_native_size(tmp_path: Path) -> None:
    sweep = sweep_cases.prepared(tmp_path / "results", SPACE, "strides")
    # 1 is what null takes: one training serves both.
    assert len({cell.run.run_id for cell in sweep.cells}) == 3
    assert len(sweep.jobs()) == 3
    sweep_cases.done(sweep)
    assert sweep.missing() == []
    paths = write_tables(tmp_path, sweep.scored, sweep.results, sweep.objective)
    images = pd.read_parquet(paths["images"])
    dice = images[(images.metric == "dice") & (images.domain == "b")]
    by_point = dice.groupby("point").value.mean()
    assert len(by_point) == 4
    assert (by_point > 0.1).all()
    assert by_point.nunique() == 3


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("task.ds_factor: [[2, 2, 2]]", "task.ds_factor: [2, 2, 2] has 3 numbers"),
        ("task.ds_factor: [0]", "task.ds_factor: 0 is not allowed"),
    ],
)
def test_strides_that_do_not_fit_are_refused(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UserError, match=r"strides\.yaml: ") as caught:
        sweep_cases.prepared(
            tmp_path / "results", SPACE.replace("task.ds_factor: [null, 1, 2, [4, 2]]", text),
            "strides",
        )  # fmt: skip
    assert told in str(caught.value)


def test_patches_are_whole_cells(tmp_path: Path) -> None:
    text = SPACE.replace("working_size_px: 64}", "working_size_px: 64, patch: 20, stride: 10}")
    with pytest.raises(UserError, match="20 px"):
        sweep_cases.prepared(
            tmp_path / "results", text.replace("[null, 1, 2, [4, 2]]", "[8]"), "strides"
        )
