"""What is said while no machine is there: at once, and then more and more rarely."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vesselflow.sweeps.waiting import Waiting


def test_it_is_said_at_once_and_at_growing_intervals_and_when_it_is_over():
    waiting, said = Waiting(), []
    for second in range(3 * 3600 + 1):
        at = f"{14 + second // 3600}:{second // 60 % 60:02d}"
        said += [(second, line) for line in waiting.look("no machine", 1000.0 + second, at)]
    assert [second for second, _ in said] == [0, 60, 300, 900, 1800, 3600, 7200, 10800]
    assert said[0][1] == "waits for machines: no machine"
    assert said[2][1] == "waits for machines since 14:00 (5 min): no machine"
    assert said[-1][1] == "waits for machines since 14:00 (3.0 h): no machine"
    assert waiting.shown(1000.0 + 60) == ("no machine", 60.0)
    assert waiting.look("", 1000.0 + 20000, "x") == ["machines are there, after 5.6 h"]
    assert waiting.shown(30000.0) is None
    assert waiting.look("", 1e6, "x") == []


def test_a_second_wait_begins_anew():
    waiting = Waiting()
    waiting.look("a", 0.0, "1:00")
    waiting.look("", 100.0, "1:01")
    assert waiting.look("b", 200.0, "1:03") == ["waits for machines: b"]
    assert waiting.look("b", 261.0, "1:04") == ["waits for machines since 1:03 (61 s): b"]


@given(st.lists(st.floats(0.1, 10_000), max_size=200))
def test_nobody_is_told_more_often_than_every_minute(gaps):
    waiting, now, told = Waiting(), 0.0, []
    for gap in gaps:
        told += [now for _ in waiting.look("x", now, "")]
        now += gap
    assert len(told) <= 1 + now / 60
