"""The shipped files: clean by our own check, taken by Ray, and asking for the right machines."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_file_cases import ROOT, SHIPPED, Checker, filled, told

from vesselflow.clusters.checks.starting import HEALTH, START_TIMEOUT
from vesselflow.clusters.document import read_document
from vesselflow.clusters.files import read_cluster
from vesselflow.clusters.machines import load_machines
from vesselflow.clusters.schema_sources import aws_node, gcp_node, ray_schema
from vesselflow.clusters.surroundings import Slots

CPU_SLOTS = Slots("loss_beta.yaml", least=2, workers=2, threads=4)
GPU_SLOTS = Slots("loss_beta.yaml", workers=2, threads=2, gpu=0.5, memory_gb=4)


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("slots", [None, CPU_SLOTS, GPU_SLOTS], ids=["alone", "cpu", "gpu"])
def test_a_shipped_file_that_is_filled_in_has_no_fault(
    look: Checker, name: str, slots: Slots | None
) -> None:
    rows = look(filled(name), slots)
    assert rows == [], told(rows)


@pytest.mark.parametrize("name", SHIPPED)
def test_what_is_to_be_filled_in_is_named_with_its_line(look: Checker, name: str) -> None:
    text = (ROOT / "clusters" / f"{name}.yaml").read_text(encoding="utf-8")
    lines = [number for number, line in enumerate(text.splitlines(), 1) if "CHANGE-ME" in line]
    rows = look(text)
    assert {row.finding.rule for row in rows} == {"placeholder"}, told(rows)
    assert {row.line for row in rows} == set(lines)


@pytest.mark.parametrize("name", SHIPPED)
def test_ray_takes_a_shipped_file(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    data = yaml.safe_load(filled(name))
    prepared = prepare_config(copy.deepcopy(data))
    validate_config(prepared)
    # What we say of vesselflow comes through, for the driver to read on the head.
    assert prepared["metadata"] == data["metadata"]


@pytest.mark.parametrize("name", SHIPPED)
def test_nothing_of_a_shipped_file_is_left_to_rays_own_choice(name: str) -> None:
    """Ray fills what is missing with commands and limits of its own."""
    folder = Path(ray_source()) / "autoscaler" / name
    defaults = yaml.safe_load((folder / "defaults.yaml").read_text(encoding="utf-8"))
    missing = set(defaults) - set(yaml.safe_load(filled(name))) - {"docker"}
    assert missing == set()


def ray_source() -> str:
    from importlib.util import find_spec

    spec = find_spec("ray")
    assert spec is not None
    assert spec.submodule_search_locations
    return spec.submodule_search_locations[0]


def test_the_clouds_schemas_are_there() -> None:
    for source in (ray_schema(), aws_node(), gcp_node()):
        assert source is not None
        assert len(source.schema["properties"]) > 10


@pytest.mark.parametrize("name", SHIPPED)
def test_the_commands_are_the_same_everywhere(name: str) -> None:
    """Only the cloud's name, its client and its own set-up differ from file to file."""
    one, other = (yaml.safe_load(filled(which)) for which in (name, "aws"))
    assert one["file_mounts"] == other["file_mounts"]
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        for mine, theirs in zip(one[key], other[key], strict=True):
            own = r"--cloud \w+| --num-cpus=0| --leave-with-ray| export RAY_enable_autoscaler_v2=0;"
            assert re.sub(own, "", mine) == re.sub(own, "", theirs)


