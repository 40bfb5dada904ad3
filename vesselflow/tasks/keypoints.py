"""Keypoints: heat-maps on a coarse grid, and the picks that they show."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vesselflow.errors import ShapeError
from vesselflow.feed.view import box_size
from vesselflow.inference.peaks import find_peaks, one_class_each
from vesselflow.inference.picks import Picks, table_of
from vesselflow.inference.whole import predict_working
from vesselflow.metrics.detection import DETECTION
from vesselflow.metrics.detection.best import BETAS, best_thresholds
from vesselflow.metrics.detection.scores import score
from vesselflow.metrics.matches import Matches
from vesselflow.metrics.registry import OF_CLASS
from vesselflow.tasks.pictures import Shown, balls
from vesselflow.tasks.segment import mean_over_classes
from vesselflow.tasks.spec import TaskSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from vesselflow.augment.inputs import DatasetStatistics
    from vesselflow.config.experiment import Experiment
    from vesselflow.feed.batches import WholeImage
    from vesselflow.targets.keypoints import Keypoints
    from vesselflow.targets.sigma import Sigma
    from vesselflow.tasks.task import Judging

#: Peaks below this probability are no picks: what is below it is not seen by average precision.
LEAST_PEAK = 0.01
#: Picks of a class in an image at most, the surest ones.
MOST_PICKS = 10_000
#: Gaussians farther from a patch than this many standard deviations are not rendered: they would
#: add less than 1e-14 to any cell.
REACH = 8.0


@dataclass(frozen=True)
class Found:
    """What is seen in one image.

    Attributes:
        picks: In native voxels; their scores are logits.
        heatmaps: float (C, *cells): probabilities on the coarse grid of the working image.
    """

    picks: Picks
    heatmaps: NDArray[np.float64]


class PickKeypoints:
    """Points of one class or more, as Gaussians on a coarse grid.

    Args:
        spec: The settings.
    """

    def __init__(self, spec: TaskSpec) -> None:
        self.spec = spec

    def supervise(
        self, target: Tensor, fov: Tensor, keypoints: Keypoints | None, spacing: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """See `vesselflow.tasks.task.Task`: rendered heat-maps; cells whose centre is inside."""
        from vesselflow.targets.grid import Grid
        from vesselflow.targets.rendering import render_heatmaps

        if keypoints is None:
            raise ShapeError("a batch without keypoints")
        grid = Grid.of(fov.shape[2:], self.spec.ds_factor)
        sigma = self._sigma()
        near = _near(keypoints, grid, sigma, spacing)
        heatmaps = render_heatmaps(
            near,
            grid,
            samples=len(fov),
            classes=len(self.spec.classes),
            sigma=sigma if near.covariance is None else None,
            spacing_angstrom=spacing,
            combine="sum" if self.spec.combine == "sum" else "max",
            truncate=self.spec.truncate,
        )
        return heatmaps.to(fov.device), _coarse(fov, self.spec.stride)

    def activated(self, logits: Tensor) -> Tensor:
        """See `vesselflow.tasks.task.Task`: as they are."""
        return logits

    def prepared(
        self, keypoints: Keypoints, shape: Sequence[int], spacing: Tensor | None
    ) -> Keypoints:
        """With the shapes of their Gaussians, where augmentation transforms these."""
        from vesselflow.targets.grid import Grid

        if self.spec.rigid:
            return keypoints
        grid = Grid.of(shape, self.spec.ds_factor)
        return replace(keypoints, covariance=self._sigma().covariance(keypoints, grid, spacing))

    def _sigma(self) -> Sigma:
        from vesselflow.targets.sigma import Sigma

        cells, angstrom = self.spec.ds_sigma, self.spec.sigma_angstrom
        return Sigma.of(
            axes=self.spec.axes,
            classes=len(self.spec.classes),
            ds_sigma=None if cells is None else dict(enumerate(cells)),
            sigma_angstrom=None if angstrom is None else dict(enumerate(angstrom)),
        )

    def predict(
        self,
        model: nn.Module,
        whole: WholeImage,
        experiment: Experiment,
        judging: Judging,
        *,
        device: str,
        dataset_statistics: DatasetStatistics | None,
    ) -> Found:
        """Heat-maps of the working image, and their peaks in native voxels."""
        maps = predict_working(
            model,
            whole,
            experiment,
            tta=judging.tta,
            window=judging.window,
            overlap=judging.overlap,
            stride=self.spec.ds_factor,
            device=device,
            dataset_statistics=dataset_statistics,
        )
        probability = _mean_probability(maps)
        inner = np.asarray(whole.inner, np.float64)
        # Native voxels of a working px.
        shrunk = np.asarray(box_size(whole.box), np.float64) / inner
        unit, radii = _radius(judging)
        scale = tuple((shrunk * _unit_spacing(whole, unit)).tolist())
        found = find_peaks(
            probability,
            ds_factor=self.spec.ds_factor,
            threshold=LEAST_PEAK,
            radius_angstrom=radii,
            spacing_angstrom=scale,
            refinement=judging.refinement,  # type: ignore[arg-type]  # one of its choices
            most=MOST_PICKS,
        )
        if judging.exclusive:
            found = one_class_each(found, max(radii), scale)
        low = np.asarray(whole.box[: len(inner)], np.float64)
        places = low + (found.coordinates - np.asarray(whole.offset) + 0.5) * shrunk - 0.5
        kept = inside_fov(places, whole.fov)
        # Where the probability is 1 in float64, the logit is that of its nearest neighbour.
        sure = np.clip(found.score, None, 1 - 2**-53)
        picks = Picks(
            places[kept],
            found.class_index[kept],
            (np.log(sure) - np.log1p(-sure))[kept],
            found.undefined,
        )
        return Found(picks, probability)

    def state(self, prediction: Found, whole: WholeImage, judging: Judging) -> Matches:
        """Picks matched to the keypoints inside the fov."""
        unit, radii = _radius(judging)
        places, classes = truth_of(whole)
        return Matches.of(
            prediction.picks.coordinates,
            prediction.picks.class_index,
            prediction.picks.score,
            places,
            classes,
            classes=len(self.spec.classes),
            radius_voxels=radii if unit == "voxels" else None,
            radius_angstrom=radii if unit == "angstrom" else None,
            spacing_angstrom=whole.spacing_angstrom,
            undefined=prediction.picks.undefined,
        )

    def pooled(self, states: Iterable[Matches]) -> Matches:
        """See `vesselflow.tasks.task.Task`."""
        return Matches.sum(states, len(self.spec.classes))

    def thresholds(self, pooled: Matches, judging: Judging) -> tuple[float, ...]:
        """Where F-beta is highest ("best"), each class by itself, or the logit 0 ("half")."""
        if judging.threshold == "half":
            return (0.0,) * len(self.spec.classes)
        found = best_thresholds(pooled, BETAS[judging.threshold_metric])
        return tuple(found.tolist())

    def scores(
        self, state: Matches, thresholds: Sequence[float], names: Sequence[str]
    ) -> Mapping[str, float]:
        """See `vesselflow.tasks.task.Task`; counts are added over classes, all else is a mean."""
        each = score(state, np.asarray(thresholds, np.float64), names)
        found: dict[str, float] = {}
        for name, values in each.items():
            over = DETECTION.metric(name).over_classes
            found[name] = float(values.sum()) if over == "sum" else mean_over_classes(values)
            if len(values) > 1:
                for kind, value in zip(self.spec.classes, values.tolist(), strict=True):
                    found[f"{name}{OF_CLASS}{kind}"] = value
        return found

    def kept(self, prediction: Found) -> Picks:
        """The picks, in native voxels."""
        return prediction.picks

    def listing(self, kept: Mapping[str, Picks], thresholds: Sequence[float]) -> tuple[str, str]:
        """The picks at or above the threshold of their class, as a CSV."""
        limits = np.asarray(thresholds, np.float64)
        sure = {
            source: Picks(
                picks.coordinates[rows], picks.class_index[rows], picks.score[rows], picks.undefined
            )
            for source, picks in kept.items()
            for rows in [picks.score >= limits[picks.class_index]]
        }
        return ".csv", table_of(sure, self.spec.classes)

    def picture(
        self, prediction: Found, whole: WholeImage, thresholds: Sequence[float], judging: Judging
    ) -> Shown:
        """Picks and keypoints as balls of the radius within which they match."""
        import torch
        from torch.nn import functional

        from vesselflow.inference.whole import box_of_working

        radii = radii_in_voxels(whole, judging)

        def shown(places: NDArray[np.float64], classes: NDArray[Any]) -> NDArray[np.bool_]:
            return balls(places, radii[classes], whole.fov.shape)

        picks = prediction.picks
        sure = picks.score >= np.asarray(thresholds)[picks.class_index]
        surest = torch.from_numpy(np.nan_to_num(prediction.heatmaps).max(axis=0))
        mode = "bilinear" if surest.ndim == 2 else "trilinear"
        working = functional.interpolate(
            surest[None, None], size=list(whole.image.shape[1:]), mode=mode
        )[0, 0]
        return Shown(
            box_of_working(working, whole).numpy(),
            shown(picks.coordinates[sure], picks.class_index[sure]),
            shown(*truth_of(whole)),
        )


def _near(keypoints: Keypoints, grid: Any, sigma: Sigma, spacing: Tensor | None) -> Keypoints:
    """Those whose Gaussian reaches into the patch."""
    import torch

    if not len(keypoints):
        return keypoints
    if keypoints.covariance is None:
        widths = sigma.in_voxels(keypoints, grid, spacing)
    else:
        widths = keypoints.covariance.double().diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()
    reach = REACH * widths
    size = torch.tensor(grid.shape, dtype=torch.float64, device=widths.device)
    places = keypoints.coordinates.double()
    near = ((places >= -reach) & (places <= size - 1 + reach)).all(dim=1)
    if bool(near.all()):
        return keypoints
    covariance = keypoints.covariance
    return replace(
        keypoints,
        coordinates=keypoints.coordinates[near],
        sample=keypoints.sample[near],
        class_index=keypoints.class_index[near],
        covariance=None if covariance is None else covariance[near],
    )


def _coarse(fov: Tensor, stride: int | tuple[int, ...]) -> Tensor:
    """Cells of which at least half lie inside the field of view: (N, 1, *cells), 0 or 1."""
    from torch.nn import functional

    if stride == 1:
        return fov
    pool = functional.avg_pool2d if fov.ndim == 4 else functional.avg_pool3d
    size: Any = stride
    return (pool(fov, size) >= 0.5).float()


def _mean_probability(maps: torch.Tensor) -> NDArray[np.float64]:
    """Of logits (V, C, *cells), over the views, in float64."""
    import torch

    found: NDArray[np.float64] = torch.sigmoid(maps.double()).mean(0).numpy()
    return found


def _radius(judging: Judging) -> tuple[str, tuple[float, ...]]:
    if judging.radius is None:
        raise ShapeError("a protocol of keypoints has a radius")
    return judging.radius


def radii_in_voxels(whole: WholeImage, judging: Judging) -> NDArray[np.float64]:
    """How far a pick may lie from its keypoint, float64 (C, D): native voxels along each axis."""
    unit, radii = _radius(judging)
    return np.asarray(np.asarray(radii)[:, None] / _unit_spacing(whole, unit))


def _unit_spacing(whole: WholeImage, unit: str) -> NDArray[np.float64]:
    """How long a native voxel is along each axis, in the unit of the radius."""
    spacing = whole.spacing_angstrom
    if unit == "voxels":
        return np.ones(whole.fov.ndim)
    if spacing is None:
        return np.full(whole.fov.ndim, math.nan)
    return np.asarray(spacing)


def truth_of(whole: WholeImage) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Keypoints inside the fov: places (k, D) in native voxels, classes (k,)."""
    if whole.keypoints is None:
        raise ShapeError(f"'{whole.source_id}' is of a store without keypoints")
    kept = inside_fov(whole.keypoints.positions, whole.fov)
    return whole.keypoints.positions[kept], whole.keypoints.classes[kept].astype(np.int64)


def inside_fov(places: NDArray[np.float64], fov: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which points lie in a voxel of the field of view."""
    voxels = np.floor(places + 0.5).astype(np.int64)
    inside = np.all((voxels >= 0) & (voxels < fov.shape), axis=1)
    held = np.where(inside[:, None], voxels, 0)
    lit: NDArray[np.bool_] = fov[tuple(held.T)] > 0
    return lit & inside
