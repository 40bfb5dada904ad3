"""Real kills of a real sweep: the answer is the one that an undisturbed sweep gives."""

import errno
import random
import signal
import time
import urllib.request

import fault_cases as cases
import pytest
from ray.cluster_utils import Cluster

from vesselflow.config.loading import load_space
from vesselflow.orchestration.cluster import HEAD
from vesselflow.records.atomic import read_json
from vesselflow.runs.registries import REGISTRIES
from vesselflow.sweeps.planning import prepare

pytestmark = pytest.mark.ray


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
    missing = prepare(space, results).missing()
    assert [(cell.point, cell.run.seed) for cell in missing] == [
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


def test_a_killed_worker_of_two_and_a_clean_stop_change_no_table(undisturbed, tmp_path):
    space, _, tables = undisturbed
    results = tmp_path / "results"
    more = ("--set", "resources.workers=2", "--set", "resources.feed=stream")
    driver = cases.start(space, results, *more)
    cases.wait_for_checkpoint(results, driver)
    # Rank 1: rank 0 finds the connection broken, which is no error of the run.
    cases.kill_slot_worker(driver, which=1)
    cases.wait_until(lambda: max(cases.attempts(results).values()) > 1, driver, 120)
    cases.wait_until(lambda: len(cases.slot_workers(driver)) == 2, driver, 60)
    driver.send_signal(signal.SIGINT)
    output, _ = driver.communicate(timeout=120)
    assert driver.returncode == 130, output
    assert "the same command carries on" in output
    assert "1 slot x 2 workers" in output
    assert "is streamed" in output
    assert "gloo" not in output
    assert "Traceback" not in output
    # Carried on by one worker, which starts sooner: their number changes no bit.
    cases.finish(cases.start(space, results))
    assert cases.tables(results) == tables


def test_a_stopped_process_loses_its_run_to_another_slot(undisturbed, tmp_path):
    space, _, tables = undisturbed
    results = tmp_path / "results"
    # Four points of one run: the other slot has time to take up what the stopped one held.
    driver = cases.start(space, results, "--set", "resources.slots=2")
    cases.wait_for_checkpoint(results, driver)
    stopped = cases.slot_workers(driver)[0]
    stopped.send_signal(signal.SIGSTOP)
    seconds = cases.wait_until(
        lambda: max(cases.attempts(results).values()) > 1, driver, timeout_s=60
    )
    assert seconds < 40
    output = cases.finish(driver)
    assert "was not heard of for" in output
    assert not stopped.is_running()
    assert cases.tables(results) == tables


def test_two_drivers_on_one_folder_share_the_runs_and_both_end_well(undisturbed, tmp_path):
    space, _, tables = undisturbed
    results = tmp_path / "results"
    more = ("--set", "resources.slots=1")
    first = cases.start(space, results, *more)
    cases.wait_for_checkpoint(results, first)
    second = cases.start(space, results, *more)
    outputs = [cases.finish(driver) for driver in (first, second)]
    assert set(cases.attempts(results).values()) == {1}
    assert "being done by another driver" in outputs[0] + outputs[1]
    assert cases.tables(results) == tables


TWO_WORKERS = ("--set", "resources.workers=2")


@pytest.mark.long
@pytest.mark.parametrize("which", [0, 1], ids=["rank 0", "rank 1"])
def test_a_stopped_process_of_two_is_replaced_with_its_slot(undisturbed, tmp_path, which):
    """Rank 0 falls silent; behind rank 1 a step hangs, while rank 0 goes on to be heard of."""
    space, _, tables = undisturbed
    results = tmp_path / "results"
    driver = cases.start(space, results, *TWO_WORKERS)
    cases.wait_for_checkpoint(results, driver)
    # Some steps more: what hangs is told from the steps before.
    time.sleep(1)
    stopped = cases.slot_workers(driver)[which]
    stopped.send_signal(signal.SIGSTOP)
    cases.wait_until(lambda: max(cases.attempts(results).values()) > 1, driver, timeout_s=150)
    output = cases.finish(driver)
    assert ("was not heard of for" if which == 0 else "made no progress for") in output
    assert "Traceback" not in output
    assert not stopped.is_running()
    assert cases.tables(results) == tables


@pytest.mark.parametrize(
    ("code", "more"),
    [(errno.ENOSPC, ()), pytest.param(errno.EIO, TWO_WORKERS, marks=pytest.mark.long)],
    ids=["ENOSPC", "EIO, two workers"],
)
def test_a_disk_that_fails_for_a_while_pauses_the_sweep_and_loses_nothing(
    undisturbed, tmp_path, code, more
):
    space, _, tables = undisturbed
    results, flag = tmp_path / "results", tmp_path / "flag"
    disk = cases.breakable_disk(tmp_path, results, flag, code)
    driver = cases.start(space, results, *more, env=disk)
    cases.wait_for_checkpoint(results, driver)
    flag.touch()
    time.sleep(8)
    flag.unlink()
    output = cases.finish(driver)
    assert "the storage is in trouble, runs wait" in output
    assert "the storage works again" in output
    assert cases.tables(results) == tables


@pytest.mark.long
def test_a_slot_that_ray_does_not_let_end_costs_no_answer(undisturbed, tmp_path):
    """What Ray Train tells its state to answers nobody: the slot's thread would outlive Ray."""
    space, _, tables = undisturbed
    results = tmp_path / "results"
    deaf = {
        "VESSELFLOW_DASHBOARD": "0",
        "RAY_TRAIN_ENABLE_STATE_ACTOR_RECONCILIATION": "1",
        "RAY_TRAIN_STATE_ACTOR_RECONCILIATION_INTERVAL_S": "3",
    }
    cases.finish(cases.start(space, results, *TWO_WORKERS, env=deaf))
    assert cases.tables(results) == tables


def test_trials_and_dashboard_come_beside_runs_that_go_on(undisturbed, tmp_path):
    """What only looks on starts later; here at once, so that a short sweep meets it."""
    space, _, tables = undisturbed
    results = tmp_path / "results"
    code = (
        "import sys; from vesselflow.orchestration import driver; driver.ASIDE_S = 0.0; "
        "from vesselflow.cli.main import command; command()"
    )
    more = ("--set", "resources.slots=1")
    env = {"VESSELFLOW_DASHBOARD": "1"}
    driver = cases.start(space, results, *more, env=env, python=("-c", code))
    lines = cases.lines_until(driver, "Ray dashboard: ")
    with urllib.request.urlopen(lines[-1].split()[-1], timeout=30) as page:
        assert b"Ray" in page.read()
    output = "".join(lines) + cases.finish(driver)
    assert "Tune's view" not in output
    assert cases.tables(results) == tables
    journal = (results / "tiny" / "study.journal").read_text()
    assert len({line for line in journal.splitlines() if '"state":1' in line.replace(" ", "")}) == 2


def test_a_run_that_kills_its_worker_ends_the_sweep_with_1_and_says_where(undisturbed, tmp_path):
    space, _, tables = undisturbed
    results = tmp_path / "results"
    driver = cases.start(
        space, results, "--set", "resources.retries=0", "--set", "resources.slots=1"
    )
    cases.wait_for_checkpoint(results, driver)
    cases.kill_slot_worker(driver)
    output, _ = driver.communicate(timeout=240)
    assert driver.returncode == 1, output
    (failed,) = [line for line in output.splitlines() if line.startswith("failed: ")]
    assert "killed its worker 1 times on a live machine" in failed
    assert "(slot-0 on " in failed
    assert "1 of 4 without a result" in output
    (noted,) = read_json(results / "tiny" / "failures.json")
    assert noted["label"] in failed
    # The same command does what is missing, and then nothing is said of it any more.
    cases.finish(cases.start(space, results))
    assert cases.tables(results) == tables
    assert not (results / "tiny" / "failures.json").exists()


def test_on_a_cluster_the_broker_is_on_the_head_and_slots_where_cpus_are(undisturbed, tmp_path):
    space, _, tables = undisturbed
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        cluster.add_node(num_cpus=2)
        driver = cases.start(space, tmp_path / "results", "--address", cluster.address)
        output = cases.finish(driver)
        assert "2 slots x 1 worker" in output
        assert cases.tables(tmp_path / "results") == tables
        nodes, places = cases.where_actors_are(cluster.address)
        (head,) = places["Broker"]
        assert HEAD in nodes[head]
        assert head not in places["SlotWorker"]
    finally:
        cluster.shutdown()
