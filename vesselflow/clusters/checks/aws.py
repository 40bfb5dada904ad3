"""What EC2 would refuse at every start, or what would be regretted later."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from vesselflow.clusters.checks.parts import kinds
from vesselflow.clusters.checks.shape import PLACEHOLDER
from vesselflow.clusters.document import Keys
from vesselflow.clusters.findings import Finding, error, warning
from vesselflow.clusters.machines import load_machines
from vesselflow.clusters.schema_sources import aws_firewall_rule, aws_node
from vesselflow.clusters.schemas import faults, said
from vesselflow.clusters.surroundings import Checked

#: GB that the packages need beside Ubuntu, and what an image of Ubuntu has without being asked.
LEAST_DISK_GB, IMAGE_DISK_GB = 20, 8
_IMAGE = re.compile(r"ami-[0-9a-f]{8}([0-9a-f]{9})?|resolve:ssm:.+")
_GROUP = re.compile(r"sg-[0-9a-f]{8}([0-9a-f]{9})?")
#: Families with ARM's instructions: c7g, m6gd, t4g, g5g.
_ARM = re.compile(r"[a-z]+\d+g[a-z]*\.|a1\.")
_EVERYWHERE = ("0.0.0.0/0", "::/0")
_LAUNCHES = "Ray takes it, EC2 refuses it, and the start is tried again every 5 s for ever"


def check_schema(checked: Checked) -> Iterator[Finding]:
    """`node_config` against what EC2's RunInstances takes."""
    source = aws_node()
    if source is None:
        yield error(
            "cloud-client",
            ("provider", "type"),
            "botocore is not installed here",
            hint="`ray up` needs it: pip install 'vesselflow[aws]'",
        )
        return
    for kind in kinds(checked):
        for fault in faults(kind.config, source.schema, source.resolve, kind.at_config):
            if fault.keys[-1:] == ("InstanceType",) and PLACEHOLDER in fault.what:
                continue
            if fault.keys[-1:] in (("MinCount",), ("MaxCount",)):
                yield warning(
                    "node-key",
                    fault.keys,
                    f"Ray sets {fault.keys[-1]} itself",
                    hint="max_workers of the kind of node says how many",
                )
                continue
            hint = f"{fault.hint}; {_LAUNCHES}" if fault.hint else _LAUNCHES
            rule = {"key": "node-key", "missing": "node-missing"}.get(fault.kind, "node-value")
            yield error(rule, fault.keys, fault.what, allowed=fault.allowed, hint=hint)
        if "InstanceType" not in kind.config:
            yield error(
                "node-missing",
                kind.at_config,
                "'InstanceType' is missing",
                allowed="InstanceType: c7i.4xlarge, for instance",
            )


def check_image(checked: Checked) -> Iterator[Finding]:
    """The image: Ray's default is too old, and a GPU needs a driver."""
    ours = "ImageId: resolve:ssm:/aws/service/canonical/ubuntu/..., as in clusters/aws.yaml"
    for kind in kinds(checked):
        image, place = kind.config.get("ImageId"), (*kind.at_config, "ImageId")
        if "LaunchTemplate" in kind.config:
            continue
        if not isinstance(image, str) or image.lower() == "latest_dlami":
            yield error(
                "image",
                place if image else kind.at_config,
                "no image is named: Ray takes one of Ubuntu 18.04, whose Python is too old",
                allowed=ours,
            )
            continue
        if PLACEHOLDER in image:
            continue
        if not _IMAGE.fullmatch(image):
            yield error(
                "image",
                place,
                f"{said(image)} is no image",
                hint=_LAUNCHES,
                allowed="ami-0123456789abcdef0, or resolve:ssm:PARAMETER",
            )
            continue
        kind_of = str(kind.config.get("InstanceType", ""))
        if _ARM.match(kind_of) and re.search("amd64|x86_64", image):
            yield error(
                "image",
                place,
                f"{kind_of} has an ARM CPU, and the image is for Intel's",
                allowed="an image for arm64, or a machine without g in its family",
            )
        machine = load_machines().get(("aws", kind_of))
        if machine and machine.gpus and "/canonical/ubuntu/" in image:
            yield error(
                "gpu-driver",
                place,
                f"{kind_of} has a GPU, and this image no driver for it: torch sees none",
                allowed="resolve:ssm:/aws/service/deeplearning/ami/x86_64/"
                "base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id",
            )


