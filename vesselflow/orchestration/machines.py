"""The machines of a cluster as a sweep sees them: what they carry, which leave, if any are there.

The driver takes a turn about every second; everything that it decides with stands in `sweeps`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray.experimental.internal_kv import _internal_kv_get

from vesselflow.orchestration.autoscaler import Asking
from vesselflow.sweeps.capacity import Node, SlotPlan, slots_that_fit, wanted_slots
from vesselflow.sweeps.leaving import Leaving
from vesselflow.sweeps.waiting import Waiting
from vesselflow.sweeps.wishes import ON_DEMAND, Wishes, bundles

#: Where the watcher of `vesselflow.notices` leaves what was said of a node.
NOTICES = "vesselflow-notices"


@dataclass(frozen=True)
class Seen:
    """The machines at one moment.

    Attributes:
        nodes: Those that can take work.
        leaving: Those that are about to go, by Ray's id.
    """

    nodes: Sequence[Node]
    leaving: Mapping[str, Leaving]


class Machines:
    """Follows the machines of a sweep.

    Args:
        look: The machines as they are now.
        plan: What a slot owns, and how many there may be.
        waits: Whether machines may come: else nothing is waited for.
        wishes: Decides what machines are asked for; None where nobody can be asked.
        asking: Asks for them.
        release: Drains a machine that is not wanted any more.
        drain: Told of all that leave, whenever they change.
        came_or_went: Told when other machines are there than before.
        say: Tells the person.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        look: Callable[[], Seen],
        plan: SlotPlan,
        *,
        waits: bool,
        wishes: Wishes | None = None,
        asking: Asking | None = None,
        release: Callable[[str], None] = lambda node: None,
        drain: Callable[[Mapping[str, Leaving]], None],
        came_or_went: Callable[[], None],
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look, self._plan, self._waits = look, plan, waits
        self._drain, self._came_or_went, self._say = drain, came_or_went, say
        self._clock, self._wishes, self._asking = clock, wishes, asking
        self._release = release
        self._there: frozenset[str] | None = None
        self._left: dict[str, Leaving] = {}
        self._waiting = Waiting()

    def turn(self, outstanding: int) -> int:
        """One look at the machines.

        Args:
            outstanding: Runs that have not ended.

        Returns:
            Slots that there are to be now.
        """
        seen = self._look()
        # A node that was given notice stays so: what it still does after its end is no fault of a
        # run's. A node that is started anew has another id.
        there = frozenset(node.name for node in seen.nodes)
        left = {node: facts for node, facts in self._left.items() if node not in there}
        left |= {node: facts for node, facts in seen.leaving.items() if node not in left}
        if left.keys() != self._left.keys():
            self._drain(left)
        self._left = left
        if self._there is not None and there != self._there:
            self._came_or_went()
        self._there = there
        wanted = wanted_slots(self._plan, seen.nodes, outstanding)
        self._wish(seen, outstanding)
        if self._waits:
            what = self._wanting(seen) if outstanding and not wanted else ""
            for line in self._waiting.look(what, self._clock(), time.strftime("%H:%M")):
                self._say(line)
        return wanted

    def waiting(self) -> tuple[str, float] | None:
        """What is waited for, and for how many seconds; None for nothing."""
        return self._waiting.shown(self._clock())

    def leave(self, within_s: float) -> None:
        """Ask for no machine any more."""
        if self._asking is not None:
            self._asking.leave(within_s)

    def _wish(self, seen: Seen, outstanding: int) -> None:
        wishes, asking = self._wishes, self._asking
        if wishes is None or asking is None:
            return
        if not asking.begun and slots_that_fit(self._plan, seen.nodes) >= outstanding:
            return  # There is nothing to be asked for: no actor is started for it.
        ours = [node for node in seen.nodes if node.market != ON_DEMAND]
        carried = slots_that_fit(self._plan, ours)
        asked = wishes.turn(carried, outstanding, asking.answer.granted, self._clock())
        asking.want(bundles(self._plan, asked))
        for line in wishes.said:
            self._say(line)
        wishes.said.clear()
        if wishes.lets_go:
            for node in seen.nodes:
                if node.market == ON_DEMAND:
                    # Ray gives it nothing more, and it ends when its runs have moved.
                    self._release(node.name)

    def _wanting(self, seen: Seen) -> str:
        there = [node for node in seen.nodes if node.cpus]
        count = f"{len(there)} machine{'s' * (len(there) != 1)} with CPUs"
        parts = [f"no machine carries a slot of {self._plan.worker} ({count} there)"]
        if self._wishes is not None and self._wishes.impossible:
            parts.append("an autoscaler, if there is one, has no kind of machine that does")
        if self._asking is not None and str(self._asking.answer):
            parts.append(str(self._asking.answer))
        return "; ".join(parts)


def leaving_nodes(
    alive: Sequence[Mapping[str, Any]], draining: Mapping[str, int], known: dict[str, Leaving]
) -> dict[str, Leaving]:
    """The nodes that were given notice; each is asked about once.

    Args:
        alive: As `ray.nodes()` has them.
        draining: Node -> deadline in Unix milliseconds, 0 for none.
        known: What was found before; it is added to.
    """
    hosts = {entry["NodeID"]: str(entry["NodeManagerHostname"]) for entry in alive}
    for node, deadline in draining.items():
        if node in hosts and node not in known:
            said = _said(node)
            left = said.get("seconds")
            if left is None and deadline:
                left = max(0.0, deadline / 1000 - time.time())
            known[node] = Leaving(hosts[node], left, str(said.get("text", "")))
    return {node: known[node] for node in draining if node in hosts}


def _said(node: str) -> dict[str, Any]:
    """What the watcher said of a node; empty when somebody else drained it."""
    word = _internal_kv_get(node, namespace=NOTICES)
    try:
        said = json.loads(word) if word else {}
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
