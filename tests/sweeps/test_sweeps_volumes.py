"""Volumes from YAML to tables: a sweep over synthetic vasculature, executed in this process."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sweep_cases
from sweep_cases import done

from vesselflow.errors import UserError
from vesselflow.evaluation.long_tables import write_tables
from vesselflow.stores.store import Source, write_store
from vesselflow.sweeps.planning import Prepared

SPACE = """
stores:
  a: synth:vasculature?domain=a&sources=4&seed=0&size_px=32&depth_px=24
  b: synth:vasculature?domain=c&sources=1&seed=1&size_px=40&depth_px=16
data: {train: a, ood: [b], patch: [16, 32, 32]}
split: {folds: 2, val_fraction: 0.5}
folds: [0]
augment: {hflip: {}, zflip: {}, rotate90: {}, affine: {}, gaussian_noise: {}}
model: {name: unet3d, filters: [4, 8]}
train: {epochs: 2, steps_per_epoch: 2, micro_batch_size: 2}
score: {epochs: all}
"""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("volumes") / "results"


def prepared(results: Path, text: str = SPACE) -> Prepared:
    return sweep_cases.prepared(results, text, "volumes")


def test_volumes_are_trained_scored_and_shown(results: Path, tmp_path: Path) -> None:
    windows = "grid: {score.window: [null, [16, 32, 32]], score.tta: [none, flips]}"
    sweep = prepared(results, SPACE.replace("score: {epochs: all}", windows))
    assert len({cell.run.run_id for cell in sweep.cells}) == 1
    done(sweep)
    assert sweep.missing() == []
    paths = write_tables(tmp_path, sweep.scored, sweep.results, sweep.objective)
    images = pd.read_parquet(paths["images"])
    assert set(images.role) == {"val", "test", "ood"}
    dice = images[(images.metric == "dice") & (images.source_id == "*") & (images.epoch == 2)]
    assert dice.value.between(0, 1).all()
    # Another way to predict, another score; never the same volume by another name.
    assert dice.groupby("point").value.first().nunique() > 1
    previews = list(results.glob("runs/*/previews/*/*.npz"))
    assert {path.name.split("_")[0] for path in previews} == {"val", "test", "ood"}


def test_slices_are_answered_from_those_around(results: Path) -> None:
    # Any depth of patches and windows will do.
    text = SPACE.replace("unet3d, filters: [4, 8]", "unet25d, filters: [4, 8], windows: 3")
    text = text.replace("patch: [16, 32, 32]", "patch: [7, 32, 32]").replace(
        "epochs: 2", "epochs: 1"
    )
    sweep = prepared(results, text.replace("{epochs: all}", "{window: [5, 32, 32]}"))
    done(sweep)
    assert sweep.missing() == []
    assert all(0 < row.value < 1 for row in sweep.scored)


def test_one_spacing_for_all_scanners(results: Path) -> None:
    text = SPACE.replace("patch: [16, 32, 32]", "patch: [16, 16, 16], spacing_um: 40")
    sweep = prepared(results, text)
    done(sweep)
    assert all(not math.isnan(row.value) for row in sweep.scored)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "model: {name: unet3d, filters: [4, 8]}",
            "model: {name: wnet}",
            "model.name: wnet takes images, the store 'a' holds volumes; allowed: unet3d",
        ),
        (
            "hflip: {}",
            "channel_shuffle: {}",
            "augment.channel_shuffle: images of one channel have no order of channels",
        ),
        (
            "hflip: {}",
            "color_jitter: {saturation: 0, hue: {schedule: step, from: 0, to: 0.1}}",
            "augment.color_jitter: saturation and hue need images with 3 channels, these have 1",
        ),
        ("[16, 32, 32]", "[32, 32]", r"data.patch: [32, 32] has 2 numbers, the images have 3 axes"),
        (
            "[16, 32, 32]",
            "[15, 32, 32]",
            "data.patch: patches of 15 x 32 x 32 px do not fit the model",
        ),
        (
            "score: {epochs: all}",
            "score: {window: [16, 33, 32]}",
            "score.window: windows of 16 x 33 x 32 px do not fit unet3d",
        ),
        (
            "score: {epochs: all}",
            "score: {window: [2, 32, 32]}\ngrid: {model.padding: [zeros, reflect]}",
            "score.window: windows of 2 x 32 x 32 px are too small for unet3d; "
            "allowed: 4 x 4 x 4 px or more, in height and width; or take another model.padding",
        ),
        (
            "[16, 32, 32]}",
            "[2, 32, 32]}\ngrid: {model.padding: [zeros, reflect]}",
            "data.patch: samples of 2 x 32 x 32 px are too small for unet3d",
        ),
        (
            "score: {epochs: all}",
            "grid: {score.window: [null, [16, 33, 32]]}",
            "grid.score.window: windows of 16 x 33 x 32 px do not fit unet3d",
        ),
        (
            "synth:vasculature?domain=c&sources=1&seed=1&size_px=40&depth_px=16",
            "synth:tomogram?sources=2&size_px=32&depth_px=32",
            "data.ood: 'b' is a keypoint store, 'a' is a patch store; allowed: patch stores",
        ),
        (
            "synth:vasculature?domain=c&sources=1&seed=1&size_px=40&depth_px=16",
            "synth:fundus?sources=2&size_px=64",
            "model.name: unet3d takes volumes, the store 'b' holds images",
        ),
        (
            "synth:vasculature?domain=a&sources=4&seed=0&size_px=32&depth_px=24",
            "synth:tomogram?sources=4&size_px=32&depth_px=32",
            "data.ood: 'b' is a patch store, 'a' is a keypoint store; allowed: keypoint stores",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(results: Path, old: str, new: str, told: str) -> None:
    assert old in SPACE
    with pytest.raises(UserError) as caught:
        prepared(results, SPACE.replace(old, new))
    assert str(caught.value).startswith(f"volumes.yaml: {told}")


def test_floats_have_no_statistics_of_all_volumes_together(results: Path) -> None:
    sources = [
        Source(
            id=f"v{index}",
            group=f"v{index}",
            image=np.random.default_rng(index).random((8, 16, 16, 1), dtype=np.float32),
            target=np.ones((8, 16, 16), np.uint8),
            fov=np.ones((8, 16, 16), np.uint8),
        )
        for index in range(4)
    ]
    path = results.parent / "floats.h5"
    write_store(path, sources, domain="floats", importer={"name": "test"})
    made = "synth:vasculature?domain=a&sources=4&seed=0&size_px=32&depth_px=24"
    text = SPACE.replace(made, str(path))
    text = text.replace("patch: [16, 32, 32]", "patch: [8, 16, 16]")
    with pytest.raises(UserError) as caught:
        prepared(results, text + "normalise: {scope: dataset}\n")
    assert str(caught.value) == (
        "volumes.yaml: normalise.scope: the store 'a' holds float32, whose values are too many to "
        "count; allowed: source, patch, none"
    )


def test_turns_between_axes_need_voxels_of_one_size(results: Path) -> None:
    text = SPACE.replace("rotate90: {}", "rotate90: {axes: all}")
    flat = text.replace("patch: [16, 32, 32]", "patch: [16, 16, 16], spacing_um: [40, 20, 20]")
    with pytest.raises(UserError, match=r"augment.rotate90.axes: working voxels of the store 'a'"):
        prepared(results, flat)
    prepared(results, text.replace("patch: [16, 32, 32]", "patch: [16, 16, 16], spacing_um: 40"))
