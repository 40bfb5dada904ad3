"""What is known of a run: its config, its attempts, its curve, and the attempt that was accepted.

```
runs/<run_id>/
  config.yaml  identity.json       written once
  status.json                      what `status` says, as last noted
  accepted.json                    names the one accepted attempt; made exclusively: the truth
  claims/                          see `leases`
  attempts/<n>/                    attempt.json (what it resumed from), checkpoints/, rows/,
                                   log.txt, cost.json, curve.json (joined, once it ended: with
                                   what accepted.json says, should that be damaged)
  weights/<epoch>.pt  previews/
```

An attempt is one process's try; it writes under its own number, so that one which was thought dead
and is not disturbs nobody. It resumes from the newest whole checkpoint of all attempts before it.
"""

from __future__ import annotations

import contextlib
import math
import secrets
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from vesselflow.errors import StorageTrouble, UserError
from vesselflow.records.atomic import (
    Torn,
    create_exclusive,
    explained,
    json_bytes,
    read_json,
    read_json_or_none,
    remove_abandoned,
    storage_trouble,
    write_bytes,
    write_json,
)
from vesselflow.records.attempts import Attempt, Written
from vesselflow.records.checkpoints import Checkpoints
from vesselflow.records.curves import is_count, is_number, part_path, parts, read_rows, read_summary
from vesselflow.records.drivers import FRESH_S, Heartbeats
from vesselflow.records.leases import Claim, Lease
from vesselflow.records.paths import (
    AnyPath,
    BucketPath,
    any_path,
    at_once,
    folders_in,
    names_in,
    remove_tree,
    there,
)
from vesselflow.records.status import RunState, Status, read_note

#: Of an accepted attempt's summary: the epoch after which a training was ended early.
STOPPED = "stopped_epoch"

_NOT_FINISHED = "the run does not count as finished, its attempts are kept"


