"""How far the money reaches: whether one more run may be taken before a budget is passed. Pure.

What a command may come to is what its machines have cost so far, plus each machine's price until
the last run on it is likely to end, plus what machines cost while they end. A run whose taking
would bring that above the budget is not taken, and no other after it. Where runs turn out to take
longer than was thought, all are handed back at their next step before the budget is passed.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vesselflow.sweeps.book import Book, Entry, SlotState
from vesselflow.sweeps.spending import Spending

#: Seconds for which machines are paid after the last run on them: slots end, the sweep's end is
#: written, and (of a cloud) the autoscaler waits before it ends an idle one.
END_S, END_RENTED_S = 20.0, 360.0
#: A run of which nothing is known but its steps takes so much longer than these: scoring, start.
BESIDE_STEPS = 1.25


@dataclass
class Durations:
    """How long runs take, by what was seen of them.

    Attributes:
        ended: Seconds of a step, all beside it included, of runs that ended.
    """

    ended: list[float] = field(default_factory=list)

    def end(self, seconds: float, steps: int) -> None:
        """A run ended after so many steps under one grant."""
        if steps > 0 and seconds > 0:
            self.ended.append(seconds / steps)

    def step_s(self, state: SlotState | None = None) -> float | None:
        """Seconds of a step with all beside it; None while nothing is known.

        Args:
            state: Of the slot that is asked about: its own pace where no run has ended yet.
        """
        if self.ended:
            return statistics.fmean(self.ended[-50:])
        if state is not None and len(state.pace) >= 3:
            return BESIDE_STEPS * statistics.median(state.pace)
        return None

    def any_step_s(self, states: Sequence[SlotState]) -> float | None:
        """The same for a run that nobody holds: by the slots that train."""
        known = [pace for state in states if (pace := self.step_s(state)) is not None]
        return max(known) if known else None


@dataclass
class Budget:
    """A limit in dollars.

    Attributes:
        dollars: Of this command, from its start to the end of its machines.
        rented: Whether machines are paid for a while after their last run.
        durations: How long runs take.
    """

    dollars: float
    rented: bool = False
    durations: Durations = field(default_factory=Durations)

    @property
    def end_s(self) -> float:
        """Seconds for which machines are paid after the last run."""
        return END_RENTED_S if self.rented else END_S

    def refuses(self, book: Book, spending: Spending, slot: str, entry: Entry, now: float) -> str:
        """Why a slot shall not take a run; "" where it may.

        Args:
            book: Who holds what.
            spending: What was paid, for which machines.
            slot: Who asks.
            entry: The run.
            now: Monotonic seconds.
        """
        if unpriced := spending.unpriced():
            return f"no price is known of {', '.join(unpriced)}"
        step_s = self.durations.any_step_s(list(book.slots.values()))
        # While nothing is known of any run, the first ones tell.
        more = {} if step_s is None else {slot: (entry.steps - entry.step) * step_s}
        total = self.projected(book, spending, now, more)
        if total <= self.dollars:
            return ""
        return f"${spending.spent(now):.2f} are spent, with one more run it may be ${total:.2f}"

    def passed(self, spending: Spending, now: float) -> str:
        """Why everything shall end now; "" while there is money to go on."""
        ends = sum(spending.rate(node) for node in spending.alive) * self.end_s
        spent = spending.spent(now)
        if spent + ends < self.dollars:
            return ""
        return f"${spent:.2f} are spent, and the machines cost ${ends:.2f} while they end"

    def projected(
        self, book: Book, spending: Spending, now: float, more: Mapping[str, float]
    ) -> float:
        """Dollars that this command is likely to have cost when all that is held has ended.

        Args:
            book: Who holds what.
            spending: What was paid, for which machines.
            now: Monotonic seconds.
            more: Slot -> seconds of a run that it might take.
        """
        until: dict[str, float] = {}
        for name, state in book.slots.items():
            left = more.get(name, 0.0)
            if state.run_id is not None:
                left = max(left, self._left_s(book, state, now))
            for place in state.places:
                until[place.node] = max(until.get(place.node, 0.0), left)
        last = max(until.values(), default=0.0)
        # Whoever only leads is paid until the last run ends.
        return spending.spent(now) + sum(
            spending.rate(node) * (until.get(node, last) + self.end_s) for node in spending.alive
        )

    def _left_s(self, book: Book, state: SlotState, now: float) -> float:
        """Seconds until a slot is likely to be done with what it holds."""
        assert state.run_id is not None
        entry, step_s = book.jobs[state.run_id], self.durations.step_s(state)
        if step_s is None:
            return 0.0
        done = max(state.step, 0)
        return max(0.0, (entry.steps - done) * step_s)
