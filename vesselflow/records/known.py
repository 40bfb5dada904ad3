"""What is known of many runs at once: read from the index where it holds, else from the records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from vesselflow.records.curves import read_rows
from vesselflow.records.index import Index, Stamp, stamp_of
from vesselflow.records.paths import AnyPath, BucketPath, Looks, Mark, any_path, at_once
from vesselflow.records.runs import RunRecord
from vesselflow.records.status import RunState, Status

#: Of the entries' content: raised whenever `RunRecord` reads something else from the same files.
_VERSION = 1


class KnownRun:
    """What is known of one run: `RunRecord`'s `status`, `rows` and `costs`.

    Attributes:
        fingerprint: Equal for the same content of the same files; None where that cannot be told.
    """

    def __init__(
        self, record: RunRecord, kept: bytes | None = None, fingerprint: bytes | None = None
    ) -> None:
        self._record, self._kept = record, None if kept is None else kept.split(b"\n")
        self.fingerprint = fingerprint

    @property
    def status(self) -> Status:
        """How the run stands."""
        if self._kept is None:
            return self._record.status()
        return Status(**{**json.loads(self._kept[0]), "state": RunState.FINISHED})

    def rows(self) -> list[dict[str, Any]]:
        """The run's curve."""
        return self._record.rows() if self._kept is None else json.loads(self._kept[1])

    def costs(self) -> list[dict[str, Any]]:
        """What each attempt said of its cost."""
        return self._record.costs() if self._kept is None else json.loads(self._kept[2])


class KnownRuns:
    """The runs of a results folder.

    Of a finished run all is kept in the index, and used while every file that it was read from is
    as it was; an unfinished one, or one whose curve is damaged, is read from its record each time.

    Args:
        results: The results folder.
        keep: Whether the index is written; without, nothing in the folder changes.

    Attributes:
        index: To be flushed by whoever reads much.
    """

    def __init__(self, results: str | AnyPath, *, keep: bool = True) -> None:
        self._results = any_path(results)
        self._looks = Looks(self._results / "runs")
        self.index = Index(results, "runs", _VERSION, exists=self._exists, keep=keep)

    def fetch(self, run_ids: Iterable[str]) -> None:
        """Read what the index lacks of some runs of a bucket, many at once."""
        if isinstance(self._results, BucketPath):
            missing = self._missing(run_ids)
            records = [RunRecord(self._results, run_id) for run_id in missing]
            for (run_id, stamp), content in zip(
                missing.items(), at_once(_read, records), strict=True
            ):
                if content is not None:
                    self.index.put(run_id, stamp, content)

    def _missing(self, run_ids: Iterable[str]) -> dict[str, Stamp]:
        stamps = {run_id: _stamp(self._looks, run_id) for run_id in run_ids}
        return {
            run_id: stamp
            for run_id, stamp in stamps.items()
            if stamp is not None and self.index.get(run_id, stamp) is None
        }

    def get(self, run_id: str) -> KnownRun:
        """What is known of a run now; of one that has no record, that it is queued."""
        return KnownRun(RunRecord(self._results, run_id), *self._content(run_id))

    def _exists(self, run_id: str) -> bool:
        return self._looks.mark(run_id) is not None

    def refresh(self) -> None:
        """Look anew at what may have changed."""
        self._looks.refresh()

    def _content(self, run_id: str) -> tuple[bytes | None, bytes | None]:
        """The run's entry, made if need be, and its fingerprint; None for what there is not."""
        try:
            stamp = _stamp(self._looks, run_id)
        except OSError:
            # The record is asked, and says what is wrong.
            return None, None
        if stamp is None:
            return None, None
        content = self.index.get(run_id, stamp)
        if content is not None:
            return content, stamp.digest
        content = _read(RunRecord(self._results, run_id))
        if content is None:
            return None, None
        return content, stamp.digest if self.index.put(run_id, stamp, content) else None


def _read(record: RunRecord) -> bytes | None:
    """Three lines: status, curve, costs; None unless the run is finished and its curve is whole."""
    status, accepted = record.status(), record.accepted()
    if status.state is not RunState.FINISHED or accepted is None:
        return None
    # Without it the curve is put together from parts, of which the stamp knows nothing.
    if read_rows(record.attempt_folder(accepted["attempt"]) / "curve.json") is None:
        return None
    noted = {**asdict(status), "state": status.state.value}
    lines = (noted, record.rows(), record.costs())
    return "\n".join(json.dumps(line) for line in lines).encode("utf-8")


def _stamp(looks: Looks, run_id: str) -> Stamp | None:
    """The stamp of all files that tell of a run; None without an acceptance."""
    accepted = looks.mark(f"{run_id}/accepted.json")
    if accepted is None:
        return None
    folder = f"{run_id}/attempts"
    attempts = looks.names(folder)
    return stamp_of(
        (
            accepted,
            looks.mark(f"{run_id}/status.json"),
            looks.mark(folder),
            *(mark for name in attempts for mark in _attempt(looks, f"{folder}/{name}")),
        )
    )


def _attempt(looks: Looks, folder: str) -> Iterator[Mark | None]:
    # The folder stands for what is in it or not; each file for what is in the file.
    yield looks.mark(folder)
    for name in ("attempt.json", "curve.json", "cost.json"):
        yield looks.mark(f"{folder}/{name}")
