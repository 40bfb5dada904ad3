"""Keypoints from YAML to tables: a sweep over synthetic tomograms, executed in this process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sweep_cases
from sweep_cases import done

from vesselflow.errors import UserError
from vesselflow.evaluation.long_tables import write_tables
from vesselflow.metrics.detection import DETECTION
from vesselflow.stores.keypoints import Keypoints
from vesselflow.stores.layout import Layout
from vesselflow.stores.store import Source, write_store
from vesselflow.sweeps.planning import Prepared

SPACE = """
stores:
  a: synth:tomogram?domain=a&sources=4&seed=0&size_px=40&depth_px=32
  b: synth:tomogram?domain=b&sources=1&seed=1&size_px=40&depth_px=32
data: {train: a, ood: [b], patch: [16, 32, 32]}
split: {folds: 2, val_fraction: 0.5}
folds: [0]
augment: {hflip: {}, zflip: {}, rotate90: {}, affine: {}, gaussian_noise: {}}
model: {name: unet3d, filters: [4, 8]}
loss: {name: bce, pos_weight: 16}
train: {epochs: 2, steps_per_epoch: 2, micro_batch_size: 2}
score: {epochs: all}
"""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keypoints") / "results"


def prepared(results: Path, text: str = SPACE) -> Prepared:
    return sweep_cases.prepared(results, text, "keypoints")


def test_keypoints_are_found_slice_by_slice(results: Path) -> None:
    # Slices have no stride of their own: they are averaged over the cells.
    text = SPACE.replace("unet3d, filters: [4, 8]", "unet25d, filters: [4, 8, 8], slices: 3")
    sweep = prepared(results, text.replace("epochs: 2", "epochs: 1"))
    done(sweep)
    assert sweep.missing() == []
    assert all(0 <= row.value <= 1 for row in sweep.scored)


def test_keypoints_are_trained_scored_and_shown(results: Path, tmp_path: Path) -> None:
    text = SPACE + "grid: {task.sigma_angstrom: [40, {shell: 40, rod: 50, dimer: 30}]}\n"
    sweep = prepared(results, text)
    assert len({cell.run.run_id for cell in sweep.cells}) == 2
    assert sweep.objective.metric == "f1"
    done(sweep)
    assert sweep.missing() == []
    assert prepared(results, text).missing() == []
    paths = write_tables(tmp_path, sweep.scored, sweep.results, sweep.objective)
    images, points = (pd.read_parquet(paths[name]) for name in ("images", "points"))
    assert set(images.role) == {"val", "test", "ood"}
    names = set(DETECTION.names())
    classes = {f"{name}/{kind}" for name in names for kind in ("shell", "rod", "dimer")}
    assert set(points.metric) == set(images.metric) == names | classes
    pooled = images[images.source_id == "*"]
    truth = [pooled[pooled.metric == f"{name}_picks"] for name in ("true", "false")]
    both = pooled[pooled.metric == "picks"].value.to_numpy()
    np.testing.assert_array_equal(truth[0].value.to_numpy() + truth[1].value.to_numpy(), both)
    # Thresholds are those of validation, class by class.
    limits = pooled[pooled.metric.str.startswith("threshold/")]
    assert (limits.groupby(["run_id", "epoch", "metric"]).value.nunique() <= 1).all()
    # What was picked, as the importer of volumes reads it.
    files = list(results.glob("runs/*/picks/*/*.csv"))
    assert {path.name for path in files} == {
        f"{role}_{name}_epoch{epoch}.csv"
        for role, name in (("val", "a"), ("test", "a"), ("ood", "b"))
        for epoch in (1, 2)
    }
    chosen = images[images.chosen & (images.source_id == "*") & (images.metric == "picks")]
    for row in chosen.itertuples():
        (path,) = results.glob(f"runs/{row.run_id}/picks/*/{row.role}_*_epoch{row.epoch}.csv")
        table = pd.read_csv(path)
        assert list(table) == ["source", "z_voxel", "y_voxel", "x_voxel", "class", "score"]
        if not np.isnan(row.value):
            assert len(table) == row.value
    previews = list(results.glob("runs/*/previews/*/*.npz"))
    assert {path.name.split("_")[0] for path in previews} <= {"val", "test", "ood"}
    assert all(np.load(path)["target"].ndim == 2 for path in previews)


def test_how_picks_are_judged_names_evaluations_and_no_run(results: Path) -> None:
    text = SPACE + "grid: {score.radius_voxels: [2, 6], score.exclusive: [false, true]}\n"
    sweep = prepared(results, text)
    assert len({cell.run.run_id for cell in sweep.cells}) == 1
    assert len({cell.protocol.name for cell in sweep.cells}) == 4


def test_images_have_keypoints_too(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    sources = []
    for index in range(4):
        places = random.random((6, 2)) * 60 + 2
        image = random.integers(0, 90, (64, 64, 3), dtype=np.uint8)
        for y, x in np.rint(places).astype(int):
            image[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3] += 100
        points = Keypoints(places, np.zeros(6, np.int32))
        fov = np.ones((64, 64), np.uint8)
        sources.append(Source(f"s{index}", f"g{index}", image, None, fov, keypoints=points))
    layout = Layout(kind="keypoint", channels=3, classes=("cell",), target="", ds_factor=8)
    store = tmp_path / "a.h5"
    write_store(store, sources, domain="a", importer={"name": "t"}, layout=layout)
    text = f"""
