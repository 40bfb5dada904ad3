"""Ray's own provider, given clusters/aws.yaml, starts each kind of machine at moto's EC2."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_file_cases import ROOT

REGION = "us-east-1"


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Kind of node -> the instance that it became, after `prepare_aws.py` and Ray's bootstrap."""
    from moto import mock_aws

    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.delenv("AWS_ENDPOINT_URL", raising=False)
        patch.setenv("HOME", str(home))
        yield _start_each_kind(home)


def _start_each_kind(home: Path) -> dict[str, Any]:
    import boto3
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.util import prepare_config, validate_config

    spec = importlib.util.spec_from_file_location("prepare", ROOT / "clusters/prepare_aws.py")
    assert spec is not None
    assert spec.loader is not None
    prepare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prepare)
    file = home / "aws.yaml"
    file.write_text((ROOT / "clusters/aws.yaml").read_text())
    words = ["--bucket", "my-results", "--ssh-from", "203.0.113.7/32", "--file", str(file)]
    assert prepare.main(words) == 0

    config = prepare_config(yaml.safe_load(file.read_text()))
    config = AWSNodeProvider.fillout_available_node_types_resources(config)
    validate_config(config)
    config = bootstrap_aws(config)
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    ec2 = boto3.client("ec2", region_name=REGION)
    found = {}
    for kind, given in config["available_node_types"].items():
        role = config["head_node"] if kind == "head" else {}
        tags = {"ray-node-type": "worker", "ray-user-node-type": kind}
        (name,) = provider.create_node({**given["node_config"], **role}, tags, 1)
        answer = ec2.describe_instances(InstanceIds=[name])
        (found[kind],) = answer["Reservations"][0]["Instances"]
        volume = found[kind]["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
        (found[kind]["volume"],) = ec2.describe_volumes(VolumeIds=[volume])["Volumes"]
        found[kind]["resources"] = given["resources"]
    return found


def test_workers_are_spot_machines_and_the_head_is_not(started: dict[str, Any]) -> None:
    spot = {kind for kind, one in started.items() if one.get("InstanceLifecycle") == "spot"}
    assert spot == {"spot_c7i", "spot_m7i", "spot_r7i", "gpu_spot_2x", "gpu_spot_4x"}


def test_only_metadata_with_a_token(started: dict[str, Any]) -> None:
    assert {one["MetadataOptions"]["HttpTokens"] for one in started.values()} == {"required"}


def test_each_has_its_role(started: dict[str, Any]) -> None:
    for kind, one in started.items():
        expected = "vesselflow-head" if kind == "head" else "vesselflow-worker"
        assert one["IamInstanceProfile"]["Arn"].endswith(f"/{expected}"), kind


def test_all_are_in_the_one_group(started: dict[str, Any]) -> None:
    groups = {group["GroupName"] for one in started.values() for group in one["SecurityGroups"]}
    assert groups == {"vesselflow"}, "Ray made none of its own, which would let in everybody"


def test_machines_and_disks_are_tagged_encrypted_and_large_enough(started: dict[str, Any]) -> None:
    for kind, one in started.items():
        for tagged in (one, one["volume"]):
            tags = {tag["Key"]: tag["Value"] for tag in tagged["Tags"]}
            assert (tags["sweep"], tags["project"]) == ("loss_beta", "vesselflow"), kind
        assert one["volume"]["Encrypted"] is True, kind
        assert one["volume"]["Size"] == (120 if kind.startswith("gpu") else 60), kind


def test_ray_finds_the_memory_of_workers_and_keeps_our_resources(started: dict[str, Any]) -> None:
    for kind, one in started.items():
        resources = one["resources"]
        assert resources["CPU"] == (0 if kind == "head" else resources["CPU"]), kind
        if kind != "head":
            assert resources["memory"] > 15 * 2**30, kind
            assert ("spot" in resources) != ("on_demand" in resources), kind
