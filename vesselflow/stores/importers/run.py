"""From a folder to a store: list, read, write."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vesselflow.stores.importers import IMPORTERS
from vesselflow.stores.importers.listing import Listing
from vesselflow.stores.importers.read import Progress, read_sources
from vesselflow.stores.schema import Source
from vesselflow.stores.writer import write_store


@dataclass(frozen=True)
class Imported:
    """What an import made.

    Attributes:
        digest: Logical digest of the store.
        sources: How many.
        notes: What the user should know: files passed over, how fovs were found.
    """

    digest: str
    sources: int
    notes: tuple[str, ...]


def import_store(
    layout: str,
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    arguments: Mapping[str, Any] | None = None,
    *,
    domain: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Imported:
    """Import a folder of images into a new store.

    Args:
        layout: Name of an importer.
        source: The folder, read where it is.
        out: The store to make.
        arguments: Arguments of the importer; the rest are its defaults.
        domain: Name of the data set; default the layout's name, for "folder" the folder's.
        overwrite: Replace a store that is there.
        progress: Called after each source.

    Raises:
        UserError: anything wrong with the folder, its files, the arguments or `out`.
    """
    spec = IMPORTERS.validate({"name": layout, **(arguments or {})})
    folder = Path(source)
    listing: Listing = IMPORTERS.build(spec, source=folder)
    kinds: Counter[str] = Counter()

    def counted() -> Iterator[Source]:
        for item in read_sources(listing, progress):
            kinds[item.lineage["fov"]] += 1
            yield item

    default = folder.resolve().name if layout == "folder" else layout
    digest = write_store(
        out,
        counted(),
        domain=domain or default,
        importer=_without_paths(spec),
        overwrite=overwrite,
    )
    notes = list(listing.notes)
    if kinds["estimated"]:
        notes.append(f"no fov mask: estimated from the image for {kinds['estimated']} source(s)")
    if kinds["full"]:
        notes.append(f"no fov mask: every pixel counts in {kinds['full']} source(s)")
    return Imported(digest, len(listing.items), tuple(notes))


def _without_paths(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The importer's name and arguments; of absolute paths only the last name is kept."""
    return {
        key: Path(value).name if isinstance(value, str) and os.path.isabs(value) else value
        for key, value in spec.items()
    }