def test_the_environment_is_what_the_notes_ask_for(tmp_path: Path) -> None:
    """Sourced by a real bash, beside a file that adds to it."""
    (tmp_path / ".vesselflow-env").write_text("export AWS_REGION=us-east-1\n")
    bootstrap = json.dumps(yaml.safe_load(filled("aws")))
    (tmp_path / "ray_bootstrap_config.yaml").write_text(bootstrap)
    done = subprocess.run(
        ["bash", "-euc", f". {ROOT}/clusters/env.sh; env"],
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    env = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    assert set(HEALTH) <= set(env)
    assert all(env[key].isdigit() for key in HEALTH)
    assert int(env[START_TIMEOUT]) >= 900, "set-up may take this long"
    assert env["RAY_AUTH_MODE"] == "token"
    assert env["VESSELFLOW_ON_DEMAND_AFTER_S"] == "15m"
    assert env["AWS_REGION"] == "us-east-1"
    assert env["PATH"].startswith(f"{tmp_path}/venv/bin:")
    assert done.stderr == ""


@pytest.mark.parametrize("name", SHIPPED)
def test_every_command_is_shell(name: str) -> None:
    data = yaml.safe_load(filled(name))
    for key, commands in data.items():
        if key.endswith("_commands"):
            for command in commands:
                subprocess.run(["bash", "-n", "-c", command], check=True, timeout=60)


@pytest.mark.parametrize("name", SHIPPED)
def test_no_command_kills_its_own_shell(name: str) -> None:
    """Ray hands a whole command to one bash, whose own words `pkill -f` would find."""
    data = yaml.safe_load(filled(name))
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        for command in data[key]:
            for pattern in re.findall(r"pkill .*-f '([^']+)'", command):
                assert not re.search(pattern, command)


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_the_prices_of_the_header_are_those_of_the_table(name: str) -> None:
    path = ROOT / "clusters" / f"{name}.yaml"
    header = path.read_text(encoding="utf-8").partition("\nmetadata:")[0]
    cluster, prices = read_cluster(path), re.findall(r"\$?(\d\.\d\d)\b", header)
    for node in cluster.types:
        machine = load_machines()[cluster.cloud, node.instance_type]
        shown = f"{machine.price(node.spot):.2f}"
        assert shown in prices or node.name.startswith(("gpu_spot_4x", "gpu_spot_12")), node.name


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_workers_share_one_kind_of_cpu(name: str) -> None:
    """Equal bits wherever a run goes: c7i, m7i and r7i are one CPU, and so are all c3."""
    same = {"aws": r"[cmr]7i\.|g6\.", "gcp": r"c3-|g2-"}[name]
    for node in read_cluster(ROOT / "clusters" / f"{name}.yaml").worker_types:
        assert re.match(same, node.instance_type), node.instance_type


# What Ray's own scheduler asks for, given the shipped file and a demand.


def launched(
    name: str, demand: list[dict[str, float]], constraint: list[dict[str, float]] | None = None
) -> Counter[str]:
    """Machines that Ray's autoscaler would start now, head aside."""
    from unittest.mock import MagicMock

    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil
    from ray.core.generated.autoscaler_pb2 import ClusterResourceConstraint

    config = AutoscalingConfig(yaml.safe_load(with_memory(name)), skip_content_hash=True)
    asked = ClusterResourceConstraint(
        resource_requests=ResourceRequestUtil.group_by_count(
            [ResourceRequestUtil.make(one) for one in constraint or []]
        )
    )
    reply = ResourceDemandScheduler(MagicMock()).schedule(
        SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=config.get_node_type_configs(),
            max_num_nodes=config.get_max_num_nodes(),
            resource_requests=ResourceRequestUtil.group_by_count(
                [ResourceRequestUtil.make(one) for one in demand]
            ),
            cluster_resource_constraints=[asked] if constraint else [],
        )
    )
    return Counter({one.instance_type: one.count for one in reply.to_launch})


def with_memory(name: str) -> str:
    """The file with the memory that Ray looks up on AWS (on Google Cloud it looks up nothing)."""
    data: dict[str, Any] = yaml.safe_load(filled(name))
    if name == "aws":
        for node in read_cluster(ROOT / "clusters" / "aws.yaml").worker_types:
            memory = int((node.memory_gb or 0) * 0.7 * 2**30)
            data["available_node_types"][node.name]["resources"]["memory"] = memory
    return yaml.safe_dump(data)


