"""The walker over the schemas of others, against jsonschema and botocore themselves."""

from __future__ import annotations

import copy
from typing import Any

import jsonschema
import pytest
import yaml
from cluster_file_cases import SHIPPED, filled
from hypothesis import given
from hypothesis import strategies as st

from vesselflow.clusters import schema_sources
from vesselflow.clusters.schema_sources import aws_node, gcp_node, ray_schema
from vesselflow.clusters.schemas import faults, listed, said

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.floats(-2, 2),
    st.sampled_from(["", "a", "spot"]),
)
KEYS = st.sampled_from(["a", "b", "c", "spot"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=8,
)
KINDS = st.sampled_from(["object", "array", "string", "boolean", "integer", "number", "null"])
SCHEMAS = st.recursive(
    st.fixed_dictionaries(
        {},
        optional={
            "type": st.one_of(KINDS, st.lists(KINDS, min_size=1, max_size=2, unique=True)),
            "minimum": st.integers(-2, 3),
            "enum": st.lists(SCALARS.filter(lambda one: not isinstance(one, float)), min_size=1),
        },
    ),
    lambda inner: st.fixed_dictionaries(
        {"type": st.sampled_from(["object", "array"])},
        optional={
            "properties": st.dictionaries(KEYS, inner, max_size=3),
            "required": st.lists(KEYS, max_size=2, unique=True),
            "additionalProperties": st.one_of(st.booleans(), inner),
            "items": inner,
            "patternProperties": st.dictionaries(st.sampled_from(["^a", "b$"]), inner, max_size=1),
        },
    ),
    max_leaves=6,
)


def nowhere(ref: str) -> dict[str, Any]:
    raise AssertionError(ref)


@given(value=VALUES, schema=SCHEMAS)
def test_the_walker_agrees_with_jsonschema(value: Any, schema: dict[str, Any]) -> None:
    """On what both understand. Whole floats and `true` as an enum's 1 are theirs alone."""
    mine = list(faults(value, schema, nowhere))
    theirs = list(jsonschema.Draft7Validator(schema).iter_errors(value))
    if mine and not theirs:
        assert any(fault.kind in ("type", "value") for fault in mine)
        assert _has_whole_float(value) or _several_patterns(schema), (mine, schema, value)
    if theirs and not mine:
        assert _several_patterns(schema) or _mixes_true_and_one(value, schema), (theirs, schema)


def _has_whole_float(value: Any) -> bool:
    if isinstance(value, float):
        return value == int(value)
    if isinstance(value, dict):
        return any(_has_whole_float(one) for one in value.values())
    return isinstance(value, list) and any(_has_whole_float(one) for one in value)


def _several_patterns(schema: Any) -> bool:
    """A key that fits a name and a pattern: jsonschema asks both, the walker the first."""
    return "patternProperties" in repr(schema)


def _mixes_true_and_one(value: Any, schema: Any) -> bool:
    return "enum" in repr(schema) and any(
        word in repr(value) for word in ("True", "False", "0", "1")
    )


@pytest.mark.parametrize("name", SHIPPED)
def test_rays_schema_says_the_same_as_ray(name: str) -> None:
    """A key too many, and one of the wrong kind, in each part of a file."""
    source = ray_schema()
    assert source is not None
    data = yaml.safe_load(filled(name))
    assert list(faults(data, source.schema, source.resolve)) == []
    for place in ((), ("auth",), *((("available_node_types", "head"),) if name != "local" else ())):
        for key, value in (("x_unknown", 1), ("ssh_user", 3), ("min_workers", "two")):
            broken = copy.deepcopy(data)
            here = broken
            for step in place:
                here = here[step]
            here[key] = value
            mine = list(faults(broken, source.schema, source.resolve))
            theirs = list(jsonschema.Draft7Validator(source.schema).iter_errors(broken))
            assert bool(mine) == bool(theirs), (place, key)
            for fault in mine:
                assert fault.keys[: len(place)] == place


@pytest.mark.parametrize(
    "change",
    [
        {"InstanceTyp": "m5.large"},
        {"BlockDeviceMappings": {"DeviceName": "/dev/sda1"}},
        {"BlockDeviceMappings": [{"Ebs": {"VolumeSize": "60"}}]},
        {"MetadataOptions": {"HttpPutResponseHopLimit": "one"}},
        {"TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": 1}]}]},
        {"IamInstanceProfile": "vesselflow-worker"},
        {"SecurityGroupIds": "sg-1"},
        {"EbsOptimized": "yes"},
        {"CapacityReservationSpecification": {"CapacityReservationTarget": {"Id": "x"}}},
    ],
)
def test_what_botocore_refuses_is_found(change: dict[str, Any]) -> None:
    """The same verdict as boto3's own validation, which `ray up` meets at the first start."""
    import botocore.session
    from botocore.validate import ParamValidator

    source = aws_node()
    assert source is not None
    config = {"InstanceType": "m5.large", "ImageId": "ami-12345678", **change}
    shape = (
        botocore.session.Session()
        .get_service_model("ec2")
        .operation_model("RunInstances")
        .input_shape
    )
    report = ParamValidator().validate({**config, "MinCount": 1, "MaxCount": 1}, shape)
    assert report.has_errors()
    found = list(faults(config, source.schema, source.resolve))
    assert len(found) == 1
    assert found[0].keys[0] == next(iter(change))


