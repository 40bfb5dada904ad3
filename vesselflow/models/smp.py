"""Architectures of segmentation-models-pytorch, one function per registered name.

Every function returns the library's own module, with the attributes `divisor` (the encoder's output
stride; heights and widths must be multiples of it), `auxiliary_weight` (0, there is one output) and
`coarsest` (the module that the encoder's maps go through, and the channels of the coarsest).
Initial weights are drawn from torch's global generator. `dropout` is the library's own, where the
architecture has it.

Architectures that pool to one pixel and normalise there (deeplabv3, deeplabv3plus, pan, upernet)
need at least two samples in a training micro-batch; pan pools three times below its stride and
needs images of at least eight times that stride. An encoder of a smaller `depth` keeps its unused
stages as parameters without a gradient.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from vesselflow.config.named import Named
from vesselflow.errors import UserError
from vesselflow.models.arguments import (
    Activation,
    Channels,
    Ends,
    Excited,
    Norm,
    Place,
    Probability,
    Skipped,
    Width,
    check_pyramid,
)
from vesselflow.models.encoders import (
    check_drop_path,
    check_encoder,
    check_padding,
    check_stages,
    drops_paths,
)
from vesselflow.models.layers import FUSIONS

if TYPE_CHECKING:
    from torch import nn

#: Widths of the library's decoder levels for depth 5, coarsest first.
DECODER_CHANNELS = (256, 128, 64, 32, 16)

#: The library's scse has a bottleneck of a 16th of its channels.
_ATTENDED = 16

Depth = Annotated[int, Field(ge=3, le=5)]
Places = Annotated[tuple[Place, ...], Field(strict=False, min_length=1)]
#: A decoder whose blocks are nested has no one map of a level.
NestedPlaces = Annotated[tuple[Literal["encoder", "skip"], ...], Field(strict=False, min_length=1)]


class _Encoded(Ends):
    """What all models with an encoder of segmentation-models-pytorch or timm share.

    Attributes:
        encoder: Any encoder that the library knows ("resnet18", "mit_b0", "tu-convnext_tiny"...).
        weights: None trains from scratch and needs no network; otherwise a name of pretrained
            weights ("imagenet"). For "tu-" encoders the variant stands in the encoder's name.
        drop_path: Stochastic depth: probability of leaving out, in each sample by itself, the
            branch of the encoder's last residual block; from 0 of the first it rises evenly. null
            leaves the encoder as its library has it: up to .1 in mit_b*, .2 in efficientnets, and
            mostly none.
    """

    applied = frozenset({"drop_path"})

    #: Registered name of the model.
    architecture: ClassVar[str]

    encoder: str = "resnet34"
    weights: str | None = None
    drop_path: Probability | None = None

    @model_validator(mode="after")
    def _known(self) -> _Encoded:
        dilated = getattr(self, "output_stride", 32) != 32
        check_encoder(self.architecture, self.encoder, self.weights, dilated=dilated)
        check_drop_path(self.encoder, self.drop_path)
        check_padding(self.encoder, self.padding)
        if self.coordinates:
            self._takes_coordinates()
        return self

    def changed(self) -> dict[str, Any]:
        """To leave out no branch says nothing of an encoder that leaves out none anyway."""
        values = super().changed()
        if self.drop_path == 0.0 and not drops_paths(self.encoder):
            del values["drop_path"]
        return values

    def apply(self, model: Any) -> None:
        """Give the encoder its stochastic depth."""
        super().apply(model)
        if self.drop_path is not None:
            from vesselflow.models.layers.drop_path import drop_paths

            drop_paths(model.encoder, self.drop_path, self.encoder)

    def _takes_coordinates(self) -> None:
        """Refuse coordinates where the first layer is one of colours."""
        if self.encoder.startswith("mit_b"):
            raise UserError(
                f"encoder '{self.encoder}' takes three channels; there is none for coordinates",
                where="model.coordinates",
                allowed="false beside encoders mit_b*",
            )
        if self.weights is not None:
            raise UserError(
                f"weights '{self.weights}' are those of colours; none are for coordinates",
                where="model.coordinates",
                allowed="false, or true beside model.weights: null",
            )


class _Smp(_Encoded):
    """What all architectures of segmentation-models-pytorch but dpt share.

    Attributes:
        depth: Levels of the encoder that are used, each halves the size.
    """

    depth: Depth = 5


class _Excited(Excited, _Smp):
    """Base of those that may have squeeze-and-excitation.

    Attributes:
        se_at: Where it stands: one place, or a list of them. In the encoder it stands behind each
            of its levels: what it gives goes to the next level, and to the decoder.
    """

    se_at: Places = ("decoder",)

    @model_validator(mode="after")
    def _has_stages(self) -> _Excited:
        check_stages(self.encoder, () if self.se is None else self.se_at)
        return self


class LinknetArguments(_Excited):
    """Arguments of `linknet`."""

    architecture = "linknet"


class _Widened(_Smp):
    """Base of those whose decoder has a width for each level.

    Attributes:
        decoder_channels: One per level, coarsest first; None: the last `depth` of
            256, 128, 64, 32, 16.
    """

    decoder_channels: Annotated[
        Annotated[tuple[Channels, ...], Field(strict=False)] | None, Width()
    ] = None

    def widths(self) -> dict[str, tuple[int, ...]]:
        """The decoder's; the encoder is given."""
        return {"decoder_channels": _decoder_channels(self.decoder_channels, self.depth)}

    @model_validator(mode="after")
    def _one_per_level(self) -> _Widened:
        channels = self.decoder_channels
        if channels is not None and len(channels) != self.depth:
            raise UserError(
                f"{list(channels)} has {len(channels)} entries for a depth of {self.depth}",
                where="model.decoder_channels",
                allowed=f"{self.depth} numbers, coarsest first",
            )
        return self


