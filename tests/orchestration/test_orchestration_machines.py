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