stores: {{a: {store}}}
data: {{train: a, patch: 32}}
split: {{folds: 2, val_fraction: 0.5}}
folds: [0]
model: {{name: wnet, filters: [4, 8]}}
train: {{epochs: 1, steps_per_epoch: 2, micro_batch_size: 2}}
"""
    with pytest.raises(UserError, match=r"score.radius_voxels: the store declares no width"):
        prepared(tmp_path / "results", text)
    sweep = prepared(tmp_path / "results", text + "score: {radius_voxels: 4, tta: flips}\n")
    assert sweep.cells[0].run.task.ds_sigma == ((1.0, 1.0),)
    done(sweep)
    assert sweep.missing() == []


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("score:", "task: {name: segment}\nscore:", "task.name: segment needs a patch store"),
        ("score:", "objective: {metric: dice}\nscore:", "objective.metric: unknown metric 'dice'"),
        (
            "score: {",
            "score: {threshold_metric: dice, ",
            "score.threshold_metric: unknown metric 'dice'",
        ),
        ("score: {", "score: {radius_voxels: {rod: 3}, ", "score.radius_voxels: is given for rod"),
        (
            "score: {",
            "score: {radius_voxels: 3, radius_angstrom: 3, ",
            "score.radius_angstrom: the radius is given twice",
        ),
        (
            "score:",
            "task: {ds_sigma: 0.05}\nscore:",
            "task.ds_sigma: a sigma of 0.05 cells would vanish between the centres of cells; "
            "allowed: 0.1 or more",
        ),
        (
            "score:",
            "task: {sigma_angstrom: 2}\nscore:",
            "task.sigma_angstrom: a sigma of 2 angstrom (shell) would vanish between the centres "
            "of cells of 40 angstrom (store 'a'",
        ),
        (
            "score:",
            "task: {sigma_angstrom: 40, ds_sigma: 1}\nscore:",
            "task.sigma_angstrom: the width of keypoints is given twice",
        ),
        (
            "score:",
            "task: {ds_factor: [4, 4]}\nscore:",
            "task.ds_factor: [4, 4] has 2 numbers, the images have 3 axes",
        ),
        (
            "score:",
            "task: {ds_factor: 6}\nscore:",
            "data.patch: patches of 16 x 32 x 32 px are no whole cells of 6 x 6 x 6 px",
        ),
        (
            "filters: [4, 8]}",
            "filters: [4, 8], se: cse, se_at: [skip, decoder]}",
            "model.se_at: with an output stride of 4 x 4 x 4 a unet3d of 2 levels ends with its "
            "encoder; there is no skip and no decoder; allowed: encoder, or a list with it; or",
        ),
        (
            "filters: [4, 8]}",
            "filters: [4, 8], skip_gate: attention}",
            "model.skip_gate: with an output stride of 4 x 4 x 4 a unet3d of 2 levels ends with "
            "its encoder; there is no skip; allowed: null; or",
        ),
        (
            "filters: [4, 8]}",
            "filters: [4, 8], presence: 0.5}",
            "model.presence: presence is that of masks; heat-maps of keypoints are learnt here; "
            "allowed: null",
        ),
        (
            "data: {train: a, ood: [b]",
            "grid: {data.train: [a, c]}\ndata: {ood: []",
            "grid.data.train: points that learn keypoints and others that learn segment",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(results: Path, old: str, new: str, told: str) -> None:
    assert old in SPACE
    text = SPACE.replace(old, new, 1)
    if "data.train" in new:
        third = "synth:vasculature?sources=4&size_px=40&depth_px=32"
        text = text.replace("stores:\n", f"stores:\n  c: {third}\n")
    with pytest.raises(UserError) as caught:
        prepared(results, text)
    assert str(caught.value).startswith(f"keypoints.yaml: {told}")


def _store(path: Path, counts: list[int], **given: object) -> Path:
    random = np.random.default_rng(len(counts))
    sources = [
        Source(
            f"s{index}",
            f"g{index}",
            random.random((16, 32, 32, 1), dtype=np.float32),
            None,
            np.ones((16, 32, 32), np.uint8),
            keypoints=Keypoints(random.random((count, 3)) * 14, np.zeros(count, np.int32)),
        )
        for index, count in enumerate(counts)
    ]
    values = {"classes": ("rod",), "ds_factor": 4, **given}
    layout = Layout(kind="keypoint", axes="zyx", dtype="float32", target="", **values)
    write_store(path, sources, domain="k", importer={"name": "t"}, layout=layout)
    return path


def test_a_model_of_volumes_on_images_is_one_line(tmp_path: Path) -> None:
    points = Keypoints(np.full((1, 2), 9.0), np.zeros(1, np.int32))
    ones = np.ones((32, 32), np.uint8)
    sources = [
        Source(f"s{n}", f"g{n}", np.full((32, 32, 1), n, np.uint8), None, ones, keypoints=points)
        for n in range(4)
    ]
    layout = Layout(kind="keypoint", classes=("cell",), target="", ds_sigma=1.0)
    write_store(tmp_path / "k.h5", sources, domain="k", importer={"name": "t"}, layout=layout)
    text = SPACE.split("data:")[1].replace("ood: [b], ", "").replace("zflip: {}, ", "")
    with pytest.raises(UserError, match=r"model.name: unet3d takes volumes, the store 'a' holds"):
        prepared(tmp_path / "results", f"stores: {{a: {tmp_path / 'k.h5'}}}\ndata:{text}")


def test_a_training_part_without_keypoints_is_one_line(tmp_path: Path) -> None:
    store = _store(tmp_path / "k.h5", [0, 0, 0, 0], ds_sigma=1.0)
    text = SPACE.split("data:")[1].replace("ood: [b], ", "")
    with pytest.raises(UserError, match=r"split.folds: the training part of fold 0 .*keypoint"):
        prepared(tmp_path / "results", f"stores: {{a: {store}}}\ndata:{text}")


def test_angstrom_without_a_spacing_is_one_line(tmp_path: Path) -> None:
    text = SPACE.split("data:")[1].replace("ood: [b], ", "")
    store = _store(tmp_path / "k.h5", [3, 2, 3, 2], sigma_angstrom=40.0)
    with pytest.raises(UserError, match=r"task.sigma_angstrom: the source 's0' of the store 'a'"):
        prepared(tmp_path / "results", f"stores: {{a: {store}}}\ndata:{text}")
    with pytest.raises(UserError, match=r"score.radius_angstrom: the source 's0' of the store"):
        prepared(
            tmp_path / "results", f"stores: {{a: {store}}}\ntask: {{ds_sigma: 1}}\ndata:{text}"
        )


def test_stores_of_other_classes_are_one_line(tmp_path: Path) -> None:
    text = SPACE.split("data:")[1]
    one = _store(tmp_path / "a.h5", [3, 2, 3, 2], ds_sigma=1.0)
    other = _store(tmp_path / "b.h5", [3], ds_sigma=1.0, classes=("shell",))
    with pytest.raises(UserError, match=r"data.ood: the store 'b' has the classes shell, 'a' has"):
        prepared(tmp_path / "results", f"stores: {{a: {one}, b: {other}}}\ndata:{text}")
