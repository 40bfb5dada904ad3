"""2.5-D U-Net: a network of images that answers each slice of a volume from those around it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from vesselflow.models.layers.convolutions import check_volume, initialise
from vesselflow.models.layers.windows import FusedWindows, SliceStack, as_volumes
from vesselflow.models.unet3d import UNet3d


class UNet25d(UNet3d):
    """U-Net of images over all slices of a volume: each is answered from its neighbours.

    The U-Net is `unet3d` with kernels of 1 x 3 x 3 and pooling of 1 x 2 x 2. It is given each slice
    as an image whose channels are the `slices` around it, so that with one slice it is a 2-D
    network; norms and gates see one image at a time, batch-norm those of all slices and volumes of
    a micro-batch. Beyond the ends of a volume the first and the last slice are repeated.

    With a `stem` of 3-D convolutions, what they make of the slices is given instead. Of several
    `windows` of that many slices, side by side, each goes through the same encoder, and the maps of
    each level are fused before the decoder; beyond the ends, the first and last window are
    repeated.

    Weights are drawn as those of `unet3d` are, after the stem's; fusions draw none.

    Args:
        slices: Seen at once of each slice, odd.
        windows: How many of these, odd.
        fuse: Name of what makes one map of the windows'.
        stem: "stack", or "conv3d" for 3 x 3 x 3 convolutions before; they see no more slices.
        stem_filters: Channels of each of these.
        filters: As `convolutions`, `norm`, `activation`, `dropout`, `se`, `se_at` and
            `se_reduction` those of `unet3d`.
        in_channels: Channels of the volume.
        classes: Channels of the logits.
        stride: Of the logits, that of one of the levels; across slices it is 1.

    Attributes:
        divisor: Depth (1), height and width must be multiples of these.
        auxiliary_weight: 0; there is one answer.
        coarsest: Name of the module that the encoder's maps go through, and the channels of the
            coarsest.

    Reference: slices as channels as in Roth et al., A new 2.5D representation for lymph node
        detection, MICCAI 2014, https://arxiv.org/abs/1406.2639. Deviates: parallel slices, not
        three orthogonal ones.
    """

    def __init__(
        self,
        *,
        slices: int,
        windows: int,
        fuse: str,
        stem: str,
        stem_filters: Sequence[int],
        filters: Sequence[int],
        convolutions: int,
        norm: str,
        activation: str,
        dropout: float,
        se: str | None,
        se_at: Sequence[str],
        se_reduction: int | None,
        in_channels: int = 1,
        classes: int = 1,
        stride: tuple[int, ...] = (1, 1, 1),
    ) -> None:
        images = SliceStack(
            slices=slices,
            in_channels=in_channels,
            widths=stem_filters if stem == "conv3d" else (),
            norm=norm,
            activation=activation,
        )
        images.apply(initialise)
        super().__init__(
            filters=filters,
            convolutions=convolutions,
            flat_levels=len(filters),
            convolution="full",
            norm=norm,
            activation=activation,
            dropout=dropout,
            se=se,
            se_at=se_at,
            se_reduction=se_reduction,
            skip_gate=None,
            deep_supervision=None,
            in_channels=images.channels,
            classes=classes,
            stride=stride,
        )
        self.images = images
        self.fuse = FusedWindows(windows=windows, slices=slices, fuse=fuse, widths=filters)

    def forward(self, volume: Tensor) -> Tensor:
        """Logits of a volume.

        Args:
            volume: float (N, in_channels, D, H, W), H and W multiples of those of `divisor`.

        Returns:
            Logits (N, classes, D, H, W), each side divided by that of `stride`.

        Raises:
            ShapeError: It is no volume, or a side is not a multiple of `divisor`.
        """
        check_volume("unet25d", volume, self.divisor)
        # One slice deep, as the layers are those of volumes.
        maps = self.encode(self.images(volume).unsqueeze(2))
        fused = self.fuse([each.squeeze(2) for each in maps], volume.shape[2])
        logits = self.decode([each.unsqueeze(2) for each in fused])
        assert isinstance(logits, Tensor)  # no level answers beside the finest
        return as_volumes(logits.squeeze(2), volume.shape[2])
