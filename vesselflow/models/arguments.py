"""What the arguments of several models have in common; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import AfterValidator, Field, field_validator, model_validator

from vesselflow.config.named import Named
from vesselflow.config.registry import Arguments
from vesselflow.errors import UserError
from vesselflow.models.layers import (
    ACTIVATIONS,
    CONVOLUTIONS,
    EXCITATIONS,
    NORMS,
    SKIP_GATES,
    WINDOW_FUSIONS,
)


@dataclass(frozen=True)
class Width:
    """Annotates an argument that may be scaled, see `vesselflow.models.widths`.

    It is a number of channels, or a list of them; None stands for what `Ends.widths` says.

    Attributes:
        normed: Whether maps of so many channels are normalised, so that a group norm keeps as many
            groups.
    """

    normed: bool = True


Channels = Annotated[int, Field(ge=1)]
Filters = Annotated[tuple[Channels, ...], Field(strict=False, min_length=2, max_length=6), Width()]
#: What a convolution sees beyond the border of its map.
Padding = Literal["zeros", "reflect", "replicate"]
Probability = Annotated[float, Field(ge=0.0, lt=1.0)]

#: Groups of a group norm; channels that they do not divide get one group.
GROUPS = 8


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("an odd number, 1 or more: as many before the middle one as behind it")
    return value


#: How many slices, or windows, around one that stands in the middle.
Around = Annotated[int, Field(ge=1, le=99), AfterValidator(_odd)]

Norm = Annotated[str, Named("norm", NORMS)]
Activation = Annotated[str, Named("activation", ACTIVATIONS)]
Place = Literal["encoder", "skip", "decoder"]
PLACES: tuple[Place, ...] = get_args(Place)


class Ends(Arguments):
    """Base of the arguments of every model: what it ends in, see `vesselflow.models.ends`.

    Attributes:
        head: What the logits are made of. "sigmoid": one channel of each class. "softmax": two,
            background and foreground; their difference is the logit.
        coordinates: Give the network the place of each pixel in its window, as channels behind the
            image's. What is predicted in tiles then depends on where these lie.
        input_norm: Batch-norm on the channels of the image, with a scale and a shift of each; all
            pixels count, padding included.
        padding: What convolutions see beyond the border of their map: zeros, or the map reflected
            or replicated. Transposed convolutions, attention and pooling have theirs as they are.
        presence: Weight of the loss of a head on the encoder's coarsest features that says, in
            training, which classes a patch holds at all; null for none.
    """

    #: Those of these fields that the model itself takes and sees to.
    own_ends: ClassVar[frozenset[str]] = frozenset()
    #: Further fields that no model takes: `apply` does to it what they ask.
    applied: ClassVar[frozenset[str]] = frozenset()

    head: Literal["sigmoid", "softmax"] = "sigmoid"
    coordinates: bool = False
    input_norm: bool = False
    padding: Padding = "zeros"
    presence: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = None

    def apply(self, model: Any) -> None:
        """Do to a model that was built just now what the fields in `applied` ask."""

    @property
    def least_width(self) -> int:
        """Fewest channels that a width may be scaled down to."""
        return 1

    def widths(self) -> dict[str, tuple[int, ...]]:
        """The arguments that may be scaled, one number as a list of one."""
        found = {}
        for name, info in type(self).model_fields.items():
            value = getattr(self, name)
            if value is not None and any(isinstance(entry, Width) for entry in info.metadata):
                found[name] = (value,) if isinstance(value, int) else tuple(value)
        return found


class Excited(Ends):
    """Base of the arguments of models that may have squeeze-and-excitation.

    Attributes:
        se: Squeeze-and-excitation; null for none.
        se_at: Where it stands: one place, or a list of them.
        se_reduction: Channels over those of its bottleneck; null takes its own, 16, or 2 of
            `project_excite`. Some have no bottleneck.
    """

    se: Annotated[str | None, Named("se", EXCITATIONS)] = None
    se_at: Annotated[tuple[Place, ...], Field(strict=False, min_length=1)] = ("encoder",)
    se_reduction: Annotated[int, Field(ge=1)] | None = None

    @field_validator("se_at", mode="before")
    @classmethod
    def _places(cls, value: Any) -> Any:
        """One place is a list of one; their order and repetitions have no meaning."""
        given = [value] if isinstance(value, str) else value
        if isinstance(given, list | tuple) and all(place in PLACES for place in given):
            return tuple(place for place in PLACES if place in given)
        return given

    def changed(self) -> dict[str, Any]:
        """Where it stands and its bottleneck say nothing where there is none."""
        values = super().changed()
        silent: tuple[str, ...] = ()
        if self.se is None:
            silent = ("se_at", "se_reduction")
        elif "reduction" not in EXCITATIONS.part(self.se).arguments.model_fields:
            silent = ("se_reduction",)
        return {key: value for key, value in values.items() if key not in silent}


class Skipped(Arguments):
    """Base of the arguments of models whose skip connections meet a decoder's coarser map.

    Attributes:
        skip_gate: Gate on each skip, driven by the coarser map; null for none. It stands behind
            squeeze-and-excitation there.
    """

    skip_gate: Annotated[str | None, Named("skip_gate", SKIP_GATES)] = None


class Supervised(Arguments):
    """Base of the arguments of models whose coarser levels may answer, too.

    Attributes:
        deep_supervision: Weight of the loss of each coarser level of the decoder, which has a head
            of its own in training; null for none.
    """

    deep_supervision: Annotated[float, Field(gt=0.0)] | None = None


class Levelled(Arguments):
    """Base of the arguments of U-Nets that are made of `vesselflow.models.unet3d.UNet3d`.

    Attributes:
        filters: Channels of each level, finest first; one level per entry.
        convolutions: Per level and direction: 3 x 3 x 3, or 3 x 3 where slices are left alone.
        norm: Normalisation after each convolution.
        activation: After each norm.
        dropout: Probability of dropping a channel after each level.
    """

    filters: Filters = (8, 16, 32)
    convolutions: Annotated[int, Field(ge=1, le=8)] = 2
    norm: Norm = "batch"
    activation: Activation = "relu"
    dropout: Probability = 0.0


class Volumetric(Excited):
    """Base of the arguments of models of volumes whose levels are convolved in 3-D.

    Attributes:
        filters: Channels of each level, finest first; one level per entry.
        flat_levels: How many of the finest levels leave the slices alone, for volumes whose slices
            lie far apart.
        convolution: What the encoder is made of, and the decoder of a U-Net: full convolutions, or
            those that cost less, channel-separated or with channels shifted between slices.
    """

    filters: Filters
    flat_levels: Annotated[int, Field(ge=0, le=5)] = 0
    convolution: Annotated[str, Named("convolution", CONVOLUTIONS)] = "full"

    def changed(self) -> dict[str, Any]:
        """Shifted convolutions are full ones where all levels leave the slices alone."""
        values = super().changed()
        if self.convolution == "shifted" and self.flat_levels >= len(self.filters):
            del values["convolution"]
        return values


class Sliced(Arguments):
    """Base of the arguments of 2.5-D models, see `vesselflow.models.layers.windows`.

    Attributes:
        slices: That each slice is answered from, itself in the middle; 1 for a 2-D network.
        windows: Of so many slices each, side by side, that one encoder sees one after the other.
        fuse: How one map is made of the windows', on each level.
        stem: What the network is given: the stack of slices, or what 3-D convolutions make of it.
        stem_filters: Channels of each of these 3 x 3 x 3 convolutions; two slices are taken off
            by each, so that no more are seen.
    """

    slices: Around = 5
    windows: Around = 1
    fuse: Annotated[str, Named("window fusion", WINDOW_FUSIONS)] = "mean"
    stem: Literal["stack", "conv3d"] = "stack"
    stem_filters: Annotated[tuple[Channels, ...], Field(strict=False, min_length=1)] = (8,)

    @model_validator(mode="after")
    def _deep_enough(self) -> Self:
        least = 2 * len(self.stem_filters) + 1
        if self.stem == "conv3d" and self.slices < least:
            raise UserError(
                f"a stem of {len(self.stem_filters)} convolutions leaves none of {self.slices} "
                "slices: each takes two off",
                where="model.slices",
                allowed=f"{least} or more, or fewer model.stem_filters",
            )
        return self

    def changed(self) -> dict[str, Any]:
        """A stem that is not there, and a fusion of one window, say nothing."""
        silent = {"stem_filters"} if self.stem == "stack" else set()
        silent |= {"fuse"} if self.windows == 1 else set()
        return {key: value for key, value in super().changed().items() if key not in silent}


def check_pyramid(finest_level: int, levels: range, fusion: str, merge: str) -> None:
    """Refuse a pyramid that ends at a level that is not there, and branches that none has.

    Args:
        finest_level: As in the config.
        levels: Of the encoder, finest first.
        fusion: Name of the fusion.
        merge: What becomes of parallel branches.

    Raises:
        UserError: The key in `where` is `model.finest_level` or `model.merge`.
    """
    if finest_level not in levels:
        raise UserError(
            f"there is no level {finest_level} in an encoder of {len(levels)}",
            where="model.finest_level",
            allowed=f"{levels[0]} to {levels[-1]}, the coarsest",
        )
    if merge == "cat" and fusion != "parallel":
        raise UserError(
            f"the fusion {fusion} has nothing to put side by side",
            where="model.merge",
            allowed="add, or cat beside fusion: parallel",
        )
