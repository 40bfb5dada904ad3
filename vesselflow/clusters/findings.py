"""What a check says of a cluster file: one fault each, with its place and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from vesselflow.clusters.document import Document, Keys
from vesselflow.errors import UserError


class Severity(StrEnum):
    """How much a fault matters."""

    #: It does not work, is not safe, or loses results.
    ERROR = "error"
    #: It works, and costs more, or protects less, than it could.
    WARNING = "warning"


@dataclass(frozen=True)
class Finding:
    """One fault of a cluster file.

    Attributes:
        rule: Short name of the rule, the same for all findings of one kind.
        severity: Whether the file may be used as it is.
        keys: The place in the file; () for the file as a whole.
        what: What is wrong, with the offending value.
        allowed: What would be accepted.
        hint: What to do.
    """

    rule: str
    severity: Severity
    keys: Keys
    what: str
    allowed: str = ""
    hint: str = ""


def error(rule: str, keys: Keys, what: str, *, allowed: str = "", hint: str = "") -> Finding:
    """A fault that must be mended."""
    return Finding(rule, Severity.ERROR, keys, what, allowed, hint)


def warning(rule: str, keys: Keys, what: str, *, allowed: str = "", hint: str = "") -> Finding:
    """A fault that may be left."""
    return Finding(rule, Severity.WARNING, keys, what, allowed, hint)


@dataclass(frozen=True)
class Placed:
    """A finding with its line.

    Attributes:
        finding: What is wrong.
        file: The file as it was named.
        line: Counted from 1; None for the file as a whole.
    """

    finding: Finding
    file: str
    line: int | None

    @property
    def key(self) -> str:
        """The place as a dotted path: "available_node_types.head.resources"."""
        return dotted(self.finding.keys)

    def text(self) -> str:
        """The finding in one line."""
        place = f"{self.file}:{self.line}" if self.line else self.file
        found = self.finding
        where = f"{place}: {self.key}" if self.key else place
        return str(UserError(found.what, where=where, allowed=found.allowed, hint=found.hint))

    def row(self) -> dict[str, object]:
        """For machines."""
        found = self.finding
        return {
            "severity": found.severity.value,
            "rule": found.rule,
            "file": self.file,
            "line": self.line,
            "key": self.key,
            "what": found.what,
            "allowed": found.allowed,
            "hint": found.hint,
        }


def dotted(keys: Keys) -> str:
    """A place as a dotted path; indices stand in brackets: "setup_commands[2]"."""
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


def placed(findings: Iterable[Finding], document: Document) -> list[Placed]:
    """Findings with their lines: errors first, then by line; equal ones once.

    What several kinds of nodes share (by an anchor) is said once, of the first of them.
    """
    seen: set[tuple[object, ...]] = set()
    rows: list[Placed] = []
    for found in findings:
        line = document.line(found.keys)
        last = found.keys[-1] if found.keys else ""
        same = (
            (found.rule, found.what, line, last) if line else (found.rule, found.what, found.keys)
        )
        if same not in seen:
            seen.add(same)
            rows.append(Placed(found, str(document.path), line))
    rows.sort(key=lambda row: (row.finding.severity is not Severity.ERROR, row.line or 0))
    return rows
