from __future__ import annotations

import logging
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import pytest
import ray
from feed_stores import assert_same_batch, noise_source, noise_store

from vesselflow.errors import UserError
from vesselflow.feed.batches import Batch, load_images, load_samples
from vesselflow.feed.blocks import table_bytes
from vesselflow.feed.draws import Uniform
from vesselflow.feed.order import share
from vesselflow.feed.ray_datasource import StoreDatasource
from vesselflow.feed.ray_resident import (
    Resident,
    ResidentSamples,
    hold,
    materialise,
    read_small,
)
from vesselflow.feed.ray_stream import (
    NodeRoom,
    StreamBatches,
    StreamSamples,
    choose,
    streamed,
)
from vesselflow.feed.sampling import SAMPLING
from vesselflow.feed.view import View
from vesselflow.stores.store import Store, write_store

FULL = View(working_size_px=96, patch="full", stride=None, min_fov=0.0, divisor=32)
RESIZED = replace(FULL, working_size_px=100, patch=64, stride=24, min_fov=0.5)
NATIVE = replace(FULL, working_size_px=None, patch=64, stride=24, min_fov=0.5)


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return noise_store(tmp_path_factory.mktemp("noise") / "n.h5")


def held(path: Path, view: View, kind: Literal["samples", "images"] = "samples") -> Resident[Any]:
    table = read_small(path, view, kind)
    assert table is not None
    return hold(table, kind)


def uniform(n: int, seed: int) -> Uniform:
    return Uniform(table=None, rows=np.arange(n), seed=seed)


BOTH = pytest.mark.parametrize("resident", [materialise, held], ids=["by tasks", "small"])


def test_a_store_is_small_up_to_a_limit(noise: Path) -> None:
    for kind in ("samples", "images"):
        with Store.open(noise) as store:
            size = table_bytes(store, FULL, kind)
        assert read_small(noise, FULL, kind, size) is not None
        assert read_small(noise, FULL, kind, size - 1) is None


def test_small_data_do_not_load_ray_data(noise: Path) -> None:
    """Neither its reader nor the worker that opens it: that costs each of them seconds."""
    code = f"""
import sys
from vesselflow.feed import ray_data
from vesselflow.feed.ray_resident import ResidentSamples, read_small
from vesselflow.feed.view import View
table = read_small({str(noise)!r}, {NATIVE!r})
before = set(sys.modules)
ResidentSamples([table], ())
print("ray.data" in sys.modules, "pandas" in set(sys.modules) - before)
"""
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert found.stdout.split() == ["False", "False"]


def test_what_fits_is_resident() -> None:
    large = NodeRoom(object_store=100, memory=1000)
    assert choose(70, [large]) == "resident"
    assert choose(71, [large]) == "stream"
    assert choose(0, [NodeRoom(0, 0)]) == "resident"


def test_the_node_with_the_least_room_decides() -> None:
    large = NodeRoom(object_store=1000, memory=1000)
    assert choose(200, [large, large]) == "resident"
    # An object store is only promised memory: half of what is free is for those who train.
    assert choose(200, [large, NodeRoom(object_store=1000, memory=399)]) == "stream"
    assert choose(200, [large, NodeRoom(object_store=1000, memory=400)]) == "resident"
    assert choose(200, [NodeRoom(object_store=285, memory=1000), large]) == "stream"
    assert choose(0, []) == "stream"


def test_read_tasks_cover_the_store_once(noise: Path) -> None:
    source = StoreDatasource(str(noise), NATIVE)
    memory = load_samples(noise, NATIVE)
    for parallelism in (1, 4, 100):
        tasks = source.get_read_tasks(parallelism)
        assert len(tasks) == min(parallelism, 6)
        tables = [table for task in tasks for table in task()]
        found = np.concatenate([np.asarray(table["source"]) for table in tables])
        np.testing.assert_array_equal(found, memory.source)


