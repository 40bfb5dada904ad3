"""`vesselflow plan`: time and dollars of a tiny sweep, measured, given, and by finished runs."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bad_input import command, refused, tree, write_sources

from vesselflow.config.loading import load_space
from vesselflow.feed.local import LocalData
from vesselflow.runs.registries import REGISTRIES
from vesselflow.sweeps.cost_machine import MachineKind, Seat
from vesselflow.sweeps.cost_notes import Taken
from vesselflow.sweeps.execution import execute
from vesselflow.sweeps.machine import cpus_here
from vesselflow.sweeps.planning import prepare

SPACE = """
stores: {a: a.h5}
data: {train: a, working_size_px: 64}
split: {folds: 3, val_fraction: 0.3}
folds: [0]
seeds: [0, 1, 2]
model: {name: wnet}
train: {epochs: 2, steps_per_epoch: 30, micro_batch_size: 2}
grid: {loss.beta: [0.25, 0.75]}
"""

CLUSTER = """
cluster_name: test
max_workers: 3
provider: {type: aws, region: us-east-1, availability_zone: us-east-1a}
available_node_types:
  head: {node_config: {InstanceType: m5.large}, resources: {CPU: 0}, max_workers: 0}
  workers:
    node_config:
      InstanceType: c5.2xlarge
      InstanceMarketOptions: {MarketType: spot}
    max_workers: 3
head_node_type: head
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VESSELFLOW_MACHINE", raising=False)
    write_sources(tmp_path / "a.h5", 0, 6)
    (tmp_path / "space.yaml").write_text(SPACE)
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    return tmp_path


def planned(*words: str) -> dict[str, Any]:
    answer = command("plan", "space.yaml", *words, "--json")
    assert answer.code == 0, answer
    told: dict[str, Any] = json.loads(answer.out)
    return told


def test_steps_are_measured_and_nothing_is_left_behind(here: Path) -> None:
    before = tree(here)
    # The command itself, which measures for a shorter time.
    code = (
        "import functools; from vesselflow.sweeps import estimate; "
        "estimate.Task = functools.partial(estimate.Task, seconds=0.5); "
        "from vesselflow.cli.main import command; command()"
    )
    words = ["-c", code, "plan", "space.yaml", "--json"]
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["runs"], told["steps"]) == (6, 360)
    assert told["speed"]["source"] == "measured here"
    (pace,) = told["speed"]["kinds"].values()
    assert pace["steps"] >= 3
    assert pace["step_s"] > 0
    assert pace["image_s"]["a"] > 0
    slots = told["slots"]
    assert slots == min(6, cpus_here())
    steps_s = pace["step_s"] * 360 / slots
    wall = told["wall_s"]
    assert steps_s < wall["median"] < 3 * steps_s + 300
    assert 0 < wall["low"] < wall["median"] < wall["high"]
    assert (wall["high"] - wall["median"]) / wall["median"] < 0.5
    assert told["dollars"]["median"] is None, "this machine has no price"
    assert tree(here) == before


def test_a_given_speed_is_simulated_at_once(here: Path) -> None:
    told = planned("--seconds-per-step", "2", "--set", "prices={local: 0.5}")
    # Six runs of sixty steps, side by side on what this machine carries.
    rounds = math.ceil(6 / told["slots"])
    assert told["wall_s"]["median"] == pytest.approx(rounds * 120, rel=0.2)
    assert told["dollars"]["median"] == pytest.approx(told["wall_s"]["median"] * 0.5 / 3600)
    assert planned("--seconds-per-step", "2", "--set", "prices={local: 0.5}") == told
    other = planned("--seconds-per-step", "2", "--set", "prices={local: 0.5}", "--seed", "1")
    assert other["wall_s"] != told["wall_s"]


