"""What one training is: every section of an experiment, its defaults and its checks.

Defaults stand here and in the argument models of the parts, nowhere else. The sections in `PARTS`
and `augment` name registered parts; they are kept as plain mappings with every default filled in.
Validate with ``context={"registries": {"augment": ..., "model": ..., ...}}``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from vesselflow.config.named import Named
from vesselflow.config.registry import Registry, all_errors, carried, shown
from vesselflow.config.scalars import Range, ScalarSchedule
from vesselflow.config.shuffle import Shuffle, Window
from vesselflow.errors import Faults, UserError

Registries = Mapping[str, Registry]

#: Sections whose arguments depend on the part they name: section -> part when none is named.
PARTS = {
    "sampling": "uniform",
    "model": "wnet",
    "loss": "combined",
    "optimizer": "adamw",
    "schedule": "constant",
}


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values are frozen, no text for a number."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        strict=True,
        populate_by_name=True,
        use_attribute_docstrings=False,
    )


#: One number for each axis: height and width, or depth, height and width.
Sides = Annotated[
    tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False, min_length=2, max_length=3)
]


#: A width or distance: one number, one for each axis, or one for each class by its name.
Lengths = (
    Annotated[float, Field(gt=0)]
    | Annotated[
        tuple[Annotated[float, Field(gt=0)], ...],
        Field(strict=False, min_length=2, max_length=3),
    ]
    | Annotated[dict[str, Annotated[float, Field(gt=0)]], Field(min_length=1)]
    | None
)
Radius = (
    Annotated[float, Field(gt=0)]
    | Annotated[dict[str, Annotated[float, Field(gt=0)]], Field(min_length=1)]
    | None
)


class Task(Section):
    """What is learnt from a store."""

    name: Annotated[str | None, Named("task")] = Field(
        None, description="What is learnt; null takes what the training store is made for"
    )
    activation: Literal["sigmoid", "softmax"] | None = Field(
        None,
        description="Of masks of several classes: a sigmoid for each, or one softmax over classes "
        "and background; null takes softmax where the training store's classes exclude each other",
    )
    ds_factor: Annotated[int, Field(ge=1, le=64)] | Sides | None = Field(
        None,
        description="Working px of a cell of the model's output, one number or one for each axis; "
        "masks are then learnt as means over cells and predicted by interpolation; null takes 1, "
        "of keypoints what the training store says",
    )
    ds_sigma: Lengths = Field(
        None,
        description="Of keypoints: standard deviation of their Gaussians in cells, one number, one "
        "for each axis, or one for each class by its name; null takes what the store says",
    )
    sigma_angstrom: Lengths = Field(
        None, description="The same in angstrom, in place of ds_sigma; needs stores with a spacing"
    )
    combine: Literal["max", "sum"] = Field(
        "max",
        description="Of keypoints: where Gaussians overlap, the largest, or their sum (1 at most)",
    )
    truncate: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Standard deviations beyond which a Gaussian is 0; null for never"
    )
    rigid: bool = Field(
        True,
        description="Augmentation moves Gaussians and leaves their shape; false transforms it too",
    )


class Data(Section):
    """Which stores, and how their sources become samples."""

    train: str = Field(
        description="Store that is trained on; may be left out when there is one store only"
    )
    ood: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        (), description="Stores that are only scored (out of distribution), in no choice"
    )
    unlabelled: str | None = Field(
        None,
        description="Store whose images, without their labels, a network learns not to tell from "
        "those of data.train, see train.domain_weight; no image of it may be scored",
    )
    working_size_px: Annotated[int, Field(ge=32)] | None = Field(
        None, description="Longer side of the field of view after resizing; null keeps it native"
    )
    spacing_um: (
        Annotated[float, Field(gt=0)]
        | Annotated[
            tuple[Annotated[float, Field(gt=0)], ...],
            Field(strict=False, min_length=2, max_length=3),
        ]
        | None
    ) = Field(
        None,
        description="Size of a working px in micrometres, in place of working_size_px: a number, "
        "or one for each axis; every store is resampled to it",
    )
    patch: Literal["full"] | Annotated[int, Field(ge=16)] | Sides = Field(
        "full",
        description="Side of the training patches in working px, one number or one for each axis, "
        "or the full image",
    )
    stride: Annotated[int, Field(ge=1)] | Sides | None = Field(
        None, description="Distance between patches in working px; null for no overlap"
    )
    margin: int = Field(
        0,
        ge=0,
        description="Working px at each edge of a patch that are seen as context and enter no "
        "training loss",
    )
    min_fov: float = Field(
        0.5, ge=0, le=1, description="Least share of a patch inside the field of view"
    )
    shuffle: Shuffle = Field(
        "keyed",
        description="Order of the samples: all shuffled at once, or {name: window, samples: n}, "
        "short window(n): shuffled runs of sources, shuffled again in windows of n samples, which "
        "streams a store in sequence",
    )

    @property
    def window(self) -> int | None:
        """Samples of the windows in which samples are shuffled; None: all at once."""
        return self.shuffle.samples if isinstance(self.shuffle, Window) else None


class StoreView(Section):
    """How the sources of one store are seen, where that differs from what `data` says."""

    scale: Annotated[float, Field(gt=0, le=64)] | None = Field(
        None,
        description="Working px per native px of this store, in place of data.working_size_px and "
        "data.spacing_um",
    )


class Split(Section):
    """How the sources of the training store are divided."""

    folds: int = Field(4, ge=1, description="Number of folds, by group")
    test: Literal["fold", "official"] = Field(
        "fold", description="Test part: the fold itself, or the store's own test list"
    )
    val_fraction: float = Field(
        0.2, gt=0, lt=1, description="Share of the groups outside test that validate"
    )
    train_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Share of a fold's training groups that train, one at least; the rest are left "
        "out, and a smaller share is a part of a larger one",
    )
    inner: Annotated[int, Field(ge=2)] | None = Field(
        None,
        description="Parts of each fold's training groups: fold f becomes the folds f * inner + j, "
        "each trained without part j and tested on it, for models that are stacked on; null leaves "
        "the folds whole",
    )
    seed: int = Field(0, ge=0, description="Seed of the assignment of groups to folds")
    file: str | None = Field(
        None, description="File with a predefined split, relative to the YAML; null makes one"
    )

    @property
    def count(self) -> int:
        """Number of folds, those inside others counted."""
        return self.folds * (self.inner or 1)


class Normalise(Section):
    """Centre and scale of the image, computed inside the field of view."""

    scope: Literal["source", "dataset", "patch", "none"] = Field(
        "source", description="What one centre and scale are computed over"
    )
    per_channel: bool = Field(True, description="One centre and scale per channel, or one for all")
    method: Annotated[str, Named("normalisation")] = Field(
        "standard", description="Mean and deviation, 1st and 99th percentile, or median and MAD"
    )


class Swa(Section):
    """Equal-weight mean of the weights after each of the last epochs."""

    start: float = Field(
        0.75, ge=0, lt=1, description="Share of the training from which on its weights count"
    )

    def first(self, epochs: int) -> int:
        """The first epoch whose weights count, of `epochs`; from 1."""
        # 0.7 * 10 is a little more than 7 in floats of 64 bits.
        return max(1, math.ceil(self.start * epochs - 1e-9))


class Stop(Section):
    """When a training ends before its last epoch."""

    patience: int = Field(ge=1, description="Scored epochs without a better value that end it")
    threshold: float = Field(
        0.0, ge=0, description="By how much a value has to be better than the best one before"
    )
    metric: Annotated[str | None, Named("metric")] = Field(
        None, description="Which score on validation; null takes the task's own"
    )


#: On a probability.
Factor = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]


class Train(Section):
    """The training loop."""

    epochs: int = Field(10, ge=1, description="Number of epochs")
    steps_per_epoch: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Optimizer steps per epoch; null for one pass over the fold's samples"
    )
    micro_batch_size: int = Field(
        4, ge=1, description="Samples of one forward pass: what batch-norm sees"
    )
    micro_batches_per_step: int = Field(
        1, ge=1, description="Micro-batches per optimizer step, divided among the workers"
    )
    amp: Literal["none", "bf16"] = Field("none", description="Mixed precision")
    channels_last: bool = Field(True, description="Memory layout of images and weights")
    clip_norm: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Largest norm of a step's gradient; null does not clip"
    )
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="Decay of averaged weights, which are then scored; null has none"
    )
    swa: Swa | None = Field(
        None,
        description="Equal-weight mean of the weights after each epoch from a share of the "
        "training on, {start: 0.75}, which is then scored; null has none",
    )
    average_last: Annotated[int, Field(ge=2)] | None = Field(
        None,
        description="Of how many epochs, a scored one and those before it, the mean of the weights "
        "is scored, each at its end; null has none",
    )
    augment_by_source: dict[Annotated[str, Field(min_length=1)], Factor] = Field(
        default_factory=dict,
        description="Factors on the probabilities of all augmentations, mixing too, for samples of "
        'some sources of data.train, {"pseudo_*": 1.5}: by patterns of their names or groups; a '
        "product above 1 counts as 1, a factor of 0 switches all off; other sources have 1",
    )
    domain_weight: Annotated[float | ScalarSchedule, Range(0.0)] = Field(
        0.0,
        description="Of a head that tells images of data.unlabelled from those of data.train by "
        "the encoder's coarsest features: weight with which its gradient reaches the encoder "
        "reversed, so that it learns features that hide it; a number or a schedule, 0 has no head",
    )
    init_from: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="Run whose weights the training begins with: SPACE/POINT, the point of a "
        "finished sweep in the same results folder, of the same fold and seed, at the epoch that "
        "validation chose; the name of a run, RUN@EPOCH; or a file of weights (.pt, .pth), "
        "relative to the YAML; null begins anew",
    )
    stack: Annotated[str, Field(pattern=r"^[^/]+/.+$")] | None = Field(
        None,
        description="Runs whose probabilities the network is given as channels behind those of the "
        "image: SPACE/POINT, the point of a finished sweep in the same results folder, of the same "
        "split with split.inner and the same seed; a training image gets those of the run that "
        "held it out, what is predicted the mean of all; null has none",
    )
    stop: Stop | None = Field(
        None,
        description="End a training whose validation score gets no better, {patience: 5}: in "
        "scored epochs, of which score.epochs has to name enough; the epochs that are left have "
        "the weights of the last one; null trains to the end",
    )
    freeze: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False)] = Field(
        (),
        description="Modules or parameters that keep their first weights, by their names or what "
        "these begin with, [encoder]; batch-norms among them keep their statistics",
    )
    encoder_lr_factor: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None,
        description="Factor on the learning rate of the model's encoder; null treats all alike",
    )
    no_decay_on_norms: bool = Field(
        False, description="Weight decay leaves out biases and the weights of norms"
    )
    checkpoint_every_s: float = Field(
        600.0,
        gt=0,
        description="Longest time without a checkpoint inside an epoch, in seconds; it is shorter "
        "(30 s at least) where failures are frequent and checkpoints cheap",
    )
    recompute: bool = Field(
        False,
        description="Keep of each block of the model its input alone, and compute the rest again "
        "for the gradient: less memory, about a third more time, the same numbers",
    )
    log_health: bool = Field(
        False,
        description="Keep norms of gradients and updates of each top-level module in the curve "
        "(health/...), and warn where they are 0 or too large; changes no result",
    )
    nan_tolerance: int = Field(
        5, ge=0, description="Bad steps in a row that are skipped before the run fails"
    )
    log_gradient_shares: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Every how many steps to log the share of each term of the loss in the norm of "
        "the gradient (with respect to the logits, not the weights); null never does",
    )

    @field_validator("augment_by_source")
    @classmethod
    def _other_than_one(cls, value: dict[str, float]) -> dict[str, float]:
        """A factor of 1 says nothing."""
        return {pattern: factor for pattern, factor in value.items() if factor != 1}


class Every(Section):
    """Every n-th epoch."""

    every: int = Field(
        ge=1, description="Distance between scored epochs; the last one is always scored"
    )


class Score(Section):
    """When and how a run is scored."""

    epochs: (
        Literal["last", "all"]
        | Every
        | Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False, min_length=1)]
    ) = Field("last", description="Scored epochs: last, all, {every: n} or a list, counted from 1")
    threshold: Annotated[str, Named("threshold")] = Field(
        "best",
        description="Threshold, frozen for all domains: the best on val, or a probability of 1/2",
    )
    threshold_metric: Annotated[str | None, Named("threshold metric")] = Field(
        None,
        description="Metric that the best threshold on val is best for; null takes the task's own",
    )
    tta: Literal["none", "flips"] = Field("none", description="Test-time augmentation")
    window: Annotated[int, Field(ge=16)] | Sides | None = Field(
        None,
        description="Size of the windows in working px, one number or one for each axis, in which "
        "what is too large for memory is predicted and blended; null predicts it in one piece",
    )
    overlap: float = Field(
        0.5, ge=0, lt=1, description="Least share of a window that its neighbour covers too"
    )

    radius_voxels: Radius = Field(
        None,
        description="Of keypoints: largest distance of a pick to its keypoint, and least distance "
        "of two picks, in native voxels, one number or one for each class by its name; null takes "
        "the width that the training store declares",
    )
    radius_angstrom: Radius = Field(None, description="The same in angstrom, in its place")
    exclusive: bool = Field(
        False,
        description="One place holds one class, the surest: picks of different classes keep the "
        "radius too, of masks that exclude each other a voxel is of one class at most; of no "
        "meaning for one class",
    )
    refinement: Literal["paraboloid", "moments", "none"] = Field(
        "paraboloid", description="Of keypoints: how a pick's place is found below a cell"
    )

    def at(self, epochs: int) -> tuple[int, ...]:
        """The scored epochs of a run of `epochs` epochs: rising, counted from 1, never empty."""
        if self.epochs == "last":
            return (epochs,)
        if self.epochs == "all":
            return tuple(range(1, epochs + 1))
        if isinstance(self.epochs, Every):
            return tuple(sorted({*range(self.epochs.every, epochs + 1, self.epochs.every), epochs}))
        return tuple(sorted(set(map(int, self.epochs))))


class Experiment(Section):
    """Everything that determines a training, but for its fold, its seed and its data's content."""

    task: Task = Field(default_factory=Task, description="What is learnt from a store")
    data: Data = Field(description="Which stores, and how their sources become samples")
    split: Split = Field(
        default_factory=Split, description="Folds with train, val and test, by group"
    )
    normalise: Normalise = Field(
        default_factory=Normalise, description="Centre and scale of the image inside the fov"
    )
    sampling: dict[str, Any] = Field(
        default_factory=dict,
        description="How training samples are drawn: a way and its arguments",
        validate_default=True,
    )
    augment: dict[str, Any] = Field(
        default_factory=dict, description="Augmentations: name -> arguments; null for none"
    )
    model: dict[str, Any] = Field(
        default_factory=dict, description="Model: its name and its arguments", validate_default=True
    )
    loss: dict[str, Any] = Field(
        default_factory=dict, description="Loss: its name and its arguments", validate_default=True
    )
    optimizer: dict[str, Any] = Field(
        default_factory=dict,
        description="Optimizer: its name and its arguments",
        validate_default=True,
    )
    schedule: dict[str, Any] = Field(
        default_factory=dict,
        description="Learning rate over the steps of a run: a schedule and its arguments",
        validate_default=True,
    )
    train: Train = Field(default_factory=Train, description="Training loop")
    score: Score = Field(default_factory=Score, description="When and how a run is scored")
    stores: dict[str, StoreView] = Field(
        default_factory=dict, description="Stores that are seen in a way of their own"
    )

    @field_validator("augment", mode="before")
    @classmethod
    def _augment(cls, value: Any, info: ValidationInfo) -> dict[str, Any]:
        if not isinstance(value, dict | None):
            raise carried(
                UserError(
                    f"{shown(value)} is not allowed",
                    where="augment",
                    allowed="a mapping: name -> arguments",
                )
            )
        registry = _registry(info, "augment")
        faults = Faults()
        found: dict[str, Any] = {}
        for name, arguments in (value or {}).items():
            with faults.gathered():
                found[name] = _augmentation(registry, name, arguments)
        if faults:
            raise carried(faults.joined())
        # The registry's order is the order of application, so that the file's cannot matter.
        return {name: found[name] for name in registry.names() if found.get(name) is not None}

    @field_validator(*PARTS, mode="before")
    @classmethod
    def _part(cls, value: Any, info: ValidationInfo) -> dict[str, Any]:
        section = str(info.field_name)
        try:
            if not isinstance(value, dict):
                raise UserError(
                    f"{shown(value)} is not allowed",
                    where=section,
                    allowed=f"a mapping such as {{name: {PARTS[section]}}}",
                )
            spec = {"name": PARTS[section], **value}
            return _registry(info, section).validate(spec, where=section)
        except UserError as error:
            raise carried(error) from None

    @model_validator(mode="after")
    def _fit(self, info: ValidationInfo) -> Experiment:
        """What no section can check by itself."""
        faults = Faults()
        if (info.context or {}).get("fit", True):
            for check in _FIT:
                with faults.gathered():
                    check(self)
            with faults.gathered():
                _fit_mixing(self, _registry(info, "augment"), _registry(info, "loss"))
            with faults.gathered():
                _fit_hidden_mixing(self, _registry(info, "model"))
            with faults.gathered():
                _fit_batches(self, _registry(info, "sampling"))
        if faults:
            raise carried(faults.joined())
        return self

    @property
    def unlabelled(self) -> str | None:
        """The store whose images are learnt from without labels; None where none is."""
        return None if self.train.domain_weight == 0 else self.data.unlabelled

    @property
    def trained_on(self) -> tuple[str, ...]:
        """Stores of which the training sees images: `data.train` first."""
        return (self.data.train, *([self.unlabelled] if self.unlabelled is not None else ()))

    @property
    def read(self) -> tuple[str, ...]:
        """All stores that are read: those that are trained on, then those that are scored only."""
        return (*self.trained_on, *self.data.ood)

    def scale_of(self, store: str) -> float | None:
        """Working px per native px of a store; None where `data` says how it is seen."""
        view = self.stores.get(store)
        return None if view is None else view.scale

    def plain(self) -> dict[str, Any]:
        """All sections as plain data; `load_experiment` reads an equal experiment back."""
        return self.model_dump(mode="json", by_alias=True)


