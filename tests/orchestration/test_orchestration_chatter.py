"""What is written to file descriptor 2 goes to a log, and comes back at the end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vesselflow.orchestration import chatter

CODE = """
import logging, os, sys, warnings
from pathlib import Path
from vesselflow.orchestration.chatter import diverted
print("before", file=sys.stderr)
with diverted(Path(sys.argv[1])) as chatter:
    print(chatter.log)
    print("python", file=sys.stderr)
    os.write(2, b"c++\\n")
    os.system("echo child >&2")
    warnings.warn("careful")
    logging.getLogger("ray").error("logged")
    chatter.end()
    print("ours", file=sys.stderr)
print("after", file=sys.stderr)
"""


def run(log: Path, tmp: Path) -> tuple[str, str]:
    call = [sys.executable, "-c", CODE, str(log)]
    environment = {**os.environ, "TMPDIR": str(tmp)}
    done = subprocess.run(call, capture_output=True, text=True, check=True, env=environment)
    return done.stdout.strip(), done.stderr


def test_all_of_it_is_in_the_log_and_none_on_stderr(tmp_path: Path) -> None:
    log = tmp_path / "driver.log"
    for _ in range(2):
        assert run(log, tmp_path) == (str(log), "before\nours\nafter\n")
    text = log.read_text()
    for word in ("python\n", "c++\n", "child\n", "careful", "logged\n", "--- "):
        assert text.count(word) == 2, word


def test_a_log_that_cannot_be_written_is_written_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    log, err = run(tmp_path / "file" / "driver.log", tmp_path)
    assert err == "before\nours\nafter\n"
    assert Path(log).parent == tmp_path
    assert "c++" in Path(log).read_text()


@pytest.mark.parametrize(("grown", "kept"), [(10, True), (chatter.LOG_BYTES + 1, False)])
def test_a_log_does_not_grow_for_ever(tmp_path: Path, grown: int, kept: bool) -> None:
    log = tmp_path / "driver.log"
    log.write_bytes(b"x" * grown)
    run(log, tmp_path)
    assert (log.stat().st_size > grown) == kept
    assert b"c++" in log.read_bytes()
