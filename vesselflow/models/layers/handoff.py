"""Where an encoder hands its maps to the decoder, so that samples may be mixed there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class HiddenMix:
    """How samples are mixed behind the encoder.

    Attributes:
        share: float32 (N,) in [0, 1]: how much of a sample is its own; 1 leaves it as it is.
        other: int64 (N,): the sample that it is mixed with.
    """

    share: Tensor
    other: Tensor

    def __call__(self, maps: Tensor) -> Tensor:
        """``share * own + (1 - share) * other`` of each sample.

        Args:
            maps: float (N, C, *S), or (N k, C, *S) of k images of each sample, one after the other.
        """
        each = maps.unflatten(0, (len(self.share), -1))
        share = self.share.to(maps.dtype).view(-1, *[1] * maps.ndim)
        mixed = share * each + (1 - share) * each[self.other]
        # Chosen where there is nothing to mix: 0 * what is no number would be none either.
        return torch.where(share == 1, each, mixed).flatten(0, 1)


class Handoff(nn.Module):
    """Every map that a decoder is given goes through it once; it leaves them as they are.

    Attributes:
        mix: What is done to them instead while samples are mixed; None for nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mix: HiddenMix | None = None

    def forward(self, maps: Tensor) -> Tensor:
        """The maps of a level."""
        return maps if self.mix is None else self.mix(maps)


@dataclass(frozen=True)
class EncoderHook:
    """A forward hook behind an encoder that hands over all maps that it gives."""

    handoff: Handoff

    def __call__(
        self, module: nn.Module, inputs: tuple[Any, ...], output: Sequence[Tensor]
    ) -> list[Tensor]:
        """The maps, finest first."""
        return [self.handoff(maps) for maps in output]


@contextmanager
def mixed_behind_encoder(model: nn.Module, mix: HiddenMix | None) -> Iterator[None]:
    """Mix the samples of what a model is given meanwhile, behind its encoder.

    Everything that its decoder sees of them is mixed: the maps of all levels, in the same shares.

    Args:
        model: With a `Handoff`.
        mix: How; None for not at all.

    Raises:
        ValueError: The model has no `Handoff`.

    Reference: Verma et al., Manifold mixup, ICML 2019, https://arxiv.org/abs/1806.05236. Deviates:
        a U-Net has no single hidden map after its first level, so that those of all levels are
        mixed.
    """
    if mix is None:
        yield
        return
    found = [module for module in model.modules() if isinstance(module, Handoff)]
    if not found:
        raise ValueError(f"{type(model).__name__} has no encoder behind which samples are mixed")
    try:
        for handoff in found:
            handoff.mix = mix
        yield
    finally:
        for handoff in found:
            handoff.mix = None
