"""What all tests share: one thread, one small local Ray, real data where there is some."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from vesselflow.records.paths import AnyPath, any_path

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
    # Nobody asks the cloud who we are.
    AWS_METADATA_ENDPOINT="http://127.0.0.1:9",
)

# Time limits per example fail on a busy machine, not on wrong code.
settings.register_profile("vesselflow", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("vesselflow")


def _names_ray(path: Path) -> bool:
    text = path.read_text()
    return "mark.ray" in text or "ray_cluster" in text


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Where tests with a cluster are asked for, files without one are not even imported."""
    asked = config.getoption("markexpr").startswith("ray ")
    is_test = asked and collection_path.name.startswith("test_") and collection_path.suffix == ".py"
    return True if is_test and not _names_ray(collection_path) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever needs the cluster is marked so: `make test` runs those alone, one after another."""
    for item in items:
        needs = "ray_cluster" in getattr(item, "fixturenames", ())
        if needs and not item.get_closest_marker("bench"):
            item.add_marker(pytest.mark.ray)
    for path in {item.path for item in items if item.get_closest_marker("ray")}:
        if not _names_ray(path):
            raise pytest.UsageError(f"{path} needs a cluster, and must say so: pytest.mark.ray")


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
def s3_server() -> Iterator[str]:
    """The address of an S3 service on loopback, that forgets everything at the end."""
    from moto.server import ThreadedMotoServer

    # A line for each request would bury what a failing test says.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: Any) -> str:
    """The address of an empty bucket, ``s3://...?endpoint_override=...``; its cache is empty too.

    Processes that the test starts reach it as well.
    """
    import secrets

    import obstore
    from obstore.store import HTTPStore

    name = f"vessels-{secrets.token_hex(6)}"
    # A PUT without content makes a bucket.
    obstore.put(HTTPStore.from_url(s3_server, client_options={"allow_http": True}), name, b"")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("VESSELFLOW_CACHE", str(tmp_path_factory.mktemp("cache")))
    return f"s3://{name}?endpoint_override={s3_server}"


@pytest.fixture(params=["folder", "bucket"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> AnyPath:
    """Where results can be: a folder of this machine, then a prefix of a bucket."""
    if request.param == "folder":
        return tmp_path / "results"
    return any_path(request.getfixturevalue("bucket")) / "results"


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
