"""What a run is: one training, with a name. Also its view of the stores, its folds, its domains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vesselflow.config.experiment import Experiment
from vesselflow.config.fingerprint import canonical_json, digest
from vesselflow.errors import UserError, closest
from vesselflow.feed.folds import Fold, check_leaks, make_folds
from vesselflow.feed.view import Around, View
from vesselflow.models.needs import divisor_of
from vesselflow.runs.domains import Domain, make_domain
from vesselflow.runs.initial import Initial, InitialFile
from vesselflow.runs.stacked import Base
from vesselflow.stores.importers.listing import few
from vesselflow.tasks.spec import TaskSpec

if TYPE_CHECKING:
    from vesselflow.stores.layout import Layout
    from vesselflow.stores.store import SourceInfo


@dataclass(frozen=True)
class StoreFacts:
    """What planning needs to know of a store; its digest is empty until it is made.

    Attributes:
        name: In the space.
        path: On this machine.
        digest: Of its content.
        sources: Its images.
        origin: Address in a bucket that it was fetched from; "" without.
        layout: What its sources are made of; None where only the store itself will tell.
    """

    name: str
    path: Path
    digest: str
    sources: tuple[SourceInfo, ...]
    origin: str = ""
    layout: Layout | None = None

    @property
    def axes(self) -> int:
        """Spatial axes of its images; 2 where that is not known yet."""
        return 2 if self.layout is None else self.layout.dims

    @cached_property
    def index(self) -> dict[str, int]:
        """Source id -> index in the store."""
        return {source.id: source.index for source in self.sources}

    @cached_property
    def part_digests(self) -> list[str]:
        """Digest of each source's name and content, by index: what its scores depend on."""
        return [digest([source.id, source.digest]) for source in self.sources]


@dataclass(frozen=True)
class RunSpec:
    """One training: all that a worker needs to know of it, and nothing about where it happens.

    Points that differ only in how they are scored share one; then its experiment is that of the
    first of them, and nothing of it that `identity` leaves out may be looked at.

    Attributes:
        run_id: Name by content.
        label: What a person calls it, by the first point that it belongs to.
        fold: Index of the fold.
        seed: Seed of the run.
        experiment: Resolved experiment.
        identity: What was hashed.
        train: Source indices of the training part in the training store.
        task: What it learns.
        initial: The weights that it begins with; None: its own, of its seed.
        factors: On the probabilities of augmentation, of each source of the training store, by
            index; none: 1.
        stack: Runs whose predictions it is given beside the image.
    """

    run_id: str
    label: str
    fold: int
    seed: int
    experiment: Experiment
    identity: Mapping[str, Any]
    train: tuple[int, ...]
    task: TaskSpec = field(default_factory=TaskSpec)
    initial: Initial | InitialFile | None = None
    factors: tuple[float, ...] = ()
    stack: tuple[Base, ...] = ()

    @property
    def epochs(self) -> tuple[int, ...]:
        """The epochs whose weights are kept and scored, rising."""
        return self.experiment.score.at(self.experiment.train.epochs)


def augment_factors(experiment: Experiment, facts: StoreFacts) -> tuple[float, ...]:
    """Factor on the probabilities of augmentation of each source, by index; none where all are 1.

    Args:
        experiment: The run's.
        facts: Of the training store.

    Raises:
        UserError: A pattern that fits no source, or two that give one source different factors.
    """
    given = experiment.train.augment_by_source
    if not given or not facts.sources:
        return ()
    fitting: dict[int, str] = {}
    for pattern in given:
        found = [
            source.index
            for source in facts.sources
            if any(fnmatchcase(name, pattern) for name in (source.id, source.group))
        ]
        if not found:
            names = dict.fromkeys(source.id for source in facts.sources)
            groups = dict.fromkeys(source.group for source in facts.sources)
            of_groups = "" if groups == names else f", or of groups ({few(groups)})"
            raise UserError(
                f"'{pattern}' fits no source of the store '{facts.name}', nor a group of them",
                where="train.augment_by_source",
                allowed=f"patterns of sources ({few(names)}){of_groups}",
                hint=closest(pattern, [*names, *groups]),
            )
        for index in found:
            other = fitting.setdefault(index, pattern)
            if given[other] != given[pattern]:
                raise UserError(
                    f"'{other}' and '{pattern}' both fit '{facts.sources[index].id}', with factors "
                    f"of {given[other]:g} and {given[pattern]:g}",
                    where="train.augment_by_source",
                    allowed="one factor for each source",
                )
    return tuple(
        given[fitting[source.index]] if source.index in fitting else 1.0 for source in facts.sources
    )