class ManetArguments(_Excited, _Widened):
    """Arguments of `manet`."""

    architecture = "manet"


class _Attended(_Excited, _Widened):
    """Base of those whose decoder may have the library's attention.

    Attributes:
        attention: Attention of the decoder: None or "scse".
    """

    attention: Literal["scse"] | None = None

    @property
    def least_width(self) -> int:
        """The library's attention keeps one of so many channels."""
        return 1 if self.attention is None else _ATTENDED

    @model_validator(mode="after")
    def _wide_enough(self) -> _Attended:
        if min(self.widths()["decoder_channels"]) < self.least_width:
            raise UserError(
                f"the library's attention leaves nothing of fewer than {_ATTENDED} channels",
                where="model.decoder_channels",
                allowed=f"{_ATTENDED} or more each, or model.attention: null",
            )
        return self


class UnetPlusPlusArguments(_Attended):
    """Arguments of `unetplusplus`.

    Attributes:
        se_at: Where it stands: one place, or both; its decoder's blocks are nested.
    """

    architecture = "unetplusplus"

    se_at: NestedPlaces = ("skip",)


class UnetArguments(Skipped, _Attended):
    """Arguments of `unet`.

    Attributes:
        attention: The library's own attention of the decoder, on what enters and what leaves each
            block: None or "scse". Unlike `skip_gate` it sees one map, the skip beside the raised
            coarser one, and gates both, by channel and by place.
    """

    architecture = "unet"


class Fpn2dArguments(_Excited):
    """Arguments of `fpn2d`, see `vesselflow.models.fpn2d.Fpn2d`.

    Attributes:
        pyramid_channels: Channels of every map of the pyramid.
        segmentation_channels: Channels of every map of the fusion.
        finest_level: Level of the pyramid's finest map, 1 for stride 2, or that of the finest that
            the encoder has; logits are interpolated from there.
        fusion: How one map is made of the pyramid's.
        merge: What the parallel fusion makes of its branches: their sum, or one beside the other.
        upsample: How the pyramid raises its maps.
        norm: Normalisation of the fusion; the encoder has its own.
        activation: Of the fusion.
        dropout: Probability of dropping a channel of what was fused.
    """

    architecture = "fpn2d"

    pyramid_channels: Annotated[Channels, Width(normed=False)] = 128
    segmentation_channels: Annotated[Channels, Width()] = 64
    finest_level: Annotated[int, Field(ge=1, le=5)] = 1
    fusion: Annotated[str, Named("fusion", FUSIONS)] = "parallel"
    merge: Literal["add", "cat"] = "add"
    upsample: Literal["nearest", "bilinear"] = "nearest"
    norm: Norm = "batch"
    activation: Activation = "relu"
    dropout: Probability = 0.0

    @model_validator(mode="after")
    def _fits(self) -> Fpn2dArguments:
        check_pyramid(self.finest_level, range(1, self.depth + 1), self.fusion, self.merge)
        return self


