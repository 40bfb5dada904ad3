"""Ray's own autoscaler, and a sweep that has it fetch machines and let them go."""

import fault_cases as cases
import pytest
import scaling_cases

pytestmark = pytest.mark.ray

TYPES = {
    "cheap": {"resources": {"CPU": 1, "spot": 1000}, "max_workers": 2},
    "dear": {"resources": {"CPU": 1, "on_demand": 1000}, "max_workers": 2},
}
#: The sweep, which lets on-demand machines go as soon as there is a spot machine again.
CODE = (
    "from vesselflow.sweeps import wishes; wishes.BACK_S = 0.0; "
    "from vesselflow.cli.main import command; command()"
)


def test_a_cluster_grows_from_nothing_falls_back_returns_and_ends_at_nothing(undisturbed, tmp_path):
    space, _, tables = undisturbed
    results = tmp_path / "results"
    with scaling_cases.scaled(TYPES, idle_s=3) as cluster:
        cluster.without.write_text("cheap")
        more = ("--address", cluster.address, "--set", "resources.slots=1")
        env = {"VESSELFLOW_ON_DEMAND_AFTER_S": "5"}
        driver = cases.start(space, results, *more, env=env, python=("-c", CODE))
        try:
            # No spot machine can be had: after a while an on-demand one comes.
            cluster.until(["on_demand"], 120)
            cases.wait_for_checkpoint(results, driver)
            assert cluster.machines() == ["on_demand"]
            cluster.without.unlink()
            # A spot machine comes, the run moves there, and the other one goes.
            cluster.until(["spot"], 120)
            output = cases.finish(driver)
        finally:
            driver.kill()
        assert "waits for machines: no machine carries a slot of 1 worker x 1 CPU" in output
        assert "on-demand ones are asked for until there are 1" in output
        assert "(spot machines are back); its run goes elsewhere" in output
        assert cases.tables(results) == tables
        # The sweep asks for nothing any more: the machine is idle, and goes.
        cluster.until([], 120)
