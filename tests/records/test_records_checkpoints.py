"""Checkpoints: the newest whole one counts, whatever was killed or damaged."""

from __future__ import annotations

import errno
import hashlib
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vesselflow.errors import UserError
from vesselflow.records import atomic
from vesselflow.records.checkpoints import FORMAT, Checkpoints


def _damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_newest_and_pruning(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path / "c", keep=2)
    assert kept.newest() is None
    for step in (5, 10, 15):
        kept.save(step, str(step).encode())
    assert kept.newest() == (15, b"15")
    assert kept.steps() == [15, 10]


def test_a_torn_newest_falls_back_and_says_so(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path)
    kept.save(5, b"five")
    kept.save(10, b"ten")
    _damage(tmp_path / "0000000010.ckpt")
    assert kept.newest() == (5, b"five")
    assert len(kept.messages) == 1
    assert "step 10 is passed over" in kept.messages[0]
    _damage(tmp_path / "0000000005.ckpt")
    assert kept.newest() is None


def test_a_full_disk_leaves_the_checkpoints_before(tmp_path: Path, monkeypatch) -> None:
    kept = Checkpoints(tmp_path, keep=1)
    kept.save(5, b"five")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(UserError, match="no space"):
        kept.save(10, b"ten")
    assert kept.newest() == (5, b"five")
    assert kept.steps() == [5]


def test_a_checkpoint_of_another_format_is_passed_over_and_says_so(
    tmp_path: Path, monkeypatch
) -> None:
    kept = Checkpoints(tmp_path, keep=3)
    kept.save(5, b"five")
    # Before there were numbers, and of a vesselflow to come.
    atomic.write_sealed(tmp_path / "0000000010.ckpt", b"PK ten")
    with monkeypatch.context() as later:
        later.setattr("vesselflow.records.checkpoints.FORMAT", FORMAT + 1)
        kept.save(15, b"fifteen")
    assert kept.newest() == (5, b"five")
    assert [message.partition(": ")[0] for message in kept.messages] == [
        "checkpoint of step 15 is passed over",
        "checkpoint of step 10 is passed over",
    ]
    assert f"of format {FORMAT + 1}, this vesselflow reads {FORMAT}" in kept.messages[0]
    assert f"of format 1, this vesselflow reads {FORMAT}" in kept.messages[1]


def test_a_temporary_file_of_a_killed_writer_is_ignored(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path)
    kept.save(5, b"five")
    (tmp_path / ".123-abc.tmp").write_bytes(b"half a checkp")
    assert kept.newest() == (5, b"five")


def test_bad_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 1, not 0"):
        Checkpoints(tmp_path, keep=0)
    with pytest.raises(ValueError, match="at least 0, not -1"):
        Checkpoints(tmp_path).save(-1, b"")


_WRITER = """
import sys
from vesselflow.records.checkpoints import FORMAT, Checkpoints
kept = Checkpoints(sys.argv[1])
for step in range(int(sys.argv[2]), 10**9):
    kept.save(step, step.to_bytes(8, "big") * 20_000)
    print(step, flush=True)
"""


def test_a_writer_killed_at_random_moments_loses_nothing_that_it_acknowledged(
    tmp_path: Path,
) -> None:
    moments = random.Random(20)
    acknowledged, started = -1, 0
    for _ in range(20):
        kept = Checkpoints(tmp_path)
        with subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path), str(started)],
            stdout=subprocess.PIPE,
            text=True,
        ) as writer:
            assert writer.stdout is not None
            first = writer.stdout.readline()
            time.sleep(moments.uniform(0, 0.03))
            writer.kill()
            lines = (first + writer.stdout.read()).split("\n")
        # The last line may be cut short by the kill; before a newline it is acknowledged.
        acknowledged = int(lines[-2])
        newest = kept.newest()
        assert newest is not None
        step, payload = newest
        assert step >= acknowledged >= started
        expected = step.to_bytes(8, "big") * 20_000
        assert hashlib.sha256(payload).digest() == hashlib.sha256(expected).digest()
        assert kept.messages == []
        # After a kill between the new file and the pruning one more may be left.
        assert len(kept.steps()) <= 3
        started = step + 1
