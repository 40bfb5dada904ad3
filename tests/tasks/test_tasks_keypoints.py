"""Keypoints as a task: what is supervised, how predictions become picks and scores."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from vesselflow.config.experiment import Experiment, load_experiment
from vesselflow.errors import ShapeError
from vesselflow.evaluation.evaluated import POOLED
from vesselflow.evaluation.scoring import evaluate
from vesselflow.feed.batches import WholeImage
from vesselflow.metrics.detection import DETECTION
from vesselflow.runs.protocols import Protocol
from vesselflow.runs.registries import REGISTRIES
from vesselflow.stores.keypoints import Keypoints as NativeKeypoints
from vesselflow.targets.grid import Grid
from vesselflow.targets.keypoints import Keypoints
from vesselflow.targets.rendering import render_heatmaps
from vesselflow.targets.sigma import Sigma
from vesselflow.tasks.pictures import balls
from vesselflow.tasks.spec import TaskSpec
from vesselflow.tasks.task import build_task

CLASSES = ("rod", "shell")
SPEC = TaskSpec(
    "keypoints", 1, CLASSES, 3, (4, 4, 4), ds_sigma=((1.0,) * 3, (0.8,) * 3), combine="max"
)
PROTOCOL = Protocol(
    "best", "f1", "none", task="keypoints", classes=CLASSES, radius=("voxels", (4.0, 4.0))
)
SHAPE = (32, 48, 40)
PLACES = np.array([[8.3, 9.1, 30.2], [20.0, 30.5, 11.7], [24.9, 12.2, 25.0], [9.0, 38.6, 20.4]])
KINDS = np.array([0, 1, 0, 1], np.int32)


def experiment(**given: Any) -> Experiment:
    data = {"data": {"train": "a"}, "model": {"name": "unet3d"}, **given}
    return load_experiment(data, registries=REGISTRIES)


def whole(
    scale: float = 1.0, fov: np.ndarray | None = None, spacing: float | None = 1e-3
) -> WholeImage:
    """A volume, seen `scale` times as large."""
    inner = tuple(round(side * scale) for side in SHAPE)
    shape = tuple(-(-side // 8) * 8 for side in inner)
    offset = tuple((a - b) // 2 for a, b in zip(shape, inner, strict=True))
    return WholeImage(
        source_id="v",
        group="v",
        image=np.zeros((1, *shape), np.float32),
        fov_working=np.ones(shape, np.uint8),
        centre=np.zeros(1, np.float32),
        scale=np.ones(1, np.float32),
        target=np.zeros((0, *SHAPE), np.uint8),
        fov=np.ones(SHAPE, np.uint8) if fov is None else fov,
        box=(0, 0, 0, *SHAPE),
        inner=inner,
        offset=offset,
        keypoints=NativeKeypoints(PLACES, KINDS),
        spacing_um=None if spacing is None else (spacing,) * 3,
    )


class Knows(nn.Module):
    """Answers with the rendered truth, as logits."""

    def __init__(self, scale: float = 1.0, offset: tuple[int, ...] = (0, 0, 0)) -> None:
        super().__init__()
        self._scale, self._offset = scale, offset
        self.seen: list[tuple[int, ...]] = []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.seen.append(tuple(image.shape[2:]))
        places = (PLACES + 0.5) * self._scale - 0.5 + np.array(self._offset)
        points = Keypoints(
            torch.from_numpy(places),
            torch.zeros(4, dtype=torch.int64),
            torch.from_numpy(KINDS).long(),
        )
        sigma = Sigma.of(axes=3, classes=2, ds_sigma=1.0)
        maps = render_heatmaps(
            points, Grid.of(image.shape[2:], 4), samples=1, classes=2, sigma=sigma
        )
        return torch.logit(maps.double().clamp(1e-9, 1 - 1e-9)).float()


def scored(model: nn.Module, image: WholeImage, protocol: Protocol = PROTOCOL, **given: Any) -> Any:
    settings = {"thresholds": None, "task": SPEC, **given}
    return evaluate(model.eval(), [image], experiment(), protocol, **settings)


@pytest.mark.parametrize("scale", [1.0, 0.75, 1.5])
def test_a_model_that_knows_finds_all_at_their_native_places(scale: float) -> None:
    image = whole(scale)
    found = scored(Knows(scale, image.offset), image)
    for name in ("f1", "f1/rod", "f1/shell", "average_precision"):
        assert found.value(POOLED, name) == 1.0
    assert found.value(POOLED, "picks") == 4
    assert found.value(POOLED, "picks/rod") == 2
    # The paraboloid is exact for Gaussians; float32 logits leave a little.
    assert found.value("v", "error_voxels") < 0.02
    assert found.value("v", "error_angstrom") == pytest.approx(
        10 * found.value("v", "error_voxels"), rel=1e-6
    )
    assert len(found.thresholds) == 2
    assert math.isnan(found.threshold_logit)


def test_scores_of_classes_stand_behind_the_mean_over_them() -> None:
    found = scored(Knows(), whole())
    pooled = [metric for source, metric, _ in found.rows if source == POOLED]
    assert pooled[:3] == ["f1", "f1/rod", "f1/shell"]
    assert [m for m in pooled if "/" not in m] == DETECTION.names()
    assert found.missing(DETECTION.names()) == []


def test_thresholds_are_frozen_class_by_class() -> None:
    image = whole()
    frozen = (math.inf, -1.0)
    found = scored(Knows(), image, thresholds=frozen)
    assert found.thresholds == frozen
    assert found.value(POOLED, "picks/rod") == 0
    assert found.value(POOLED, "recall/rod") == 0
    assert found.value(POOLED, "recall/shell") == 1
    assert found.value(POOLED, "recall") == 0.5


def test_a_point_lies_in_the_voxel_whose_centre_is_nearest() -> None:
    for edge, held in ((20, 2), (21, 1)):
        # The shells lie at y = 30.5 and 38.6, which is voxel 39: a border at 31 leaves both in.
        fov = np.zeros(SHAPE, np.uint8)
        fov[:, edge + 11 : 40] = 1
        found = scored(Knows(), whole(fov=fov), thresholds=(0.0, 0.0))
        assert found.value("v", "picks/shell") + found.value("v", "missed/shell") == held


def test_half_is_a_threshold_too() -> None:
    found = scored(Knows(), whole(), replace(PROTOCOL, threshold="half"))
    assert found.thresholds == (0.0, 0.0)


def test_points_outside_the_field_of_view_count_nowhere() -> None:
    fov = np.ones(SHAPE, np.uint8)
    fov[:, :20] = 0  # holds two rods and no shell
    found = scored(Knows(), whole(fov=fov))
    assert found.value("v", "picks/shell") == 2
    assert found.value("v", "recall") == 1.0  # of the class that is there
    # Without a keypoint no threshold can be chosen, and nobody knows how many picks there are.
    assert math.isnan(found.thresholds[0])
    assert math.isnan(found.value("v", "picks"))
    assert scored(Knows(), whole(fov=fov), thresholds=(0.0, 0.0)).value("v", "picks") == 2


def test_windows_and_flips_find_the_same() -> None:
    model = Knows()
    image = whole()
    # Its answers hang on the place in the volume, so one window of it all; blended ones of a
    # constant model are tried in tests/inference.
    plain = scored(model, image)
    assert model.seen == [SHAPE]
    assert plain.value(POOLED, "f1") == 1.0


def test_a_radius_in_angstrom_needs_the_spacing_and_is_one_in_voxels() -> None:
    physical = replace(PROTOCOL, radius=("angstrom", (40.0, 40.0)))
    found, voxels = scored(Knows(), whole(), physical), scored(Knows(), whole())
    assert found.value(POOLED, "f1") == voxels.value(POOLED, "f1") == 1.0
    unknown = scored(Knows(), whole(spacing=None))
    assert math.isnan(unknown.value(POOLED, "error_angstrom"))
    assert unknown.value(POOLED, "error_voxels") < 0.02


def test_one_place_may_hold_one_class_alone() -> None:
    class Doubts(Knows):
        """Sees every shell as a rod, too, less sure of it."""

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            logits = super().forward(image)
            return torch.stack([torch.maximum(logits[:, 0], logits[:, 1] - 3), logits[:, 1]], 1)

    both = scored(Doubts(), whole(), thresholds=(-4.0, -4.0))
    assert both.value(POOLED, "picks/rod") == 4
    alone = scored(Doubts(), whole(), replace(PROTOCOL, exclusive=True), thresholds=(-4.0, -4.0))
    assert alone.value(POOLED, "picks/rod") == 2
    assert alone.value(POOLED, "f1") == 1.0
    assert replace(PROTOCOL, exclusive=True).name != PROTOCOL.name


def test_a_heat_map_that_is_nan_has_no_score() -> None:
    class Nothing(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.full((1, 2, *(side // 4 for side in image.shape[2:])), math.nan)

    found = scored(Nothing(), whole())
    assert math.isnan(found.value(POOLED, "f1"))


# -- supervision -----------------------------------------------------------------------------------


def batch_of(places: np.ndarray, kinds: np.ndarray) -> Keypoints:
    return Keypoints(
        torch.from_numpy(places),
        torch.zeros(len(places), dtype=torch.int64),
        torch.from_numpy(kinds).long(),
    )


def test_supervision_is_the_rendered_heat_map_and_the_cells_inside() -> None:
    fov = torch.ones(1, 1, *SHAPE)
    fov[:, :, :6] = 0
    target, coarse = build_task(SPEC).supervise(
        torch.zeros(1, 0, *SHAPE), fov, batch_of(PLACES, KINDS), None
    )
    sigma = Sigma.of(axes=3, classes=2, ds_sigma={0: 1.0, 1: 0.8})
    expected = render_heatmaps(
        batch_of(PLACES, KINDS), Grid.of(SHAPE, 4), samples=1, classes=2, sigma=sigma
    )
    assert torch.equal(target, expected)
    assert coarse.shape == (1, 1, 8, 12, 10)
    # Of the cells 4..7 two of four slices are inside: half counts.
    assert coarse[0, 0, :, 0, 0].tolist() == [0, 1, 1, 1, 1, 1, 1, 1]
    with pytest.raises(ShapeError):
        build_task(SPEC).supervise(torch.zeros(1, 0, *SHAPE), fov, None, None)


def test_what_is_too_far_to_reach_in_is_left_out_and_changes_nothing() -> None:
    far = np.concatenate([PLACES, PLACES + 400, PLACES - [0, 60, 0]])
    kinds = np.concatenate([KINDS] * 3)
    fov = torch.ones(1, 1, *SHAPE)
    nothing = torch.zeros(1, 0, *SHAPE)
    task = build_task(SPEC)
    one, _ = task.supervise(nothing, fov, batch_of(far, kinds), None)
    sigma = Sigma.of(axes=3, classes=2, ds_sigma={0: 1.0, 1: 0.8})
    all_of_them = render_heatmaps(
        batch_of(far, kinds), Grid.of(SHAPE, 4), samples=1, classes=2, sigma=sigma
    )
    assert (one - all_of_them).abs().max() < 1e-13


def test_gaussians_keep_their_shape_or_move_with_the_image() -> None:
    stretch = torch.tensor([[1.0, 0, 0, 0], [0, 1.5, 0, 0], [0, 0, 1, 0]], dtype=torch.float64)
    widths = []
    for rigid in (True, False):
        task = build_task(replace(SPEC, rigid=rigid))
        points = task.prepared(batch_of(PLACES[1:2], KINDS[1:2]), SHAPE, None).transformed(stretch)
        fov, nothing = torch.ones(1, 1, 32, 80, 40), torch.zeros(1, 0, 32, 80, 40)
        target, _ = task.supervise(nothing, fov, points, None)
        profile = target[0, 1].sum(dim=(0, 2)).double()
        at = torch.arange(len(profile), dtype=torch.float64)
        mean = (profile * at).sum() / profile.sum()
        widths.append(float(((profile * (at - mean) ** 2).sum() / profile.sum()).sqrt()))
    assert widths == pytest.approx([0.8, 1.2], abs=0.01)


def test_a_width_in_angstrom_follows_the_spacing_of_each_sample() -> None:
    spec = replace(SPEC, ds_sigma=None, sigma_angstrom=((40.0,) * 3,) * 2)
    fov, nothing = torch.ones(2, 1, *SHAPE), torch.zeros(2, 0, *SHAPE)
    points = Keypoints(
        torch.from_numpy(np.repeat(PLACES[1:2], 2, axis=0)),
        torch.tensor([0, 1]),
        torch.tensor([1, 1]),
    )
    spacing = torch.tensor([[10.0] * 3, [5.0] * 3], dtype=torch.float64)
    target, _ = build_task(spec).supervise(nothing, fov, points, spacing)
    # 40 angstrom are 4 voxels, a cell; and 8, two cells: eight times the mass.
    masses = target[:, 1].sum(dim=(1, 2, 3))
    assert 6 < float(masses[1] / masses[0]) < 8.5


# -- pictures --------------------------------------------------------------------------------------


def test_balls_are_ellipsoids_that_are_cut_at_the_border() -> None:
    found = balls(np.array([[4.0, 4.0], [0.0, 9.0]]), np.array([[2.0, 1.0], [1.0, 1.0]]), (9, 10))
    assert found[:, 4].tolist() == [False, False, True, True, True, True, True, False, False]
    assert found[4].nonzero()[0].tolist() == [3, 4, 5]
    assert found[0, 9]
    assert found[1, 9]
    assert balls(np.zeros((0, 2)), np.zeros((0, 2)), (3, 3)).sum() == 0
    assert balls(np.array([[50.0, 50.0]]), np.ones((1, 2)), (3, 3)).sum() == 0


def test_a_picture_shows_picks_and_keypoints(tmp_path: Path) -> None:
    image, task = whole(1.5), build_task(SPEC)
    predicted = task.predict(
        Knows(1.5, image.offset).eval(),
        image,
        experiment(),
        PROTOCOL,
        device="cpu",
        dataset_statistics=None,
    )
    seen = task.picture(predicted, image, (0.0, 0.0), PROTOCOL)
    assert seen.probability.shape == seen.prediction.shape == seen.target.shape == SHAPE
    for place in np.rint(PLACES).astype(int):
        assert seen.prediction[tuple(place)]
        assert seen.target[tuple(place)]
        assert seen.probability[tuple(place)] > 0.4
    assert (seen.prediction == seen.target).mean() > 0.99
    assert not task.picture(predicted, image, (math.inf,) * 2, PROTOCOL).prediction.any()
