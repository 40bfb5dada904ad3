"""Stores in several files under one index: the same store, or refused by name."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_kinds import STORES, make_kind, make_sharded, plain, sources_of
from test_stores_damage import said

from vesselflow.errors import UserError
from vesselflow.stores import shards
from vesselflow.stores.sharding import cuts, index_stores, join_store, shard_store
from vesselflow.stores.shards import sealed
from vesselflow.stores.store import Store, verify, write_store

KINDS = sorted(STORES)
FUZZ = settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def index(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sharded") / f"{kind}.shards.json"
    make_sharded(path, kind)
    return path


def copied(index: Path, folder: Path) -> Path:
    shutil.copytree(index.parent, folder, dirs_exist_ok=True)
    return folder / index.name


def files_of(index: Path) -> list[Path]:
    return [index.parent / file["name"] for file in json.loads(index.read_text())["files"]]


def refused(path: Path, name: str, *, reads: bool = True) -> None:
    """`verify` says it, and who reads is told as well, each in one line that names the file."""
    faults = verify(path)
    assert faults
    assert all("\n" not in fault for fault in faults)
    if reads:
        with pytest.raises(UserError) as caught:
            said(path)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)


def test_the_same_store_in_several_files_and_back(index: Path, kind: str, tmp_path: Path) -> None:
    whole = tmp_path / "whole.h5"
    digest = make_kind(whole, kind)
    assert len(files_of(index)) == 2
    assert said(index) == said(whole)
    assert join_store(index, tmp_path / "joined.h5") == digest
    assert (tmp_path / "joined.h5").read_bytes() == whole.read_bytes()
    # Each file is a store, and an index over them is the same again.
    copy = copied(index, tmp_path / "copy")
    heads = []
    for file in files_of(copy):
        assert verify(file) == []
        with Store.open(file) as store:
            heads += [replace(each, index=0) for each in store.sources]
    with Store.open(index) as store:
        assert [replace(each, index=0) for each in store.sources] == heads
    made = index_stores(copy.with_name("again.json"), files_of(copy))
    assert (made.digest, made.files, made.sources) == (digest, 2, len(sources_of(kind)))
    assert copy.with_name("again.json").read_bytes() == copy.read_bytes()


@given(
    sizes=st.lists(st.integers(1, 9), max_size=20),
    most=st.integers(1, 30),
)
def test_cuts_cover_all_in_order_and_are_as_long_as_may_be(sizes: list[int], most: int) -> None:
    found = cuts(sizes, most)
    assert [place for part in found for place in part] == list(range(len(sizes)))
    assert all(len(part) == 1 or sum(sizes[p] for p in part) <= most for part in found)
    for part, after in itertools.pairwise(found):
        assert sum(sizes[p] for p in part) + sizes[after.start] > most


@settings(deadline=None, max_examples=20, suppress_health_check=[*HealthCheck])
@given(data=st.data())
def test_any_order_of_reading_opens_few_files(tmp_path: Path, data: st.DataObject) -> None:
    index = tmp_path / "many.shards.json"
    sources = [replace(plain(n), id=f"s{n}") for n in range(12)]
    if not index.exists():
        write_store(tmp_path / "many.h5", sources, domain="d", importer={})
        shard_store(tmp_path / "many.h5", index, sources_per_file=1)
    with Store.open(index) as store:
        for place in data.draw(st.lists(st.integers(0, 11), max_size=40)):
            window = (3, 4, 20, 30)
            np.testing.assert_array_equal(
                store.image(place, window), sources[place].image[3:20, 4:30]
            )
            content: Any = store._content
            assert len(content._open) <= shards.OPEN_FILES


def test_size_cuts_and_what_is_there_is_kept_or_replaced(tmp_path: Path) -> None:
    whole, index = tmp_path / "v.h5", tmp_path / "v.shards.json"
    digest = make_kind(whole, "volume")
    with Store.open(whole) as store:
        size = store.stored_bytes(0) + store.stored_bytes(1)
        assert 0 < sum(store.stored_bytes(n) for n in range(3)) < store.nbytes
    told: list[tuple[int, int, str]] = []
    made = shard_store(whole, index, file_bytes=size, progress=lambda *words: told.append(words))
    assert told == [(0, 3, "s0"), (1, 3, "s1"), (2, 3, "s2")]
    assert (made.digest, made.files, made.sources) == (digest, 2, 3)
    first, second = files_of(index)
    with pytest.raises(UserError, match="exists already; --overwrite replaces it"):
        shard_store(whole, index, sources_per_file=1)
    # A try that was killed before the index was written goes on where it was.
    index.unlink()
    second.unlink()
    stamp = os.stat(first).st_mtime_ns
    shard_store(whole, index, file_bytes=size)
    assert os.stat(first).st_mtime_ns == stamp
    # Another cut, of itself: what the old index had is gone once the new one stands.
    shard_store(index, index, sources_per_file=1, overwrite=True)
    assert sorted(p.name for p in tmp_path.glob("v-*")) == sorted(p.name for p in files_of(index))
    assert len(files_of(index)) == 3
    assert verify(index) == []


def test_a_failed_try_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, index = tmp_path / "p.h5", tmp_path / "new" / "p.shards.json"
    make_kind(whole, "points")

    def full(*arguments: object) -> None:
        raise UserError("no space left on the disk")

    monkeypatch.setattr("vesselflow.stores.sharding.write_index", full)
    with pytest.raises(UserError, match="no space"):
        shard_store(whole, index, sources_per_file=2)
    assert list(index.parent.iterdir()) == []


def test_sources_that_are_not_what_the_index_says_are_not_written_on(tmp_path: Path) -> None:
    import h5py
    from test_stores_damage import reseal

    whole = tmp_path / "v.h5"
    make_kind(whole, "volume")
    with h5py.File(whole, "r+") as file:
        file["sources/1/image"][0, 0, 0, 0] ^= 1
    reseal(whole)
    with pytest.raises(UserError, match="source 's1': the source's digest does not fit its pixels"):
        shard_store(whole, tmp_path / "v.shards.json", sources_per_file=1)
    with pytest.raises(UserError, match="source 's1'"):
        join_store(whole, tmp_path / "copy.h5")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["v.h5"]


def test_stores_that_are_no_parts_of_one_are_refused(tmp_path: Path) -> None:
    def write(name: str, *numbers: int, domain: str = "d", folder: str = "data") -> Path:
        path = tmp_path / folder / name
        given = [replace(plain(number), id=f"s{number}") for number in numbers]
        write_store(path, given, domain=domain, importer={})
        return path

    index, one = tmp_path / "data" / "i.shards.json", write("a.h5", 0, 1)
    cases = {
        r"b.h5: source 's1' is in a.h5, too; ids must be unique": write("b.h5", 1, 2),
        r"c.h5: the domain is 'other', in a.h5 it is 'd'": write("c.h5", 2, domain="other"),
        r"away.h5: does not lie beside the index .*; allowed: files": write(
            "away.h5", 3, folder="elsewhere"
        ),
        r"a.h5: source 's0' is in a.h5, too": one,
        r"none.h5: no such store": tmp_path / "data" / "none.h5",
    }
    make_kind(tmp_path / "data" / "v.h5", "volume")
    cases[r"v.h5: axes is zyx, in a.h5 it is yx"] = tmp_path / "data" / "v.h5"
    for message, other in cases.items():
        with pytest.raises(UserError, match=message):
            index_stores(index, [one, other])
        assert not index.exists()
    with pytest.raises(
        UserError, match=r"is no name for an index; allowed: one that ends in \.json"
    ):
        index_stores(tmp_path / "data" / "i.h5", [one])
    # Importers may differ: each is kept.
    index_stores(index, [one, write("e.h5", 5)])
    with pytest.raises(UserError, match="is an index itself"):
        index_stores(tmp_path / "data" / "j.json", [index])
    with pytest.raises(UserError, match="exists already"):
        index_stores(index, [one])
    with Store.open(index) as store:
        assert [source.id for source in store.sources] == ["s0", "s1", "s5"]
        assert [shard.name for shard in store.shards] == ["a.h5", "e.h5"]


# -- damage ----------------------------------------------------------------------------------------


@FUZZ
@given(data=st.data())
def test_an_index_truncated_at_any_byte(index: Path, data: st.DataObject) -> None:
    content = index.read_bytes().rstrip()
    cut = index.with_name("cut.shards.json")
    cut.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    refused(cut, cut.name)


@FUZZ
@given(data=st.data())
def test_flipped_bytes_of_an_index_are_refused_or_touch_nothing(
    index: Path, data: st.DataObject
) -> None:
    content = bytearray(index.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= data.draw(st.integers(1, 255))
    path = index.with_name("flipped.shards.json")
    path.write_bytes(bytes(content))
    if verify(path):
        refused(path, path.name)
    else:
        assert said(path) == said(index)


@pytest.mark.parametrize("resealed", [False, True])
@FUZZ
@given(data=st.data())
def test_an_index_that_says_something_else_never_gives_wrong_data(
    index: Path, data: st.DataObject, resealed: bool
) -> None:
    """One entry is removed or another: also by somebody who knows how to seal."""
    values = json.loads(index.read_text())
    where: Any = values
    while True:
        key = data.draw(
            st.sampled_from(sorted(where) if isinstance(where, dict) else range(len(where)))
        )
        inner = where[key]
        if not isinstance(inner, dict | list) or not inner or data.draw(st.booleans()):
            break
        where = inner
    if data.draw(st.booleans()):
        del where[key]
    else:
        where[key] = data.draw(
            st.sampled_from([None, 0, -1, 1e30, "", "../x.h5", "/x", [], {}, [1], True])
        )
    path = index.with_name("other.shards.json")
    path.write_bytes(sealed(values) if resealed else json.dumps(values).encode())
    if verify(path):
        return
    # What is left is not of the sources: the domain is in all files, the importer in none.
    assert said(path)[3:] == said(index)[3:]


@pytest.mark.parametrize("how", ["missing", "swapped", "truncated", "other", "folder", "empty"])
def test_a_file_that_is_not_the_named_one(index: Path, tmp_path: Path, how: str) -> None:
    copy = copied(index, tmp_path)
    first, second = files_of(copy)
    content, other = first.read_bytes(), second.read_bytes()
    second.unlink()
    if how == "swapped":
        first.write_bytes(other)
        second.write_bytes(content)
    elif how == "truncated":
        second.write_bytes(other[:-7])
    elif how == "other":
        second.write_bytes(content)
    elif how == "folder":
        second.mkdir()
    elif how == "empty":
        second.write_bytes(b"")
    refused(copy, (first if how == "swapped" else second).name)
    # What does not need the file is there.
    with Store.open(copy) as store:
        assert len(store) == len(sources_of(index.name.split(".")[0]))
        if how != "swapped":
            store.image(0)


@FUZZ
@given(data=st.data())
def test_flipped_bytes_of_a_file_are_refused_or_touch_nothing(
    index: Path, data: st.DataObject
) -> None:
    copy = copied(index, index.parent.with_name("flipped"))
    file = data.draw(st.sampled_from(files_of(copy)))
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= data.draw(st.integers(1, 255))
    file.write_bytes(bytes(content))
    if not verify(copy):
        assert said(copy) == said(index)  # of schema 1 as well: the index guards its file's entries


def test_a_link_to_an_index_is_the_index(tmp_path: Path) -> None:
    index = tmp_path / "data" / "a.shards.json"
    make_sharded(index, "plain")
    (tmp_path / "link.json").symlink_to(index)
    assert said(tmp_path / "link.json") == said(index)


def test_newer_and_foreign_indices(tmp_path: Path) -> None:
    index = tmp_path / "a.shards.json"
    make_sharded(index, "plain")
    values = json.loads(index.read_text())
    for name, changed, message in (
        ("newer.json", {**values, "vesselflow shards": 2}, "the index has form 2, newer than"),
        ("foreign.json", {"a": 1}, "a JSON file, but not the index of a store; make one"),
    ):
        (tmp_path / name).write_bytes(sealed(changed))
        with pytest.raises(UserError, match=message):
            Store.open(tmp_path / name)
    for at in ("/etc", 5, "file://x", "http://x"):
        (tmp_path / "at.json").write_bytes(sealed(values, at))
        with pytest.raises(UserError, match="the index of the store is damaged"):
            Store.open(tmp_path / "at.json")
    (tmp_path / "deep.json").write_text('{"a":' * 100_000)
    with pytest.raises(UserError, match="the index of the store is damaged"):
        Store.open(tmp_path / "deep.json")


def test_a_sealed_index_still_names_each_source_once_and_no_file_elsewhere(tmp_path: Path) -> None:
    index = tmp_path / "inside" / "a.shards.json"
    make_sharded(index, "plain")
    values = json.loads(index.read_text())
    first = values["files"][0]
    shutil.copy(index.parent / first["name"], tmp_path / "x.h5")
    outside = {**first, "name": "../x.h5"}
    for name, files in (
        ("twice", [*values["files"], first]),
        ("outside", [outside, *values["files"][1:]]),
        ("absolute", [{**first, "name": str(tmp_path / "x.h5")}, *values["files"][1:]]),
        ("none", []),
        ("empty", [*values["files"], {**first, "sources": []}]),
    ):
        path = index.with_name(f"{name}.json")
        path.write_bytes(sealed({**values, "files": files}))
        with pytest.raises(UserError, match=f"{name}.json: the index of the store is damaged"):
            Store.open(path)


def test_a_file_that_is_there_with_another_spacing_is_not_taken_for_the_new_one(
    tmp_path: Path,
) -> None:
    whole, index = tmp_path / "v.h5", tmp_path / "v.shards.json"
    source = plain()
    for spacing in ((7.5, 8.0), (1.0, 1.0)):
        write_store(
            whole, [replace(source, spacing_um=spacing)], domain="d", importer={}, overwrite=True
        )
        if spacing == (1.0, 1.0):  # it enters no digest, and so not the file's name
            with pytest.raises(UserError, match=r"v-0000-.*: exists already, and is another store"):
                shard_store(whole, index, sources_per_file=1)
            assert not index.exists()
            break
        shard_store(whole, index, sources_per_file=1)
        index.unlink()
