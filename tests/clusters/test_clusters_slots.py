"""Do the slots of a space fit on the workers of a file, and is it this very version."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cluster_file_cases import ROOT, Checker, filled, told
from hypothesis import given
from hypothesis import strategies as st

from vesselflow.clusters.checks.nodes import check_slots
from vesselflow.clusters.files import read_cluster
from vesselflow.clusters.findings import Severity
from vesselflow.clusters.surroundings import Checked, Slots, here
from vesselflow.sweeps.capacity import Node, workers_that_fit

AWS = read_cluster(ROOT / "clusters" / "aws.yaml")


@pytest.mark.parametrize(
    ("slots", "rule", "says"),
    [
        (Slots("s.yaml", threads=16), "", ""),
        (Slots("s.yaml", threads=17), "error", "no slot of s.yaml fits: it takes 1 worker of 17"),
        (Slots("s.yaml", workers=9, threads=16), "error", "9 workers of 16 CPUs each"),
        (Slots("s.yaml", workers=3, threads=8), "warning", "holds 2 of the 3 workers of a slot"),
        (Slots("s.yaml", memory_gb=200), "error", "1 worker of 1 CPU and 200 GB"),
        (Slots("s.yaml", memory_gb=60), "warning", "spot_c7i: cannot hold one worker of s.yaml"),
        (Slots("s.yaml", gpu=1, threads=8), "", ""),
        (Slots("s.yaml", gpu=1, threads=10), "warning", "gpu_spot_2x: cannot hold one worker"),
        (Slots("s.yaml", gpu=1, threads=17), "error", "17 CPUs and 1 GPU"),
        (Slots("s.yaml", gpu=0.5, workers=4), "warning", "holds 2 of the 4 workers"),
        (Slots("s.yaml", least=1000), "warning", "s.yaml asks for 1000"),
    ],
)  # fmt: skip
def test_slots_that_do_not_fit(look: Checker, slots: Slots, rule: str, says: str) -> None:
    rows = look(filled("aws"), slots)
    assert {row.finding.rule for row in rows} <= {"slot"}, told(rows)
    if not rule:
        assert rows == []
        return
    assert any(row.finding.severity.value == rule and says in row.text() for row in rows), told(
        rows
    )
    assert all("space" in row.text() or "machine" in row.text() for row in rows), "what to do"


def test_a_machine_that_nobody_knows_is_not_judged(look: Checker) -> None:
    text = filled(
        "gcp",
        ("machineType: c3-highmem-22", "machineType: z9-highmem-22"),
        ("{CPU: 22, spot: 1000, spot_highmem", "{spot: 1000, spot_highmem"),
    )
    rows = [row for row in look(text, Slots("s.yaml")) if row.finding.rule == "slot"]
    assert "whether it can hold a slot is not known" in rows[0].text()
    assert rows[0].key == "available_node_types.spot_highmem.resources"


@given(
    workers=st.integers(1, 12),
    threads=st.integers(1, 24),
    gpu=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    least=st.integers(1, 40),
)
def test_the_check_agrees_with_the_plan(workers: int, threads: int, gpu: float, least: int) -> None:
    """No slot on all machines that a file may start <=> error; the plan's own count decides."""
    slots = Slots("s.yaml", least=least, workers=workers, threads=threads, gpu=gpu)
    cluster = AWS
    found = list(check_slots(Checked(cluster.document, cluster, here(), slots)))
    fits = [
        workers_that_fit([Node(node.cpus or 0.0, node.gpus or 0.0)], threads, gpu)
        for node in cluster.worker_types
        if node.gpus or not gpu
        for _ in range(node.max_workers)
    ]
    room = sum(sorted(fits)[-cluster.max_workers :]) // workers
    assert (room == 0) == any(one.severity is Severity.ERROR for one in found)


@pytest.fixture
def other_code(tmp_path: Path) -> Path:
    """A second working copy with the same version."""
    copy = tmp_path / "other"
    shutil.copytree(
        ROOT / "vesselflow", copy / "vesselflow", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copytree(ROOT / "clusters", copy / "clusters")
    (copy / "search_spaces").mkdir()
    for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    return copy


def test_the_same_code_in_another_folder_is_this_version(look: Checker, other_code: Path) -> None:
    assert look(filled("aws"), folder=other_code) == []


def test_other_code_of_the_same_version_is_stale(look: Checker, other_code: Path) -> None:
    path = other_code / "vesselflow" / "errors.py"
    path.write_text(path.read_text(encoding="utf-8") + "\n# A line more.\n")
    (row,) = look(filled("aws"), folder=other_code)
    assert row.finding.rule == "version"
    assert "is other code than the vesselflow that runs here" in row.text()
    assert row.key == "setup_commands[5]"


def test_another_version_is_stale(look: Checker, other_code: Path) -> None:
    path = other_code / "vesselflow" / "__init__.py"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('__version__ = "', '__version__ = "0.0.'))
    (row,) = look(filled("aws"), folder=other_code)
    assert row.finding.rule == "version"
    assert "is vesselflow 0.0." in row.text()


