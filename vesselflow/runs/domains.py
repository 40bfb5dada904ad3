"""Named data sets on which runs are scored, and the names of their evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vesselflow.config.fingerprint import digest

#: Roles of a domain: `val` makes every choice, `test` and `ood` take part in none.
ROLES = ("val", "test", "ood")


@dataclass(frozen=True)
class Domain:
    """A set of sources of one store, in one role.

    Attributes:
        name: As the space calls it; the training store's name for `val` and `test`.
        role: `val`, `test` or `ood`.
        store: Key of the store.
        sources: Indices of the sources in the store, ascending.
        digest: Over the contents of those sources, in order, and the size of their pixels where
            it matters.
        scale: Working px per native px, where the store has one of its own.
    """

    name: str
    role: str
    store: str
    sources: tuple[int, ...]
    digest: str
    scale: float | None = None


def make_domain(
    name: str,
    role: str,
    store: str,
    sources: Sequence[int],
    digests: Sequence[str],
    *,
    pixels: Sequence[Any] | None = None,
    scale: float | None = None,
) -> Domain:
    """Name a domain by the contents of its sources (``digests[i]`` belongs to source ``i``).

    Args:
        name: As the space calls it.
        role: `val`, `test` or `ood`.
        store: Key of the store.
        sources: Indices of its sources.
        digests: Of all sources of the store.
        pixels: Of all sources of the store: what decides the size of their working px besides the
            run's own name; None for nothing.
        scale: Working px per native px, where the store has one of its own.
    """
    chosen = tuple(sorted(sources))
    parts: list[Any] = [digests[index] for index in chosen]
    if pixels is not None:
        parts.append({"pixels": [pixels[index] for index in chosen]})
    return Domain(name, role, store, chosen, digest(parts), scale)
