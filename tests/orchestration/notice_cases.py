"""Machines that are given notice: watchers, a metadata service, and what runs made of it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from vesselflow.records.runs import RunRecord

SERVICE = Path(__file__).parents[1] / "notices" / "metadata_server.py"


class Service:
    """A metadata service in a process of its own."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            [sys.executable, str(SERVICE)], stdin=pipe, stdout=pipe, text=True
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()

    def tell(self, line: str) -> None:
        """What it is to say from now on, see `metadata_server`."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def watched(node_id: str, address: str, log: Path) -> Iterator[Service]:
    """A node that is watched as the cluster files have it, and its machine's metadata service."""
    service = Service()
    words = ["--cloud", "aws", "--endpoint", service.url, "--node-id", node_id]
    with log.open("w") as file:
        watcher = subprocess.Popen(
            [sys.executable, "-m", "vesselflow.notices", "watch", *words, "--address", address],
            stdout=file,
            stderr=file,
            env=os.environ,
        )
    try:
        yield service
    finally:
        watcher.kill()
        watcher.wait()
        service.end()


def trained(results: Path) -> dict[str, list[int]]:
    """Run -> the steps that each of its attempts trained."""
    found = {}
    for folder in (results / "runs").glob("[!.]*"):
        costs = RunRecord(results, folder.name).costs()
        found[folder.name] = [int(cost["steps"]) for cost in costs]
    return found


@contextlib.contextmanager
def slow_slots(raylet: int) -> Iterator[None]:
    """The slots of a node's raylet get next to no time: what they train is not over too soon.

    They are stopped and let go in turns, so that they can still tell that they are there.
    """
    slots = [
        process
        for process in psutil.Process(raylet).children(recursive=True)
        if "SlotWorker" in " ".join(process.cmdline())
    ]
    assert slots, "no slot is on that node"
    over = threading.Event()

    def hinder() -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            while not over.is_set():
                for slot in slots:
                    slot.suspend()
                over.wait(1.0)
                for slot in slots:
                    slot.resume()
                time.sleep(0.02)

    thread = threading.Thread(target=hinder)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