#: One worker of each market, as the driver asks for it.
SPOT, ON_DEMAND = {"CPU": 4.0, "spot": 0.001}, {"CPU": 4.0, "on_demand": 0.001}


@pytest.mark.parametrize(
    ("name", "first", "slots"), [("aws", "spot_c7i", 4), ("gcp", "spot_highcpu", 5)]
)
def test_slots_start_spot_machines_of_the_first_kind(name: str, first: str, slots: int) -> None:
    for worker in (SPOT, {"CPU": 4.0}):  # A sweep that knows of no market asks for neither.
        assert launched(name, [worker]) == {first: 1}
        assert launched(name, [worker] * (3 * slots)) == {first: 3}
        assert launched(name, [], [worker] * (3 * slots)) == {first: 3}


@pytest.mark.parametrize(("name", "gpu"), [("aws", "gpu_spot_2x"), ("gcp", "gpu_spot_8")])
def test_slots_with_a_gpu_start_machines_with_one(name: str, gpu: str) -> None:
    for worker in ({"CPU": 2.0, "GPU": 0.5, "spot": 0.001}, {"CPU": 2.0, "GPU": 0.5}):
        assert launched(name, [worker] * 4) == {gpu: 2}


@pytest.mark.parametrize(("name", "kind"), [("aws", "spot_m7i"), ("gcp", "spot_standard")])
def test_one_can_ask_for_just_one_kind(name: str, kind: str) -> None:
    """Ray asks for the first kind for ever when it is not to be had: this is the way out."""
    assert launched(name, [], [{**SPOT, kind: 0.001}] * 8) == {kind: 2}


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_machines_on_demand_start_when_they_are_asked_for(name: str) -> None:
    assert launched(name, [], [ON_DEMAND] * 8) == {"steady": 2}
    first = {"aws": "spot_c7i", "gcp": "spot_highcpu"}[name]
    assert launched(name, [], [ON_DEMAND] * 4 + [SPOT] * 4) == {"steady": 1, first: 1}


@pytest.mark.parametrize(("name", "most"), [("aws", 8), ("gcp", 6)])
def test_no_more_workers_than_are_paid_for(name: str, most: int) -> None:
    started = launched(name, [SPOT] * 60)
    # One more here, because the head is not there that the limit counts.
    assert 0 < sum(started.values()) <= most + 1
    assert not set(started) & {"steady", "gpu_steady"}


def test_the_table_of_machines_is_in_the_package() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert '"clusters/machines.yaml"' in text


def test_lines_are_found_through_anchors() -> None:
    document = read_document(ROOT / "clusters" / "aws.yaml")
    lines = (ROOT / "clusters" / "aws.yaml").read_text(encoding="utf-8").splitlines()
    line = document.line(
        ("available_node_types", "gpu_spot_2x", "node_config", "IamInstanceProfile")
    )
    assert line is not None
    assert "vesselflow-worker" in lines[line - 1]


def test_the_page_fills_in_the_file_of_google_cloud(look: Checker, tmp_path: Path) -> None:
    """The line of clusters/README.md, in a real shell."""
    page = (ROOT / "clusters" / "README.md").read_text(encoding="utf-8")
    (line,) = (line for line in page.splitlines() if line.startswith("sed -i"))
    (tmp_path / "clusters").mkdir()
    copy_of = tmp_path / "clusters" / "gcp.yaml"
    copy_of.write_text((ROOT / "clusters" / "gcp.yaml").read_text(encoding="utf-8"))
    subprocess.run(
        ["bash", "-euc", f"PROJECT=my-project BUCKET=my-results\n{line}"],
        cwd=tmp_path,
        check=True,
        timeout=60,
    )
    rows = look(copy_of.read_text(encoding="utf-8"))
    assert rows == [], told(rows)
    assert "gs://my-results/vesselflow" in copy_of.read_text(encoding="utf-8")
