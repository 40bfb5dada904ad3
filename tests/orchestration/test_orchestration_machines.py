"""Machines that come, leave and are missing: fakes, no Ray."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from vesselflow.orchestration import machines as module
from vesselflow.orchestration.machines import Machines, Seen, leaving_nodes
from vesselflow.sweeps.capacity import Node, SlotPlan
from vesselflow.sweeps.leaving import Leaving
from vesselflow.sweeps.wishes import BACK_S, FIRST, MARK, Answer, Wishes


def _node(name: str, cpus: float = 2.0) -> Node:
    return Node(cpus, name=name)


class Stage:
    """Machines that are set by hand, and what the sweep was told of them."""

    def __init__(self, *, waits: bool = True) -> None:
        self.now = 0.0
        self.seen = Seen([_node("a"), _node("b")], {})
        self.drained: list[dict[str, Leaving]] = []
        self.changes = 0
        self.said: list[str] = []
        self.machines = Machines(
            lambda: self.seen,
            SlotPlan(2, 1, 1, 0.0, 2, 4),
            waits=waits,
            drain=lambda leaving: self.drained.append(dict(leaving)),
            came_or_went=self._changed,
            say=self.said.append,
            clock=lambda: self.now,
        )

    def _changed(self) -> None:
        self.changes += 1


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_slots_follow_the_machines_and_nothing_is_told_of_those_that_stay(stage):
    assert [stage.machines.turn(10), stage.machines.turn(3)] == [4, 3]
    assert (stage.drained, stage.changes, stage.said) == ([], 0, [])


def test_a_machine_that_leaves_is_told_once_and_carries_no_slot(stage):
    stage.machines.turn(10)
    leaving = Leaving("host", 120.0, "spot notice")
    stage.seen = Seen([_node("a")], {"b": leaving})
    assert [stage.machines.turn(10), stage.machines.turn(10)] == [2, 2]
    assert stage.drained == [{"b": leaving}]
    assert stage.changes == 1


def test_one_that_went_after_a_notice_counts_as_leaving_and_its_successor_does_not(stage):
    leaving = Leaving("host", 120.0)
    stage.seen = Seen([_node("a")], {"b": leaving})
    stage.machines.turn(10)
    stage.seen = Seen([_node("a")], {})
    stage.machines.turn(10)
    stage.seen = Seen([_node("a"), _node("b2")], {})
    assert stage.machines.turn(10) == 4
    assert stage.drained == [{"b": leaving}], "nothing changed for the slots"


def test_one_that_stays_after_all_is_used_again(stage):
    stage.seen = Seen([_node("a")], {"b": Leaving("host")})
    stage.machines.turn(10)
    stage.seen = Seen([_node("a"), _node("b")], {})
    assert stage.machines.turn(10) == 4
    assert stage.drained[-1] == {}


def test_no_machine_is_waited_for_and_said(stage):
    stage.seen = Seen([_node("head", 0.0)], {})
    assert stage.machines.turn(10) == 0
    what = "no machine carries a slot of 1 worker x 1 CPU thread (0 machines with CPUs there)"
    assert stage.said == [f"waits for machines: {what}"]
    stage.now = 90.0
    stage.machines.turn(10)
    assert stage.machines.waiting() == (what, 90.0)
    stage.seen = Seen([_node("a")], {})
    assert stage.machines.turn(10) == 2
    assert stage.said[-1] == "machines are there, after 90 s"
    assert stage.machines.waiting() is None


def test_a_sweep_that_has_nothing_to_do_waits_for_nothing(stage):
    stage.seen = Seen([], {})
    assert stage.machines.turn(0) == 0
    assert stage.said == []


def test_where_no_machine_can_come_none_is_waited_for():
    stage = Stage(waits=False)
    stage.seen = Seen([], {})
    stage.machines.turn(10)
    assert stage.said == []


class Asked:
    """What is asked for; answers as it is told to."""

    def __init__(self) -> None:
        self.answer, self.begun = Answer(), False
        self.wanted: list[list[dict[str, float]]] = []
        self.left = 0

    def want(self, bundles: list[dict[str, float]]) -> None:
        self.begun = True
        self.wanted.append(bundles)

    def leave(self, within_s: float) -> None:
        self.left += 1


class Growing(Stage):
    """Machines that can be asked for, of two markets or of none."""

    def __init__(self, after_s: float | None = None) -> None:
        super().__init__()
        self.asked, self.released = Asked(), []
        plan = SlotPlan(2, 1, 1, 0.0, 2, 4)
        self.wishes = Wishes(plan, after_s)
        self.machines = Machines(
            lambda: self.seen,
            plan,
            waits=True,
            wishes=self.wishes,
            asking=self.asked,  # type: ignore[arg-type]
            release=self.released.append,
            drain=lambda leaving: None,
            came_or_went=self._changed,
            say=self.said.append,
            clock=lambda: self.now,
        )

    def turn(self, outstanding: int = 10, seconds: float = 1.0) -> int:
        wanted = self.machines.turn(outstanding)
        self.now += seconds
        return wanted


def test_no_machine_is_asked_for_while_those_that_are_there_are_enough():
    stage = Growing()
    assert stage.turn(4) == 4
    assert stage.asked.wanted == []
    stage.turn(5)
    assert stage.asked.wanted[-1] == [{"CPU": 1.0}] * FIRST
    stage.turn(3)
    assert stage.asked.wanted[-1] == [{"CPU": 1.0}] * 3, "what was asked for is asked for still"
    stage.machines.leave(1.0)
    assert stage.asked.left == 1


def test_what_is_asked_for_and_what_becomes_of_it_is_told_while_it_waits():
    stage = Growing()
    stage.seen = Seen([], {})
    stage.asked.answer = Answer(True, {"cheap": 2}, {"dear": "no capacity"})
    stage.turn()
    assert stage.said[0].endswith("; 2 x cheap on the way, dear failed: no capacity")


def test_a_cluster_without_any_machine_that_fits_says_so():
    stage = Growing()
    stage.seen = Seen([], {})
    stage.asked.answer = Answer(False)
    for _ in range(12):
        stage.turn(seconds=30.0)
    assert "an autoscaler, if there is one, has no kind of machine that does" in stage.said[-1]


def test_on_demand_machines_come_for_the_fewest_and_go_when_spot_ones_are_back():
    stage = Growing(after_s=60.0)
    stage.seen = Seen([], {})
    stage.asked.answer = Answer(True)
    for _ in range(10):
        stage.turn(seconds=10.0)
    assert stage.asked.wanted[-1][-1] == {"CPU": 1.0, "on_demand": MARK}
    dear = Node(1.0, name="dear", market="on_demand")
    stage.seen = Seen([dear], {})
    assert stage.turn() == 1
    assert {"CPU": 1.0, "on_demand": MARK} in stage.asked.wanted[-1], "it is still wanted"
    stage.seen = Seen([dear, Node(2.0, name="cheap", market="spot")], {})
    for _ in range(int(BACK_S / 10) + 2):
        stage.turn(seconds=10.0)
    assert set(stage.released) == {"dear"}
    assert {"CPU": 1.0, "on_demand": MARK} not in stage.asked.wanted[-1]


# -- what is known of a node ---------------------------------------------------------------------


ALIVE = [{"NodeID": name, "NodeManagerHostname": f"host-{name}"} for name in "ab"]


@pytest.mark.parametrize(
    ("word", "deadline_s", "expected"),
    [
        (json.dumps({"text": "spot notice", "seconds": 118.0}), 0, (118.0, "spot notice")),
        (json.dumps({"text": "forecast", "seconds": None}), 0, (None, "forecast")),
        (None, 100, (100.0, "")),
        (None, -50, (0.0, "")),
        (None, 0, (None, "")),
        ("rubbish", 0, (None, "")),
        ("[1]", 0, (None, "")),
    ],
)
def test_what_was_said_of_a_node(monkeypatch, word, deadline_s, expected):
    asked: list[str] = []

    def get(key: str, namespace: str) -> Any:
        asked.append(key)
        return word.encode() if word is not None else None

    monkeypatch.setattr(module, "_internal_kv_get", get)
    known: dict[str, Leaving] = {}
    draining = {"a": int((time.time() + deadline_s) * 1000) if deadline_s else 0, "dead": 0}
    for _ in range(3):
        found = leaving_nodes(ALIVE, draining, known)
    assert asked == ["a"], "once for each node"
    assert list(found) == ["a"]
    left, why = expected
    assert (found["a"].host, found["a"].why) == ("host-a", why)
    assert found["a"].left_s == (left if left is None else pytest.approx(left, abs=5))
