"""A driver in miniature as a subprocess: connects, waits for a loss, says one line, leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

CODE = """
import os, signal, sys, threading, time
from pathlib import Path
from vesselflow.errors import VesselflowError
from vesselflow.orchestration.environment import settle_environment
settle_environment()
import ray
from vesselflow.orchestration.cluster import connect
stop = threading.Event()
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: stop.set())
try:
    address = sys.argv[2] if len(sys.argv) > 2 else None
    with connect(address, log=Path(sys.argv[1]), cpus=1, stop=stop) as cluster:
        echo = ray.remote(num_cpus=0)(lambda value: value)
        print("ready", cluster.attend(lambda: ray.get(echo.remote(7))), flush=True)
        print("nodes", [node.cpus for node in cluster.nodes()], flush=True)
        for _ in range(600):
            cluster.attend(lambda: ray.get(echo.remote(1), timeout=30))
            if stop.is_set():
                break
            time.sleep(0.1)
    print("stopped", file=sys.stderr)
    sys.exit(130)
except VesselflowError as error:
    print(f"{type(error).__name__}: {error}", flush=True)
    os._exit(1)
"""


#: On a busy machine.
PATIENCE_S = 240

#: Somebody else's cluster, until its input is closed. (`ray start` would be seen machine-wide.)
OTHER = """
import ray, sys
ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level="ERROR")
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


class Drivers:
    """Subprocesses, all of which are gone after `end`."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self._started: list[subprocess.Popen[str]] = []

    def __call__(self, *address: str, **environment: str) -> subprocess.Popen[str]:
        return self._start([CODE, str(self.log), *address], environment)

    def other(self, **environment: str) -> subprocess.Popen[str]:
        return self._start([OTHER], environment)

    def _start(self, words: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        self._started.append(
            subprocess.Popen(
                [sys.executable, "-c", *words],
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                text=True,
                env={**os.environ, **environment},
            )
        )
        return self._started[-1]

    def end(self) -> None:
        for driver in self._started:
            driver.kill()
            driver.communicate()


def wait_until_ready(driver: subprocess.Popen[str]) -> list[str]:
    """The two lines that it says; it is connected then."""
    assert driver.stdout is not None
    lines = [driver.stdout.readline().strip() for _ in range(2)]
    assert lines[0] == "ready 7", (lines, driver.poll())
    return lines


def family(driver: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(driver.pid).children(recursive=True)


def kill(driver: subprocess.Popen[str], name: str) -> None:
    (process,) = [child for child in family(driver) if child.name() == name]
    process.send_signal(signal.SIGKILL)


def alive(processes: list[psutil.Process], within_s: float = 10.0) -> list[str]:
    """Those that are still there after a while."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        left = [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        if not left:
            return []
        time.sleep(0.1)
    return [str(process) for process in left]