def _augmentation(registry: Registry, name: str, arguments: Any) -> dict[str, Any] | None:
    """One augmentation's arguments, filled in; None for one that is switched off."""
    registry.part(name, where=f"augment.{name}")
    if arguments is None:
        return None
    if not isinstance(arguments, dict):
        raise UserError(
            f"{shown(arguments)} is not allowed",
            where=f"augment.{name}",
            allowed="a mapping of arguments, {} for the defaults, null for none",
        )
    if "name" in arguments:  # would silently name another part
        raise UserError("unknown key 'name'", where=f"augment.{name}.name")
    filled = registry.validate({"name": name, **arguments}, where=f"augment.{name}")
    return {key: entry for key, entry in filled.items() if key != "name"}


def _fit_ood(experiment: Experiment) -> None:
    data = experiment.data
    if data.train in data.ood:
        raise UserError(
            f"'{data.train}' is trained on as well",
            where="data.ood",
            allowed="stores other than data.train",
        )
    if len(set(data.ood)) < len(data.ood):
        raise UserError("a store is named twice", where="data.ood", allowed="each store once")


def _fit_unlabelled(experiment: Experiment) -> None:
    data = experiment.data
    for key, others in (("data.train", (data.train,)), ("data.ood", data.ood)):
        if data.unlabelled in others:
            raise UserError(
                f"'{data.unlabelled}' stands in {key} as well",
                where="data.unlabelled",
                allowed="a store of other images than those of data.train and data.ood",
                hint="images that are learnt from are not scored, even without their labels",
            )
    if data.unlabelled is None and experiment.train.domain_weight != 0:
        raise UserError(
            "there are no unlabelled images to tell from the labelled ones",
            where="train.domain_weight",
            allowed="0, or a weight beside data.unlabelled",
        )


