import pytest

from vesselflow.sweeps.book import Job, Queue
from vesselflow.sweeps.policy import Action, Event, decide


def _queue(*names: str, retries: int = 2) -> Queue:
    queue = Queue(retries)
    queue.submit([Job(name, f"run {name}", name.encode(), 2, 10) for name in names])
    return queue


def _take(queue: Queue, slot: str) -> Job:
    job = queue.next()
    assert job is not None
    queue.hold(slot, job, 0.0)
    return job


def test_runs_come_in_order_and_once():
    queue = _queue("a", "b")
    queue.submit([Job("a", "again", b"", 2, 10)])
    assert [_take(queue, "s0").run_id, _take(queue, "s1").run_id] == ["a", "b"]
    assert queue.next() is None


def test_a_restarted_slot_gets_its_run_back():
    queue = _queue("a", "b")
    queue.resolve("s0", "node", 0.0, lambda node: True)
    _take(queue, "s0")
    again = queue.resolve("s0", "node", 1.0, lambda node: True)
    assert again is not None
    assert again.run_id == "a"
    assert again.deaths == 1


def test_a_run_that_keeps_killing_its_worker_is_failed_and_the_sweep_goes_on():
    queue = _queue("a", "b", retries=1)
    queue.resolve("s0", "node", 0.0, lambda node: True)
    _take(queue, "s0")
    assert queue.resolve("s0", "node", 1.0, lambda node: True) is not None
    assert queue.resolve("s0", "node", 2.0, lambda node: True) is None
    assert queue.jobs["a"].state == "failed"
    assert queue.jobs["a"].result["message"] == "killed its worker 2 times on a live machine"
    assert _take(queue, "s0").run_id == "b"


def test_a_lost_machine_costs_no_retry():
    queue = _queue("a", retries=0)
    queue.resolve("s0", "gone", 0.0, lambda node: True)
    _take(queue, "s0")
    for _ in range(5):
        assert queue.resolve("s0", "gone", 1.0, lambda node: False) is not None
    assert queue.jobs["a"].deaths == 0


def test_a_run_handed_back_is_first_in_line():
    queue = _queue("a", "b")
    _take(queue, "s0")
    queue.finish("s0", "a", "stopped", {}, 2.0)
    assert _take(queue, "s1").run_id == "a"


def test_a_slot_that_is_gone_gives_its_run_back():
    queue = _queue("a", "b")
    _take(queue, "s0")
    queue.slot_gone("s0")
    assert _take(queue, "s1").run_id == "a"


def test_a_slot_without_a_run_is_shown_idle():
    queue = _queue("a")
    _take(queue, "s0")
    queue.beat("s0", "training", 1, 5, 10)
    assert [(view.phase, view.step) for view in queue.views(1.0)] == [("training", 5)]
    queue.finish("s0", "a", "stopped", {}, 2.0)
    assert [(view.phase, view.run, view.step) for view in queue.views(2.0)] == [("idle", "", 0)]


def test_no_run_is_handed_out_while_stopping():
    queue = _queue("a")
    queue.stopping = True
    assert queue.next() is None
    assert queue.outstanding() == 1


def test_a_run_that_another_driver_has_is_skipped_not_lost():
    queue = _queue("a", "b")
    job = queue.next(skip=lambda job: job.run_id == "a")
    assert job is not None
    assert job.run_id == "b"
    assert _take(queue, "s0").run_id == "a"


def test_a_result_is_taken_once():
    queue = _queue("a")
    _take(queue, "s0")
    queue.finish("s0", "a", "finished", {"value": 0.5}, 2.0)
    queue.finish("s0", "a", "failed", {"message": "late"}, 3.0)
    assert queue.jobs["a"].state == "finished"
    assert [event["type"] for event in queue.events] == ["started", "finished"]


@pytest.mark.parametrize(
    ("event", "deaths", "action"),
    [
        (Event.WORKER_DIED, 1, Action.RESUME),
        (Event.WORKER_DIED, 2, Action.RESUME),
        (Event.WORKER_DIED, 3, Action.FAIL),
        (Event.NODE_GONE, 9, Action.RESUME),
        (Event.HANDED_BACK, 9, Action.RESUME),
        (Event.RAISED, 0, Action.FAIL),
        (Event.DIVERGED, 0, Action.FAIL),
    ],
)
def test_policy(event, deaths, action):
    assert decide(event, deaths, retries=2) is action