def check_spot(checked: Checked) -> Iterator[Finding]:
    """Options of spot machines that leave something behind, or never get one."""
    for kind in kinds(checked):
        options = _mapping(_mapping(kind.config, "InstanceMarketOptions"), "SpotOptions")
        place: Keys = (*kind.at_config, "InstanceMarketOptions", "SpotOptions")
        if options and not kind.node.spot:
            yield error(
                "spot-options",
                place[:-1],
                "SpotOptions without MarketType: spot",
                allowed="MarketType: spot",
            )
        behaviour = options.get("InstanceInterruptionBehavior")
        if behaviour in ("stop", "hibernate"):
            yield error(
                "spot-options",
                (*place, "InstanceInterruptionBehavior"),
                f"{behaviour}: a machine that is taken away comes back later, unknown to Ray, and "
                "its disk is paid for meanwhile",
                allowed="terminate",
            )
        if options.get("SpotInstanceType") == "persistent":
            yield error(
                "spot-options",
                (*place, "SpotInstanceType"),
                "persistent: AWS starts machines again that Ray has given back",
                allowed="one-time",
            )
        machine, most = checked.cluster.machine(kind.node), _number(options.get("MaxPrice"))
        if machine and most is not None and most < machine.spot:
            yield warning(
                "spot-options",
                (*place, "MaxPrice"),
                f"${most:g} an hour is below what {machine.name} costs ({machine.spot:g}): there "
                "will hardly ever be one",
                hint="leave it out: without it you pay the market's price, at most that on demand",
            )


def check_rights(checked: Checked) -> Iterator[Finding]:
    """Who may write to the bucket, and start workers."""
    all_kinds = list(kinds(checked))
    named = [k for k in all_kinds if _mapping(k.config, "IamInstanceProfile")]
    for kind in all_kinds:
        profile = _mapping(kind.config, "IamInstanceProfile")
        if "LaunchTemplate" in kind.config or profile:
            if profile and not ("Name" in profile) ^ ("Arn" in profile):
                yield error(
                    "rights",
                    (*kind.at_config, "IamInstanceProfile"),
                    "takes one of Name and Arn",
                    allowed="{Name: vesselflow-worker}",
                )
            continue
        if not kind.is_head:
            yield error(
                "rights",
                kind.at_config,
                "no IamInstanceProfile: the workers have no right to write to the bucket",
                allowed="IamInstanceProfile: {Name: vesselflow-worker}",
                hint="clusters/README.md makes it",
            )
        elif any(not k.is_head for k in named):
            yield error(
                "rights",
                kind.at_config,
                "no IamInstanceProfile: Ray makes a role for the head that may not hand the "
                "workers theirs (iam:PassRole), and no worker starts",
                allowed="IamInstanceProfile: {Name: vesselflow-head}",
                hint="clusters/README.md makes it",
            )


def check_metadata(checked: Checked) -> Iterator[Finding]:
    """The metadata service: only with a token, and not switched off."""
    for kind in kinds(checked):
        options = _mapping(kind.config, "MetadataOptions")
        place = (*kind.at_config, "MetadataOptions") if options else kind.at_config
        if "LaunchTemplate" in kind.config and not options:
            continue
        if options.get("HttpEndpoint") == "disabled":
            yield error(
                "imds",
                (*place, "HttpEndpoint"),
                "disabled: no notice can be read there, and no right to the bucket",
                allowed="enabled",
            )
        if options.get("HttpTokens") != "required":
            yield warning(
                "imds",
                place,
                "IMDSv1 may answer: whoever makes a process on the machine fetch an address gets "
                "the machine's rights",
                allowed="MetadataOptions: {HttpTokens: required, HttpEndpoint: enabled}",
            )


def check_disks(checked: Checked) -> Iterator[Finding]:
    """Disks: large enough, encrypted, gone with their machine."""
    for kind in kinds(checked):
        place: Keys = (*kind.at_config, "BlockDeviceMappings")
        given = kind.config.get("BlockDeviceMappings")
        if "LaunchTemplate" in kind.config:
            continue
        if not isinstance(given, list) or not given:
            yield error(
                "disk",
                kind.at_config,
                f"no BlockDeviceMappings: an image of Ubuntu has {IMAGE_DISK_GB} GB, the packages "
                "take 6, and the disk is not encrypted",
                allowed="as in clusters/aws.yaml: {VolumeSize: 60, Encrypted: true, ...}",
            )
            continue
        for index, entry in enumerate(given):
            disk = _mapping(entry, "Ebs")
            if not isinstance(entry, dict) or ("VirtualName" in entry and not disk):
                continue
            at: Keys = (*place, index, "Ebs")
            size = disk.get("VolumeSize")
            if isinstance(size, int) and size < LEAST_DISK_GB and index == 0:
                yield error(
                    "disk",
                    (*at, "VolumeSize"),
                    f"{size} GB: system, packages and data do not fit",
                    allowed=f"{LEAST_DISK_GB} or more",
                )
            if disk.get("Encrypted") is not True:
                yield warning(
                    "disk-encrypted", at, "the disk is not encrypted", allowed="Encrypted: true"
                )
            if disk.get("DeleteOnTermination") is False:
                yield warning(
                    "disk",
                    (*at, "DeleteOnTermination"),
                    "false: the disk of every machine stays, and is paid for, when it is gone",
                    allowed="true",
                )


