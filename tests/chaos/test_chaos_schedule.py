"""The schedule: a pure function of the seed, within its time, that reaches every kind."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vesselflow.chaos import schedule as chaos

PLAIN = chaos.possible([])
ALL = chaos.possible([chaos.RANKS, chaos.BUCKET, chaos.DISK])


def test_what_a_kind_needs_decides_whether_it_is_possible() -> None:
    assert set(ALL) == set(chaos.KINDS)
    assert set(ALL) - set(PLAIN) == {"kill-rank", "cut-bucket", "slow-bucket", "full-disk"}


def test_what_must_be_taken_up_again_is_among_the_kinds() -> None:
    assert set(chaos.KILLS) <= set(chaos.KINDS)
    assert not {"notice", "second-driver", "full-disk"} & set(chaos.KILLS)


def test_another_process_makes_the_same_schedule() -> None:
    code = "from vesselflow.chaos.schedule import *; print(schedule(7, possible([])))"
    # With other hash seeds each.
    said = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
        for _ in range(2)
    }
    assert said == {f"{chaos.schedule(7, PLAIN)}\n"}


@given(st.integers(0, 10**6), st.sampled_from([PLAIN, ALL]), st.floats(0, 200))
def test_the_laws_of_a_schedule(seed: int, kinds: list[str], budget_s: float) -> None:
    events = chaos.schedule(seed, kinds, budget_s)
    assert events == chaos.schedule(seed, kinds, budget_s)
    names = [event.kind for event in events]
    assert kinds[seed % len(kinds)] in names
    assert set(names) <= set(kinds)
    assert all(names.count(name) <= chaos.KINDS[name].most for name in names)
    cost = sum(chaos.KINDS[name].cost_s for name in names)
    assert len(events) == 1 or cost <= budget_s
    moments = [event.after for event in events]
    assert moments == sorted(moments)
    assert all(0 < moment < 1 for moment in moments)
    assert all(0 <= event.pause_s <= 4 and 2 <= event.seconds <= 8 for event in events)


def test_seeds_differ_and_meet_every_kind() -> None:
    schedules = [chaos.schedule(seed, ALL) for seed in range(len(ALL))]
    assert {event.kind for events in schedules for event in events} == set(ALL)
    assert len({tuple(events) for events in schedules}) == len(ALL)
    assert all(len(events) >= 2 for events in schedules)


@pytest.mark.parametrize(
    ("text", "seeds"), [("3", [3]), ("0-3", [0, 1, 2, 3]), ("0-1, 7", [0, 1, 7])]
)
def test_lists_of_seeds(text: str, seeds: list[int]) -> None:
    assert chaos.read_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "3-1", "1,", "-1", "1-", "1-2-3"])
def test_what_is_no_list_of_seeds(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the message is the command's.
        chaos.read_seeds(text)
