from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from vesselflow.clusters.document import read_document
from vesselflow.clusters.files import read_cluster
from vesselflow.clusters.machines import Price, load_machines, prices_as_of, prices_region
from vesselflow.errors import UserError

FILE = """\
cluster_name: mine
max_workers: 6
metadata:
  vesselflow: {storage: "s3://b/p", on_demand_after_minutes: 15, prices: {c6i.4xlarge: {spot: 0.2}}}
provider: {type: aws, region: us-east-1, availability_zone: "us-east-1a, us-east-1b"}
head_node_type: head
base: &base
  MetadataOptions: {HttpTokens: required}
  ImageId: ami-1
available_node_types:
  head:
    resources: {CPU: 0}
    node_config: {<<: *base, InstanceType: m5.large}
  spot:
    min_workers: 1
    max_workers: 4
    resources: {}
    node_config:
      <<: *base
      InstanceType: c6i.4xlarge
      ImageId: ami-2
      InstanceMarketOptions: {MarketType: spot}
  steady:
    resources: {CPU: 8, on_demand: 1}
    node_config: {InstanceType: x9.huge}
"""


def write(tmp_path: Path, text: str = FILE) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def test_a_cluster_file_says_what_it_starts(tmp_path: Path) -> None:
    cluster = read_cluster(write(tmp_path))
    assert (cluster.name, cluster.cloud, cluster.region) == ("mine", "aws", "us-east-1")
    assert cluster.zones == ("us-east-1a", "us-east-1b")
    assert (cluster.head.name, cluster.head.cpus, cluster.head.spot) == ("head", 0, False)
    spot, steady = cluster.worker_types
    assert (spot.instance_type, spot.spot, spot.min_workers, spot.max_workers) == (
        "c6i.4xlarge", True, 1, 4,
    )  # fmt: skip
    assert (spot.cpus, spot.gpus, spot.memory_gb) == (16, 0, 32)
    # What is not said: as many as there may be at all; what the table does not know: None.
    assert (steady.spot, steady.max_workers, steady.cpus) == (False, 6, 8)
    assert (steady.gpus, steady.memory_gb) == (None, None)
    assert steady.resources == {"CPU": 8, "on_demand": 1}
    assert cluster.settings.storage == "s3://b/p"
    assert cluster.settings.on_demand_after_minutes == 15


def test_prices_of_the_file_go_before_those_of_the_table(tmp_path: Path) -> None:
    cluster = read_cluster(write(tmp_path))
    spot, steady = cluster.worker_types
    machine = cluster.machine(spot)
    assert machine is not None
    assert (machine.spot, machine.on_demand) == (0.2, 0.68)
    assert machine.price(spot=True) == 0.2
    assert machine.price(spot=False) == 0.68
    assert cluster.machine(steady) is None
    text = FILE.replace("prices: {", "prices: {x9.huge: {on_demand: 3}, ")
    cluster = read_cluster(write(tmp_path, text))
    told = cluster.machine(cluster.worker_types[1])
    assert told is not None
    assert (told.cpus, told.gpus, told.on_demand, told.spot) == (8, 0, 3, 3)


def test_a_setting_that_is_wrong_costs_no_other(tmp_path: Path) -> None:
    text = FILE.replace("on_demand_after_minutes: 15", "on_demand_after_minutes: soon, x: 1")
    settings = read_cluster(write(tmp_path, text)).settings
    assert settings.storage == "s3://b/p"
    assert settings.on_demand_after_minutes is None
    assert settings.prices == {"c6i.4xlarge": Price(spot=0.2)}


def test_lines_are_those_to_edit(tmp_path: Path) -> None:
    document = read_document(write(tmp_path))
    lines = FILE.splitlines()
    config = ("available_node_types", "spot", "node_config")
    for key, text in (
        ("InstanceType", "      InstanceType: c6i.4xlarge"),
        ("ImageId", "      ImageId: ami-2"),
        ("MetadataOptions", "  MetadataOptions: {HttpTokens: required}"),
    ):
        line = document.line((*config, key))
        assert line is not None
        assert lines[line - 1] == text
    # Of what is missing: the line of what it is missing from.
    assert document.line((*config, "Nothing", "Below")) == document.line(config)
    assert document.line(("nothing",)) is None
    assert document.at("available_node_types", "head", "node_config", "ImageId") == "ami-1"