def check_tags(checked: Checked) -> Iterator[Finding]:
    """Tags by which the bill can be told apart."""
    sweep = checked.cluster.settings.sweep
    for kind in kinds(checked):
        place: Keys = (*kind.at_config, "TagSpecifications")
        given = kind.config.get("TagSpecifications")
        specs = [one for one in given if isinstance(one, dict)] if isinstance(given, list) else []
        tagged = {
            str(one.get("ResourceType"))
            for one in specs
            for tag in (one["Tags"] if isinstance(one.get("Tags"), list) else [])
            if isinstance(tag, dict) and sweep and tag.get("Value") == sweep
        }
        missing = [kind_of for kind_of in ("instance", "volume") if kind_of not in tagged]
        if missing:
            what = " and ".join({"instance": "machines", "volume": "disks"}[one] for one in missing)
            yield warning(
                "tags",
                place if specs else kind.at_config,
                f"{what} are not tagged with the sweep's name: the bill does not tell it apart",
                hint="name it in metadata.vesselflow.sweep, tag with it as clusters/aws.yaml does",
            )


def check_ports(checked: Checked) -> Iterator[Finding]:
    """Which ports are open to the world; Ray itself adds one."""
    document = checked.document
    group = document.mapping("provider", "security_group")
    place: Keys = ("provider", "security_group", "IpPermissions")
    rules = group.get("IpPermissions")
    source = aws_firewall_rule()
    for index, rule in enumerate(rules if isinstance(rules, list) else []):
        if source:
            for fault in faults(rule, source.schema, source.resolve, (*place, index)):
                yield error(
                    "node-value", fault.keys, fault.what, allowed=fault.allowed, hint=fault.hint
                )
        if isinstance(rule, dict) and _open(rule):
            first, last = rule.get("FromPort"), rule.get("ToPort")
            ports = f"port {first}" if first == last else f"ports {first} to {last}"
            if rule.get("IpProtocol") in ("-1", -1) or first in (-1, None):
                ports = "all ports"
            if (first, last) != (22, 22):
                yield error(
                    "ports",
                    (*place, index),
                    f"{ports} open to the world",
                    allowed="your own address: CidrIp: 203.0.113.7/32",
                    hint="the dashboard comes by tunnel: ray dashboard FILE",
                )
    for kind in kinds(checked):
        groups = kind.config.get("SecurityGroupIds")
        for index, one in enumerate(groups if isinstance(groups, list) else []):
            if PLACEHOLDER not in str(one) and not _GROUP.fullmatch(str(one)):
                yield error(
                    "node-value",
                    (*kind.at_config, "SecurityGroupIds", index),
                    f"{said(one)} is no security group",
                    allowed="its id: sg-0123456789abcdef0",
                )
        if groups or "NetworkInterfaces" in kind.config:
            continue
        yield warning(
            "ssh-open",
            kind.at_config,
            "no SecurityGroupIds: Ray makes a group that lets in SSH from everywhere (0.0.0.0/0), "
            "whatever provider.security_group says",
            allowed="SecurityGroupIds: [sg-...]",
            hint="make a group of your own with the commands of clusters/README.md",
        )


def check_key(checked: Checked) -> Iterator[Finding]:
    """The key pair: Ray makes one, unless the file names one, and then it needs its name too."""
    if checked.document.at("auth", "ssh_private_key") is None:
        return
    for kind in kinds(checked):
        if "KeyName" not in kind.config and "UserData" not in kind.config:
            yield error(
                "ssh-key",
                kind.at_config,
                "auth.ssh_private_key without KeyName: `ray up` ends in an AssertionError",
                allowed="KeyName: the key pair's name in EC2",
                hint="or leave both out: Ray makes a key pair",
            )


def check_stopped(checked: Checked) -> Iterator[Finding]:
    """Whether machines are ended or only stopped."""
    given = checked.document.at("provider", "cache_stopped_nodes")
    if given is not False:
        said_so = "true" if given else "missing, and Ray takes true"
        yield warning(
            "cache-stopped",
            ("provider", "cache_stopped_nodes"),
            f"{said_so}: machines on demand are stopped, not ended, and their disks are paid for",
            allowed="cache_stopped_nodes: false",
        )


def _open(rule: dict[str, Any]) -> bool:
    ranges = [
        one.get(key)
        for name, key in (("IpRanges", "CidrIp"), ("Ipv6Ranges", "CidrIpv6"))
        for one in (rule[name] if isinstance(rule.get(name), list) else [])
        if isinstance(one, dict)
    ]
    return any(one in _EVERYWHERE for one in ranges)


def _mapping(value: Any, key: str) -> dict[str, Any]:
    inner = value.get(key) if isinstance(value, dict) else None
    return inner if isinstance(inner, dict) else {}


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
