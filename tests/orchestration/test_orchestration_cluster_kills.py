"""Real kills of a real Ray: one line, exit code 1, nothing left behind."""

import signal
import time
from collections.abc import Iterator

import cluster_cases as cases
import pytest

pytestmark = pytest.mark.ray


@pytest.fixture
def start(tmp_path) -> Iterator[cases.Drivers]:
    """Starts drivers and clusters of others; none is left at the end."""
    drivers = cases.Drivers(tmp_path / "driver.log")
    yield drivers
    drivers.end()


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("gcs_server", "Ray's control service (gcs_server) ended"),
        ("raylet", "Ray's node manager on this machine (raylet) ended"),
    ],
)
def test_a_killed_part_of_ray_is_one_line(start, name, what) -> None:
    # Nobody answers there: a Ray of its own is started all the same.
    driver = start(RAY_ADDRESS="127.0.0.1:1")
    said = cases.wait_until_ready(driver)
    assert said[1] == "nodes [1.0]"
    family = cases.family(driver)
    cases.kill(driver, name)
    killed = time.monotonic()
    out, err = driver.communicate(timeout=cases.PATIENCE_S)
    # The goal; it takes one to two seconds, where Ray itself takes 15 to 60.
    assert time.monotonic() - killed < 20
    assert driver.returncode == 1, (out, err)
    assert out == f"ClusterLost: {what}; what Ray said stands in {start.log}\n"
    assert err == ""
    assert start.log.read_text().startswith("--- ")
    assert cases.alive(family) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_ray_and_gives_stderr_back(start, number) -> None:
    driver = start()
    cases.wait_until_ready(driver)
    family = cases.family(driver)
    driver.send_signal(number)
    out, err = driver.communicate(timeout=cases.PATIENCE_S)
    # The stop comes while work is attended, or between.
    assert (driver.returncode, out, err) in [
        (130, "", "stopped\n"),
        (1, "Stopped: stopped before the first run began\n", ""),
    ]
    # Ray's C++ had its own handler over SIGTERM: a stack trace, and in a sweep an abort.
    assert "SIGTERM received" not in start.log.read_text()
    assert cases.alive(family) == []


def test_a_cluster_of_others_is_joined_by_its_token_and_missed_when_it_dies(start) -> None:
    tokens = [{"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": letter * 32} for letter in "ab"]
    other = start.other(**tokens[0])
    assert other.stdout is not None
    address = other.stdout.readline().strip()
    refused = start(address, **tokens[1])
    out, err = refused.communicate(timeout=cases.PATIENCE_S)
    assert (refused.returncode, err) == (1, "")
    assert out.startswith(f"UserError: --address: the Ray cluster at {address} wants another ")
    joined = start(address, **tokens[0])
    assert cases.wait_until_ready(joined)[1] == "nodes [1.0]"
    cases.kill(other, "gcs_server")
    killed = time.monotonic()
    out, err = joined.communicate(timeout=cases.PATIENCE_S)
    # Refused for 15 s; Ray's C++ would end the process after 60.
    assert time.monotonic() - killed < 40
    assert (joined.returncode, err) == (1, "")
    assert out.startswith(f"ClusterLost: Ray's control service at {address} has not answered ")
    assert out.endswith(f"; what Ray said stands in {start.log}\n")