def test_lists_have_lines_too(tmp_path: Path) -> None:
    document = read_document(write(tmp_path, "a:\n- b\n- c: 1\n  d: 2\n"))
    assert [document.line(keys) for keys in (("a", 0), ("a", 1), ("a", 1, "d"))] == [2, 3, 4]
    assert document.at("a", 1, "d") == 2
    assert document.at("a", 7) is None
    assert document.at("a", 0, "x") is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the file is empty"),
        ("- a\n", "does not hold a mapping"),
        ("a: [1\n", "not valid YAML at line 2"),
        ("a: 1\nb: 2\na: 3\n", "line 3: the key 'a' is given twice (first at line 1)"),
        ("a: &x [*x]\n", "an alias contains itself"),
        ("a: !!python/object:os.system x\n", "not valid YAML at line 1"),
        ("a: 1\n---\nb: 2\n", "not valid YAML"),
        ("cluster_name: x\n", "names no provider; allowed: aws, gcp, local"),
        ("provider: {type: aws}\n", "names no kinds of nodes"),
        ("provider: {type: aws}\navailable_node_types: [1]\n", "names no kinds of nodes"),
        ("a: 2026-13-45\n", "not valid YAML"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, text: str, told: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        read_cluster(path)
    assert told in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_file_names_the_closest(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(UserError, match=r"no such file; did you mean 'mine\.yaml'\?"):
        read_cluster(tmp_path / "mine.yml")
    with pytest.raises(UserError, match="a directory, not a cluster file"):
        read_cluster(tmp_path)
    (tmp_path / "mine.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(UserError, match=r"not UTF-8 text \(byte 3\)"):
        read_cluster(tmp_path / "mine.yaml")


def test_machines_that_somebody_owns(tmp_path: Path) -> None:
    text = "provider: {type: local, head_ip: a, worker_ips: [b, c]}\ncluster_name: x\n"
    cluster = read_cluster(write(tmp_path, text))
    assert cluster.cloud == "local"
    assert [(w.min_workers, w.max_workers, w.cpus) for w in cluster.worker_types] == [(2, 2, None)]
    assert cluster.max_workers == 2
    assert cluster.machine(cluster.head) is None


def test_spot_machines_of_google_cloud(tmp_path: Path) -> None:
    text = yaml.safe_dump(
        {
            "provider": {"type": "gcp", "region": "us-central1"},
            "head_node_type": "head",
            "available_node_types": {
                name: {"max_workers": 2, "node_config": {"machineType": kind, "scheduling": spot}}
                for name, kind, spot in (
                    ("head", "n2-standard-4", [{"preemptible": False}]),
                    (
                        "old",
                        "zones/us-central1-a/machineTypes/n2-standard-8",
                        [{"preemptible": True}],
                    ),
                    ("new", "n2-standard-16", {"provisioningModel": "SPOT"}),
                )
            },
        }
    )
    cluster = read_cluster(write(tmp_path, text))
    told = {node.name: (node.instance_type, node.spot, node.cpus) for node in cluster.worker_types}
    assert told["old"] == ("n2-standard-8", True, 8)
    assert told["new"] == ("n2-standard-16", True, 16)
    assert cluster.head.spot is False


def test_the_table_is_plausible() -> None:
    machines = load_machines()
    assert len(machines) > 60
    for (cloud, name), machine in machines.items():
        assert (machine.cloud, machine.name) == (cloud, name)
        assert 0 < machine.spot < machine.on_demand < 100, name
        assert machine.cpus >= 2, name
        assert machine.memory_gb >= machine.cpus, name
        assert machine.gpus >= 0, name
    assert {cloud for cloud, _ in machines} == {"aws", "gcp"}
    assert prices_region("aws") == "us-east-1"
    assert prices_region("local") == ""
    assert prices_as_of() == "2025-06"


def test_the_vcpus_of_the_table_are_those_of_the_clouds_names() -> None:
    """Names say the size: of AWS xlarge = 4, 4xlarge = 16; of Google Cloud the last number."""
    sizes = {"medium": 2, "large": 2, "xlarge": 4}
    for (cloud, name), machine in load_machines().items():
        last = name.rpartition("." if cloud == "aws" else "-")[2]
        if cloud == "aws":
            count = sizes[last] if last in sizes else 4 * int(last.removesuffix("xlarge"))
            assert machine.cpus == count, name
        elif last.isdigit():
            assert machine.cpus == int(last), name
