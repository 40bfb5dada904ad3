"""Architectures of segmentation-models-pytorch, one function per registered name.

Every function returns the library's own module, with the attributes `divisor` (the encoder's output
stride; heights and widths must be multiples of it) and `auxiliary_weight` (0, there is one output).
Initial weights are drawn from torch's global generator. `dropout` is the library's own, where the
architecture has it.

Architectures that pool to one pixel and normalise there (deeplabv3, deeplabv3plus, pan, upernet)
need at least two samples in a training micro-batch; pan pools three times below its stride and
needs images of at least eight times that stride. An encoder of a smaller `depth` keeps its unused
stages as parameters without a gradient.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from vesselflow.config.registry import Arguments
from vesselflow.errors import UserError
from vesselflow.models.arguments import Channels, Probability
from vesselflow.models.encoders import check_encoder

if TYPE_CHECKING:
    from torch import nn

#: Widths of the library's decoder levels for depth 5, coarsest first.
DECODER_CHANNELS = (256, 128, 64, 32, 16)

Depth = Annotated[int, Field(ge=3, le=5)]


class _Encoded(Arguments):
    """What all models with an encoder of segmentation-models-pytorch or timm share.

    Attributes:
        encoder: Any encoder that the library knows ("resnet18", "mit_b0", "tu-convnext_tiny"...).
        weights: None trains from scratch and needs no network; otherwise a name of pretrained
            weights ("imagenet"). For "tu-" encoders the variant stands in the encoder's name.
    """

    #: Registered name of the model.
    architecture: ClassVar[str]

    encoder: str = "resnet34"
    weights: str | None = None

    @model_validator(mode="after")
    def _known(self) -> _Encoded:
        dilated = getattr(self, "output_stride", 32) != 32
        check_encoder(self.architecture, self.encoder, self.weights, dilated=dilated)
        return self


class _Smp(_Encoded):
    """What all architectures of segmentation-models-pytorch but dpt share.

    Attributes:
        depth: Levels of the encoder that are used, each halves the size.
    """

    depth: Depth = 5


class LinknetArguments(_Smp):
    """Arguments of `linknet`."""

    architecture = "linknet"


class ManetArguments(_Smp):
    """Arguments of `manet`.

    Attributes:
        decoder_channels: One per level, coarsest first; None: the last `depth` of
            256, 128, 64, 32, 16.
    """

    architecture = "manet"

    decoder_channels: Annotated[tuple[Channels, ...], Field(strict=False)] | None = None

    @model_validator(mode="after")
    def _one_per_level(self) -> ManetArguments:
        channels = self.decoder_channels
        if channels is not None and len(channels) != self.depth:
            raise UserError(
                f"{list(channels)} has {len(channels)} entries for a depth of {self.depth}",
                where="model.decoder_channels",
                allowed=f"{self.depth} numbers, coarsest first",
            )
        return self


class UnetArguments(ManetArguments):
    """Arguments of `unet`.

    Attributes:
        attention: Attention of the decoder: None or "scse".
    """

    architecture = "unet"

    attention: Literal["scse"] | None = None


class UnetPlusPlusArguments(UnetArguments):
    """Arguments of `unetplusplus`: those of `unet`."""

    architecture = "unetplusplus"


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

    encoder: str = "tu-vit_tiny_patch16_224"


def unet(
    *,
    encoder: str,
    weights: str | None,
    depth: int,
    decoder_channels: Sequence[int] | None,
    attention: str | None,
    in_channels: int = 3,
    classes: int = 1,
) -> nn.Module:
    """U-Net (Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597)."""
    return _build(
        "Unet",
        encoder,
        weights,
        depth,
        in_channels,
        classes,
        decoder_channels=_decoder_channels(decoder_channels, depth),
        decoder_attention_type=attention,
    )


def unetplusplus(
    *,
    encoder: str,
    weights: str | None,
    depth: int,
    decoder_channels: Sequence[int] | None,
    attention: str | None,
    in_channels: int = 3,
    classes: int = 1,
) -> nn.Module:
    """U-Net++ (Zhou et al. 2018, https://arxiv.org/abs/1807.10165)."""
    return _build(
        "UnetPlusPlus",
        encoder,
        weights,
        depth,
        in_channels,
        classes,
        decoder_channels=_decoder_channels(decoder_channels, depth),
        decoder_attention_type=attention,
    )


def manet(
    *,
    encoder: str,
    weights: str | None,
    depth: int,
    decoder_channels: Sequence[int] | None,
    in_channels: int = 3,
    classes: int = 1,
) -> nn.Module:
    """MA-Net (Fan et al. 2020, https://ieeexplore.ieee.org/abstract/document/9201310)."""
    return _build(
        "MAnet",
        encoder,
        weights,
        depth,
        in_channels,
        classes,
        decoder_channels=_decoder_channels(decoder_channels, depth),
    )


def linknet(
    *, encoder: str, weights: str | None, depth: int, in_channels: int = 3, classes: int = 1
) -> nn.Module:
    """LinkNet (Chaurasia and Culurciello 2017, https://arxiv.org/abs/1707.03718)."""
    return _build("Linknet", encoder, weights, depth, in_channels, classes)


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
    return _build(
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
    return _build(
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
    return _build(
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
    return _build(
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
    return _build(
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
    return _build("UPerNet", encoder, weights, depth, in_channels, classes)


def segformer(
    *, encoder: str, weights: str | None, depth: int, in_channels: int = 3, classes: int = 1
) -> nn.Module:
    """SegFormer (Xie et al. 2021, https://arxiv.org/abs/2105.15203)."""
    return _build("Segformer", encoder, weights, depth, in_channels, classes)


def dpt(*, encoder: str, weights: str | None, in_channels: int = 3, classes: int = 1) -> nn.Module:
    """Dense prediction transformer (Ranftl et al. 2021, https://arxiv.org/abs/2103.13413)."""
    # Without dynamic sizes a transformer takes only images of the size in its name.
    return _build("DPT", encoder, weights, 4, in_channels, classes, dynamic_img_size=True)


def _decoder_channels(channels: Sequence[int] | None, depth: int) -> Sequence[int]:
    if channels is None:
        return DECODER_CHANNELS[-depth:]
    return channels


def _build(
    architecture: str,
    encoder: str,
    weights: str | None,
    depth: int,
    in_channels: int,
    classes: int,
    **arguments: Any,
) -> nn.Module:
    """Build one of the library's models.

    Raises:
        UserError: An encoder or depth that the architecture does not take, or weights that could
            not be fetched. (Unknown names were refused by the arguments.)
    """
    with _quiet():
        import segmentation_models_pytorch as smp

        kind = getattr(smp, architecture)
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
                f"{architecture.lower()} cannot use encoder '{encoder}' with depth {depth}"
                f" ({_first_line(error)})",
                where="model.encoder",
                hint="choose another encoder or depth; resnet18 with depth 5 suits most"
                if architecture != "DPT"
                else "choose a vision transformer of timm, such as tu-vit_tiny_patch16_224",
            ) from error
        if weights is not None:
            model = _pretrained(kind, encoder, weights, keywords)
    model.divisor = int(model.encoder.output_stride)  # type: ignore[assignment,union-attr,arg-type]
    model.auxiliary_weight = 0.0  # type: ignore[assignment]
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
