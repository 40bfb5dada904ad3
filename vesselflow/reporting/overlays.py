"""Best and worst predictions as pictures: what was found, what was missed, what was made up."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from vesselflow.records.paths import AnyPath
from vesselflow.reporting.style import shorten, text_width
from vesselflow.reporting.sweep_tables import ROLES, SweepTables
from vesselflow.reporting.wording import printable, score_text

#: Colours of an overlay; red and blue are of different lightness too.
TRUE_POSITIVE = (255, 255, 255)
FALSE_POSITIVE = (255, 72, 48)
FALSE_NEGATIVE = (64, 148, 255)
OUTLINE = "#39ff88"
#: Brightness that the image keeps under an overlay.
_DIMMED = 0.45
#: Width of one picture in inches.
_PICTURE = 2.9
_MOST_DOMAINS = 6


@dataclass(frozen=True)
class Preview:
    """One kept prediction.

    Attributes:
        run_id: The run.
        domain: Name of the domain.
        role: "val", "test", "ood", or "" when the file does not say.
        kind: "best" or "worst".
        source_id: The source.
        image: uint8 (h, w, 3).
        probability: uint8 (h, w); 255 is 1.
        target: bool (h, w).
        fov: bool (h, w).
        threshold: ``prediction = probability >= threshold``; NaN when none could be chosen.
        value: `metric` of the image, at the native resolution of its labels.
        metric: The objective's when it was kept.
        kept: bool (h, w), the prediction itself; None in a file that holds none.
        slice_index: Which slice of a volume is shown, counted from 0; None of an image. `value` is
            that of the whole volume.
    """

    run_id: str
    domain: str
    role: str
    kind: str
    source_id: str
    image: np.ndarray
    probability: np.ndarray
    target: np.ndarray
    fov: np.ndarray
    threshold: float
    value: float
    metric: str
    kept: np.ndarray | None = None
    slice_index: int | None = None

    @property
    def caption(self) -> str:
        """Which picture it is: "best: a0004", of a volume "best: a0004, slice 31"."""
        place = "" if self.slice_index is None else f", slice {self.slice_index}"
        return f"{self.kind}: {printable(self.source_id)}{place}"

    @property
    def prediction(self) -> np.ndarray:
        """Bool (h, w), inside the fov; where none was kept, empty without a threshold."""
        # A saturated model's threshold lies between 8-bit steps: only the kept one is right there.
        if self.kept is not None:
            return self.kept & self.fov
        # 8-bit probabilities: the threshold is rounded as they were.
        if np.isnan(self.threshold):
            return np.zeros_like(self.fov)
        return (self.probability >= np.rint(self.threshold * 255)) & self.fov

    def overlay(self) -> np.ndarray:
        """Uint8 (h, w, 3): the dimmed image with hits white, extra pixels red, missed ones blue."""
        prediction, target = self.prediction, self.target & self.fov
        grey = self.image.mean(axis=2, keepdims=True) * _DIMMED
        picture = np.where(self.fov[..., None], grey, grey * 0.4).repeat(3, axis=2)
        picture[prediction & target] = TRUE_POSITIVE
        picture[prediction & ~target] = FALSE_POSITIVE
        picture[~prediction & target] = FALSE_NEGATIVE
        return picture.astype(np.uint8)


def read_previews(run: AnyPath, protocol: str = "") -> list[Preview]:
    """The previews of one run, ``results/runs/<run_id>``; unreadable files are left out.

    Those of one protocol, or of all where none is named. Domain, role and source are read from the
    file where it holds them, else from its name ``<domain>_<best|worst>_<source id>.npz``.
    """
    previews = []
    folder = run / "previews" / protocol if protocol else run / "previews"
    found: list[AnyPath] = sorted(folder.rglob("*.npz"), key=str)
    for path in found:
        preview = _read(path, run.name)
        if preview is not None:
            previews.append(preview)
    return previews


def _slice(file: Mapping[str, np.ndarray]) -> int | None:
    shown = int(file["slice"]) if "slice" in file else -1
    return shown if shown >= 0 else None


def _read(path: AnyPath, run_id: str) -> Preview | None:
    kind = next((word for word in ("best", "worst") if f"_{word}_" in path.stem), "")
    before, _, after = path.stem.partition(f"_{kind}_")
    if not kind:
        return None
    try:
        # Read whole first: numpy leaves the file open when it turns out to be torn.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            preview = Preview(
                run_id=run_id,
                domain=str(file["domain"]) if "domain" in file else before,
                role=str(file["role"]) if "role" in file else "",
                kind=kind,
                source_id=str(file["source_id"]) if "source_id" in file else after,
                image=np.asarray(file["image"], dtype=np.uint8),
                probability=np.asarray(file["probability"], dtype=np.uint8),
                target=np.asarray(file["target"]) > 0,
                fov=np.asarray(file["fov"]) > 0,
                threshold=float(file["threshold"]),
                value=float(file["value"]),
                metric=str(file["metric"]),
                kept=np.asarray(file["prediction"]) > 0 if "prediction" in file else None,
                slice_index=_slice(file),
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        # A picture is an illustration: a torn one must not keep the numbers from being reported.
        return None
    planes = [preview.image[..., 0], preview.probability, preview.target]
    planes += [] if preview.kept is None else [preview.kept]
    return preview if all(plane.shape == preview.fov.shape for plane in planes) else None


def chosen_previews(tables: SweepTables) -> list[tuple[Preview, Preview]]:
    """(best, worst) per domain over the runs of the chosen point, validation left out.

    Test comes before the out-of-distribution domains. Without a chosen point: over all runs.
    """
    runs = tables.complete
    if tables.selected is not None:
        runs = runs[runs["point"] == tables.selected]
    folder = tables.folder.parent / "runs"
    found: dict[tuple[int, str], list[Preview]] = {}
    roles = {domain.name: domain.role for domain in tables.domains if domain.role != "val"}
    better = tables.objective.better
    for run_id, point in runs[["run_id", "point"]].itertuples(index=False):
        for preview in read_previews(folder / str(run_id), tables.protocol(str(point))):
            role = preview.role or roles.get(preview.domain, "")
            if role != "val":
                rank = ROLES.index(role) if role in ROLES else len(ROLES)
                found.setdefault((rank, preview.domain), []).append(preview)
    pairs = []
    for key in sorted(found):
        best = worst = None
        for item in found[key]:
            # Those of another metric, that another sweep over the run kept, cannot be compared.
            if np.isnan(item.value) or item.metric != tables.objective.metric:
                continue
            if item.kind == "best" and (best is None or better(item.value, best.value)):
                best = item
            elif item.kind == "worst" and (worst is None or better(worst.value, item.value)):
                worst = item
        if best is not None and worst is not None:
            pairs.append((best, worst))
    return pairs


def draw_predictions(tables: SweepTables) -> tuple[Figure, pd.DataFrame] | None:
    """The chosen point's best and worst prediction on each domain: image, then overlay.

    Of more than six domains the first are shown; all stand in the numbers. None where no run kept
    previews.
    """
    found = chosen_previews(tables)
    pairs = found[:_MOST_DOMAINS]
    if not pairs:
        return None
    ratios = [max(item.image.shape[0] / item.image.shape[1] for item in pair) for pair in pairs]
    figure, grid = plt.subplots(
        len(pairs),
        4,
        figsize=(4 * _PICTURE, sum(_PICTURE * 0.97 * ratio + 0.24 for ratio in ratios) + 0.65),
        height_ratios=ratios,
        squeeze=False,
        layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.03, wspace=0.01, hspace=0.02),
    )
    for row, pair in zip(grid, pairs, strict=True):
        for index, preview in enumerate(pair):
            left, right = row[2 * index], row[2 * index + 1]
            left.imshow(preview.image)
            if preview.target.any() and not preview.target.all():
                left.contour(preview.target, levels=[0.5], colors=OUTLINE, linewidths=0.45)
            right.imshow(preview.overlay())
            left.set_title(shorten(preview.caption, _PICTURE * 0.9, 8), fontsize=8, pad=3)
            right.set_title(score_text(preview.metric, preview.value), fontsize=8, pad=3)
        label = printable(_domain_label(tables, pair[0]))
        high = _PICTURE * 0.9 * min(item.image.shape[0] / item.image.shape[1] for item in pair)
        row[0].set_ylabel(shorten(label, high, 9, "bold"), fontsize=9, fontweight="bold")
    for place in grid.flat:
        place.set_xticks([])
        place.set_yticks([])
        place.grid(visible=False)
        for spine in place.spines.values():
            spine.set_visible(False)
    handles = [
        Line2D([], [], color=OUTLINE, lw=1.5, label="outline of the target"),
        _patch(TRUE_POSITIVE, "found (true positive)"),
        _patch(FALSE_POSITIVE, "extra (false positive)"),
        _patch(FALSE_NEGATIVE, "missed (false negative)"),
    ]
    title = tables.text(tables.selected) if tables.selected else "all points"
    more = f" (of {len(found)}, the first {len(pairs)})" if len(found) > len(pairs) else ""
    words = f": best and worst prediction of each domain{more}"
    room = 3.8 * _PICTURE - text_width(words, 9)
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=4,
        title=shorten(title, room, 9) + words,
        title_fontsize=9,
    )
    numbers = pd.DataFrame(
        [
            {"domain": item.domain, "kind": item.kind, "source_id": item.source_id}
            | {"run_id": item.run_id, item.metric: item.value, "threshold": item.threshold}
            for pair in found
            for item in pair
        ]
    )
    return figure, numbers


def _domain_label(tables: SweepTables, preview: Preview) -> str:
    matching = [d for d in tables.domains if d.name == preview.domain and d.role != "val"]
    return matching[0].label if matching else preview.domain


def _patch(colour: tuple[int, int, int], label: str) -> Patch:
    face = (colour[0] / 255, colour[1] / 255, colour[2] / 255)
    return Patch(facecolor=face, edgecolor="#555555", linewidth=0.5, label=label)
