"""Trained pickers against the Laplacian of Gaussian at its best, on the same data and scores."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesselflow.bench.blob_sources import Seen, exclusive, joined, of_blobs
from vesselflow.bench.blob_tables import (
    EVERY,
    LOG,
    METRICS,
    OURS,
    WHOLE,
    known,
    means,
    scores_table,
    settings_table,
)
from vesselflow.bench.laplacian import Blobs, Search, Settings, Volume, response, thinned, tops
from vesselflow.config.loading import load_space
from vesselflow.errors import UserError
from vesselflow.evaluation.long_tables import Scored, selected_point
from vesselflow.feed.batches import WholeImage
from vesselflow.feed.local import LocalData
from vesselflow.inference.picks import Picks
from vesselflow.metrics.detection.best import BETAS, best_thresholds
from vesselflow.metrics.detection.scores import fbeta
from vesselflow.metrics.matches import Matches
from vesselflow.runs.cells import Job
from vesselflow.runs.domains import Domain
from vesselflow.runs.registries import REGISTRIES
from vesselflow.stores.store import Store
from vesselflow.sweeps.context import Context, Reports
from vesselflow.sweeps.planning import SweepPlan, plan_sweep, with_stores
from vesselflow.tasks.keypoints import Found, PickKeypoints, radii_in_voxels, truth_of
from vesselflow.tasks.task import build_task
from vesselflow.training.group import Solo
from vesselflow.training.loop import trained_model


def blobs(
    space: str,
    *,
    results: str = "results",
    profile: str | None = None,
    rounds: int = 1,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Score the Laplacian of Gaussian as a sweep's runs are scored, beside its chosen point.

    In each fold sigma, polarity, border, scale and distance are searched for each class on the
    validation volumes, and whether one place may hold picks of several classes; the thresholds are
    chosen there by the sweep's own rule, and all of it is frozen for test and out-of-distribution
    volumes. Where stores say their spacing, sigma is held in angstrom.

    Args:
        space: YAML file of a search space over keypoints.
        results: The results folder; where the sweep has not been run, only its stores are made.
        profile: One of the file's profiles.
        rounds: Not looked at: nothing is timed.
        progress: Called with a line of text as the bench goes on.

    Returns:
        ``rows``, one for each peer, domain and class, means over folds and seeds; ``settings``,
        which were found best; ``tables``, the same as text.

    Raises:
        UserError: The space is not as it must be, or picks no keypoints.
    """
    say = progress or (lambda text: None)
    plan = _planned(space, results, profile, say)
    chosen = selected_point(plan.scored, plan.objective)
    point = plan.cells[0].point if chosen is None else chosen
    members = [row for row in plan.scored if row.cell.point == point]
    task = build_task(members[0].cell.run.task)
    if not isinstance(task, PickKeypoints):
        raise UserError(f"{space} learns to {task.spec.name}", allowed="spaces of keypoints")
    data = LocalData({name: facts.path for name, facts in plan.stores.items()})
    rows: list[dict[str, Any]] = []
    settings: list[dict[str, Any]] = []
    for fold in dict.fromkeys(row.cell.run.fold for row in members):
        own = [row for row in members if row.cell.run.fold == fold]
        bench = _Fold(plan, own[0], task, data, say)
        rows += bench.laplacian()
        settings += bench.settings
        for row in own:
            if row.complete:
                rows += bench.trained(row)
    found = means(rows)
    return {
        "name": "blobs",
        "peers": {},
        "ratios": {},
        "space": Path(space).name,
        "profile": profile,
        "point": None if chosen is None else point,
        "rows": found,
        "folds": [{key: known(value) for key, value in row.items()} for row in rows],
        "settings": settings,
        "tables": [scores_table(found, task.spec.classes), settings_table(settings)],
    }


def _planned(
    space: str, results: str, profile: str | None, say: Callable[[str], None]
) -> SweepPlan:
    say("looking at the space")
    plan = plan_sweep(load_space(space, profile=profile, registries=REGISTRIES), results)
    return with_stores(plan, say)


