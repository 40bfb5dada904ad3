"""Slot-seconds of work and failures within them, counted by the book."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vesselflow.sweeps.book import Book, Entry, Place
from vesselflow.sweeps.context import Result
from vesselflow.sweeps.exposure import Exposure
from vesselflow.sweeps.policy import Event, loses_steps
from vesselflow.training.interval import Survival


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["begin", "end", "failed"]))))
def test_work_is_counted_as_if_each_second_was_looked_at(happenings) -> None:
    exposure, working, seconds, failures = Exposure(), set(), 0, 0
    for now, (run, what) in enumerate(happenings):
        if what == "begin":
            exposure.begin(run, now)
            working.add(run)
        else:
            exposure.end(run, now, failed=what == "failed")
            failures += run in working and what == "failed"
            working.discard(run)
        assert exposure.survival(now) == Survival(seconds, failures)
        seconds += len(working)


def _entry(name: str) -> Entry:
    return Entry(name, name, None, ("p",), 1, 10)


def test_a_grant_carries_what_the_book_saw():
    book = Book(retries=3, curve="val/dice")
    book.submit([_entry(name) for name in "abcd"])
    slots = {}
    for slot in ("s0", "s1"):
        slots[slot] = book.arrive(slot, (Place("n", 1, "h"),), 0.0, lambda node: True)

    def grant(slot: str, now: float):
        entry = book.pick(now)
        return book.grant(slot, slots[slot], entry, now)

    first = grant("s0", 100.0)
    assert first.survival == Survival(0, 0)
    second = grant("s1", 110.0)
    assert second.survival == Survival(10, 0)
    # Handed back after a stop or a notice: nothing is lost.
    book.end("s1", second.number, second.run_id, Event.HANDED_BACK, 130.0)
    # Killed: it is.
    book.end("s0", first.number, first.run_id, Event.WORKER_DIED, 140.0)
    again = grant("s0", 200.0)
    assert again.survival == Survival(20 + 40, 1)
    book.finish("s0", again.number, again.run_id, {}, Result("finished").cost, 260.0)
    assert grant("s0", 300.0).survival == Survival(60 + 60, 1)


def test_what_loses_steps():
    assert {event for event in Event if not loses_steps(event)} == {
        Event.HANDED_BACK,
        Event.RAISED,
        Event.DIVERGED,
    }
