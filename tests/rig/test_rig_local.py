"""clusters/local.yaml as shipped, on two machines reached by SSH."""

from __future__ import annotations

import json
import os

import pytest
from rig import DISK, Rig, replaced

from vesselflow.chaos.comparison import compare_tables
from vesselflow.evaluation.answer import read_answer

pytestmark = pytest.mark.rig

NODES = {"node-1": "10.77.0.11", "node-2": "10.77.0.12"}


def test_a_sweep_on_two_machines_gives_the_undisturbed_tables(
    rig: Rig, space: str, undisturbed: dict[str, bytes | None]
) -> None:
    rig.laptop()
    for name, address in NODES.items():
        disk = {str(rig.disk): DISK}
        rig.boot(name, address, user="vessel", home="/home/vessel", keys=[rig.key], shared=disk)
    file = "clusters/local.yaml"
    head, worker = NODES.values()
    replaced(
        rig.folder / "repository" / file,
        {
            "storage: CHANGE-ME": f"storage: {DISK}/results",
            "head_ip: CHANGE-ME": f"head_ip: {head}",
            "worker_ips: [CHANGE-ME]": f"worker_ips: [{worker}]",
            "ssh_user: CHANGE-ME": "ssh_user: vessel",
        },
    )
    rig.run(f"vesselflow cluster check {file} --space {space}", 60)
    rig.run(f"ray up -y {file}", 300)
    cpus = os.cpu_count() or 1
    rig.wait_for(
        "both machines to be Ray's",
        lambda: f"/{2 * cpus}.0 CPU" in rig.run(f"ray exec {file} 'ray status'", 60),
        180,
        every_s=5,
    )
    # More slots than one machine has room for.
    words = f"--set resources.slots={cpus + 1}"
    said = rig.run(f"vesselflow submit {space} --cluster {file} {words}", 900)
    assert "runs: 6 done now, 0 before" in said
    assert (rig.folder / "repository" / "rig-summary.md").is_file()
    costs = (rig.disk / "results").glob("runs/*/attempts/*/cost.json")
    assert {json.loads(cost.read_text())["host"] for cost in costs} == set(NODES)
    findings = compare_tables(undisturbed, read_answer(rig.disk / "results" / "rig"))
    assert all(each.holds for each in findings), findings
    rig.run(f"ray down -y {file}", 180)
    # The watchers end a minute after Ray.
    rig.wait_for("nothing to be left on the machines", lambda: not left(rig), 180, every_s=5)


def left(rig: Rig) -> str:
    """Processes of a cluster on the machines."""
    look = "ps -eo args | grep -E '[r]aylet|[g]cs_server|[v]esselflow' || true"
    return "".join(rig.run(look, 30, on=name) for name in NODES).strip()
