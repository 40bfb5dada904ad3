"""The cluster that a sweep is disturbed on, seen from outside of it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from vesselflow.errors import VesselflowError

#: Seconds for one answer; a node takes a few to start, on a busy machine many.
ANSWER_S = 120.0

#: What nodes and drivers export: a machine that vanishes is dead after 9 s instead of 64, as in the
#: cluster files; no token of the person's own is made or asked for, no statistics are sent.
ENVIRONMENT = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_grpc_client_keepalive_time_ms": "5000",
    "RAY_grpc_client_keepalive_timeout_ms": "5000",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",
    "VESSELFLOW_DASHBOARD": "0",
    # One and two threads give different bits in a convolution's backward pass.
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """Of everything that is started: this process's, without a cluster that it may know."""
    usual = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return {**usual, **ENVIRONMENT, **more}


@dataclass(frozen=True)
class Machine:
    """A node that carries slots.

    Attributes:
        name: Stands with the cost of every attempt that was made there.
        raylet: Its process, whose children are the workers.
    """

    name: str
    raylet: psutil.Process

    def workers(self) -> list[psutil.Process]:
        """The processes in which slots train there, oldest first."""
        found = []
        with contextlib.suppress(psutil.Error):
            for process in self.raylet.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    title = " ".join(process.cmdline())
                    if "SlotWorker" in title or "RayTrainWorker" in title:
                        found.append(process)
        return sorted(found, key=lambda process: (process.create_time(), process.pid))

    def alive(self) -> bool:
        """Whether its raylet runs."""
        with contextlib.suppress(psutil.Error):
            return bool(self.raylet.is_running() and self.raylet.status() != "zombie")
        return False


class Machines:
    """A head without CPUs and some nodes; a context manager that leaves no process behind.

    Args:
        log: Where what Ray says goes, added to.
        count: Nodes that carry slots.
        cpus: Of each of them.
        begin_at: Number of the first of them.
        env: What they are to export.

    Attributes:
        address: Of the cluster.
        nodes: Those that carry slots now.
        env: What a driver on it is to export.
    """

    def __init__(
        self, log: Path, count: int, cpus: int, begin_at: int, env: Mapping[str, str]
    ) -> None:
        # Short: the path of a socket has at most 107 bytes.
        self._folder = tempfile.mkdtemp(prefix="vf-", dir="/tmp")
        # Ray's own idea of where things go, for it writes the address of the newest cluster there.
        self.env = {"RAY_TMPDIR": self._folder}
        self._log, self._cpus, self._made = log, cpus, begin_at
        self._family: dict[int, psutil.Process] = {}
        self.nodes: list[Machine] = []
        self._answers: queue.Queue[str] = queue.Queue()
        with log.open("ab") as sink:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "vesselflow.chaos.node_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
                text=True,
                env=environment({**env, **self.env}),
                # Ctrl-C is for us to pass on.
                start_new_session=True,
            )
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            head = self._ask(do="head")
            self.address: str = head["address"]
            self._head = list(head["pids"].values())
            for _ in range(count):
                self.add()
        except BaseException:
            self.end()
            raise

    def __enter__(self) -> Machines:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    @property
    def made(self) -> int:
        """Nodes that there were so far: the next one's number."""
        return self._made

    def add(self) -> Machine:
        """One more node."""
        name = f"node-{self._made}"
        self._made += 1
        try:
            told = self._ask(do="add", name=name, cpus=self._cpus)
        except VesselflowError:
            # A start of Ray that a busy machine spoils is no fault of the sweep's.
            told = self._ask(do="add", name=name, cpus=self._cpus)
        machine = Machine(name, psutil.Process(told["pids"]["raylet"]))
        self.nodes.append(machine)
        return machine

    def drain(self, machine: Machine, message: str, seconds: float) -> None:
        """Give a node notice, as the watcher of a machine does."""
        self._ask(do="drain", name=machine.name, message=message, seconds=seconds)

    def lose(self, machine: Machine) -> None:
        """Kill everything on a node at once, as a machine that vanishes does."""
        self.look()
        family = [machine.raylet]
        with contextlib.suppress(psutil.Error):
            family += machine.raylet.children(recursive=True)
        _kill(family)
        self.forget(machine)

    def forget(self, machine: Machine) -> None:
        """Remove what is left of a node."""
        self.nodes.remove(machine)
        self._ask(do="remove", name=machine.name)

    def lose_head(self) -> None:
        """Kill all processes of the head."""
        self.look()
        processes = []
        for pid in self._head:
            with contextlib.suppress(psutil.Error):
                processes.append(psutil.Process(pid))
        _kill(processes)

    def look(self) -> None:
        """Learn which processes belong to the cluster: those of a dead parent are orphans."""
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self._process.pid).children(recursive=True):
                self._family.setdefault(child.pid, child)

    def end(self) -> None:
        """End the cluster and all its processes."""
        self.look()
        processes = list(self._family.values())
        with contextlib.suppress(psutil.Error):
            processes.insert(0, psutil.Process(self._process.pid))
        # Not asked to end well: that takes seconds for each node, and nothing there is wanted.
        _kill(processes)
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _ask(self, **order: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            answer = json.loads(self._answers.get(timeout=ANSWER_S))
        except (OSError, ValueError, queue.Empty) as error:
            what = f"the cluster does not answer to '{order['do']}'; see {self._log}"
            raise VesselflowError(what) from error
        self.look()
        if "error" in answer:
            raise VesselflowError(f"the cluster cannot '{order['do']}': {answer['error']}")
        return dict(answer)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        # psutil looks whether the number is another process's by now.
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=10)
