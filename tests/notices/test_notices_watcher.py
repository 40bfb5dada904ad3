"""The watcher as it runs on a machine: a process, a metadata service, a drain that is recorded."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from metadata_server import MetadataServer

PATIENCE_S = 60

#: The command, with another drain than Ray's.
CODE = """
import sys
from vesselflow.notices import command
command.DRAIN = (sys.executable, sys.argv[1])
command.main(sys.argv[2:])
"""
#: Notes with what it was called, and ends as a file says.
DRAIN = """
import json, pathlib, sys
here = pathlib.Path(sys.argv[0]).parent
with open(here / "drains", "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
code = here / "code"
print("so it is")
sys.exit(int(code.read_text()) if code.exists() else 0)
"""


class Watcher:
    def __init__(self, folder: Path, *words: str, **environment: str) -> None:
        self._folder = folder
        (folder / "drain.py").write_text(DRAIN)
        self._log = folder / "log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", CODE, str(folder / "drain.py"), "watch", *words],
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
            )

    @property
    def log(self) -> list[str]:
        """Its lines without their times."""
        return [line.partition(" ")[2] for line in self._log.read_text().splitlines()]

    @property
    def drains(self) -> list[dict[str, str]]:
        """The options of each drain."""
        file = self._folder / "drains"
        lines = file.read_text().splitlines() if file.exists() else []
        given = [json.loads(line) for line in lines]
        return [dict(zip(words[::2], words[1::2], strict=True)) for words in given]

    def until(self, true: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not true():
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.05)

    def until_said(self, text: str) -> str:
        self.until(lambda: any(text in line for line in self.log))
        return next(line for line in self.log if text in line)

    def end(self) -> int:
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(PATIENCE_S)
        finally:
            self.process.kill()


@pytest.fixture
def server() -> Iterator[MetadataServer]:
    with MetadataServer() as server:
        yield server


@pytest.fixture
def watch(tmp_path) -> Iterator[Callable[..., Watcher]]:
    started: list[Watcher] = []

    def start(*words: str, **environment: str) -> Watcher:
        started.append(Watcher(tmp_path, "--every", "0.1", *words, **environment))
        return started[-1]

    yield start
    for watcher in started:
        watcher.process.kill()
        watcher.process.wait()


def test_a_spot_notice_drains_the_node_with_its_deadline(server, watch):
    watcher = watch("--cloud", "aws", "--endpoint", server.url, "--node-id", "ab12")
    watcher.until_said("is watched")
    server.give_spot_notice(120)
    watcher.until_said("drained in")
    (drain,) = watcher.drains
    assert drain["--node-id"] == "ab12"
    assert drain["--message"].startswith("spot notice: terminate at ")
    assert 60 < float(drain["--seconds"]) <= 120
    assert watcher.end() == 0
    assert [line.partition(" ")[0] for line in watcher.log] == [
        "watching,",
        "the",
        "notice:",
        "drained",
        "ended",
    ]


def test_google_by_its_own_variable_and_a_drain_that_fails_at_first(server, watch, tmp_path):
    (tmp_path / "code").write_text("1")
    watcher = watch("--cloud", "gcp", GCE_METADATA_HOST=f"127.0.0.1:{server.port}")
    watcher.until_said("is watched")
    server.preempted = "TRUE"
    watcher.until_said("NOT DRAINED: so it is; tried again until it is")
    (tmp_path / "code").write_text("0")
    watcher.until_said("drained in")
    assert len(watcher.drains) >= 2
    assert watcher.end() == 0


@pytest.mark.parametrize("fault", ["rubbish", "error", "hang", "elsewhere", "refuse"])
def test_a_service_out_of_its_mind_is_one_line_and_no_drain(server, watch, fault):
    """And a notice is heard as soon as it is itself again."""
    if fault == "refuse":
        server.refuse()
    else:
        server.fault = fault
    watcher = watch("--cloud", "aws", AWS_EC2_METADATA_SERVICE_ENDPOINT=server.url)
    watcher.until_said("NO NOTICE CAN BE HEARD")
    time.sleep(1)
    assert sum("NO NOTICE" in line for line in watcher.log) == 1
    assert watcher.drains == []
    server.fault = None
    if fault == "refuse":
        server.return_()
    server.give_spot_notice()
    watcher.until_said("answers again")
    watcher.until_said("drained in")
    assert watcher.end() == 0


def test_sigterm_is_a_notice_and_the_watcher_ends_when_the_node_is_drained(watch):
    watcher = watch("--cloud", "none", "--grace", "20")
    watcher.until_said("watching")
    watcher.process.terminate()
    assert watcher.process.wait(PATIENCE_S) == 0
    (drain,) = watcher.drains
    assert (drain["--message"], float(drain["--seconds"])) == ("SIGTERM", pytest.approx(20, abs=9))
    assert watcher.log[-1] == "ended"


def test_sigterm_where_no_ray_runs_any_more_ends_the_watcher_at_once(watch, tmp_path):
    (tmp_path / "code").write_text("3")
    watcher = watch("--cloud", "none", "--grace", "1000")
    watcher.until_said("watching")
    watcher.process.terminate()
    assert watcher.process.wait(PATIENCE_S) == 0
    assert watcher.log[-1] == "ended; the node is not drained"


def test_a_queue_tells_its_limit_by_the_environment(watch):
    watcher = watch("--cloud", "none", SLURM_JOB_END_TIME=str(int(time.time()) + 100))
    watcher.until_said("drained in")
    assert watcher.drains[0]["--message"].startswith("wall-time limit at ")
    assert watcher.end() == 0


def test_a_limit_that_is_far_away_drains_nothing_yet(watch):
    watcher = watch("--cloud", "none", "--deadline", str(time.time() + 4000), "--lead", "60")
    watcher.until_said("the wall-time limit at")
    assert watcher.drains == []
    assert watcher.end() == 0


def test_it_is_small_and_loads_nothing_heavy(server, watch):
    watcher = watch("--cloud", "aws", "--endpoint", server.url)
    watcher.until_said("is watched")
    status = Path(f"/proc/{watcher.process.pid}/status").read_text()
    resident = int(status.partition("VmRSS:")[2].split()[0])
    assert resident < 24_000, "kB; an empty Python has 11,000"
    libraries = Path(f"/proc/{watcher.process.pid}/maps").read_text()
    assert "site-packages" not in libraries
    assert watcher.end() == 0


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "the following arguments are required: action, --cloud"),
        (["watch", "--cloud", "azure"], "--cloud: invalid choice: 'azure'"),
        (["watch", "--cloud", "aws", "--endpoint", "https://x"], "--endpoint: 'https://x' is no a"),
        (["watch", "--cloud", "none", "--endpoint", "x"], "--endpoint: there is nobody to ask"),
        (["watch", "--cloud", "none", "--deadline", "5"], "--deadline: '5' is not in the future"),
        (["watch", "--cloud", "none", "--lead", "-1"], "--lead: '-1' is no time"),
        (["watch", "--cloud", "none", "--every", "nan"], "--every: 'nan' is no time"),
    ],
)
def test_what_is_wrong_with_the_command_is_one_line(words, line):
    done = subprocess.run(
        [sys.executable, "-m", "vesselflow.notices", *words], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stdout == ""
    (said,) = done.stderr.splitlines()
    assert said.startswith(f"vesselflow.notices: {line}")
