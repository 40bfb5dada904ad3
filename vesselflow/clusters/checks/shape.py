"""Does the file have the shape that Ray, the cloud and we understand: keys, types, placeholders."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from vesselflow.clusters.document import Document, Keys
from vesselflow.clusters.files import CLOUDS, SETTINGS, Settings
from vesselflow.clusters.findings import Finding, error, warning
from vesselflow.clusters.schema_sources import ray_schema
from vesselflow.clusters.schemas import faults, listed, said
from vesselflow.clusters.surroundings import Checked
from vesselflow.errors import closest

#: What stands where the user has to write something.
PLACEHOLDER = "CHANGE-ME"

_ALL = {
    "type",
    "use_internal_ips",
    "use_external_head_ip",
    "cache_stopped_nodes",
    "disable_node_updaters",
    "disable_launch_config_check",
    "foreground_node_launch",
    "worker_liveness_check",
}
#: What Ray reads of `provider`; its schema lets everything pass.
PROVIDER_KEYS = {
    "aws": _ALL
    | {
        "region",
        "availability_zone",
        "key_pair",
        "security_group",
        "cloudwatch",
        "aws_credentials",
    },
    "gcp": _ALL | {"region", "availability_zone", "project_id", "gcp_credentials"},
    "local": _ALL | {"head_ip", "worker_ips", "external_head_ip", "coordinator_address"},
}
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]")
_STORES = {"aws": "s3://", "gcp": "gs://"}


def check_ray(document: Document) -> Iterator[Finding]:
    """What Ray's own schema refuses, all of it at once."""
    source = ray_schema()
    if source is None:
        yield error(
            "ray",
            (),
            "Ray is not installed here",
            hint="`ray up` comes with vesselflow: pip install it",
        )
        return
    local = document.at("provider", "type") == "local"
    for fault in faults(document.data, source.schema, source.resolve):
        if local and fault.keys == ("min_workers",):
            continue  # Ray takes it there, and only there, before it looks at the schema.
        hint = fault.hint
        if fault.keys == () and "cluster_name" in fault.what:
            hint = "Ray would call it 'default', and take another cluster of that name for this one"
        yield error("ray-schema", fault.keys, fault.what, allowed=fault.allowed, hint=hint)


def check_provider(document: Document) -> Iterator[Finding]:
    """Keys of `provider` that nothing reads."""
    provider = document.mapping("provider")
    cloud = provider.get("type")
    if not isinstance(cloud, str):
        return
    if cloud not in PROVIDER_KEYS:
        yield error(
            "provider",
            ("provider", "type"),
            f"{said(cloud)} is no provider that vesselflow knows",
            allowed=", ".join(CLOUDS),
            hint=closest(cloud, CLOUDS),
        )
        return
    known = PROVIDER_KEYS[cloud]
    for key in provider:
        if key not in known and not str(key).startswith("_"):
            yield error(
                "provider-key",
                ("provider", str(key)),
                f"unknown key '{key}', which Ray passes over",
                allowed=listed(sorted(known)),
                hint=closest(key, known),
            )


def check_settings(document: Document) -> Iterator[Finding]:
    """Our own settings."""
    known = list(Settings.model_fields)
    for key, value in document.mapping(*SETTINGS).items():
        place: Keys = (*SETTINGS, str(key))
        if key not in known:
            yield error(
                "settings",
                place,
                f"unknown key '{key}'",
                allowed=listed(known),
                hint=closest(key, known),
            )
            continue
        try:
            Settings.model_validate({key: value})
        except ValidationError as wrong:
            for one in wrong.errors():
                rest = tuple(part for part in one["loc"][1:] if isinstance(part, str | int))
                yield error(
                    "settings",
                    (*place, *rest),
                    f"{said(one['input'])}: {one['msg'][0].lower()}{one['msg'][1:]}",
                    hint=Settings.model_fields[key].description or "",
                )


def check_placeholders(document: Document) -> Iterator[Finding]:
    """What the user still has to write."""
    for keys, value in _texts(document.data, ()):
        if PLACEHOLDER in value:
            yield error(
                "placeholder",
                keys,
                f"{said(value)} is still to be written",
                hint="edit this line; clusters/README.md says where the value comes from",
            )


def check_storage(checked: Checked) -> Iterator[Finding]:
    """Where the results go."""
    storage, cloud = checked.cluster.settings.storage, checked.cluster.cloud
    place: Keys = (*SETTINGS, "storage")
    if not storage:
        lost = "" if cloud == "local" else ", and the head's disk goes with `ray down`"
        yield error(
            "storage",
            place if checked.document.at(*SETTINGS) else (),
            f"no place for the results is named{lost}",
            allowed=f"metadata.vesselflow.storage: {_STORES.get(cloud, 's3://')}BUCKET/FOLDER",
        )
        return
    if PLACEHOLDER in storage:
        return
    scheme, found, rest = storage.partition("://")
    if cloud in _STORES and not found:
        yield error(
            "storage",
            place,
            f"the folder {said(storage)} is on the head's disk, which goes with `ray down`",
            allowed=f"{_STORES[cloud]}BUCKET/FOLDER",
        )
    elif found and scheme not in ("s3", "gs"):
        yield error(
            "storage",
            place,
            f"{said(storage)} is no store that vesselflow knows",
            allowed="s3://BUCKET/FOLDER, gs://BUCKET/FOLDER, or a folder",
        )
    elif found and not _BUCKET.fullmatch(rest.partition("/")[0]):
        yield error(
            "storage",
            place,
            f"'{rest.partition('/')[0]}' is no name of a bucket",
            allowed="3 to 63 of a-z, 0-9, - and .",
        )
    elif cloud in _STORES and not storage.startswith(_STORES[cloud]):
        yield warning(
            "storage",
            place,
            f"{said(storage)} is with another cloud: its machines have no right to it, "
            "and every byte that leaves is paid",
            allowed=f"{_STORES[cloud]}BUCKET/FOLDER",
        )


def _texts(value: Any, keys: Keys) -> Iterator[tuple[Keys, str]]:
    if isinstance(value, str):
        yield keys, value
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from _texts(entry, (*keys, str(key)))
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _texts(entry, (*keys, index))
