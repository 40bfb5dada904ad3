"""What a slot does with runs and faults, with a fake broker: no Ray, no torch process group."""

from __future__ import annotations

import pickle
import time
import zlib
from dataclasses import replace
from typing import Any

import pytest

from vesselflow.feed.ray_shared import SharedStore
from vesselflow.orchestration import serving
from vesselflow.orchestration.broker import Answer
from vesselflow.orchestration.serving import (
    EVENTS,
    GroupLost,
    Server,
    SlotConfig,
    Unfit,
    check_fit,
)
from vesselflow.records.drivers import Driver
from vesselflow.stores.store import Store
from vesselflow.stores.synth import make_synth
from vesselflow.sweeps.book import Grant
from vesselflow.sweeps.context import Result
from vesselflow.sweeps.cost_machine import MachineKind, Seat
from vesselflow.sweeps.cost_notes import Taken
from vesselflow.sweeps.faults import Fault
from vesselflow.sweeps.policy import Event
from vesselflow.training.group import Solo
from vesselflow.training.interval import Survival

SETTINGS = SlotConfig("s0", "b", "n", "results", 1, 0.0, "token")


class Broker:
    """Gives some runs, then says close; keeps what it is told."""

    def __init__(self, runs: int) -> None:
        self.left = list(range(1, runs + 1))
        self.told: list[tuple[Any, ...]] = []

    def claim(self) -> Answer:
        if not self.left:
            return Answer("close")
        number = self.left.pop(0)
        payload = zlib.compress(pickle.dumps(f"job {number}"))
        return Answer("run", Grant(number, f"run {number}", payload, survival=Survival(60.0, 1)))

    def finish(self, grant: int, run_id: str, result: Result) -> None:
        self.told.append(("finish", grant, run_id, result.values))

    def end(self, grant: int, run_id: str, event: Event, **details: Any) -> None:
        self.told.append(("end", grant, run_id, event, details))

    def epoch(self, *_: Any) -> None: ...

    def note(self, *_: Any) -> None: ...


class Beacon:
    def __init__(self) -> None:
        self.holds: list[int] = []
        self.stop = False

    def take(self, grant: int) -> None:
        self.holds.append(grant)

    def rest(self) -> None:
        self.holds.append(0)

    def phase(self, *_: Any) -> None: ...

    def storage(self, *_: Any) -> None: ...

    def stopped(self) -> bool:
        return self.stop


class Pair(Solo):
    """A group of two, as far as the one rank can tell."""

    size = 2

    def __init__(self, rank: int, orders: list[Answer] | None = None) -> None:
        self.rank, self._orders = rank, orders or []

    def share(self, value: Any) -> Any:
        if self.rank and self._orders:
            return self._orders.pop(0)
        return value


def _serve(results: list[Result], group: Any = None, grown: bool = False) -> tuple[str, Broker]:
    broker, beacon = Broker(len(results)), Beacon()
    answers = list(results)
    done = []

    def do(job: Any, reports: Any, taken: Any, survival: Survival) -> Result:
        assert survival == Survival(60.0, 1)
        done.append(job)
        return answers.pop(0)

    try:
        why = Server(SETTINGS, broker, group or Solo(), beacon, do, lambda: grown).run()
    except GroupLost:
        why = "lost"
    assert done == [f"job {number}" for number in range(1, len(done) + 1)]
    assert beacon.holds == [entry for n in range(1, len(done) + 1) for entry in (n, 0)]
    return why, broker


def test_runs_are_done_one_after_another_until_the_broker_says_close():
    why, broker = _serve([Result("finished", {"p": 0.5}), Result("finished", {"p": 0.6})])
    assert why == "closed"
    assert broker.told == [
        ("finish", 1, "run 1", {"p": 0.5}),
        ("finish", 2, "run 2", {"p": 0.6}),
    ]


def test_a_run_is_told_how_its_slot_came_to_it():
    seat = Seat(MachineKind("aws:m5.large", "spot"), 0.5)
    payload = zlib.compress(pickle.dumps("job"))
    orders = [Answer("run", Grant(n, f"run {n}", payload, reached=10 * n)) for n in (1, 2)]
    into: list[Taken] = []

    class Slow(Broker):
        def claim(self) -> Answer:
            time.sleep(0.02)
            return orders.pop(0) if orders else Answer("close")

    def do(job: Any, reports: Any, taken: Taken, survival: Any) -> Result:
        into.append(taken)
        return Result("finished")

    Server(
        SETTINGS, Slow(0), Solo(), Beacon(), do, lambda: False, seat=seat, slot_start_s=5.0
    ).run()
    assert [one.reached for one in into] == [10, 20]
    assert [one.seat for one in into] == [seat, seat]
    assert [one.slot_start_s for one in into] == [5.0, 0.0], "a start is charged once"
    assert all(one.idle_s >= 0.02 for one in into)


