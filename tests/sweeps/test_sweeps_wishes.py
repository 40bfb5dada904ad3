"""What machines are asked for: an autoscaler that grants all or nothing, and two markets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vesselflow.errors import UserError
from vesselflow.sweeps.capacity import SlotPlan
from vesselflow.sweeps.wishes import (
    AGAIN_S,
    BACK_S,
    FIRST,
    Answer,
    Asked,
    Search,
    Wishes,
    bundles,
    seconds_of,
)


def _plan(least: int = 1, most: int | None = None, workers: int = 1, gpu: float = 0.0) -> SlotPlan:
    return SlotPlan(1, workers, 2, gpu, 2, 0, least, most)


class Cloud:
    """An autoscaler that carries so many slots of each market, and answers by the next turn."""

    def __init__(self, **limits: int) -> None:
        self.limits = limits or {"": 10**6}
        self.asked: list[Asked] = []
        self.now = 0.0

    def granted(self) -> bool | None:
        if not self.asked:
            return None
        return all(slots <= self.limits.get(market, 0) for market, slots in self.asked[-1].items())

    def turns(self, wishes: Wishes, count: int, outstanding: int, carried: int = 0) -> Asked:
        for _ in range(count):
            self.asked.append(wishes.turn(carried, outstanding, self.granted(), self.now))
            self.now += 5.0
        return self.asked[-1]


@given(st.integers(1, 2000), st.integers(1, 2000))
def test_it_comes_to_rest_at_what_is_granted_within_few_answers(want, carries):
    search, asks = Search(), []
    for turn in range(40):
        asks.append(search.ask(want, float(turn)))
        search.take(asks[-1], asks[-1] <= carries, float(turn))
    assert asks[-15:] == [min(want, carries)] * 15
    assert all(1 <= ask <= want for ask in asks)
    # Machines start to come with the first or second answer, not with the last.
    assert any(ask <= carries for ask in asks[:4])


@given(st.integers(1, 300), st.lists(st.integers(1, 300), min_size=1, max_size=4))
def test_it_follows_a_cluster_that_changes(want, capacities):
    search, now = Search(), 0.0
    for carries in capacities:
        now += AGAIN_S
        for _ in range(40):
            now += 5.0
            ask = search.ask(want, now)
            search.take(ask, ask <= carries, now)
        assert ask <= carries
    now += AGAIN_S + 1
    for _ in range(20):
        now += 5.0
        ask = search.ask(want, now)
        search.take(ask, ask <= carries, now)
    assert ask == min(want, carries)


def test_the_first_machines_are_asked_for_at_once_and_more_as_they_are_granted():
    cloud, wishes = Cloud(), Wishes(_plan(), None)
    cloud.turns(wishes, 5, 30)
    assert cloud.asked == [{"": FIRST}, {"": 8}, {"": 16}, {"": 30}, {"": 30}]
    assert cloud.turns(wishes, 1, 7) == {"": 7}, "what is not wanted any more is let go"
    assert cloud.turns(wishes, 1, 0) == {}
    assert not wishes.impossible


def test_an_answer_that_is_not_there_yet_changes_nothing():
    wishes = Wishes(_plan(), None)
    assert [wishes.turn(0, 30, None, float(n)) for n in range(3)] == [{"": FIRST}] * 3


def test_no_more_than_the_space_allows_is_asked_for():
    assert Cloud().turns(Wishes(_plan(most=3), None), 6, 100) == {"": 3}


def test_a_cluster_that_cannot_carry_one_slot_is_known():
    cloud, wishes = Cloud(**{"": 0}), Wishes(_plan(), None)
    assert cloud.turns(wishes, 10, 30) == {"": 1}
    assert wishes.impossible
    cloud.limits[""] = 30
    assert cloud.turns(wishes, 10, 30) == {"": 30}
    assert not wishes.impossible


# -- markets -------------------------------------------------------------------------------------


def test_spot_machines_alone_are_asked_for_until_the_time_is_over():
    cloud, wishes = Cloud(spot=8, on_demand=4), Wishes(_plan(least=2), 300.0)
    cloud.turns(wishes, 60, 30)
    assert all(set(asked) == {"spot"} for asked in cloud.asked)
    assert cloud.turns(wishes, 2, 30) == {"spot": 8, "on_demand": 2}
    assert wishes.said == [
        "spot machines carried 0 slots for 5 min: on-demand ones are asked for until there are 2"
    ]
    assert cloud.turns(wishes, 5, 30, carried=1) == {"spot": 8, "on_demand": 1}


def test_on_demand_machines_are_let_go_when_spot_ones_are_back_to_stay():
    cloud, wishes = Cloud(spot=8, on_demand=4), Wishes(_plan(), 60.0)
    cloud.turns(wishes, 20, 30)
    turns = int(BACK_S / 5)
    assert "on_demand" in cloud.turns(wishes, turns - 1, 30, carried=3)
    assert "on_demand" in cloud.turns(wishes, 1, 30, carried=0)
    assert "on_demand" in cloud.turns(wishes, turns, 30, carried=3)
    assert set(cloud.turns(wishes, 3, 30, carried=3)) == {"spot"}
    assert wishes.said[-1] == "spot machines are back: on-demand ones are let go"
    assert wishes.lets_go
    # And the time begins anew.
    assert set(cloud.turns(wishes, 10, 30)) == {"spot"}
    assert "on_demand" in cloud.turns(wishes, 10, 30)
    assert not wishes.lets_go


def test_a_moment_of_enough_machines_begins_the_time_anew():
    cloud, wishes = Cloud(spot=8, on_demand=4), Wishes(_plan(), 100.0)
    for _ in range(5):
        cloud.turns(wishes, 15, 30)
        assert set(cloud.turns(wishes, 1, 30, carried=1)) == {"spot"}


def test_a_cluster_without_on_demand_machines_keeps_its_spot_ones():
    """All or nothing: the wish for what there is not must not take away what there is."""
    cloud, wishes = Cloud(spot=8), Wishes(_plan(), 60.0)
    cloud.turns(wishes, 20, 30)
    assert cloud.turns(wishes, 3, 30) == {"spot": 8}
    assert wishes.said[-1] == "the cluster has no on-demand machine that could carry a slot"
    cloud.turns(wishes, int(AGAIN_S / 5) - 10, 30)
    assert len(wishes.said) == 2
    cloud.turns(wishes, 20, 30)
    assert len(wishes.said) == 4


def test_a_cluster_without_spot_machines_falls_back_all_the_same():
    cloud, wishes = Cloud(on_demand=4), Wishes(_plan(least=3), 60.0)
    assert cloud.turns(wishes, 20, 30) == {"on_demand": 3}


def test_a_file_that_marks_on_demand_machines_alone_is_asked_without_a_mark():
    cloud, wishes = Cloud(**{"": 6, "on_demand": 2}), Wishes(_plan(), 120.0)
    assert cloud.turns(wishes, 20, 30) == {"": 6}
    assert not wishes.impossible
    assert cloud.turns(wishes, 20, 30) == {"": 6, "on_demand": 1}


def test_spot_machines_go_on_being_asked_for_however_early_others_are():
    cloud, wishes = Cloud(spot=2, on_demand=4), Wishes(_plan(), 0.0)
    cloud.turns(wishes, 5, 30)
    assert cloud.asked[:3] == [{"spot": 4}, {"spot": 2}, {"spot": 2, "on_demand": 1}]
    assert cloud.asked[-1] == cloud.asked[2]


# -- words ---------------------------------------------------------------------------------------


def test_a_slot_is_asked_for_by_its_workers():
    plan = _plan(workers=2, gpu=0.5)
    worker = {"CPU": 2.0, "GPU": 0.5}
    assert bundles(plan, {"": 1}) == [worker, worker]
    assert bundles(_plan(), {"spot": 2, "on_demand": 1}) == [
        {"CPU": 2.0, "spot": 0.001},
        {"CPU": 2.0, "spot": 0.001},
        {"CPU": 2.0, "on_demand": 0.001},
    ]
    assert bundles(plan, {}) == []


def test_what_the_autoscaler_does_is_told():
    answer = Answer(False, {"spot_4": 2}, {"spot_8": "InsufficientInstanceCapacity: " + "x" * 200})
    assert str(answer).startswith("2 x spot_4 on the way, spot_8 failed: InsufficientInstanceCap")
    # Ray 2.60 keeps no reason.
    assert str(Answer(failed={"spot_8": ""})) == "spot_8 cannot be had now"
    assert len(str(answer)) < 150
    assert str(Answer()) == ""


@pytest.mark.parametrize(
    ("text", "seconds"), [("900", 900), ("90s", 90), ("15m", 900), ("15 min", 900), ("2h", 7200)]
)
def test_times(text, seconds):
    assert seconds_of(text, "x") == seconds


@pytest.mark.parametrize("text", ["", "soon", "-5", "5d", "1e3", "nan", "15 m 3"])
def test_what_is_no_time(text):
    with pytest.raises(UserError, match="is no time; allowed: 900, 90s, 15m, 2h"):
        seconds_of(text, "--on-demand-after")
