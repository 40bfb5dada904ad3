"""Drain a node of a Ray cluster, in a process of its own that ends at once.

``python -m vesselflow.notices.ray_drain --message TEXT [--seconds N] [--node-id HEX | --node-ip IP]
[--address HOST:PORT]``. Exit codes: 0 drained, or draining already; 3 no such node is in the
cluster (it may come, or be gone); 1 anything else, with one line on stderr.

Ray's own ``ray drain-node`` does the same for one node id, but cannot find the node of a machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import ray._raylet
from ray._private import services
from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
from ray.core.generated.autoscaler_pb2 import DRAIN_NODE_REASON_PREEMPTION

#: Seconds for one answer of the control service.
LIMIT_S = 5
#: Where a sweep finds what was said of a node: key/value space of the cluster, by node id.
NAMESPACE = b"vesselflow-notices"
NO_NODE = 3


def main(words: list[str] | None = None) -> int:
    """Drain, and say so in one line."""
    parser = argparse.ArgumentParser(prog="ray_drain")
    parser.add_argument("--address", default="auto")
    parser.add_argument("--node-id")
    parser.add_argument("--node-ip")
    parser.add_argument("--message", required=True)
    parser.add_argument("--seconds", type=float, help="until the machine goes; default: unknown")
    given = parser.parse_args(words)
    try:
        try:
            address = services.canonicalize_bootstrap_address(given.address)
        except ConnectionError:
            print("no Ray runs on this machine", file=sys.stderr)
            return NO_NODE
        ensure_token_if_auth_enabled({}, create_token_if_missing=False)
        client = ray._raylet.GcsClient(address=address)
        found = nodes_of(client, given.node_id, given.node_ip)
        for node in found:
            drain(client, node, given.message, given.seconds)
            print(f"node {node[:8]} is draining")
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        print(lines[0], file=sys.stderr)
        return 1
    if not found:
        print(f"this machine has no node in the cluster at {address}", file=sys.stderr)
        return NO_NODE
    return 0


def nodes_of(client: ray._raylet.GcsClient, node_id: str | None, node_ip: str | None) -> list[str]:
    """Ids of the nodes that live: the one, those at an address, or those on this machine."""
    alive = {
        node.hex(): info.node_manager_address
        for node, info in client.get_all_node_info(timeout=LIMIT_S).items()
        if info.state == 0
    }
    if node_id is not None:
        return [node_id] if node_id in alive else []
    if node_ip is not None:
        return sorted(node for node, where in alive.items() if where == node_ip)
    return sorted(set(alive) & services.find_node_ids())


def drain(client: ray._raylet.GcsClient, node: str, message: str, seconds: float | None) -> None:
    """Drain one node, and leave a word for the sweeps.

    Raises:
        RuntimeError: It was refused.
    """
    at = 0 if seconds is None else int((time.time() + seconds) * 1000)
    word = json.dumps({"text": message, "seconds": seconds}).encode()
    # First the word: who sees the node draining is to find it.
    client.internal_kv_put(node.encode(), word, True, NAMESPACE, timeout=LIMIT_S)
    accepted, why = client.drain_node(node, DRAIN_NODE_REASON_PREEMPTION, message, at)
    if not accepted:
        raise RuntimeError(f"node {node[:8]} refuses to be drained: {why}")


if __name__ == "__main__":
    sys.exit(main())
