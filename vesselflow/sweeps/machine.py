"""What this machine offers: CPUs, memory and graphics cards, as a container limits them."""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import psutil

from vesselflow.sweeps.capacity import Node

#: Which control groups this process belongs to, and where they are described.
MEMBERSHIP = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")
#: cgroup v1 writes "no limit" as a number of pages near 2^63.
_NO_LIMIT = 1 << 60


@dataclass(frozen=True)
class Limits:
    """What the control groups of this process (a container, a batch job) allow it.

    Attributes:
        cpus: CPUs' worth of time, 1.5 for instance; None without a limit.
        memory: Bytes; None without a limit.
    """

    cpus: float | None = None
    memory: int | None = None


def machine() -> list[Node]:
    """This machine, as a Ray that is started on it sees it."""
    return [Node(float(cpus_here()), float(gpus_here()), memory=memory_here())]


def cpus_here(limits: Limits | None = None) -> int:
    """CPUs that this process may use: those of its affinity, at most its quota, at least 1.

    Args:
        limits: Of the control groups; read when None. A broken quota is rounded down, because
            threads that share less than a CPU each only take turns.
    """
    limits = cgroup_limits() if limits is None else limits
    here = len(os.sched_getaffinity(0))
    return here if limits.cpus is None else max(1, min(here, math.floor(limits.cpus + 1e-9)))


def memory_here(limits: Limits | None = None) -> int:
    """Bytes of memory of this machine, at most what the control groups allow."""
    limits = cgroup_limits() if limits is None else limits
    total = int(psutil.virtual_memory().total)
    return total if limits.memory is None else min(total, limits.memory)


def cgroup_limits(membership: Path = MEMBERSHIP, groups: Path = GROUPS) -> Limits:
    """The tightest limits of the control groups of this process and of those above them.

    Both versions are read. A container may see its own group as the root, or (version 1) a path
    of the host that it has no folder for: then the root of what it sees counts.

    Args:
        membership: As /proc/self/cgroup: lines "hierarchy:controllers:path".
        groups: As /sys/fs/cgroup.

    Returns:
        No limits where there are none, no control groups or none that can be understood.
    """
    cpus: list[float] = []
    memory: list[int] = []
    for controllers, path in _memberships(membership):
        if not controllers:  # Version 2: one hierarchy for all.
            for folder in _upwards(groups, path):
                cpus += _quota(*_words(folder / "cpu.max", 2))
                memory += _bytes(_words(folder / "memory.max", 1)[0])
        if "cpu" in controllers:
            for folder in _upwards(_mounted(groups, controllers, "cpu"), path):
                quota, period = "cpu.cfs_quota_us", "cpu.cfs_period_us"
                cpus += _quota(_words(folder / quota, 1)[0], _words(folder / period, 1)[0])
        if "memory" in controllers:
            for folder in _upwards(_mounted(groups, controllers, "memory"), path):
                memory += _bytes(_words(folder / "memory.limit_in_bytes", 1)[0])
    return Limits(min(cpus, default=None), min(memory, default=None))


def _memberships(file: Path) -> Iterator[tuple[frozenset[str], PurePosixPath]]:
    for line in _text(file).splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            controllers = frozenset(name for name in parts[1].split(",") if name)
            yield controllers, PurePosixPath(parts[2].lstrip("/"))


def _mounted(groups: Path, controllers: frozenset[str], name: str) -> Path:
    """Where a controller of version 1 is described: "cpu", or "cpu,cpuacct" together."""
    if (groups / name).is_dir():
        return groups / name
    together = (entry for entry in groups.glob("*,*") if set(entry.name.split(",")) == controllers)
    return next(together, groups / name)


def _upwards(base: Path, path: PurePosixPath) -> Iterator[Path]:
    """The folder of a group and of each group above it."""
    inside = PurePosixPath(*(part for part in path.parts if part != ".."))
    yield base / inside
    for parent in inside.parents:
        if parent != inside:
            yield base / parent


def _quota(quota: str, period: str) -> list[float]:
    """CPUs of a quota, in a list; "max" and -1 are none."""
    try:
        share = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return []
    return [share] if share > 0 else []


def _bytes(word: str) -> list[int]:
    try:
        limit = int(word)
    except ValueError:
        return []
    return [limit] if 0 < limit < _NO_LIMIT else []


def _words(file: Path, count: int) -> list[str]:
    """The first words of a file, "" for each that is missing."""
    words = _text(file).split()[:count]
    return words + [""] * (count - len(words))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def gpus_here() -> int:
    """GPUs of this machine that CUDA may use, counted as Ray counts them but without it.

    The driver's own library (NVML) is asked; where it is missing there is no NVIDIA GPU.
    CUDA_VISIBLE_DEVICES hides all but those that it names.
    """
    try:
        driver = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return 0
    count = ctypes.c_uint(0)
    if driver.nvmlInit_v2() != 0:
        return 0
    try:
        if driver.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
            return 0
    finally:
        driver.nvmlShutdown()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return count.value
    named = [entry.strip() for entry in visible.split(",")]
    # CUDA reads the list up to the first entry that is none.
    end = next((n for n, entry in enumerate(named) if entry in ("", "-1", "NoDevFiles")), None)
    return min(count.value, len(named[:end]))
