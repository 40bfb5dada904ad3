"""A cluster with Ray's own autoscaler (v2), a head without CPUs, and machines that come and go."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._private.state import GlobalState
from ray._raylet import GcsClientOptions
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

HEAD = "ray.head.default"


@dataclass
class Scaled:
    """The cluster.

    Attributes:
        address: HOST:PORT.
        without: The file that names the machine types that cannot be had.
    """

    address: str
    without: Path
    state: GlobalState

    def machines(self) -> list[str]:
        """The markets of the machines that live, the head left out."""
        alive = [entry for entry in self.state.node_table() if entry["Alive"]]
        found = [
            market
            for entry in alive
            for market in ("spot", "on_demand")
            if market in entry["Resources"]
        ]
        return sorted(found)

    def until(self, wanted: list[str], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while self.machines() != wanted:
            assert time.monotonic() < deadline, self.machines()
            time.sleep(0.2)


@contextlib.contextmanager
def scaled(types: dict[str, dict[str, Any]], *, idle_s: float) -> Iterator[Scaled]:
    """A cluster whose worker types are given; nothing of it is left afterwards."""
    # Ray's sockets want a short path.
    folder = Path(tempfile.mkdtemp(prefix="s-", dir="/tmp"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"{ray.util.get_node_ip_address()}:{port}"
    without = folder / "without"
    (folder / "cluster.json").write_text(json.dumps(_file(types, address, idle_s)))
    here = str(Path(__file__).parent)
    environment = {
        **os.environ,
        "NO_CAPACITY": str(without),
        "PYTHONPATH": os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])]),
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    }
    words = [
        *("start", "--head", "--block", f"--port={port}", "--num-cpus=0"),
        *("--include-dashboard=false", f"--temp-dir={folder}"),
        f"--autoscaling-config={folder / 'cluster.json'}",
    ]
    with (folder / "out").open("w") as out:
        head = subprocess.Popen(
            [str(Path(sys.executable).with_name("ray")), *words],
            env=environment,
            stdout=out,
            stderr=out,
        )
    try:
        _wait_for(port, head, folder / "out")
        state = GlobalState()
        state._initialize_global_state(GcsClientOptions.create(address, None, True, False))
        yield Scaled(address, without, state)
        state.disconnect()
    finally:
        _end(head, folder)


def _file(types: dict[str, dict[str, Any]], address: str, idle_s: float) -> dict[str, Any]:
    head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    workers = {name: {"node_config": {}, "min_workers": 0, **kind} for name, kind in types.items()}
    return {
        "cluster_name": "scaled",
        "max_workers": 10,
        "idle_timeout_minutes": idle_s / 60,
        "upscaling_speed": 10,
        "provider": {
            "type": "external",
            "module": "scaling_provider.Cloud",
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "launch_multiple": True,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "gcs_address": address,
        },
        "auth": {},
        "docker": {},
        "head_node_type": HEAD,
        "available_node_types": {HEAD: head, **workers},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
    }


def _wait_for(port: int, head: subprocess.Popen[bytes], out: Path) -> None:
    deadline = time.monotonic() + 120
    while "Ray runtime started" not in out.read_text():
        assert head.poll() is None, out.read_text()
        assert time.monotonic() < deadline, out.read_text()
        time.sleep(0.2)


def _end(head: subprocess.Popen[bytes], folder: Path) -> None:
    """Kill what names this cluster's own folder; `ray stop` would reach every Ray here."""
    head.kill()
    head.wait()
    for _ in range(3):
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if str(folder) in " ".join(process.cmdline()) or _worker_of(process, folder):
                    process.kill()
        time.sleep(0.2)
    shutil.rmtree(folder, ignore_errors=True)


def _worker_of(process: psutil.Process, folder: Path) -> bool:
    """Whether it is a worker (its title hides its command) of this cluster."""
    with contextlib.suppress(psutil.Error):
        if process.name().startswith("ray::"):
            return any(str(folder) in file.path for file in process.open_files())
    return False
