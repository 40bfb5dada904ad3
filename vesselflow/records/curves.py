"""The files of a curve: its parts, as they are measured, and the joined curve of an attempt."""

from __future__ import annotations

from typing import Any, TypeGuard

from vesselflow.records.atomic import read_json_or_none
from vesselflow.records.paths import AnyPath, names_in


def part_path(attempt_folder: AnyPath, step: int) -> AnyPath:
    """The file of what was measured at a step."""
    return attempt_folder / "rows" / f"{step:010d}.json"


def parts(folder: AnyPath) -> list[int]:
    """Steps of the parts in a folder, in order."""
    steps = (name.removesuffix(".json") for name in names_in(folder) if name.endswith(".json"))
    return sorted(int(step) for step in steps if step.isdecimal())


def read_rows(path: AnyPath) -> list[dict[str, Any]] | None:
    """Rows of a curve's file; None when the file is not there, or holds no such list.

    A part of a curve is the list itself; in a joined curve it stands beside the summary.
    """
    return rows_of(read_json_or_none(path))


def rows_of(content: Any) -> list[dict[str, Any]] | None:
    """Rows of what a curve's file holds; None when it holds no such list."""
    rows = content.get("rows") if isinstance(content, dict) else content
    if not isinstance(rows, list):
        return None
    for row in rows:
        if not isinstance(row, dict) or not is_count(row.get("step")):
            return None
        if not all(value is None or is_number(value) for value in row.values()):
            return None
    return rows


def read_summary(path: AnyPath) -> dict[str, Any] | None:
    """The summary beside a joined curve; None when either of them is not whole."""
    content = read_json_or_none(path)
    if read_rows(path) is None or not isinstance(content, dict):
        return None
    summary = content.get("summary")
    whole = isinstance(summary, dict) and is_count(summary.get("steps", 0))
    return summary if whole else None


def is_count(value: Any) -> TypeGuard[int]:
    """Whether it is a whole number of at least 0."""
    return is_number(value) and isinstance(value, int) and value >= 0


def is_number(value: Any) -> bool:
    """Whether it is a number that a column of 64 bits takes; JSON knows no limit."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) < 2**63
