"""The gate: what is written waits for the storage, says so once, and hears a stop."""

from __future__ import annotations

import errno
import os
import pickle
import threading

import pytest

from vesselflow.errors import Interrupted, StorageTrouble, UserError
from vesselflow.sweeps.gate import FIRST_S, LONGEST_S, Gate, Troubles


class _World:
    """A clock that only sleeping moves on, and what was told."""

    def __init__(self, *, stop_at: float = float("inf")) -> None:
        self.now, self.stop_at = 0.0, stop_at
        self.told: list[str] = []
        self.tries: list[float] = []
        self.gate = Gate(
            self.told.append,
            lambda: self.told.append(""),
            lambda: self.now >= self.stop_at,
            sleep=self._sleep,
            clock=lambda: self.now,
        )

    def _sleep(self, seconds: float) -> None:
        assert 0 < seconds <= 0.5
        self.now += seconds

    def failing(self, *errors: Exception) -> str:
        """An action that raises each error once, the last one for ever where it is a list."""
        waiting = list(errors)

        def action() -> str:
            self.tries.append(self.now)
            if waiting:
                raise waiting.pop(0)
            return "done"

        return self.gate.keep(action)


def _full(where: str = "/disk/a") -> StorageTrouble:
    return StorageTrouble("no space is left on this disk", where=where, number=errno.ENOSPC)


def test_what_works_at_once_is_not_spoken_of():
    world = _World()
    assert world.failing() == "done"
    assert world.told == []
    assert world.gate.waited_s == 0


def test_trouble_is_told_once_waited_for_with_backoff_and_said_to_be_over():
    world = _World()
    assert world.failing(*[_full() for _ in range(7)]) == "done"
    assert world.told == ["/disk/a: no space is left on this disk", ""]
    pauses = [after - before for before, after in zip(world.tries, world.tries[1:], strict=False)]
    assert pauses == [0.5, 1, 2, 4, 8, 10, 10]
    assert (pauses[0], pauses[-1]) == (FIRST_S, LONGEST_S)
    assert world.gate.waited_s == sum(pauses)


def test_another_trouble_is_told_as_well():
    world = _World()
    other = OSError(errno.EIO, os.strerror(errno.EIO), "/disk/b")
    assert world.failing(_full(), _full(), other) == "done"
    assert len(world.told) == 3
    assert "/disk/b: the disk answers with an error (EIO)" in world.told[1]
    assert world.told[-1] == ""


def test_a_stop_ends_the_waiting_within_half_a_second():
    world = _World(stop_at=20.2)
    with pytest.raises(Interrupted, match="no space is left"):
        world.failing(*[_full() for _ in range(100)])
    assert world.now <= 20.2 + 0.5
    assert world.told[-1] == ""


def test_after_a_stop_one_try_is_made_and_no_more():
    world = _World(stop_at=0)
    assert world.failing() == "done"
    with pytest.raises(Interrupted):
        world.failing(_full())
    assert world.now == 0


@pytest.mark.parametrize(
    "error",
    [
        UserError("a part of this path is a file", where="/a"),
        OSError(errno.ENOTDIR, "Not a directory"),
        ValueError("x"),
    ],
)
def test_what_is_no_trouble_of_the_storage_is_raised_at_once(error):
    world = _World()
    with pytest.raises(type(error)):
        world.failing(error)
    assert (world.told, world.now) == ([], 0)


def test_trouble_survives_pickling():
    trouble = pickle.loads(pickle.dumps(_full()))
    assert isinstance(trouble, StorageTrouble)
    assert (trouble.errno, trouble.path, str(trouble)) == (errno.ENOSPC, "/disk/a", str(_full()))
    assert trouble.at("/other").errno == errno.ENOSPC
    assert isinstance(pickle.loads(pickle.dumps(Interrupted("here"))), Interrupted)


# -- two gates of one run ------------------------------------------------------------------------


def test_the_trouble_of_two_gates_is_told_as_one():
    told: list[str] = []
    troubles = Troubles(told.append)
    for number in (1, 2):
        troubles._meet(number, f"trouble {number}")
    troubles.repeat()
    assert told == ["trouble 1", "trouble 1"]
    troubles._meet(1, "another")
    troubles._over(1)
    troubles._over(1)
    assert told[2:] == ["another", "trouble 2"]
    troubles._over(2)
    troubles.repeat()
    assert told[4:] == [""]


def test_gates_of_one_run_wait_in_threads_of_their_own():
    told: list[str] = []
    over, met = threading.Event(), threading.Barrier(3)
    troubles = Troubles(told.append)

    def keep() -> None:
        first = True

        def action() -> None:
            nonlocal first
            if first:
                first = False
                raise _full()
            met.wait(60)
            assert over.wait(60)

        troubles.gate(lambda: False).keep(action)

    threads = [threading.Thread(target=keep) for _ in range(2)]
    for thread in threads:
        thread.start()
    met.wait(60)
    assert told == [str(_full())]
    over.set()
    for thread in threads:
        thread.join(60)
    assert told == [str(_full()), ""]
