"""A sweep over stores in several files: the runs of the same stores in one file, not one more."""

from __future__ import annotations

from pathlib import Path

import pytest
from sweep_cases import done, prepared

from vesselflow.config.loading import load_space
from vesselflow.errors import UserError
from vesselflow.records.paths import any_path
from vesselflow.records.runs import RunRecord
from vesselflow.runs.registries import REGISTRIES
from vesselflow.stores.sharding import shard_store
from vesselflow.stores.store import Store
from vesselflow.stores.synth import make_synth
from vesselflow.sweeps.parcel import pack
from vesselflow.sweeps.stores_made import known_stores

SPACE = """
stores: {{a: "{a}", b: "{b}"}}
data: {{train: a, ood: [b], working_size_px: 64, patch: 32}}
split: {{folds: 3}}
folds: [0]
model: {{name: wnet, filters: [4, 8]}}
train: {{epochs: 1, steps_per_epoch: 1, micro_batch_size: 2}}
"""


@pytest.fixture
def stores(tmp_path: Path) -> Path:
    """A folder with two stores, each in one file and in several."""
    for name, count in (("a", 5), ("b", 2)):
        whole = tmp_path / f"{name}.h5"
        make_synth(whole, kind="fundus", sources=count, size_px=64, seed=count, domain=name)
        shard_store(whole, tmp_path / f"{name}.shards.json", sources_per_file=2)
    return tmp_path


def test_a_store_in_several_files_renames_no_run_and_trains_none_again(stores: Path) -> None:
    results = stores / "results"
    whole = prepared(results, SPACE.format(a="a.h5", b="b.h5"), "tiny")
    done(whole)
    assert whole.missing() == []
    sharded = prepared(results, SPACE.format(a="a.shards.json", b="b.shards.json"), "tiny")
    assert sharded.jobs() == []
    assert [row.cell for row in sharded.scored] == [row.cell for row in whole.scored]
    assert [row.value for row in sharded.scored] == [row.value for row in whole.scored]


def test_its_runs_have_the_same_numbers(stores: Path) -> None:
    sweeps = [
        prepared(stores / folder / "results", SPACE.format(a=stores / a, b=stores / b), "tiny")
        for folder, a, b in (
            ("one", "a.h5", "b.h5"),
            ("several", "a.shards.json", "b.shards.json"),
        )
        if not (stores / folder).mkdir()
    ]
    for sweep in sweeps:
        done(sweep)
    one, several = sweeps
    assert [row.value for row in one.scored] == [row.value for row in several.scored]
    weights = [
        RunRecord(sweep.results, row.cell.run.run_id).weights_path(1).read_bytes()
        for sweep in sweeps
        for row in sweep.scored
    ]
    assert len(weights) == 2
    assert weights[0] == weights[1]


def test_from_a_bucket_comes_what_is_read(
    stores: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = stores / "cache"
    monkeypatch.setenv("VESSELFLOW_CACHE", str(cache))
    folder = any_path(bucket.replace("?", "/data?"))
    with Store.open(stores / "a.shards.json") as store:
        shards, digest = store.shards, store.digest
    for name in ("a.shards.json", *(shard.name for shard in shards)):
        place = folder / name
        place.bucket.put(place.key, stores / name)
    file = stores / "far.yaml"
    file.write_text(SPACE.format(a=folder / "a.shards.json", b="b.h5"))
    space = load_space(file, registries=REGISTRIES)
    facts = known_stores(space, file, stores / "results")["a"]
    assert (facts.digest, len(facts.sources)) == (digest, 5)
    assert not list(cache.rglob("*.h5"))  # All that a plan needs stands in the index.
    with Store.open(facts.path) as store, Store.open(stores / "a.h5") as whole:
        assert store.image(4).tobytes() == whole.image(4).tobytes()
    assert [path.stem for path in cache.rglob("*.h5")] == [shards[2].digest]
    (folder / shards[0].name).unlink()
    with (
        Store.open(facts.path) as store,
        pytest.raises(UserError, match=r"no such object: s3://.*; put it beside the store's index"),
    ):
        store.image(0)


def test_it_is_sent_to_a_cluster_file_by_file_once(stores: Path, bucket: str) -> None:
    file = stores / "tiny.yaml"
    file.write_text(SPACE.format(a="a.shards.json", b="b.h5"))
    space = load_space(file, registries=REGISTRIES)
    results = any_path(bucket) / "results"
    said: list[str] = []
    parcels = []
    for name in ("first", "second"):
        (stores / name).mkdir()
        parcels.append(pack(space, results, stores / name, said.append))
    assert len(said) == 4  # three files of a, one of b; nothing twice
    assert parcels[0].overrides == parcels[1].overrides
    there = load_space(
        parcels[0].folder / parcels[0].space,
        registries=REGISTRIES,
        overrides=list(parcels[0].overrides),
    )
    facts = known_stores(there, there.file, results)
    for name in "ab":
        with Store.open(facts[name].path) as store, Store.open(stores / f"{name}.h5") as whole:
            assert store.digest == whole.digest
            assert store.image(1).tobytes() == whole.image(1).tobytes()
    # A file that is not there is told before anything is sent.
    with Store.open(stores / "a.shards.json") as store:
        (stores / store.shards[1].name).unlink()
    (stores / "third").mkdir()
    with pytest.raises(UserError, match=r"tiny.yaml: stores.a: .*no such file"):
        pack(space, any_path(bucket) / "other", stores / "third", said.append)
