"""clusters/slurm.sh in a real bash, between a queue, a Ray and a driver that are played."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_file_cases import ROOT

SCRIPT = ROOT / "clusters" / "slurm.sh"
WORDS = ["search_spaces/loss_beta.yaml", "--set", "question=two words"]
LIMIT_S = 60

#: What is played. Each writes the words that it was called with into `calls`.
PLAYED = {
    "srun": """
        echo "srun $*" >>calls
        while [ "${1#-}" != "$1" ]; do shift; done
        exec "$@"
    """,
    "scontrol": """
        echo "scontrol $*" >>calls
        case "$1 $2" in
        "show hostnames") cat hostnames ;;
        "show job") printf '   JobId=7\\n   Command=/home/me/slurm.sh a b\\n   WorkDir=x\\n' ;;
        requeue*) if [ -e no-requeue ]; then exit 1; else touch queued; fi ;;
        esac
    """,
    "sbatch": """
        { printf 'sbatch'; printf ' <%s>' "$@"; } >>calls
        echo " chain=$VESSELFLOW_CHAIN script=$VESSELFLOW_SCRIPT" >>calls
        touch queued
    """,
    "ray": """
        echo "ray $*" >>calls
        case "$1" in
        start) echo $$ >>living; exec sleep 120 ;;
        status) if [ -e no-answer ]; then exit 1; fi
            # First it only answers, then a node has joined.
            if [ ! -e asked ]; then touch asked; echo "No cluster status."; exit; fi
            printf 'Node status\\n----\\nActive:\\n 1 node_d0d6e3c5\\n' ;;
        esac
    """,
    "python": """
        echo "python $*" >>calls
        case "$*" in *get_node_ip_address*) echo 10.0.0.7; exit ;; esac
        echo $$ >>living
        exec sleep 120
    """,
    # The driver: ends with the next code of `codes`; "wait" waits for a SIGTERM, as a sweep does.
    "vesselflow": """
        { printf 'vesselflow'; printf ' <%s>' "$@"; echo; } >>calls
        code=$(head -n 1 codes); sed -i 1d codes
        # Not before the steps beside it have begun.
        for _ in {1..400}; do
            [ "$(cat living | wc -l)" -ge $(($(wc -l <hostnames) > 1 ? 3 : 2)) ] && break
            sleep 0.05
        done
        [ "$code" = wait ] || exit "$code"
        trap 'sleep 0.5; exit 143' TERM
        touch waiting
        while true; do sleep 0.1; done
    """,
    "sleep": 'exec /bin/sleep "$1"',
}


class Queue:
    """Starts the script as Slurm would, as often as it puts itself into the queue."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("clusters", ".venv/bin", "played", "home"):
            (folder / name).mkdir(parents=True)
        (folder / "clusters" / "env.sh").write_text((ROOT / "clusters/env.sh").read_text())
        activate = f'export PATH="{folder}/played:$PATH"\n'
        (folder / ".venv/bin/activate").write_text(activate)
        for name, text in PLAYED.items():
            path = folder / "played" / name
            path.write_text(f"#!/bin/bash\n{text}\n")
            path.chmod(0o755)
        (folder / "hostnames").write_text("node1\nnode2\nnode3\n")
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *codes: object, **env: str) -> subprocess.Popen[str]:
        """One start of the job; the driver will end with these codes, one after another."""
        (self.folder / "codes").write_text("".join(f"{code}\n" for code in codes))
        process = subprocess.Popen(
            ["bash", str(SCRIPT), *WORDS],
            cwd=self.folder,
            env={
                "HOME": str(self.folder / "home"),
                "PATH": f"{self.folder}/played:{os.environ['PATH']}",
                "SLURM_JOB_ID": "70007",
                "SLURM_JOB_NODELIST": "node[1-3]",
                "SLURM_SUBMIT_DIR": str(self.folder),
                "SLURM_CPUS_PER_TASK": "8",
                **env,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def run(self, *codes: object, **env: str) -> tuple[int, str]:
        """One start to its end: exit code and output."""
        process = self.start(*codes, **env)
        output, _ = process.communicate(timeout=LIMIT_S)
        return process.returncode, output

    def until(self, name: str) -> None:
        """Wait until somebody has written a file."""
        end = time.monotonic() + LIMIT_S
        while not (self.folder / name).exists():
            assert time.monotonic() < end, f"no {name}: {self.calls()}"
            time.sleep(0.02)
        (self.folder / name).unlink()

    def queued(self) -> bool:
        """Whether it was put into the queue since the last question."""
        path = self.folder / "queued"
        was = path.exists()
        path.unlink(missing_ok=True)
        return was

    def calls(self) -> str:
        path = self.folder / "calls"
        return path.read_text() if path.exists() else ""

    def end(self) -> None:
        for process in self.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=LIMIT_S)


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    made = Queue(tmp_path)
    yield made
    made.end()


def test_a_sweep_that_is_done_is_not_queued_again(queue: Queue) -> None:
    code, output = queue.run(0)
    assert code == 0, output
    assert "the sweep is done" in output
    assert not queue.queued()


def test_ray_starts_on_every_node_with_a_watcher_and_a_token(queue: Queue) -> None:
    queue.run(0)
    calls = queue.calls()
    port = 20000 + 70007 % 20000
    assert "ray get-auth-token --generate" in calls
    head, workers, watchers = (
        next(line for line in calls.splitlines() if line.startswith("srun") and part in line)
        for part in ("ray start --head", "ray start --block --address", "vesselflow.notices watch")
    )
    assert "--nodelist=node1" in head
    assert "--nodes=1 " in head
    assert f"--port={port}" in head
    assert "--dashboard-host=127.0.0.1" in head
    assert "--nodes=2 --ntasks=2 --exclude=node1" in workers
    assert f"--address=10.0.0.7:{port}" in workers
    assert "--num-cpus=8" in head
    assert "--num-cpus=8" in workers
    assert "--nodes=3 --ntasks=3" in watchers
    assert f"--cloud none --address 10.0.0.7:{port}" in watchers
    # The sweep gets its words as they were given.
    driver = next(line for line in calls.splitlines() if line.startswith("vesselflow"))
    words = "".join(f" <{word}>" for word in WORDS)
    assert driver == f"vesselflow <sweep>{words} <--address> <10.0.0.7:{port}>"


def test_one_node_needs_no_workers(queue: Queue) -> None:
    (queue.folder / "hostnames").write_text("node1\n")
    code, _ = queue.run(0)
    assert code == 0
    assert "--exclude" not in queue.calls()


def test_the_time_limit_is_a_notice_and_the_job_comes_again_until_it_is_done(queue: Queue) -> None:
    for _ in range(2):
        job = queue.start("wait")
        queue.until("waiting")
        job.send_signal(signal.SIGUSR1)
        output, _ = job.communicate(timeout=LIMIT_S)
        assert job.returncode == 0, output
        assert "the time limit comes: the runs write checkpoints" in output
        assert queue.queued()
    code, output = queue.run(0)
    assert (code, queue.queued()) == (0, False), output
    assert queue.calls().count("scontrol requeue 70007") == 2


def test_a_limit_while_ray_starts_is_a_notice_too(queue: Queue) -> None:
    (queue.folder / "no-answer").touch()
    job = queue.start(0)
    end = time.monotonic() + LIMIT_S
    while "ray status" not in queue.calls():
        assert time.monotonic() < end
        time.sleep(0.02)
    job.send_signal(signal.SIGUSR1)
    output, _ = job.communicate(timeout=LIMIT_S)
    assert job.returncode == 0, output
    assert queue.queued()
    assert "vesselflow <sweep>" not in queue.calls(), "no sweep is begun that would be stopped"


def test_what_is_wrong_in_the_words_is_not_tried_again(queue: Queue) -> None:
    code, output = queue.run(2)
    assert code == 2, output
    assert "something given is wrong" in output
    assert not queue.queued()


def test_a_cancelled_job_stays_away(queue: Queue) -> None:
    job = queue.start("wait")
    queue.until("waiting")
    job.send_signal(signal.SIGTERM)
    output, _ = job.communicate(timeout=LIMIT_S)
    assert job.returncode == 143, output
    assert "cancelled" in output
    assert not queue.queued()


@pytest.mark.parametrize("code", [1, 137])
def test_a_driver_that_fails_is_tried_three_times(queue: Queue, code: int) -> None:
    for attempt in (1, 2):
        ended, output = queue.run(code)
        assert ended == 0, output
        assert f"ended with code {code}, {attempt} of 3 times in a row" in output
        assert queue.queued()
    ended, output = queue.run(code)
    assert ended == code
    assert "gives up" in output
    assert not queue.queued()
    assert list(queue.folder.glob("*.failures")) == []


def test_a_time_limit_between_failures_begins_the_count_anew(queue: Queue) -> None:
    assert queue.run(1)[0] == 0
    assert queue.run(1)[0] == 0
    job = queue.start("wait")
    queue.until("waiting")
    job.send_signal(signal.SIGUSR1)
    job.communicate(timeout=LIMIT_S)
    _, output = queue.run(1)
    assert "1 of 3 times in a row" in output


def test_where_the_queue_takes_no_job_twice_there_is_a_new_one(queue: Queue) -> None:
    (queue.folder / "no-requeue").touch()
    job = queue.start("wait")
    queue.until("waiting")
    job.send_signal(signal.SIGUSR1)
    output, _ = job.communicate(timeout=LIMIT_S)
    assert job.returncode == 0, output
    assert queue.queued()
    words = "".join(f" <{word}>" for word in WORDS)
    assert (
        f"sbatch <--dependency=afterany:70007> </home/me/slurm.sh>{words} "
        "chain=70007 script=/home/me/slurm.sh"
    ) in queue.calls()
    # The next one of the chain counts on, and knows the script by name.
    env = {"VESSELFLOW_CHAIN": "70007", "VESSELFLOW_SCRIPT": "/home/me/slurm.sh"}
    queue.run(1, **{"SLURM_JOB_ID": "70008", **env})
    assert (queue.folder / "slurm-70007.failures").read_text() == "1\n"
    assert "chain=70007 script=/home/me/slurm.sh" in queue.calls().splitlines()[-1]


def test_nothing_is_left_running(queue: Queue) -> None:
    queue.run(0)
    end = time.monotonic() + LIMIT_S
    for pid in map(int, (queue.folder / "living").read_text().split()):
        while _alive(pid):
            assert time.monotonic() < end, f"{pid} lives"
            time.sleep(0.02)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_the_notice_is_longer_than_that_of_the_watcher() -> None:
    """The driver stops first; the watcher's lead (120 s) is for what it could not do."""
    found = re.search(r"^#SBATCH --signal=B:USR1@(\d+)$", SCRIPT.read_text(), re.M)
    assert found
    assert int(found[1]) > 120
