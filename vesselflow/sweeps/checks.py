"""What no run would survive, found before the first one: the dry run and the start ask the same.

Imports no Ray, and torch only for encoders of timm (`check_models`, `check_weights`).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vesselflow.config.experiment import Experiment
from vesselflow.config.fingerprint import canonical_json
from vesselflow.config.space import Space
from vesselflow.config.store_specs import StoreSpec
from vesselflow.errors import UserError
from vesselflow.feed.folds import Fold
from vesselflow.feed.layout import Size
from vesselflow.feed.view import (
    Frame,
    View,
    check_spacing,
    frame,
    image_frame,
    most_patches,
    no_samples,
    patch_positions,
    per_axis,
    sample_frames,
    sample_shape,
    told,
)
from vesselflow.feed.working import working_fov
from vesselflow.models import MODELS
from vesselflow.models.needs import (
    VOLUMETRIC,
    axes_of,
    check_places,
    check_presence,
    check_supervision,
    needs,
)
from vesselflow.runs.resolved import task_of
from vesselflow.runs.specs import StoreFacts, augment_factors, split_key, view_of
from vesselflow.stores.schema import SourceInfo

if TYPE_CHECKING:
    from vesselflow.stores.store import Store

#: Sides of a voxel may differ by this factor where its axes are mixed.
MOST_UNEQUAL = 1.05
#: Of a least side.
_IN_ALL = "in height and width"


# -- stores that are not made yet ------------------------------------------------------------------


def planned(declared: StoreSpec, name: str, path: Path, where: str) -> StoreFacts:
    """What is known of a store before it is made: sources and groups, and no digests.

    Raises:
        UserError: The folder that it is to be imported from does not hold what it must.
    """
    if declared.synth is not None:
        from vesselflow.stores.synth import planned_layout, planned_sources

        given = declared.synth.arguments
        layout = planned_layout(given)
        return StoreFacts(name, path, "", planned_sources(given), layout=layout)
    assert declared.importer is not None
    from vesselflow.stores.importers import IMPORTERS
    from vesselflow.stores.importers.listing import Listing

    importer = declared.importer
    spec = IMPORTERS.validate({"name": importer.layout, **(importer.model_extra or {})})
    try:
        listing: Listing = IMPORTERS.build(spec, source=Path(importer.source))
    except UserError as error:
        raise UserError(str(error), where=where) from None
    # Names and groups stand in the file names; the pixels are read when it is made.
    sources = tuple(
        SourceInfo(index, item.id, item.group, item.split, 0, 0, 0, "", "", (0, 0, 0, 0), {})
        for index, item in enumerate(listing.items)
    )
    return StoreFacts(name, path, "", sources)


def with_names_of_pixels(stores: Mapping[str, StoreFacts]) -> dict[str, StoreFacts]:
    """Stores whose leaks can be looked for although some are not made yet.

    A synthetic image is named by what determines it, in stores that are there as well; one that is
    to be imported cannot be compared with any other.
    """
    if all(facts.digest for facts in stores.values()):
        return dict(stores)
    return {name: replace(facts, sources=_named(facts)) for name, facts in stores.items()}


def _named(facts: StoreFacts) -> tuple[SourceInfo, ...]:
    def name(source: SourceInfo) -> str:
        if "synth" in source.lineage:
            return canonical_json(dict(source.lineage))
        return source.image_digest or f"{facts.name}/{source.id}"

    return tuple(replace(source, image_digest=name(source)) for source in facts.sources)


# -- channels, sizes, samples ----------------------------------------------------------------------


def check_channels(space: Space, file: Path, stores: Mapping[str, StoreFacts]) -> None:
    """Refuse a store with other channels than the one that is trained on.

    So are augmentations that images of so many channels cannot have: met in training, at whatever
    progress a schedule switches them on, they would end the run.
    """
    for point in space.expand().points:
        data = point.experiment.data
        trained = _channels(stores[data.train])
        if trained:
            with placed(space, file):
                _check_colours(point.experiment, trained)
        for name in point.experiment.read:
            found = _channels(stores[name])
            if trained and found and found != trained:
                key = "data.ood" if name in data.ood else "data.unlabelled"
                raise UserError(
                    f"images of the store '{name}' have {found} "
                    f"channel{'s' * (found != 1)}, those of '{data.train}' have {trained}",
                    where=place(space, file, key),
                    allowed=f"stores of {trained} channel{'s' * (trained != 1)}",
                    hint="import it again from images of the same kind, or leave it out",
                )


def _check_colours(experiment: Experiment, channels: int) -> None:
    jitter = experiment.augment.get("color_jitter", {})
    if channels != 3 and (jitter.get("saturation") or jitter.get("hue")):
        raise UserError(
            f"saturation and hue need images with 3 channels, these have {channels}",
            where="augment.color_jitter",
            hint="set saturation and hue to 0",
        )
    if channels == 1 and "channel_shuffle" in experiment.augment:
        raise UserError(
            "images of one channel have no order of channels",
            where="augment.channel_shuffle",
            hint="leave it out",
        )


def _channels(facts: StoreFacts) -> int:
    """Channels of a store's images; 0 when they are not known yet."""
    return facts.sources[0].channels if facts.sources else 0