def test_enums_are_known_that_botocore_lets_pass() -> None:
    source = aws_node()
    assert source is not None
    for config, allowed in (
        ({"InstanceMarketOptions": {"MarketType": "sport"}}, "did you mean 'spot'?"),
        ({"InstanceType": "c7i.4xlarg"}, "did you mean 'c7i.4xlarge'?"),
        ({"MetadataOptions": {"HttpTokens": "on"}}, ""),
    ):
        (fault,) = faults(config, source.schema, source.resolve)
        assert fault.hint == allowed
        assert fault.kind == "value"


def test_numbers_of_64_bits_may_be_text_at_google() -> None:
    source = gcp_node()
    assert source is not None
    for size in (60, "60"):
        config = {"disks": [{"initializeParams": {"diskSizeGb": size}}]}
        assert list(faults(config, source.schema, source.resolve)) == []
    (fault,) = faults({"disks": [{"boot": "true"}]}, source.schema, source.resolve)
    assert fault.keys == ("disks", 0, "boot")


def test_one_entry_of_scheduling_may_be_a_list_at_google() -> None:
    """As in Ray's own example; what is in it is looked at all the same."""
    source = gcp_node()
    assert source is not None
    assert (
        list(faults({"scheduling": [{"preemptible": True}]}, source.schema, source.resolve)) == []
    )
    (fault,) = faults({"scheduling": [{"preemptibl": True}]}, source.schema, source.resolve)
    assert fault.keys == ("scheduling", 0, "preemptibl")
    (fault,) = faults({"scheduling": {"preemptibl": True}}, source.schema, source.resolve)
    assert fault.hint == "did you mean 'preemptible'?"


def test_a_client_that_is_not_installed_is_no_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema_sources, "package", lambda name: None)
    for source in (
        aws_node,
        gcp_node,
        ray_schema,
        schema_sources._ec2_shapes,
        schema_sources._compute,
    ):
        source.cache_clear()
    try:
        assert aws_node() is None
        assert gcp_node() is None
        assert ray_schema() is None
    finally:
        for one in (
            aws_node,
            gcp_node,
            ray_schema,
            schema_sources._ec2_shapes,
            schema_sources._compute,
        ):
            one.cache_clear()


def test_values_are_named_as_a_person_writes_them() -> None:
    assert said("spot") == "'spot'"
    assert said("x" * 80) == "'" + "x" * 57 + "...'"
    assert said(True) == "true"
    assert said(None) == "nothing"
    assert said({}) == "a mapping"
    assert said(3) == "3"
    assert listed(["a", "b"]) == "a, b"
    assert listed([str(n) for n in range(14)]).endswith(", 11 and 2 more")
