"""Picks to files and back, and files that are refused."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vesselflow.errors import ShapeError, UserError
from vesselflow.inference.picks import Picks, read_csv, read_star, write_csv, write_star

CLASSES = ("ribosome", "virus, like", "é")
numbers = st.floats(-1e6, 1e6)


def picks(rows: list[tuple[float, ...]], axes: int = 3) -> Picks:
    """Picks of (coordinates, class, score)."""
    table = np.array(rows, np.float64).reshape(-1, axes + 2)
    return Picks(table[:, :axes], table[:, axes].astype(np.int64), table[:, axes + 1])


def same(one: Picks, other: Picks) -> bool:
    """Equal to the last bit, in any order."""

    def rows(of: Picks) -> list[tuple[float, ...]]:
        return sorted(map(tuple, np.column_stack([of.coordinates, of.class_index, of.score])))

    return one.axes == other.axes and rows(one) == rows(other)


TWO = picks([(1.5, 2.25, 3, 1, 0.25), (-4, 5, 1e-7, 0, 0.75)])


def test_a_table_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "picks.csv"
    write_csv(path, TWO, CLASSES)
    assert path.read_text(encoding="utf-8") == (
        "z_voxel,y_voxel,x_voxel,class,score\n"
        "-4.0,5.0,1e-07,ribosome,0.75\n"
        '1.5,2.25,3.0,"virus, like",0.25\n'
    )
    write_csv(path, TWO, CLASSES, unit="angstrom", spacing_angstrom=[10, 10, 20])
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "z_angstrom,y_angstrom,x_angstrom,class,score"
    assert lines[2] == '15.0,22.5,60.0,"virus, like",0.25'
    assert same(read_csv(path, CLASSES, spacing_angstrom=[10, 10, 20]), TWO)


@settings(deadline=None, max_examples=25)
@given(data=st.data(), axes=st.sampled_from([2, 3]))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, axes: int
) -> None:
    row = st.tuples(*[numbers] * axes, st.integers(0, 2), st.floats(0, 1))
    given_ = picks(data.draw(st.lists(row, max_size=5)), axes)
    folder = tmp_path_factory.mktemp("picks")
    write_csv(folder / "a.csv", given_, CLASSES)
    assert same(read_csv(folder / "a.csv", CLASSES), given_)
    write_star(folder / "a.star", given_, "TS_1")
    if len(given_):
        assert same(read_star(folder / "a.star", 3), given_)


def test_a_plain_table_needs_a_unit_only(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("\ufeffclass, x ,y\nribosome,3,4\n", encoding="utf-8")
    found = read_csv(path, CLASSES, unit="voxel")
    assert found.coordinates.tolist() == [[4, 3]]
    assert found.score.tolist() == [1]
    found = read_csv(path, CLASSES, unit="angstrom", spacing_angstrom=[2, 3])
    assert found.coordinates.tolist() == [[2, 1]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "unit of its coordinates is not said"),
        ("1,2,3,ribosome,0.5\n4,5,6,ribosome,0.5\n", "unit of its coordinates is not said"),
        ("y,x,class\n1,2,ribosome\n", "unit of its coordinates is not said"),
        ("y_nm,x_nm,class\n1,2,ribosome\n", "is nm; allowed: voxel, angstrom"),
        ("y_voxel,x_angstrom,class\n1,2,ribosome\n", "is angstrom, voxel; allowed"),
        ("z_voxel,y_voxel,class\n", "the header lacks x; it is 'z_voxel,y_voxel,class'"),
        ("y_voxel,x_voxel\n1,2\n", "the header lacks class"),
        ("y_voxel,x_voxel,class\n1,2,ribosom\n", "line 2: class 'ribosom' is unk.*did you mean"),
        ("y_voxel,x_voxel,class\n1,,ribosome\n", "line 2: x_voxel is ''"),
        ("y_voxel,x_voxel,class\n1,nan,ribosome\n", "line 2: x_voxel is 'nan'"),
        ("y_voxel,x_voxel,class\n\n1,2,é\n1\n", "line 4: x_voxel is None"),
        ("y_voxel,x_voxel,class\n1,2\n", "line 2: class 'None' is unknown"),
        ("y_voxel,x_voxel,class,score\n1,2,é,inf\n", "line 2: score is 'inf'"),
        ("y_angstrom,x_angstrom,class\n1,2,é\n", "need the spacing"),
    ],
)
def test_other_tables_are_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=said) as caught:
        read_csv(path, CLASSES)
    assert str(path) in str(caught.value)


def test_units_are_not_mixed_up(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    write_csv(path, TWO, CLASSES)
    with pytest.raises(UserError, match="coordinates is voxel; allowed: angstrom"):
        read_csv(path, CLASSES, unit="angstrom", spacing_angstrom=[1, 1, 1])
    for spacing in (None, [1, 1], [1, 0, 1], [1, math.nan, 1]):
        with pytest.raises(UserError, match="spacing"):
            write_csv(path, TWO, CLASSES, unit="angstrom", spacing_angstrom=spacing)
    with pytest.raises(UserError, match="'nm' is unknown"):
        write_csv(path, TWO, CLASSES, unit="nm")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="cannot be read"):
        read_csv(tmp_path / "none.csv", CLASSES)


def test_a_star_table_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "a.star"
    write_star(path, TWO, "TS_026")
    words = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert ["data_particles"] in words
    assert [line[0] for line in words if line[0].startswith("_")] == [
        "_rlnTomoName", "_rlnCoordinateX", "_rlnCoordinateY", "_rlnCoordinateZ",
        "_rlnClassNumber", "_rlnAutopickFigureOfMerit",
    ]  # fmt: skip
    rows = [line for line in words if line[0] == "TS_026"]
    assert [[float(x) for x in row[1:]] for row in rows] == [
        [1e-7, 5, -4, 1, 0.75], [3, 2.25, 1.5, 2, 0.25],
    ]  # fmt: skip


#: A table as RELION 3.1 writes it, with its optics before it.
RELION = """# version 30001