def check_axes(space: Space, file: Path, stores: Mapping[str, StoreFacts]) -> None:
    """Refuse models of images on volumes, and the other way round."""
    kinds = {2: "images", 3: "volumes"}
    for point in space.expand().points:
        experiment = point.experiment
        trained = stores[experiment.data.train]
        if experiment.normalise.scope == "dataset" and trained.layout is not None:
            _check_countable(space, file, trained.name, trained.layout.dtype)
        if "zflip" in experiment.augment and trained.layout and trained.axes == 2:
            raise UserError(
                f"the store '{trained.name}' holds images, which have no slices to mirror",
                where=place(space, file, "augment.zflip"),
                hint="leave it out",
            )
        name, takes = experiment.model["name"], axes_of(experiment.model)
        for store in experiment.read:
            if stores[store].layout and stores[store].axes != takes:
                others = [each for each in MODELS.names() if (each in VOLUMETRIC) != (takes == 3)]
                raise UserError(
                    f"{name} takes {kinds[takes]}, the store '{store}' holds "
                    f"{kinds[stores[store].axes]}",
                    where=place(space, file, "model.name"),
                    allowed=", ".join(others),
                )
        with placed(space, file):
            _check_turns(experiment, stores)
            task = task_of(experiment, trained)
            check_places(experiment.model, task.stride)
            check_supervision(experiment.model, task.stride)
            check_presence(experiment.model, sparse=task.sparse)
            augment_factors(experiment, trained)


def _check_turns(experiment: Experiment, stores: Mapping[str, StoreFacts]) -> None:
    """Refuse augmentations that mix axes along which voxels are not of one size."""
    turning = [name for name, given in experiment.augment.items() if given.get("axes") == "all"]
    facts = stores[experiment.data.train]
    if not turning or facts.axes == 2 or not facts.digest:
        return
    view = seen_as(experiment, stores)
    for source in facts.sources:
        if source.spacing_um is None:
            continue
        at = frame(source.fov_box, view, source.spacing_um)
        voxel = at.working(source.spacing_um)
        if max(voxel) > MOST_UNEQUAL * min(voxel):
            told_um = " x ".join(f"{um:.3g}" for um in voxel)
            raise UserError(
                f"working voxels of the store '{facts.name}' are {told_um} um: what is turned "
                "between its axes is of no shape that there is",
                where=f"augment.{turning[0]}.axes",
                allowed="plane, or the same size along all axes",
                hint="set data.spacing_um to one number",
            )


def _check_countable(space: Space, file: Path, store: str, dtype: str) -> None:
    """Refuse statistics of all images together where intensities cannot be counted one by one."""
    if dtype.startswith("float"):
        raise UserError(
            f"the store '{store}' holds {dtype}, whose values are too many to count",
            where=place(space, file, "normalise.scope"),
            allowed="source, patch, none",
        )


def seen_as(
    experiment: Experiment, stores: Mapping[str, StoreFacts], store: str | None = None
) -> View:
    """How a store is seen, the training store by default; see `view_of`."""
    task = task_of(experiment, stores[experiment.data.train])
    return view_of(experiment, store, task.stride)


