"""clusters/driver.sh in a real bash, with a sweep that is played."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from cluster_file_cases import ROOT, filled

LIMIT_S = 60
#: Ends with the next code of `codes`; "wait" waits for a SIGTERM, as a sweep does.
SWEEP = """#!/bin/bash
cd "$HOME"
{ printf 'vesselflow'; printf ' <%s>' "$@"; } >>calls
echo " after=${VESSELFLOW_ON_DEMAND_AFTER_S:-}" >>calls
code=$(head -n 1 codes); sed -i 1d codes
[ "$code" = wait ] || exit "$code"
trap 'sleep 0.3; exit 143' TERM
touch waiting
while true; do sleep 0.1; done
"""


class Head:
    """The head of a cluster: its home, with what `ray up` has copied."""

    def __init__(self, home: Path) -> None:
        self.home = home
        (home / "vesselflow").mkdir(parents=True)
        (home / "vesselflow" / "clusters").symlink_to(ROOT / "clusters")
        (home / "venv" / "bin").mkdir(parents=True)
        (home / "venv/bin/vesselflow").write_text(SWEEP)
        (home / "venv/bin/vesselflow").chmod(0o755)
        (home / "venv/bin/python").symlink_to(sys.executable)
        self.bootstrap(yaml.safe_load(filled("aws")))
        self.started: list[subprocess.Popen[str]] = []

    def bootstrap(self, data: dict[str, object]) -> None:
        (self.home / "ray_bootstrap_config.yaml").write_text(json.dumps(data))

    def start(self, *codes: object, words: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        (self.home / "codes").write_text("".join(f"{code}\n" for code in codes))
        process = subprocess.Popen(
            ["bash", str(ROOT / "clusters/driver.sh"), "space.yaml", *words],
            # Python's own environment is found by the first `python` of the path.
            env={
                "HOME": str(self.home),
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "VESSELFLOW_PAUSE_S": "0.1",
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # Tests that were started in the background ignore Ctrl-C, and bash cannot undo that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self.started.append(process)
        return process

    def run(self, *codes: object, words: tuple[str, ...] = ()) -> tuple[int, str]:
        process = self.start(*codes, words=words)
        output, _ = process.communicate(timeout=LIMIT_S)
        return process.returncode, output

    def calls(self) -> list[str]:
        path = self.home / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def end(self) -> None:
        for process in self.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=LIMIT_S)


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    made = Head(tmp_path)
    yield made
    made.end()


def test_a_sweep_gets_the_storage_and_the_time_of_the_cluster_file(head: Head) -> None:
    code, output = head.run(0, words=("--set", "question=two words"))
    assert code == 0, output
    assert head.calls() == [
        "vesselflow <sweep> <space.yaml> <--set> <question=two words> "
        "<--results> <s3://my-bucket/vesselflow> <--address> <auto> after=15m"
    ]


@pytest.mark.parametrize("words", [("--results", "here"), ("--results=here",)])
def test_results_may_go_elsewhere(head: Head, words: tuple[str, ...]) -> None:
    assert head.run(0, words=words)[0] == 0
    assert "my-bucket" not in head.calls()[0]


def test_a_driver_that_dies_starts_again(head: Head) -> None:
    code, output = head.run(137, 1, 0)
    assert code == 0, output
    assert len(head.calls()) == 3
    assert "ended with code 137; again in 0.1 s (1 of 3)" in output


def test_three_failures_in_a_row_are_enough(head: Head) -> None:
    code, output = head.run(1, 1, 1, 0)
    assert code == 1
    assert len(head.calls()) == 3
    assert "3 times in a row; giving up" in output


def test_what_is_wrong_in_the_words_is_not_tried_again(head: Head) -> None:
    assert head.run(2, 0)[0] == 2
    assert len(head.calls()) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_passed_on_and_stays_one(head: Head, number: signal.Signals) -> None:
    process = head.start("wait", 0)
    end = time.monotonic() + LIMIT_S
    while not (head.home / "waiting").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(number)
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == 143
    assert len(head.calls()) == 1


def test_without_a_storage_it_asks_for_one(head: Head) -> None:
    head.bootstrap({"metadata": {}})
    code, output = head.run(0)
    assert code == 2
    assert "names no storage; say --results" in output
    assert head.calls() == []
