"""Slots kept alive, with fake processes and a clock of our own."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError

from vesselflow.orchestration import slots
from vesselflow.orchestration.slots import GIVE_UP, LIVED_S, LONGEST_S, Slots


class Host:
    def __init__(self) -> None:
        self.end: str | None = None
        self.killed = self.asking = False

    def ended(self) -> str | None:
        return self.end

    def kill(self) -> None:
        self.killed = True

    def asks_ray(self) -> bool:
        return self.asking


class Stage:
    """Slots whose hosts are at hand, and what was told of them."""

    def __init__(self) -> None:
        self.now = 0.0
        self.hosts: dict[str, list[Host]] = {}
        self.lost: list[tuple[str, bool]] = []
        self.notes: list[tuple[str, str]] = []
        self.said: list[str] = []
        self.slots = Slots(
            start=self._start,
            lose=lambda name, gone: self.lost.append((name, gone)),
            starting=lambda name, note: self.notes.append((name, note)),
            say=self.said.append,
            clock=lambda: self.now,
        )

    def _start(self, name: str, generation: int) -> Any:
        hosts = self.hosts.setdefault(name, [])
        assert generation == len(hosts)
        hosts.append(Host())
        return hosts[-1]

    def starts(self, name: str) -> int:
        return len(self.hosts[name])


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_a_slot_that_lived_is_started_again_at_once_however_often(stage):
    for round_ in range(1, 5):
        stage.slots.reconcile(1)
        assert stage.starts("slot-0") == round_
        stage.now += LIVED_S + 1
        stage.hosts["slot-0"][-1].end = "it was killed"
        stage.slots.reconcile(1)
    assert stage.said == []


def test_as_many_are_started_as_are_wanted(stage):
    stage.slots.reconcile(3)
    stage.slots.reconcile(3)
    assert sorted(stage.hosts) == ["slot-0", "slot-1", "slot-2"]
    assert stage.slots.alive == 3


def test_one_that_dies_is_started_again_at_once_under_its_name(stage):
    stage.slots.reconcile(1)
    stage.slots.served("slot-0")
    stage.now = LIVED_S + 1
    stage.hosts["slot-0"][-1].end = "its process died"
    stage.slots.reconcile(1)
    assert stage.starts("slot-0") == 2
    assert stage.lost == [("slot-0", False)]
    assert stage.said == []


def test_one_that_cannot_be_kept_alive_says_so_and_is_tried_with_backoff(stage):
    starts = []
    for _ in range(40):
        stage.slots.reconcile(1)
        if stage.slots.slots["slot-0"].host is not None:
            starts.append(stage.now)
            stage.hosts["slot-0"][-1].end = "Unfit: no GPU here"
        stage.now += 0.5
        stage.slots.reconcile(1)
        stage.now += 9.5
    gaps = [b - a for a, b in itertools.pairwise(starts)]
    assert gaps == sorted(gaps)
    assert gaps[-1] >= LONGEST_S
    assert len(starts) < 15
    assert "slot-0 ended 2 times: Unfit: no GPU here" in stage.said
    assert ("slot-0", "tried again in 60 s") in stage.notes


def test_a_sweep_none_of_whose_slots_ever_serves_is_hopeless(stage):
    for _ in range(60):
        stage.slots.reconcile(2)
        for hosts in stage.hosts.values():
            hosts[-1].end = "Unfit: no GPU here"
        stage.now += 5.0
    assert stage.slots.hopeless() == "Unfit: no GPU here"
    assert all(slot.failures >= GIVE_UP for slot in stage.slots.slots.values())
    stage.slots.served("slot-1")
    assert stage.slots.hopeless() is None


def test_no_slot_at_all_is_waited_for(stage):
    stage.slots.reconcile(0)
    assert stage.slots.alive == 0
    assert stage.slots.hopeless() is None


def test_slots_follow_the_machines_up_and_down(stage):
    stage.slots.reconcile(3)
    stage.slots.reconcile(1)
    assert stage.slots.alive == 3, "what works goes on"
    for name in ("slot-1", "slot-2"):
        stage.hosts[name][-1].end = "its process died"
    stage.slots.reconcile(1)
    assert [name for name in stage.slots.slots] == ["slot-0"]
    assert stage.lost[-2:] == [("slot-2", True), ("slot-1", True)]
    stage.slots.reconcile(2)
    assert sorted(stage.slots.slots) == ["slot-0", "slot-3"]


def test_a_slot_that_ends_as_it_should_before_it_served_starts_no_circle(stage):
    for _ in range(20):
        stage.slots.reconcile(1)
        stage.hosts["slot-0"][-1].end = ""
    assert stage.starts("slot-0") <= 2


def test_one_that_grew_is_replaced_at_once(stage):
    for _ in range(5):
        stage.slots.reconcile(1)
        stage.slots.served("slot-0")
        stage.hosts["slot-0"][-1].end = ""
        stage.now += 1.0
    stage.slots.reconcile(1)
    assert stage.starts("slot-0") == 6
    assert stage.said == []


def test_nothing_is_started_while_the_sweep_ends(stage):
    stage.slots.reconcile(2)
    stage.hosts["slot-0"][-1].end = ""
    stage.slots.reconcile(2, ending=True)
    assert stage.slots.alive == 1
    assert stage.starts("slot-0") == 1


def test_kill_reaches_the_processes_that_live(stage):
    stage.slots.reconcile(1)
    stage.slots.kill("slot-0")
    stage.slots.kill("slot-9")
    assert stage.hosts["slot-0"][-1].killed


def test_what_did_not_start_may_start_when_other_machines_are_there(stage):
    for _ in range(8):
        stage.slots.reconcile(1)
        stage.hosts["slot-0"][-1].end = "its process died"
        stage.now += 5.0
    assert stage.slots.hopeless() is not None
    tries = stage.starts("slot-0")
    stage.slots.forgive()
    assert stage.slots.hopeless() is None
    stage.slots.reconcile(1)
    assert stage.starts("slot-0") == tries + 1


def test_ray_is_asked_for_as_long_as_one_slot_that_lives_asks(stage):
    stage.slots.reconcile(2)
    assert not stage.slots.asks_ray
    host = stage.hosts["slot-1"][0]
    host.asking = True
    assert stage.slots.asks_ray
    host.end = ""
    stage.slots.reconcile(0, ending=True)
    assert not stage.slots.asks_ray


def _host_whose_end_is(error, monkeypatch):
    """A host of one actor, as Ray tells its end; and whether it was killed."""
    killed = []

    def get(_):
        raise error

    monkeypatch.setattr(slots.ray, "wait", lambda refs, timeout: (refs, []))
    monkeypatch.setattr(slots.ray, "get", get)
    monkeypatch.setattr(slots.ray, "kill", lambda actor, no_restart: killed.append(actor))
    host = object.__new__(slots.ActorHost)
    host._actor, host._end, host._unreachable_since = "actor", "end", None
    return host, killed


def test_a_slot_that_cannot_be_reached_has_not_died_yet(monkeypatch):
    """Its machine may be gone, which Ray knows a little later: else the run would be blamed."""
    host, killed = _host_whose_end_is(ActorUnavailableError("no line", None), monkeypatch)
    now = 100.0
    monkeypatch.setattr(slots.time, "monotonic", lambda: now)
    assert host.ended() is None
    now += slots.UNREACHABLE_S - 0.1
    assert host.ended() is None
    assert killed == []
    now += 0.2
    assert host.ended() == "it cannot be reached any more"
    assert killed == ["actor"]


def test_a_slot_that_died_is_ended_at_once(monkeypatch):
    host, killed = _host_whose_end_is(ActorDiedError(), monkeypatch)
    assert host.ended() == "its process died"
    assert killed == []