def test_a_cluster_has_machines_prices_and_losses(here: Path) -> None:
    words = ("--seconds-per-step", "60", "--cluster", "cluster.yaml", "--spot-hours", "1")
    told = planned(*words)
    (machine,) = told["machines"]
    # One machine of eight CPUs holds all six slots of one thread.
    assert (machine["name"], machine["count"]) == ("aws:c5.2xlarge:spot", 1)
    assert (told["head"], told["slots"]) == ("aws:m5.large:on-demand", 6)
    assert told["machines_lost"]["high"] >= 1
    assert told["wall_s"]["median"] > 3600
    rate = machine["price"] + 0.096
    assert told["dollars"]["median"] == pytest.approx(
        told["wall_s"]["median"] * rate / 3600, rel=0.1
    )
    assert told["on_demand_dollars"]["median"] > told["dollars"]["median"]
    text = command("plan", "space.yaml", *words).out.splitlines()
    assert text[0] == "space"
    assert text[1] == "runs:     6 to do (360 steps), 0 of 6 done"
    assert text[2] == "speed:    60 s a step, given"
    assert text[3] == ("machines: 1 x aws:c5.2xlarge:spot, led by aws:m5.large:on-demand; 6 slots")
    assert text[4].startswith("time:     1 h ")
    assert text[5].startswith("cost:     $")
    assert text[5].endswith(" on demand")
    assert text[-1] == "simulated 200 times; nothing was started"


def test_threads_take_the_room_of_slots(here: Path) -> None:
    words = ("--seconds-per-step", "60", "--cluster", "cluster.yaml")
    told = planned(*words, "--set", "resources.threads=4")
    assert (told["machines"][0]["count"], told["slots"]) == (3, 6)
    assert "no kind of worker holds a slot of 1 x 16 threads" in refused(
        here, "plan", "space.yaml", *words, "--set", "resources.threads=16"
    )


def test_finished_runs_tell_how_fast_the_others_are(here: Path) -> None:
    import torch

    torch.set_num_threads(1)
    short = ("--set", "train.steps_per_epoch=5")
    (job, *_) = prepare(
        load_space("space.yaml", overrides=(short[1],), registries=REGISTRIES)
    ).jobs()
    taken = Taken(Seat(MachineKind("local", "own"), 1 / cpus_here()))
    result = execute(job, Path("results"), LocalData({"a": Path("a.h5")}), taken=taken)
    assert result.state == "finished", result.message
    told = planned(*short)
    assert (told["runs"], told["steps"]) == (5, 50)
    assert told["speed"]["source"] == "by finished runs"
    (pace,) = told["speed"]["kinds"].values()
    assert pace["steps"] == 10
    assert pace["step_s"] > 0
    # What is to be done again tells how fast it was, too.
    again = planned("--fresh", *short)
    assert (again["runs"], again["speed"]["source"]) == (6, "by finished runs")


def test_of_a_finished_sweep_nothing_is_left(here: Path) -> None:
    import torch

    torch.set_num_threads(1)
    (here / "space.yaml").write_text(SPACE.replace("[0.25, 0.75]", "[0.5]"))
    small = ("--set", "seeds=[0]", "--set", "train.epochs=1", "--set", "train.steps_per_epoch=1")
    overrides = tuple(word for word in small if word != "--set")
    (job,) = prepare(load_space("space.yaml", overrides=overrides, registries=REGISTRIES)).jobs()
    assert execute(job, Path("results"), LocalData({"a": Path("a.h5")})).state == "finished"
    answer = command("plan", "space.yaml", *small)
    assert (answer.code, answer.out) == (0, "space: nothing is left to do\n")
    assert planned(*small)["runs"] == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--seconds-per-step", "0"), "--seconds-per-step: '0' is not allowed"),
        (("--seconds-per-step", "soon"), "--seconds-per-step: 'soon' is not allowed"),
        (("--seconds-per-step", "nan"), "--seconds-per-step: 'nan' is not allowed"),
        (("--spot-hours", "-1"), "--spot-hours: '-1' is not allowed"),
        (("--seed", "1.5"), "--seed: '1.5' is not allowed"),
        (("--cluster", "nowhere.yaml"), "nowhere.yaml: "),
        (("--profile", "fast"), "unknown profile 'fast'"),
        (("--set", "resources.gpu=1"), "1 GPU per worker is asked for, with 0 GPUs"),
    ],
)
def test_nonsense_is_refused_in_a_line(here: Path, words: tuple[str, ...], told: str) -> None:
    assert told in refused(here, "plan", "space.yaml", *words)


def test_two_sources_of_speed_are_one_too_many(here: Path) -> None:
    line = refused(here, "plan", "space.yaml", "--measure", "--seconds-per-step", "1")
    assert "not allowed with" in line


def test_an_empty_cluster_file_is_refused(here: Path) -> None:
    (here / "empty.yaml").write_text("provider: {type: aws}\n")
    assert "empty.yaml: available_node_types" in refused(
        here, "plan", "space.yaml", "--seconds-per-step", "1", "--cluster", "empty.yaml"
    )