def view_of(
    experiment: Experiment, store: str | None = None, stride: int | tuple[int, ...] = 1
) -> View:
    """How sources of a store become samples and whole images.

    Args:
        experiment: The run's.
        store: Which store; None: the training store.
        stride: Of the model's output, see `TaskSpec.stride`.

    Patches around keypoints are cut in the training store alone.
    """
    data, scheme, sampling = experiment.data, experiment.normalise, experiment.sampling
    around = None
    if sampling["name"] == "keypoint" and store in (None, data.train):
        around = Around(sampling["copies"], sampling["jitter"])
    spacing = data.spacing_um
    return View(
        working_size_px=data.working_size_px,
        patch=data.patch,
        stride=data.stride,
        min_fov=data.min_fov,
        divisor=divisor_of(experiment.model, stride),
        scope=scheme.scope,
        method=scheme.method,
        per_channel=scheme.per_channel,
        spacing_um=(spacing,) if isinstance(spacing, float) else spacing,
        scale=experiment.scale_of(data.train if store is None else store),
        around=around,
    )


def domain_view(experiment: Experiment, domain: Domain, stride: int | tuple[int, ...] = 1) -> View:
    """How a domain is seen; nothing is looked at that the domain's name does not hold."""
    return replace(view_of(experiment, stride=stride), scale=domain.scale)


def pixels_of(experiment: Experiment, facts: StoreFacts) -> list[Any] | None:
    """What decides the size of a working px of each source, beside `data`; None for nothing.

    It enters the names of runs and evaluations: a store's digest holds no spacing.
    """
    scale = experiment.scale_of(facts.name)
    if scale is not None:
        return [{"scale": scale}] * len(facts.sources)
    if experiment.data.spacing_um is not None:
        return [source.spacing_um for source in facts.sources]
    return None


def unlabelled_identity(
    experiment: Experiment, stores: Mapping[str, StoreFacts]
) -> dict[str, Any] | None:
    """What is hashed of the store that is learnt from without labels; None where none is."""
    if experiment.unlabelled is None:
        return None
    facts = stores[experiment.unlabelled]
    pixels = pixels_of(experiment, facts)
    return {"store": facts.digest} | ({} if pixels is None else {"pixels": digest(pixels)})


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
        train_share=split.train_share,
        inner=split.inner,
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
    index, digests = train.index, train.part_digests
    pixels, scale = pixels_of(experiment, train), experiment.scale_of(train.name)
    inside = [
        make_domain(
            train.name,
            role,
            train.name,
            [index[name] for name in part],
            digests,
            pixels=pixels,
            scale=scale,
        )
        for role, part in (("val", fold.val), ("test", fold.test))
        if part
    ]
    outside = [
        make_domain(
            name,
            "ood",
            name,
            range(len(stores[name].sources)),
            stores[name].part_digests,
            pixels=pixels_of(experiment, stores[name]),
            scale=experiment.scale_of(name),
        )
        for name in experiment.data.ood
    ]
    return (*inside, *outside)


def split_key(experiment: Experiment) -> str:
    """Points with the same key share their folds."""
    data = experiment.data
    return canonical_json([experiment.split.model_dump(mode="json"), data.train, sorted(data.ood)])
