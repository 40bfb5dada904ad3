"""Masks of several classes from YAML to tables: those that exclude each other, and others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sweep_cases
from sweep_cases import done

from vesselflow.errors import UserError
from vesselflow.evaluation.long_tables import write_tables
from vesselflow.stores.layout import Layout
from vesselflow.stores.store import Source, write_store
from vesselflow.sweeps.planning import Prepared

SPACE = """
stores: {a: labels.h5}
data: {train: a}
split: {folds: 2, val_fraction: 0.5}
folds: [0]
augment: {hflip: {}, affine: {}}
model: {name: wnet, filters: [4, 8]}
loss: {name: combined}
optimizer: {lr: 0.02}
train: {epochs: 1, steps_per_epoch: 30, micro_batch_size: 2}
"""
SIDE = 48


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def crossing(seed: int) -> np.ndarray:
    """Labels (SIDE, SIDE): arteries (1) run down, veins (2) across and below them."""
    random = np.random.default_rng(seed)
    labels = np.zeros((SIDE, SIDE), np.uint8)
    for start in random.integers(0, SIDE - 4, 3):
        labels[start : start + 3] = 2
    for start in random.integers(0, SIDE - 4, 3):
        labels[:, start : start + 3] = 1
    return labels


def stored(folder: Path, target: str) -> None:
    """A store of bright arteries and dark veins on noise."""
    sources = []
    for seed in range(6):
        labels = crossing(seed)
        noise = np.random.default_rng(100 + seed).normal(120, 12, (SIDE, SIDE))
        image = noise + np.array([0, 60, -60])[labels]
        planes = np.stack([labels == 1, labels == 2], axis=-1).astype(np.uint8)
        truth = {"labels": labels, "planes": planes, "binary": planes[..., 0]}[target]
        pixels = np.clip(image, 0, 255).astype(np.uint8)[..., None]
        sources.append(Source(f"s{seed}", f"g{seed}", pixels, truth, np.ones_like(labels)))
    classes = ("vessel",) if target == "binary" else ("artery", "vein")
    layout = Layout(channels=1, classes=classes, target=target)
    importer = {"name": "test"}
    write_store(folder / f"{target}.h5", sources, domain="a", importer=importer, layout=layout)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classes")
    for target in ("labels", "planes", "binary"):
        stored(folder, target)
    return folder / "results"


def prepared(results: Path, text: str = SPACE) -> Prepared:
    return sweep_cases.prepared(results, text, "classes")


def names(results: Path, text: str) -> list[str]:
    return [cell.run.run_id for cell in prepared(results, text).cells]


def test_exclusive_classes_are_learnt_and_scored(results: Path, tmp_path: Path) -> None:
    text = SPACE + "grid: {task.activation: [softmax, sigmoid], score.exclusive: [false, true]}\n"
    sweep = prepared(results, text)
    assert len({cell.run.run_id for cell in sweep.cells}) == 2
    assert len({cell.protocol.name for cell in sweep.cells}) == 2
    done(sweep)
    assert sweep.missing() == []
    paths = write_tables(tmp_path, sweep.scored, sweep.results, sweep.objective)
    images = pd.read_parquet(paths["images"])
    pooled = images[(images.source_id == "*") & (images.role == "test")]
    for metric in ("dice", "dice/artery", "dice/vein"):
        found = pooled[pooled.metric == metric].value
        # All pixels together have less than 1/2; found were .82 to .96.
        assert len(found) == 4
        assert found.min() > 0.7


def test_what_the_store_says_is_what_may_be_said(results: Path) -> None:
    silent = names(results, SPACE)
    said = {given: names(results, SPACE + f"task: {{activation: {given}}}\n")
            for given in ("softmax", "sigmoid", "null")}  # fmt: skip
    assert silent == said["softmax"] == said["null"] != said["sigmoid"]
    # Where classes may overlap nothing else was ever meant.
    planes = SPACE.replace("labels.h5", "planes.h5")
    assert names(results, planes) == names(results, planes + "task: {activation: sigmoid}\n")


def test_of_one_class_both_are_the_same(results: Path) -> None:
    one = SPACE.replace("labels.h5", "binary.h5")
    said = [names(results, one + f"task: {{activation: {given}}}\n")
            for given in ("softmax", "sigmoid", "null")]  # fmt: skip
    assert said == [names(results, one)] * 3
    alone = prepared(results, one + "score: {exclusive: true}\n")
    assert alone.cells[0].protocol == prepared(results, one).cells[0].protocol


@pytest.mark.parametrize(
    ("store", "more", "told"),
    [
        (
            "planes.h5",
            "task: {activation: softmax}",
            "task.activation: the classes of the store 'a' may overlap, and softmax lets them "
            "exclude each other; allowed: sigmoid",
        ),
        (
            "planes.h5",
            "score: {exclusive: true}",
            "score.exclusive: the classes artery, vein may overlap; allowed: false, or a store "
            "whose classes exclude each other",
        ),
        (
            "labels.h5",
            "task: {activation: tanh}",
            "task.activation: 'tanh' is not allowed; allowed: sigmoid, softmax, or null",
        ),
        (
            "synth:tomogram?sources=4&size_px=32&depth_px=32",
            "task: {activation: softmax}",
            "task.activation: softmax is for masks whose classes exclude each other: heat-maps of "
            "near keypoints overlap; allowed: sigmoid; score.exclusive lets one place hold "
            "one class",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(results: Path, store: str, more: str, told: str) -> None:
    space = SPACE.replace("labels.h5", f'"{store}"')
    if "tomogram" in store:
        space = space.replace("wnet", "unet3d")
    with pytest.raises(UserError) as caught:
        prepared(results, space + more + "\n")
    assert str(caught.value) == f"classes.yaml: {told}"
