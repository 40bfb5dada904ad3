"""What is done to a sweep, when: a pure function of the seed.

A moment is a share of the steps of the whole sweep that its checkpoints hold, and then a pause: so
a slow machine gets the schedule that a quick one gets.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

#: What may be needed of the sweep or its surroundings for a kind to make sense.
RANKS, BUCKET, DISK = "several workers", "a bucket", "a disk of its own"


@dataclass(frozen=True)
class Kind:
    """A kind of disturbance.

    Attributes:
        text: What is done.
        cost_s: Seconds by which it makes a sweep longer, roughly, on two quiet cores.
        needs: One of the words above, or nothing.
        most: How often in one schedule.
    """

    text: str
    cost_s: float
    needs: str = ""
    most: int = 2


KINDS = {
    "kill-worker": Kind("kill a slot's worker", 8),
    "stop-for-good": Kind("stop a slot's worker (SIGSTOP) and never let it go on", 30, most=1),
    "stop-a-while": Kind("stop a slot's worker for some seconds", 6),
    "kill-driver": Kind("kill the driver, and start it again", 14),
    "lose-node": Kind("kill all processes of a node, and add another", 12),
    "notice": Kind("give notice to a node, remove it, and add another", 12),
    "tear": Kind("kill a worker and tear the newest checkpoint of its run", 9),
    "second-driver": Kind("start a second driver on the same results", 12, most=1),
    "kill-rank": Kind("kill one rank of a slot of several workers", 12, RANKS),
    "kill-head": Kind("kill the head; a new cluster, the same command", 30, most=1),
    "cut-bucket": Kind("let the bucket's service go away for some seconds", 10, BUCKET, most=1),
    "slow-bucket": Kind("make the bucket's service slow for some seconds", 6, BUCKET),
    "full-disk": Kind("fill the disk of the results for some seconds", 12, DISK, most=1),
}

#: Those after which a run must be taken up again.
KILLS = (
    "kill-worker",
    "stop-for-good",
    "kill-driver",
    "lose-node",
    "tear",
    "kill-rank",
    "kill-head",
)

#: Seconds that all disturbances of a schedule may cost together, of the three minutes of a seed.
BUDGET_S = 60.0


@dataclass(frozen=True)
class Event:
    """One disturbance.

    Attributes:
        kind: One of `KINDS`.
        after: Share of the sweep's steps that checkpoints hold when it is due, in (0, 1).
        pause_s: Seconds that are waited then: they hit what happens between checkpoints.
        target: Which of those that it could be done to, counted modulo their number.
        seconds: How long it lasts, where it lasts.
    """

    kind: str
    after: float
    pause_s: float
    target: int
    seconds: float

    def plain(self) -> dict[str, Any]:
        """As it stands in the report."""
        return dict(vars(self))


def possible(has: Collection[str]) -> list[str]:
    """The kinds that can be played where there is no more than this."""
    return [name for name, kind in KINDS.items() if not kind.needs or kind.needs in has]


def schedule(seed: int, kinds: Sequence[str], budget_s: float = BUDGET_S) -> list[Event]:
    """The disturbances of a seed, in their order.

    The first kind that is drawn goes through all kinds as seeds are counted up, so that as many
    seeds as there are kinds meet each of them.

    Args:
        seed: Any number.
        kinds: What may be drawn, at least one; the order counts.
        budget_s: Seconds that all together may cost; one event is there in any case.
    """
    draw = random.Random(f"vesselflow chaos {seed}")
    chosen = [kinds[seed % len(kinds)]]
    left_s = budget_s - KINDS[chosen[0]].cost_s
    while affordable := [
        name
        for name in kinds
        if KINDS[name].cost_s <= left_s and chosen.count(name) < KINDS[name].most
    ]:
        chosen.append(draw.choice(affordable))
        left_s -= KINDS[chosen[-1]].cost_s
    draw.shuffle(chosen)
    moments = sorted(round(draw.uniform(0.02, 0.85), 3) for _ in chosen)
    return [
        Event(
            kind,
            moment,
            # Half of them hit a moment at which a checkpoint was just written.
            pause_s=draw.choice([0.0, round(draw.uniform(0.0, 4.0), 2)]),
            target=draw.randrange(12),
            seconds=round(draw.uniform(2.0, 8.0), 1),
        )
        for kind, moment in zip(chosen, moments, strict=True)
    ]


def read_seeds(text: str) -> list[int]:
    """The seeds of ``3``, ``0-9`` or ``0-4,7``; ValueError for anything else."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        found = range(int(first), int(last if dash else first) + 1)
        if not found:
            raise ValueError(part)
        seeds += found
    return seeds
