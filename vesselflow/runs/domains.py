"""Named data sets on which runs are scored, and the names of their evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
        digest: Over the contents of those sources, in order.
    """

    name: str
    role: str
    store: str
    sources: tuple[int, ...]
    digest: str


def make_domain(
    name: str, role: str, store: str, sources: Sequence[int], digests: Sequence[str]
) -> Domain:
    """Name a domain by the contents of its sources (``digests[i]`` belongs to source ``i``)."""
    chosen = tuple(sorted(sources))
    return Domain(name, role, store, chosen, digest([digests[index] for index in chosen]))