def check_sizes(space: Space, file: Path, stores: Mapping[str, StoreFacts]) -> None:
    """Refuse samples and images of a size that the model or its batch-norm cannot take."""
    seen = set()
    for point in space.expand().points:
        experiment = point.experiment
        key = _size_key(experiment)
        if key in seen:
            continue
        seen.add(key)
        with placed(space, file):
            _check_window(experiment, stores)
            _check_spacings(experiment, stores)
            _check_sizes(experiment, stores)


def _size_key(experiment: Experiment) -> str:
    data, train = experiment.data, experiment.train
    scales = {name: experiment.scale_of(name) for name in experiment.read}
    sizes = [data.model_dump(mode="json"), scales, experiment.score.window]
    sizes.append(experiment.task.model_dump(mode="json"))
    return canonical_json([*sizes, experiment.model, train.micro_batch_size])


def _check_window(experiment: Experiment, stores: Mapping[str, StoreFacts]) -> None:
    """Refuse windows that the model cannot take, or that are no whole cells of its output."""
    window = experiment.score.window
    if window is None:
        return
    axes = axes_of(experiment.model)
    sides = per_axis(window, axes, "score.window")
    parts = per_axis(seen_as(experiment, stores).divisor, axes, "score.window")
    if any(side % part for side, part in zip(sides, parts, strict=True)):
        raise UserError(
            f"windows of {told(sides)} px do not fit {experiment.model['name']}, which halves them",
            where="score.window",
            allowed=f"multiples of {told(parts)}",
        )
    needed = needs(experiment.model)
    if needed is not None and not needed.holds(sides):
        raise UserError(
            f"windows of {told(sides)} px are too small for {experiment.model['name']}",
            where="score.window",
            allowed=f"{told(needed.least_px)} px or more, {_IN_ALL}",
            hint=_other_model(experiment),
        )


def _other_model(experiment: Experiment) -> str:
    reflected = experiment.model["padding"] == "reflect"
    return f"or take another {'model.padding' if reflected else 'model'}"


def _check_spacings(experiment: Experiment, stores: Mapping[str, StoreFacts]) -> None:
    """Refuse a store whose pixels are of no known size, where it is to be resampled by that."""
    for name in experiment.read:
        view = seen_as(experiment, stores, name)
        try:
            check_spacing(_measured(stores[name], bound=True), view)
        except UserError as error:
            raise UserError(
                f"store '{name}': {error.what}", where="data.spacing_um", hint=error.hint
            ) from None


def _size_key_of(view: View, store: str) -> tuple[str, str]:
    """(the key that decides how large a store's images are, how it makes them larger)."""
    if view.scale is not None:
        return f"stores.{store}.scale", f"raise stores.{store}.scale"
    if view.spacing_um is not None:
        return "data.spacing_um", "lower data.spacing_um"
    return "data.working_size_px", "raise data.working_size_px"


def _check_sizes(experiment: Experiment, stores: Mapping[str, StoreFacts]) -> None:
    needed = needs(experiment.model)
    if needed is None:
        return
    data, name = experiment.data, experiment.model["name"]
    for store in experiment.trained_on:
        view = seen_as(experiment, stores, store)
        sample = training_size(view, stores[store], bound=True)
        if sample is None:
            continue
        key, larger = "data.patch", "raise data.patch"
        if data.patch == "full":
            key, larger = _size_key_of(view, store)
        if not needed.holds(sample):
            raise UserError(
                f"samples of {told(sample)} px are too small for {name}",
                where=key,
                allowed=f"{told(needed.least_px)} px or more, {_IN_ALL}",
                hint=f"{larger}, {_other_model(experiment)}",
            )
        if not needed.trains(sample, experiment.train.micro_batch_size):
            pixel = "what it pools to one pixel" if needed.pools else "its coarsest map, one pixel"
            raise UserError(
                f"batch-norm of {name} cannot normalise {pixel}, over one sample of "
                f"{told(sample)} px",
                where="train.micro_batch_size",
                allowed="2 or more",
                hint="" if needed.pools else f"or {larger}",
            )
    for store in (data.train, *data.ood):
        view = seen_as(experiment, stores, store)
        key, larger = _size_key_of(view, store)
        for size in image_sizes(view, stores[store], bound=True):
            if not needed.holds(size):
                raise UserError(
                    f"whole images of the store '{store}' ({told(size)} px) are too small "
                    f"for {name}",
                    where=key,
                    allowed=f"{told(needed.least_px)} px or more, {_IN_ALL}",
                    hint=f"{larger}, {_other_model(experiment)}",
                )


