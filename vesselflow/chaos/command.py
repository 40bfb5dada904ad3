"""Several seeds on one space: the undisturbed sweep once, then each seed held against it."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import vesselflow
from vesselflow.chaos.bucket import LocalBucket
from vesselflow.chaos.comparison import (
    Finding,
    after_notices,
    compare_codes,
    compare_tables,
    compare_words,
    compare_work,
    tell_gaps,
)
from vesselflow.chaos.disk import SPARE, SmallDisk, free_place, why_not
from vesselflow.chaos.drivers import Driver
from vesselflow.chaos.marks import TakenUp, next_steps, read_marks, taken_up
from vesselflow.chaos.play import Play
from vesselflow.chaos.prediction import predict, told
from vesselflow.chaos.schedule import (
    BUCKET,
    DISK,
    KILLS,
    KINDS,
    RANKS,
    Event,
    possible,
    schedule,
)
from vesselflow.chaos.stage import Played, Stage, Storage
from vesselflow.chaos.watch import steps_of
from vesselflow.config.fingerprint import canonical_json
from vesselflow.config.space import Space
from vesselflow.errors import UserError, VesselflowError
from vesselflow.evaluation.answer import read_answer
from vesselflow.records.atomic import explained, read_json_or_none, write_json, write_text
from vesselflow.records.paths import AnyPath, any_path
from vesselflow.runs.registries import REGISTRIES
from vesselflow.sweeps.step_trace import FOLDER

#: Seconds that the undisturbed sweep may take.
REFERENCE_S = 900.0
#: Seconds for one seed, and how many times the undisturbed sweep it may take where that is longer.
LIMIT_S, LIMIT_TIMES = 180.0, 4.0
#: Says of a folder that chaos made it.
MARK = ".chaos.json"
#: A kill is charged to the run whose worker it hits; chaos kills more than a run is forgiven.
RETRIES = ("--set", "resources.retries=50")


@dataclass(frozen=True)
class Asked:
    """What is to be disturbed.

    Attributes:
        space: The space.
        words: That name it after ``vesselflow sweep``: file, profile, overrides.
        folder: For everything.
        limit_s: Seconds for one seed; None for `LIMIT_S`, or longer where the undisturbed sweep
            takes so long that it is a slow machine.
        bucket: Where the results of the seeds go; None for the folder.
        disk: Whether the results of a seed can get a disk of their own.
    """

    space: Space
    words: Sequence[str]
    folder: Path
    limit_s: float | None = None
    bucket: LocalBucket | None = None
    disk: bool = False

    @property
    def kinds(self) -> list[str]:
        """The disturbances that make sense here."""
        workers = self.space.resources.workers
        has = {RANKS: workers > 1, BUCKET: self.bucket is not None, DISK: self.disk}
        return possible([name for name, there in has.items() if there])

    @property
    def nodes(self) -> int:
        """Nodes that carry slots: one can go, and a slot of several workers still has room."""
        return max(2, self.space.resources.workers + 1)

    @cached_property
    def key(self) -> str:
        """Of the space, the code and what is done to them: equal keys play equal seeds."""
        text = f"{fingerprint(self.space)} {self.kinds} {self.limit_s}"
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def known(folder: Path, seed: int, key: str) -> dict[str, Any] | None:
    """The report of a seed that was played before, under the same `Asked.key`."""
    report = read_json_or_none(folder / f"chaos-{seed}.json")
    return report if isinstance(report, dict) and report.get("key") == key else None


@dataclass(frozen=True)
class Verdict:
    """How a seed went.

    Attributes:
        key: Of what it was played on, as of `Asked.key`.
        seed: The seed.
        events: Its schedule.
        played: What happened.
        findings: What must hold.
        taken_up: How attempts followed each other.
        gaps: Kind, run, and seconds from a kill to the run's next step.
        most_interval_s: Longest time between two checkpoints that was ever due.
    """

    key: str
    seed: int
    events: Sequence[Event]
    played: Played
    findings: Sequence[Finding]
    taken_up: Sequence[TakenUp] = ()
    gaps: Sequence[tuple[str, str, float]] = ()
    most_interval_s: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether all does that must."""
        return not self.played.trouble and all(finding.holds for finding in self.findings)

    def plain(self) -> dict[str, Any]:
        """As it is written."""
        noticed = after_notices(self.taken_up, self.played.notices)
        return {
            "key": self.key,
            "seed": self.seed,
            "holds": self.holds,
            "seconds": round(self.played.seconds, 1),
            "trouble": self.played.trouble,
            "schedule": [event.plain() for event in self.events],
            "timeline": [list(line) for line in self.played.timeline],
            "exit_codes": [vars(ended) for ended in self.played.ended],
            "comparison": [finding.plain() for finding in self.findings],
            "played": self.played.kinds,
            "most_interval_s": round(self.most_interval_s, 3),
            "taken_up": [
                {**vars(each), "repeated": each.repeated, "notice": each in noticed}
                for each in self.taken_up
            ],
            "kill_to_next_step_s": [
                {"kind": kind, "run": run, "seconds": round(seconds, 2)}
                for kind, run, seconds in self.gaps
            ],
        }