class FpnArguments(_Smp):
    """Arguments of `fpn`.

    Attributes:
        dropout: Channel dropout before the head.
    """

    architecture = "fpn"

    dropout: Probability = 0.2


class PspnetArguments(_Smp):
    """Arguments of `pspnet`.

    Attributes:
        dropout: Channel dropout after the pyramid.
    """

    architecture = "pspnet"

    depth: Depth = 3
    dropout: Probability = 0.2


class PanArguments(_Smp):
    """Arguments of `pan`.

    Attributes:
        output_stride: Stride of the dilated encoder.
    """

    architecture = "pan"

    output_stride: Literal[16, 32] = 16


class Deeplabv3Arguments(_Smp):
    """Arguments of `deeplabv3`.

    Attributes:
        dropout: Dropout after the atrous pyramid.
        output_stride: Stride of the dilated encoder.
    """

    architecture = "deeplabv3"

    dropout: Probability = 0.5
    output_stride: Literal[8, 16] = 8


class Deeplabv3PlusArguments(Deeplabv3Arguments):
    """Arguments of `deeplabv3plus`."""

    architecture = "deeplabv3plus"

    output_stride: Literal[8, 16] = 16


class UpernetArguments(_Smp):
    """Arguments of `upernet`."""

    architecture = "upernet"


class SegformerArguments(_Smp):
    """Arguments of `segformer`."""

    architecture = "segformer"

    encoder: str = "mit_b0"


class DptArguments(_Encoded):
    """Arguments of `dpt`.

    Attributes:
        encoder: A vision transformer of timm, with the prefix "tu-".
    """

    architecture = "dpt"
    #: Its encoder gives more than maps.
    hands_over: ClassVar[bool] = False

    encoder: str = "tu-vit_tiny_patch16_224"


def unet(
    *,
    encoder: str,
    weights: str | None,
    depth: int,
    decoder_channels: Sequence[int] | None,
    attention: str | None,
    se: str | None,
    se_at: Sequence[str],
    se_reduction: int | None,
    skip_gate: str | None,
    in_channels: int = 3,
    classes: int = 1,
    stride: tuple[int, ...] = (1, 1),
) -> nn.Module:
    """U-Net (Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597).

    Excitations stand behind each level of the "encoder", at each "skip" and behind each block of
    the "decoder", which ends at the block that has the output stride. A skip's gate is driven by
    what enters the block that it enters.
    """
    widths = _decoder_channels(decoder_channels, depth)
    model: Any = build_encoded(
        "Unet",
        encoder,
        weights,
        depth,
        in_channels,
        classes,
        decoder_channels=widths,
        decoder_attention_type=attention,
    )
    blocks = depth - int(math.log2(stride[0]))
    if blocks < depth:
        _end_early(model, blocks, widths, classes)
    if se is not None:
        gates = _Gates(encoder, in_channels, se, se_at, se_reduction)
        _excite(model, gates, model.decoder.blocks, widths[:blocks])
    if skip_gate is not None:
        _gate_skips(model, widths[:blocks], skip_gate)
    built: nn.Module = model
    return built


def _end_early(model: Any, blocks: int, widths: Sequence[int], classes: int) -> None:
    """Leave out the finest blocks of the library's decoder, and predict from the last one left."""
    from segmentation_models_pytorch.base import SegmentationHead
    from segmentation_models_pytorch.base.initialization import initialize_head

    del model.decoder.blocks[blocks:]
    model.segmentation_head = SegmentationHead(widths[blocks - 1], classes, kernel_size=3)
    initialize_head(model.segmentation_head)


