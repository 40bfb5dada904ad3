"""Which nodes are drained, and what is left for the sweeps to read: a control service of fakes."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import Any

import pytest
from ray import NodeID

from vesselflow.notices import ray_drain as module
from vesselflow.notices.draining import NO_NODE
from vesselflow.orchestration.machines import NOTICES

A, B, DEAD = "aa" * 28, "bb" * 28, "dd" * 28


class Client:
    """Three nodes, one of them dead."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.answer = (True, "")
        self.trouble: Exception | None = None

    def get_all_node_info(self, timeout: float) -> dict[Any, Any]:
        if self.trouble is not None:
            raise self.trouble
        rows = ((A, 0, "10.0.0.1"), (B, 0, "10.0.0.2"), (DEAD, 1, "10.0.0.1"))
        return {
            NodeID.from_hex(node): SimpleNamespace(state=state, node_manager_address=where)
            for node, state, where in rows
        }

    def internal_kv_put(self, key: bytes, value: bytes, *more: Any, **_: Any) -> None:
        self.told.append((key.decode(), json.loads(value), more[1].decode()))

    def drain_node(self, *words: Any) -> tuple[bool, str]:
        self.told.append(words)
        return self.answer


@pytest.fixture
def client(monkeypatch) -> Client:
    client = Client()
    monkeypatch.setattr(module.ray._raylet, "GcsClient", lambda address: client)
    monkeypatch.setattr(module.services, "find_node_ids", lambda: {B, DEAD, "cc" * 28})
    monkeypatch.setattr(module.services, "canonicalize_bootstrap_address", lambda text: text)
    return client


def _drained(client: Client) -> list[str]:
    return [entry[0] for entry in client.told if len(entry) == 4]


@pytest.mark.parametrize(
    ("words", "nodes"),
    [
        (["--node-id", A], [A]),
        (["--node-ip", "10.0.0.1"], [A]),
        ([], [B]),
        (["--node-id", DEAD], []),
        (["--node-ip", "10.0.0.9"], []),
    ],
)
def test_the_nodes_of_this_machine_that_live_in_this_cluster(client, capsys, words, nodes):
    code = module.main(["--message", "spot notice", *words])
    assert _drained(client) == nodes
    assert code == (0 if nodes else NO_NODE)
    said = capsys.readouterr()
    if nodes:
        assert said.out == f"node {nodes[0][:8]} is draining\n"
    else:
        assert "this machine has no node in the cluster at auto" in said.err


def test_the_word_comes_before_the_drain_and_where_sweeps_look(client):
    module.main(["--message", "spot notice", "--seconds", "100", "--node-id", A])
    word, (node, reason, message, deadline) = client.told
    assert word == (A, {"text": "spot notice", "seconds": 100.0}, NOTICES)
    assert (node, reason, message) == (A, 2, "spot notice")
    assert deadline / 1000 == pytest.approx(time.time() + 100, abs=20)
    module.main(["--message", "forecast", "--node-id", A])
    assert client.told[-1][3] == 0, "no deadline"


def test_what_goes_wrong_is_one_line(client, capsys, monkeypatch):
    client.answer = (False, "it is busy\nand more")
    assert module.main(["--message", "x", "--node-id", A]) == 1
    assert capsys.readouterr().err == f"node {A[:8]} refuses to be drained: it is busy\n"
    client.trouble = TimeoutError()
    assert module.main(["--message", "x", "--node-id", A]) == 1
    assert capsys.readouterr().err == "TimeoutError\n"

    def nobody(text: str) -> str:
        raise ConnectionError("none")

    monkeypatch.setattr(module.services, "canonicalize_bootstrap_address", nobody)
    assert module.main(["--message", "x"]) == NO_NODE
    assert capsys.readouterr().err == "no Ray runs on this machine\n"
