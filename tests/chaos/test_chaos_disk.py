"""A small disk that is filled: nothing fits while it is, all of it is kept when it is gone."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from vesselflow.chaos import disk as chaos
from vesselflow.errors import VesselflowError

why_not = chaos.why_not()
needs_disk = pytest.mark.skipif(bool(why_not), reason=f"no disk can be made here: {why_not}")


@needs_disk
def test_a_full_disk_takes_nothing_until_its_time_is_over(tmp_path: Path) -> None:
    place = tmp_path / "results"
    place.mkdir()
    asked: list[float] = []
    ready = threading.Event()

    def told() -> bool:
        asked.append(time.monotonic())
        return ready.is_set()

    with chaos.SmallDisk(place, 8 << 20) as disk:
        assert os.path.ismount(place)
        (place / "runs").mkdir()
        (place / "runs" / "before").write_bytes(b"1" * 100_000)
        filling = threading.Thread(target=disk.fill, args=(0.2, told, 30.0))
        filling.start()
        while not asked:
            time.sleep(0.01)
        with pytest.raises(OSError, match="No space") as raised:
            (place / "during").write_bytes(b"2" * 10_000)
        assert raised.value.errno == errno.ENOSPC
        # What is removed meanwhile makes room for a moment only.
        (place / "runs" / "before").unlink()
        seen = len(asked)
        while len(asked) < seen + 2:
            time.sleep(0.01)
        with pytest.raises(OSError, match="No space"):
            (place / "during").write_bytes(b"2" * 90_000)
        ready.set()
        filling.join(10)
        (place / "after").write_bytes(b"3" * 100_000)
    # Its files stand in the folder, on the disk below.
    assert not os.path.ismount(place)
    assert (place / "after").read_bytes() == b"3" * 100_000
    assert sorted(path.name for path in place.iterdir()) == ["after", "during", "runs"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results"]


@needs_disk
def test_filling_ends_though_nobody_tells(tmp_path: Path) -> None:
    with chaos.SmallDisk(tmp_path, 1 << 20) as disk:
        disk.fill(0.0, lambda: False, 0.3)
        (tmp_path / "after").write_bytes(b"3" * 100_000)


@needs_disk
def test_what_a_killed_chaos_left_mounted_is_unmounted(tmp_path: Path) -> None:
    chaos.free_place(tmp_path)
    chaos.SmallDisk(tmp_path, 1 << 20).__enter__()
    chaos.free_place(tmp_path)
    assert not os.path.ismount(tmp_path)


def test_where_no_disk_can_be_made_it_is_said_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert chaos.why_not() == "there is no `mount` here"
    for name in ("mount", "umount"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'only root can do that' >&2\nexit 32\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert chaos.why_not() == "mount: only root can do that"
    with pytest.raises(VesselflowError, match="only root"):
        chaos.SmallDisk(tmp_path, 1).__enter__()
