"""The watcher's loop: asks its sources, says each event in one line, has the node drained."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from vesselflow.notices.draining import Draining
from vesselflow.notices.plain_http import Trouble
from vesselflow.notices.sources import Notice, Source

#: Seconds between two questions, and the most that trouble makes of them: a notice may be all of
#: 30 seconds long.
EVERY_S, RAREST_S = 2.0, 10.0
#: Seconds after which trouble that lasts is told once more.
STILL_S = 3600.0


@dataclass
class _Asked:
    """One source, and how it fares."""

    source: Source
    next: float = 0.0
    wait: float = 0.0
    since: float | None = None
    told: float = 0.0
    answered: bool = False
    standing: dict[str, str] = field(default_factory=dict)


class Watcher:
    """See the module.

    Args:
        sources: Who may give notice.
        draining: Has the node drained.
        say: Gets a line for every event.
        rebalance: Whether a forecast drains the node, too.
        every_s: Seconds between two questions.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        draining: Draining,
        say: Callable[[str], None],
        *,
        rebalance: bool = False,
        every_s: float = EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._asked = [_Asked(source) for source in sources]
        self._draining, self._say, self._clock = draining, say, clock
        self._rebalance, self._every_s = rebalance, every_s

    def turn(self) -> float:
        """Do what is due; seconds until the next turn."""
        for asked in self._asked:
            if self._clock() >= asked.next:
                self._ask(asked)
        waits = [asked.next - self._clock() for asked in self._asked]
        due = self._draining.turn()
        waits.append(1.0 if due is None else due)
        return max(0.0, min(waits))

    def take(self, notice: Notice) -> None:
        """A notice that no source gave."""
        self._heed(notice)

    def _ask(self, asked: _Asked) -> None:
        try:
            notices = asked.source.look()
        except Trouble as trouble:
            self._in_trouble(asked, str(trouble))
            return
        now = self._clock()
        if asked.since is not None:
            self._say(f"{asked.source.name} answers again, after {now - asked.since:.0f} s")
        elif not asked.answered:
            self._say(f"{asked.source.name} is watched")
        asked.since, asked.wait, asked.answered = None, self._every_s, True
        asked.next = now + self._every_s
        for notice in notices:
            if asked.standing.get(notice.kind) != notice.text:
                asked.standing[notice.kind] = notice.text
                self._heed(notice)
        for kind in set(asked.standing) - {notice.kind for notice in notices}:
            self._say(f"withdrawn: {asked.standing.pop(kind)}")

    def _in_trouble(self, asked: _Asked, what: str) -> None:
        now = self._clock()
        first = asked.since is None
        if asked.since is None:
            asked.since, asked.wait = now, self._every_s
        if first or now - asked.told >= STILL_S:
            asked.told = now
            for_ = "" if first else f" for {(now - asked.since) / 3600:.1f} h"
            self._say(
                f"NO NOTICE CAN BE HEARD{for_}: {asked.source.name}: {what}; it is asked again "
                f"every {RAREST_S:.0f} s"
            )
        asked.next = now + asked.wait
        asked.wait = min(RAREST_S, 2 * asked.wait)

    def _heed(self, notice: Notice) -> None:
        left = "" if notice.left_s is None else f", {notice.left_s:.0f} s left"
        line = f"notice: {notice.text}{left}"
        if not notice.firm and not self._rebalance:
            self._say(f"{line}; nothing is done (--rebalance drain would drain the node)")
        elif self._draining.take(notice):
            self._say(f"{line}; the node is drained")
        else:
            self._say(line)