def test_constraints_with_another_ray_are_named(look: Checker, other_code: Path) -> None:
    path = other_code / "constraints.txt"
    path.write_text(path.read_text(encoding="utf-8").replace("ray==2.60.0", "ray==2.61.0"))
    (row,) = look(filled("aws"), folder=other_code)
    assert row.finding.rule == "ray-version"
    assert row.key == "file_mounts.~/vesselflow/constraints.txt"
    assert "constraints.txt has Ray 2.61.0, and here is Ray 2.60.0" in row.text()
    assert "pip install 'ray[default]==2.61.0'" in row.text()


def test_another_ray_here_is_named(look: Checker) -> None:
    (row,) = look(filled("aws"), ray="2.55.0")
    assert "here is Ray 2.55.0" in row.text()


def test_the_whole_working_copy_may_be_copied(look: Checker, other_code: Path) -> None:
    text = filled("aws", ("  ~/vesselflow/vesselflow: vesselflow\n", "  ~/vesselflow: .\n"))
    assert look(text, folder=other_code) == []


def test_from_another_folder_it_says_where_to_call_it(look: Checker, tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    rows = look(filled("aws"), folder=tmp_path / "home")
    mounts = [row for row in rows if row.finding.rule == "mount"]
    assert {"file_mounts.~/vesselflow/LICENSE", "file_mounts.~/vesselflow/README.md"} <= {
        row.key for row in mounts
    }
    assert "paths count from where you call it" in mounts[0].text()
    (path.parent / "LICENSE").write_text("")
    rows = look(filled("aws"), folder=tmp_path / "home")
    assert any(f"call this, and `ray up`, from {tmp_path}" in row.text() for row in rows)


def test_without_a_token_it_says_how_to_make_one(look: Checker) -> None:
    (look.around.home / ".ray" / "auth_token").unlink()
    (row,) = look(filled("gcp"))
    assert row.finding.rule == "mount"
    assert "make it: ray get-auth-token --generate" in row.text()


def test_the_older_autoscaler_may_come_from_the_environment(look: Checker) -> None:
    text = filled("local", ("export RAY_enable_autoscaler_v2=0;", ""))
    assert look(text, environ={"RAY_UP_enable_autoscaler_v2": "0"}) == []


@pytest.mark.parametrize(
    ("text", "has"),
    [
        ("#SBATCH --nodes=4\n#SBATCH --cpus-per-task=8\n#SBATCH --mem-per-cpu=2G\n", (4, 8, 0, 16)),
        ("#SBATCH -N 2-3 -c 16 --gres=gpu:a100:2 --mem=64000M\n", (3, 16, 2, 62.5)),
        (
            "#SBATCH --gpus-per-node=4   # a comment --nodes=9\n##SBATCH --nodes=7\n",
            (1, 1, 4, None),
        ),
    ],
)
def test_a_script_for_slurm_says_what_it_starts(
    tmp_path: Path, text: str, has: tuple[int, int, int, float | None]
) -> None:
    path = tmp_path / "job.sh"
    path.write_text(f"#!/bin/bash\n{text}")
    cluster = read_cluster(path)
    (node,) = cluster.worker_types
    assert (node.max_workers, node.cpus, node.gpus, node.memory_gb) == has
    assert cluster.cloud == "slurm"
    assert node.spot, "it goes when its time is up"


@pytest.mark.parametrize("slots", [None, Slots("s.yaml", workers=2, threads=4)])
def test_the_shipped_script_for_slurm_has_no_fault(look: Checker, slots: Slots | None) -> None:
    rows = look(filled("slurm"), slots)
    assert rows == [], told(rows)


def test_slots_that_do_not_fit_into_the_queue(look: Checker) -> None:
    rows = look(filled("slurm"), Slots("s.yaml", threads=9))
    assert "no slot of s.yaml fits" in rows[0].text()