class RunRecord:
    """The record of one run in a results folder; making one touches no file.

    Args:
        results: The results folder.
        run_id: Name of the run.
    """

    def __init__(self, results: str | AnyPath, run_id: str) -> None:
        self.run_id = run_id
        self.folder: AnyPath = any_path(results) / "runs" / run_id

    @property
    def config_path(self) -> AnyPath:
        """The resolved experiment, as it was when the run was first tried."""
        return self.folder / "config.yaml"

    @property
    def listings_folder(self) -> AnyPath:
        """What was predicted of each source, where that is short: the picks of keypoints."""
        return self.folder / "picks"

    @property
    def previews_folder(self) -> AnyPath:
        """Where the pictures of predictions go."""
        return self.folder / "previews"

    def attempt_folder(self, number: int) -> AnyPath:
        """Where attempt `number` writes."""
        return self.folder / "attempts" / str(number)

    def weights_path(self, epoch: int) -> AnyPath:
        """Where the weights of a scored epoch are, as `torch.save` wrote them."""
        return self.folder / "weights" / f"{epoch}.pt"

    # -- the run -------------------------------------------------------------------------------

    def create(self, config_text: str, identity: Mapping[str, Any]) -> None:
        """Write what the run is; what is there already is kept, whole, as it was.

        Raises:
            UserError: The folder cannot be written.
        """
        with explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        # A bucket is not asked first: it creates only what is not there, in one request.
        asked = not isinstance(self.folder, BucketPath)
        if not (asked and there(self.config_path)):
            create_exclusive(self.config_path, config_text.encode("utf-8"))
        identity_path = self.folder / "identity.json"
        if not (asked and there(identity_path)):
            create_exclusive(identity_path, json_bytes(identity))

    def status(self, noted: Status | None = None) -> Status:
        """How the run stands; queued when there is no record of it.

        Acceptance is read off accepted.json itself, so that a process killed right after it cannot
        leave a finished run that looks unfinished. Where that file is damaged, or gone while the
        note says "finished", the run is not finished, and the message says so.

        Args:
            noted: Its note, where that is known already.
        """
        noted = self._noted() if noted is None else noted
        (accepted, damaged), numbers = self._read_accepted(), self._numbers()
        if accepted is not None:
            return self._finished(noted, accepted, numbers)
        if damaged or noted.state is RunState.FINISHED:
            return replace(
                noted,
                state=RunState.RUNNING if numbers else RunState.QUEUED,
                attempts=max(numbers, default=0),
                message=f"accepted.json is {'damaged' if damaged else 'gone'}: {_NOT_FINISHED}",
                accepted_attempt=None,
            )
        return replace(noted, attempts=max(numbers, default=0), accepted_attempt=None)

    def accepted(self) -> dict[str, Any] | None:
        """The accepted attempt: ``{"attempt": number, "summary": {...}}``.

        None before there is one, and where the file that names it is damaged.
        """
        return self._read_accepted()[0]

    def _read_accepted(self) -> tuple[dict[str, Any] | None, bool]:
        """The accepted attempt, and whether the file that should name it is damaged."""
        path = self._accepted_path
        try:
            content = read_json(path)
        except (FileNotFoundError, NotADirectoryError):
            # A link that leads nowhere stands in the way of a new file.
            return None, not isinstance(path, BucketPath) and there(path)
        except (IsADirectoryError, ValueError, RecursionError):
            return None, True
        if isinstance(content, dict) and isinstance(content.get("summary"), dict):
            steps = content["summary"].get("steps", 0)
            if is_count(content.get("attempt")) and is_count(steps):
                return content, False
        return None, True

    def holder(self, others: Heartbeats, *, patience_s: float = 0.0) -> Claim | None:
        """Who holds the run; a silent holder of another machine is watched for a while first.

        Args:
            others: What was seen of drivers before.
            patience_s: How long to watch one that may be dead.
        """
        deadline = time.monotonic() + patience_s
        while (holder := Lease.holder(self.folder, others)) is not None:
            if time.monotonic() > deadline:
                return holder
            time.sleep(2 * FRESH_S)
        return None

    def reset(self, others: Heartbeats | None = None, *, patience_s: float = 0.0) -> None:
        """Forget the run and all its files.

        In a folder it is whole until one rename, and gone after it; in a bucket its acceptance goes
        first: killed after that, it is an unfinished run.

        Args:
            others: What was seen of drivers before; None knows nothing yet.
            patience_s: As of `holder`.

        Raises:
            UserError: A living process holds the run.
        """
        others = others or Heartbeats(self.folder.parent.parent)
        holder = self.holder(others, patience_s=patience_s)
        if holder is not None:
            owner = holder.owner or {}
            raise UserError(
                f"this run is being trained by process {owner.get('pid', '?')} "
                f"on {owner.get('host', '?')}",
                where=str(self.folder),
                hint="stop that sweep first, or wait until it is done",
            )
        if not self.folder.exists():
            return
        if isinstance(self.folder, BucketPath):
            with explained(self.folder):
                self._accepted_path.unlink()
            remove_tree(self.folder)
            return
        # Dotted: neither a run of the index nor in the way of a new one of the same name.
        gone = self.folder.with_name(f".gone-{self.run_id}-{secrets.token_hex(4)}")
        with explained(self.folder):
            self.folder.rename(gone)
        remove_tree(gone)

    def reopen(self) -> None:
        """Take the acceptance back, for a run that is to be trained again from its beginning.

        To be called by the holder of the run. What earlier attempts wrote of their curve and cost
        stays; checkpoints, weights, previews and picks go.
        """
        with explained(self.folder):
            # First of all: killed after it, this is an unfinished run that is looked at again.
            self._accepted_path.unlink(missing_ok=True)
            for number in self._numbers():
                (self.attempt_folder(number) / "curve.json").unlink(missing_ok=True)
                remove_tree(self._checkpoints(number))
            for folder in (self.folder / "weights", self.previews_folder, self.listings_folder):
                remove_tree(folder)

    def tidy(self) -> None:
        """Remove what an accepted run needs no more: the checkpoints of all its attempts.

        To be called when all its scores are there; also what killed writers left behind goes.
        Nothing happens to a run without an accepted attempt, and nothing is raised: what cannot be
        removed is left.
        """
        if self.accepted() is None:
            return
        if isinstance(self.folder, BucketPath):
            with contextlib.suppress(OSError):
                tidy(self.folder.parent.parent, [self.run_id])
            return
        for number in self._numbers():
            remove_tree(self._checkpoints(number))
            remove_abandoned(self.attempt_folder(number))
            remove_abandoned(self.attempt_folder(number) / "rows")
        for folder in (self.folder, self.folder / "weights", self.previews_folder):
            remove_abandoned(folder)

    # -- attempts ------------------------------------------------------------------------------

    def begin_attempt(self) -> Attempt:
        """Begin the next attempt; it resumes from `resume_point`.

        Raises:
            StorageTrouble: The folder cannot be written; no attempt has begun, try again.
        """
        messages = self._set_damaged_aside()
        numbers = self._numbers()
        point = self._resume_point(numbers, messages)
        resumed = {"attempt": point[2], "step": point[0]} if point else None
        number = max(numbers, default=0) + 1
        # Another process may begin one between our listing and our making.
        while not self._take_number(number, resumed):
            number += 1
        attempt = Attempt(self, number, (point[0], point[1]) if point else None)
        attempt.written = Written((point[0], point[2]) if point else None)
        try:
            for message in messages:
                attempt.log(message)
            if point:
                attempt.log(f"resumes from step {point[0]} of attempt {point[2]}")
            attempt.note(state=RunState.RUNNING, attempts=number, message="")
        except (UserError, OSError):
            # Tried again until the disk takes it, it shall not leave an attempt each time.
            remove_tree(attempt.folder)
            raise
        return attempt

    def _take_number(self, number: int, resumed: Mapping[str, int] | None) -> bool:
        """Begin the attempt of a number, unless another process did."""
        folder = self.attempt_folder(number)
        content = {"attempt": number, "resumed_from": resumed, "token": secrets.token_hex(8)}
        with explained(folder):
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                return False
            try:
                return create_exclusive(folder / "attempt.json", json_bytes(content))
            except (UserError, OSError):
                # Tried again until the disk takes it, it shall not leave an attempt each time.
                remove_tree(folder)
                raise

    def accepted_attempt(self) -> Attempt | None:
        """The attempt that was accepted; None before there is one."""
        accepted = self.accepted()
        return None if accepted is None else Attempt(self, int(accepted["attempt"]), None)

    def resume_point(self, messages: list[str] | None = None) -> tuple[int, bytes, int] | None:
        """Step, payload and attempt of the newest whole checkpoint of all attempts.

        Args:
            messages: Gets a line for each damaged checkpoint that was passed over.

        Raises:
            StorageTrouble: There are checkpoints, none is whole, and one could not be read.
        """
        return self._resume_point(self._numbers(), messages)

    def _resume_point(
        self, numbers: Sequence[int], messages: list[str] | None
    ) -> tuple[int, bytes, int] | None:
        trouble: StorageTrouble | None = None
        begun = self._begun(numbers)
        stored = {number: Checkpoints(self._checkpoints(number)) for number in begun}
        found = [(step, number) for number, kept in stored.items() for step in kept.steps()]
        for step, number in sorted(found, reverse=True):
            try:
                return step, stored[number].load(step), number
            except FileNotFoundError:
                continue
            except Torn as fault:
                if messages is not None:
                    messages.append(
                        f"checkpoint of step {step} of attempt {number} is passed over: {fault}"
                    )
            except OSError as error:
                # A bad sector is no reason to wait while an older one can be read; where none can,
                # the disk may come back, and all that was trained with it.
                trouble = storage_trouble(error, self._checkpoints(number))
                if trouble is None:
                    raise
                if messages is not None:
                    messages.append(
                        f"checkpoint of step {step} of attempt {number} is passed over: {trouble}"
                    )
        if trouble is not None:
            raise trouble
        return None

    def finish(self, attempt: Attempt, summary: Mapping[str, Any]) -> bool:
        """Offer an attempt that trained to the end; exactly one attempt of a run is accepted.

        Args:
            attempt: The attempt.
            summary: What is to be kept of how it went; ``steps`` shows in the status.

        Returns:
            Whether this attempt is the accepted one (also when it was accepted before).
        """
        rows = self._joined(attempt.number, attempt.written)
        write_json(attempt.folder / "curve.json", {"rows": rows, "summary": dict(summary)})
        self._accept(attempt.number, summary)
        accepted = self.accepted()
        if accepted is None:
            # A reset took the run away under us: nothing is accepted, and nothing noted.
            return False
        noted = attempt.noted or self._noted()
        self.write_status(self._finished(noted, accepted, self._numbers()))
        return bool(accepted["attempt"] == attempt.number)

    def mend(self) -> bool:
        """Accept again what was accepted, where the file that said so is damaged or gone.

        Of several attempts that trained to the end it is the one that the run's note names, else
        the newest. To be called by the holder of the run.

        Returns:
            Whether the run is finished now.
        """
        if self.accepted() is not None:
            return True
        ended = {
            number: summary
            for number in self._numbers()
            if (summary := read_summary(self.attempt_folder(number) / "curve.json")) is not None
        }
        if not ended:
            return False
        noted = self._noted().accepted_attempt
        number = noted if noted in ended else max(ended)
        attempt = Attempt(self, number, None)
        for message in self._set_damaged_aside():
            attempt.log(message)
        self._accept(number, ended[number])
        accepted = self.accepted()
        if accepted is not None:
            self.write_status(self._finished(self._noted(), accepted, self._numbers()))
        return accepted is not None

    def _accept(self, number: int, summary: Mapping[str, Any]) -> None:
        content = {"attempt": number, "summary": dict(summary)}
        create_exclusive(self._accepted_path, json_bytes(content))

    def fail(self, attempt: Attempt, message: str, traceback: str) -> None:
        """Mark the run as failed by its newest attempt; the traceback goes into its log.

        Args:
            attempt: The attempt that met the error; an older one than the newest only logs it.
            message: One line for tables.
            traceback: The whole story.
        """
        attempt.log_once(f"failed: {message}\n{traceback}".rstrip())
        attempt.note(state=RunState.FAILED, message=" ".join(message.split()))

    def give_up(self, message: str, place: str = "") -> None:
        """Mark the run as failed on behalf of attempts that could not say so themselves.

        Nothing is marked where the run is finished, or was never tried.

        Args:
            message: One line for tables.
            place: Where it happened, for the log of the newest attempt.
        """
        number = max(self._numbers(), default=0)
        if number and self.accepted() is None:
            newest = Attempt(self, number, None)
            newest.log(f"given up: {message} {place}".rstrip())
            newest.note(state=RunState.FAILED, message=" ".join(message.split()))

    def pause(self, attempt: Attempt, message: str = "") -> None:
        """Mark the run as stopped on purpose, at a checkpoint from which it can go on."""
        attempt.log_once(f"paused: {message}".rstrip(": "))
        attempt.note(state=RunState.PAUSED, message=" ".join(message.split()))

    # -- results -------------------------------------------------------------------------------

    def rows(self) -> list[dict[str, Any]]:
        """The run's curve, in order of steps, each step once.

        It is the curve of the accepted attempt, else of the newest one: its own rows, and before
        the step that it resumed from the rows of the attempt that it resumed from, and so on.
        Rows that an attempt wrote past the checkpoint that was resumed from are left out, as the
        later attempt did those steps again. Undefined and infinite numbers are NaN. Parts that are
        damaged are left out.
        """
        accepted, begun = self.accepted(), self._begun()
        number = max(begun, default=0) if accepted is None else int(accepted["attempt"])
        rows = None if accepted is None else read_rows(self.attempt_folder(number) / "curve.json")
        if rows is None:
            rows = self._joined(number) if number in begun else []
        return [
            {key: math.nan if value is None else value for key, value in row.items()}
            for row in rows
        ]

    def costs(self) -> list[dict[str, Any]]:
        """What each attempt last said of its cost, with its number under ``attempt``.

        One that was killed said so with its newest checkpoint.

        What is neither a number nor text is left out, as is a file that is damaged.
        """
        costs = []
        for number in self._begun():
            cost = read_json_or_none(self.attempt_folder(number) / "cost.json")
            if isinstance(cost, dict):
                plain = {
                    key: math.nan if value is None else value
                    for key, value in cost.items()
                    if value is None or isinstance(value, str) or is_number(value)
                }
                costs.append({**plain, "attempt": number})
        return costs

    def keep_weights(self, epoch: int, payload: bytes) -> None:
        """Keep the weights of a scored epoch; once an attempt is accepted they change no more."""
        if self.accepted() is not None:
            return
        path = self.weights_path(epoch)
        with explained(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, payload)

    def read_weights(self, epoch: int) -> bytes:
        """The weights of a scored epoch.

        Raises:
            StorageTrouble: They cannot be read now.
            UserError: They are not there.
        """
        path = self.weights_path(epoch)
        try:
            return path.read_bytes()
        except OSError as error:
            if (trouble := storage_trouble(error, path)) is not None:
                raise trouble from error
            if not isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
                raise
        raise UserError(
            f"the weights of epoch {epoch} are missing",
            where=str(path),
            hint="the same sweep with --fresh trains this space's runs again",
        )

    # -- within --------------------------------------------------------------------------------

    def _checkpoints(self, number: int) -> AnyPath:
        return self.attempt_folder(number) / "checkpoints"

    def _numbers(self) -> list[int]:
        """Numbers that are taken, in order."""
        names = names_in(self.folder / "attempts")
        return sorted(int(name) for name in names if name.isdecimal())

    def _begun(self, numbers: Sequence[int] | None = None) -> list[int]:
        """Attempts that wrote anything; the first that they write is what they resumed from."""
        kinds = {"attempt.json", "rows", "checkpoints"}
        return [
            number
            for number in (self._numbers() if numbers is None else numbers)
            if not kinds.isdisjoint(names_in(self.attempt_folder(number)))
        ]

    def _joined(self, number: int, written: Written | None = None) -> list[dict[str, Any]]:
        """The curve of an attempt and of those that it resumed from, each step once.

        At the step of the checkpoint that was resumed from both may have rows, or only one of them:
        the checkpoint is written before the epoch is scored. Those of the older attempt count.
        What the attempt itself wrote need not be read where it is still known.
        """
        found: dict[int, list[dict[str, Any]]] = {}
        upto = math.inf
        current: int | None = number
        while current is not None:
            folder = self.attempt_folder(current)
            resumed = self._resumed_from(current) if written is None else written.resumed_from
            after = -1 if resumed is None else resumed[0]
            for step in parts(folder / "rows") if written is None else written.parts:
                if not after <= step <= upto:
                    continue
                path = part_path(folder, step)
                if rows := read_rows(path) if written is None else written.parts[step]:
                    found[step] = rows
            written = None
            upto = min(upto, after)
            current = None if resumed is None else resumed[1]
        return [row for step in sorted(found) for row in found[step]]

    def _resumed_from(self, number: int) -> tuple[int, int] | None:
        """Step and attempt that an attempt resumed from; None for a fresh start."""
        content = read_json_or_none(self.attempt_folder(number) / "attempt.json")
        if isinstance(content, dict) and "resumed_from" in content:
            resumed = content["resumed_from"]
            if resumed is None:
                return None
            if isinstance(resumed, dict):
                step, attempt = resumed.get("step"), resumed.get("attempt")
                if is_count(step) and is_count(attempt) and attempt < number:
                    return step, attempt
        # Damaged. Rows are written at the ends of epochs: those before an attempt's own first ones
        # are before the checkpoint that it resumed from, and are those of the attempt before it.
        before = [n for n in self._begun() if n < number]
        own = parts(self.attempt_folder(number) / "rows")
        return (own[0] - 1 if own else sys.maxsize, before[-1]) if before else None

    @property
    def _accepted_path(self) -> AnyPath:
        return self.folder / "accepted.json"

    def _set_damaged_aside(self) -> list[str]:
        """Make room for what is to be written where something damaged stands; a line for each."""
        status_path = self.folder / "status.json"
        # In a bucket, no folder can be where an object should be.
        in_way = not isinstance(status_path, BucketPath) and status_path.is_dir()
        damaged = [status_path] if in_way else []
        if self._read_accepted()[1]:
            damaged.append(self._accepted_path)
        messages = []
        for path in damaged:
            aside = path.with_name(f"{path.name}.damaged-{secrets.token_hex(4)}")
            with explained(self.folder):
                path.rename(aside)  # type: ignore[arg-type]
            messages.append(f"{path.name} was damaged; it is set aside as {aside.name}")
        return messages

    def _noted(self) -> Status:
        return read_note(self.folder / "status.json")

    def write_status(self, status: Status) -> None:
        """Write a note of how it stands."""
        write_json(self.folder / "status.json", {**asdict(status), "state": status.state.value})

    def _finished(
        self, noted: Status, accepted: Mapping[str, Any], numbers: Sequence[int]
    ) -> Status:
        return replace(
            noted,
            state=RunState.FINISHED,
            attempts=max(numbers, default=0),
            steps=int(accepted["summary"].get("steps", noted.steps)),
            message="",
            accepted_attempt=int(accepted["attempt"]),
        )


def tidy(results: AnyPath, run_ids: Collection[str]) -> None:
    """`RunRecord.tidy` of many runs, all of them accepted."""
    if not isinstance(results, BucketPath):
        for run_id in run_ids:
            RunRecord(results, run_id).tidy()
        return
    folder = results / "runs"
    if len(run_ids) == 1:
        folder = folder / next(iter(run_ids)) / "attempts"
    keys = [entry.key for entry in folder.bucket.below(folder.key) if "/checkpoints/" in entry.key]
    start = len((results / "runs").key) + 1
    folder.bucket.delete([key for key in keys if key[start:].partition("/")[0] in run_ids])


def read_index(results: str | AnyPath) -> list[tuple[str, Status]]:
    """All runs of some results by name, each with its status; empty without a folder."""
    results = any_path(results)
    names = sorted(name for name in folders_in(results / "runs") if name[0] != ".")
    ask = at_once if isinstance(results, BucketPath) else map
    status = ask(lambda name: RunRecord(results, name).status(), names)
    return list(zip(names, status, strict=True))
