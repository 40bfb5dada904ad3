"""How many trainings a space needs, known before any store is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from vesselflow.config.loading import load_space
from vesselflow.runs.cells import trainings
from vesselflow.runs.registries import REGISTRIES

SPACE = """
stores:
  a: synth:tomogram?sources=4
  b: synth:tomogram?domain=b&sources=1
data: {{train: a, ood: [b], patch: [16, 32, 32]}}
split: {{folds: 2}}
model: {{name: unet3d}}
seeds: [0, 1]
grid: {{{grid}}}
"""


@pytest.mark.parametrize(
    ("grid", "count"),
    [
        ("loss.name: [bce, mse]", 8),
        ("score.exclusive: [false, true], score.tta: [none, flips]", 4),
        ("score.radius_voxels: [2, 4], loss.name: [bce, mse]", 8),
        ("task.sigma_angstrom: [20, 40]", 8),
        ("stores.b.scale: [1, 2]", 4),
        ("stores.a.scale: [1, 2]", 8),
        ("train.checkpoint_every_s: [60, 600]", 4),
        ("train.log_gradient_shares: [null, 10]", 4),
    ],
)
def test_points_that_only_score_otherwise_share_their_trainings(
    tmp_path: Path, grid: str, count: int
) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(SPACE.format(grid=grid))
    assert len(trainings(load_space(file, registries=REGISTRIES))) == count
