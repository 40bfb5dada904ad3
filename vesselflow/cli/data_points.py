"""What `vesselflow data inspect` says and draws of keypoints: distances, patches, targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vesselflow.cli.data_distances import distance_text, nearest, spread, unit_of

if TYPE_CHECKING:
    from PIL import Image

    from vesselflow.stores.store import Keypoints, SourceInfo, Store

#: Colours of classes, that colour-blind readers can tell apart (Okabe and Ito, 2008).
CLASS_COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 190, 130),
    (240, 228, 66),
    (60, 130, 210),
    (213, 94, 0),
    (204, 121, 167),
)
#: Class -> how far its keypoints are from the next of their class; of none without keypoints.
Distances = Mapping[str, Any]
#: Bars of the histogram of distances.
BARS = 24


def of_class(held: Keypoints, kind: int) -> Keypoints:
    """The keypoints of one class."""
    from vesselflow.stores.store import Keypoints

    own = held.classes == kind
    return Keypoints(held.positions[own], held.classes[own])


def apart(store: Store) -> Distances:
    """How far keypoints are from the next of their class, over all sources; reads all of them.

    Returns:
        float64 (k,) of each class: micrometres, or px where any source has no spacing. Of a store
        without keypoints nothing.
    """
    import numpy as np

    if store.kind != "keypoint":
        return {}
    known = all(source.spacing_um for source in store.sources)
    found: dict[str, list[Any]] = {name: [] for name in store.layout.classes}
    for source in store.sources:
        held = store.keypoints(source.index)
        for kind, name in enumerate(store.layout.classes):
            spacing = source.spacing_um if known else None
            found[name].append(nearest(of_class(held, kind), spacing))
    return {name: np.concatenate([np.zeros(0), *each]) for name, each in found.items()}


def per_patch(store: Store, patch: Sequence[int]) -> dict[str, dict[str, float]]:
    """Class -> how many keypoints patches hold that lie side by side over all of the fov's box.

    Args:
        store: Of keypoints.
        patch: Sides in px, one for each axis.

    Returns:
        Of each class min, median, mean, max, the share of patches without any, and their number.

    Raises:
        UserError: The patch has another number of axes.
    """
    import numpy as np

    from vesselflow.feed.view import View, patch_positions, sample_frames
    from vesselflow.feed.working import working_fov

    view = View(None, tuple(patch), None, 0.0, (1,) * store.layout.dims)
    rows: list[tuple[int, ...]] = []
    for source, at in zip(store.sources, sample_frames(store.sources, view), strict=True):
        low = np.asarray(at.box[: len(patch)]) - np.asarray(at.offset)
        held = store.keypoints(source.index)
        for corner in patch_positions(view, working_fov(store, source.index, at)):
            window = [*(corner + low), *(corner + low + patch)]
            rows.append(held.inside(window).counts(len(store.layout.classes)))
    counts = np.asarray(rows).reshape(len(rows), -1)
    found: dict[str, dict[str, float]] = {}
    for kind, name in enumerate(store.layout.classes):
        own = counts[:, kind]
        found[name] = {
            **(spread(own) or {}),
            "mean": float(own.mean()),
            "empty": float((own == 0).mean()),
            "patches": len(own),
        }
    return found


def classes_table(
    store: Store,
    rows: Sequence[dict[str, Any]],
    distances: Distances,
    patch: Sequence[int] | None,
) -> None:
    """Print a row for each class: how many, in a source and a patch, and how near each other."""
    import sys

    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from vesselflow.cli.output import Output

    held = None if patch is None else per_patch(store, patch)
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("class")
    heads = ["keypoints", "in a source", "next of its class"]
    if patch is not None:
        heads += [f"in a patch of {' x '.join(map(str, patch[::-1]))}", "patches without"]
    for head in heads:
        table.add_column(head, justify="right")
    for name in store.layout.classes:
        counts = [row["keypoints"][name] for row in rows]
        cells = [str(sum(counts)), _range(spread(counts))]
        cells.append(distance_text(spread(distances[name]), _spacing(store)))
        if held is not None:
            share = 100 * held[name]["empty"]
            cells.append(f"{_range(held[name])}, mean {held[name]['mean']:.2f}")
            cells.append(f"{share:.0f} % of {held[name]['patches']:.0f}")
        table.add_row(escape(name), *cells)
    Output(width=None if sys.stdout.isatty() else 160).print(table)


def _range(found: Any) -> str:
    if not found:
        return "-"
    low, high = found["min"], found["max"]
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _spacing(store: Store) -> tuple[float, ...] | None:
    """That by which distances of all sources are told; None where they are in px."""
    known = [source.spacing_um for source in store.sources]
    return None if None in known or not known else known[0]


def rendered(store: Store, source: SourceInfo) -> Any:
    """The target of a whole source on the grid that the store declares.

    Returns:
        float32 (C, *cells), of the width that is trained with where a space names none.
    """
    import torch

    from vesselflow.runs.resolved import declared_width
    from vesselflow.targets.grid import Grid
    from vesselflow.targets.keypoints import Keypoints
    from vesselflow.targets.rendering import render_heatmaps
    from vesselflow.targets.sigma import Sigma

    layout, held = store.layout, store.keypoints(source.index)
    spaced = source.spacing_um is not None
    spacing = torch.tensor(source.spacing_angstrom, dtype=torch.float64) if spaced else None
    cells, angstrom = declared_width(layout, layout.ds_factor, spaced=spaced)
    sigma = Sigma.of(
        axes=layout.dims,
        classes=len(layout.classes),
        ds_sigma=_by_class(cells),
        sigma_angstrom=_by_class(angstrom),
    )
    points = Keypoints.of_samples(
        [torch.from_numpy(held.positions)], [torch.from_numpy(held.classes.astype("int64"))]
    )
    grid = Grid.of(source.shape, layout.ds_factor)
    return render_heatmaps(
        points,
        grid,
        samples=1,
        classes=len(layout.classes),
        sigma=sigma,
        spacing_angstrom=spacing,
    )[0].numpy()


def _by_class(width: Any) -> Any:
    return dict(enumerate(width)) if isinstance(width, list) else width


def target_plane(
    target: Any, source: SourceInfo, axis: int | None, factor: int, size: Sequence[int]
) -> Image.Image:
    """The cells that the plane through the centre cuts, in the colours of their classes.

    Args:
        target: float (C, *cells).
        source: Its source.
        axis: Across which the plane lies; None of an image.
        factor: Voxels of a cell.
        size: (height, width) of the picture of the whole source.
    """
    import numpy as np
    from PIL import Image

    if axis is not None:
        cell = min(source.shape[axis] // 2 // factor, target.shape[axis + 1] - 1)
        target = np.take(target, cell, axis=axis + 1)
    colours = np.array([CLASS_COLOURS[k % len(CLASS_COLOURS)] for k in range(len(target))])
    mixed = np.clip(np.tensordot(target, colours.astype(float), axes=([0], [0])), 0, 255)
    # The last cells may reach beyond the source: the picture ends where the source does.
    kept = [k for k in range(len(source.shape)) if k != axis]
    places = [
        np.minimum(
            ((np.arange(side) + 0.5) * source.shape[k] / side / factor).astype(int),
            mixed.shape[number] - 1,
        )
        for number, (k, side) in enumerate(zip(kept, size, strict=True))
    ]
    return Image.fromarray(np.rint(mixed[np.ix_(*places)]).astype(np.uint8))


def histogram(store: Store, distances: Distances, width: int, height: int) -> Image.Image | None:
    """How far keypoints are from the next of their class; None where no class has two."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    together = np.concatenate([np.zeros(0), *distances.values()])
    if not len(together):
        return None
    unit, scale = unit_of(_spacing(store))
    edges = np.linspace(0, together.max() * scale * (1 + 1e-9) or 1.0, BARS + 1)
    counts = [np.histogram(each * scale, edges)[0] for each in distances.values()]
    picture = Image.new("RGB", (width, height), (250, 250, 248))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(14)
    draw.text((0, 0), f"keypoints by distance to the next of their class, {unit}",
              fill=(60, 60, 60), font=font)  # fmt: skip
    bottom, top = height - 24, 26
    step, most = width / BARS, max(1, max(int(each.max()) for each in counts))
    bar = (step - 3) / len(counts)
    for number, each in enumerate(counts):
        colour = CLASS_COLOURS[number % len(CLASS_COLOURS)]
        for place, count in enumerate(each.tolist()):
            if count:
                left = place * step + number * bar
                high = bottom - (bottom - top) * count / most
                draw.rectangle((left, high, left + bar - 1, bottom), fill=colour)
    draw.line((0, bottom + 1, width, bottom + 1), fill=(150, 150, 150))
    for place in range(0, BARS + 1, 6):
        text = f"{edges[place]:.3g}"
        left = min(place * step, width - draw.textlength(text, font=font))
        draw.text((left, bottom + 4), text, fill=(110, 110, 110), font=font)
    text = f"highest bar: {most}"
    draw.text((width - draw.textlength(text, font=font), 0), text, fill=(110, 110, 110), font=font)
    return picture