@pytest.mark.ray
@BOTH
@pytest.mark.parametrize("view", [FULL, RESIZED, NATIVE], ids=["full", "resized", "native"])
def test_resident_samples_are_those_in_memory(
    ray_cluster: None, noise: Path, view: View, resident: Callable[..., Resident[Any]]
) -> None:
    memory, handle = load_samples(noise, view), resident(noise, view)
    opened = handle.open()
    assert handle.n == opened.n == memory.n
    assert handle.nbytes >= sum(block.nbytes for block in memory.blocks)
    np.testing.assert_array_equal(opened.source, memory.source)
    asked = np.random.default_rng(0).integers(0, memory.n, 20)
    assert_same_batch(opened.gather(asked), memory.gather(asked))
    assert not any(block.flags.writeable for block in opened.blocks)


@pytest.mark.ray
@BOTH
def test_resident_images_are_those_in_memory(
    ray_cluster: None, noise: Path, resident: Callable[..., Resident[Any]]
) -> None:
    handle = resident(noise, FULL, "images")
    opened, memory = handle.open(), load_images(noise, FULL)
    assert opened.ids == memory.ids
    assert handle.n == len(opened) == len(memory)
    for one, other in zip(opened, memory, strict=True):
        assert not one.image.flags.writeable
        for name in type(other).__dataclass_fields__:
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.ray
def test_rows_are_in_store_order_whatever_order_blocks_arrive_in(
    ray_cluster: None, noise: Path
) -> None:
    handle = materialise(noise, NATIVE)
    assert len(handle.refs) > 1
    shuffled = replace(handle, refs=handle.refs[::-1])
    everything = np.arange(handle.n)
    assert_same_batch(shuffled.open().gather(everything), handle.open().gather(everything))


@ray.remote(num_cpus=0)
class _Reader:
    """A worker that opens resident data and looks at all of it."""

    def look(self, handle: Resident[ResidentSamples]) -> tuple[int, int]:
        ray.get(list(handle.refs))  # whatever reading takes once is not the data's size
        before = psutil.Process().memory_full_info().uss
        self.opened = handle.open()
        total = sum(int(block.sum(dtype=np.int64)) for block in self.opened.blocks)
        return total, psutil.Process().memory_full_info().uss - before


@pytest.mark.ray
@BOTH
def test_two_workers_share_one_copy(
    ray_cluster: None, noise: Path, resident: Callable[..., Resident[Any]]
) -> None:
    handle = resident(noise, replace(NATIVE, stride=4))
    assert handle.nbytes > 30e6
    readers = [_Reader.remote() for _ in range(2)]
    found = ray.get([reader.look.remote(handle) for reader in readers])
    # Again, when both hold the blocks: now each page is mapped by two processes.
    found = ray.get([reader.look.remote(handle) for reader in readers])
    assert found[0][0] == found[1][0] > 0
    for _, grown in found:
        assert grown < handle.nbytes / 5
    for reader in readers:
        ray.kill(reader)


@pytest.mark.ray
def test_a_store_without_a_sample_is_refused(ray_cluster: None, noise: Path) -> None:
    view = replace(NATIVE, patch=512, stride=512, min_fov=1.0)
    for read in (materialise, read_small, StreamSamples):
        with pytest.raises(UserError, match="no patch of 512 px"):
            read(noise, view)


@pytest.mark.ray
def test_a_source_without_a_patch_gives_no_rows(ray_cluster: None, tmp_path: Path) -> None:
    bare = noise_source(1)
    fov = np.zeros_like(bare.fov)
    fov[5:120, 5] = 1
    path = tmp_path / "bare.h5"
    sources = [noise_source(0), replace(bare, fov=fov), noise_source(2)]
    write_store(path, sources, domain="noise", importer={"name": "test"})
    memory = load_samples(path, NATIVE)
    everything = np.arange(memory.n)
    for resident in (materialise, held):
        opened = resident(path, NATIVE).open()
        assert set(opened.source.tolist()) == {0, 2}
        assert_same_batch(opened.gather(everything), memory.gather(everything))
    assert_same_batch(StreamSamples(path, NATIVE).gather(everything), memory.gather(everything))