def claim_folder(folder: Path) -> None:
    """Take a folder for chaos, which empties parts of it.

    Raises:
        UserError: It holds what is not of chaos, or cannot be written.
    """
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / MARK).exists() and any(folder.iterdir()):
            raise UserError(
                "this folder holds files that are not of `vesselflow chaos`, which empties it",
                where=str(folder),
                allowed="an empty or a new folder",
                hint="choose another with --results DIR",
            )
    write_json(folder / MARK, {"made_by": "vesselflow chaos"})


def fingerprint(space: Space) -> str:
    """Name of a space's undisturbed sweep: its content, and the code that it was done by."""
    digest = hashlib.sha256(canonical_json(space.resolved()).encode())
    package = Path(vesselflow.__file__).parent
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def undisturbed(asked: Asked, say: Callable[[str], None]) -> Path:
    """The results of the sweep that nothing disturbs; made once for a space and a state of code.

    Raises:
        VesselflowError: It did not end well: there is nothing to compare with.
    """
    results = asked.folder / f"undisturbed-{fingerprint(asked.space)}"
    done = results / "done.json"
    if read_json_or_none(done):
        say("the undisturbed sweep is there")
        return results
    say("the undisturbed sweep")
    results.mkdir(exist_ok=True)
    words = [*asked.words, "--results", str(results), "--no-figures"]
    began = time.monotonic()
    driver = Driver(1, words, asked.folder / "undisturbed.log", {})
    try:
        code = driver.wait(REFERENCE_S)
    finally:
        driver.end()
    if code != 0:
        how = f"within {REFERENCE_S:g} s" if code is None else f"well ({code})"
        raise VesselflowError(f"the undisturbed sweep did not end {how}: {driver.last_words()}")
    say(f"the undisturbed sweep took {time.monotonic() - began:.0f} s")
    write_json(done, {"seconds": round(time.monotonic() - began, 1)})
    return results


def limit_s(reference: Path) -> float:
    """Seconds that a seed may take."""
    done = read_json_or_none(reference / "done.json")
    took = done.get("seconds") if isinstance(done, dict) else None
    return max(LIMIT_S, LIMIT_TIMES * took) if isinstance(took, int | float) else LIMIT_S


