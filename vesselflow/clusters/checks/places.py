"""Regions and zones: are they there, do they belong together."""

from __future__ import annotations

import re
from collections.abc import Iterator

from vesselflow.clusters.checks.parts import commands
from vesselflow.clusters.findings import Finding, error, warning
from vesselflow.clusters.schema_sources import aws_regions, gcp_regions
from vesselflow.clusters.surroundings import Checked
from vesselflow.errors import closest

_REGION = re.compile(r"AWS_(?:DEFAULT_)?REGION=[\"']?([a-z0-9-]+)")
_EXAMPLE = {"aws": "us-east-1", "gcp": "us-central1"}
#: What follows the region in the name of a zone: "a" or "-a"; AWS also has local ones: "-atl-1a".
_ZONE = {"aws": re.compile(r"(-[a-z]+-\d)?[a-z]"), "gcp": re.compile(r"-[a-z]")}


def check_region(checked: Checked) -> Iterator[Finding]:
    """The region: without it `ray up` ends in a KeyError."""
    cluster = checked.cluster
    regions = aws_regions() if cluster.cloud == "aws" else gcp_regions()
    if not cluster.region:
        yield error(
            "region",
            ("provider",),
            "no region is named",
            allowed=f"provider.region: {_EXAMPLE[cluster.cloud]}, for instance",
        )
    elif regions and cluster.region not in regions:
        yield error(
            "region",
            ("provider", "region"),
            f"'{cluster.region}' is no region that this version of the cloud's client knows",
            hint=closest(cluster.region, regions),
        )


def check_bucket_region(checked: Checked) -> Iterator[Finding]:
    """On AWS the region of the bucket is told to every node; usually it is that of the machines."""
    cluster = checked.cluster
    if not _known(checked) or not cluster.settings.storage.startswith("s3://"):
        return
    told = [
        (command.keys, found[1])
        for command in commands(checked, "setup_commands", "head_start_ray_commands")
        for found in _REGION.finditer(command.full)
    ]
    if not told and cluster.region != "us-east-1":
        yield warning(
            "bucket-region",
            ("setup_commands",),
            "no command tells the nodes the region of the bucket: they take us-east-1",
            allowed=f"echo 'export AWS_REGION={cluster.region}' >~/.vesselflow-env",
        )
    for keys, region in told:
        if region != cluster.region:
            yield warning(
                "bucket-region",
                keys,
                f"the bucket is said to be in {region}, and the machines are in {cluster.region}: "
                "every byte between regions is paid",
                allowed=f"AWS_REGION={cluster.region}",
            )


def check_zones(checked: Checked) -> Iterator[Finding]:
    """The zones: each in the region; several on AWS, and one on Google Cloud."""
    cluster = checked.cluster
    cloud, region, zones = cluster.cloud, cluster.region, cluster.zones
    place = ("provider", "availability_zone")
    if not zones:
        example = _example(checked)
        if cloud == "gcp":
            yield error(
                "zone",
                ("provider",),
                "no zone is named: Ray ends in a KeyError",
                allowed=f"provider.availability_zone: {example}",
            )
        else:
            yield warning(
                "zone",
                ("provider",),
                "no zone is named: Ray takes all that there are, from the last one on",
                allowed=f"provider.availability_zone: {example}",
            )
        return
    outside = [zone for zone in zones if not _inside(zone, region, cloud)]
    if outside and _known(checked):
        names = " and ".join(f"'{zone}'" for zone in outside)
        yield error(
            "zone",
            place,
            f"{names} {'are' if len(outside) > 1 else 'is'} not in the region '{region}'",
            allowed=_example(checked),
        )
    if cloud == "gcp" and len(zones) > 1:
        yield error(
            "zone",
            place,
            f"{len(zones)} zones: Ray's provider takes the whole text for the name of one",
            allowed=f"one zone: {zones[0]}",
            hint="several zones are several cluster files",
        )
    if cloud == "aws" and len(zones) == 1:
        yield warning(
            "zone",
            place,
            f"{zones[0]} is the only zone: where it has no spot machine, there is none",
            allowed=_example(checked),
        )


def _inside(zone: str, region: str, cloud: str) -> bool:
    return zone.startswith(region) and bool(_ZONE[cloud].fullmatch(zone.removeprefix(region)))


def _known(checked: Checked) -> bool:
    """Whether the region is one: without, nothing more can be said of places."""
    regions = aws_regions() if checked.cluster.cloud == "aws" else gcp_regions()
    return bool(checked.cluster.region) and (not regions or checked.cluster.region in regions)


def _example(checked: Checked) -> str:
    region = checked.cluster.region or _EXAMPLE[checked.cluster.cloud]
    return f"{region}-a" if checked.cluster.cloud == "gcp" else f"{region}a,{region}b,{region}c"
