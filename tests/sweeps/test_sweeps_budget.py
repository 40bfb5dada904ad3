"""How far the money reaches: the ledger of machines, and when no run is taken any more."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vesselflow.evaluation.cost_table import Quote
from vesselflow.sweeps.book import Book, Entry, Place
from vesselflow.sweeps.budget import BESIDE_STEPS, END_RENTED_S, END_S, Budget, Durations
from vesselflow.sweeps.cost_machine import MachineKind
from vesselflow.sweeps.spending import BOOT_S, Spending, spent_line
from vesselflow.sweeps.spending_file import SpendingFile, read_spending

SPOT, HEAD = MachineKind("aws:big", "spot"), MachineKind("aws:head", "on-demand")
HOURLY = {"aws:big": 3.6, "aws:head": 0.36}  # $0.001 and $0.0001 a second


def _prices(machine: str, market: str) -> Quote:
    return Quote(HOURLY.get(machine, math.nan), 10.0, "here")


def _spending(*nodes: str, now: float = 0.0) -> Spending:
    spending = Spending(_prices)
    spending.look(nodes, now)
    for node in nodes:
        spending.known(node, HEAD if node == "head" else SPOT)
    return spending


# -- the ledger -----------------------------------------------------------------------------------


def test_machines_are_paid_while_they_are_there() -> None:
    spending = _spending("head", "one")
    assert spending.spent(1000.0) == pytest.approx(1.0 + 0.1)
    spending.look(["head"], 1000.0)
    # The other was last seen at 0 s: nothing is known of it after that.
    assert spending.spent(2000.0) == pytest.approx(0.2)
    spending = _spending("head", "one")
    spending.look(["head", "one"], 1000.0)
    spending.look(["head"], 1005.0)
    assert spending.spent(2000.0) == pytest.approx(1.0 + 0.2)
    assert spending.alive == {"head"}


def test_a_machine_that_comes_later_was_paid_while_it_booted() -> None:
    spending = _spending("head")
    spending.look(["head", "new"], 500.0)
    spending.known("new", SPOT)
    assert spending.spent(600.0) == pytest.approx(0.06 + (100 + BOOT_S) * 0.001)


def test_a_machine_that_said_nothing_yet_is_paid_like_the_dearest() -> None:
    spending = _spending("head", "one")
    spending.look(["head", "one", "dark"], 0.0)
    assert spending.rate("dark") == spending.rate("one") == pytest.approx(0.001)
    assert spending.unpriced() == ()
    spending.known("dark", MachineKind("rack-7", "own"))
    assert spending.rate("dark") == 0
    assert spending.unpriced() == ("rack-7",)
    spending.known("nobody", SPOT)
    assert spending.alive == {"head", "one", "dark"}


def test_rows_tell_each_kind() -> None:
    spending = _spending("head", "one", "two")
    spending.look(["head", "one", "two", "mine"], 0.0)
    spending.known("mine", MachineKind("local", "own"))
    rows = {row["machine"]: row for row in spending.rows(3600.0)}
    assert rows["aws:big:spot"] == {
        "machine": "aws:big:spot",
        "count": 2,
        "seconds": 7200.0,
        "price": 3.6,
        "dollars": pytest.approx(7.2),
    }
    assert (rows["local"]["price"], rows["local"]["dollars"]) == (None, None)
    assert json.loads(json.dumps(rows)) == rows
    line = spent_line(spending.rows(3600.0))
    assert line.startswith("machines: $7.56 for 3.00 hours of machines since this command began")
    assert spent_line([rows["local"]]) == spent_line([]) == ""


def test_a_folder_keeps_what_each_start_has_spent(tmp_path: Path) -> None:
    clock = [0.0]
    rows = [{"machine": "local", "dollars": 1.0}]
    for start in range(2):
        file = SpendingFile(tmp_path, clock=lambda: clock[0])
        file.note(rows)
        assert len(read_spending(tmp_path / "spending.json")) == start, "not each look is written"
        clock[0] += 61.0
        file.note(rows)
        file.note([{"machine": "local", "dollars": 2.0 + start}], last=True)
    starts = read_spending(tmp_path / "spending.json")
    assert [start["machines"][0]["dollars"] for start in starts] == [2.0, 3.0]
    assert len({start["start"] for start in starts}) == 2


@pytest.mark.parametrize("text", ["", "{", "{}", "[1]"])
def test_a_damaged_ledger_is_begun_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / "spending.json").write_text(text)
    SpendingFile(tmp_path).note([{"machine": "local", "dollars": 1.0}], last=True)
    assert len(read_spending(tmp_path / "spending.json")) == 1


# -- the budget -----------------------------------------------------------------------------------


def _book(slots: dict[str, str], runs: int = 9, steps: int = 100) -> Book:
    """A book with idle slots: name -> machine."""
    book = Book(2, "")
    book.submit(Entry(f"run-{n}", f"run {n}", b"", (f"p{n}",), 1, steps) for n in range(runs))
    for slot, node in slots.items():
        book.arrive(slot, (Place(node, 1, node),), 0.0, lambda node: True)
    return book


def _take(book: Book, slot: str, now: float = 0.0) -> Entry:
    entry = book.pick(now)
    assert entry is not None
    assert book.grant(slot, book.slots[slot].arrival, entry, now) is not None
    return entry


def _train(book: Book, slot: str, step: int, now: float) -> None:
    state = book.slots[slot]
    book.beat(slot, state.arrival, state.grant, ("training", 1, step, 100), now)


def _asks(budget: Budget, book: Book, spending: Spending, slot: str, now: float) -> str:
    entry = book.pick(now)
    assert entry is not None
    book.return_unused(entry)
    return budget.refuses(book, spending, slot, entry, now)


def test_while_nothing_is_known_of_any_run_the_first_ones_tell() -> None:
    book, spending = _book({"s0": "one"}), _spending("one")
    assert _asks(Budget(0.1), book, spending, "s0", 0.0) == ""


def test_what_is_spent_what_runs_and_what_ends_is_counted() -> None:
    book, spending = _book({"s0": "one", "s1": "one"}), _spending("one")
    budget = Budget(1.0)
    budget.durations.end(200.0, 100)  # 2 s a step: a run of 100 steps takes 200 s, $0.20
    _take(book, "s0")
    # At 700 s: $0.70, $0.20 for a run beside the one that runs, $0.02 for the end.
    assert budget.projected(book, spending, 700.0, {}) == pytest.approx(0.7 + 0.2 + END_S / 1000)
    assert _asks(budget, book, spending, "s1", 700.0) == ""
    _train(book, "s0", 90, 700.0)
    assert budget.projected(book, spending, 700.0, {}) == pytest.approx(0.7 + 0.02 + END_S / 1000)
    assert _asks(budget, book, spending, "s1", 779.0) == ""
    assert _asks(budget, book, spending, "s1", 781.0) == (
        "$0.78 are spent, with one more run it may be $1.00"
    )


def test_a_head_is_paid_until_the_last_run_ends() -> None:
    book, spending = _book({"s0": "one"}), _spending("head", "one")
    budget = Budget(1.0)
    budget.durations.end(100.0, 100)
    _take(book, "s0")
    assert budget.projected(book, spending, 0.0, {}) == pytest.approx((100 + END_S) * 0.0011)


def test_a_run_is_known_by_its_own_pace_before_any_has_ended() -> None:
    book = _book({"s0": "one", "s1": "one"})
    _take(book, "s0")
    for step in range(1, 6):
        _train(book, "s0", step, float(3 * step))
    durations = Durations()
    assert durations.step_s(book.slots["s0"]) == pytest.approx(3 * BESIDE_STEPS)
    assert durations.step_s(book.slots["s1"]) is None
    assert durations.any_step_s(list(book.slots.values())) == pytest.approx(3 * BESIDE_STEPS)
    durations.end(0.0, 0)
    assert durations.step_s() is None


def test_rented_machines_are_paid_while_they_are_given_back() -> None:
    assert Budget(1.0, rented=True).end_s == END_RENTED_S > Budget(1.0).end_s == END_S


def test_a_machine_without_a_price_has_no_budget() -> None:
    book, spending = _book({"s0": "one"}), _spending("one")
    spending.known("one", MachineKind("rack-7", "own"))
    assert _asks(Budget(1.0), book, spending, "s0", 0.0) == "no price is known of rack-7"


def test_what_takes_longer_than_was_thought_is_handed_back_in_time() -> None:
    spending = _spending("one")
    budget = Budget(1.0)
    assert budget.passed(spending, 970.0) == ""
    assert budget.passed(spending, 981.0) == (
        "$0.98 are spent, and the machines cost $0.02 while they end"
    )


@given(
    limit=st.floats(0.01, 5),
    slots=st.integers(1, 6),
    step_s=st.floats(0.05, 20),
    start_s=st.floats(0, 100),
)
def test_runs_that_take_what_was_expected_never_pass_a_budget(
    limit: float, slots: int, step_s: float, start_s: float
) -> None:
    """Slots of one machine that take a run whenever they may: what it comes to in the end."""
    names = [f"s{n}" for n in range(slots)]
    book, spending = _book(dict.fromkeys(names, "one"), runs=40), _spending("one")
    budget, now = Budget(limit), start_s
    budget.durations.end(step_s * 100, 100)
    ends: dict[str, float] = {}
    while names:
        for slot in [name for name in names if name not in ends]:
            entry = book.pick(now)
            if entry is None or budget.refuses(book, spending, slot, entry, now):
                if entry is not None:
                    book.return_unused(entry)
                names.remove(slot)
                continue
            assert book.grant(slot, book.slots[slot].arrival, entry, now) is not None
            ends[slot] = now + 100 * step_s
        if not ends:
            break
        slot, now = min(ends.items(), key=lambda item: item[1])
        for other, until in ends.items():
            _train(book, other, int(100 - (until - now) / step_s), now)
        del ends[slot]
        state = book.slots[slot]
        assert state.run_id is not None
        book.finish(slot, state.grant, state.run_id, {}, {}, now)
    if now > start_s:  # Some run was taken: with all of them it stayed below.
        assert spending.spent(now) + budget.end_s * 0.001 <= limit * (1 + 1e-9) + 0.001 * step_s