def _fit_pixels(experiment: Experiment) -> None:
    data = experiment.data
    if data.spacing_um is not None and data.working_size_px is not None:
        raise UserError(
            "data.working_size_px says the size of a working px already",
            where="data.spacing_um",
            allowed="one of the two",
            hint="set data.working_size_px: null",
        )


def _fit_patch(experiment: Experiment) -> None:
    data = experiment.data
    if data.patch != "full":
        size = data.working_size_px if experiment.scale_of(data.train) is None else None
        # Of a volume, in the plane: that is what the working size counts.
        if size is not None and max(_sides(data.patch)[-2:]) > size:
            raise UserError(
                f"{shown(data.patch)} is not allowed",
                where="data.patch",
                allowed=f"at most data.working_size_px, which is {size}",
            )
        if data.stride is not None and not _fits(_sides(data.stride), _sides(data.patch)):
            single = isinstance(data.patch, int) and isinstance(data.stride, int)
            numbers = "" if single else ", and as many numbers"
            raise UserError(
                f"{shown(data.stride)} is not allowed",
                where="data.stride",
                allowed=f"at most data.patch, which is {shown(data.patch)}{numbers}",
                hint="a larger stride would leave pixels out",
            )
    elif data.stride is not None:
        raise UserError(
            f"{shown(data.stride)} has no meaning when data.patch is full",
            where="data.stride",
            allowed="null, or a number beside a data.patch in px",
        )


