"""What this machine offers, out of fabricated files and a fabricated driver."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vesselflow.sweeps import machine
from vesselflow.sweeps.machine import Limits, cgroup_limits, cpus_here, memory_here

GIB = 2**30


@pytest.fixture
def limits(tmp_path: Path):
    """Limits of a membership text and of files below the folder of control groups."""

    def read(membership: str, **files: str) -> Limits:
        (tmp_path / "membership").write_text(membership)
        for name, text in files.items():
            file = tmp_path / "groups" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return cgroup_limits(tmp_path / "membership", tmp_path / "groups")

    return read


def test_version_2_in_a_container(limits) -> None:
    files = {"cpu.max": "150000 100000\n", "memory.max": f"{4 * GIB}\n"}
    assert limits("0::/\n", **files) == Limits(1.5, 4 * GIB)


def test_the_tightest_of_the_groups_above_counts(limits) -> None:
    files = {
        "job/step/cpu.max": "max 100000\n",
        "job/cpu.max": "300000 100000\n",
        "cpu.max": "800000 100000\n",
        "job/step/memory.max": f"{3 * GIB}\n",
        "job/memory.max": "max\n",
    }
    assert limits("0::/job/step\n", **files) == Limits(3.0, 3 * GIB)


def test_version_1_where_the_path_is_the_hosts(limits) -> None:
    files = {
        "cpu,cpuacct/cpu.cfs_quota_us": "250000\n",
        "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        "memory/docker/ab/memory.limit_in_bytes": f"{2 * GIB}\n",
        "memory/memory.limit_in_bytes": "9223372036854771712\n",
    }
    membership = "4:memory:/docker/ab\n3:cpu,cpuacct:/docker/ab\n1:name=systemd:/\n0::/\n"
    assert limits(membership, **files) == Limits(2.5, 2 * GIB)


@pytest.mark.parametrize(
    ("membership", "files"),
    [
        ("", {}),
        ("nonsense\n0::/../..\n", {}),
        ("0::/\n", {"cpu.max": "max 100000", "memory.max": "max"}),
        ("0::/\n", {"cpu.max": "", "memory.max": "x"}),
        ("0::/\n", {"cpu.max": "100000 0", "memory.max": "0"}),
        ("2:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}),
        ("2:cpu:/\n", {"cpu/cpu.cfs_quota_us": "100000"}),
    ],
)
def test_no_limit_or_none_that_can_be_understood(limits, membership, files) -> None:
    assert limits(membership, **files) == Limits()


def test_this_machine_has_files_that_can_be_read() -> None:
    found = cgroup_limits()
    assert found.cpus is None or found.cpus > 0
    assert 1 <= cpus_here() <= len(os.sched_getaffinity(0))
    assert memory_here() > 0


@given(quota=st.none() | st.floats(0.01, 1e4), affinity=st.integers(1, 300))
def test_cpus_are_whole_and_at_least_one(quota, affinity) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine.os, "sched_getaffinity", lambda process: set(range(affinity)))
        found = cpus_here(Limits(cpus=quota))
    assert 1 <= found <= affinity
    if quota is None:
        assert found == affinity
    elif quota >= 1:
        assert found == min(affinity, int(quota + 1e-9))


def test_memory_is_at_most_the_machines_own() -> None:
    whole = memory_here(Limits())
    assert memory_here(Limits(memory=GIB)) == min(GIB, whole)
    assert memory_here(Limits(memory=whole + 1)) == whole


def test_a_quota_makes_the_plan_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: set(range(64)))
    monkeypatch.setattr(machine, "cgroup_limits", lambda: Limits(4.0, 8 * GIB))
    (node,) = machine.machine()
    assert node.cpus == 4
    assert node.memory <= 8 * GIB


@pytest.mark.parametrize(
    ("visible", "count"),
    [(None, 4), ("0,2", 2), ("", 0), ("-1", 0), ("1,-1,2", 1), ("NoDevFiles", 0), ("9,8,7,6,5", 4)],
)
def test_gpus_are_counted_as_the_driver_and_cuda_see_them(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, count: int
) -> None:
    class Driver:
        nvmlInit_v2 = staticmethod(lambda: 0)
        nvmlShutdown = staticmethod(lambda: 0)

        @staticmethod
        def nvmlDeviceGetCount_v2(pointer: Any) -> int:
            pointer._obj.value = 4
            return 0

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(machine.ctypes, "CDLL", lambda name: Driver)
    assert machine.gpus_here() == count


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(machine.ctypes, "CDLL", missing)
    assert machine.gpus_here() == 0
