import io
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from vesselflow.reporting.live import LiveView, _newer, plain_line, render
from vesselflow.sweeps.progress import Best, Progress, SlotView

SLOTS = (
    SlotView("slot 0", "beta=0.5 fold 0 seed 1", "training", 3, 12, 40, 120, 14.0),
    SlotView("slot 1", "beta=0.75 fold 1 seed 0", "evaluating", 12, 12, 120, 120, 61.0),
    SlotView("slot 2", "", "idle", 0, 0, 0, 0, 3.0),
)
PROGRESS = Progress(
    sweep="loss_beta",
    points_total=10,
    points_done=4,
    runs_total=40,
    runs_done=17,
    runs_running=2,
    runs_failed=1,
    runs_reused=5,
    steps_done=1450,
    steps_total=4800,
    elapsed_s=192.0,
    eta_s=421.0,
    best=Best("beta=0.5", 0.8123, 0.0041, 4, "val Dice"),
    slots=SLOTS,
    messages=("slot 2 started",),
)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def plain_view() -> tuple[LiveView, io.StringIO, Clock]:
    file, clock = io.StringIO(), Clock()
    return LiveView(Console(file=file), clock=clock), file, clock


def drawn(progress: Progress, width: int, height: int = 40) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(render(progress, height=height))
    return console.export_text().rstrip("\n").split("\n")


@pytest.mark.parametrize("width", [80, 100, 140])
def test_panel_fills_its_width_and_shows_everything(width):
    lines = drawn(PROGRESS, width)
    text = "\n".join(lines)
    assert {len(line) for line in lines} == {width}
    for words in ("4/10", "17/40", "1450/4800", "slot 0", "beta=0.5 fold 0 seed 1", "training"):
        assert words in text
    assert "evaluating" in text
    assert "3/12" in text
    assert "3 min 12 s so far, about 7 min 01 s left" in text
    assert "2 running, 1 failed, 5 reused" in text
    assert "beta=0.5: val Dice 0.812 ± 0.004 (n = 4)" in text
    assert "slot 2 started" in text


def test_what_machines_are_waited_for_is_shown_and_since_when():
    told = "waiting for machines for 2 min 05 s: no machine carries a slot"
    waits = replace(PROGRESS, waiting=("no machine carries a slot", 125.0))
    assert told in "\n".join(drawn(waits, 100))
    assert told in plain_line(waits)


def test_trouble_with_the_storage_is_shown_and_since_when():
    told = "waiting for the storage for 2 min 05 s: no space is left on this disk"
    troubled = replace(PROGRESS, trouble=("no space is left on this disk", 125.0))
    assert told in "\n".join(drawn(troubled, 100))
    assert told in plain_line(troubled)
    assert "storage" not in plain_line(PROGRESS)


def test_bar_is_as_long_as_its_share():
    # 4 of 10 points: the bar's 80 - 25 = 55 cells are 22 full ones (0.4 * 55) and 33 of track.
    line = next(line for line in drawn(PROGRESS, 80) if "points" in line)
    assert (line.count("━"), line.count("─")) == (22, 33)


def test_slots_beyond_the_terminal_are_counted():
    lines = drawn(replace(PROGRESS, slots=SLOTS * 10), 80, height=24)
    assert len(lines) < 24
    text = "\n".join(lines)
    shown = sum(line.startswith("│  slot ") for line in lines)
    assert f"and {30 - shown} more slots: " in text


def test_single_run_says_n_and_no_zero_spread():
    best = Best("beta=0.5", 0.8, math.nan, 1, "val Dice")
    assert "0.800 (n = 1)" in plain_line(replace(PROGRESS, best=best))
    assert "±" not in plain_line(replace(PROGRESS, best=best))


def test_empty_sweep_is_drawn():
    empty = Progress("s", 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0)
    text = "\n".join(drawn(empty, 80))
    assert "no result yet" in text
    assert "nothing is running" in text


def test_stopping_says_what_a_second_stop_does():
    assert "again Ctrl-C stops at once" in "\n".join(drawn(replace(PROGRESS, stopping=True), 80))


