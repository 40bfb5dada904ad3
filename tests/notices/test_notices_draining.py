"""Draining until it is done, and watching with backoff: fakes and a clock of our own."""

from __future__ import annotations

import itertools

import pytest

from vesselflow.notices.draining import HANGS_S, LATEST_S, NO_NODE, RENEW_S, Draining
from vesselflow.notices.plain_http import Trouble
from vesselflow.notices.sources import Notice
from vesselflow.notices.watcher import RAREST_S, STILL_S, Watcher

SPOT = Notice("spot", "spot notice", 120.0)
FORECAST = Notice("rebalance", "forecast", None, firm=False)


class Try:
    def __init__(self, end: tuple[int, str] | None) -> None:
        self.end, self.killed = end, False

    def ended(self) -> tuple[int, str] | None:
        return self.end

    def kill(self) -> None:
        self.killed = True


class Stage:
    """A drain whose tries end as they are told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self.said: list[str] = []
        self.ends: list[tuple[int, str] | None] = []
        self.tries: list[tuple[float, str, float | None]] = []
        self.made: list[Try] = []
        self.draining = Draining(self._start, self.said.append, lambda: self.now)

    def _start(self, message: str, left_s: float | None) -> Try:
        self.tries.append((self.now, message, left_s))
        self.made.append(Try(self.ends.pop(0) if self.ends else (0, "node is draining")))
        return self.made[-1]

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            wait = self.draining.turn()
            self.now += 1.0 if wait is None else max(0.05, min(wait, 1.0))


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_without_a_notice_nothing_is_drained(stage):
    stage.run(1000)
    assert stage.tries == []


def test_a_notice_is_passed_on_with_the_time_that_is_left(stage):
    stage.now = 10.0
    assert stage.draining.take(SPOT)
    stage.run(5)
    assert stage.tries == [(10.0, "spot notice", 120.0)]
    assert stage.draining.done
    assert stage.said == ["drained in 0.1 s: node is draining"]


def test_it_is_tried_until_it_is_done_and_a_reason_is_told_once(stage):
    stage.ends = [(1, "no answer"), (1, "no answer"), (1, "no answer"), (NO_NODE, "no node")]
    stage.draining.take(SPOT)
    stage.run(30)
    assert [said.partition(":")[0] for said in stage.said] == [
        "NOT DRAINED",
        "NOT DRAINED",
        "drained in 0.1 s",
    ]
    times = [time for time, _, _ in stage.tries[:5]]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert max(gaps) <= LATEST_S + 1
    assert stage.tries[4][2] == pytest.approx(120 - times[4]), "what is left by then"


def test_one_that_hangs_is_killed_and_tried_again(stage):
    stage.ends = [None]
    stage.draining.take(SPOT)
    stage.run(HANGS_S + 5)
    assert stage.made[0].killed
    assert stage.draining.done
    assert "NOT DRAINED: no answer within 20 s" in stage.said[0]


def test_it_is_done_again_while_the_notice_stands_and_says_so_once(stage):
    stage.draining.take(SPOT)
    stage.ends = [(0, "x"), (NO_NODE, "gone"), (NO_NODE, "gone"), (0, "x")]
    stage.run(3 * RENEW_S + 10)
    assert len(stage.tries) == 4
    assert len(stage.said) == 1


def test_only_what_is_firmer_or_sooner_is_news(stage):
    assert stage.draining.take(FORECAST)
    assert not stage.draining.take(FORECAST)
    assert stage.draining.take(SPOT)
    assert not stage.draining.take(SPOT)
    assert not stage.draining.take(FORECAST)
    assert not stage.draining.take(Notice("sigterm", "SIGTERM", 115.0))
    assert stage.draining.take(Notice("sigterm", "SIGTERM", 30.0))
    stage.run(5)
    assert stage.tries[-1][1:] == ("SIGTERM", 30.0)


def test_nothing_is_left_behind(stage):
    stage.ends = [None]
    stage.draining.take(SPOT)
    stage.draining.turn()
    stage.draining.end()
    assert stage.made[0].killed


# -- watching ------------------------------------------------------------------------------------


class Service:
    """A source that says, or raises, what it is told to."""

    name = "the service"

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.says: list[Notice] | Trouble = []
        self.looks: list[float] = []

    def look(self) -> list[Notice]:
        self.looks.append(self.stage.now)
        if isinstance(self.says, Trouble):
            raise self.says
        return self.says


@pytest.fixture
def service(stage) -> Service:
    return Service(stage)


def _watch(stage: Stage, service: Service, seconds: float, watcher: Watcher | None = None):
    watcher = watcher or Watcher([service], stage.draining, stage.said.append, clock=_clock(stage))
    end = stage.now + seconds
    while stage.now < end:
        wait = watcher.turn()
        stage.now += max(0.05, min(wait, 1.0))
    return watcher


def _clock(stage: Stage):
    return lambda: stage.now


def test_trouble_is_told_once_asked_rarely_and_drains_nothing(stage, service):
    service.says = Trouble("rubbish")
    watcher = _watch(stage, service, STILL_S - 10)
    assert stage.said == [
        "NO NOTICE CAN BE HEARD: the service: rubbish; it is asked again every 10 s"
    ]
    service.says = Trouble("other rubbish")
    _watch(stage, service, STILL_S / 2, watcher)
    assert len(stage.said) == 2
    assert "for 1.0 h: the service: other rubbish" in stage.said[1]
    gaps = [b - a for a, b in itertools.pairwise(service.looks)]
    assert RAREST_S - 1 < max(gaps) < RAREST_S + 2
    assert stage.tries == []
    service.says = []
    _watch(stage, service, 2 * RAREST_S, watcher)
    assert stage.said[-1].startswith("the service answers again, after ")


def test_one_source_in_trouble_keeps_no_other_from_being_heard(stage, service):
    broken = Service(stage)
    broken.says = Trouble("hangs")
    watcher = Watcher([broken, service], stage.draining, stage.said.append, clock=_clock(stage))
    _watch(stage, service, 30, watcher)
    service.says = [SPOT]
    _watch(stage, service, 5, watcher)
    assert stage.draining.done


def test_a_notice_is_told_once_and_drains(stage, service):
    watcher = _watch(stage, service, 10)
    service.says = [SPOT]
    _watch(stage, service, 15, watcher)
    assert stage.said == [
        "the service is watched",
        "notice: spot notice, 120 s left; the node is drained",
        "drained in 0.1 s: node is draining",
    ]
    assert len(stage.tries) == 1
    service.says = []
    _watch(stage, service, 5, watcher)
    assert stage.said[-1] == "withdrawn: spot notice"


@pytest.mark.parametrize("wanted", [False, True])
def test_a_forecast_drains_only_where_it_is_wanted(stage, service, wanted):
    service.says = [FORECAST]
    watcher = Watcher(
        [service], stage.draining, stage.said.append, rebalance=wanted, clock=_clock(stage)
    )
    _watch(stage, service, 10, watcher)
    assert [left for _, _, left in stage.tries] == ([None] if wanted else [])
    assert ("nothing is done (--rebalance drain" in stage.said[1]) is not wanted
    service.says = [SPOT, FORECAST]
    _watch(stage, service, 10, watcher)
    assert stage.tries[-1][1] == "spot notice"
