"""Focal Tversky loss: a Tversky loss that turns up what is nearly right, or what is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from vesselflow.config.scalars import Range, ScalarSchedule, Share
from vesselflow.losses.loss import Loss
from vesselflow.losses.masked import pixels
from vesselflow.losses.tversky import TverskyArguments

if TYPE_CHECKING:
    from torch import Tensor

#: Below this loss the exponent's derivative is cut: for gamma > 1 it grows without bound.
NEAREST = 1e-12


class FocalTverskyArguments(TverskyArguments):
    """Arguments of `focal_tversky`: those of `tversky`, and the exponent.

    Attributes:
        beta: Weight of what was missed; 1 - beta is that of false alarms. Above 0.5 recall counts
            more.
        gamma: The Tversky loss is raised to 1 / gamma, as in the paper; 1 is `tversky`. Other
            libraries call the exponent itself gamma.
    """

    beta: Share = 0.7
    gamma: Annotated[float | ScalarSchedule, Range(0.1, 10.0)] = 4.0 / 3.0


def focal_tversky_loss(
    logits: Tensor,
    target: Tensor,
    fov: Tensor | None = None,
    *,
    beta: float,
    smooth: float,
    gamma: float,
) -> Tensor:
    """Focal Tversky loss: L^(1 / gamma) of each image, L its Tversky loss (see `tversky_loss`).

    gamma above 1 makes the gradient larger where an image is nearly right and smaller where it is
    all wrong; below 1 it is the other way round. In [0, 1). A Tversky loss below 1e-12 counts as
    1e-12 and has no gradient, as the power has none that is finite at 0.

    Args:
        logits: float (N, C, ...), before sigmoid.
        target: same shape, values in [0, 1].
        fov: bool or 0/1 (N, 1, ...); pixels outside are ignored. None: all count.
        beta: Weight of what was missed, in [0, 1]; 1 - beta is that of false alarms.
        smooth: In pixels, above 0.
        gamma: In [0.1, 10]; the paper has 1 to 3.

    Returns:
        Scalar: the power per image and channel, then the mean. Images with an empty fov are left
        out; 0 when all are.

    Raises:
        ShapeError: The shapes do not fit each other.

    Reference:
        Abraham and Khan, ISBI 2019, https://arxiv.org/abs/1810.07842; defaults are theirs.
        Deviates: `smooth` of 1 rather than of rounding's size.
    """
    import torch

    px = pixels(logits, target, fov)
    hit, false_alarm, missed = px.counts(torch.sigmoid(px.logits))
    wrong = (1.0 - beta) * false_alarm + beta * missed
    loss = wrong / (hit + wrong + smooth)
    return px.mean_over_images(loss.clamp(min=NEAREST).pow(1.0 / gamma))


class FocalTversky(Loss):
    """`focal_tversky_loss` with its arguments."""

    name = "focal_tversky"
    function = staticmethod(focal_tversky_loss)
