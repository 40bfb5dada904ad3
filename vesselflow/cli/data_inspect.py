"""What `vesselflow data inspect` says about a store: numbers for each source, and for all."""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vesselflow.cli.data_distances import distance_text, nearest, spacing_text, spread
from vesselflow.cli.data_points import Distances, classes_table, per_patch
from vesselflow.stores.store import SUSPICIONS, suspicions

if TYPE_CHECKING:
    from vesselflow.stores.store import SourceInfo, Store


def counted(sources: int) -> str:
    """A number of sources in words."""
    return f"{sources} source" if sources == 1 else f"{sources} sources"


def measure(store: Store, source: SourceInfo) -> dict[str, Any]:
    """What `inspect` says about a source; shares are of pixels (a fov is never empty)."""
    fov = store.fov(source.index).astype(bool)
    values = dataclasses.asdict(source)
    values["shape"] = source.shape
    values["fov_share"] = float(fov.mean())
    target = None
    if store.kind == "patch":
        target = store.target(source.index)
        values |= _mask_shares(store, target, fov)
    else:
        values |= _keypoint_values(store, source, fov)
    held = store.keypoints(source.index) if store.kind == "keypoint" else None
    values["suspicions"] = suspicions(store.image(source.index), target, fov, held)
    return values


def _mask_shares(store: Store, target: Any, fov: Any) -> dict[str, Any]:
    """What of the fov is vessel, and of which class where there are several."""
    layout = store.layout
    vessel = target.astype(bool)
    values: dict[str, Any] = {}
    if layout.target != "binary":
        masks = [
            target[..., number] > 0 if layout.target == "planes" else target == number + 1
            for number in range(len(layout.classes))
        ]
        shares = (float(mask[fov].mean()) for mask in masks)
        values["class_shares"] = dict(zip(layout.classes, shares, strict=True))
        vessel = vessel.any(axis=-1) if layout.target == "planes" else vessel
    values["vessel_share"] = float(vessel[fov].mean())
    values["target_px_outside_fov"] = int((vessel & ~fov).sum())
    return values


def _keypoint_values(store: Store, source: SourceInfo, fov: Any) -> dict[str, Any]:
    import numpy as np

    held = store.keypoints(source.index)
    shape = np.asarray(fov.shape)
    cells = np.clip(np.rint(held.positions).astype(int), 0, shape - 1)
    inside = fov[tuple(cells.T)]
    distances = nearest(held, source.spacing_um)
    return {
        "keypoints": dict(zip(store.layout.classes, source.keypoint_counts, strict=True)),
        "keypoints_outside_fov": int(len(held) - inside.sum()),
        "nearest_neighbour": spread(distances),
        "nearest_neighbour_unit": "px" if source.spacing_um is None else "um",
    }


def summary(
    store: Store,
    rows: list[dict[str, Any]],
    distances: Distances,
    patch: Sequence[int] | None = None,
) -> dict[str, Any]:
    """All that `inspect --json` prints.

    Args:
        store: An open store.
        rows: Of `measure`.
        distances: Of `apart`.
        patch: Sides of patches in which keypoints are counted.
    """
    values = {
        "path": str(store.path),
        "bytes": store.nbytes,
        "files": len(store.shards),
        "kind": store.kind,
        "domain": store.domain,
        "digest": store.digest,
        "importer": store.importer,
        "layout": store.layout.plain(),
        "groups": len({row["group"] for row in rows}),
        "splits": dict(Counter(row["split"] for row in rows)),
    }
    if store.kind == "keypoint":
        held = {} if patch is None else per_patch(store, patch)
        values["keypoints"] = {
            name: {
                "total": sum(row["keypoints"][name] for row in rows),
                "per_source": spread([row["keypoints"][name] for row in rows]),
                "next_of_class": spread(distances[name]),
                **({"per_patch": held[name]} if name in held else {}),
            }
            for name in store.layout.classes
        }
        known = all(row["spacing_um"] for row in rows)
        values["next_of_class_unit"] = "um" if known else "px"
    return {**values, "sources": rows}