def training_size(view: View, facts: StoreFacts, *, bound: bool = False) -> Size | None:
    """(height, width) of the training samples; None when only a store that is made tells.

    `bound` takes the whole image for a field of view that is not known: no sample is larger.
    """
    if view.patch != "full":
        return view.patch_of(facts.axes)
    if view.one_size and facts.axes == 2:
        # Whatever their shape, sources are padded to one square.
        return frame((0, 0, 1, 1), view).shape
    sources = _measured(facts, bound)
    return sample_shape(view, sample_frames(sources, view)) if sources else None


def image_sizes(view: View, facts: StoreFacts, *, bound: bool = False) -> list[Size]:
    """The (height, width) that whole images of a store have, each once; none when not known."""
    if view.one_size and facts.axes == 2:
        return [image_frame((0, 0, 1, 1), view).shape]
    sources = _measured(facts, bound)
    shapes = (image_frame(source.fov_box, view, source.spacing_um).shape for source in sources)
    return list(dict.fromkeys(shapes))


def _measured(facts: StoreFacts, bound: bool) -> Sequence[SourceInfo]:
    """Sources whose size is known; none of a store that is not made, but for its `bound`."""
    return facts.sources if facts.digest or (bound and _channels(facts)) else ()


def check_samples(
    space: Space,
    file: Path,
    stores: Mapping[str, StoreFacts],
    folds: Mapping[str, Sequence[Fold]],
) -> None:
    """Refuse patches of which not one of a fold's training part lies enough inside the fov.

    Reads fields of view until each fold has one such patch: that of one source, mostly.
    """
    from vesselflow.stores.store import Store

    seen: set[object] = set()
    for point in space.expand().points:
        experiment = point.experiment
        _check_unlabelled_patches(space, file, experiment, stores, seen)
        facts, view = stores[experiment.data.train], seen_as(experiment, stores)
        key = (view, split_key(experiment), space.run_folds(experiment))
        if view.patch == "full" or not facts.digest or key in seen:
            continue
        seen.add(key)
        with Store.open(facts.path) as store:
            frames = sample_frames(facts.sources, view)
            has_patch = functools.cache(functools.partial(_has_patch, store, view, frames))
            for number in space.run_folds(experiment):
                fold = folds[split_key(experiment)][number]
                if not any(has_patch(facts.index[name]) for name in fold.train):
                    error = no_samples(view, facts.name)
                    raise UserError(
                        f"{error.what}, in the training part of fold {fold.index} "
                        f"(store '{facts.name}')",
                        where=place(space, file, "data.patch"),
                        hint=error.hint,
                    )


def _check_unlabelled_patches(
    space: Space,
    file: Path,
    experiment: Experiment,
    stores: Mapping[str, StoreFacts],
    seen: set[object],
) -> None:
    """As `check_samples`, of the whole store; what is in `seen` was looked at for another point."""
    from vesselflow.stores.store import Store

    if experiment.unlabelled is None or experiment.data.patch == "full":
        return
    facts = stores[experiment.unlabelled]
    view = seen_as(experiment, stores, facts.name)
    if not facts.digest or (facts.name, view) in seen:
        return
    seen.add((facts.name, view))
    frames = sample_frames(facts.sources, view)
    with Store.open(facts.path) as store:
        if not any(_has_patch(store, view, frames, source.index) for source in facts.sources):
            error = no_samples(view, facts.name)
            where = place(space, file, "data.patch")
            raise UserError(f"{error.what} (store '{facts.name}')", where=where, hint=error.hint)


def check_batches(space: Space, file: Path, stores: Mapping[str, StoreFacts]) -> None:
    """Refuse micro-batches larger than all samples that a store can give, by its geometry."""
    most: dict[tuple[str, View], int] = {}
    for experiment, name in _trained_on(space):
        facts, view = stores[name], seen_as(experiment, stores, name)
        if view.around is not None or (view.patch != "full" and not facts.digest):
            continue
        size, key = experiment.train.micro_batch_size, (facts.name, view)
        if key not in most:
            most[key] = _most_samples(facts, view)
        if size > most[key] > 0:
            raise UserError(
                f"a micro-batch of {size} is more than the store '{facts.name}' can give",
                where=place(space, file, "train.micro_batch_size"),
                allowed=f"at most {most[key]}",
                hint="or smaller patches, or a smaller data.stride",
            )


