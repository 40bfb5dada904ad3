"""Soft clDice loss: are the centre lines of vessels inside each other's vessels?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from vesselflow.config.registry import Arguments
from vesselflow.config.scalars import Positive, Share
from vesselflow.losses.dice import dice_loss
from vesselflow.losses.loss import Loss, weighted_sum
from vesselflow.losses.masked import pixels

if TYPE_CHECKING:
    from torch import Tensor


class CldiceArguments(Arguments):
    """Arguments of `cldice`.

    Attributes:
        beta: Share of `dice`, which the paper has at 0.5 or more; at 0 nothing holds the vessels'
            width.
        iterations: Erosions of the skeleton: the radius of the widest vessel, in px as trained.
        smooth: Pixels added above and below each line.
    """

    beta: Share = 0.5
    iterations: Annotated[int, Field(ge=1, le=100)] = 3
    smooth: Positive = 1.0


def cldice_loss(
    logits: Tensor,
    target: Tensor,
    fov: Tensor | None = None,
    *,
    beta: float,
    iterations: int,
    smooth: float,
) -> Tensor:
    """Dice and clDice: b dice + (1 - b) (1 - 2 P R / (P + R)), b = `beta`.

    P = (sum S(p) t + s) / (sum S(p) + s) and R = (sum S(t) p + s) / (sum S(t) + s), p =
    sigmoid(logits), S the `soft_skeleton`. In [0, 1). On an empty target R is 1, P falls with the
    skeleton of p, and Dice teaches the rest. With soft targets above 0 even where p = t. A vessel
    that is wider than 2 `iterations` + 1 px is its own skeleton, in part.

    Args:
        logits: float (N, C, H, W) or (N, C, D, H, W), before sigmoid.
        target: same shape, values in [0, 1].
        fov: bool or 0/1 (N, 1, ...); pixels outside are ignored, as if the image ended there. None:
            all count.
        beta: b, in [0, 1]: 1 is `dice_loss` exactly.
        iterations: Erosions, 1 or more.
        smooth: s, in pixels, above 0; that of the Dice term, too.

    Returns:
        Scalar: per image and channel, then the mean. Images with an empty fov are left out; 0 when
        all are.

    Raises:
        ShapeError: The shapes do not fit each other.

    Reference:
        Shit et al., CVPR 2021, https://arxiv.org/abs/2003.07311, algorithms 1 and 2. Deviates:
        `smooth` of 1, and the fov.
    """
    terms = cldice_terms(logits, target, fov, beta=beta, iterations=iterations, smooth=smooth)
    return weighted_sum(terms, logits)


def cldice_terms(
    logits: Tensor,
    target: Tensor,
    fov: Tensor | None = None,
    *,
    beta: float,
    iterations: int,
    smooth: float,
) -> dict[str, tuple[float, Tensor]]:
    """Weight and value of the two terms of `cldice_loss`."""
    import torch

    with torch.set_grad_enabled(torch.is_grad_enabled() and beta > 0.0):
        dice = dice_loss(logits, target, fov, smooth=smooth, per="image")
    with torch.set_grad_enabled(torch.is_grad_enabled() and beta < 1.0):
        px = pixels(logits, target, fov)
        shape = logits.shape[2:]
        inside = None if fov is None else px.inside.unflatten(2, shape).bool()
        p = torch.sigmoid(px.logits)
        of_p = soft_skeleton(p.unflatten(2, shape), inside, iterations).flatten(2)
        with torch.no_grad():
            of_t = soft_skeleton(px.target.unflatten(2, shape), inside, iterations).flatten(2)
        precision = (px.sum(of_p * px.target) + smooth) / (px.sum(of_p) + smooth)
        recall = (px.sum(of_t * p) + smooth) / (px.sum(of_t) + smooth)
        cldice = px.mean_over_images(1.0 - 2.0 * precision * recall / (precision + recall))
    return {"dice": (beta, dice), "cldice": (1.0 - beta, cldice)}


def soft_skeleton(image: Tensor, inside: Tensor | None, iterations: int) -> Tensor:
    """The centre lines of a soft mask, by repeated erosions and openings.

    Erosion is the least value of a pixel and its neighbours along the axes, dilation the greatest
    of the 3 x 3 (x 3) around it. What lies outside the image or the fov takes part in neither.

    Args:
        image: float (N, C, H, W) or (N, C, D, H, W), in [0, 1].
        inside: bool (N, 1, ...); None: all.
        iterations: Erosions, 1 or more.

    Returns:
        Same shape, in [0, 1]; inside the fov alone it has a meaning.
    """
    import torch
    from torch.nn import functional

    axes = image.ndim - 2
    pool = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}[axes]
    zero, one = image.new_zeros(()), image.new_ones(())

    def eroded(x: Tensor) -> Tensor:
        x = x if inside is None else torch.where(inside, x, one)
        least = []
        for axis in range(axes):
            size = [3 if other == axis else 1 for other in range(axes)]
            least.append(-pool(-x, size, stride=1, padding=[side // 2 for side in size]))
        result = least[0]
        for other in least[1:]:
            result = torch.minimum(result, other)
        return result

    def opened(x: Tensor) -> Tensor:
        x = x if inside is None else torch.where(inside, x, zero)
        return pool(x, 3, stride=1, padding=1)

    lower = eroded(image)
    skeleton = functional.relu(image - opened(lower))
    for _ in range(iterations):
        image, lower = lower, eroded(lower)
        rest = functional.relu(image - opened(lower))
        skeleton = skeleton + functional.relu(rest - skeleton * rest)
    return skeleton


class Cldice(Loss):
    """`cldice_loss` with its arguments; its terms are logged apart."""

    name = "cldice"
    function = staticmethod(cldice_loss)
    spatial = True

    def weighted(
        self, logits: Tensor, target: Tensor, fov: Tensor | None, progress: float
    ) -> dict[str, tuple[float, Tensor]]:
        """The terms `dice` and `cldice`."""
        values = {**self._arguments, **self.scalars(progress)}
        return cldice_terms(logits, target, fov, **values)
