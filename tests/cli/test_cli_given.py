"""`vesselflow data inspect SPACE --augment POINT --png FILE`: the picture, and mistakes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vesselflow.cli.data_given import COVER, SHADE, SHADE_COLOUR, VESSEL_COLOUR, given_sheet
from vesselflow.cli.main import main
from vesselflow.sweeps.given import Drawn, Look

SPACE = """
name: tiny
stores: {a: "synth:fundus?domain=a&sources=6&size_px=64"}
data: {train: a, working_size_px: 64}
split: {folds: 3, val_fraction: 0.25}
folds: [0]
augment: {hflip: {}, cutmix: {}}
train: {micro_batch_size: 4}
grid: {loss.name: [bce, dice]}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("space.yaml").write_text(SPACE)
    return tmp_path


def inspect(*words: str) -> int:
    return main(["data", "inspect", *words])


def test_the_picture(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect("space.yaml", "--augment", "name=dice", "--png", "x.png") == 0
    with Image.open("x.png") as sheet:
        assert sheet.width == 1600
        line = f"x.png: 12 samples of name=dice from step 0 on, 1600 x {sheet.height} px\n"
    assert capsys.readouterr().out == line
    assert sorted(path.name for path in here.iterdir()) == ["space.yaml", "x.png"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--augment", "name=dice"], "--augment: draws a picture; give --png FILE"),
        (
            ["--augment", "name=dic", "--png", "x.png"],
            "--augment: there is no point 'name=dic'; allowed: name=bce | name=dice",
        ),
        (["--augment", "name=dice", "--png", "x.png", "--json"], "--json: does not go with"),
        (["--augment", "name=dice", "--png", "x.png", "--step", "-1"], "--step: -1 is not allowed"),
        (["--step", "3"], "--step: says nothing without --augment POINT"),
        (["--set", "a=3"], "--set: says nothing without --augment POINT"),
    ],
)
def test_mistakes_are_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], line: str
) -> None:
    assert inspect("space.yaml", *words) == 2
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1


def look(axes: int, classes: int = 1) -> Look:
    size = (16,) * axes
    fov = np.ones(size, np.float32)
    fov[..., :4] = 0
    target = np.zeros((classes, *(n // 2 for n in size)), np.float32)
    target[..., 4:, 4:] = 1
    points = np.array([[8.0] * axes, [15.0] + [8.0] * (axes - 1)])
    return Look(
        np.full((1, *size), 3.0, np.float32),
        fov,
        target,
        points if classes > 1 else points[:0],
        np.array([0, 1])[: 2 if classes > 1 else 0],
    )


@pytest.mark.parametrize("axes", [2, 3])
def test_targets_the_fov_and_keypoints_are_seen(axes: int) -> None:
    colours = []
    for classes in (1, 2):
        each = look(axes, classes)
        sheet = given_sheet([Drawn("a, step 0 #0", each, each, ("hflip",))], "title")
        colours.append({colour for _, colour in sheet.getcolors(sheet.width * sheet.height)})
    shade = tuple(np.rint((1 - SHADE) * np.array(SHADE_COLOUR)).astype(int).tolist())
    assert shade in colours[0]
    covered = tuple(np.rint(COVER * np.array(VESSEL_COLOUR)).astype(int).tolist())
    assert covered in colours[0]
    # In a volume only keypoints near the middle slice are drawn.
    assert (230, 159, 0) in colours[1]
    assert ((86, 180, 233) in colours[1]) is (axes == 2)
