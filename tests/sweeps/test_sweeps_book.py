"""The book: runs go to arrivals of slots by numbered grants, and nothing is lost or done twice."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from vesselflow.sweeps.book import (
    HUNG_FLOOR_S,
    HUNG_UNKNOWN_S,
    SILENT_S,
    SLOW_FLOOR_S,
    SPARE_S,
    Book,
    Entry,
    Grant,
    JobState,
    Place,
)
from vesselflow.sweeps.events import EpochDone, Failed, Finished, HandedBack, Message, Ring, Started
from vesselflow.sweeps.leaving import Leaving
from vesselflow.sweeps.policy import PATIENCE, Action, Event, Tally, decide

HERE = (Place("node", 1, "host"),)


def _entry(name: str, *points: str) -> Entry:
    return Entry(name, f"run {name}", name.encode(), points or (f"p{name}",), 2, 10)


def _book(*names: str, retries: int = 2) -> Book:
    book = Book(retries, "val/x")
    book.submit([_entry(name) for name in names])
    return book


def _lives(node: str) -> bool:
    return node != "gone"


def _arrive(book: Book, slot: str, now: float = 0.0, node: str = "node") -> int:
    return book.arrive(slot, (Place(node, 1, "host"),), now, _lives)


def _take(book: Book, slot: str, now: float = 0.0) -> Grant:
    entry = book.pick(now)
    assert entry is not None
    grant = book.grant(slot, book.slots[slot].arrival, entry, now)
    assert grant is not None
    return grant


def _train(book: Book, slot: str, grant: Grant, step: int, now: float) -> bool:
    arrival = book.slots[slot].arrival
    return book.beat(slot, arrival, grant.number, ("training", 1, step, 10), now)


def _texts(book: Book) -> list[str]:
    return [event.text for event in book.events.since(0)[0] if isinstance(event, Message)]


def test_runs_come_in_order_and_once():
    book = _book("a", "b")
    book.submit([_entry("a")])
    _arrive(book, "s0"), _arrive(book, "s1")
    assert [_take(book, "s0").run_id, _take(book, "s1").run_id] == ["a", "b"]
    assert book.pick(0.0) is None


def test_a_run_goes_to_another_slot_when_its_own_dies():
    book = _book("a")
    _arrive(book, "s0"), _arrive(book, "s1")
    _take(book, "s0")
    book.lose("s0", 0, 1.0, _lives)
    assert _take(book, "s1", 1.0).run_id == "a"
    assert book.jobs["a"].tally == Tally(deaths=1)


def test_what_an_older_grant_says_is_ignored():
    book = _book("a")
    _arrive(book, "s0"), _arrive(book, "s1")
    old = _take(book, "s0")
    book.lose("s0", 0, 1.0, _lives)
    new = _take(book, "s1", 1.0)
    book.epoch(old.number, "a", 1, 5, {"val/x": 9.0})
    assert not book.finish("s0", old.number, "a", {"pa": 9.0}, {}, 2.0)
    assert not book.end("s0", old.number, "a", Event.RAISED, 2.0)
    assert book.jobs["a"].state is JobState.RUNNING
    assert book.points["pa"].known == {}
    assert book.finish("s1", new.number, "a", {"pa": 0.5}, {}, 3.0)
    assert book.points["pa"].values == {"a": 0.5}
    assert not book.finish("s1", new.number, "a", {"pa": 0.6}, {}, 4.0)
    assert book.points["pa"].values == {"a": 0.5}


def test_an_older_arrival_is_told_to_hand_back_and_gets_nothing():
    book = _book("a", "b")
    first = _arrive(book, "s0")
    grant = _take(book, "s0")
    second = _arrive(book, "s0", 1.0)
    assert second > first
    assert not book.beat("s0", first, grant.number, ("training", 1, 5, 10), 1.0)
    assert not book.idle("s0", first, 1.0)
    entry = book.pick(1.0)
    assert entry is not None
    assert book.grant("s0", first, entry, 1.0) is None
    assert book.pick(1.0) is entry, "a run that was refused is still first in line"


def test_an_older_arrival_does_not_keep_the_newer_one_alive():
    book = _book("a")
    first = _arrive(book, "s0")
    _arrive(book, "s0", 1.0)
    _take(book, "s0", 1.0)
    late = 1.0 + SILENT_S + 0.1
    assert not book.beat("s0", first, 0, ("idle", 0, 0, 0), late)
    assert [verdict.slot for verdict in book.overdue(late)] == ["s0"]


def test_what_was_picked_before_a_stop_is_not_handed_out_after_it():
    book = _book("a")
    arrival = _arrive(book, "s0")
    entry = book.pick(0.0)
    assert entry is not None
    book.stopping = True
    assert book.grant("s0", arrival, entry, 0.0) is None
    assert book.jobs["a"].state is JobState.QUEUED


def test_a_slot_of_several_machines_is_gone_with_one_of_them():
    book = _book("a")
    book.arrive("s0", (Place("node", 1, "here"), Place("gone", 2, "there")), 0.0, _lives)
    _take(book, "s0")
    book.lose("s0", 0, 1.0, _lives)
    assert book.jobs["a"].tally == Tally(), "no death is charged for a machine that went"


def test_storage_works_again_when_it_does_for_all():
    book = _book("a")
    for who in ("broker", "s0"):
        book.storage(who, "no space", 0.0)
    book.storage("broker", "", 1.0)
    assert _texts(book) == ["the storage is in trouble, runs wait: no space"]
    book.storage("s0", "", 2.0)
    book.storage("s0", "", 2.0)
    assert _texts(book)[1:] == ["the storage works again"]


def test_beats_that_skip_steps_give_the_time_of_one():
    book = _book("a")
    arrival = _arrive(book, "s0")
    grant = _take(book, "s0")

    def beat(step: int, now: float) -> None:
        book.beat("s0", arrival, grant.number, ("training", 1, step, 100), now)

    # A second each, ten at a time: ten times the median are ten seconds, not a hundred.
    for step in (10, 20, 30, 40, 50):
        beat(step, float(step))
    slow = 50 + max(SLOW_FLOOR_S, 10.0) + 1
    beat(50, slow)
    assert book.overdue(slow) == []
    assert "the median is 1 s" in _texts(book)[-1]


def test_a_silent_slot_loses_its_run_to_another():
    book = _book("a")
    arrival = _arrive(book, "s0")
    _take(book, "s0")
    assert book.overdue(SILENT_S) == []
    (verdict,) = book.overdue(SILENT_S + 0.1)
    assert (verdict.slot, verdict.arrival, verdict.places) == ("s0", arrival, HERE)
    assert "was not heard of" in verdict.reason
    _arrive(book, "s1", SILENT_S + 0.2)
    assert _take(book, "s1", SILENT_S + 0.2).run_id == "a"
    assert book.overdue(SILENT_S + 0.3) == [], "it is told once"


def test_a_slot_that_is_stuck_in_a_step_is_a_finding_and_then_a_death():
    book = _book("a")
    _arrive(book, "s0")
    grant = _take(book, "s0")
    for step in range(1, 7):
        _train(book, "s0", grant, step, float(step))
    now = 6.0
    while now < 6 + HUNG_FLOOR_S - 1:
        now += 1.0
        _train(book, "s0", grant, 6, now)
        assert book.overdue(now) == []
        found = [text for text in _texts(book) if "takes" in text]
        assert len(found) == (now - 6 > SLOW_FLOOR_S)
    _train(book, "s0", grant, 6, now + 2)
    (verdict,) = book.overdue(now + 2)
    assert "made no progress" in verdict.reason
    assert book.jobs["a"].state is JobState.QUEUED
    assert book.jobs["a"].tally == Tally(deaths=1)


def test_a_slow_step_that_ends_is_said_to_go_on():
    book = _book("a")
    _arrive(book, "s0")
    grant = _take(book, "s0")
    for step in range(1, 7):
        _train(book, "s0", grant, step, float(step))
    _train(book, "s0", grant, 6, 23.0)
    assert book.overdue(23.0) == []
    _train(book, "s0", grant, 7, 24.0)
    assert [text.split(": ")[1][:7] for text in _texts(book)] == ["step 7 ", "goes on"]


def test_ten_times_the_median_of_long_steps_is_waited_for():
    book = _book("a")
    _arrive(book, "s0")
    grant = _take(book, "s0")
    for step in range(1, 5):
        _train(book, "s0", grant, step, 100.0 * step)
    _train(book, "s0", grant, 4, 1399.0)
    assert book.overdue(1399.0) == []
    assert _texts(book) == []
    _train(book, "s0", grant, 4, 1401.0)
    assert book.overdue(1401.0) == []
    assert "the median is 1e+02 s" in _texts(book)[0]


@pytest.mark.parametrize(("phase", "limit"), [("evaluating", HUNG_UNKNOWN_S), ("waiting", None)])
def test_work_without_a_median_has_its_own_patience(phase, limit):
    book = _book("a")
    arrival = _arrive(book, "s0")
    grant = _take(book, "s0")

    def after(now: float) -> bool:
        book.beat("s0", arrival, grant.number, (phase, 1, 0, 0), now)
        return bool(book.overdue(now))

    assert not after(1.0)
    assert not after(HUNG_UNKNOWN_S)
    assert after(10 * HUNG_UNKNOWN_S) is (limit is not None)


def test_a_run_that_keeps_killing_its_worker_is_failed_and_the_sweep_goes_on():
    book = _book("a", "b", retries=1)
    for _ in range(2):
        _arrive(book, "s0")
        assert _take(book, "s0").run_id == "a"
        book.lose("s0", 0, 1.0, _lives)
    assert book.jobs["a"].state is JobState.FAILED
    failure = book.failures["a"]
    assert failure.message.startswith("killed its worker 2 times on a live machine")
    assert failure.place == "s0 on host"
    assert not failure.recorded
    _arrive(book, "s0")
    assert _take(book, "s0").run_id == "b"
    assert book.outstanding == 1


def test_a_lost_machine_costs_no_retry():
    book = _book("a", retries=0)
    for _ in range(5):
        _arrive(book, "s0", node="gone")
        _take(book, "s0")
        book.lose("s0", 0, 1.0, _lives)
    assert book.jobs["a"].tally == Tally()
    assert book.jobs["a"].state is JobState.QUEUED


def test_a_run_that_could_not_be_claimed_is_still_there_and_tried_later_and_later():
    book = _book("a", "b")
    _arrive(book, "s0")
    entry = book.pick(0.0)
    assert entry is not None
    book.put_back(entry, 0.0)
    assert _take(book, "s0").run_id == "b"
    waits, now = [], 0.0
    for _ in range(7):
        wait = book.wakes(now)
        assert wait is not None
        assert book.pick(now + wait / 2) is None
        now += wait
        waits.append(wait)
        again = book.pick(now)
        assert again is entry
        book.put_back(entry, now)
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert book.outstanding == 2


def test_storage_trouble_closes_the_gate_for_all_until_it_is_over():
    book = _book("a", "b")
    _arrive(book, "s0"), _arrive(book, "s1")
    _take(book, "s0")
    book.storage("s0", "no space is left on this disk", 3.0)
    book.storage("s0", "no space is left on this disk", 9.0)
    assert book.pick(4.0) is None
    assert book.trouble["s0"] == ("no space is left on this disk", 3.0)
    book.storage("s0", "", 10.0)
    assert _take(book, "s1", 10.0).run_id == "b"
    assert _texts(book) == [
        "the storage is in trouble, runs wait: no space is left on this disk",
        "the storage works again",
    ]


@pytest.mark.parametrize("how", ["lose", "silent"])
def test_trouble_of_a_slot_that_is_gone_keeps_nobody_waiting(how):
    book = _book("a", "b")
    _arrive(book, "s0")
    _take(book, "s0")
    book.storage("s0", "full", 1.0)
    if how == "lose":
        book.lose("s0", 0, 2.0, _lives)
    else:
        book.overdue(SILENT_S + 1)
    assert not book.trouble


def test_a_run_handed_back_is_first_in_line():
    book = _book("a", "b")
    _arrive(book, "s0"), _arrive(book, "s1")
    grant = _take(book, "s0")
    book.end("s0", grant.number, "a", Event.HANDED_BACK, 2.0)
    assert _take(book, "s1").run_id == "a"


def test_slots_of_a_machine_that_goes_hand_back_and_get_nothing():
    book = _book("a", "b")
    _arrive(book, "s0", node="going")
    grant = _take(book, "s0")
    assert _train(book, "s0", grant, 1, 1.0)
    book.draining = frozenset({"going"})
    assert book.leaves("s0")
    assert not _train(book, "s0", grant, 2, 2.0)


def test_slots_that_have_waited_for_long_end_while_others_are_enough():
    book = _book("a", "b")
    for slot in ("s0", "s1", "s2"):
        _arrive(book, slot)
    _take(book, "s0"), _take(book, "s1")
    assert not book.spare("s2", SPARE_S - 1)
    assert book.spare("s2", SPARE_S + 1)
    assert not book.spare("s0", SPARE_S + 1), "it has a run"
    book.lose("s1", 0, 1.0, _lives)
    assert not book.spare("s2", SPARE_S + 1), "it is the one for the run that s1 lost"


def test_a_machine_that_leaves_is_told_once_and_with_what_it_holds():
    book = _book("a", "b", "c")
    for slot, node in (("s0", "n0"), ("s1", "n0"), ("s2", "n1"), ("s3", "n2")):
        _arrive(book, slot, node=node)
    for slot in ("s0", "s1", "s2"):
        _take(book, slot)
    leaving = {"n0": Leaving("red", 118.4, "spot notice")}
    book.drain(leaving)
    book.drain({**leaving, "n1": Leaving("blue")})
    book.drain({**leaving, "n1": Leaving("blue"), "n2": Leaving("green", 29.6, "SIGTERM")})
    assert _texts(book) == [
        "machine red leaves in 118 s (spot notice); its 2 runs go elsewhere",
        "machine blue leaves soon; its run goes elsewhere",
        "machine green leaves in 30 s (SIGTERM); no run is on it",
    ]
    assert [view.phase for view in book.views(1.0)] == ["leaving"] * 4


@pytest.mark.parametrize(("other", "state"), [("n1", JobState.FAILED), ("n2", JobState.QUEUED)])
def test_a_lost_peer_on_another_machine_may_be_that_machine(other, state):
    """Its end is known 9 s later, when the run has been taken away long since."""
    book = _book("a", "b", retries=0)
    book.arrive("s0", (Place("n1", 1, "x"), Place(other, 2, "y")), 0.0, _lives)
    grant = _take(book, "s0")
    assert book.end("s0", grant.number, "a", Event.PEER_LOST, 1.0)
    assert book.jobs["a"].state is state


@pytest.mark.parametrize("how", ["lose", "silent", "peer", "hung"])
def test_what_ends_on_a_machine_that_leaves_is_no_fault_of_the_run(how):
    book = _book("a", "b", retries=0)
    arrival = book.arrive("s0", (Place("stays", 1, "x"), Place("goes", 2, "y")), 0.0, _lives)
    grant = _take(book, "s0")
    book.drain({"goes": Leaving("y")})
    if how == "lose":
        book.lose("s0", arrival, 1.0, _lives)
    elif how == "peer":
        assert book.end("s0", grant.number, "a", Event.PEER_LOST, 1.0)
    else:
        if how == "hung":
            book.beat("s0", arrival, grant.number, ("training", 1, 1, 10), HUNG_UNKNOWN_S)
        now = 2 * HUNG_UNKNOWN_S + 1 if how == "hung" else SILENT_S + 1
        book.slots["s0"].heard = now if how == "hung" else 0.0
        assert book.overdue(now)
    assert book.jobs["a"].state is JobState.QUEUED
    assert book.jobs["a"].tally == Tally()


def test_an_error_of_the_code_is_one_on_any_machine():
    book = _book("a")
    _arrive(book, "s0", node="goes")
    grant = _take(book, "s0")
    book.drain({"goes": Leaving("y")})
    book.end("s0", grant.number, "a", Event.RAISED, 1.0, message="ValueError: x")
    assert book.jobs["a"].state is JobState.FAILED


def test_what_was_picked_before_a_notice_is_not_handed_out_after_it():
    book = _book("a")
    arrival = _arrive(book, "s0", node="goes")
    entry = book.pick(0.0)
    assert entry is not None
    book.drain({"goes": Leaving("y")})
    assert book.grant("s0", arrival, entry, 0.0) is None
    assert book.pick(0.0) is entry


def test_a_machine_that_stays_after_all_is_used_again():
    book = _book("a")
    _arrive(book, "s0", node="goes")
    book.drain({"goes": Leaving("y")})
    assert book.leaves("s0")
    book.drain({})
    assert not book.leaves("s0")
    assert _take(book, "s0").run_id == "a"


def test_a_slot_without_a_run_is_shown_idle():
    book = _book("a")
    _arrive(book, "s0")
    grant = _take(book, "s0")
    _train(book, "s0", grant, 5, 1.0)
    assert [(view.phase, view.step) for view in book.views(1.0)] == [("training", 5)]
    book.end("s0", grant.number, "a", Event.HANDED_BACK, 2.0)
    assert [(view.phase, view.run, view.step) for view in book.views(2.0)] == [("idle", "", 0)]


def test_slots_are_shown_by_number_and_those_that_wait_say_why():
    book = _book()
    for number in (10, 2):
        book.starting(f"slot-{number}", 0.0, "tried again in 4 s")
    assert [(view.name, view.phase, view.run) for view in book.views(0.0)] == [
        ("slot-2", "starting", "tried again in 4 s"),
        ("slot-10", "starting", "tried again in 4 s"),
    ]


def test_no_run_is_handed_out_while_stopping():
    book = _book("a")
    book.stopping = True
    assert book.pick(0.0) is None
    assert book.outstanding == 1


def test_a_run_of_two_points_counts_for_both():
    book = Book(0, "val/x")
    book.submit([_entry("a", "p", "q"), _entry("b", "q")], {"q": {"old": 0.25}})
    _arrive(book, "s0")
    grant = _take(book, "s0")
    book.epoch(grant.number, "a", 1, 5, {"val/x": 0.5, "train/loss": 3.0})
    assert book.points["p"].known == {"a": 0.5}
    assert book.points["q"].known == {"a": 0.5, "old": 0.25}
    book.finish("s0", grant.number, "a", {"p": 0.75, "q": 0.5}, {}, 1.0)
    assert book.points["p"].ended
    assert book.points["p"].known == {"a": 0.75}
    assert not book.points["q"].ended
    grant = _take(book, "s0")
    book.end("s0", grant.number, "b", Event.RAISED, 2.0, message="broken", place="here", log="l")
    assert book.points["q"].ended
    assert book.points["q"].failed == {"b"}
    assert book.points["q"].known == {"a": 0.5, "old": 0.25}


def test_steps_done_follow_every_resume_and_the_true_number_of_steps():
    book = _book("a")
    _arrive(book, "s0")
    grant = _take(book, "s0")
    arrival = book.slots["s0"].arrival
    book.beat("s0", arrival, grant.number, ("training", 1, 6, 30), 1.0)
    assert book.steps == (6, 30)
    book.lose("s0", 0, 2.0, _lives)
    arrival = _arrive(book, "s0", 2.0)
    grant = _take(book, "s0", 2.0)
    book.beat("s0", arrival, grant.number, ("training", 1, 4, 30), 3.0)
    assert book.steps == (4, 30)
    book.finish("s0", grant.number, "a", {"pa": 1.0}, {}, 4.0)
    assert book.steps == (30, 30)


def test_events_tell_a_run_from_its_start_to_its_end():
    book = _book("a")
    _arrive(book, "s0")
    grant = _take(book, "s0")
    book.epoch(grant.number, "a", 1, 5, {"val/x": 0.5})
    book.finish("s0", grant.number, "a", {"pa": 0.5}, {"train_s": 2.0}, 7.0)
    assert book.events.since(0)[0] == [
        Started("a", "s0"),
        EpochDone("a", 1, 5, {"val/x": 0.5}),
        Finished("a", {"pa": 0.5}, {"train_s": 2.0}, 7.0),
    ]


def test_a_ring_keeps_the_latest_and_says_what_is_gone():
    ring: Ring[int] = Ring(3)
    for number in range(5):
        ring.add(number)
    assert ring.since(0) == ([2, 3, 4], 2)
    assert ring.since(4) == ([4], 0)
    assert ring.since(5) == ([], 0)
    assert ring.end == 5


_DEATHS = [Event.WORKER_DIED, Event.PEER_LOST, Event.OUT_OF_MEMORY, Event.HUNG]
_MISHAPS = [Event.SILENT, Event.CLUSTER, Event.PEER_GONE]
_FREE = [Event.NODE_GONE, Event.HANDED_BACK, Event.STORAGE]


@pytest.mark.parametrize("event", list(Event))
def test_policy(event):
    def action(times: int) -> Action:
        tally = Tally()
        for _ in range(times):
            tally = tally.with_event(event)
        return decide(event, tally, retries=2)

    if event in (Event.RAISED, Event.DIVERGED):
        assert action(1) is Action.FAIL
    elif event in _FREE:
        assert action(1000) is Action.RESUME
    else:
        most = 2 if event in _DEATHS else 2 + PATIENCE
        assert action(most) is Action.RESUME
        assert action(most + 1) is Action.FAIL


def test_every_event_has_its_place_in_the_policy():
    assert {*_DEATHS, *_MISHAPS, *_FREE, Event.RAISED, Event.DIVERGED} == set(Event)


class Machine(RuleBasedStateMachine):
    """Any order of arrivals, deaths, silences, ends and refusals: no run is lost or held twice."""

    slots = Bundle("slots")

    @initialize(count=st.integers(1, 5))
    def begin(self, count: int) -> None:
        self.book = Book(2, "val/x")
        self.book.submit([_entry(f"r{number}") for number in range(count)])
        self.now, self.count, self.held = 0.0, count, {}
        self.done: dict[str, int] = {}
        self.old: list[tuple[str, int, Grant]] = []

    @rule(
        target=slots, name=st.sampled_from(["s0", "s1", "s2"]), node=st.sampled_from(["n", "gone"])
    )
    def arrive(self, name: str, node: str) -> str:
        self._forget(name)
        self.book.arrive(name, (Place(node, 1, "h"),), self.now, _lives)
        return name

    @rule(name=slots)
    def take(self, name: str) -> None:
        state = self.book.slots.get(name)
        if state is None or state.arrival == 0 or name in self.held:
            return
        entry = self.book.pick(self.now)
        if entry is None:
            return
        grant = self.book.grant(name, state.arrival, entry, self.now)
        assert grant is not None
        assert grant.run_id not in [held.run_id for held in self.held.values()]
        assert grant.run_id not in self.done
        self.held[name] = grant

    @rule(patience=st.booleans())
    def refuse(self, patience: bool) -> None:
        entry = self.book.pick(self.now)
        if entry is not None:
            self.book.put_back(entry, self.now, patience=patience)

    @rule(name=slots)
    def die(self, name: str) -> None:
        self._forget(name)
        self.book.lose(name, 0, self.now, _lives)

    @rule(name=slots, event=st.sampled_from(list(Event)))
    def end(self, name: str, event: Event) -> None:
        grant = self.held.pop(name, None)
        if grant is not None:
            assert self.book.end(name, grant.number, grant.run_id, event, self.now)
            self.old.append((name, 0, grant))

    @rule(name=slots)
    def finish(self, name: str) -> None:
        grant = self.held.pop(name, None)
        if grant is not None:
            assert self.book.finish(name, grant.number, grant.run_id, {}, {}, self.now)
            self.done[grant.run_id] = grant.number
            self.old.append((name, 0, grant))

    @rule(data=st.data())
    def late_word(self, data) -> None:
        if self.old:
            name, _, grant = data.draw(st.sampled_from(self.old))
            before = self.book.jobs[grant.run_id].state
            assert not self.book.finish(name, grant.number, grant.run_id, {}, {}, self.now)
            assert not self.book.end(name, grant.number, grant.run_id, Event.RAISED, self.now)
            assert self.book.jobs[grant.run_id].state is before

    @rule(seconds=st.sampled_from([0.5, 5.0, 40.0]), beats=st.booleans())
    def wait(self, seconds: float, beats: bool) -> None:
        self.now += seconds
        if beats:
            for name, state in self.book.slots.items():
                held = self.held.get(name)
                number = held.number if held else 0
                self.book.beat(name, state.arrival, number, ("evaluating", 0, 0, 0), self.now)
        for verdict in self.book.overdue(self.now):
            assert not beats
            self._forget(verdict.slot)

    def _forget(self, name: str) -> None:
        grant = self.held.pop(name, None)
        if grant is not None:
            self.old.append((name, 0, grant))

    @invariant()
    def nothing_is_lost(self) -> None:
        book = self.book
        states = [entry.state for entry in book.jobs.values()]
        for state in JobState:
            assert book.count(state) == states.count(state)
        running = {e.run_id for e in book.jobs.values() if e.state is JobState.RUNNING}
        assert running == {grant.run_id for grant in self.held.values()}
        queued = sorted(e.run_id for e in book.jobs.values() if e.state is JobState.QUEUED)
        assert sorted([*book._waiting, *(entry[2] for entry in book._later)]) == queued
        assert all(book.jobs[run].state is JobState.FINISHED for run in self.done)


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestMachine = Machine.TestCase


def test_an_event_of_every_kind_is_told_where_a_run_ends():
    book = _book("a", "b", "c", retries=0)
    _arrive(book, "s0")
    grant = _take(book, "s0")
    book.end("s0", grant.number, "a", Event.STORAGE, 0.0, message="full")
    grant = _take(book, "s0")
    book.end(
        "s0", grant.number, "b", Event.RAISED, 0.0, message="ValueError: x", place="s0, a.py:3"
    )
    kinds = [type(event) for event in book.events.since(0)[0]]
    assert kinds == [Started, HandedBack, Message, Started, Message, Failed]
    assert book.failures["b"] == Failed("b", "ValueError: x", "s0, a.py:3", "", True)


def test_while_the_storage_is_in_trouble_nobody_waits_for_a_run_that_is_due():
    """A broker that was told "in 0 s" asked again and again, for as long as the trouble lasted."""
    book = _book("a")
    entry = book.pick(0.0)
    assert entry is not None
    book.put_back(entry, 0.0)
    book.storage("broker", "no answer", 0.0)
    assert book.pick(60.0) is None
    assert book.wakes(60.0) is None
    book.storage("broker", "", 61.0)
    assert book.wakes(61.0) == 0.0
    assert book.pick(61.0) is entry
