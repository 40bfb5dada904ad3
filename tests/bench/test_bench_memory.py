"""The memory bench: what it weighs, and a whole run of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from vesselflow.bench import memory as bench
from vesselflow.config.loading import load_space
from vesselflow.errors import VesselflowError
from vesselflow.runs.registries import REGISTRIES
from vesselflow.stores.store import Store


def test_processes_are_called_by_what_they_do() -> None:
    assert bench._kind("ray::_Reader", ["ray::_Reader.read"]) == "readers of the stream"
    assert bench._kind("ray::SlotWorker", ["ray::SlotWorker.serve"]) == "the slot's worker"
    assert bench._kind("ray::Broker", ["ray::Broker"]) == "other processes of Ray"
    assert bench._kind("raylet", ["/x/raylet", "--a"]) == "the object store's raylet"
    assert bench._kind("zombie", []) == "other processes of Ray"


def test_children_are_weighed_as_well() -> None:
    code = "x = b'1' * 80_000_000; print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        found, family = bench._held(os.getpid())
        child.kill()
    assert psutil.Process(os.getpid()) in family
    assert child.pid in [each.pid for each in family]
    assert found["the command"] > 0
    assert found["other processes of Ray"] > 80_000_000
    # One that has ended weighs nothing.
    assert bench._held(child.pid) == ({}, [])


def test_its_spaces_are_spaces(tmp_path: Path) -> None:
    for name, sources in (("idle", 4), ("large", 12)):
        lines: list[str] = []
        file = bench._space(tmp_path, name, sources, 256, lines.append)
        space = load_space(file, registries=REGISTRIES)
        (point,) = space.expand().points
        assert point.experiment.data.window == 1024
        assert space.resources.feed == "stream"
        assert lines == [f"writing {sources} images of 256 px"]
        with Store.open(tmp_path / f"{name}.h5") as store:
            assert len(store.sources) == sources


def test_a_sweep_that_fails_is_no_figure(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("name: x\nstores: {a: nowhere.h5}\n")
    with pytest.raises(VesselflowError, match=r"a sweep failed: .*nowhere\.h5"):
        bench._peak(tmp_path / "space.yaml", tmp_path / "results", bench.OBJECT_STORE_BYTES)


@pytest.mark.bench
def test_the_bench_weighs_two_sweeps() -> None:
    found = bench.memory(object_store=80 * 2**20)
    assert found["name"] == "memory"
    assert [row["unit"] for row in found["peers"].values()] == ["GiB", "GiB"]
    assert found["targets"][0]["met"]
    assert found["tables"][0]["rows"]
