"""The best and the worst prediction of a domain, kept for a person to look at."""

from __future__ import annotations

import io
from collections.abc import Collection

import numpy as np
from PIL import Image
from torch import nn

from vesselflow.augment.inputs import DatasetStatistics
from vesselflow.config.experiment import Experiment
from vesselflow.evaluation.evaluated import POOLED, Evaluated
from vesselflow.feed.batches import WholeImage, WholeImages
from vesselflow.feed.view import box_size, slices
from vesselflow.feed.working import resized
from vesselflow.records.atomic import write_bytes
from vesselflow.records.paths import AnyPath, names_in
from vesselflow.runs.domains import Domain
from vesselflow.runs.objective import Objective
from vesselflow.runs.protocols import Protocol
from vesselflow.tasks.spec import TaskSpec
from vesselflow.tasks.task import build_task

#: Previews are reduced until their longer side fits.
LONGEST_PX = 700


def extremes(evaluated: Evaluated, objective: Objective) -> dict[str, tuple[str, float]]:
    """`best` and `worst` -> (source id, value) by the objective's metric of each image.

    Images on which it is undefined are left out; of equals the later name is the best and the
    earlier one the worst, whatever the direction.
    """
    sign = 1.0 if objective.direction == "max" else -1.0
    scores = [
        (sign * value, source, value)
        for source, metric, value in evaluated.rows
        if metric == objective.metric and source != POOLED and not np.isnan(value)
    ]
    if not scores:
        return {}
    return {name: row[1:] for name, row in (("best", max(scores)), ("worst", min(scores)))}


def write_previews(
    folder: AnyPath,
    model: nn.Module,
    images: WholeImages,
    domain: Domain,
    evaluated: Evaluated,
    experiment: Experiment,
    protocol: Protocol,
    objective: Objective,
    *,
    device: str = "cpu",
    dataset_statistics: DatasetStatistics | None = None,
    present: Collection[str] | None = None,
    task: TaskSpec | None = None,
) -> list[AnyPath]:
    """Write `<role>_<domain>_<best|worst>_<source id>.npz`; return their paths.

    Each holds image uint8 (h, w, 3), probability uint8 (h, w), prediction, target and fov uint8
    (h, w), all reduced alike until the longer side is at most `LONGEST_PX` (masks by majority), and
    threshold, metric (the objective's), value, domain, role, source_id, slice (of a volume the one
    with most of the target; -1 of an image). Previews that an earlier evaluation left of this
    domain are replaced; `present` names the files of the folder, where they are known already.
    Where no image has a value nothing is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    by_id = {images[index].source_id: index for index in domain.sources}
    stem = f"{domain.role}_{safe_name(domain.name)}"
    for old in names_in(folder) if present is None else present:
        if old.startswith((f"{stem}_best_", f"{stem}_worst_")) and old.endswith(".npz"):
            (folder / old).unlink(missing_ok=True)
    written = []
    judge = build_task(task)
    for name, (source_id, value) in extremes(evaluated, objective).items():
        whole = images[by_id[source_id]]
        predicted = judge.predict(
            model,
            whole,
            experiment,
            protocol,
            device=device,
            dataset_statistics=dataset_statistics,
        )
        seen = judge.picture(predicted, whole, evaluated.thresholds, protocol)
        fov, picture, shown = whole.fov, native_image(whole), -1
        planes = seen.probability, seen.prediction, seen.target
        if fov.ndim == 3:
            shown = int((seen.target * fov).sum((1, 2)).argmax())
            fov, picture = fov[shown], picture[shown]
            planes = tuple(each[shown] for each in planes)
        probability, prediction, truth = planes
        height, width = fov.shape
        factor = min(1.0, LONGEST_PX / max(height, width))
        size = (max(1, round(width * factor)), max(1, round(height * factor)))

        def reduce(array: np.ndarray, size: tuple[int, int] = size) -> np.ndarray:
            if array.shape[1::-1] == size:
                return array
            return np.asarray(Image.fromarray(array).resize(size, Image.Resampling.BOX))

        arrays = {
            "image": reduce(picture),
            "probability": reduce(np.rint(np.nan_to_num(probability) * 255).astype(np.uint8)),
            # Kept by itself: 8 bits of probability cannot tell what a saturated model predicts.
            "prediction": reduce(prediction.astype(np.uint8) * 255) >= 128,
            "target": reduce(truth.astype(np.uint8) * 255) >= 128,
            "fov": reduce(fov * np.uint8(255)) >= 128,
        }
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            allow_pickle=False,
            **{key: np.asarray(value, dtype=np.uint8) for key, value in arrays.items()},
            threshold=np.float64(evaluated.threshold),
            slice=np.int64(shown),
            metric=np.str_(objective.metric),
            value=np.float64(value),
            domain=np.str_(domain.name),
            role=np.str_(domain.role),
            source_id=np.str_(source_id),
        )
        path = folder / f"{stem}_{name}_{safe_name(source_id)}.npz"
        write_bytes(path, buffer.getvalue())
        written.append(path)
    return written


def native_image(whole: WholeImage) -> np.ndarray:
    """The image as the model saw it, brought back to native size; uint8 (*S, 3)."""
    seen = _shown(whole.image[(slice(None), *slices(whole.offset, whole.inner))])
    if seen.shape[0] != 3:
        seen = np.repeat(seen[:1], 3, axis=0)
    size = box_size(whole.box)
    canvas = np.zeros((*whole.fov.shape, 3), np.uint8)
    planes = [resized(plane, size, Image.Resampling.BILINEAR) for plane in seen]
    canvas[slices(whole.box, size)] = np.stack(planes, axis=-1)
    return canvas


def _shown(image: np.ndarray) -> np.ndarray:
    """An image as uint8: deeper ones from their 1st to their 99th percentile."""
    if image.dtype == np.uint8:
        return image
    low, high = np.nanpercentile(image.astype(np.float64), (1, 99))
    scaled = (image.astype(np.float64) - low) / max(high - low, np.finfo(np.float64).tiny)
    return np.rint(np.clip(np.nan_to_num(scaled), 0, 1) * 255).astype(np.uint8)


def safe_name(text: str) -> str:
    """A name as part of a file's name."""
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in text)
