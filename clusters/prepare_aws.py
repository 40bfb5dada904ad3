"""What clusters/aws.yaml needs once in an AWS account, and writes its names into the file.

    .venv/bin/python clusters/prepare_aws.py --bucket my-results
    .venv/bin/python clusters/prepare_aws.py --remove

Makes, unless it is there already:
- a bucket, closed to the public,
- a role and an instance profile for workers, `vesselflow-worker`: read and write that bucket,
- one for the head, `vesselflow-head`: that, start and end machines, hand workers their role,
- a security group, `vesselflow`: SSH from your address, everything among its own machines,
- the role by which AWS starts spot machines for an account.

Needs boto3 (pip install -e '.[aws]') and credentials that may do all this: `aws configure`, or
AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. Call it again when your address has changed. `--remove`
takes all of it away but the bucket, which has your results.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import json
import re
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

NAME, HEAD, WORKER = "vesselflow", "vesselflow-head", "vesselflow-worker"
#: Answers with the address that it was asked from.
ADDRESS_SERVICE = "https://checkip.amazonaws.com"
TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"Service": "ec2.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }
    ],
}
#: What Ray's autoscaler calls on the head.
MACHINES = [
    "ec2:RunInstances",
    "ec2:TerminateInstances",
    "ec2:CreateTags",
    "ec2:DeleteTags",
    "ec2:Describe*",
    "ssm:GetParameter",
    "ssm:GetParameters",
]


def main(words: list[str] | None = None) -> int:
    """Make or remove; 0, or 2 with one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bucket", metavar="NAME", help="for the results; made if it is not there")
    parser.add_argument("--region", default="us-east-1", help="default: us-east-1")
    parser.add_argument("--ssh-from", metavar="CIDR", help="default: the address you come from")
    parser.add_argument("--file", type=Path, default=Path(__file__).with_name("aws.yaml"))
    parser.add_argument("--remove", action="store_true", help="all but the bucket")
    args = parser.parse_args(words)
    if bool(args.bucket) == args.remove:
        parser.error("give --bucket NAME, or --remove")
    try:
        if args.remove:
            remove(args.region)
            return 0
        source = ssh_source(args.ssh_from)
        arn = make_bucket(args.bucket, args.region)
        make_roles(arn, args.region)
        group = make_group(args.region, source)
    except (ClientError, BotoCoreError, OSError, ValueError) as error:
        print(f"prepare_aws.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    fill_in(args.file, {"s3://CHANGE-ME/": f"s3://{args.bucket}/", "sg-CHANGE-ME": group})
    return 0


def ssh_source(given: str | None) -> str:
    """Who may log in, as a range of addresses."""
    if given is None:
        with urllib.request.urlopen(ADDRESS_SERVICE, timeout=20) as answer:
            given = answer.read().decode().strip()
    network = ipaddress.ip_network(given)
    if network.prefixlen == 0:
        raise ValueError(f"--ssh-from {given} is everybody; your own address: 203.0.113.7/32")
    return str(network)


def make_bucket(name: str, region: str) -> str:
    """The bucket's ARN."""
    s3 = boto3.client("s3", region_name=region)
    # The first region is the default, and may not be named.
    where = {} if region == "us-east-1" else {"LocationConstraint": region}
    options = {"CreateBucketConfiguration": where} if where else {}
    try:
        s3.head_bucket(Bucket=name)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("404", "NoSuchBucket"):
            raise
        s3.create_bucket(Bucket=name, **options)
        say(f"made the bucket {name} in {region}")
    closed = dict.fromkeys(
        ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True
    )
    s3.put_public_access_block(Bucket=name, PublicAccessBlockConfiguration=closed)
    return f"arn:aws:s3:::{name}"


def make_roles(bucket: str, region: str) -> None:
    """Roles and instance profiles; what they may do is written anew."""
    # Roles have no region, but a service elsewhere (AWS_ENDPOINT_URL) wants one.
    iam = boto3.client("iam", region_name=region)
    uses = [
        allow(["s3:ListBucket", "s3:GetBucketLocation"], bucket),
        allow(
            ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"],
            f"{bucket}/*",
        ),
    ]
    rights: dict[str, list[dict[str, Any]]] = {WORKER: uses}
    for name in (WORKER, HEAD):
        with there_already("EntityAlreadyExists"):
            iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(TRUST))
            say(f"made the role {name}")
        role = iam.get_role(RoleName=name)["Role"]["Arn"]
        if name == WORKER:
            rights[HEAD] = [*uses, allow(MACHINES, "*"), allow(["iam:PassRole"], role)]
        policy = {"Version": "2012-10-17", "Statement": rights[name]}
        iam.put_role_policy(RoleName=name, PolicyName=NAME, PolicyDocument=json.dumps(policy))
        with there_already("EntityAlreadyExists"):
            iam.create_instance_profile(InstanceProfileName=name)
        with there_already("LimitExceeded"):
            iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    with there_already("InvalidInput|EntityAlreadyExists"):
        iam.create_service_linked_role(AWSServiceName="spot.amazonaws.com")
        say("made the role by which AWS starts spot machines")


