"""What sweeps ask for, kept together and let go: fakes and a clock of our own, no Ray."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import ray

from vesselflow.orchestration import autoscaler as module
from vesselflow.orchestration.autoscaler import FORGET_S, SAY_S, Asking, Keeper, Wanted, counted
from vesselflow.sweeps.wishes import Answer

ONE = {"CPU": 1.0, "spot": 0.001}


class Cluster:
    """An autoscaler that is asked, and looks when it is told to."""

    def __init__(self) -> None:
        self.now, self.version, self.seen = 0.0, 10, 0
        self.requests: list[list[dict[str, float]]] = []
        self.limit, self.ended = 100, 0
        self.keeper = Keeper(self._request, self._status, lambda: self.now, self._end)

    def look(self) -> None:
        self.version += 1
        self.seen = self.version

    def _request(self, bundles: list[dict[str, float]]) -> int:
        self.requests.append(bundles)
        return self.version

    def _status(self) -> tuple[int, Answer]:
        return self.seen, Answer(len(self.requests[-1]) <= self.limit, {"cheap": 1})

    def _end(self) -> None:
        self.ended += 1


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def _want(count: int) -> Wanted:
    return counted([ONE] * count)


def test_what_several_sweeps_want_is_added_up_and_passed_on_when_it_changes(cluster):
    cluster.keeper.ask("a", _want(3))
    cluster.keeper.ask("a", _want(3))
    cluster.keeper.ask("b", _want(2))
    cluster.keeper.ask("a", _want(1))
    assert [len(bundles) for bundles in cluster.requests] == [3, 5, 3]
    assert cluster.requests[0] == [ONE] * 3


def test_an_answer_is_one_to_the_latest_request(cluster):
    cluster.look()
    assert cluster.keeper.ask("a", _want(3)).granted is None, "it looked before it was asked"
    cluster.look()
    assert cluster.keeper.ask("a", _want(3)) == Answer(True, {"cheap": 1})
    assert cluster.keeper.ask("a", _want(300)).granted is None
    cluster.look()
    assert cluster.keeper.ask("a", _want(300)).granted is False


def test_a_sweep_that_leaves_takes_its_wish_along_and_the_last_one_ends_it(cluster):
    cluster.keeper.ask("a", _want(3))
    cluster.keeper.ask("b", _want(2))
    cluster.keeper.leave("a")
    assert (len(cluster.requests[-1]), cluster.ended) == (2, 0)
    cluster.keeper.leave("b")
    assert (cluster.requests[-1], cluster.ended) == ([], 1)


def test_a_sweep_that_was_killed_is_forgotten(cluster):
    cluster.keeper.ask("a", _want(3))
    cluster.keeper.ask("b", _want(2))
    cluster.now = FORGET_S - 1
    cluster.keeper.ask("b", _want(2))
    cluster.keeper.leave()
    assert len(cluster.requests[-1]) == 5
    cluster.now = FORGET_S + 1
    cluster.keeper.leave()
    assert len(cluster.requests[-1]) == 2
    cluster.now = 3 * FORGET_S
    cluster.keeper.leave()
    assert (cluster.requests[-1], cluster.ended) == ([], 1)


# -- a sweep's side ------------------------------------------------------------------------------


class Actor:
    """A keeper behind calls whose answers come when they are let."""

    def __init__(self) -> None:
        self.asked: list[Wanted] = []
        self.left: list[str] = []
        self.answers: list[Any] = []
        self.made = 0
        method = SimpleNamespace
        self.ask = method(remote=lambda who, wanted: self.asked.append(wanted) or len(self.asked))
        self.leave = method(remote=lambda who: self.left.append(who) or 0)


@pytest.fixture
def actor(monkeypatch) -> Actor:
    actor = Actor()

    def wait(refs: list[int], timeout: float) -> tuple[list[int], list[int]]:
        return (refs, []) if actor.answers else ([], refs)

    def get(ref: int, timeout: float = 0.0) -> Any:
        answer = actor.answers.pop(0) if ref else None
        if isinstance(answer, Exception):
            raise answer
        return answer

    fake = SimpleNamespace(wait=wait, get=get, exceptions=ray.exceptions)
    monkeypatch.setattr(module, "ray", fake)
    return actor


class Sweep:
    def __init__(self, actor: Actor) -> None:
        self.now, self.actor = 0.0, actor
        self.asking = Asking("a", self._make, lambda: self.now)

    def _make(self) -> Actor:
        self.actor.made += 1
        return self.actor

    def want(self, count: int, seconds: float = 1.0) -> None:
        self.asking.want([ONE] * count)
        self.now += seconds


def test_nobody_is_started_for_a_sweep_that_wants_nothing(actor):
    sweep = Sweep(actor)
    sweep.want(0)
    sweep.asking.leave(1.0)
    assert (actor.made, actor.asked, actor.left, sweep.asking.begun) == (0, [], [], False)


def test_it_waits_for_no_answer_and_asks_again_every_now_and_then(actor):
    sweep = Sweep(actor)
    for _ in range(5):
        sweep.want(2)
    assert len(actor.asked) == 1, "one question at a time"
    assert sweep.asking.answer.granted is None
    actor.answers.append(Answer(True))
    sweep.want(2)
    assert sweep.asking.answer.granted is True
    before = len(actor.asked)
    for _ in range(12):
        actor.answers.append(Answer(True))
        sweep.want(2)
    assert 12 / SAY_S - 1 <= len(actor.asked) - before <= 12 / SAY_S + 1
    sweep.asking.leave(1.0)
    assert actor.left == ["a"]


def test_an_answer_to_an_older_wish_is_none(actor):
    sweep = Sweep(actor)
    sweep.want(2)
    actor.answers.append(Answer(True, {"cheap": 2}))
    sweep.want(8)
    assert sweep.asking.answer.granted is None
    assert actor.asked[-1] == _want(8)
    actor.answers.append(Answer(False))
    sweep.want(8)
    assert sweep.asking.answer.granted is False


def test_a_keeper_that_is_gone_is_made_anew(actor):
    sweep = Sweep(actor)
    sweep.want(2)
    actor.answers.append(ray.exceptions.RayActorError())
    sweep.want(2, SAY_S)
    sweep.want(2, SAY_S)
    assert actor.made == 2
    assert len(actor.asked) == 2