data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnImagePixelSize #3
opticsGroup1 1 1.35

# version 30001

data_particles

loop_
_rlnCoordinateX #1
_rlnCoordinateY #2
_rlnMicrographName #3
_rlnAutopickFigureOfMerit #4
 1200.50  310.25  MotionCorr/mic_1.mrc  2.25
   10.00   20.00  MotionCorr/mic_1.mrc  -999.0
"""


def test_relion_s_own_table_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.star"
    path.write_text(RELION, encoding="utf-8")
    found = read_star(path, 1)
    assert found.coordinates.tolist() == [[310.25, 1200.5], [20, 10]]
    assert found.class_index.tolist() == [0, 0]
    assert found.score.tolist() == [2.25, -999]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("_rlnCoordinateY", "_rlnElse", "none of its tables has coordinates"),
        ("_rlnCoordinateX", "_rlnElse", "no rlnCoordinateX"),
        ("mic_1.mrc  2.25", "mic_2.mrc  2.25", "particles of 2 images"),
        ("310.25", "abc", "rlnCoordinateY is 'abc'"),
        ("310.25", "nan", "rlnCoordinateY is"),
        ("_rlnAutopickFigureOfMerit", "_rlnClassNumber", "rlnClassNumber 2.25 is unknown"),
    ],
)
def test_other_star_tables_are_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = tmp_path / "a.star"
    path.write_text(RELION.replace(old, new), encoding="utf-8")
    with pytest.raises(UserError, match=said) as caught:
        read_star(path, 1)
    assert str(path) in str(caught.value)


def test_files_that_are_no_star_are_refused(tmp_path: Path) -> None:
    for content in (b"", b"\x00\xff\x00", b"hello\nworld\n", b"data_\n\nloop_\n_rlnCoordinateX\n"):
        path = tmp_path / "a.star"
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"a\.star"):
            read_star(path, 1)
    with pytest.raises(UserError, match=r"none\.star"):
        read_star(tmp_path / "none.star", 1)


def test_wrong_shapes_are_refused() -> None:
    for bad in (
        (np.zeros((2, 4)), np.zeros(2, int), np.zeros(2)),
        (np.zeros((2, 3)), np.zeros(1, int), np.zeros(2)),
        (np.zeros((2, 3)), np.zeros(2, int), np.zeros(3)),
    ):
        with pytest.raises(ShapeError):
            Picks(*bad)