def make_group(region: str, source: str) -> str:
    """The security group's id; its rule for SSH is written anew."""
    ec2 = boto3.client("ec2", region_name=region)
    group = find_group(ec2)
    if group is None:
        vpcs = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
        if not vpcs:
            raise ValueError(f"{region} has no default network: aws ec2 create-default-vpc")
        group = ec2.create_security_group(
            GroupName=NAME, Description="vesselflow clusters", VpcId=vpcs[0]["VpcId"]
        )["GroupId"]
        among = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[among])
        say(f"made the security group {group}")
    rules = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"]
    old = [rule for rule in rules if rule.get("FromPort") == 22]
    if old:
        ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=old)
    ranges = {"Ipv6Ranges": [{"CidrIpv6": source}]} if ":" in source else {}
    ranges = ranges or {"IpRanges": [{"CidrIp": source}]}
    ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, **ranges}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[ssh])
    say(f"SSH is open to {source}")
    return str(group)


def remove(region: str) -> None:
    """Take away what this made, but the bucket."""
    iam = boto3.client("iam", region_name=region)
    ec2 = boto3.client("ec2", region_name=region)
    group = find_group(ec2)
    if group:
        ec2.delete_security_group(GroupId=group)
        say(f"removed the security group {group}")
    for name in (WORKER, HEAD):
        with there_already("NoSuchEntity"):
            iam.remove_role_from_instance_profile(InstanceProfileName=name, RoleName=name)
        with there_already("NoSuchEntity"):
            iam.delete_instance_profile(InstanceProfileName=name)
        with there_already("NoSuchEntity"):
            iam.delete_role_policy(RoleName=name, PolicyName=NAME)
        with there_already("NoSuchEntity"):
            iam.delete_role(RoleName=name)
            say(f"removed the role {name}")


def find_group(ec2: Any) -> str | None:
    """The id of our security group; None when there is none."""
    named = [{"Name": "group-name", "Values": [NAME]}]
    found = ec2.describe_security_groups(Filters=named)["SecurityGroups"]
    return str(found[0]["GroupId"]) if found else None


def fill_in(path: Path, values: dict[str, str]) -> None:
    """Write names into the cluster file where it waits for them; else say them."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    for placeholder, value in values.items():
        if placeholder in text:
            text = text.replace(placeholder, value)
            say(f"{path}: {value}")
        elif value not in text:
            say(f"{path} has another value already; this one is {value}")
    if path.is_file():
        path.write_text(text, encoding="utf-8")


def allow(actions: list[str], resource: str) -> dict[str, Any]:
    """One statement of a policy."""
    return {"Effect": "Allow", "Action": actions, "Resource": resource}


@contextlib.contextmanager
def there_already(code: str) -> Iterator[None]:
    """Pass over the error that says that nothing is left to do."""
    try:
        yield
    except ClientError as error:
        if not re.match(code, error.response["Error"]["Code"]):
            raise


def say(text: str) -> None:
    """Tell what was done."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
