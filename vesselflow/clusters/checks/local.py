"""Machines that somebody owns."""

from __future__ import annotations

import re
from collections.abc import Iterator

from vesselflow.clusters.checks.shape import PLACEHOLDER
from vesselflow.clusters.findings import Finding, error, warning
from vesselflow.clusters.schemas import said
from vesselflow.clusters.surroundings import Checked


def check_addresses(checked: Checked) -> Iterator[Finding]:
    """The machines: each named once."""
    provider = checked.document.mapping("provider")
    if "coordinator_address" in provider:
        return
    head, workers = provider.get("head_ip"), provider.get("worker_ips")
    if not head:
        yield error("machines", ("provider",), "no head is named", allowed="head_ip: 192.168.1.10")
    if not isinstance(workers, list):
        yield error(
            "machines", ("provider",), "no workers are named", allowed="worker_ips: [192.168.1.11]"
        )
        return
    seen = {str(head)}
    for index, worker in enumerate(workers):
        if not isinstance(worker, str):
            yield error(
                "machines",
                ("provider", "worker_ips", index),
                f"{said(worker)} is no address",
                allowed="192.168.1.11, or a name",
            )
        elif worker in seen and PLACEHOLDER not in str(worker):
            what = "is the head too" if worker == head else "is named twice"
            yield error(
                "machines",
                ("provider", "worker_ips", index),
                f"{worker} {what}: two Rays on one machine take each other's ports",
            )
        seen.add(str(worker))


def check_user(checked: Checked) -> Iterator[Finding]:
    """Who logs in, and with which key."""
    auth = checked.document.mapping("auth")
    for key, allowed in (("ssh_user", "your name there"), ("ssh_private_key", "~/.ssh/id_ed25519")):
        if not auth.get(key):
            yield error(
                "ssh-user",
                ("auth",) if auth else (),
                f"no {key}: Ray cannot log in",
                allowed=f"auth.{key}: {allowed}",
            )


def check_storage(checked: Checked) -> Iterator[Finding]:
    """A folder must be the same one everywhere."""
    storage = checked.cluster.settings.storage
    if storage and not re.match("/|[a-z0-9]+://", storage) and PLACEHOLDER not in storage:
        yield warning(
            "storage",
            ("metadata", "vesselflow", "storage"),
            f"'{storage}' is another folder on every machine",
            allowed="a bucket, or a path from / on where all machines see the same folder",
        )