def print_table(
    store: Store,
    rows: list[dict[str, Any]],
    distances: Distances,
    patch: Sequence[int] | None = None,
) -> None:
    """The table of a store, a row for each source; of keypoints one with a row for each class.

    Args:
        store: An open store.
        rows: Of `measure`.
        distances: Of `apart`.
        patch: Sides of patches in which keypoints are counted.
    """
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from vesselflow.cli.output import Output

    splits = Counter(row["split"] or "no split" for row in rows)
    parts = ", ".join(f"{count} {name}" for name, count in sorted(splits.items()))
    files = f" in {len(store.shards)} files" if store.seal else ""
    table = Table(
        title=f"{escape(store.domain)}: {counted(len(rows))}, {parts}",
        caption=f"digest {store.digest}, {store.nbytes / 1e6:.1f} MB{files}",
        box=box.SIMPLE_HEAD,
    )
    for name in ("source", "group", "split"):
        table.add_column(name)
    columns = _columns(store, rows)
    for name in columns:
        table.add_column(name, justify="right")
    marked = any(row["suspicions"] for row in rows)
    if marked:
        table.add_column("suspicious", style="red")
    for number, row in enumerate(rows):
        table.add_row(
            escape(row["id"]),
            escape(row["group"]),
            row["split"] or "-",
            *(escape(cells[number]) for cells in columns.values()),
            *([", ".join(row["suspicions"])] if marked else []),
        )
    # Into a pipe or file: wide enough that no row is broken.
    Output(width=None if sys.stdout.isatty() else 160).print(table)
    if store.kind == "keypoint":
        classes_table(store, rows, distances, patch)
    for line in _remarks(store, rows):
        print(line)
    kinds = {kind for row in rows for kind in row["suspicions"]}
    for kind, text in SUSPICIONS.items():
        if kind in kinds:
            print(f"{kind}: {text}")


def _columns(store: Store, rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Heading -> a cell for each row, of all that is a number."""
    volume = store.layout.dims == 3
    sizes = "width x height x depth" if volume else "width x height"
    found = {sizes: [" x ".join(map(str, row["shape"][::-1])) for row in rows]}
    if any(row["spacing_um"] for row in rows):
        found["um per voxel" if volume else "um per px"] = [
            spacing_text(row["spacing_um"]) for row in rows
        ]
    found["fov %"] = [f"{100 * row['fov_share']:.1f}" for row in rows]
    if store.kind == "keypoint":
        for name in store.layout.classes:
            # Many files number their classes.
            heading = f"class {name}" if name.isdecimal() else name
            found[heading] = [str(row["keypoints"][name]) for row in rows]
        found["nearest neighbour"] = [
            distance_text(row["nearest_neighbour"], row["spacing_um"]) for row in rows
        ]
    else:
        for name in store.layout.classes if store.layout.target != "binary" else ():
            found[f"{name} % of fov"] = [f"{100 * row['class_shares'][name]:.1f}" for row in rows]
        if store.layout.target == "binary":
            found["vessel % of fov"] = [f"{100 * row['vessel_share']:.1f}" for row in rows]
    found["digest"] = [row["digest"][:10] for row in rows]
    return found


def _remarks(store: Store, rows: list[dict[str, Any]]) -> list[str]:
    """Lines under the table of a keypoint store: what is rendered, what is outside the fov."""
    if store.kind != "keypoint":
        return []
    layout = store.layout
    sigmas = []
    if layout.ds_sigma is not None:
        sigmas.append(f"ds_sigma {layout.ds_sigma}")
    if layout.sigma_angstrom is not None:
        sigmas.append(f"sigma_angstrom {layout.sigma_angstrom}")
    total = sum(sum(row["keypoints"].values()) for row in rows)
    lines = [f"{total} keypoints; ds_factor {layout.ds_factor}, {', '.join(sigmas) or 'no sigma'}"]
    outside = sum(row["keypoints_outside_fov"] for row in rows)
    if outside:
        lines.append(f"{outside} keypoint(s) lie outside the fov")
    return lines
