"""From a space and its stores to runs with names: pure, but for reading the stores' heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vesselflow.config.experiment import Experiment
from vesselflow.config.fingerprint import canonical_json, digest, run_identity
from vesselflow.config.grid import Point
from vesselflow.config.space import Space
from vesselflow.feed.folds import Fold, check_leaks, make_folds
from vesselflow.feed.view import View
from vesselflow.runs.domains import Domain, make_domain
from vesselflow.runs.registries import REGISTRIES

if TYPE_CHECKING:
    from vesselflow.stores.store import SourceInfo

#: Whole images are padded to multiples of this many pixels: enough for encoders of depth 5.
DIVISOR_PX = 32


@dataclass(frozen=True)
class StoreFacts:
    """What planning needs to know of a store; its digest is empty until it is made."""

    name: str
    path: Path
    digest: str
    sources: tuple[SourceInfo, ...]

    @property
    def index(self) -> dict[str, int]:
        """Source id -> index in the store."""
        return {source.id: source.index for source in self.sources}

    def part_digests(self) -> list[str]:
        """Digest of each source's name and content, by index: what its scores depend on."""
        return [digest([source.id, source.digest]) for source in self.sources]


@dataclass(frozen=True)
class RunSpec:
    """One run: all that a worker needs to know, and nothing about where it runs.

    Attributes:
        run_id: Name by content.
        point: Name of the (first) point that it belongs to.
        params: The point's axis values.
        fold: Index of the fold.
        seed: Seed of the run.
        experiment: Resolved experiment.
        identity: What was hashed.
        train: Source indices of the training part in the training store.
        domains: `val` first, then `test`, then the out-of-distribution stores.
    """

    run_id: str
    point: str
    params: Mapping[str, Any]
    fold: int
    seed: int
    experiment: Experiment
    identity: Mapping[str, Any]
    train: tuple[int, ...]
    domains: tuple[Domain, ...]

    @property
    def label(self) -> str:
        """What a person calls the run."""
        return f"{self.point} fold {self.fold} seed {self.seed}"


@dataclass(frozen=True)
class PointRun:
    """A cell of the table: one point's run on one fold with one seed."""

    point: Point
    spec: RunSpec


def view_of(experiment: Experiment) -> View:
    """How sources of any store become samples and whole images for this experiment."""
    data, scheme = experiment.data, experiment.normalise
    return View(
        working_size_px=data.working_size_px,
        patch=data.patch,
        stride=data.stride,
        min_fov=data.min_fov,
        divisor=DIVISOR_PX,
        scope=scheme.scope,
        method=scheme.method,
        per_channel=scheme.per_channel,
    )


def folds_of(
    experiment: Experiment, stores: Mapping[str, StoreFacts], split_file: Path | None = None
) -> list[Fold]:
    """The folds of the training store; leaks within it and to the OOD stores are errors."""
    sources = stores[experiment.data.train].sources
    split = experiment.split
    folds = make_folds(
        sources,
        folds=split.folds,
        val_fraction=split.val_fraction,
        test=split.test,
        seed=split.seed,
        predefined=split_file,
    )
    check_leaks(
        folds,
        sources,
        {name: stores[name].sources for name in experiment.data.ood},
        store=f"the store '{experiment.data.train}'",
    )
    return folds


def domains_of(
    experiment: Experiment, fold: Fold, stores: Mapping[str, StoreFacts]
) -> tuple[Domain, ...]:
    """`val` and `test` of the fold, and every out-of-distribution store whole."""
    train = stores[experiment.data.train]
    index, digests = train.index, train.part_digests()
    inside = [
        make_domain(train.name, role, train.name, [index[name] for name in part], digests)
        for role, part in (("val", fold.val), ("test", fold.test))
        if part
    ]
    outside = [
        make_domain(
            name, "ood", name, range(len(stores[name].sources)), stores[name].part_digests()
        )
        for name in experiment.data.ood
    ]
    return (*inside, *outside)


def split_key(experiment: Experiment) -> str:
    """Points with the same key share their folds."""
    data = experiment.data
    return canonical_json([experiment.split.model_dump(mode="json"), data.train, sorted(data.ood)])


def make_runs(
    space: Space, folds: Mapping[str, Sequence[Fold]], stores: Mapping[str, StoreFacts]
) -> list[PointRun]:
    """All cells of the sweep: points x folds x seeds, in this order.

    Args:
        space: The space.
        folds: `split_key` of an experiment -> its folds.
        stores: Facts of every store in use.
    """
    cells = []
    for point, number, seed in space.runs():
        experiment = point.experiment
        train = stores[experiment.data.train]
        fold = folds[split_key(experiment)][number]
        identity = run_identity(
            experiment,
            seed=seed,
            store_digest=train.digest,
            split_digest=fold.digest,
            registries=REGISTRIES,
        )
        spec = RunSpec(
            run_id=digest(identity),
            point=point.name,
            params=dict(point.params),
            fold=fold.index,
            seed=seed,
            experiment=experiment,
            identity=identity,
            train=tuple(sorted(train.index[name] for name in fold.train)),
            domains=domains_of(experiment, fold, stores),
        )
        cells.append(PointRun(point, spec))
    return cells
