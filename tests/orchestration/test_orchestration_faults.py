"""Real kills of a real sweep: the answer is the one that an undisturbed sweep gives."""

import random
import signal
import time

import fault_cases as cases
import pytest

from vesselflow.config.loading import load_space
from vesselflow.runs.registries import REGISTRIES
from vesselflow.sweeps.prepare import prepare

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The space, its results, and the tables of a sweep that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    space = cases.write_space(folder)
    results = folder / "results"
    output = cases.finish(cases.start(space, results))
    assert "runs: 4 done now, 0 before" in output
    return space, results, cases.tables(results)


def test_a_second_start_has_nothing_to_do(undisturbed):
    space, results, tables = undisturbed
    began = time.monotonic()
    output = cases.finish(cases.start(space, results))
    assert time.monotonic() - began < 15
    assert "runs: 0 done now, 4 before" in output
    assert "starting Ray" not in output
    assert cases.tables(results) == tables


def test_a_longer_grid_has_only_its_own_runs_to_do(undisturbed):
    file, results, _ = undisturbed
    space = load_space(file, overrides=["grid.loss.beta=[0.25,0.5,0.75]"], registries=REGISTRIES)
    missing = prepare(space, file, results).missing()
    assert [(cell.point.name, cell.spec.seed) for cell in missing] == [
        ("beta=0.5", 0),
        ("beta=0.5", 1),
    ]


def test_a_killed_slot_worker_and_then_a_killed_driver_change_no_table(undisturbed, tmp_path):
    space, _, tables = undisturbed
    results = tmp_path / "results"
    driver = cases.start(space, results)
    cases.wait_for_checkpoint(results, driver)
    cases.kill_slot_worker(driver)
    # Anywhere between the restart of the slot and its runs.
    time.sleep(random.uniform(0, 14))
    cases.kill_driver(driver)
    cases.finish(cases.start(space, results))
    assert cases.tables(results) == tables


def test_two_workers_a_stream_and_a_clean_stop_change_no_table(undisturbed, tmp_path):
    space, _, tables = undisturbed
    results = tmp_path / "results"
    more = ("--set", "resources.workers=2", "--set", "resources.feed=stream")
    driver = cases.start(space, results, *more)
    cases.wait_for_checkpoint(results, driver)
    driver.send_signal(signal.SIGINT)
    output, _ = driver.communicate(timeout=120)
    assert driver.returncode == 130, output
    assert "the same command carries on" in output
    assert "1 slot x 2 workers" in output
    assert "is streamed" in output
    cases.finish(cases.start(space, results, *more))
    assert cases.tables(results) == tables
