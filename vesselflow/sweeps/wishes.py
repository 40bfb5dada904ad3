"""What machines a sweep asks an autoscaler for: how many slots' worth, and of which market. Pure.

Ray's autoscaler (v2) grants all of what is asked for or nothing: a request beyond what the cluster
file allows launches no machine at all. So the number is searched for from below, by its answers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from vesselflow.errors import UserError
from vesselflow.sweeps.capacity import SlotPlan
from vesselflow.sweeps.waiting import long

#: Custom resources by which cluster files tell machines of the two markets apart.
SPOT, ON_DEMAND = "spot", "on_demand"
#: How much of such a resource a worker asks for: cluster files give a machine 1000 of it.
MARK = 0.001
#: Slots that are asked for first; then twice as many, as long as they are granted.
FIRST = 4
#: Seconds after which more is asked for again than was refused: a cluster file may have changed.
AGAIN_S = 600.0
#: Seconds for which enough spot machines must have been there before on-demand ones are let go: to
#: pay twice for so long costs less than to stand still for the whole time again.
BACK_S = 300.0
#: Where a cluster file says after how long on-demand machines are asked for.
AFTER = "VESSELFLOW_ON_DEMAND_AFTER_S"
#: Market ("" for none) -> slots.
Asked = dict[str, int]
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|)")
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def seconds_of(text: str, where: str) -> float:
    """Seconds of "900", "90s", "15m" or "2h".

    Raises:
        UserError: It is no time.
    """
    match = _TIME.fullmatch(text.strip().lower())
    if match is None:
        raise UserError(f"'{text}' is no time", where=where, allowed="900, 90s, 15m, 2h")
    return float(match[1]) * _UNITS[match[2]]


def on_demand_after(option: str | None, environment: Mapping[str, str]) -> float | None:
    """Seconds after which on-demand machines are asked for, by the option, else by the variable.

    None where neither is given: the cluster's machines are of no market.

    Raises:
        UserError: It is no time.
    """
    if option is not None:
        return seconds_of(option, "--on-demand-after")
    return seconds_of(environment[AFTER], AFTER) if environment.get(AFTER) else None


@dataclass(frozen=True)
class Answer:
    """What the autoscaler says.

    Attributes:
        granted: Whether it takes the whole of the latest request; None while it has not said.
        pending: Kind of machine -> how many are on their way.
        failed: Kind of machine -> why its latest launch failed; "" where the autoscaler does not
            say (that of Ray 2.60 keeps no reason; its own log has it).
    """

    granted: bool | None = None
    pending: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """What a person is told of it; "" for nothing."""
        parts = [f"{count} x {kind} on the way" for kind, count in sorted(self.pending.items())]
        parts += [
            f"{kind} failed: {why[:80]}" if why else f"{kind} cannot be had now"
            for kind, why in sorted(self.failed.items())
        ]
        return ", ".join(parts)


class Search:
    """Finds by its answers how many slots the autoscaler grants.

    Attributes:
        granted: The most that it granted, as far as nothing speaks against it.
        refused: The fewest that it refused lately; None when it refused nothing.
    """

    def __init__(self) -> None:
        self.granted = 0
        self.refused: int | None = None
        self._refused_at = 0.0

    def ask(self, want: int, now: float) -> int:
        """How many to ask for next: at least one, and no more than are wanted."""
        if self.refused is not None and now - self._refused_at > AGAIN_S:
            self.refused = None
        if self.refused is None:
            return max(1, min(want, max(FIRST, 2 * self.granted)))
        return max(1, min(want, (self.granted + self.refused) // 2))

    def take(self, asked: int, granted: bool, now: float) -> None:
        """Take an answer."""
        if granted:
            self.granted = max(self.granted, asked)
            if self.refused is not None and asked >= self.refused:
                self.refused = None
            return
        if asked <= self.granted:
            self.granted = 0  # What held no longer holds.
        if asked != self.refused:
            self._refused_at = now
        self.refused = asked


class Wishes:
    """Decides what is asked for.

    Args:
        plan: What a slot owns, and how many there may be.
        on_demand_after_s: How long fewer than the fewest slots (`resources.slots.min`, else one)
            may have a spot machine before on-demand ones are asked for; None where machines are of
            no market.

    Attributes:
        said: Lines for the person, to be taken away.
        lets_go: Whether on-demand machines that are there are not wanted any more.
    """

    def __init__(self, plan: SlotPlan, on_demand_after_s: float | None) -> None:
        self._plan, self._after_s = plan, on_demand_after_s
        self._search = Search()
        self._market = "" if on_demand_after_s is None else SPOT
        self._asked = 0
        self._short_since: float | None = None
        self._enough_since: float | None = None
        self._fallen_back = False
        self._not_before = 0.0
        self.lets_go = False
        self.said: list[str] = []

    @property
    def impossible(self) -> bool:
        """Whether not even one slot is granted."""
        return self._search.refused == 1

    def turn(self, carried: int, outstanding: int, granted: bool | None, now: float) -> Asked:
        """What to ask for now.

        Args:
            carried: Slots that the spot machines carry now (all machines, where there is no
                market).
            outstanding: Runs that have not ended.
            granted: Whether all that was said at the turn before is granted; None while that is
                not known.
            now: Monotonic seconds.

        Returns:
            Market -> slots; "" where there is none. Empty when nothing is wanted.
        """
        want = outstanding if self._plan.most is None else min(self._plan.most, outstanding)
        if want <= 0:
            self._asked = 0
            return {}
        if self._fallen_back:
            if granted is False:
                self._no_on_demand(now)
        else:
            if self._asked and granted is not None:
                self._search.take(self._asked, granted, now)
            if granted is not None or not 0 < self._asked <= want:
                self._asked = self._search.ask(want, now)
        if self._market and self.impossible:
            # A file that marks on-demand machines alone, as those that Ray takes last.
            self._market, self._search = "", Search()
            self._asked = self._search.ask(want, now)
        if self._after_s is None:
            return {"": self._asked}
        least = min(want, self._plan.least)
        self._fall_back(carried, least, now)
        if not self._fallen_back:
            return {self._market: self._asked}
        # All or nothing: no more spot machines than are granted, or the others do not come either.
        spot = min(want, self._search.granted)
        return {**({self._market: spot} if spot else {}), ON_DEMAND: max(1, least - carried)}

    def _fall_back(self, carried: int, least: int, now: float) -> None:
        assert self._after_s is not None
        if carried >= least:
            self._short_since = None
            self._enough_since = now if self._enough_since is None else self._enough_since
            if self._fallen_back and now - self._enough_since >= BACK_S:
                self._end_fallback()
                self.lets_go = True
                self.said.append("spot machines are back: on-demand ones are let go")
            return
        self._enough_since = None
        self._short_since = now if self._short_since is None else self._short_since
        waited = now - self._short_since
        # Only once it is known how many spot machines may be asked for beside them.
        known = self._search.granted > 0 or self.impossible
        if not self._fallen_back and known and waited >= self._after_s and now >= self._not_before:
            self._fallen_back, self.lets_go = True, False
            self.said.append(
                f"spot machines carried {carried} slot{'s' * (carried != 1)} for {long(waited)}: "
                f"on-demand ones are asked for until there are {least}"
            )

    def _no_on_demand(self, now: float) -> None:
        self._end_fallback()
        self._not_before = now + AGAIN_S
        self.said.append("the cluster has no on-demand machine that could carry a slot")

    def _end_fallback(self) -> None:
        self._fallen_back, self._asked = False, 0


def bundles(plan: SlotPlan, asked: Mapping[str, int]) -> list[dict[str, float]]:
    """What an ask is in Ray's words: one bundle for each worker."""
    worker = {"CPU": float(plan.threads), **({"GPU": plan.gpu} if plan.gpu else {})}
    return [
        {**worker, **({market: MARK} if market else {})}
        for market, slots in asked.items()
        for _ in range(slots * plan.workers)
    ]
