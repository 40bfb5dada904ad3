"""A Ray cluster of several nodes on this machine, played by one process that obeys its input.

``python -m vesselflow.chaos.node_process``: each line of its input is a JSON object, ``{"do":
"head" | "add" | "remove" | "drain", ...}``, and gets one line of JSON back. When the input ends, so
does the cluster.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import ray._raylet
from ray.cluster_utils import Cluster

from vesselflow.notices.ray_drain import drain
from vesselflow.orchestration.ray_thread import patient

#: Names the machine of each attempt in its cost: so it is known who worked where.
MACHINE = "VESSELFLOW_MACHINE"
#: Seconds that a node may take to come up (30 of Ray's own): a busy machine is no fault.
START_S = 60.0


class Nodes:
    """The nodes of the cluster by the names that they were given."""

    def __init__(self) -> None:
        self._cluster = Cluster()
        self._nodes: dict[str, Any] = {}

    def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        """Do one thing; what is to be said of it."""
        with patient(START_S, lambda: None):
            done: dict[str, Any] = getattr(self, f"_{order['do']}")(order)
        return done

    def _head(self, order: dict[str, Any]) -> dict[str, Any]:
        self._cluster.add_node(num_cpus=0, include_dashboard=False)
        return {"address": self._cluster.address, "pids": _pids(self._cluster.head_node)}

    def _add(self, order: dict[str, Any]) -> dict[str, Any]:
        os.environ[MACHINE] = order["name"]
        node = self._cluster.add_node(num_cpus=order["cpus"])
        self._nodes[order["name"]] = node
        return {"id": node.node_id, "pids": _pids(node)}

    def _remove(self, order: dict[str, Any]) -> dict[str, Any]:
        self._cluster.remove_node(self._nodes.pop(order["name"]), allow_graceful=False)
        return {}

    def _drain(self, order: dict[str, Any]) -> dict[str, Any]:
        client = ray._raylet.GcsClient(address=self._cluster.address)
        drain(client, self._nodes[order["name"]].node_id, order["message"], order["seconds"])
        return {}

    def end(self) -> None:
        """Let nothing be left."""
        self._cluster.shutdown()


def _pids(node: Any) -> dict[str, int]:
    return {name: started[0].process.pid for name, started in node.all_processes.items() if started}


def main() -> None:
    """Obey until the input ends."""
    # Whatever Ray prints is not for whoever reads the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    nodes = Nodes()
    try:
        for line in sys.stdin:
            try:
                answer = nodes.obey(json.loads(line))
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            answers.write(json.dumps(answer) + "\n")
    finally:
        nodes.end()


if __name__ == "__main__":
    main()
