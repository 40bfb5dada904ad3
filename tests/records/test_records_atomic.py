"""Files that are whole or absent."""

from __future__ import annotations

import errno
import json
import math
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vesselflow.errors import StorageTrouble, UserError
from vesselflow.records import atomic


def test_write_replaces_whole_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    atomic.write_text(path, "old")
    atomic.write_text(path, "né")
    assert path.read_bytes() == "né".encode()
    assert os.listdir(tmp_path) == ["a.txt"]


def test_json_is_sorted_strict_and_plain(tmp_path: Path) -> None:
    value = {
        "b": [math.nan, math.inf, 1.5],
        "a": np.float32(0.5),
        "n": np.int64(3),
        "t": (1, np.array([1.0, np.nan])),
    }
    atomic.write_json(tmp_path / "x.json", value)
    text = (tmp_path / "x.json").read_text()
    assert json.loads(text) == {"a": 0.5, "b": [None, None, 1.5], "n": 3, "t": [1, [1.0, None]]}
    assert text.index('"a"') < text.index('"b"')
    assert atomic.json_bytes({"y": 1, "x": 2}) == atomic.json_bytes({"x": 2, "y": 1})


class _Refusing:
    """A disk on which nothing can be flushed."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, handle: int) -> None:
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("write", [atomic.write_bytes, atomic.write_sealed])
@pytest.mark.parametrize(
    ("number", "text"),
    [(errno.ENOSPC, "no space is left"), (errno.EDQUOT, "quota"), (errno.EACCES, "no permission")],
)
def test_what_a_user_can_mend_is_one_line_and_changes_nothing(
    tmp_path: Path, monkeypatch, write, number, text
) -> None:
    path = tmp_path / "a.bin"
    write(path, b"old")
    before = path.read_bytes()
    monkeypatch.setattr(atomic.os, "fsync", _Refusing(number))
    with pytest.raises(UserError, match=text) as caught:
        write(path, b"new")
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize(
    "number",
    [
        *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EROFS, errno.ETIMEDOUT),
        *(errno.EACCES, errno.EHOSTUNREACH, errno.ENOTCONN),
    ],
)
def test_what_another_try_may_get_over_is_trouble_with_the_storage(
    tmp_path: Path, monkeypatch, number
) -> None:
    monkeypatch.setattr(atomic.os, "fsync", _Refusing(number))
    for write in (atomic.write_bytes, atomic.write_sealed, atomic.create_exclusive):
        with pytest.raises(StorageTrouble) as caught:
            write(tmp_path / "a", b"x")
        assert (caught.value.errno, caught.value.path) == (number, str(tmp_path / "a"))
    assert os.listdir(tmp_path) == []


def test_what_no_other_try_gets_over_is_not_trouble_with_the_storage(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as caught:
        atomic.write_bytes(tmp_path / "file" / "a", b"x")
    assert not isinstance(caught.value, StorageTrouble)


def test_other_faults_of_the_system_are_not_dressed_up(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(atomic.os, "fsync", _Refusing(errno.ENOSYS))
    with pytest.raises(OSError, match=os.strerror(errno.ENOSYS)):
        atomic.write_bytes(tmp_path / "a", b"x")


def _left_behind(folder: Path, pid: int, here: str, age_s: float) -> Path:
    path = folder / f".{pid}-{here}-0123456789abcdef.tmp"
    path.write_bytes(b"half")
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def test_files_of_killed_writers_go(tmp_path: Path) -> None:
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"],
        text=True,
        capture_output=True,
        check=True,
    )
    here, dead = atomic._here(), int(gone.stdout)
    kept = [
        _left_behind(tmp_path, os.getpid(), here, 60),
        # Of a process of another machine nothing is known: its number may be one that is gone here.
        _left_behind(tmp_path, dead, "00000000", 3000),
    ]
    for name in ("a.tmp", ".x.tmp", f".{dead}-{here}-short.tmp"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
        kept.append(tmp_path / name)
    _left_behind(tmp_path, dead, here, 0)
    # A process of this number lives, but no write takes an hour.
    _left_behind(tmp_path, 1, here, 3700)
    _left_behind(tmp_path, dead, "00000001", 3700)
    assert atomic.remove_abandoned(tmp_path) == 3
    assert sorted(tmp_path.iterdir()) == sorted(kept)
    assert atomic.remove_abandoned(tmp_path / "absent") == 0


def test_a_killed_writer_leaves_what_is_known_for_one(tmp_path: Path) -> None:
    code = (
        "import os, sys; from vesselflow.records import atomic; "
        "atomic.os.fsync = lambda handle: os.kill(os.getpid(), 9); "
        "atomic.write_bytes(sys.argv[1] + '/a', b'x')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)])
    assert done.returncode == -9
    assert len(os.listdir(tmp_path)) == 1
    assert atomic.remove_abandoned(tmp_path) == 1
    assert os.listdir(tmp_path) == []


def test_a_file_in_the_way_of_a_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="a file, not a folder"):
        atomic.write_bytes(tmp_path / "file" / "a", b"x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="this is a folder"):
        atomic.write_bytes(tmp_path / "folder", b"x")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_create_exclusive_keeps_the_first(tmp_path: Path) -> None:
    path = tmp_path / "a"
    assert atomic.create_exclusive(path, b"first")
    assert not atomic.create_exclusive(path, b"second")
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["a"]


def test_a_file_system_without_links_is_one_line(tmp_path: Path, monkeypatch) -> None:
    def link(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(atomic.os, "link", link)
    with pytest.raises(UserError, match="cannot link files"):
        atomic.create_exclusive(tmp_path / "a", b"x")
    assert os.listdir(tmp_path) == []


def _race(path: str, name: str, barrier, wins) -> None:
    for turn in range(40):
        barrier.wait()
        target = Path(f"{path}/{turn}")
        if atomic.create_exclusive(target, name.encode() * 2000):
            wins.put((turn, name))
        # Whoever made it, from the moment it can be seen it is whole.
        assert len(target.read_bytes()) == 2000


def test_of_racing_processes_exactly_one_creates(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, wins = context.Barrier(3), context.Queue()
    racers = [
        context.Process(target=_race, args=(str(tmp_path), name, barrier, wins)) for name in "abc"
    ]
    for racer in racers:
        racer.start()
    won = dict(sorted(wins.get(timeout=60) for _ in range(40)))
    for racer in racers:
        racer.join(60)
        assert racer.exitcode == 0
    assert wins.empty()
    assert {turn: (tmp_path / str(turn)).read_text()[0] for turn in range(40)} == won


@given(data=st.binary(max_size=200), where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(deadline=None, max_examples=80)
def test_any_flipped_bit_of_a_sealed_file_is_found(tmp_path_factory, data, where, bit) -> None:
    path = tmp_path_factory.mktemp("sealed") / "a"
    atomic.write_sealed(path, data)
    assert atomic.read_sealed(path) == data
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= 1 << bit
    path.write_bytes(content)
    with pytest.raises(atomic.Torn):
        atomic.read_sealed(path)


def test_a_sealed_file_cut_at_any_byte_is_torn(tmp_path: Path) -> None:
    path = tmp_path / "a"
    atomic.write_sealed(path, b"payload")
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(atomic.Torn):
            atomic.read_sealed(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(atomic.Torn, match="8 bytes of content, its header says 7"):
        atomic.read_sealed(path)
