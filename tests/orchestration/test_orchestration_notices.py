"""Machines that come late and leave with notice: no step is repeated, no number changes."""

import time

import fault_cases as cases
import notice_cases
import pytest
from ray.cluster_utils import Cluster

pytestmark = pytest.mark.ray


def test_a_sweep_waits_for_machines_and_leaves_one_that_is_given_notice(undisturbed, tmp_path):
    space, _, tables = undisturbed
    results = tmp_path / "results"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        # With no retry, a death that was charged to a run would fail it.
        more = ("--address", cluster.address, "--set", "resources.retries=0")
        driver = cases.start(space, results, *more)
        said = cases.lines_until(driver, "waits for machines: no machine carries a slot of 1 wor")
        time.sleep(3)
        assert driver.poll() is None
        going = cluster.add_node(num_cpus=1)
        with notice_cases.watched(going.node_id, cluster.address, tmp_path / "log") as service:
            cases.wait_for_checkpoint(results, driver)
            raylet = going.all_processes["raylet"][0].process
            # Its first run is young, and would be over before a busy machine hears of the notice.
            with notice_cases.slow_slots(raylet.pid):
                cluster.add_node(num_cpus=1)
                service.tell("spot 118")
                said += cases.lines_until(driver, "(spot notice: terminate at ")
            # A drained node ends when its last work has, long before the machine goes.
            cases.wait_until(lambda: raylet.poll() is not None, driver, 60)
            output = "".join(said) + cases.finish(driver)
        assert "machines are there, after" in output
        assert "drained in " in (tmp_path / "log").read_text()
        trained = notice_cases.trained(results)
        assert {sum(steps) for steps in trained.values()} == {30}, "a step was trained twice"
        assert max(len(steps) for steps in trained.values()) == 2, "nothing was disturbed"
        assert cases.tables(results) == tables
    finally:
        cluster.shutdown()
