"""What a results folder holds and no answer needs: found first, removed only then.

Tables need no weights and no picks, and a finished run no checkpoint. What is kept of the weights
decides what another score costs later: an epoch that is gone has to be trained again before it can
be scored on another domain, or by another metric.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from vesselflow.errors import UserError
from vesselflow.records.atomic import is_abandoned, read_json_or_none
from vesselflow.records.drivers import KEPT_S, Heartbeats, may_live
from vesselflow.records.paths import (
    AnyPath,
    BucketPath,
    Looks,
    at_once,
    folders_in,
    names_in,
)
from vesselflow.records.runs import RunRecord

#: Which weights and picks are kept: of every epoch, of each run's chosen one, of the winners'
#: chosen ones.
Keep: TypeAlias = Literal["all", "chosen", "winners"]
#: Seconds for which a driver of another machine is watched: it beats every five.
WATCH_S = 12.0
#: What there is of every scored epoch -> its files, by the number of the epoch.
_OF_EPOCHS = {
    "weights": re.compile(r"weights/(\d+)\.pt"),
    "picks": re.compile(r"picks/.+_epoch(\d+)\.[^/.]+"),
}
_CHECKPOINT = re.compile(r"attempts/\d+/checkpoints/[^/]+")


@dataclass(frozen=True)
class Waste:
    """A file that no answer needs.

    Attributes:
        kind: What it is, in a word or two.
        path: Relative to the results folder.
        bytes: Its size.
    """

    kind: str
    path: str
    bytes: int


def check_idle(results: AnyPath, notify: Callable[[str], None] = lambda text: None) -> None:
    """Refuse results on which a sweep is at work: what it needs would go under its hands.

    Args:
        results: The results folder.
        notify: Told before a driver of another machine is watched for `WATCH_S`.

    Raises:
        UserError: A driver lives.
    """
    others, watched = Heartbeats(results), []
    for name in names_in(results / "drivers"):
        content = read_json_or_none(results / "drivers" / name)
        owner = content.get("owner") if isinstance(content, dict) else None
        if not isinstance(owner, dict) or content.get("ended") or not may_live(owner):
            continue
        token = name.removesuffix(".json")
        watched.append((token, owner, others.silent_s(token)))
    if not watched:
        return
    notify(f"looking for {WATCH_S:g} s whether the sweep of another machine lives")
    deadline = time.monotonic() + WATCH_S
    while time.monotonic() < deadline:
        time.sleep(1.0)
        for token, owner, before in watched:
            # Whoever showed something new is silent for a shorter time than the watch lasts.
            if others.silent_s(token) < before + 0.5:
                raise UserError(
                    f"a sweep is at work here: process {owner.get('pid', '?')} on "
                    f"{owner.get('host', '?')}",
                    where=str(results),
                    hint="stop it first, or wait until it is done",
                )


def find_waste(results: AnyPath, keep: Keep = "chosen", *, orphans: bool = False) -> list[Waste]:
    """Everything that no answer in a results folder needs; nothing is removed.

    Runs that are not finished are left alone, and so are weights and picks of runs that no table
    knows.

    Args:
        results: The results folder.
        keep: Which weights and picks are kept of runs that the tables know.
        orphans: Whether finished runs that are in no sweep's table go too, whole.
    """
    known = _chosen(results)
    files: dict[str, dict[str, int]] = {}
    found: list[Waste] = []
    for path, size in _files(results / "runs"):
        run, _, rest = path.partition("/")
        if run.startswith("."):
            found.append(Waste("runs that were reset", f"runs/{path}", size))
        elif rest:
            files.setdefault(run, {})[rest] = size
    done = _finished(results, [run for run in files if "accepted.json" in files[run]])
    for run in sorted(done):
        kinds = _of_run(files[run], known.get(run), keep, orphans=orphans)
        found += [Waste(kind, f"runs/{run}/{path}", files[run][path]) for kind, path in kinds]
    found += [Waste("half-written files", path, size) for path, size in _abandoned(results)]
    found += [Waste("drivers of old sweeps", path, size) for path, size in _old_drivers(results)]
    return found


def remove(results: AnyPath, waste: Iterable[Waste]) -> int:
    """Remove what was found; bytes that went. What cannot be removed stays, and is not counted."""
    paths = [(entry, results / entry.path) for entry in waste]
    freed = 0
    if isinstance(results, BucketPath):
        results.bucket.delete([path.key for _, path in paths if isinstance(path, BucketPath)])
        Looks(results / "runs").refresh()
        return sum(entry.bytes for entry, _ in paths)
    for entry, path in paths:
        with contextlib.suppress(OSError):
            path.unlink()
            freed += entry.bytes
    for folder in {path.parent for _, path in paths if isinstance(path, Path)}:
        _remove_empty(folder, results)
    return freed


@dataclass(frozen=True)
class _Known:
    """What all tables together say of a run.

    Attributes:
        chosen: Epochs that validation chose, by some protocol; None where a table lacks one.
        won: Those of them in which its point is the one that its sweep chose.
    """

    chosen: frozenset[int] | None
    won: frozenset[int]


def _chosen(results: AnyPath) -> dict[str, _Known]:
    chosen: dict[str, set[int] | None] = {}
    won: dict[str, set[int]] = {}
    for name in folders_in(results):
        tables = results / name / "tables"
        runs = _read(tables / "runs.parquet", ["run_id", "point", "epoch"])
        if runs is None:
            continue
        points = _read(tables / "points.parquet", ["point", "selected"])
        rows = [] if points is None else points.to_pylist()
        best = {row["point"] for row in rows if row["selected"]}
        for row in runs.to_pylist():
            run, epoch = row["run_id"], row["epoch"]
            before = chosen.setdefault(run, set())
            won.setdefault(run, set())
            if epoch is None:
                chosen[run] = None
            elif before is not None:
                before.add(epoch)
                if row["point"] in best:
                    won[run].add(epoch)
    return {
        run: _Known(None if epochs is None else frozenset(epochs), frozenset(won[run]))
        for run, epochs in chosen.items()
    }


def _read(path: AnyPath, columns: list[str]) -> pa.Table | None:
    try:
        return pq.read_table(pa.BufferReader(path.read_bytes()), columns=columns)
    except FileNotFoundError:
        return None
    except (ValueError, pa.ArrowException):
        # Which runs it needs nobody knows: not one of them is touched then.
        raise UserError(
            "this table cannot be read, so nobody knows what it needs",
            where=str(path),
            hint="run the sweep again: it trains nothing and writes its tables anew",
        ) from None


def _of_run(
    files: Iterable[str], known: _Known | None, keep: Keep, *, orphans: bool
) -> Iterator[tuple[str, str]]:
    if known is None and orphans:
        yield from (("runs that no table knows", path) for path in files)
        return
    for path in files:
        if _CHECKPOINT.fullmatch(path):
            yield "checkpoints of finished runs", path
        elif ".damaged-" in path:
            yield "damaged files set aside", path
        elif known is not None and keep != "all" and known.chosen is not None:
            kept = known.chosen if keep == "chosen" else known.won
            what = "epochs that were not chosen" if keep == "chosen" else "all but the winners"
            for name, pattern in _OF_EPOCHS.items():
                found = pattern.fullmatch(path)
                if found and int(found[1]) not in kept:
                    yield f"{name} of {what}", path


def _finished(results: AnyPath, runs: list[str]) -> list[str]:
    ask = at_once if isinstance(results, BucketPath) else map
    accepted = ask(lambda run: RunRecord(results, run).accepted() is not None, runs)
    return [run for run, is_done in zip(runs, accepted, strict=True) if is_done]


def _files(folder: AnyPath) -> Iterator[tuple[str, int]]:
    """Relative path and size of every file below a folder."""
    if isinstance(folder, BucketPath):
        yield from Looks(folder).sizes()
        return
    for base, _, names in os.walk(folder):
        for name in names:
            path = Path(base, name)
            with contextlib.suppress(OSError):
                yield path.relative_to(folder).as_posix(), path.lstat().st_size


def _abandoned(results: AnyPath) -> Iterator[tuple[str, int]]:
    if isinstance(results, Path):
        for path, size in _files(results):
            # Those of a run that was reset go with it.
            if is_abandoned(results / path) and not path.startswith("runs/."):
                yield path, size


def _old_drivers(results: AnyPath) -> Iterator[tuple[str, int]]:
    folder = results / "drivers"
    now = time.time()
    if isinstance(folder, BucketPath):
        for entry in folder.bucket.below(folder.key):
            if now - entry.changed_s > KEPT_S:
                yield f"drivers/{entry.key.rpartition('/')[2]}", entry.size
        return
    for name in names_in(folder):
        with contextlib.suppress(OSError):
            stat = (folder / name).stat()
            if now - stat.st_mtime > KEPT_S:
                yield f"drivers/{name}", stat.st_size


def _remove_empty(folder: Path, root: Path) -> None:
    """Remove a folder, and those above it, as long as nothing is in them."""
    while folder != root and folder.is_relative_to(root):
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent
