"""Where the schemas come from: files inside Ray, botocore and Google's client, none of it imported.

Reading them needs no network and no account. botocore describes EC2 in words of its own; they are
put into those of JSON Schema when a part is asked for.
"""

from __future__ import annotations

import functools
import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

Schema = Mapping[str, Any]

#: What Ray's AWS provider takes beside what RunInstances does, and which members it sets itself.
_SUBNETS = {"SubnetIds": {"type": "array", "items": {"type": "string"}}}
_SET_BY_RAY = ("MinCount", "MaxCount")
#: What Ray's Google provider takes beside an instance.
_TEMPLATE = {"sourceInstanceTemplate": {"type": "string"}, "networkConfig": {"type": "object"}}


@dataclass(frozen=True)
class Source:
    """A schema and how its `$ref` are found."""

    schema: Schema
    resolve: Callable[[str], Schema]


def package(name: str) -> Path | None:
    """The folder of an installed package; None when it is not installed. It is not imported."""
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return None
    places = list(spec.submodule_search_locations or []) if spec else []
    return Path(places[0]) if places else None


@functools.cache
def ray_schema() -> Source | None:
    """What Ray says of a whole cluster file; None without Ray."""
    folder = package("ray")
    path = folder / "autoscaler" / "ray-schema.json" if folder else None
    if path is None or not path.is_file():
        return None
    schema = json.loads(path.read_text(encoding="utf-8"))

    def resolve(ref: str) -> Schema:
        here: Any = schema
        for part in ref.removeprefix("#/").split("/"):
            here = here.get(part, {})
        return here

    return Source(schema, resolve)


@functools.cache
def aws_node() -> Source | None:
    """What `node_config` may hold on AWS: RunInstances; None without botocore."""
    shapes = _ec2_shapes()
    if shapes is None:
        return None
    run = _shape(shapes, "RunInstancesRequest")
    members = {k: v for k, v in run["properties"].items() if k not in _SET_BY_RAY}
    return Source(
        {**run, "properties": {**members, **_SUBNETS}, "required": ()},
        lambda name: _shape(shapes, name),
    )


@functools.cache
def aws_firewall_rule() -> Source | None:
    """What one entry of `provider.security_group.IpPermissions` may hold; None without botocore."""
    shapes = _ec2_shapes()
    if shapes is None:
        return None
    return Source(_shape(shapes, "IpPermission"), lambda name: _shape(shapes, name))


@functools.cache
def aws_regions() -> tuple[str, ...]:
    """All regions of AWS that botocore knows; none without it."""
    folder = package("botocore")
    path = folder / "data" / "endpoints.json" if folder else None
    if path is None or not path.is_file():
        return ()
    partitions = json.loads(path.read_text(encoding="utf-8")).get("partitions", [])
    return tuple(region for one in partitions for region in one.get("regions", {}))


@functools.cache
def aws_instance_types() -> frozenset[str]:
    """All kinds of machines of AWS that botocore knows; none without it."""
    shapes = _ec2_shapes()
    return frozenset(shapes["InstanceType"]["enum"]) if shapes else frozenset()


@functools.cache
def gcp_node() -> Source | None:
    """What `node_config` may hold on Google Cloud: an instance; None without Google's client."""
    document = _compute()
    if document is None:
        return None
    schemas = document["schemas"]

    def resolve(name: str) -> Schema:
        return _strict(schemas.get(name, {}))

    instance = resolve("Instance")
    properties = {**instance["properties"], **_TEMPLATE}
    # Ray's own example writes the one entry of `scheduling` as a list, and the service takes it.
    scheduling = properties["scheduling"]
    properties["scheduling"] = {"type": ["array", "object"], "items": scheduling, **scheduling}
    return Source({**instance, "properties": properties}, resolve)


@functools.cache
def gcp_regions() -> tuple[str, ...]:
    """All regions of Google Cloud that its client knows; none without it."""
    document = _compute()
    return tuple(one["location"] for one in document.get("endpoints", [])) if document else ()


@functools.cache
def _ec2_shapes() -> Mapping[str, Any] | None:
    folder = package("botocore")
    if folder is None:
        return None
    versions = sorted((folder / "data" / "ec2").glob("*/service-2.json*"))
    if not versions:
        return None
    path = versions[-1]
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return json.loads(data)["shapes"]


def _shape(shapes: Mapping[str, Any], name: str) -> Schema:
    """A shape of botocore in the words of JSON Schema."""
    shape = shapes.get(name, {"type": "any"})
    kind = shape["type"]
    if kind == "structure":
        members = {member: {"$ref": part["shape"]} for member, part in shape["members"].items()}
        return {
            "type": "object",
            "properties": members,
            "required": tuple(shape.get("required", ())),
            "additionalProperties": False,
        }
    if kind == "list":
        return {"type": "array", "items": {"$ref": shape["member"]["shape"]}}
    if kind == "map":
        return {"type": "object", "additionalProperties": {"$ref": shape["value"]["shape"]}}
    if kind in ("integer", "long"):
        limits = {"minimum": shape.get("min"), "maximum": shape.get("max")}
        return {"type": "integer", **{k: v for k, v in limits.items() if v is not None}}
    if kind in ("float", "double"):
        return {"type": "number"}
    if kind == "boolean":
        return {"type": "boolean"}
    if kind == "string":
        # Lengths and patterns are for the service to check; botocore checks neither.
        return {"type": "string", **({"enum": shape["enum"]} if "enum" in shape else {})}
    return {"type": "any"}


@functools.cache
def _compute() -> dict[str, Any] | None:
    folder = package("googleapiclient")
    path = folder / "discovery_cache" / "documents" / "compute.v1.json" if folder else None
    if path is None or not path.is_file():
        return None
    return json.loads(path.read_text(encoding="utf-8"))


def _strict(schema: Any) -> Any:
    """A schema of Google's in which keys that are not named are refused, all the way down.

    Numbers of 64 bits travel as text there; both are taken. Formats are no patterns.
    """
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {
        key: _strict(value)
        for key, value in schema.items()
        if key in ("type", "properties", "items", "enum", "$ref", "additionalProperties")
    }
    if "properties" in schema:
        kept["properties"] = {name: _strict(one) for name, one in schema["properties"].items()}
        kept.setdefault("additionalProperties", False)
    if schema.get("format") in ("int64", "uint64"):
        kept["type"] = ["string", "integer"]
    return kept