def test_unknown_phase_is_refused():
    with pytest.raises(ValueError, match="phase 'asleep'"):
        SlotView("slot 0", "", "asleep", 0, 0, 0, 0, 0.0)


def test_plain_lines_are_whole_and_free_of_control_characters():
    view, file, _ = plain_view()
    with view:
        view.update(replace(PROGRESS, messages=("bad \x1b[31m\r\nname",)))
    text = file.getvalue()
    assert text.count("\n") == 1
    assert all(char.isprintable() for char in text.rstrip("\n"))
    assert text.startswith("loss_beta: points 4/10, runs 17/40 (2 running, 1 failed, 5 reused)")


def test_plain_lines_keep_their_distance_and_wait_for_change():
    view, file, clock = plain_view()
    with view:
        view.update(PROGRESS)
        clock.now = 14.9
        view.update(replace(PROGRESS, runs_done=18))
        assert file.getvalue().count("\n") == 1
        clock.now = 15.0
        view.update(replace(PROGRESS, runs_done=18))
        assert file.getvalue().count("\n") == 2
        clock.now = 60.0
        view.update(replace(PROGRESS, runs_done=18, elapsed_s=300.0))
        assert file.getvalue().count("\n") == 2
    assert file.getvalue().count("\n") == 2


def test_a_storage_in_trouble_is_told_at_once_and_once():
    view, file, clock = plain_view()
    told = "no space is left on this disk"
    with view:
        view.update(PROGRESS)
        clock.now = 0.5
        view.update(replace(PROGRESS, trouble=(told, 0.5)))
        # One that comes and goes shall not fill the log.
        assert told not in file.getvalue()
        clock.now = 1.0
        view.update(replace(PROGRESS, trouble=(told, 1.0)))
        assert told in file.getvalue()
        clock.now = 15.9
        view.update(replace(PROGRESS, trouble=(told, 15.9)))
        assert file.getvalue().count("\n") == 2
        clock.now = 16.0
        view.update(PROGRESS)
        assert file.getvalue().count("\n") == 3
    assert told not in file.getvalue().splitlines()[-1]


def test_last_state_is_printed_at_the_end():
    view, file, clock = plain_view()
    with view:
        view.update(PROGRESS)
        clock.now = 1.0
        view.update(replace(PROGRESS, runs_done=40))
    assert "runs 40/40" in file.getvalue().splitlines()[-1]


def test_messages_between_two_lines_are_kept():
    view, file, clock = plain_view()
    with view:
        view.update(replace(PROGRESS, messages=("one",)))
        clock.now = 5.0
        view.update(replace(PROGRESS, messages=("one", "two")))
        clock.now = 10.0
        view.update(replace(PROGRESS, messages=("three", "four")))
        clock.now = 20.0
        view.update(replace(PROGRESS, messages=("four",)))
    first, second = file.getvalue().splitlines()
    assert first.endswith("| one")
    assert second.endswith("| two | three | four")


def test_output_that_cannot_encode_is_no_error():
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    with LiveView(Console(file=file)) as view:
        view.update(PROGRESS)
    file.flush()
    assert b"0.812 ? 0.004" in raw.getvalue()


def test_terminal_is_redrawn_in_place():
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=80, height=30, _environ={})
    with LiveView(console) as view:
        view.update(PROGRESS)
        view.update(replace(PROGRESS, runs_done=40))
    assert "\x1b[" in file.getvalue()
    assert "40" in file.getvalue()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(), unique=True, max_size=12), st.integers(0, 12), st.integers(1, 12))
def test_rolling_window_loses_and_repeats_nothing(numbers, seen, length):
    everything = [str(number) for number in numbers]
    seen = min(seen, len(everything))
    before = tuple(everything[:seen][-length:])
    after = tuple(everything[-length:])
    fresh = everything[seen:]
    # Messages that rolled off unseen cannot be known; all others come once and in order.
    assert _newer(before, after) == list(fresh[-length:] if fresh else [])
