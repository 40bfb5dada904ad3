"""What a check says of a cluster file: one fault each, with its place and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
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
        also: Other kinds of nodes of which the same is to be said, at lines of their own.
    """

    finding: Finding
    file: str
    line: int | None
    also: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The place as a dotted path: "available_node_types.head.resources"."""
        return dotted(self.finding.keys)

    def text(self) -> str:
        """The finding in one line."""
        place = f"{self.file}:{self.line}" if self.line else self.file
        found = self.finding
        where = f"{place}: {self.key}" if self.key else place
        text = str(UserError(found.what, where=where, allowed=found.allowed, hint=found.hint))
        return f"{text}; likewise {', '.join(self.also)}" if self.also else text

    def row(self) -> dict[str, object]:
        """For machines."""
        found = self.finding
        return {
            "severity": found.severity.value,
            "rule": found.rule,
            "file": self.file,
            "line": self.line,
            "key": self.key,
            "also": list(self.also),
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
    """Findings with their lines: errors first, then by line.

    What kinds of nodes share by an anchor stands in one line of the file, and is said once; what
    each of them lacks in a line of its own is said of the first, and names the others.
    """
    rows: list[Placed] = []
    known: dict[tuple[object, ...], int] = {}
    for found in findings:
        line = document.line(found.keys)
        of_kind = found.keys[:1] == ("available_node_types",) and len(found.keys) > 1
        same = (found.rule, found.what, found.allowed)
        at_line = (*same, "line", line)
        at_key = (*same, "key", found.keys[2:] if of_kind else found.keys)
        if line and at_line in known:
            continue
        if at_key in known:
            row = rows[known[at_key]]
            rows[known[at_key]] = replace(row, also=(*row.also, *map(str, found.keys[1:2])))
            continue
        known[at_line] = known[at_key] = len(rows)
        rows.append(Placed(found, str(document.path), line))
    return sorted(rows, key=lambda row: (row.finding.severity is not Severity.ERROR, row.line or 0))
