"""clusters/aws.yaml as shipped, at an emulated AWS: notice, loss, unplugging, no capacity."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cloud import ENDPOINT
from rig import DISK, HERE, Rig, replaced

from vesselflow.chaos.comparison import compare_tables
from vesselflow.evaluation.answer import read_answer

pytestmark = pytest.mark.rig

FILE, BUCKET = "clusters/aws.yaml", "rig-results"
#: The whole of what is changed in the file, besides what `prepare_aws.py` writes into it: where
#: the bucket is, CPUs of a worker as this machine has them, and a shorter idle time.
CHANGES = {
    f"s3://{BUCKET}/vesselflow": f"s3://{BUCKET}/vesselflow?endpoint_override={ENDPOINT}",
    "CPU: 16": "CPU: 1",
    "idle_timeout_minutes: 10": "idle_timeout_minutes: 1",
}
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "of-the-person",
    "AWS_SECRET_ACCESS_KEY": "of-the-person",
    "AWS_ENDPOINT_URL": ENDPOINT,
}
#: Seconds until a worker that is asked for must be at work, and for a whole disturbed sweep.
START_S, SWEEP_S = 240.0, 900.0


class Sweep:
    """A sweep that was handed in, and what its records say while it runs.

    Args:
        rig: With a cluster that is up.
        name: Of its results in the bucket.
        options: More for `vesselflow sweep`.
    """

    def __init__(self, rig: Rig, name: str, *options: str) -> None:
        self.rig, self.name = rig, name
        results = f"s3://{BUCKET}/{name}?endpoint_override={ENDPOINT}"
        (rig.disk / name).mkdir()
        look = f"python {DISK}/look.py '{results}' rig {DISK}/{name}"
        self._look = rig.start(look)
        words = f"vesselflow submit {DISK}/sweep.yaml --cluster {FILE} --results '{results}'"
        self._submit = rig.start(words + (f" -- {' '.join(options)}" if options else ""))

    def runs(self) -> dict[str, Any]:
        """Run -> what `look.look` makes of it."""
        file = self.rig.disk / self.name / "progress.json"
        return dict(json.loads(file.read_text())["runs"]) if file.exists() else {}

    def working(self) -> dict[str, list[str]]:
        """Host -> runs whose newest attempt works there, and has a checkpoint."""
        found: dict[str, list[str]] = {}
        for name, run in self.runs().items():
            if run["attempts"] and not run["accepted"]:
                newest = run["attempts"][max(run["attempts"], key=int)]
                if newest["host"] and newest["steps"]:
                    found.setdefault(newest["host"], []).append(name)
        return found

    def until(self, what: str, look: Callable[[], Any], limit_s: float) -> Any:
        """As `Rig.wait_for`; the sweep must not end before."""

        def looked() -> Any:
            assert self._submit.code is None, self._submit.output()[-6000:]
            return look()

        return self.rig.wait_for(what, looked, limit_s)

    def until_working(self, machines: int) -> list[str]:
        """Names of the machines on which runs have checkpoints, once there are so many."""
        found = self.until(
            f"runs with checkpoints on {machines} machine(s)",
            lambda: len(self.working()) >= machines and list(self.working()),
            START_S + 60,
        )
        return sorted(found)

    def finish(self) -> str:
        """What it said; its tables must have come."""
        said = self.rig.finish(self._submit, SWEEP_S)
        assert " now, 0 before" in said
        (self.rig.disk / self.name / "stop").touch()
        self.rig.finish(self._look, 60)
        return said

    def tables(self) -> dict[str, bytes | None]:
        """Its tables."""
        return read_answer(self.rig.disk / self.name)

    def kinds(self) -> set[str]:
        """Machine and market of all attempts, as their costs say."""
        return {one["kind"] for run in self.runs().values() for one in run["attempts"].values()}

    def went_on(self, run: str, after: float) -> tuple[float, int]:
        """When an attempt that began later made its first checkpoint; steps that it repeated."""
        done = 0
        for number in sorted(self.runs()[run]["attempts"], key=int):
            one = self.runs()[run]["attempts"][number]
            if one["seen"] > after:
                times = [when for step, when in one["steps"].items() if int(step) > one["resumed"]]
                return min(times, default=float("nan")), max(0, done - one["resumed"])
            done = max(done, one["done"], *map(int, one["steps"]), 0)
        raise AssertionError(f"{run} was not taken up again")


@pytest.fixture(scope="module")
def cluster(rig_possible: None) -> Iterator[Rig]:
    """A cluster that `ray up` started, its head alone."""
    with Rig() as rig:
        rig.laptop(CREDENTIALS)
        for name in ("sweep.yaml", "look.py"):
            shutil.copyfile(HERE / name, rig.disk / name)
        rig.run(f"python clusters/prepare_aws.py --bucket {BUCKET} --ssh-from 10.77.0.1/32", 60)
        replaced(rig.folder / "repository" / FILE, CHANGES)
        rig.say(rig.run(f"vesselflow cluster check {FILE} --space {DISK}/sweep.yaml", 60))
        rig.run(f"ray up -y {FILE}", 420)
        assert [each["kind"] for each in rig.instances("running")] == ["m7i.xlarge"]
        yield rig


def test_notice_by_the_metadata_service(cluster: Rig, undisturbed: dict[str, bytes | None]) -> None:
    sweep = Sweep(cluster, "notice")
    first, _ = sweep.until_working(2)
    told = sweep.working()[first]
    at = time.time()
    cluster.say(f"notice for {first}, which works on {told}")
    cluster.ask("notice", name=first, seconds=120)
    sweep.finish()
    assert compare(cluster, undisturbed, sweep)
    assert sweep.kinds() == {"aws:c7i.4xlarge:spot"}
    for run in told:
        when, repeated = sweep.went_on(run, at)
        cluster.say(f"{run} went on {when - at:.1f} s after the notice, {repeated} steps repeated")
        assert repeated == 0


def test_a_machine_ends_and_another_is_unplugged(
    cluster: Rig, undisturbed: dict[str, bytes | None]
) -> None:
    sweep = Sweep(cluster, "lost")
    first, second = sweep.until_working(2)
    runs, at = sweep.working()[first], time.time()
    cluster.say(f"{first} ends without a word, at work on {runs}")
    cluster.ask("end", name=first)
    sweep.until(f"{runs} to go on", lambda: all(_elsewhere(sweep, r, first) for r in runs), START_S)
    for run in runs:
        when, repeated = sweep.went_on(run, at)
        cluster.say(f"{run} went on {when - at:.1f} s after the end, {repeated} steps repeated")
    (second, *_) = [name for name in sweep.until_working(1) if name != first]
    runs, at = sweep.working()[second], time.time()
    cluster.say(f"{second} is unplugged, at work on {runs}")
    cluster.ask("cut", name=second)
    assert "died on a machine that lives" not in sweep.finish()
    assert compare(cluster, undisturbed, sweep)
    for run in runs:
        when, repeated = sweep.went_on(run, at)
        cluster.say(f"{run} went on {when - at:.1f} s after the cut, {repeated} steps repeated")


def test_no_spot_machine_is_to_be_had(cluster: Rig, undisturbed: dict[str, bytes | None]) -> None:
    cluster.ask("short", what=[["*", "spot"]])
    sweep = Sweep(cluster, "short", "--on-demand-after", "40s")
    workers = [each for each in cluster.instances("running") if each["market"] == "spot"]
    for each in workers:
        cluster.ask("end", name=each["name"])
    try:
        sweep.until(
            "an on-demand worker",
            lambda: [i for i in cluster.instances("running") if i["kind"] == "c7i.4xlarge"],
            START_S,
        )
        sweep.until_working(1)
    finally:
        cluster.ask("short", what=[])
    said = sweep.finish()
    assert "on-demand ones are asked for" in said
    assert "aws:c7i.4xlarge:on-demand" in sweep.kinds()
    assert compare(cluster, undisturbed, sweep)


def test_down_leaves_nothing(cluster: Rig) -> None:
    cluster.wait_for("idle workers to go", lambda: len(cluster.instances("running")) == 1, 300)
    cluster.run(f"ray down -y {FILE}", 180)
    left = cluster.instances("pending", "running", "stopping", "stopped")
    assert not left


def compare(rig: Rig, undisturbed: dict[str, bytes | None], sweep: Sweep) -> bool:
    """Whether all tables are those of the undisturbed sweep."""
    findings = compare_tables(undisturbed, sweep.tables())
    for each in findings:
        rig.say(f"{each.what}: {each.seen}")
    return all(each.holds for each in findings)


def _elsewhere(sweep: Sweep, run: str, host: str) -> bool:
    found = sweep.runs()[run]
    newest = found["attempts"][max(found["attempts"], key=int)]
    return newest["host"] not in ("", host) and any(
        int(step) > newest["resumed"] for step in newest["steps"]
    )
