"""The broker with fakes: waiting, leases, storage in trouble. No Ray, no file, no second passes."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from vesselflow.evaluation.cost_table import Quote
from vesselflow.orchestration import broker as module
from vesselflow.orchestration.broker import Broker
from vesselflow.sweeps import book
from vesselflow.sweeps.book import Entry, JobState, Place
from vesselflow.sweeps.budget import Budget
from vesselflow.sweeps.events import Message
from vesselflow.sweeps.leaving import Leaving
from vesselflow.sweeps.policy import Event

HERE = (Place("node", 1, "host"),)


class Lease:
    def __init__(self, run_id: str, disk: Disk) -> None:
        self.run_id, self._disk = run_id, disk

    def release(self) -> None:
        time.sleep(self._disk.slow_s)
        self._disk.given_back.append(self.run_id)

    def beat(self) -> bool:
        return True

    def lost(self) -> bool:
        return self.run_id in self._disk.taken_over


class Disk:
    """Leases that work, are another driver's, or raise."""

    def __init__(self) -> None:
        self.trouble: OSError | None = None
        self.elsewhere: set[str] = set()
        self.claimed: list[str] = []
        self.given_back: list[str] = []
        self.taken_over: set[str] = set()
        self.slow_s = 0.0

    def claim(self, run_id: str) -> Any:
        if self.trouble is not None:
            raise self.trouble
        if run_id in self.elsewhere:
            return None
        self.claimed.append(run_id)
        return Lease(run_id, self)


class Taken:
    """A driver whose heartbeat others took for dead."""

    def beat(self) -> bool:
        return False

    def end(self) -> None:
        pass


def _run(
    tmp_path,
    scene: Callable[[Broker, Disk], Awaitable[None]],
    retries: int = 2,
    driver: Any = None,
    **more: Any,
) -> None:
    disk = Disk()

    async def play() -> None:
        broker = Broker(
            str(tmp_path),
            driver,
            retries,
            "val/x",
            alive=lambda: frozenset({"node"}),
            claim=disk.claim,
            **more,
        )
        await broker.submit([Entry(n, n, n.encode(), (f"p{n}",), 1, 10) for n in "ab"], {})
        await scene(broker, disk)

    asyncio.run(asyncio.wait_for(play(), 20))


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(module, "LONG_POLL_S", 0.05)
    monkeypatch.setattr(module, "PROBE_S", 0.01)


async def _settled(broker: Broker) -> list[str]:
    look = await broker.look(0)
    return [event.text for event in look.events if isinstance(event, Message)]


def test_a_slot_on_a_machine_that_leaves_is_given_nothing(tmp_path):
    async def scene(broker: Broker, disk: Disk) -> None:
        arrival = await broker.arrive("s", HERE)
        await broker.drain({"node": Leaving("host", 120.0, "spot notice")})
        assert (await broker.claim("s", arrival)).word == "close"
        assert disk.claimed == []

    _run(tmp_path, scene)


def test_a_slot_that_nobody_needs_ends(tmp_path, monkeypatch):
    async def scene(broker: Broker, disk: Disk) -> None:
        arrivals = {slot: await broker.arrive(slot, HERE) for slot in ("s0", "s1", "s2")}
        for slot in ("s0", "s1"):
            assert (await broker.claim(slot, arrivals[slot])).word == "run"
        assert (await broker.claim("s2", arrivals["s2"])).word == "wait"
        monkeypatch.setattr(book, "SPARE_S", 0.0)
        assert (await broker.claim("s2", arrivals["s2"])).word == "close"

    _run(tmp_path, scene)


def test_a_run_that_another_driver_took_over_is_handed_back(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "HEARTBEAT_S", 0.01)

    async def scene(broker: Broker, disk: Disk) -> None:
        arrival = await broker.arrive("s", HERE)
        grant = (await broker.claim("s", arrival)).grant
        assert grant is not None
        place = ("training", 1, 1, 10)
        await asyncio.sleep(0.1)
        assert (await broker.beat("s", arrival, grant.number, place))[0]
        disk.taken_over.add(grant.run_id)
        for _ in range(200):
            if not (await broker.beat("s", arrival, grant.number, place))[0]:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("it goes on")

    _run(tmp_path, scene, driver=Taken())


