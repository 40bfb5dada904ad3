"""Errors that a user sees as one line, and that survive a trip between processes."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator

#: Lines of `UserErrors` that are shown; the rest is counted.
MAX_LINES = 20


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

    def at(self, where: str) -> UserError:
        """The same error with another place."""
        return UserError(self.what, where=where, allowed=self.allowed, hint=self.hint)

    def each(self) -> tuple[UserError, ...]:
        """The single errors: itself, or those that `UserErrors` holds."""
        return (self,)

    def lines(self) -> list[str]:
        """The lines that the user sees."""
        return [str(error) for error in self.each()]


class StorageTrouble(UserError):
    """A disk or bucket does not take, or give, what it should: another try may succeed.

    No space, a quota, a device or a server that does not answer, a permission that was taken away:
    whoever writes something that must not be lost waits and tries again.

    Args:
        what: What is wrong.
        where: The path.
        allowed: As of `UserError`.
        hint: The next step to take.
        number: What the system called it (`errno`); 0 when that is not known.
    """

    def __init__(
        self, what: str, *, where: str = "", allowed: str = "", hint: str = "", number: int = 0
    ) -> None:
        super().__init__(what, where=where, allowed=allowed, hint=hint)
        self.errno = number

    @property
    def path(self) -> str:
        """The path that it happened to."""
        return self.where

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by fields."""
        return (_storage_trouble, (self.what, self.where, self.allowed, self.hint, self.errno))

    def at(self, where: str) -> StorageTrouble:
        """The same trouble with another place."""
        return _storage_trouble(self.what, where, self.allowed, self.hint, self.errno)


class Interrupted(VesselflowError):
    """Somebody asked to stop, and what was under way ended where it can go on later."""

    def __init__(self, message: str = "stopped on request") -> None:
        super().__init__(message)


class UserErrors(UserError):
    """Several things that are wrong, told at once: a line each.

    The fields are those of the first one, for whoever knows of one place only.

    Args:
        errors: One or more, in the order in which they are shown.
    """

    def __init__(self, errors: Iterable[UserError]) -> None:
        self.errors = tuple(single for error in errors for single in error.each())
        first = self.errors[0]
        super().__init__(first.what, where=first.where, allowed=first.allowed, hint=first.hint)

    def __str__(self) -> str:
        """Return the lines, joined."""
        return "\n".join(self.lines())

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by the single errors."""
        return (type(self), (self.errors,))

    def each(self) -> tuple[UserError, ...]:
        """The single errors."""
        return self.errors

    def lines(self) -> list[str]:
        """The first `MAX_LINES` lines, and how many more there are."""
        lines = [str(error) for error in self.errors]
        more = len(lines) - MAX_LINES
        return lines if more <= 0 else [*lines[:MAX_LINES], f"... and {more} more"]


class Faults:
    """Gathers errors, so that a user reads all of them at once.

    Attributes:
        errors: In the order of arrival; of those that say the same of one place, the first.
    """

    def __init__(self) -> None:
        self.errors: list[UserError] = []
        self._known: set[tuple[str, str]] = set()

    def __bool__(self) -> bool:
        return bool(self.errors)

    def add(self, error: UserError) -> None:
        """Take an error, or each that it holds."""
        for single in error.each():
            if (single.where, single.what) not in self._known:
                self._known.add((single.where, single.what))
                self.errors.append(single)

    @contextlib.contextmanager
    def gathered(self) -> Iterator[None]:
        """Take the UserError that ends the block, if one does."""
        try:
            yield
        except UserError as error:
            self.add(error)

    def joined(self) -> UserError:
        """What was gathered (one error or more): one as itself, more as `UserErrors`."""
        return self.errors[0] if len(self.errors) == 1 else UserErrors(self.errors)

    def tell(self) -> None:
        """Raise what was gathered, if anything was."""
        if self.errors:
            raise self.joined()


def _rebuild(kind: type[UserError], what: str, where: str, allowed: str, hint: str) -> UserError:
    return kind(what, where=where, allowed=allowed, hint=hint)


def _storage_trouble(what: str, where: str, allowed: str, hint: str, number: int) -> StorageTrouble:
    return StorageTrouble(what, where=where, allowed=allowed, hint=hint, number=number)


class ShapeError(VesselflowError, ValueError):
    """Arrays or tensors whose shapes do not fit each other or the documented shape."""


def closest(name: object, names: Iterable[str]) -> str:
    """Return "did you mean 'x'?" for the nearest of `names`, or "" when none is near."""
    near = closest_name(name, names)
    return f"did you mean '{near}'?" if near else ""


def closest_name(name: object, names: Iterable[str]) -> str:
    """The nearest of `names`, or "" when none is near."""
    matches = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.6)
    return matches[0] if matches else ""