@pytest.mark.parametrize("fault", list(Fault))
def test_every_fault_is_an_event_for_the_policy(fault):
    state = "failed" if fault.ends_the_run else "handed back"
    result = Result(state, message="what", fault=fault, place="a.py:3", log="log.txt")
    why, broker = _serve([result])
    ((word, grant, run, event, details),) = broker.told
    assert (word, grant, run, event) == ("end", 1, "run 1", EVENTS[fault])
    assert details["place"].startswith("s0 on ")
    assert details["place"].endswith(", a.py:3")
    assert details["log"] == "log.txt"
    assert details["message"] == ("" if fault is Fault.PEER_LOST else "what")
    assert why == ("grown" if fault is Fault.OUT_OF_MEMORY else "closed")


def test_only_errors_of_the_run_itself_are_final():
    assert {
        fault for fault, event in EVENTS.items() if event in (Event.RAISED, Event.DIVERGED)
    } == {fault for fault in Fault if fault.ends_the_run}


def test_a_stop_hands_the_run_back():
    _, broker = _serve([Result("stopped")])
    assert broker.told == [("end", 1, "run 1", Event.HANDED_BACK, {})]


def test_a_process_that_grew_ends_after_its_run():
    why, broker = _serve([Result("finished"), Result("finished")], grown=True)
    assert why == "grown"
    assert len(broker.told) == 1


def test_a_group_that_lost_a_worker_tells_it_and_ends():
    why, broker = _serve([Result("handed back", fault=Fault.PEER_LOST)], group=Pair(0))
    assert why == "lost"
    assert broker.told[0][3] is Event.PEER_LOST


def test_other_ranks_tell_nothing_and_end_with_the_group():
    payload = zlib.compress(pickle.dumps("job 1"))
    order = Answer("run", Grant(1, "run 1", payload))
    broker = Broker(0)
    server = Server(
        SETTINGS,
        broker,
        Pair(1, [order]),
        None,
        lambda job, reports, **_: Result("handed back", fault=Fault.PEER_LOST),
        lambda: False,
    )
    with pytest.raises(GroupLost):
        server.run()
    assert broker.told == []


def test_the_place_is_told_right_while_another_thread_waits_for_the_storage():
    told: list[str] = []

    class Silent:
        storage = staticmethod(told.append)

        def beat(self, *_: Any) -> tuple[bool, float]:
            return True, 3600.0

    beacon = serving.Beacon(Silent())
    beacon.phase("training", 1, 4, 9)
    beacon.storage("full")
    assert beacon._place == ("waiting", 1, 4, 9)
    # It was the checkpoint's thread: the training goes on.
    beacon.phase("training", 1, 5, 9)
    assert beacon._place == ("training", 1, 5, 9)
    beacon.phase("evaluating", 1, 5, 0)
    beacon.storage("")
    assert beacon._place == ("evaluating", 1, 5, 0)
    # Then the steps wait for it, too: told again, and over.
    beacon.storage("full")
    beacon.storage("full")
    assert beacon._place[0] == "waiting"
    beacon.storage("")
    assert beacon._place == ("evaluating", 1, 5, 0)
    assert told == ["full", "", "full", "full", ""]


# -- is this machine fit? --------------------------------------------------------------------


@pytest.fixture
def place(tmp_path):
    """A results folder with a driver in it, and a store."""
    driver = Driver.begin(tmp_path / "results", {})
    store = tmp_path / "a.h5"
    make_synth(store, kind="fundus", sources=2, size_px=64, seed=0, domain="a")
    with Store.open(store) as opened:
        digest = opened.digest
    shared = SharedStore(str(store), digest)
    return SlotConfig("s0", "b", "n", str(tmp_path / "results"), 1, 0.0, driver.token, (shared,))


def test_a_machine_that_sees_what_the_driver_sees_is_fit(place):
    check_fit(place)


def test_a_machine_with_another_results_folder_is_not(place, tmp_path):
    (tmp_path / "other").mkdir()
    with pytest.raises(Unfit, match="does not see the results folder"):
        check_fit(replace(place, results=str(tmp_path / "other")))


def test_a_machine_without_the_store_is_not(place, tmp_path):
    gone = SharedStore(str(tmp_path / "gone.h5"), "0")
    with pytest.raises(Unfit, match=r"cannot read the store .*gone\.h5.*nobody to ask"):
        check_fit(replace(place, stores=(gone,)))


def test_a_machine_whose_store_has_another_content_is_not(place):
    other = replace(place.stores[0], digest="0" * 64)
    with pytest.raises(Unfit, match=r"cannot read the store .*cannot be fetched"):
        check_fit(replace(place, stores=(other,)))


def test_a_machine_without_cuda_is_not_when_a_gpu_is_asked_for(place, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(Unfit, match="no GPU that CUDA can use"):
        check_fit(replace(place, gpu=0.5))
