"""clusters/prepare_aws.py in an account that moto plays."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cluster_file_cases import ROOT, Checker, told

REGION = "us-east-1"


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from moto import mock_aws

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        yield


@pytest.fixture
def prepare(account: None) -> ModuleType:
    spec = importlib.util.spec_from_file_location("prepare_aws", ROOT / "clusters/prepare_aws.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["prepare_aws"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "aws.yaml"
    path.write_text((ROOT / "clusters/aws.yaml").read_text())
    return path


def client(name: str) -> Any:
    import boto3

    return boto3.client(name, region_name=REGION)


def make(prepare: ModuleType, file: Path, *more: str, source: str = "203.0.113.7/32") -> int:
    words = ["--bucket", "my-results", "--ssh-from", source, "--file", str(file), *more]
    return int(prepare.main(words))


def rules() -> list[dict[str, Any]]:
    (group,) = client("ec2").describe_security_groups(
        Filters=[{"Name": "group-name", "Values": ["vesselflow"]}]
    )["SecurityGroups"]
    return list(group["IpPermissions"])


def test_after_it_the_file_has_no_fault(
    prepare: ModuleType, file: Path, look: Checker, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make(prepare, file) == 0
    rows = look(file.read_text())
    assert rows == [], told(rows)
    assert "made the bucket my-results" in capsys.readouterr().out
    assert "s3://my-results/vesselflow" in file.read_text()


def test_a_second_time_nothing_is_made_and_the_address_is_the_new_one(
    prepare: ModuleType, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make(prepare, file) == 0
    before = file.read_text()
    capsys.readouterr()
    assert make(prepare, file, source="198.51.100.1/32") == 0
    assert capsys.readouterr().out == "SSH is open to 198.51.100.1/32\n"
    assert file.read_text() == before
    ssh = [rule for rule in rules() if rule.get("FromPort") == 22]
    assert [rule["IpRanges"] for rule in ssh] == [[{"CidrIp": "198.51.100.1/32"}]]


def test_machines_reach_each_other_and_the_world_only_by_ssh(
    prepare: ModuleType, file: Path
) -> None:
    make(prepare, file)
    among, ssh = sorted(rules(), key=lambda rule: str(rule["IpProtocol"]))
    assert among["UserIdGroupPairs"]
    assert among["IpRanges"] == []
    assert (ssh["FromPort"], ssh["ToPort"]) == (22, 22)


def test_workers_may_use_the_bucket_and_nothing_else(prepare: ModuleType, file: Path) -> None:
    make(prepare, file)
    iam = client("iam")

    def statements(role: str) -> list[dict[str, Any]]:
        policy = iam.get_role_policy(RoleName=role, PolicyName="vesselflow")["PolicyDocument"]
        data = json.loads(policy) if isinstance(policy, str) else policy
        return list(data["Statement"])

    worker, head = statements("vesselflow-worker"), statements("vesselflow-head")
    assert {action.split(":")[0] for one in worker for action in one["Action"]} == {"s3"}
    assert all(one["Resource"].startswith("arn:aws:s3:::my-results") for one in worker)
    passed = [one for one in head if one["Action"] == ["iam:PassRole"]]
    arn = iam.get_role(RoleName="vesselflow-worker")["Role"]["Arn"]
    assert [one["Resource"] for one in passed] == [arn]
    for name in ("vesselflow-worker", "vesselflow-head"):
        profile = iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
        assert [role["RoleName"] for role in profile["Roles"]] == [name]


def test_the_bucket_is_closed(prepare: ModuleType, file: Path) -> None:
    make(prepare, file, "--region", "eu-west-1")
    block = client("s3").get_public_access_block(Bucket="my-results")
    assert set(block["PublicAccessBlockConfiguration"].values()) == {True}
    where = client("s3").get_bucket_location(Bucket="my-results")["LocationConstraint"]
    assert where == "eu-west-1"


def test_it_takes_all_away_but_the_bucket(prepare: ModuleType, file: Path) -> None:
    make(prepare, file)
    assert prepare.main(["--remove"]) == 0
    assert prepare.main(["--remove"]) == 0, "twice does no harm"
    roles = [role["RoleName"] for role in client("iam").list_roles()["Roles"]]
    assert not {"vesselflow-worker", "vesselflow-head"} & set(roles)
    assert client("iam").list_instance_profiles()["InstanceProfiles"] == []
    assert [one["Name"] for one in client("s3").list_buckets()["Buckets"]] == ["my-results"]


@pytest.mark.parametrize("source", ["0.0.0.0/0", "::/0", "me"])
def test_ssh_from_everybody_is_refused(
    prepare: ModuleType, file: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make(prepare, file, source=source) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert source in err
    assert client("s3").list_buckets()["Buckets"] == [], "nothing is half made"


def test_a_bucket_that_cannot_be_is_one_line(
    prepare: ModuleType, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make(prepare, file, "--bucket", "no/bucket") == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert "CHANGE-ME" in file.read_text()
