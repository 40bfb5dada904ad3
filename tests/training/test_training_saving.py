"""Two phases of a checkpoint: whatever happens, files hold what the state was, in order."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vesselflow.errors import Interrupted
from vesselflow.training import packing
from vesselflow.training.saving import Saver


class Disk:
    """Keeps what is written; each write may be held up, and may fail."""

    def __init__(self) -> None:
        self.kept: dict[int, Any] = {}
        self.order: list[int] = []
        self.errors: dict[int, BaseException] = {}
        self.open = threading.Event()
        self.open.set()
        self.writing = self.most = 0
        self.waits = 0

    def save(self, step: int) -> Any:
        def write(payload: memoryview) -> None:
            self.writing += 1
            self.most = max(self.most, self.writing)
            try:
                assert self.open.wait(60)
                if step in self.errors:
                    raise self.errors[step]
                self.kept[step] = packing.load(payload)
                self.order.append(step)
            finally:
                self.writing -= 1

        return write

    def waiting(self) -> None:
        self.waits += 1
        self.open.set()

    def saver(self) -> Saver:
        return Saver(self.save, self.waiting)


@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from(["", "", "error", "stop"]), st.booleans()),
        max_size=6,
    )
)
def test_files_hold_the_state_of_their_step_in_order(steps) -> None:
    disk, state, due, raised = Disk(), {"w": torch.zeros(5), "s": [0]}, [], []
    saver = disk.saver()
    for step, (held, fails, waits) in enumerate(steps):
        state["w"] += 1
        state["s"][0] += 1
        if fails:
            disk.errors[step] = Interrupted() if fails == "stop" else ValueError(step)
        if held and not saver.busy:
            disk.open.clear()
        try:
            saver.save(step, state)
        except ValueError as error:
            raised.append(error)
            saver.save(step, state)
        try:
            if waits:
                saver.wait()
        except (ValueError, Interrupted) as error:
            raised.append(error)
        if step not in disk.errors:
            due.append(step)
    disk.open.set()
    try:
        saver.wait()
    except (ValueError, Interrupted) as error:
        raised.append(error)
    assert disk.most <= 1
    assert disk.order == due
    for step, kept in disk.kept.items():
        assert kept["w"].tolist() == [step + 1] * 5
        assert kept["s"] == [step + 1]
    # Each error is raised once; that a stop ended the wait, only to whoever waits for that one.
    assert [e for e in raised if isinstance(e, ValueError)] == [
        e for e in disk.errors.values() if isinstance(e, ValueError)
    ]
    assert len(set(map(id, raised))) == len(raised)


def test_the_training_goes_on_while_a_copy_is_written():
    disk = Disk()
    disk.open.clear()
    with disk.saver() as saver:
        saver.save(1, {"step": 1})
        assert saver.busy
        assert (disk.kept, disk.waits) == ({}, 0)
    # The end of the context waits.
    assert (list(disk.kept), disk.waits) == ([1], 1)
    assert saver.write_s > 0


def test_an_error_is_seen_before_the_next_save_and_raised_once():
    disk = Disk()
    disk.errors[1] = ValueError("no")
    saver = disk.saver()
    saver.save(1, {})
    saver._join()
    assert saver.failed
    with pytest.raises(ValueError, match="no"):
        saver.save(2, {})
    saver.save(3, {})
    saver.wait()
    assert disk.order == [3]


def _interrupted(disk: Disk, error: BaseException) -> None:
    with disk.saver() as saver:
        saver.save(1, {"step": 1})
        raise error


@pytest.mark.parametrize("error", [RuntimeError("in a step"), KeyboardInterrupt()])
def test_what_ends_the_training_loses_no_copy_in_memory(error):
    disk = Disk()
    disk.open.clear()
    with pytest.raises(type(error)):
        _interrupted(disk, error)
    assert disk.kept == {1: {"step": 1}}


def test_an_error_of_the_training_hides_that_of_the_write():
    disk = Disk()
    disk.errors[1] = ValueError("no")
    with pytest.raises(RuntimeError, match="in a step"):
        _interrupted(disk, RuntimeError("in a step"))


def test_nothing_of_the_state_is_shared_with_its_copy():
    weights = torch.arange(12.0).reshape(1, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    kept = packing.Snapshot().take({"large": torch.ones(packing.SMALL + 1), "w": weights})
    weights.zero_()
    found = packing.load(kept)
    assert found["w"].flatten().tolist() == list(range(12))
    found["w"].zero_()
    assert packing.load(kept)["w"].sum() == 66


def test_the_buffer_is_used_again():
    snapshot = packing.Snapshot()
    first = snapshot.take({"w": torch.zeros(100_000), "n": 1})
    address = snapshot._buffer.data_ptr()
    second = snapshot.take({"w": torch.ones(100_000), "n": 10**30})
    assert snapshot._buffer.data_ptr() == address
    assert packing.load(second)["n"] == 10**30
    assert first.nbytes < second.nbytes <= len(snapshot._buffer)
    assert len(snapshot._buffer) < 1.1 * second.nbytes
    # A larger state gets a larger one.
    assert packing.load(snapshot.take([torch.ones(200_000)]))[0].sum() == 200_000