def _trained_on(space: Space) -> Iterator[tuple[Experiment, str]]:
    """Each point's experiment with each of the stores that it learns from."""
    for point in space.expand().points:
        for name in point.experiment.trained_on:
            yield point.experiment, name


def _most_samples(facts: StoreFacts, view: View) -> int:
    if view.patch == "full":
        return len(facts.sources)
    return sum(most_patches(view, frame) for frame in sample_frames(facts.sources, view))


def _has_patch(store: Store, view: View, frames: Sequence[Frame], source: int) -> bool:
    return len(patch_positions(view, working_fov(store, source, frames[source]))) > 0


# -- what only libraries tell ----------------------------------------------------------------------


def check_models(
    space: Space,
    file: Path,
    experiments: Sequence[Experiment],
    stores: Mapping[str, StoreFacts],
    notify: Callable[[str], None],
) -> None:
    """Try every model that only trying tells of on its sizes; imports torch for these alone."""
    wanted = {_size_key(each): each for each in experiments if needs(each.model) is None}
    if not wanted:
        return
    notify("trying models on their sizes (this loads torch)")
    from vesselflow.models.trial import try_model

    for experiment in wanted.values():
        window = experiment.score.window
        used = [stores[name] for name in experiment.read]
        view = seen_as(experiment, stores)
        with placed(space, file):
            try_model(
                experiment.model,
                channels=_channels(used[0]) or 3,
                sample=training_size(view, used[0]) or (LIKELY_PX,) * axes_of(experiment.model),
                micro_batch_size=experiment.train.micro_batch_size,
                images=[
                    size
                    for facts in used
                    for size in image_sizes(seen_as(experiment, stores, facts.name), facts)
                ]
                + (
                    []
                    if window is None
                    else [per_axis(window, axes_of(experiment.model), "score.window")]
                ),
            )


def check_parameters(
    space: Space,
    file: Path,
    experiments: Sequence[Experiment],
    stores: Mapping[str, StoreFacts],
    notify: Callable[[str], None],
) -> None:
    """Find the parameters that some runs freeze, or train more slowly; imports torch for these."""
    wanted = {
        canonical_json([each.model, each.train.freeze, each.train.encoder_lr_factor]): each
        for each in experiments
        if each.train.freeze or each.train.encoder_lr_factor is not None
    }
    if not wanted:
        return
    notify("looking for parameters in models (this loads torch)")
    from vesselflow.models.trial import build_meta
    from vesselflow.training.parameters import freeze, parameter_groups

    for each in wanted.values():
        random = {"weights": None} if "weights" in each.model else {}
        channels = _channels(stores[each.data.train]) or 3
        with placed(space, file):
            model = build_meta({**each.model, **random}, channels)
            freeze(model, each.train.freeze)
            parameter_groups(model, each.train)


def check_weights(
    space: Space,
    file: Path,
    experiments: Sequence[Experiment],
    notify: Callable[[str], None],
    *,
    fetch: bool,
) -> None:
    """Find pretrained weights on this machine, or fetch them; `fetch` false only says so."""
    wanted = {
        (each.model["encoder"], each.model["weights"]): None
        for each in experiments
        if each.model.get("weights") is not None
    }
    for encoder, weights in wanted:
        from vesselflow.models.weights import check_weights as find

        with placed(space, file):
            said = find(encoder, weights, fetch=fetch)
        if said:
            notify(said)


@contextlib.contextmanager
def placed(space: Space, file: Path) -> Iterator[None]:
    """Errors that name a key name its file as well."""
    try:
        yield
    except UserError as error:
        where = place(space, file, error.where)
        raise UserError(error.what, where=where, allowed=error.allowed, hint=error.hint) from None


#: Stands for the size of samples that only a store that is made tells.
LIKELY_PX = 256


def place(space: Space, file: Path, key: str) -> str:
    """File and key, or the axis that gives the key its values."""
    if key in space.grid:
        return f"{file.name}: grid.{key}"
    for name, axis in space.grid.items():
        if any(key in setting.assign for setting in axis.settings or ()):
            return f"{file.name}: grid.{name}.{key}"
    return f"{file.name}: {key}"
