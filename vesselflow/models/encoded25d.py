"""2.5-D U-Net with an encoder of segmentation-models-pytorch, over all slices of a volume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from vesselflow.models.layers.convolutions import check_volume, initialise
from vesselflow.models.layers.windows import FusedWindows, SliceStack, as_volumes
from vesselflow.models.smp import unet


class Encoded25d(nn.Module):
    """`unet` over all slices of a volume: each is answered from those around it.

    What it is given, and how windows are fused, is that of `unet25d`; the stem's norm is batch-norm
    and its activation ReLU, as those of most encoders. Pretrained weights of an encoder's first
    layer are repeated over the channels that the slices make, as the library does.

    Args:
        slices: As `windows`, `fuse`, `stem` and `stem_filters` those of `unet25d`.
        encoder: As `weights`, `depth`, `decoder_channels`, `attention`, `se`, `se_at`,
            `se_reduction` and `skip_gate` those of `unet`.
        in_channels: Channels of the volume.
        classes: Channels of the logits.
        stride: Of the logits, that of one of the decoder's blocks; across slices it is 1.

    Attributes:
        divisor: Depth (1), height and width must be multiples of these.
        auxiliary_weight: 0; there is one answer.
        coarsest: Name of the module that the encoder's maps go through, and the channels of the
            coarsest.

    Raises:
        UserError: As for `unet`.
    """

    def __init__(
        self,
        *,
        slices: int,
        windows: int,
        fuse: str,
        stem: str,
        stem_filters: Sequence[int],
        encoder: str,
        weights: str | None,
        depth: int,
        decoder_channels: Sequence[int] | None,
        attention: str | None,
        se: str | None,
        se_at: Sequence[str],
        se_reduction: int | None,
        skip_gate: str | None,
        in_channels: int = 1,
        classes: int = 1,
        stride: tuple[int, ...] = (1, 1, 1),
    ) -> None:
        super().__init__()
        self.images = SliceStack(
            slices=slices,
            in_channels=in_channels,
            widths=stem_filters if stem == "conv3d" else (),
            norm="batch",
            activation="relu",
        )
        self.images.apply(initialise)
        network: Any = unet(
            encoder=encoder,
            weights=weights,
            depth=depth,
            decoder_channels=decoder_channels,
            attention=attention,
            se=se,
            se_at=se_at,
            se_reduction=se_reduction,
            skip_gate=skip_gate,
            in_channels=self.images.channels,
            classes=classes,
            stride=stride[1:],
        )
        # Under the names that rates of encoders and the heads' biases are looked for.
        self.encoder, self.decoder = network.encoder, network.decoder
        self.segmentation_head = network.segmentation_head
        self.handoff = network.handoff  # the encoder's hook calls it
        if se is not None:  # the decoder's hooks call them
            self.gates = network.gates
        if skip_gate is not None:
            self.skip_gates = network.skip_gates
        self.fuse = FusedWindows(
            windows=windows, slices=slices, fuse=fuse, widths=self.encoder.out_channels[1:]
        )
        self.divisor = (1, network.divisor, network.divisor)
        self.auxiliary_weight = 0.0
        self.coarsest = network.coarsest

    def forward(self, volume: Tensor) -> Tensor:
        """Logits of a volume.

        Args:
            volume: float (N, in_channels, D, H, W), H and W multiples of those of `divisor`.

        Returns:
            Logits (N, classes, D, H, W), each side divided by that of `stride`.

        Raises:
            ShapeError: It is no volume, or a side is not a multiple of `divisor`.
        """
        check_volume("encoded25d", volume, self.divisor)
        # The first map is the image itself, which the decoder leaves out.
        image, *maps = self.encoder(self.images(volume))
        decoded = self.decoder([image, *self.fuse(maps, volume.shape[2])])
        return as_volumes(self.segmentation_head(decoded), volume.shape[2])
