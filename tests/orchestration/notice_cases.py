"""Machines that are given notice: watchers, a metadata service, and what runs made of it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

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
