"""Models whose logits are coarser than their input: heat-maps of keypoints, and masks on request.

With an output stride of f, cell j covers the pixels f j to f j + f - 1 of an axis, so that its
centre lies at f j + (f - 1) / 2. A model of volumes, `unet` and `fpn2d` end their decoder at the
coarsest level whose pixels fill the cells without a rest, which saves the finer levels; what is
then still too fine, and the logits of every other model, are averaged over each cell. So any model
takes any stride.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vesselflow.errors import ShapeError
from vesselflow.models import MODELS
from vesselflow.models.ends import channels_per_class
from vesselflow.models.needs import axes_of, native_stride

#: Probability of foreground in a cell that a model starts from, as in RetinaNet (Lin et al., ICCV
#: 2017, https://arxiv.org/abs/1708.02002, section 4.1): from 1/2 it must first unlearn all cells.
PRIOR = 0.01


def build(
    spec: Mapping[str, Any],
    *,
    in_channels: int,
    classes: int,
    stride: int | tuple[int, ...] = 1,
    rare: bool = True,
) -> nn.Module:
    """Build a model whose logits have a stride.

    Args:
        spec: Name and arguments; what is left out has its default.
        in_channels: Channels of the images.
        classes: Channels of the logits.
        stride: Pixels per cell, at least 1: of all axes, or one number for each. At 1 it is the
            registered model itself, with its names and numbers.
        rare: With a stride above 1 the head's bias starts from foreground as rare as `PRIOR`, as
            that of heat-maps is.

    Returns:
        The model, with the attributes `divisor` (sides must be multiples of it and of the stride)
        and `auxiliary_weight` of the registered one. Logits are (N, classes, *sides / stride),
        auxiliary ones, too.

    Raises:
        UserError: An argument that the model does not take.
        ValueError: A stride below 1, or one of another number of axes.
    """
    spec = MODELS.validate(spec)
    wanted = (stride,) * axes_of(spec) if isinstance(stride, int) else tuple(stride)
    if min(wanted) < 1:
        raise ValueError(f"an output stride is at least 1, got {wanted}")
    own = native_stride(spec, wanted)
    runtime: dict[str, Any] = {"in_channels": in_channels, "classes": classes}
    if max(own) > 1:
        runtime["stride"] = own
    model: nn.Module = MODELS.build(spec, **runtime)
    if max(wanted) > 1 and rare:
        _start_rare(model, classes, channels_per_class(spec.get("head", "sigmoid")))
    if own == wanted:
        return model
    return Averaged(model, tuple(all_ // one for all_, one in zip(wanted, own, strict=True)), own)


class Averaged(nn.Module):
    """A model whose logits are averaged over cells.

    Args:
        model: Gives logits, or in training also auxiliary ones of the same grid.
        cells: Pixels of the model's answer that make a cell, one number for each axis.
        own: Stride of the model's answer.

    Attributes:
        divisor: Sides must be multiples of these: of what the model asks and of the stride.
        auxiliary_weight: That of the model.
    """

    def __init__(self, model: nn.Module, cells: tuple[int, ...], own: tuple[int, ...]) -> None:
        super().__init__()
        self.model = model
        self._cells = cells
        self._stride = tuple(cell * part for cell, part in zip(cells, own, strict=True))
        needed: Any = model.divisor
        each = (needed,) * len(cells) if isinstance(needed, int) else needed
        self.divisor = tuple(math.lcm(*pair) for pair in zip(each, self._stride, strict=True))
        self.auxiliary_weight = float(getattr(model, "auxiliary_weight", 0.0))

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits of the cells.

        Args:
            image: float (N, in_channels, *sides), sides multiples of `divisor`.

        Returns:
            Logits (N, classes, *sides / stride); a tuple of such where the model gives several.

        Raises:
            ShapeError: A side is no multiple of the stride, or not what the model takes.
        """
        sides = tuple(image.shape[2:])
        if len(sides) != len(self._stride) or any(
            side % part for side, part in zip(sides, self._stride, strict=True)
        ):
            raise ShapeError(f"cells of {self._stride} px do not fill sides of {sides}")
        answer = self.model(image)
        if isinstance(answer, tuple):
            return tuple(cell_means(logits, self._cells) for logits in answer)
        return cell_means(answer, self._cells)


def cell_means(values: Tensor, cells: Sequence[int]) -> Tensor:
    """Means over the cells of a grid, the same on every device and run.

    (Average pooling is that too, but not for two and three axes in one, and its gradient in three
    is summed in any order on a GPU.)

    Args:
        values: float (N, C, *sides).
        cells: Pixels of a cell, one number for each axis; each divides its side.

    Returns:
        (N, C, *sides / cells), of the same type.
    """
    shape = list(values.shape[:2])
    for side, cell in zip(values.shape[2:], cells, strict=True):
        shape += [side // cell, cell]
    inner = tuple(range(3, len(shape), 2))
    return torch.mean(values.reshape(shape), dim=inner)


def _start_rare(model: nn.Module, classes: int, each: int) -> None:
    """Set the bias of the heads' foreground, those of auxiliary answers included."""
    for name, module in model.named_modules():
        if name.rpartition(".")[2] not in ("head", "segmentation_head"):
            continue
        if not name.startswith("encoder."):  # timm's have heads of their own
            *_, bias = (
                layer.bias
                for layer in module.modules()
                if isinstance(layer, nn.Conv2d | nn.Conv3d) and layer.out_channels == classes * each
            )
            assert bias is not None
            # Channels of a background stand first; they start at 0.
            nn.init.zeros_(bias)
            nn.init.constant_(bias[-classes:], math.log(PRIOR / (1.0 - PRIOR)))
