"""What looks wrong in a source: found where it is wrong, and not where it is not."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from vesselflow.stores.importers.run import import_store
from vesselflow.stores.store import Keypoints, Store, Tally, check, suspicions
from vesselflow.stores.synth import make_synth


def source(side: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image with some vessel, in a fov that leaves its outer rows out."""
    image = np.random.default_rng(0).integers(60, 200, (side, side, 3)).astype(np.uint8)
    target = np.zeros((side, side), np.uint8)
    target[:, 10:14] = 1
    fov = np.ones((side, side), np.uint8)
    fov[:5] = fov[-5:] = 0
    return image, target, fov


def test_nothing_is_wrong() -> None:
    assert suspicions(*source()) == []


def test_masks() -> None:
    image, target, fov = source()
    assert suspicions(image, 1 - target, fov) == ["mask inverted"]
    assert suspicions(image, target == 0, fov == 1) == ["mask inverted"]
    assert suspicions(image, 0 * target, fov) == ["mask empty"]
    # Only the fov counts: 40 columns x 30 rows, in which 70 % is no suspicion yet.
    assert suspicions(image, 1 - fov, fov) == ["mask empty"]
    assert suspicions(image, fov, fov) == ["mask full"]
    wide = np.zeros_like(target)
    wide[:, :28] = 1
    assert suspicions(image, wide, fov) == []
    wide[20, 28] = 1
    assert suspicions(image, wide, fov) == ["mask inverted"]


def test_volumes_planes_and_keypoints() -> None:
    image, target, fov = source()
    depth = (np.stack([part] * 4) for part in (image, target, fov))
    assert suspicions(*depth) == []
    planes = np.stack([target, 0 * target], axis=-1)
    assert suspicions(image, planes, fov) == []
    assert suspicions(image, 0 * planes, fov) == ["mask empty"]
    deep = image.astype(np.uint16) // 16
    assert suspicions(deep, target, fov) == []  # what is dark of other types is not known
    places = np.array([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]])
    held = Keypoints(places, np.array([0, 0, 1], np.int32))
    assert suspicions(image, None, fov, held) == []
    held = Keypoints(places, np.zeros(3, np.int32))
    assert suspicions(image, None, fov, held) == ["keypoint twice"]
    assert suspicions(image, None, fov, Keypoints.none(2)) == []


def test_images() -> None:
    image, target, fov = source()
    dark = (image >> 4).astype(np.uint8)
    assert dark.max() < 16
    assert suspicions(dark, target, fov) == ["image black"]
    dark[20, :11, 0] = 255  # 11 of 1200 pixels in the fov are below one in a hundred
    assert suspicions(dark, target, fov) == ["image black"]
    dark[20, 11, 0] = 255
    assert suspicions(dark, target, fov) == []
    dark = (image >> 4).astype(np.uint8)
    dark[:5] = 255  # outside of the fov
    assert suspicions(dark, target, fov) == ["image black"]
    flat = np.full_like(image, 90)
    flat[:5] = 7
    assert suspicions(flat, 0 * target, fov) == ["mask empty", "image constant"]
    flat[20, 20, 2] = 91
    assert suspicions(flat[:, :, :1], target, fov) == ["image constant"]
    assert suspicions(flat, target, fov) == []


def test_a_tally_names_the_sources() -> None:
    tally = Tally()
    for number in range(12):
        tally.add(f"s{number}", (600, 600, 3), ["mask empty"] if number > 6 else [])
    tally.add("s12", (600, 600, 3), ["mask inverted"])
    assert tally.lines() == [
        "the mask has no vessel inside the fov in 5 of 13 source(s): s7, s8, s9, s10, s11",
        "the mask may be inverted, more than 70 % of the fov is vessel in 1 of 13 source(s): s12",
    ]


@pytest.mark.parametrize(
    ("side", "total", "suspect", "said"),
    [
        (64, 50, 1, True),  # few: somebody looks at each
        (64, 51, 25, False),  # patches without vessel are usual
        (64, 51, 26, True),
        (600, 1000, 1, True),  # not in whole photographs
    ],
)
def test_a_patch_may_be_without_vessel(side: int, total: int, suspect: int, said: bool) -> None:
    tally = Tally()
    for number in range(total):
        tally.add(f"s{number}", (side, side), ["mask empty"] if number < suspect else [])
    assert bool(tally.lines()) == said


@pytest.mark.parametrize("domain", ["a", "b", "c"])
@pytest.mark.parametrize("size", [64, 256])
def test_synthetic_cameras_are_beyond_suspicion(tmp_path: Path, domain: str, size: int) -> None:
    path = tmp_path / "s.h5"
    make_synth(path, "fundus", 4, 0, domain, size)
    report = check(path)
    assert (report.faults, report.suspicions) == ([], [])


REAL = os.environ.get("VESSELFLOW_TEST_DATA", "")


@pytest.mark.skipif(not REAL, reason="VESSELFLOW_TEST_DATA names no folder of real data")
@pytest.mark.parametrize("layout", ["chase", "stare"])
def test_real_data_are_beyond_suspicion(tmp_path: Path, layout: str) -> None:
    out = tmp_path / "s.h5"
    import_store(layout, Path(REAL) / layout, out)
    patches = Tally()
    with Store.open(out) as store:
        for index in range(len(store)):
            arrays = store.image(index), store.target(index), store.fov(index)
            assert suspicions(*arrays) == []
            assert suspicions(arrays[0], 1 - arrays[1], arrays[2]) == ["mask inverted"]
            for top in range(0, arrays[0].shape[0] - 64, 64):
                for left in range(0, arrays[0].shape[1] - 64, 64):
                    cut = np.s_[top : top + 64, left : left + 64]
                    image, target, fov = (array[cut] for array in arrays)
                    if fov.any():
                        patches.add("patch", image.shape, suspicions(image, target, fov))
    assert patches.total > 1000
    assert patches.lines() == []
