"""Real kills of a real Ray: one line, exit code 1, nothing left behind."""

import signal
import time

import cluster_cases as cases
import pytest

pytestmark = pytest.mark.ray


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("gcs_server", "Ray's control service (gcs_server) ended"),
        ("raylet", "Ray's node manager on this machine (raylet) ended"),
    ],
)
def test_a_killed_part_of_ray_is_one_line(tmp_path, name, what) -> None:
    log = tmp_path / "driver.log"
    # Nobody answers there: a Ray of its own is started all the same.
    driver = cases.start(log, RAY_ADDRESS="127.0.0.1:1")
    said = cases.wait_until_ready(driver)
    assert said[1] == "nodes [1.0] True"
    family = cases.family(driver)
    cases.kill(driver, name)
    killed = time.monotonic()
    out, err = driver.communicate(timeout=60)
    # The goal; it takes one to two seconds, where Ray itself takes 15 to 60.
    assert time.monotonic() - killed < 20
    assert driver.returncode == 1, (out, err)
    assert out == f"ClusterLost: {what}; what Ray said stands in {log}\n"
    assert err == ""
    assert log.read_text().startswith("--- ")
    assert cases.alive(family) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_ray_and_gives_stderr_back(tmp_path, number) -> None:
    driver = cases.start(tmp_path / "driver.log")
    cases.wait_until_ready(driver)
    family = cases.family(driver)
    driver.send_signal(number)
    out, err = driver.communicate(timeout=60)
    # The stop comes while work is attended, or between.
    assert (driver.returncode, out, err) in [
        (130, "", "stopped\n"),
        (1, "Stopped: stopped before the first run began\n", ""),
    ]
    assert cases.alive(family) == []