def play_seed(asked: Asked, seed: int, reference: Path, say: Callable[[str], None]) -> Verdict:
    """Disturb a sweep by one seed, and compare; writes ``chaos-<seed>.json``.

    Args:
        asked: What is disturbed.
        seed: The seed.
        reference: The undisturbed results.
        say: Gets each line of the timeline.
    """
    folder = asked.folder / f"seed-{seed}"
    free_place(folder / "results")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    events = schedule(seed, asked.kinds)
    write_text(folder / "schedule.txt", "".join(f"{event}\n" for event in events))
    with _results(asked, folder, events, reference) as (results, given, env, storage):
        steps, wanted = steps_of(reference), asked.space.resources
        stage = Stage(
            [*asked.words, *RETRIES, "--results", given, "--no-figures"],
            results,
            steps,
            folder,
            nodes=asked.nodes,
            cpus=wanted.threads,
            workers=wanted.workers,
            limit_s=asked.limit_s or limit_s(reference),
            env={**env, FOLDER: str(folder / "trace")},
            storage=storage,
            look_s=0.1 if asked.bucket is None else 0.5,
        )
        play = Play(stage, events, say)
        played = play.run()
        marks = read_marks(folder / "trace")
        follows = taken_up(marks, play.watch.chains(), played.torn)
        gaps = next_steps(marks, played.hits, KILLS)
        name = asked.space.name + (f"-{asked.space.profile}" if asked.space.profile else "")
        findings = [
            *compare_tables(read_answer(reference / name), read_answer(results / name)),
            compare_codes(played.ended),
            *compare_work(
                play.watch.redone(),
                follows,
                played.notices,
                missing=sorted(steps.keys() - play.watch.accepted.keys()),
                ended_twice=play.watch.ended_twice(),
            ),
            compare_words(played.silent),
            *tell_gaps(gaps),
        ]
    longest_s = max((mark.interval_s for mark in marks), default=0.0)
    verdict = Verdict(asked.key, seed, events, played, findings, follows, gaps, longest_s)
    write_json(asked.folder / f"chaos-{seed}.json", verdict.plain())
    return verdict


def prediction(asked: Asked, verdict: Verdict, reference: Path) -> tuple[str, dict[str, Any]]:
    """What `plan` says of a seed beside what it took; the report with it, which is written."""
    wanted = asked.space.resources
    found, line = None, ""
    try:
        found = predict(
            asked.space,
            reference,
            verdict.events,
            nodes=asked.nodes,
            cpus=wanted.threads,
            seed=verdict.seed,
        )
    except Exception as error:
        # It simulates with the very code that is tried out here: other seeds are to be played.
        line = f"no prediction: the simulation failed ({type(error).__name__}: {error})"
    plain = {**verdict.plain(), "predicted_s": None if found is None else vars(found.wall_s)}
    write_json(asked.folder / f"chaos-{verdict.seed}.json", plain)
    return line or told(found, verdict.played.seconds), plain


@contextlib.contextmanager
def _results(
    asked: Asked, folder: Path, events: Sequence[Event], reference: Path
) -> Iterator[tuple[AnyPath, str, dict[str, str], Storage]]:
    """Where a seed puts its results: as read here, as the sweep is told, variables, troubles."""
    if asked.bucket is not None:
        bucket = asked.bucket
        read, given = (bucket.address(folder.name, proxied=proxied) for proxied in (False, True))
        env = {**bucket.env, "VESSELFLOW_CACHE": str(folder / "cache")}
        yield any_path(read), given, env, bucket
        return
    results = folder / "results"
    results.mkdir()
    if not any(KINDS[event.kind].needs == DISK for event in events):
        yield results, str(results), {}, Storage()
        return
    files = (path.lstat() for path in reference.rglob("*"))
    with SmallDisk(results, SPARE + 3 * sum(file.st_size for file in files)) as disk:
        yield results, str(results), {}, disk


def disk_here(asked_bucket: bool) -> tuple[bool, str]:
    """Whether a seed's results can have a disk of their own, and a line where they cannot."""
    if asked_bucket:
        return False, ""
    reason = why_not()
    return not reason, f"no disk is filled: {reason}" if reason else ""


def read_space(file: Path, profile: str | None, overrides: Sequence[str]) -> Space:
    """The space, checked, so that what is wrong with it is told before anything is started."""
    from vesselflow.config.loading import load_space

    return load_space(file, profile=profile, overrides=tuple(overrides), registries=REGISTRIES)
