"""Augmentations that mix each sample of a micro-batch with another one of it.

Each says only how much of a place is the sample's own; `mix` does the rest, for image, target and
field of view alike. It comes after normalisation, and after the target was rendered: what is mixed
is what the network and the loss would have been given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, field_validator

from vesselflow.augment.arguments import Probability
from vesselflow.augment.draws import Draws
from vesselflow.config.registry import Arguments
from vesselflow.config.scalars import Positive

if TYPE_CHECKING:
    from torch import Tensor


class MixingArguments(Arguments):
    """Arguments of `mixup`, `cutmix` and `cutmixup`.

    Attributes:
        p: Probability, for each sample by itself. A sample is mixed in one way at most; where the
            probabilities of several ways sum to more than 1, they are divided by their sum.
        alpha: Of the distribution Beta(alpha, alpha) of the sample's own share: below 1 most shares
            are near 0 or 1, at 1 each is as likely.
    """

    #: Two samples of a micro-batch are needed, and a loss that takes soft targets.
    mixes: ClassVar[bool] = True

    p: Probability = 0.5
    alpha: Positive = 1.0


class MixupArguments(MixingArguments):
    """Arguments of `mixup`: as of the others, nearer to 0 and 1 by default."""

    alpha: Positive = 0.2


#: Where samples may be mixed: what the network is given, or all maps that its encoder gives.
Place = Literal["input", "encoder"]
PLACES: tuple[Place, ...] = get_args(Place)


class ManifoldMixupArguments(MixingArguments):
    """Arguments of `manifold_mixup`.

    Attributes:
        at: Where samples are mixed, one place for a whole micro-batch, each as likely: "input" is
            `mixup`, "encoder" all maps that the encoder gives to the decoder.
    """

    at: Annotated[tuple[Place, ...], Field(strict=False, min_length=1)] = PLACES

    @field_validator("at", mode="before")
    @classmethod
    def _places(cls, value: Any) -> Any:
        """One place is a list of one; their order and repetitions have no meaning."""
        given = [value] if isinstance(value, str) else value
        if isinstance(given, list | tuple) and all(place in PLACES for place in given):
            return tuple(place for place in PLACES if place in given)
        return given


class Mixup:
    """Mix whole samples: ``l x + (1 - l) x'``, with l ~ Beta(alpha, alpha).

    Args:
        p: Probability per sample.
        alpha: Above 0.

    Reference: Zhang et al., ICLR 2018, https://arxiv.org/abs/1710.09412, eq. 1; l is drawn for each
    sample rather than each batch.
    """

    places: Sequence[str] = ("input",)

    def __init__(self, *, p: float, alpha: float) -> None:
        self.p, self.alpha = p, alpha

    def share(self, size: Sequence[int], numbers: Tensor) -> Tensor:
        """See `vesselflow.augment.draws.Mixer`."""
        import torch

        return torch.full(tuple(size), beta_quantile(float(numbers[0]), self.alpha))


class ManifoldMixup(Mixup):
    """Mix whole samples, as they are given or as the encoder sees them.

    A micro-batch is mixed at one place. Behind the encoder all that the decoder sees is mixed, the
    maps of all levels in the same shares, and so is the target.

    Args:
        p: Probability per sample.
        alpha: Above 0.
        at: Places, "input" and "encoder".

    Reference: Verma et al., ICML 2019, https://arxiv.org/abs/1806.05236, section 2, where a layer
    is drawn among those of a classifier, the input included.
    """

    def __init__(self, *, p: float, alpha: float, at: Sequence[str]) -> None:
        super().__init__(p=p, alpha=alpha)
        self.places = tuple(at)


class CutMix:
    """Put a box of another sample into each: its sides are (1 - l)^(1/D) of the frame's.

    Of an image the box has the share 1 - l, l ~ Beta(alpha, alpha). Its centre is anywhere as
    likely; what of it lies beyond the frame is lost.

    Args:
        p: Probability per sample.
        alpha: Above 0.

    Reference: Yun et al., ICCV 2019, https://arxiv.org/abs/1905.04899, eq. 1 and 2. The target is
    that of each place, where classification takes a mean of two labels.
    """

    places: Sequence[str] = ("input",)

    def __init__(self, *, p: float, alpha: float) -> None:
        self.p, self.alpha = p, alpha

    def share(self, size: Sequence[int], numbers: Tensor) -> Tensor:
        """See `vesselflow.augment.draws.Mixer`."""
        return self._boxed(size, numbers, 0.0)

    def _boxed(self, size: Sequence[int], numbers: Tensor, inside: float) -> Tensor:
        import torch

        side = (1 - beta_quantile(float(numbers[0]), self.alpha)) ** (1 / len(size))
        found = torch.ones(tuple(size))
        box = []
        for n, place in zip(size, numbers[2:].tolist(), strict=False):
            middle, half = place * n, side * n / 2
            box.append(slice(max(0, round(middle - half)), min(n, max(0, round(middle + half)))))
        found[tuple(box)] = inside
        return found


class CutMixup(CutMix):
    """Mix a box of each sample with that of another: `mixup` in the box of `cutmix`.

    Args:
        p: Probability per sample.
        alpha: Of two draws, of the box's size and of the sample's own share in it.

    Reference: the boxes of Yun et al., ICCV 2019, mixed as in Zhang et al., ICLR 2018.
    """

    def share(self, size: Sequence[int], numbers: Tensor) -> Tensor:
        """See `vesselflow.augment.draws.Mixer`."""
        return self._boxed(size, numbers, beta_quantile(float(numbers[1]), self.alpha))


def beta_quantile(u: float, alpha: float) -> float:
    """The value that a share u in [0, 1) of Beta(alpha, alpha) lies below; in [0, 1]."""
    from scipy.special import betaincinv

    return float(betaincinv(alpha, alpha, u))


def partners(draws: Draws) -> list[int]:
    """For each sample another one, which is nobody else's: one round through all of them."""
    import torch

    order = torch.randperm(draws.samples, generator=draws.stream(0, "partner")).tolist()
    found = [0] * draws.samples
    for one, other in zip(order, [*order[1:], *order[:1]], strict=True):
        found[one] = other
    return found


def mix(own: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """``share * own + (1 - share) * other``; `own` itself where the share is 1.

    Args:
        own: float (C, *S).
        other: float (C, *S).
        share: float (*S) in [0, 1].
    """
    import torch

    # Chosen at the ends: 0 * what is no number would be none either.
    mixed = torch.where(share == 0, other, share * own + (1 - share) * other)
    return torch.where(share == 1, own, mixed)


def mix_fov(own: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """Inside where all is inside that is seen there: one's where the share is 1 or 0, else both's.

    Args:
        own: float (1, *S), 0 or 1.
        other: float (1, *S), 0 or 1.
        share: float (*S) in [0, 1].
    """
    import torch

    return torch.where(share == 1, own, torch.where(share == 0, other, own * other))