@pytest.mark.ray
@pytest.mark.parametrize("view", [FULL, RESIZED, NATIVE], ids=["full", "resized", "native"])
def test_a_stream_gives_what_memory_gives(
    ray_cluster: None, noise: Path, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Small pieces, so that several are read ahead and their order matters.
    monkeypatch.setattr("vesselflow.feed.ray_stream.PIECE_BYTES", 200_000)
    memory, stream = load_samples(noise, view), StreamSamples(noise, view)
    np.testing.assert_array_equal(stream.source, memory.source)
    asked = np.array([3, 0, 3, memory.n - 1])
    assert_same_batch(stream.gather(asked), memory.gather(asked))
    seen, draws = 0, uniform(memory.n, 4)
    for workers, rank in ((1, 0), (2, 0), (2, 1)):
        batches = stream.batches(
            draws,
            position=5,
            steps=3,
            micro_batch_size=3,
            micro_batches_per_step=2,
            workers=workers,
            rank=rank,
        )
        wanted = [5 + (s * 2 + m) * 3 for s in range(3) for m in share(2, workers, rank)]
        for at, batch in zip(wanted, batches, strict=True):
            assert_same_batch(batch, memory.gather(draws.at(at, 3)))
            seen += 1
    assert seen == 6 + 3 + 3


@pytest.mark.ray
@pytest.mark.parametrize("rule", [{"name": "uniform"}, {"name": "class", "share": 0.3}], ids=str)
def test_a_stream_in_windows_gives_what_memory_gives(
    ray_cluster: None, noise: Path, rule: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For 1, 2 and 3 workers, from any step on, over ends of windows and of cycles."""
    memory = load_samples(noise, NATIVE)
    size = memory.table.layout.nbytes
    monkeypatch.setattr("vesselflow.feed.ray_stream.PIECE_BYTES", 5 * size)
    stream = StreamSamples(noise, NATIVE, ahead_bytes=40 * size)
    rows = np.flatnonzero(memory.source != 2)
    draws = SAMPLING.build(rule, table=memory.table, rows=rows, seed=1, window=11)
    steps, epoch = 3 * len(rows) // 12, 4
    begins = {1: 0, 2: 5, 3: 9}
    for workers, begin in begins.items():
        for rank in range(workers):
            batches = StreamBatches(
                stream,
                draws,
                steps=steps,
                steps_per_epoch=epoch,
                micro_batch_size=3,
                micro_batches_per_step=4,
                workers=workers,
                rank=rank,
            )
            for step in range(begin, steps if workers == 1 else begin + epoch):
                for index in share(4, workers, rank):
                    wanted = draws.at((step * 4 + index) * 3, 3)
                    assert_same_batch(batches.batch(step, index), memory.gather(wanted))
            batches.close()


@pytest.mark.ray
def test_a_reader_that_is_killed_is_replaced(
    ray_cluster: None, noise: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vesselflow.feed.ray_stream.PIECE_BYTES", 1)
    memory, stream = load_samples(noise, NATIVE), StreamSamples(noise, NATIVE)
    plan = [np.array([row]) for row in range(memory.n)]
    for place, batch in enumerate(stream.stream(plan)):
        assert_same_batch(batch, memory.gather(plan[place]))
        if place == 3:
            mine = psutil.Process().children(recursive=True)
            readers = [each for each in mine if "_Reader" in " ".join(each.cmdline())]
            assert readers
            for reader in readers:
                reader.kill()


@pytest.mark.ray
def test_a_stream_keeps_its_order_when_a_later_piece_is_read_first(
    ray_cluster: None, noise: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vesselflow.feed.ray_stream.PIECE_BYTES", 1)  # one sample each
    memory, stream = load_samples(noise, NATIVE), StreamSamples(noise, NATIVE)
    slow = np.tile(np.arange(memory.n), 4)
    plan = [slow, np.array([1]), slow[::-1], np.array([0]), np.array([2])]
    for batch, rows in zip(stream.stream(plan), plan, strict=True):
        assert_same_batch(batch, memory.gather(rows))


@pytest.mark.ray
def test_a_stream_of_some_sources(ray_cluster: None, noise: Path) -> None:
    memory, stream = load_samples(noise, NATIVE), StreamSamples(noise, NATIVE, [4, 1])
    np.testing.assert_array_equal(stream.rows, np.flatnonzero(np.isin(memory.source, [1, 4])))
    draws = Uniform(table=stream.table, rows=stream.rows, seed=0)
    (batch,) = stream.batches(
        draws, position=0, steps=1, micro_batch_size=len(stream.rows), micro_batches_per_step=1
    )
    assert set(batch.source.tolist()) == {1, 4}
    with pytest.raises(IndexError, match="asked for"):
        StreamSamples(noise, NATIVE, [6])


@pytest.mark.ray
def test_a_loop_may_begin_and_resume_a_stream_anywhere(ray_cluster: None, noise: Path) -> None:
    memory = load_samples(noise, NATIVE)
    rule = {"name": "class", "share": 0.5}
    draws = SAMPLING.build(rule, table=memory.table, rows=np.arange(memory.n), seed=1)
    batches = StreamBatches(
        StreamSamples(noise, NATIVE),
        draws,
        steps=50,
        steps_per_epoch=10,
        micro_batch_size=2,
        micro_batches_per_step=4,
        workers=2,
        rank=1,
    )
    for step, index in ((3, 2), (3, 3), (4, 2), (9, 3), (10, 2), (0, 2)):
        rows = draws.at((step * 4 + index) * 2, 2)
        assert_same_batch(batches.batch(step, index), memory.gather(rows))
    for step, index in ((0, 1), (50, 2), (-1, 2)):
        with pytest.raises(IndexError, match="not this worker's"):
            batches.batch(step, index)
    batches.close()
    batches.close()


@pytest.mark.ray
def test_a_dataset_is_one_epoch(
    ray_cluster: None, noise: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, stream = load_samples(noise, NATIVE), StreamSamples(noise, NATIVE)
    plans: list[int] = []
    true = StreamSamples.stream

    def noting(self: StreamSamples, plan: list[np.ndarray]) -> Iterator[Batch]:
        plans.append(len(plan))
        return true(self, plan)

    monkeypatch.setattr(StreamSamples, "stream", noting)
    # They change at the end of each epoch, and only there.
    rule = {"name": "hard", "share": 1.0, "power": 2.0}
    draws = SAMPLING.build(rule, table=memory.table, rows=np.arange(memory.n), seed=1)
    batches = StreamBatches(
        stream, draws, steps=11, steps_per_epoch=4, micro_batch_size=3, micro_batches_per_step=2
    )
    for step in range(2, 11):  # resumed within the first epoch; the last one is cut short
        for index in range(2):
            rows = draws.at((step * 2 + index) * 3, 3)
            assert_same_batch(batches.batch(step, index), memory.gather(rows))
            draws.learn((step * 2 + index) * 3, rows.astype(np.float64))
        if step % 4 == 3:
            draws.end_epoch()
    assert plans == [2 * 2, 4 * 2, 3 * 2]


@pytest.mark.ray
def test_the_index_is_read_once_for_all_who_open_a_stream(
    ray_cluster: None, noise: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, handle = load_samples(noise, RESIZED), streamed(noise, RESIZED, "samples")
    monkeypatch.setattr("vesselflow.feed.ray_stream.read_index", None)
    for _ in range(2):
        opened = pickle.loads(pickle.dumps(handle)).open()
        np.testing.assert_array_equal(opened.source, memory.source)
        asked = np.array([3, 0, memory.n - 1])
        assert_same_batch(opened.gather(asked), memory.gather(asked))
    assert streamed(noise, FULL, "images").open().ids == load_images(noise, FULL).ids


@ray.remote
def _stream_within(path: str) -> int:
    stream = StreamSamples(path, NATIVE)
    # Nothing of this file: the worker does not have it.
    draws = Uniform(table=None, rows=np.arange(stream.n), seed=0)
    batches = stream.batches(
        draws, position=0, steps=500, micro_batch_size=4, micro_batches_per_step=1
    )
    total = sum(int(next(batches).image[0, 0, 0, 0]) for _ in range(3))
    batches.close()
    return total + int(materialise(path, FULL).open().n)


@pytest.mark.ray
def test_the_feed_needs_no_cpu(ray_cluster: None, noise: Path) -> None:
    every = int(ray.cluster_resources()["CPU"])
    task = _stream_within.options(num_cpus=every).remote(str(noise))
    assert ray.get(task, timeout=60) > 0


@pytest.mark.ray
def test_notices_of_ray_data_come_back(ray_cluster: None, noise: Path) -> None:
    logger = logging.getLogger("ray.data")
    before = logger.level
    materialise(noise, FULL)
    list(StreamSamples(noise, FULL).stream([np.array([0])]))
    assert logger.level == before
