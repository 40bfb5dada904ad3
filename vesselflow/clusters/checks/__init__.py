"""Checks of a cluster file, each a function: file and surroundings -> findings."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from vesselflow.clusters.checks import (
    aws,
    files_copied,
    gcp,
    local,
    nodes,
    places,
    setup,
    shape,
    slurm,
    starting,
)
from vesselflow.clusters.document import Document
from vesselflow.clusters.files import SLURM, cluster_of
from vesselflow.clusters.findings import Finding, Placed, error, placed
from vesselflow.clusters.surroundings import Checked, Slots, Surroundings
from vesselflow.errors import UserError

Check = Callable[[Checked], Iterator[Finding]]

#: What needs nothing but the text.
OF_TEXT: tuple[Callable[[Document], Iterator[Finding]], ...] = (
    shape.check_ray,
    shape.check_provider,
    shape.check_settings,
    shape.check_placeholders,
)
#: What every file is asked.
OF_ALL: tuple[Check, ...] = (
    shape.check_storage,
    files_copied.check_mounts,
    files_copied.check_key,
    setup.check_defaults,
    setup.check_version,
    setup.check_ray,
    setup.check_python,
    starting.check_ray_start,
    starting.check_watcher,
    starting.check_environment,
    starting.check_token,
    starting.check_dashboard,
    starting.check_autoscaler,
)
#: What machines that are rented are asked.
OF_RENTED: tuple[Check, ...] = (
    nodes.check_numbers,
    nodes.check_head,
    nodes.check_markets,
    nodes.check_resources_of_markets,
    nodes.check_machines,
    nodes.check_slots,
    places.check_region,
    places.check_zones,
)
#: What one provider's files are asked.
OF_CLOUD: dict[str, tuple[Check, ...]] = {
    "aws": (
        *OF_RENTED,
        aws.check_schema,
        aws.check_image,
        aws.check_spot,
        aws.check_rights,
        aws.check_metadata,
        aws.check_disks,
        aws.check_tags,
        aws.check_ports,
        aws.check_key,
        aws.check_stopped,
        places.check_bucket_region,
    ),
    "gcp": (
        *OF_RENTED,
        gcp.check_schema,
        gcp.check_project,
        gcp.check_names,
        gcp.check_spot,
        gcp.check_rights,
        gcp.check_disks,
        gcp.check_network,
        gcp.check_tags,
        gcp.check_stopped,
        gcp.check_user,
    ),
    SLURM: (nodes.check_slots, slurm.check_notice, slurm.check_options, slurm.check_script),
    "local": (local.check_addresses, local.check_user, local.check_storage),
}


def check(document: Document, around: Surroundings, slots: Slots | None = None) -> list[Placed]:
    """Everything that is to be said of a cluster file: errors first, then by line.

    Args:
        document: The file.
        around: Where `ray up` would be called.
        slots: What the slots of a space ask for; None without a space.
    """
    in_queue = document.at("provider", "type") == SLURM
    findings = [found for one in OF_TEXT if not in_queue for found in one(document)]
    try:
        cluster = cluster_of(document)
    except UserError as wrong:
        findings.append(error("shape", (), wrong.what, allowed=wrong.allowed, hint=wrong.hint))
        return placed(findings, document)
    checked = Checked(document, cluster, around, slots)
    for one in (*(() if in_queue else OF_ALL), *OF_CLOUD.get(cluster.cloud, ())):
        findings += one(checked)
    return placed(findings, document)
