"""A store that another machine has: found, fetched once, verified, or refused in one line."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ray
from feed_stores import noise_store

from vesselflow.errors import UserError
from vesselflow.feed import ray_shared
from vesselflow.feed.batches import load_samples
from vesselflow.feed.blocks import tables
from vesselflow.feed.ray_resident import materialise
from vesselflow.feed.ray_shared import SharedStore, StoreDesk, desk_files, shared_store
from vesselflow.feed.view import View
from vesselflow.records.paths import any_path
from vesselflow.stores.sharding import shard_store
from vesselflow.stores.shards import is_index
from vesselflow.stores.store import Shard, Store

VIEW = View(working_size_px=None, patch=32, stride=None, min_fov=0.0, divisor=1)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return noise_store(tmp_path / "store.h5")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    if "bucket" in request.fixturenames:
        request.getfixturevalue("bucket")  # Has a cache of its own.
    monkeypatch.setenv("VESSELFLOW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "stores"


def _digest(path: Path) -> str:
    with Store.open(path) as opened:
        return opened.digest


def test_a_store_that_is_here_is_opened_in_place(store: Path, cache: Path) -> None:
    shared = SharedStore(str(store), _digest(store))
    assert os.fspath(pickle.loads(pickle.dumps(shared))) == str(store)
    assert [t.num_rows for t in tables(shared, VIEW, [0], "samples")] == [
        t.num_rows for t in tables(store, VIEW, [0], "samples")
    ]
    assert not cache.exists()


def test_a_store_that_came_from_a_bucket_is_fetched_from_there(
    store: Path, cache: Path, bucket: str
) -> None:
    origin = any_path(bucket.replace("?", "/data/store.h5?"))
    origin.bucket.put(origin.key, store)
    shared = SharedStore("/nowhere/store.h5", _digest(store), str(origin))
    assert Path(shared).read_bytes() == store.read_bytes()
    assert Path(shared).parent == cache
    origin.unlink()
    # Another process of this machine asks nobody.
    ray_shared._HERE.clear()
    assert Path(shared).read_bytes() == store.read_bytes()


def test_what_is_not_the_store_is_refused_and_not_kept(
    store: Path, cache: Path, bucket: str
) -> None:
    origin = any_path(bucket.replace("?", "/data/store.h5?"))
    origin.bucket.put(origin.key, store)
    other = SharedStore("/nowhere/store.h5", "0" * 20, str(origin))
    with pytest.raises(UserError, match=r"cannot be fetched .what came is another"):
        os.fspath(other)
    with pytest.raises(UserError, match="nobody to ask"):
        os.fspath(SharedStore("/nowhere/store.h5", _digest(store)))
    # The same path on this machine holds something else.
    with pytest.raises(UserError, match="nobody to ask"):
        os.fspath(SharedStore(str(store), "0" * 20))
    assert [path for path in cache.iterdir() if path.suffix != ".lock"] == []


@pytest.mark.usefixtures("ray_cluster")
def test_machines_fetch_from_the_driver_once(
    store: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counting(StoreDesk):
        asked = 0

        def about(self, digest: str) -> tuple[int, str]:
            self.asked += 1
            return super().about(digest)

        def count(self) -> int:
            return self.asked

    desk = ray.remote(Counting).options(name="desk", namespace="shared", num_cpus=0)
    actor = desk.remote({_digest(store): str(store)})
    shared = SharedStore("/nowhere/store.h5", _digest(store), "", ("desk", "shared"))
    env = {"env_vars": {"VESSELFLOW_CACHE": str(tmp_path / "cache")}}
    look = ray.remote(num_cpus=0, runtime_env=env)(lambda path: Path(path).read_bytes())
    found = ray.get([look.remote(shared) for _ in range(2)], timeout=120)
    assert found == [store.read_bytes()] * 2
    assert ray.get(actor.count.remote()) == 1
    # Whatever reads stores reads this one.
    whole = materialise(shared, VIEW)
    assert whole.open().n == load_samples(store, VIEW).n
    ray.kill(actor)
    shutil.rmtree(tmp_path / "cache")
    ray_shared._HERE.clear()
    with pytest.raises(UserError, match=r"the driver that has it is gone|actor"):
        os.fspath(shared)


# -- stores in several files -----------------------------------------------------------------------


@pytest.fixture
def index(store: Path) -> Path:
    """The store in three files of two sources."""
    made = store.with_name("store.shards.json")
    shard_store(store, made, sources_per_file=2)
    return made


def fetched(index: Path, cache: Path) -> list[int]:
    """Which files of a store are in the cache."""
    with Store.open(index) as opened:
        names = [f"{shard.digest}.h5" for shard in opened.shards]
    return [place for place, name in enumerate(names) if (cache / name).exists()]


def test_files_that_are_here_are_opened_in_place(store: Path, index: Path, cache: Path) -> None:
    shared = pickle.loads(pickle.dumps(shared_store(index, _digest(store))))
    assert os.fspath(shared) == str(index)
    whole = load_samples(shared, VIEW)
    np.testing.assert_array_equal(whole.source, load_samples(store, VIEW).source)
    assert not cache.exists()
    assert set(desk_files(index)) == {shared.seal, *(s.digest for s in _shards(index))}
    assert desk_files(store) == {_digest(store): str(store)}


def test_a_machine_is_checked_for_its_files_and_fetches_none(
    index: Path, cache: Path, bucket: str
) -> None:
    shared = shared_store(index, _digest(index))
    shared.check()
    second = index.parent / _shards(index)[1].name
    second.rename(second.with_suffix(".away"))
    ray_shared._HERE.clear()
    with pytest.raises(UserError, match=r"store-0001-.*nobody to ask for it"):
        shared.check()
    origin = any_path(bucket.replace("?", "/data/store.shards.json?"))
    origin.bucket.put(origin.key, index)
    SharedStore("/nowhere/i.json", shared.digest, str(origin), None, shared.seal).check()
    assert fetched(index, cache) == []


def _shards(index: Path) -> tuple[Shard, ...]:
    with Store.open(index) as opened:
        return opened.shards


def test_only_the_files_that_are_read_are_fetched_from_a_bucket(
    store: Path, index: Path, cache: Path, bucket: str
) -> None:
    origin = any_path(bucket.replace("?", "/data/store.shards.json?"))
    origin.bucket.put(origin.key, index)
    for shard in _shards(index):
        place = origin.parent / shard.name
        place.bucket.put(place.key, index.parent / shard.name)
    known = shared_store(index, _digest(store))
    shared = SharedStore("/nowhere/i.shards.json", known.digest, str(origin), None, known.seal)
    with Store.open(shared) as opened, Store.open(store) as whole:
        assert opened.digest == whole.digest
        assert is_index(Path(shared))
        assert fetched(index, cache) == []
        np.testing.assert_array_equal(opened.image(3), whole.image(3))
        assert fetched(index, cache) == [1]
    for shard in _shards(index):
        (origin.parent / shard.name).unlink()
    ray_shared._HERE.clear()
    with Store.open(shared) as opened, Store.open(store) as whole:
        np.testing.assert_array_equal(opened.image(2), whole.image(2))
        with pytest.raises(UserError, match=r"no such object: s3://.*/data/store-0002-"):
            opened.image(5)
    assert fetched(index, cache) == [1]


def test_another_file_in_the_place_of_one_is_not_kept(
    store: Path, index: Path, cache: Path, bucket: str
) -> None:
    origin = any_path(bucket.replace("?", "/data/store.shards.json?"))
    origin.bucket.put(origin.key, index)
    first, second, _ = _shards(index)
    place = origin.parent / second.name
    place.bucket.put(place.key, index.parent / first.name)
    known = shared_store(index, _digest(store))
    shared = SharedStore("/nowhere/i.shards.json", known.digest, str(origin), None, known.seal)
    with Store.open(shared) as opened, pytest.raises(UserError, match="what came is another store"):
        opened.image(3)
    assert fetched(index, cache) == []
    # The index of the same store in other files is another one.
    other = SharedStore("/nowhere/i.shards.json", known.digest, str(origin), None, "0" * 32)
    with pytest.raises(UserError, match="what came is another store"):
        os.fspath(other)


@pytest.mark.ray
def test_each_file_is_fetched_by_the_one_machine_that_reads_it(
    store: Path, index: Path, tmp_path: Path
) -> None:
    program = Path(__file__).with_name("sharded_cluster.py")
    words = [sys.executable, str(program), *map(str, (tmp_path / "machines", index, store))]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    machines = said["samples"]
    assert sorted(machines["one"] + machines["two"]) == [0, 1, 2]
    assert {len(machines["one"]), len(machines["two"])} == {1, 2}
    assert machines["driver"] == []
    # Whole images and a stream's index are read where the files are by now.
    assert said["all"] == machines
    assert said["equal"]
    assert said["images"]
    assert said["index"]
    assert said["again"], "what a lost machine had read was not made again"