class _Fold:
    """One fold: what is in it, the search, and both peers' scores."""

    def __init__(
        self,
        plan: SweepPlan,
        row: Scored,
        task: PickKeypoints,
        data: LocalData,
        say: Callable[[str], None],
    ) -> None:
        self._plan, self._task, self._data, self._say = plan, task, data, say
        self._cell = row.cell
        self._context = self._context_of(row)
        self._seen = {domain: self._all(domain) for domain in row.cell.domains}
        self.settings: list[dict[str, Any]] = []

    def _context_of(self, row: Scored) -> Context:
        job = Job((row.cell,), self._plan.objective)
        return Context(job, self._plan.results, self._data, Solo(), Reports(), "cpu", "bench")

    def _all(self, domain: Domain) -> list[Seen]:
        images = self._context.images(domain)
        with Store.open(self._plan.stores[domain.store].path) as store:
            return [self._one(images[index], store.image(index)) for index in domain.sources]

    def _one(self, whole: WholeImage, image: NDArray[Any]) -> Seen:
        volume = Volume.of(image, whole.fov, whole.spacing_angstrom)
        radii = radii_in_voxels(whole, self._cell.protocol)
        return Seen(whole, volume, *truth_of(whole), radii)

    # -- the Laplacian of Gaussian -------------------------------------------------------------

    def laplacian(self) -> list[dict[str, Any]]:
        """Rows of the Laplacian of Gaussian, its places refined and not."""
        chosen = self._searched(self._seen[self._cell.domains[0]])
        beta = BETAS[self._cell.protocol.threshold_metric]
        val = self._cell.domains[0]
        rows: list[dict[str, Any]] = []
        for name in (LOG, WHOLE):
            self._say(f"fold {self._cell.run.fold}: {name}")
            picks = {
                domain: [self._picks(each, chosen, name == LOG) for each in seen]
                for domain, seen in self._seen.items()
            }
            limits = best_thresholds(self._pooled(val, picks[val]), beta)
            # Where classes see each other's particles, the surer one may have the place.
            apart = {
                domain: [
                    exclusive(one, limits, each.radii)
                    for one, each in zip(found, self._seen[domain], strict=True)
                ]
                for domain, found in picks.items()
            }
            other = best_thresholds(self._pooled(val, apart[val]), beta)
            plain, alone = (
                np.nanmean(fbeta(self._pooled(val, found[val]), level, beta))
                for found, level in ((picks, limits), (apart, other))
            )
            if alone > plain:
                picks, limits = apart, other
            for each in self.settings:
                each.setdefault("exclusive", {})[name] = bool(alone > plain)
            for domain, found in picks.items():
                scores = self._task.scores(self._pooled(domain, found), limits.tolist(), METRICS)
                rows += self._rows(name, domain, scores, found, limits.tolist())
        return rows

    def _searched(self, val: Sequence[Seen]) -> list[Settings]:
        """Of each class the settings that are best on validation."""
        volumes = [each.volume for each in val]

        @functools.cache
        def tops_of(sigma: float, bright: bool, mode: str) -> list[Blobs]:
            self._say(f"fold {self._cell.run.fold}: LoG of sigma {sigma:.4g} on validation")
            return [tops(each, bright) for each in responses_of(sigma, mode)]

        @functools.lru_cache(maxsize=2)
        def responses_of(sigma: float, mode: str) -> list[NDArray[np.float32]]:
            return [response(volume, sigma, mode) for volume in volumes]

        beta = BETAS[self._cell.protocol.threshold_metric]
        found = []
        for kind, name in enumerate(self._task.spec.classes):

            def judge(blobs: Sequence[Blobs], kind: int = kind) -> float:
                state = Matches.sum(
                    (self._matched(each, one, kind) for each, one in zip(val, blobs, strict=True)),
                    len(self._task.spec.classes),
                ).of_class(kind)
                return float(fbeta(state, best_thresholds(state, beta), beta)[0])

            search = Search(volumes, [each.radii[kind] for each in val], judge)
            found.append(search.best(tops_of))
            self.settings.append(
                {
                    "fold": self._cell.run.fold,
                    "class": name,
                    **asdict(found[-1]),
                    "unit": "voxels" if val[0].whole.spacing_um is None else "angstrom",
                    "sigma_voxels": found[-1].sigma / float(val[0].volume.unit.min()),
                    "tried": search.tried,
                }
            )
        return found

    def _picks(self, seen: Seen, chosen: Sequence[Settings], fine: bool) -> Picks:
        parts = [
            thinned(
                tops(response(seen.volume, each.sigma, each.mode), each.bright),
                seen.volume,
                each,
                seen.radii[kind],
            )
            for kind, each in enumerate(chosen)
        ]
        return joined([of_blobs(seen, each, kind, fine) for kind, each in enumerate(parts)])

    def _matched(self, seen: Seen, blobs: Blobs, kind: int) -> Matches:
        return self._state(seen, of_blobs(seen, blobs, kind, True))

    def _state(self, seen: Seen, picks: Picks) -> Matches:
        found = Found(picks, np.zeros((0, 0, 0)))
        return self._task.state(found, seen.whole, self._cell.protocol)

    def _pooled(self, domain: Domain, picks: Sequence[Picks]) -> Matches:
        pairs = zip(self._seen[domain], picks, strict=True)
        return self._task.pooled(self._state(seen, each) for seen, each in pairs)

    # -- the sweep -----------------------------------------------------------------------------

    def trained(self, row: Scored) -> list[dict[str, Any]]:
        """Rows of a run: scores out of its tables, isolated keypoints out of its weights."""
        assert row.epoch is not None
        context = self._context_of(row)
        limits = row.evaluated[row.epoch, row.cell.domains[0]].thresholds
        weights = context.record.weights_path(row.epoch).is_file()
        model = None
        if weights:
            channels = int(self._seen[row.cell.domains[0]][0].whole.image.shape[0])
            run = row.cell.run
            payload = context.record.read_weights(row.epoch)
            model = trained_model(run.experiment, channels, run.seed, run.task, payload)
        rows: list[dict[str, Any]] = []
        for domain in row.cell.domains:
            self._say(f"{row.cell.run.label}: {domain.name}, {domain.role}")
            picks = None
            if model is not None:
                picks = [
                    self._task.predict(
                        model,
                        seen.whole,
                        row.cell.run.experiment,
                        row.cell.protocol,
                        device="cpu",
                        dataset_statistics=context.statistics,
                    ).picks
                    for seen in self._seen[domain]
                ]
            evaluated = row.evaluated[row.epoch, domain]
            scores = evaluated.pooled
            rows += self._rows(OURS, domain, scores, picks, limits, seed=row.cell.run.seed)
        return rows

    def _rows(
        self,
        peer: str,
        domain: Domain,
        scores: Mapping[str, float],
        picks: Sequence[Picks] | None,
        thresholds: Sequence[float],
        seed: int | None = None,
    ) -> list[dict[str, Any]]:
        """A row over all classes, and where there are several one for each."""
        errors = np.zeros((0, 2))
        if picks is not None:
            seen = self._seen[domain]
            errors = np.concatenate(
                [
                    each.isolated_errors(one, thresholds)
                    for each, one in zip(seen, picks, strict=True)
                ]
            )
        classes = self._task.spec.classes
        rows = []
        for number, name in enumerate((EVERY, *classes) if len(classes) > 1 else (EVERY,), -1):
            own = range(len(classes)) if number < 0 else (number,)
            distance = [errors[errors[:, 0] == kind, 1] for kind in own]
            errors_of = [float(each.mean()) for each in distance if len(each)]
            suffix = "" if number < 0 else f"/{name}"
            rows.append(
                {
                    "peer": peer,
                    "fold": self._cell.run.fold,
                    "seed": seed,
                    "domain": domain.name,
                    "role": domain.role,
                    "class": name,
                    **{metric: scores.get(f"{metric}{suffix}", math.nan) for metric in METRICS},
                    "threshold": thresholds[number] if number >= 0 else None,
                    # As of every metric: over classes, the mean of those that have one.
                    "isolated_error_voxels": float(np.mean(errors_of)) if errors_of else math.nan,
                    "isolated": sum(map(len, distance)),
                }
            )
        return rows
