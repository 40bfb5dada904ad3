"""From a folder to a store: list, read, write."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vesselflow.stores.importers import IMPORTERS
from vesselflow.stores.importers.listing import Conversion, Listing, few, stem_of
from vesselflow.stores.importers.read import Progress, read_sources
from vesselflow.stores.schema import UNLABELLED, Source
from vesselflow.stores.suspicions import Tally, suspicions
from vesselflow.stores.writer import write_store

#: A window that clips more of an image than this is worth a note; hot pixels are less.
CLIPPED_SHARE = 0.01


@dataclass(frozen=True)
class Imported:
    """What an import made.

    Attributes:
        digest: Logical digest of the store.
        sources: How many.
        notes: What the user should know: files passed over, how values became pixels and masks,
            how fovs were found, what looks suspicious.
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
    tally, lineages, unspaced = Tally(), {}, []

    def counted() -> Iterator[Source]:
        for item in read_sources(listing, progress):
            lineages[item.id] = item.lineage
            unspaced.extend([] if item.spacing_um else [item.id])
            target = None if item.lineage.get(UNLABELLED) else item.target
            found = suspicions(item.image, target, item.fov, item.keypoints)
            tally.add(item.id, item.fov.shape, found)
            yield item

    sources = counted()
    held = None
    if listing.layout is not None:
        first = next(sources)
        held = listing.layout(first)
        sources = itertools.chain([first], sources)
    default = layout
    if layout in ("folder", "volume"):
        default = folder.resolve().name if folder.is_dir() else stem_of(folder)
    digest = write_store(
        out,
        sources,
        layout=held,
        domain=domain or default,
        importer=_without_paths(spec),
        overwrite=overwrite,
    )
    notes = [*listing.notes, *_conversion_notes(listing.conversion or Conversion(), lineages)]
    kinds = Counter(lineage["fov"] for lineage in lineages.values())
    if kinds["estimated"]:
        notes.append(f"no fov mask: estimated from the image for {kinds['estimated']} source(s)")
    if kinds["full"]:
        notes.append(f"no fov mask: every pixel counts in {kinds['full']} source(s)")
    if unlabelled := sum(bool(lineage.get(UNLABELLED)) for lineage in lineages.values()):
        notes.append(
            f"no masks: {unlabelled} source(s) can be learnt from as data.unlabelled, and neither "
            "trained on nor scored otherwise"
        )
    if listing.read is not None and unspaced:
        many = f"{len(unspaced)} source(s): {few(unspaced)}"
        notes.append(f"no spacing is known, and none given, for {many}")
    notes += [f"suspicious: {line}" for line in tally.lines()]
    return Imported(digest, len(listing.items), tuple(notes))


def _conversion_notes(
    conversion: Conversion, lineages: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    """To how many sources each rule applied, and what it left out."""
    total = len(lineages)
    if conversion.window is not None:
        deep = {name: entry for name, entry in lineages.items() if "window" in entry}
        low, high = conversion.window
        stay = f", {total - len(deep)} of 8 bits kept as they are" if len(deep) < total else ""
        yield f"values {low:g} to {high:g} became 0 to 255 in {len(deep)} image(s){stay}"
        clipped = [name for name, entry in deep.items() if entry["clipped_share"] > CLIPPED_SHARE]
        if clipped:
            most = max(float(deep[name]["clipped_share"]) for name in clipped)
            yield (
                f"{len(clipped)} image(s) have values beyond {low:g} to {high:g}, clipped in up to "
                f"{100 * most:.0f} % of their pixels: {few(clipped)}"
            )
    if conversion.threshold is not None:
        count = sum("threshold" in entry for entry in lineages.values())
        labels = sum("vessel_values" in entry for entry in lineages.values())
        plain = total - count - labels
        stay = f", {plain} binary already" if plain else ""
        yield f"values of {conversion.threshold:g} or more are vessel in {count} mask(s){stay}"
    if conversion.values is not None:
        named = ", ".join(f"{value}" for value in conversion.values)
        rules = [entry for entry in lineages.values() if "vessel_values" in entry]
        others = {value for entry in rules for value in entry["background_values"]}
        shown = few((f"{value:g}" for value in sorted(others)), 8)
        yield (
            f"values taken for vessel in {len(rules)} mask(s): {named}; "
            f"for background: {shown or 'none'}"
        )
        seen = {value for entry in rules for value in entry["vessel_values"]}
        absent = [value for value in conversion.values if value not in seen]
        if absent:
            yield f"no mask holds the value(s) {', '.join(map(str, absent))}"


def _without_paths(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The importer's name and arguments; of absolute paths only the last name is kept."""
    return {
        key: Path(value).name if isinstance(value, str) and os.path.isabs(value) else value
        for key, value in spec.items()
    }
