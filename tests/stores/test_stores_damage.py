"""Damaged stores of each kind: refused by name, never a crash, a hang or wrong data."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_kinds import STORES, make_kind

from vesselflow.errors import UserError
from vesselflow.stores.schema import HEADER_BYTES, MAGIC
from vesselflow.stores.store import Store, verify

KINDS = sorted(STORES)
FUZZ = settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module", params=KINDS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("damage") / f"{request.param}.h5"
    make_kind(path, request.param)
    return path


def said(path: Path) -> list[object]:
    """All that a store says, bit by bit."""
    with Store.open(path) as store:
        held: list[object] = [store.domain, store.digest, store.importer, store.layout]
        for source in store.sources:
            held.append(source)
            for name in store.layout.arrays():
                if name in ("keypoints", "classes"):
                    points = store.keypoints(source.index)
                    held += [points.positions.tobytes(), points.classes.tobytes()]
                else:
                    held.append(getattr(store, name)(source.index).tobytes())
    return held


def reseal(path: Path) -> None:
    """Write the size anew, as after an edit by another program."""
    with path.open("r+b") as file:
        file.write((MAGIC + f"{path.stat().st_size} bytes\n".encode()).ljust(HEADER_BYTES))


def refused(path: Path, *, also_read: bool = True) -> None:
    faults = verify(path)
    assert faults
    assert all("\n" not in fault for fault in faults)
    if also_read:
        with pytest.raises(UserError) as caught:
            said(path)
        assert "\n" not in str(caught.value)
        assert path.name in str(caught.value)


@FUZZ
@given(data=st.data())
def test_truncated_at_any_byte(whole: Path, data: st.DataObject) -> None:
    content = whole.read_bytes()
    cut = whole.with_name("cut.h5")
    cut.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    refused(cut)


@FUZZ
@given(data=st.data())
def test_flipped_bytes_are_refused_or_touch_nothing(whole: Path, data: st.DataObject) -> None:
    content = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= data.draw(st.integers(1, 255))
    path = whole.with_name("flipped.h5")
    path.write_bytes(bytes(content))
    if verify(path):
        return
    first, second = said(path), said(whole)
    if whole.stem == "plain":  # schema 1 has no seal: names of files and spacing are unguarded
        first, second = ([v for v in held if isinstance(v, bytes)] for held in (first, second))
    assert first == second


@pytest.mark.parametrize("how", ["removed", "shorter", "typed", "group", "number"])
def test_any_one_dataset_removed_or_other(whole: Path, tmp_path: Path, how: str) -> None:
    for name in (*STORES[whole.stem][1].arrays(), "index"):
        path = tmp_path / f"{name}.h5"
        shutil.copy(whole, path)
        place = name if name == "index" else f"sources/0/{name}"
        with h5py.File(path, "r+") as file:
            values = file[place][()]
            del file[place]
            if how == "shorter":
                file[place] = values[:-1]
            elif how == "typed":
                file[place] = values.astype(np.int64)
            elif how == "group":
                file.create_group(place)
            elif how == "number":
                file[place] = 7
        reseal(path)
        refused(path)


@pytest.mark.parametrize("how", ["removed", "other", "number"])
def test_any_one_attribute_removed_or_other(whole: Path, tmp_path: Path, how: str) -> None:
    with h5py.File(whole) as file:
        names = list(file.attrs)
    assert len(names) == (5 if whole.stem == "plain" else 7)
    for name in names:
        path = tmp_path / f"{name}.h5"
        shutil.copy(whole, path)
        with h5py.File(path, "r+") as file:
            before = file.attrs[name]
            del file.attrs[name]
            if how == "other":
                file.attrs[name] = np.bytes_(b'{"kind": "x"}')
            elif how == "number":
                file.attrs[name] = 3 - before if name == "schema" else 99
        reseal(path)
        if whole.stem == "plain" and how == "other" and name in ("domain", "importer"):
            assert verify(path) == []  # schema 1 does not guard them, and they enter no number
            continue
        # That of schema 1 is compared by who reads all.
        alone = whole.stem == "plain" and (name, how) == ("digest", "other")
        refused(path, also_read=not alone)


@FUZZ
@given(data=st.data())
def test_other_values_are_found_by_verify(whole: Path, data: st.DataObject) -> None:
    """An edit that keeps type and shape is seen by nobody but who reads all."""
    path = whole.with_name("edited.h5")
    shutil.copy(whole, path)
    layout = STORES[whole.stem][1]
    name = data.draw(st.sampled_from(layout.arrays()))
    with h5py.File(path, "r+") as file:
        stored = file[f"sources/0/{name}"]
        values = stored[()]
        place = tuple(data.draw(st.integers(0, side - 1)) for side in values.shape)
        before = values[place]
        values[place] = before ^ 1 if values.dtype.kind == "u" else before + 1
        if values[place] == before:
            return
        stored[...] = values
    reseal(path)
    refused(path, also_read=False)


def test_a_fault_names_its_source(tmp_path: Path) -> None:
    path = tmp_path / "points.h5"
    make_kind(path, "points")
    with h5py.File(path, "r+") as file:
        positions = file["sources/2/keypoints"][()]
        positions[1] = (np.nan, 0, 0)
        file["sources/2/keypoints"][...] = positions
    reseal(path)
    assert verify(path) == [
        "source 's2': 1 keypoint(s) have coordinates that are not finite, the first is number 1: "
        "(nan, 0, 0)"
    ]
    with h5py.File(path, "r+") as file:
        del file["sources/0/fov"]
    reseal(path)
    assert verify(path)[0] == "source 's0': fov is damaged"