@dataclass(frozen=True)
class _Gates:
    """What excitations are asked for, of which encoder."""

    encoder: str
    in_channels: int
    se: str
    places: Sequence[str]
    reduction: int | None


def _excite(model: Any, asked: _Gates, blocks: Sequence[Any], widths: Sequence[int]) -> None:
    """Put gates on the levels of the encoder, on what goes into the decoder, and on its blocks.

    By hooks, so that all other parts and weights keep their names.

    Args:
        model: Of the library.
        asked: Which gates, and where.
        blocks: Of its decoder, coarsest first.
        widths: Channels of what each gives; the first of them is one level above the coarsest.
    """
    from vesselflow.models.layers.gates import Gates, Hook, SkipHook
    from vesselflow.models.layers.stages import gate_levels

    encoded = model.encoder.out_channels
    coarsest = len(encoded) - 1
    first = max(1, coarsest - len(widths))  # at stride 1 there is no skip
    channels = {
        "encoder": {level: encoded[level] for level in range(1, coarsest + 1) if encoded[level]},
        "skip": {level: encoded[level] for level in range(first, coarsest) if encoded[level]},
        "decoder": dict(enumerate(reversed(widths))),
    }
    model.gates = Gates(asked.se, asked.places, channels, axes=2, reduction=asked.reduction)
    if "encoder" in asked.places:
        gate_levels(model.gates, model.encoder, asked.encoder, asked.in_channels)
    model.decoder.register_forward_pre_hook(SkipHook(model.gates))
    for level, block in enumerate(reversed(blocks)):
        block.register_forward_hook(Hook(model.gates, "decoder", level))


def _gate_skips(model: Any, widths: Sequence[int], skip_gate: str) -> None:
    """Put gates before the library's blocks, by hooks as `_excite` does."""
    from vesselflow.models.layers.skip_gates import BlockHook, SkipGates

    encoded = model.encoder.out_channels
    coarsest = len(encoded) - 1
    signals = [encoded[coarsest], *widths[:-1]]
    # At stride 1 there is no skip; some encoders have none at stride 2.
    channels = {
        coarsest - 1 - index: (encoded[coarsest - 1 - index], signal)
        for index, signal in enumerate(signals)
        if coarsest - 1 - index >= 1 and encoded[coarsest - 1 - index]
    }
    model.skip_gates = SkipGates(skip_gate, channels, dict.fromkeys(channels, (2, 2)))
    for index, block in enumerate(model.decoder.blocks):
        hook = BlockHook(model.skip_gates, coarsest - 1 - index)
        block.register_forward_pre_hook(hook, with_kwargs=True)


def unetplusplus(
    *,
    encoder: str,
    weights: str | None,
    depth: int,
    decoder_channels: Sequence[int] | None,
    attention: str | None,
    se: str | None,
    se_at: Sequence[str],
    se_reduction: int | None,
    in_channels: int = 3,
    classes: int = 1,
) -> nn.Module:
    """U-Net++ (Zhou et al. 2018, https://arxiv.org/abs/1807.10165)."""
    widths = _decoder_channels(decoder_channels, depth)
    model = build_encoded(
        "UnetPlusPlus",
        encoder,
        weights,
        depth,
        in_channels,
        classes,
        decoder_channels=widths,
        decoder_attention_type=attention,
    )
    if se is not None:
        _excite(model, _Gates(encoder, in_channels, se, se_at, se_reduction), (), widths)
    return model


def manet(
    *,
    encoder: str,
    weights: str | None,
    depth: int,
    decoder_channels: Sequence[int] | None,
    se: str | None,
    se_at: Sequence[str],
    se_reduction: int | None,
    in_channels: int = 3,
    classes: int = 1,
) -> nn.Module:
    """MA-Net (Fan et al. 2020, https://ieeexplore.ieee.org/abstract/document/9201310)."""
    widths = _decoder_channels(decoder_channels, depth)
    model: Any = build_encoded(
        "MAnet", encoder, weights, depth, in_channels, classes, decoder_channels=widths
    )
    if se is not None:
        gates = _Gates(encoder, in_channels, se, se_at, se_reduction)
        _excite(model, gates, model.decoder.blocks, widths)
    built: nn.Module = model
    return built


