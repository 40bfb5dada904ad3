"""What all tests share: one thread, one small local Ray, real data where there is some."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Before anything imports torch, ray or matplotlib; processes that tests start inherit them.
os.environ.update(
    # One and two threads give different bits in a convolution's backward pass. Which of them must
    # not matter to any test: VESSELFLOW_TEST_THREADS=2 tries the other.
    OMP_NUM_THREADS=os.environ.get("VESSELFLOW_TEST_THREADS", "1"),
    MKL_NUM_THREADS=os.environ.get("VESSELFLOW_TEST_THREADS", "1"),
    MPLBACKEND="Agg",
    # No token in the home folder, no statistics sent, no warning about zero GPUs.
    RAY_AUTH_MODE="disabled",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
    RAY_TRAIN_V2_ENABLED="1",
    # Ray starts its workers at niceness 15: beside other tests they would hardly run.
    RAY_worker_niceness="0",
)

# Time limits per example fail on a busy machine, not on wrong code.
settings.register_profile("vesselflow", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("vesselflow")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever needs the cluster is marked so: `make test` runs those alone, one after another."""
    for item in items:
        needs = "ray_cluster" in getattr(item, "fixturenames", ())
        if needs and not item.get_closest_marker("bench"):
            item.add_marker(pytest.mark.ray)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data, holding ``chase/`` and ``stare/``."""
    named = os.environ.get("VESSELFLOW_TEST_DATA", "")
    if not named:
        pytest.skip("VESSELFLOW_TEST_DATA names no folder of real data")
    folder = Path(named)
    missing = [name for name in ("chase", "stare") if not (folder / name).is_dir()]
    # A name that leads nowhere is a mistake, and skipping would hide it.
    assert not missing, f"VESSELFLOW_TEST_DATA={named} has no folder {' and no '.join(missing)}"
    return folder


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local Ray with two CPUs, started once."""
    import ray

    if ray.is_initialized():
        yield
        return
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=300 * 2**20,
    )
    yield
    ray.shutdown()
