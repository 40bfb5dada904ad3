"""A store that another machine has: found, fetched once, verified, or refused in one line."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import pytest
import ray
from feed_stores import noise_store

from vesselflow.errors import UserError
from vesselflow.feed import ray_shared
from vesselflow.feed.batches import load_samples
from vesselflow.feed.blocks import tables
from vesselflow.feed.ray_resident import materialise
from vesselflow.feed.ray_shared import SharedStore, StoreDesk
from vesselflow.feed.view import View
from vesselflow.records.paths import any_path
from vesselflow.stores.store import Store

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
