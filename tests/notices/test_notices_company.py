"""A watcher on a machine that outlives its cluster ends with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vesselflow.notices.company import ABSENT_S, LOOK_S, Company, ray_runs


def _proc(folder: Path, *names: str) -> str:
    for number, name in enumerate(names, 100):
        (folder / str(number)).mkdir()
        (folder / str(number) / "comm").write_text(f"{name}\n")
    (folder / "version").write_text("no process")
    return str(folder)


def test_a_raylet_is_found_by_its_name(tmp_path: Path) -> None:
    assert ray_runs(_proc(tmp_path, "bash", "raylet", "python"))


def test_others_are_no_raylet(tmp_path: Path) -> None:
    assert not ray_runs(_proc(tmp_path, "bash", "raylets"))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_the_raylet_of_somebody_else_is_not_ours(tmp_path: Path) -> None:
    proc = _proc(tmp_path, "raylet")
    os.chown(tmp_path / "100" / "comm", 65534, 65534)
    assert not ray_runs(proc)


def test_where_processes_cannot_be_seen_nothing_is_gone(tmp_path: Path) -> None:
    assert ray_runs(str(tmp_path / "none"))


@given(st.lists(st.tuples(st.booleans(), st.floats(0.0, 2 * ABSENT_S)), max_size=30))
def test_it_is_gone_only_after_it_was_there_and_then_long_away(
    steps: list[tuple[bool, float]],
) -> None:
    now, there, seen = 0.0, False, None
    watched = Company(lambda: there, lambda: now)
    for runs, passes in steps:
        now, there = now + max(passes, LOOK_S), runs
        seen = now if runs else seen
        assert watched.gone() == (seen is not None and now - seen >= ABSENT_S)


def test_the_command_ends_by_itself(tmp_path: Path) -> None:
    # By another name: a Ray of another test may run on this machine.
    raylet, sleep = tmp_path / "no-raylet", shutil.which("sleep")
    assert sleep is not None
    raylet.symlink_to(sleep)
    code = (
        "import sys\n"
        "from vesselflow.notices import command, company\n"
        "company.LOOK_S, company.ABSENT_S, company.RAYLET = 0.1, 0.5, 'no-raylet'\n"
        "sys.exit(command.main(['watch', '--cloud', 'none', '--leave-with-ray']))"
    ).replace("\\\n", "\\n")
    ray = subprocess.Popen([raylet, "600"])
    watcher = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            watcher.wait(5)
        ray.kill()
        ray.wait()
        said, _ = watcher.communicate(timeout=60)
    finally:
        ray.kill()
        ray.wait()
        watcher.kill()
        watcher.communicate()
    assert watcher.returncode == 0
    assert "Ray has left this machine" in said
