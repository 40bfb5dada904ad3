"""Errors that a user sees as one line, and that survive a trip between processes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class VesselflowError(Exception):
    """Base of every error that vesselflow raises on purpose."""


class UserError(VesselflowError):
    """Something the user gave is wrong: one line, exit code 2, no traceback.

    Args:
        what: What is wrong, with the offending value.
        where: File and key ("loss_beta.yaml: loss.beta"), or the path of a file.
        allowed: What would be accepted.
        hint: The next step to take.
    """

    def __init__(self, what: str, *, where: str = "", allowed: str = "", hint: str = "") -> None:
        self.what, self.where, self.allowed, self.hint = what, where, allowed, hint
        super().__init__(what)

    def __str__(self) -> str:
        """Return the one line that the user sees."""
        text = f"{self.where}: {self.what}" if self.where else self.what
        if self.allowed:
            text += f"; allowed: {self.allowed}"
        if self.hint:
            text += f"; {self.hint}"
        return " ".join(text.split())

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by fields, so that type, fields and text are kept across processes."""
        return (_rebuild, (type(self), self.what, self.where, self.allowed, self.hint))


def _rebuild(kind: type[UserError], what: str, where: str, allowed: str, hint: str) -> UserError:
    return kind(what, where=where, allowed=allowed, hint=hint)


class ShapeError(VesselflowError, ValueError):
    """Arrays or tensors whose shapes do not fit each other or the documented shape."""


def closest(name: object, names: Iterable[str]) -> str:
    """Return "did you mean 'x'?" for the nearest of `names`, or "" when none is near."""
    matches = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.6)
    return f"did you mean '{matches[0]}'?" if matches else ""