def _fit_margin(experiment: Experiment) -> None:
    patch, margin = experiment.data.patch, experiment.data.margin
    if not margin:
        return
    if patch == "full":
        raise UserError(
            f"{margin} has no meaning when data.patch is full",
            where="data.margin",
            allowed="0, or a number beside a data.patch in px",
        )
    cells = _sides(experiment.task.ds_factor or 1)
    axes = max(len(cells), len(_sides(patch)))
    sides, cells = (each * axes if len(each) == 1 else each for each in (_sides(patch), cells))
    if len(sides) != len(cells):
        return  # another check's
    # One whole cell of the output has to be left along each axis.
    largest = min((side // cell - 1) // 2 * cell for side, cell in zip(sides, cells, strict=True))
    if margin > largest:
        raise UserError(
            f"{margin} leaves nothing of a patch of {shown(patch)}",
            where="data.margin",
            allowed=f"at most {max(0, largest)}",
        )


def _sides(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else value


def _fits(stride: tuple[int, ...], patch: tuple[int, ...]) -> bool:
    """Whether no patch leaves pixels out; one number stands for all axes."""
    axes = max(len(stride), len(patch))
    if any(len(sides) not in (1, axes) for sides in (stride, patch)):
        return False
    steps, sides = (given * axes if len(given) == 1 else given for given in (stride, patch))
    return all(step <= side for step, side in zip(steps, sides, strict=True))


def _fit_folds(experiment: Experiment) -> None:
    split = experiment.split
    # A split that is given says itself what is tested, and may be a single one.
    if split.test == "fold" and split.folds < 2 and split.file is None:
        raise UserError(
            f"{split.folds} is not allowed",
            where="split.folds",
            allowed="2 or more when split.test is fold",
        )


def _fit_scoring(experiment: Experiment) -> None:
    # {every: n} takes what fits: the last epoch is always scored.
    epochs, count = experiment.score.epochs, experiment.train.epochs
    if not isinstance(epochs, tuple):
        return
    if max(epochs) > count:
        raise UserError(
            f"{max(epochs)} is not allowed",
            where="score.epochs",
            allowed=f"1 to train.epochs, which is {count}",
        )
    if len(set(epochs)) < len(epochs):
        raise UserError("an epoch is named twice", where="score.epochs", allowed="each epoch once")


def _fit_averages(experiment: Experiment) -> None:
    train = experiment.train
    first, *others = [
        name for name in ("ema", "swa", "average_last") if getattr(train, name) is not None
    ] or [""]
    if others:
        raise UserError(
            f"train.{first} averages the weights already",
            where=f"train.{others[0]}",
            allowed="one of the two",
            hint=f"set train.{first}: null",
        )
    if train.average_last is not None and train.average_last > train.epochs:
        raise UserError(
            f"{train.average_last} is not allowed",
            where="train.average_last",
            allowed=f"2 to train.epochs, which is {train.epochs}"
            if train.epochs > 1
            else "null when train.epochs is 1",
        )


def _fit_stop(experiment: Experiment) -> None:
    stop, epochs = experiment.train.stop, experiment.train.epochs
    # Of n scored epochs the first one is the best so far, and after the last one nothing is left.
    if stop is None or stop.patience <= len(experiment.score.at(epochs)) - 2:
        return
    scored = len(experiment.score.at(epochs))
    raise UserError(
        f"{stop.patience} epochs without a better score are never seen before the end, with "
        f"{scored} that {'is' if scored == 1 else 'are'} scored",
        where="train.stop.patience",
        allowed=f"1 to {scored - 2}" if scored > 2 else "none with so few",
        hint="score more of them, score.epochs: all or {every: n}",
    )


def _fit_decay(experiment: Experiment) -> None:
    if experiment.train.no_decay_on_norms and not experiment.optimizer.get("weight_decay"):
        raise UserError(
            f"the optimizer {experiment.optimizer['name']} has no weight decay here to leave out",
            where="train.no_decay_on_norms",
            allowed="false, or true with an optimizer.weight_decay above 0",
        )


#: What no section can check by itself.
_FIT = (
    _fit_ood,
    _fit_unlabelled,
    _fit_pixels,
    _fit_patch,
    _fit_margin,
    _fit_folds,
    _fit_scoring,
    _fit_averages,
    _fit_stop,
    _fit_decay,
)


def _fit_mixing(experiment: Experiment, augmentations: Registry, losses: Registry) -> None:
    # Argument models say what they need: a class attribute `mixes` of those that mix samples, and
    # `soft_targets = False` of losses whose targets have to be 0 or 1.
    mixing = [
        name
        for name in experiment.augment
        if getattr(augmentations.part(name).arguments, "mixes", False)
    ]
    if not mixing:
        return
    if experiment.train.micro_batch_size < 2:
        raise UserError(
            f"{mixing[0]} mixes samples of a micro-batch, which holds one",
            where="train.micro_batch_size",
            allowed=f"2 or more, or no augment.{mixing[0]}",
        )
    loss = str(experiment.loss["name"])
    if not getattr(losses.part(loss).arguments, "soft_targets", True):
        raise UserError(
            f"{mixing[0]} makes targets between 0 and 1, which the loss {loss} cannot take",
            where=f"augment.{mixing[0]}",
            hint="leave it out, or take another loss",
        )


def _fit_hidden_mixing(experiment: Experiment, models: Registry) -> None:
    # Models whose encoder gives more than maps say `hands_over = False`.
    name = str(experiment.model["name"])
    if getattr(models.part(name).arguments, "hands_over", True):
        return
    for mixing, arguments in experiment.augment.items():
        if "encoder" in arguments.get("at", ()):
            raise UserError(
                f"{name} has no place behind its encoder where samples could be mixed",
                where=f"augment.{mixing}.at",
                allowed="input",
                hint="or take another model",
            )


def _fit_batches(experiment: Experiment, samplings: Registry) -> None:
    # Argument models name the argument that has to hold whole micro-batches: `whole_batches`.
    part = samplings.part(str(experiment.sampling["name"]))
    argument = getattr(part.arguments, "whole_batches", None)
    size = experiment.train.micro_batch_size
    if argument is not None and experiment.sampling[argument] % size:
        raise UserError(
            f"{experiment.sampling[argument]} does not hold whole micro-batches",
            where=f"sampling.{argument}",
            allowed=f"multiples of train.micro_batch_size, which is {size}",
        )


def _registry(info: ValidationInfo, section: str) -> Registry:
    registries = (info.context or {}).get("registries") or {}
    if section not in registries:
        raise TypeError(f"validate with context={{'registries': {{'{section}': ...}}}}")
    return registries[section]


def load_experiment(
    data: Mapping[str, Any], *, registries: Registries, fit: bool = True
) -> Experiment:
    """Validate plain data as an experiment.

    Args:
        data: Sections, as in YAML; those left out take their defaults (`data.train` has none).
        registries: The parts that `augment` and the sections of `PARTS` may name, by section.
        fit: Whether the sections have to fit each other too.

    Raises:
        UserError: names the key (no file), the value and what is allowed; `UserErrors` where
            several things are wrong.
    """
    context = {"registries": registries, "fit": fit}
    try:
        return Experiment.model_validate(dict(data), context=context)
    except ValidationError as error:
        raise all_errors(error, Experiment) from None


#: Sections that are models of their own (the others name registered parts).
SECTIONS: dict[str, type[Section]] = {
    "task": Task,
    "data": Data,
    "split": Split,
    "normalise": Normalise,
    "train": Train,
    "score": Score,
}
