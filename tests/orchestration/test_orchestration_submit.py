"""A sweep that is handed in as a job: a real Ray with its dashboard, a real bucket, a real job."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fault_cases as cases
import pytest

from vesselflow.records.paths import any_path
from vesselflow.stores.synth import make_synth

pytestmark = pytest.mark.ray

ROOT = Path(__file__).resolve().parents[2]

#: Its agent, which takes jobs, listens where another Ray's does not: it would take none, for ever.
CLUSTER = """
import socket, sys
from ray.cluster_utils import Cluster

with socket.create_server(("", 0)) as free:
    port = free.getsockname()[1]
cluster = Cluster(
    initialize_head=True,
    head_node_args={
        "num_cpus": 2,
        "include_dashboard": True,
        "dashboard_port": 0,
        "dashboard_agent_listen_port": port,
    },
)
print("http://" + cluster.head_node.address_info["webui_url"], flush=True)
sys.stdin.read()
cluster.shutdown()
"""

SPACE = """
extends: base.yaml
name: tiny
stores: {a: a.h5, b: "synth:fundus?domain=b&sources=2&seed=1&size_px=64"}
"""

BASE = """
data: {train: a, ood: [b], working_size_px: 64}
split: {folds: 3, val_fraction: 0.34}
folds: [0]
seeds: [0]
model: {name: wnet}
train: {epochs: 1, steps_per_epoch: 2, micro_batch_size: 2}
"""


@pytest.fixture
def dashboard(tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The dashboard of a cluster whose nodes hold the code as the launcher's files put it there."""
    home = tmp_path / "home"
    (home / ".ray").mkdir(parents=True)
    (home / ".ray" / "auth_token").write_text(secrets.token_hex(32))
    # The laptop has it too, and nothing that tells Ray to use it; without it nobody is answered.
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / ".ray" / "auth_token"))
    (home / "vesselflow").symlink_to(ROOT)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "HOME": str(home),
            "PATH": path,
            "PYTHONPATH": str(ROOT),
            # On a busy machine its agent, which takes jobs, is given up while it starts (10 s).
            "RAY_agent_register_timeout_ms": "120000",
            "RAY_AUTH_MODE": "token",
        },
    )
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.communicate(timeout=60)


def _submit(
    folder: Path, *words: str, more: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vesselflow", "submit", *words, "--cluster", "cluster.yaml", *more],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=400,
    )


def test_a_sweep_goes_to_a_cluster_with_its_stores_and_comes_back_as_a_summary(
    tmp_path: Path, dashboard: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "laptop"
    folder.mkdir()
    (folder / "tiny.yaml").write_text(SPACE)
    (folder / "base.yaml").write_text(BASE)
    (folder / "cluster.yaml").write_text("cluster_name: none\n")
    make_synth(folder / "a.h5", kind="fundus", sources=6, size_px=64, seed=0, domain="a")
    results = bucket.replace("?", "/results?")
    words = ("tiny.yaml", "--dashboard", dashboard, "--results", results)
    done = _submit(folder, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "putting the store 'a' into the bucket" in done.stdout
    assert "runs: 1 done now, 0 before" in done.stdout
    assert "Chosen on validation" in (folder / "tiny-summary.md").read_text()
    assert (any_path(results) / "tiny" / "tables" / "points.parquet").is_file()
    # Handed in again, it has nothing to do; and nothing is sent twice.
    again = _submit(folder, *words, "--detach", more=("--", "--no-figures"))
    assert again.returncode == 0, again.stdout + again.stderr
    assert "putting the store" not in again.stdout
    job = next(line for line in again.stdout.splitlines() if line.startswith("handed in as"))
    name = job.split()[3].rstrip(";")
    followed = _submit(folder, "--dashboard", dashboard, "--follow", name)
    assert followed.returncode == 0, followed.stdout + followed.stderr
    assert "runs: 0 done now, 1 before" in followed.stdout
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another")
    stranger = _submit(folder, "--dashboard", dashboard, "--follow", name)
    assert stranger.returncode == 2
    assert (
        "the cluster does not take this machine's token (Authentication failed" in stranger.stderr
    )
    assert "Traceback" not in stranger.stderr
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    lost = _submit(folder, "--dashboard", dashboard, "--stop", "nobody")
    assert lost.returncode == 2
    assert "the cluster knows no such job" in lost.stderr


def test_what_cannot_be_handed_in(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(cases.SPACE)
    (tmp_path / "cluster.yaml").write_text("cluster_name: none\n")
    for words, told in (
        ((), "one of them is needed; allowed: SPACE, --follow JOB or --stop JOB"),
        (("tiny.yaml", "--stop", "x"), "one of them is needed"),
        (("no.yaml",), "no such file"),
        (("tiny.yaml", "--results", "hdfs://x/y"), "hdfs:// is not supported"),
        (
            ("tiny.yaml", "--results", "r", "--dashboard", "http://127.0.0.1:9"),
            "the cluster's dashboard does not answer",
        ),
    ):
        done = _submit(tmp_path, *words)
        assert (done.returncode, told in done.stderr) == (2, True), done.stderr
        assert "Traceback" not in done.stderr