def linknet(
    *,
    encoder: str,
    weights: str | None,
    depth: int,
    se: str | None,
    se_at: Sequence[str],
    se_reduction: int | None,
    in_channels: int = 3,
    classes: int = 1,
) -> nn.Module:
    """LinkNet (Chaurasia and Culurciello 2017, https://arxiv.org/abs/1707.03718)."""
    model: Any = build_encoded("Linknet", encoder, weights, depth, in_channels, classes)
    if se is not None:
        # Each block gives as many as the next level of the encoder has, or where that has no map as
        # many as it was given; the last one what the head takes.
        coarsest, *others = model.encoder.out_channels[:0:-1]
        widths = list(itertools.accumulate(others, lambda last, own: own or last, initial=coarsest))
        widths = [*widths[1:], model.segmentation_head[0].in_channels]
        gates = _Gates(encoder, in_channels, se, se_at, se_reduction)
        _excite(model, gates, model.decoder.blocks, widths)
    built: nn.Module = model
    return built


def fpn(
    *,
    encoder: str,
    weights: str | None,
    depth: int,
    dropout: float,
    in_channels: int = 3,
    classes: int = 1,
) -> nn.Module:
    """Panoptic FPN (Kirillov et al. 2019, https://arxiv.org/abs/1901.02446)."""
    return build_encoded(
        "FPN",
        encoder,
        weights,
        depth,
        in_channels,
        classes,
        decoder_dropout=dropout,
        # Its output is that of the pyramid level four above the coarsest.
        upsampling=2 ** (depth - 3),
    )


def pspnet(
    *,
    encoder: str,
    weights: str | None,
    depth: int,
    dropout: float,
    in_channels: int = 3,
    classes: int = 1,
) -> nn.Module:
    """PSPNet (Zhao et al. 2017, https://arxiv.org/abs/1612.01105)."""
    return build_encoded(
        "PSPNet",
        encoder,
        weights,
        depth,
        in_channels,
        classes,
        psp_dropout=dropout,
        upsampling=2**depth,
    )


def pan(
    *,
    encoder: str,
    weights: str | None,
    depth: int,
    output_stride: int,
    in_channels: int = 3,
    classes: int = 1,
) -> nn.Module:
    """Pyramid attention network (Li et al. 2018, https://arxiv.org/abs/1805.10180)."""
    return build_encoded(
        "PAN",
        encoder,
        weights,
        depth,
        in_channels,
        classes,
        encoder_output_stride=output_stride,
    )


def deeplabv3(
    *,
    encoder: str,
    weights: str | None,
    depth: int,
    dropout: float,
    output_stride: int,
    in_channels: int = 3,
    classes: int = 1,
) -> nn.Module:
    """DeepLabV3 (Chen et al. 2017, https://arxiv.org/abs/1706.05587)."""
    return build_encoded(
        "DeepLabV3",
        encoder,
        weights,
        depth,
        in_channels,
        classes,
        decoder_aspp_dropout=dropout,
        encoder_output_stride=output_stride,
    )


def deeplabv3plus(
    *,
    encoder: str,
    weights: str | None,
    depth: int,
    dropout: float,
    output_stride: int,
    in_channels: int = 3,
    classes: int = 1,
) -> nn.Module:
    """DeepLabV3+ (Chen et al. 2018, https://arxiv.org/abs/1802.02611)."""
    return build_encoded(
        "DeepLabV3Plus",
        encoder,
        weights,
        depth,
        in_channels,
        classes,
        decoder_aspp_dropout=dropout,
        encoder_output_stride=output_stride,
    )


