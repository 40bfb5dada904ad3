"""What Google Compute Engine would refuse at every start, or what would be regretted later."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from vesselflow.clusters.checks.aws import LEAST_DISK_GB
from vesselflow.clusters.checks.parts import Kind, kinds
from vesselflow.clusters.document import Keys
from vesselflow.clusters.findings import Finding, error, warning
from vesselflow.clusters.machines import load_machines
from vesselflow.clusters.schema_sources import gcp_node
from vesselflow.clusters.schemas import faults
from vesselflow.clusters.surroundings import Checked

_LABEL = re.compile(r"[a-z0-9_-]{0,63}")
_NAME = re.compile(r"[a-z]([a-z0-9_-]{0,61}[a-z0-9])?")
_WRITES = ("cloud-platform", "devstorage.full_control", "devstorage.read_write")
_LAUNCHES = "Ray takes it, Google refuses it, and the start is tried again and again"


def check_schema(checked: Checked) -> Iterator[Finding]:
    """`node_config` against what an instance of Compute Engine may hold."""
    source = gcp_node()
    if source is None:
        yield error(
            "cloud-client",
            ("provider", "type"),
            "Google's client is not installed here",
            hint="`ray up` needs it: pip install 'vesselflow[gcp]'",
        )
        return
    for kind in kinds(checked):
        for fault in faults(kind.config, source.schema, source.resolve, kind.at_config):
            hint = f"{fault.hint}; {_LAUNCHES}" if fault.hint else _LAUNCHES
            rule = {"key": "node-key", "missing": "node-missing"}.get(fault.kind, "node-value")
            yield error(rule, fault.keys, fault.what, allowed=fault.allowed, hint=hint)
        if "machineType" not in kind.config:
            yield error(
                "node-missing",
                kind.at_config,
                "'machineType' is missing",
                allowed="machineType: c3-highcpu-22, for instance",
            )


def check_project(checked: Checked) -> Iterator[Finding]:
    """The project."""
    if not checked.document.at("provider", "project_id"):
        yield error(
            "project",
            ("provider",),
            "no project is named",
            allowed="provider.project_id: my-project",
            hint="gcloud projects list",
        )


def check_names(checked: Checked) -> Iterator[Finding]:
    """Names become labels of machines, which take small letters only."""
    rows: list[tuple[Keys, str]] = [(kind.keys, kind.name) for kind in kinds(checked)]
    for keys, name in [(("cluster_name",), checked.cluster.name), *rows]:
        if name and not _NAME.fullmatch(name):
            yield error(
                "name",
                keys,
                f"'{name}' becomes a label, and Google refuses it as one",
                allowed="a-z, 0-9, _ and -, from a letter on, 63 at most",
            )
    for kind in kinds(checked):
        labels = kind.config.get("labels")
        for key, value in labels.items() if isinstance(labels, dict) else ():
            if not (_NAME.fullmatch(str(key)) and _LABEL.fullmatch(str(value))):
                yield error(
                    "name",
                    (*kind.at_config, "labels", str(key)),
                    f"the label {key}: {value} is refused",
                    allowed="a-z, 0-9, _ and -",
                )


def check_spot(checked: Checked) -> Iterator[Finding]:
    """What becomes of a machine that is taken away, and of one with a GPU that is to be moved."""
    for kind in kinds(checked):
        place = (*kind.at_config, "scheduling")
        scheduling = _scheduling(kind)
        if kind.node.spot and scheduling.get("instanceTerminationAction") != "DELETE":
            yield warning(
                "spot-options",
                place,
                "a machine that is taken away is only stopped: Ray forgets it, and its disk is "
                "paid for",
                allowed="scheduling: {provisioningModel: SPOT, instanceTerminationAction: DELETE}",
            )
        machine = load_machines().get(("gcp", kind.node.instance_type))
        gpu = (machine and machine.gpus) or kind.config.get("guestAccelerators")
        if gpu and not kind.node.spot and scheduling.get("onHostMaintenance") != "TERMINATE":
            yield error(
                "gpu-maintenance",
                place if scheduling else kind.at_config,
                "a machine with a GPU cannot be moved, and Google refuses to start it without a "
                "word on that",
                allowed="scheduling: {onHostMaintenance: TERMINATE}",
            )


def check_rights(checked: Checked) -> Iterator[Finding]:
    """Who may write to the bucket. Ray gives the head an account of its own, workers none."""
    for kind in kinds(checked):
        if kind.is_head or "sourceInstanceTemplate" in kind.config:
            continue
        accounts = kind.config.get("serviceAccounts")
        place: Keys = (*kind.at_config, "serviceAccounts")
        if not isinstance(accounts, list) or not accounts:
            yield error(
                "rights",
                kind.at_config,
                "no serviceAccounts: the workers have no right to write to the bucket",
                allowed="serviceAccounts: [{email: ..., scopes: [.../auth/cloud-platform]}]",
                hint="clusters/README.md makes the account",
            )
            continue
        scopes = [
            str(scope)
            for account in accounts
            if isinstance(account, dict)
            for scope in (account["scopes"] if isinstance(account.get("scopes"), list) else [])
        ]
        if not any(scope.rpartition("/")[2] in _WRITES for scope in scopes):
            yield error(
                "rights",
                (*place, 0),
                "no scope that lets the workers write to the bucket",
                allowed="https://www.googleapis.com/auth/cloud-platform",
                hint="what the account may do is said by its roles",
            )


def check_disks(checked: Checked) -> Iterator[Finding]:
    """The boot disk: there, large enough, with an image, gone with its machine."""
    for kind in kinds(checked):
        place: Keys = (*kind.at_config, "disks")
        given = kind.config.get("disks")
        if "sourceInstanceTemplate" in kind.config:
            continue
        disks = [one for one in given if isinstance(one, dict)] if isinstance(given, list) else []
        boots = [(index, one) for index, one in enumerate(disks) if one.get("boot") is True]
        if not boots:
            yield error(
                "disk",
                place if disks else kind.at_config,
                "no disk to boot from",
                allowed="disks: [{boot: true, ...}], as in clusters/gcp.yaml",
            )
            continue
        for index, disk in boots:
            at: Keys = (*place, index)
            start = disk.get("initializeParams")
            start = start if isinstance(start, dict) else {}
            size = start.get("diskSizeGb")
            if "source" not in disk and not isinstance(start.get("sourceImage"), str):
                yield error(
                    "image",
                    (*at, "initializeParams"),
                    "no image to boot from",
                    allowed="sourceImage: projects/ubuntu-os-cloud/global/images/family/"
                    "ubuntu-2404-lts-amd64",
                )
            if str(size or 10).isdigit() and int(size or 10) < LEAST_DISK_GB:
                yield error(
                    "disk",
                    (*at, "initializeParams", *(("diskSizeGb",) if size else ())),
                    f"{size or 10} GB: system, packages and data do not fit",
                    allowed=f"diskSizeGb: {LEAST_DISK_GB} or more",
                )
            if disk.get("autoDelete") is not True:
                yield warning(
                    "disk",
                    at,
                    "the disk of every machine stays, and is paid for, when the machine is gone",
                    allowed="autoDelete: true",
                )
            yield from _driver(kind, (*at, "initializeParams", "sourceImage"), start)


def _driver(kind: Kind, at: Keys, start: dict[str, Any]) -> Iterator[Finding]:
    machine = load_machines().get(("gcp", kind.node.instance_type))
    gpu = (machine and machine.gpus) or kind.config.get("guestAccelerators")
    image = str(start.get("sourceImage", ""))
    if gpu and ("/ubuntu-os-cloud/" in image or "/debian-cloud/" in image):
        yield error(
            "gpu-driver",
            at,
            f"{kind.node.instance_type} has a GPU, and this image no driver: torch sees none",
            allowed="projects/ubuntu-os-accelerator-images/global/images/family/"
            "ubuntu-accelerator-2404-amd64-with-nvidia-580",
        )


def check_network(checked: Checked) -> Iterator[Finding]:
    """Who can reach the machines: the network called default lets in the world."""
    for kind in kinds(checked):
        given = kind.config.get("networkInterfaces")
        ways = [one for one in given if isinstance(one, dict)] if isinstance(given, list) else []
        named = [str(one.get(key, "")) for one in ways for key in ("network", "subnetwork")]
        default = any(name.rpartition("/")[2] == "default" for name in named)
        if default or not ways:
            yield warning(
                "ssh-open",
                (*kind.at_config, "networkInterfaces") if ways else kind.at_config,
                "the network is the default one, whose firewall lets in SSH and RDP from "
                "everywhere (0.0.0.0/0)",
                allowed="networkInterfaces: [{network: global/networks/vesselflow, ...}]",
                hint="make a network of your own with the commands of clusters/README.md",
            )


def check_tags(checked: Checked) -> Iterator[Finding]:
    """Labels by which the bill can be told apart."""
    sweep = checked.cluster.settings.sweep
    for kind in kinds(checked):
        labels = kind.config.get("labels")
        labels = labels if isinstance(labels, dict) else {}
        if not sweep or sweep not in labels.values():
            yield warning(
                "tags",
                (*kind.at_config, "labels") if labels else kind.at_config,
                "machines are not labelled with the sweep's name: the bill does not tell it apart",
                hint="name it in metadata.vesselflow.sweep, label with it as in clusters/gcp.yaml",
            )


def check_stopped(checked: Checked) -> Iterator[Finding]:
    """Whether machines are ended or only stopped."""
    if checked.document.at("provider", "cache_stopped_nodes") is True:
        yield warning(
            "cache-stopped",
            ("provider", "cache_stopped_nodes"),
            "true: machines are stopped, not ended, and their disks are paid for",
            allowed="cache_stopped_nodes: false",
        )


def check_user(checked: Checked) -> Iterator[Finding]:
    """The name for SSH: Ray writes it into the key that it makes."""
    auth = checked.document.at("auth")
    if isinstance(auth, dict) and not auth.get("ssh_user"):
        yield error(
            "ssh-user",
            ("auth",),
            "no ssh_user: `ray up` ends in a KeyError",
            allowed="ssh_user: ubuntu",
        )


def _scheduling(kind: Kind) -> dict[str, Any]:
    given = kind.config.get("scheduling")
    if isinstance(given, list):
        given = given[0] if given else None
    return given if isinstance(given, dict) else {}