def test_the_end_waits_for_leases_that_are_being_given_back(tmp_path):
    async def scene(broker: Broker, disk: Disk) -> None:
        arrival = await broker.arrive("s", HERE)
        grant = (await broker.claim("s", arrival)).grant
        assert grant is not None
        disk.slow_s = 0.2
        await broker.finish("s", grant.number, grant.run_id, {"pa": 1.0}, {})
        assert disk.given_back == [], "the slot does not wait"
        await asyncio.sleep(0.05)
        await broker.release()
        assert disk.given_back == [grant.run_id]

    _run(tmp_path, scene)


async def _given_back(disk: Disk, *runs: str) -> None:
    """A slot does not wait for it, a test does."""
    for _ in range(200):
        if disk.given_back == [*runs]:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(disk.given_back)


def test_a_claim_takes_the_lease_and_an_end_gives_it_back(tmp_path):
    async def scene(broker: Broker, disk: Disk) -> None:
        arrival = await broker.arrive("s", HERE)
        order = await broker.claim("s", arrival)
        assert order.word == "run"
        assert order.grant is not None
        assert disk.claimed == ["a"]
        await broker.finish("s", order.grant.number, "a", {"pa": 1.0}, {})
        await _given_back(disk, "a")
        order = await broker.claim("s", arrival)
        assert order.grant is not None
        await broker.end("s", order.grant.number, "b", Event.RAISED, {"message": "x"})
        assert disk.given_back == ["a", "b"]
        assert (await broker.claim("s", arrival)).word == "wait"
        await broker.close()
        assert (await broker.claim("s", arrival)).word == "close"

    _run(tmp_path, scene)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.ESTALE])
def test_a_storage_error_on_a_claim_loses_no_run_and_is_said(tmp_path, code):
    async def scene(broker: Broker, disk: Disk) -> None:
        arrival = await broker.arrive("s", HERE)
        disk.trouble = OSError(code, "the disk says no")
        broker._write_probe = lambda: disk.claim("probe") and None  # type: ignore[method-assign]
        assert (await broker.claim("s", arrival)).word == "wait"
        look = await broker.look(0)
        assert look.outstanding == 2
        assert look.trouble is not None
        assert "the disk says no" in look.trouble[0]
        assert any("runs wait" in text for text in await _settled(broker))
        disk.trouble = None
        runs = []
        while len(runs) < 2:
            order = await broker.claim("s", arrival)
            if order.grant is not None:
                runs.append(order.grant.run_id)
                await broker.finish("s", order.grant.number, order.grant.run_id, {}, {})
        assert sorted(runs) == ["a", "b"]
        assert (await broker.look(0)).trouble is None

    _run(tmp_path, scene)


def test_the_probe_of_the_storage_writes_where_the_runs_are(tmp_path):
    async def scene(broker: Broker, disk: Disk) -> None:
        broker._write_probe()
        assert list(tmp_path.iterdir()) == []
        broker._results = tmp_path / "gone"
        with pytest.raises(OSError, match="gone"):
            broker._write_probe()

    _run(tmp_path, scene)


def test_a_run_of_another_driver_is_waited_for_and_told_once(tmp_path, monkeypatch):
    monkeypatch.setattr("vesselflow.sweeps.book.LATER_S", 0.01)

    async def scene(broker: Broker, disk: Disk) -> None:
        disk.elsewhere = {"a"}
        arrival = await broker.arrive("s", HERE)
        order = await broker.claim("s", arrival)
        assert order.grant is not None
        assert order.grant.run_id == "b"
        await broker.finish("s", order.grant.number, "b", {}, {})
        for _ in range(3):
            assert (await broker.claim("s", arrival)).word == "wait"
        assert [text for text in await _settled(broker) if "another driver" in text] == [
            "a is being done by another driver; waiting for it"
        ]
        disk.elsewhere = set()
        order = await broker.claim("s", arrival)
        while order.grant is None:
            order = await broker.claim("s", arrival)
        assert order.grant.run_id == "a"

    _run(tmp_path, scene)