def upernet(
    *, encoder: str, weights: str | None, depth: int, in_channels: int = 3, classes: int = 1
) -> nn.Module:
    """UPerNet (Xiao et al. 2018, https://arxiv.org/abs/1807.10221)."""
    return build_encoded("UPerNet", encoder, weights, depth, in_channels, classes)


def segformer(
    *, encoder: str, weights: str | None, depth: int, in_channels: int = 3, classes: int = 1
) -> nn.Module:
    """SegFormer (Xie et al. 2021, https://arxiv.org/abs/2105.15203)."""
    return build_encoded("Segformer", encoder, weights, depth, in_channels, classes)


def dpt(*, encoder: str, weights: str | None, in_channels: int = 3, classes: int = 1) -> nn.Module:
    """Dense prediction transformer (Ranftl et al. 2021, https://arxiv.org/abs/2103.13413)."""
    # Without dynamic sizes a transformer takes only images of the size in its name.
    return build_encoded("DPT", encoder, weights, 4, in_channels, classes, dynamic_img_size=True)


def _decoder_channels(channels: Sequence[int] | None, depth: int) -> tuple[int, ...]:
    return DECODER_CHANNELS[-depth:] if channels is None else tuple(channels)


def build_encoded(
    architecture: str | type[nn.Module],
    encoder: str,
    weights: str | None,
    depth: int,
    in_channels: int,
    classes: int,
    **arguments: Any,
) -> nn.Module:
    """Build one of the library's models, or a class that takes an encoder as they do.

    Raises:
        UserError: An encoder or depth that the architecture does not take, or weights that could
            not be fetched. (Unknown names were refused by the arguments.)
    """
    from vesselflow.models.layers.handoff import EncoderHook, Handoff

    with _quiet():
        import segmentation_models_pytorch as smp

        kind = getattr(smp, architecture) if isinstance(architecture, str) else architecture
        keywords = {
            "encoder_name": encoder,
            "encoder_depth": depth,
            "in_channels": in_channels,
            "classes": classes,
            **arguments,
        }
        try:
            model: nn.Module = kind(encoder_weights=None, **keywords)
        # The library has no error of its own: an unsuitable encoder raises any of these.
        except (ValueError, NotImplementedError, KeyError, TypeError, RuntimeError) as error:
            raise UserError(
                f"{kind.__name__.lower()} cannot use encoder '{encoder}' with depth {depth}"
                f" ({_first_line(error)})",
                where="model.encoder",
                hint="choose another encoder or depth; resnet18 with depth 5 suits most"
                if kind.__name__ != "DPT"
                else "choose a vision transformer of timm, such as tu-vit_tiny_patch16_224",
            ) from error
        if weights is not None:
            model = _pretrained(kind, encoder, weights, keywords)
    if architecture != "DPT":  # its encoder gives more than maps
        model.handoff = Handoff()
        model.encoder.register_forward_hook(EncoderHook(model.handoff))  # type: ignore[union-attr]
    model.divisor = int(model.encoder.output_stride)  # type: ignore[assignment,union-attr,arg-type]
    model.auxiliary_weight = 0.0  # type: ignore[assignment]
    channels = model.encoder.out_channels[-1]  # type: ignore[union-attr,index]
    passed = "handoff" if hasattr(model, "handoff") else "encoder"
    model.coarsest = (passed, int(channels))  # type: ignore[assignment]
    return model


def _pretrained(kind: Any, encoder: str, weights: str, keywords: dict[str, Any]) -> nn.Module:
    # timm's encoders carry the variant in their name; the library takes any value there as "yes".
    value = True if encoder.startswith("tu-") else weights
    try:
        model: nn.Module = kind(encoder_weights=value, **keywords)
    except Exception as error:
        # The same model was built without weights just now, so what fails is fetching or loading
        # them; each version of the hub's client has its own exceptions for a missing network.
        raise UserError(
            f"weights '{weights}' of encoder '{encoder}' could not be loaded"
            f" ({type(error).__name__}: {_first_line(error)})",
            where="model.weights",
            hint="connect to the network once, or train from scratch with 'weights: null'",
        ) from error
    return model


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' notes on their own future away from the user's screen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield
