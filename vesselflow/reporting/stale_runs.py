"""The runs of a results folder that were made by parts that were mended since."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

from vesselflow.config.yaml_files import parse_yaml
from vesselflow.errors import UserError
from vesselflow.records.atomic import read_json_or_none
from vesselflow.records.paths import AnyPath, BucketPath, at_once, folders_in
from vesselflow.records.runs import RunRecord
from vesselflow.runs.registries import REGISTRIES
from vesselflow.runs.stale import Mended, mended_since


@dataclass(frozen=True)
class StaleRun:
    """A run whose numbers are of a part as it was before.

    Attributes:
        run_id: Name of the run.
        state: How it stands.
        mended: The parts; empty where nobody can tell.
        message: Why nobody can tell; "" otherwise.
    """

    run_id: str
    state: str
    mended: tuple[Mended, ...]
    message: str = ""

    def plain(self) -> dict[str, Any]:
        """The run as plain data, for JSON."""
        return {**asdict(self), "mended": [asdict(entry) for entry in self.mended]}


def stale_runs(results: AnyPath, only: Collection[str] | None = None) -> list[StaleRun]:
    """The runs that were made by parts that were mended since, by name.

    Args:
        results: The results folder.
        only: Names of the runs that are looked at; None for all.
    """
    found = folders_in(results / "runs")
    names = sorted(n for n in found if n[0] != "." and (only is None or n in only))
    ask = at_once if isinstance(results, BucketPath) else map
    looked = ask(lambda name: _looked(RunRecord(results, name)), names)
    return [run for run in looked if run is not None]


def _looked(record: RunRecord) -> StaleRun | None:
    try:
        config = parse_yaml(record.config_path.read_text(encoding="utf-8"), where="config.yaml")
    except FileNotFoundError:
        return None  # Claimed, and never begun.
    except (UserError, ValueError) as error:
        return _unknown(record, f"its config.yaml is damaged ({error})")
    identity = read_json_or_none(record.folder / "identity.json")
    if not isinstance(config, dict) or not isinstance(identity, dict):
        return _unknown(record, "its config.yaml or identity.json is damaged")
    try:
        mended = mended_since(config, identity, REGISTRIES)
    except UserError as error:
        return _unknown(record, f"made by another version of vesselflow ({error})")
    if not mended:
        return None
    return StaleRun(record.run_id, record.status().state.value, tuple(mended))


def _unknown(record: RunRecord, message: str) -> StaleRun:
    line = " ".join(message.split())
    return StaleRun(record.run_id, record.status().state.value, (), line)