def test_a_lease_taken_for_a_slot_that_went_meanwhile_is_given_back(tmp_path):
    async def scene(broker: Broker, disk: Disk) -> None:
        arrival = await broker.arrive("s", HERE)
        true = disk.claim

        def slow(run_id: str) -> Any:
            lease = true(run_id)
            broker.book.lose("s", 0, 0.0, lambda node: True)
            return lease

        broker._claim = slow
        assert (await broker.claim("s", arrival)).word == "close"
        assert disk.given_back == ["a"]
        broker._claim = true
        arrival = await broker.arrive("s", HERE)
        order = await broker.claim("s", arrival)
        assert order.grant is not None
        assert order.grant.run_id == "a"

    _run(tmp_path, scene)


def test_a_waiting_slot_takes_a_run_the_moment_that_another_dies(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LONG_POLL_S", 15.0)

    async def scene(broker: Broker, disk: Disk) -> None:
        arrivals = [await broker.arrive(name, HERE) for name in ("s0", "s1", "s2")]
        for name, arrival in zip(("s0", "s1"), arrivals, strict=False):
            assert (await broker.claim(name, arrival)).word == "run"
        waiting = asyncio.create_task(broker.claim("s2", arrivals[2]))
        await asyncio.sleep(0)
        await broker.lose("s0")
        order = await waiting
        assert order.grant is not None
        assert order.grant.run_id == "a"

    _run(tmp_path, scene)


def test_a_run_whose_lease_another_driver_took_is_handed_back(tmp_path):
    async def scene(broker: Broker, disk: Disk) -> None:
        arrival = await broker.arrive("s", HERE)
        order = await broker.claim("s", arrival)
        assert order.grant is not None
        place = ("training", 1, 2, 10)
        goes_on, wait = await broker.beat("s", arrival, order.grant.number, place)
        assert (goes_on, wait) == (True, module.BEAT_S)
        broker._lost.add("a")
        assert not (await broker.beat("s", arrival, order.grant.number, place))[0]

    _run(tmp_path, scene)


def test_many_slots_are_asked_to_beat_more_rarely(tmp_path):
    async def scene(broker: Broker, disk: Disk) -> None:
        for number in range(1000):
            await broker.starting(f"slot-{number}")
        arrival = await broker.arrive("slot-0", HERE)
        _, wait = await broker.beat("slot-0", arrival, 0, ("idle", 0, 0, 0))
        assert wait == 1000 / module.BEATS_PER_S
        assert wait < broker.book.silent_s / 3

    _run(tmp_path, scene)


def test_a_relay_hears_of_its_point_at_once_and_of_a_stop(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LONG_POLL_S", 15.0)

    async def scene(broker: Broker, disk: Disk) -> None:
        state, over = await broker.watch("pa", -1)
        assert state is not None
        assert not over
        waiting = asyncio.create_task(broker.watch("pa", state.version))
        await asyncio.sleep(0)
        arrival = await broker.arrive("s", HERE)
        order = await broker.claim("s", arrival)
        assert order.grant is not None
        await broker.finish("s", order.grant.number, "a", {"pa": 0.5}, {})
        state, over = await waiting
        assert state is not None
        assert state.ended
        assert state.known == {"a": 0.5}
        other, _ = await broker.watch("pb", -1)
        assert other is not None
        waiting = asyncio.create_task(broker.watch("pb", other.version))
        await asyncio.sleep(0)
        await broker.stop()
        assert (await waiting)[1]

    _run(tmp_path, scene)


def test_the_driver_sees_counts_and_events_from_where_it_was(tmp_path):
    async def scene(broker: Broker, disk: Disk) -> None:
        first = await broker.look(0)
        assert first.counts[JobState.QUEUED] == 2
        arrival = await broker.arrive("s", HERE)
        await broker.claim("s", arrival)
        second = await broker.look(first.seen)
        assert second.counts[JobState.RUNNING] == 1
        assert len(second.events) == 1
        assert (await broker.look(second.seen)).events == ()

    _run(tmp_path, scene)


def test_slots_wait_for_the_data(tmp_path):
    async def scene(broker: Broker, disk: Disk) -> None:
        assert await broker.data() is None
        await broker.provide({"x": 1})
        assert await broker.data() == {"x": 1}

    _run(tmp_path, scene)


def test_a_run_that_lost_its_slot_is_anybodys(tmp_path):
    """Two drivers on a small cluster: one has the machines, the other must not have the runs."""

    async def scene(broker: Broker, disk: Disk) -> None:
        arrival = await broker.arrive("s", HERE)
        assert (await broker.claim("s", arrival)).word == "run"
        assert disk.claimed == ["a"]
        await broker.lose("s")
        assert disk.given_back == ["a"]
        disk.elsewhere = {"a"}
        arrival = await broker.arrive("s", HERE)
        answer = await broker.claim("s", arrival)
        assert answer.grant is not None
        assert answer.grant.run_id == "b", "the other driver took the first one meanwhile"
        await broker.arrive("s", HERE)
        assert disk.given_back == ["a", "b"]

    _run(tmp_path, scene)


def test_a_slot_that_falls_silent_gives_its_run_back(tmp_path):
    now = [0.0]

    async def scene(broker: Broker, disk: Disk) -> None:
        arrival = await broker.arrive("s", HERE)
        assert (await broker.claim("s", arrival)).word == "run"
        now[0] = book.SILENT_S + 1
        assert len((await broker.look(0)).verdicts) == 1
        assert disk.given_back == ["a"]

    _run(tmp_path, scene, clock=lambda: now[0])


# -- money -----------------------------------------------------------------------------------------

PAID = (Place("node", 1, "host", "aws:big:spot"),)


def _dollar_a_second(machine: str, market: str) -> Quote:
    return Quote(3600.0, 3600.0, "here") if machine == "aws:big" else Quote()


def test_a_run_that_the_budget_has_no_room_for_is_not_taken_and_none_after_it(tmp_path):
    budget = Budget(60.0)
    budget.durations.end(1000.0, 10)

    async def scene(broker: Broker, disk: Disk) -> None:
        arrival = await broker.arrive("s", PAID)
        assert (await broker.claim("s", arrival)).word == "close"
        assert disk.claimed == []
        assert broker.book.count(JobState.QUEUED) == 2
        look = await broker.look(0)
        assert "with one more run it may be $10" in look.broke
        assert not look.stopping
        (row,) = look.spent
        assert (row["machine"], row["count"], row["price"]) == ("aws:big:spot", 1, 3600.0)
        budget.durations.ended.clear()
        assert (await broker.claim("s", arrival)).word == "close", "it was said once"

    _run(tmp_path, scene, budget=budget, pricing=_dollar_a_second)


def test_what_finished_runs_took_is_what_the_next_ones_are_expected_to_take(tmp_path):
    budget = Budget(1e6)

    async def scene(broker: Broker, disk: Disk) -> None:
        arrival = await broker.arrive("s", PAID)
        answer = await broker.claim("s", arrival)
        assert answer.grant is not None, "of the first run nothing is known"
        cost = {"wall_s": 50.0, "steps": 10.0}
        await broker.finish("s", answer.grant.number, "a", {}, cost)
        assert budget.durations.ended == [5.0]
        assert (await broker.look(0)).broke == ""

    _run(tmp_path, scene, budget=budget, pricing=_dollar_a_second)


def test_before_the_budget_is_passed_all_that_is_held_is_handed_back(tmp_path):
    now = [0.0]

    async def scene(broker: Broker, disk: Disk) -> None:
        arrival = await broker.arrive("s", PAID)
        answer = await broker.claim("s", arrival)
        assert answer.grant is not None
        now[0] = 5.0
        assert not (await broker.look(0)).stopping
        now[0] = 15.0
        look = await broker.look(0)
        assert look.stopping
        assert "the machines cost $20.00 while they end" in look.broke
        going, _ = await broker.beat("s", arrival, answer.grant.number, ("training", 1, 1, 10))
        assert not going

    money = {"budget": Budget(30.0), "pricing": _dollar_a_second}
    _run(tmp_path, scene, clock=lambda: now[0], **money)


def test_a_machine_without_a_price_ends_a_budget(tmp_path):
    async def scene(broker: Broker, disk: Disk) -> None:
        arrival = await broker.arrive("s", (Place("node", 1, "host", "rack-7"),))
        assert (await broker.claim("s", arrival)).word == "close"
        assert (await broker.look(0)).broke == "no price is known of rack-7"

    _run(tmp_path, scene, budget=Budget(10.0), pricing=_dollar_a_second)
