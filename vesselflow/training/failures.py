"""How an error that one rank meets is told to the others, and to the record of the run.

Only text travels: an exception need not be picklable, nor its class be known elsewhere.
"""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vesselflow.errors import VesselflowError

_PACKAGE = Path(__file__).resolve().parents[1]
_LIBRARIES = tuple(
    sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
#: The longest traceback that travels and is logged, in characters; the end of it tells the most.
_LONGEST = 20_000


@dataclass(frozen=True)
class Sign:
    """What tells the kind of one exception of a chain.

    Attributes:
        names: ``module.Class`` of its class and of all its bases.
        text: Its message.
        number: Its `errno`; 0 for none.
    """

    names: tuple[str, ...]
    text: str
    number: int = 0


@dataclass(frozen=True)
class Told:
    """An error, as it is told to others.

    Attributes:
        rank: On which rank it was met.
        text: ``Type: first line of its message``.
        place: ``file:line`` of the innermost line of this package or of a part of the user's; ""
            when there is none.
        signs: The error and what it came from, outermost first.
        trace: The whole traceback.
    """

    rank: int
    text: str
    place: str
    signs: tuple[Sign, ...]
    trace: str


class PeerError(VesselflowError):
    """Another rank met an error, and told it: all ranks left what they did together.

    Args:
        told: Its error.
    """

    def __init__(self, told: Told) -> None:
        self.told = told
        super().__init__(f"rank {told.rank}: {told.text}")

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by what was told."""
        return (PeerError, (self.told,))


def tell(error: BaseException, rank: int = 0) -> Told:
    """Put an error into words; one that another rank told stays as that rank told it."""
    if isinstance(error, PeerError):
        return error.told
    lines = str(error).splitlines() or [""]
    text = f"{type(error).__name__}: {lines[0]}".rstrip(": ")
    trace = "".join(traceback.format_exception(error))
    return Told(rank, text, place_of(error), tuple(signs_of(error)), trace[-_LONGEST:])


def signs_of(error: BaseException) -> Iterator[Sign]:
    """The signs of an error, of its causes, and of what it was raised in the handling of."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop(0)
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, PeerError):
            yield from one.told.signs
            continue
        names = tuple(f"{kind.__module__}.{kind.__qualname__}" for kind in type(one).__mro__)
        number = getattr(one, "errno", None)
        yield Sign(names, str(one), number if isinstance(number, int) else 0)
        # Ray's errors keep what they came from in an attribute of their own.
        inner = getattr(one, "cause", None)
        waiting += [one.__cause__, inner if isinstance(inner, BaseException) else None]
        if not one.__suppress_context__:
            waiting.append(one.__context__)


def place_of(error: BaseException) -> str:
    """Where the error was raised: the innermost line that is no library's."""
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        path = Path(frame.f_code.co_filename)
        if _PACKAGE in path.parents:
            place = f"{path.relative_to(_PACKAGE.parent).as_posix()}:{line}"
        elif path.is_absolute() and not str(path).startswith(_LIBRARIES):
            place = f"{path}:{line}"
    return place
