"""The coarsest map of an encoder, heard while a model runs by heads that training hangs beside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


class Coarsest:
    """Hears the maps that a model's encoder gives, and only while somebody listens.

    What the model answers is the same with and without it, and so is its time where nobody listens.
    Where samples are mixed behind the encoder, it hears what the decoder is given.

    Args:
        model: Its attribute `coarsest` names the module that the encoder's maps go through, and
            says how many channels the coarsest of them has.

    Attributes:
        channels: Of the coarsest map.
    """

    def __init__(self, model: nn.Module) -> None:
        path, channels = model.coarsest  # type: ignore[misc]
        self.channels = int(channels)
        self._heard: list[Tensor] | None = None
        model.get_submodule(path).register_forward_hook(self._hear)

    def _hear(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if self._heard is not None:
            # An encoder without a handoff is that of a transformer: (maps, tokens).
            self._heard.append(output if isinstance(output, Tensor) else output[0][-1])

    @contextmanager
    def listening(self) -> Iterator[list[Tensor]]:
        """The maps that a forward pass within the block hands to the decoder, in any order."""
        heard: list[Tensor] = []
        self._heard = heard
        try:
            yield heard
        finally:
            self._heard = None


def pooled(maps: Sequence[Tensor], samples: int) -> Tensor:
    """Mean of the coarsest map of each sample; to be called without autocast.

    Args:
        maps: As `Coarsest.listening` gave them, (M, C, *s), any floating type; the smallest is
            looked at, of several the last. M is a multiple of `samples` where a model sees a volume
            as slices, those of one volume together.
        samples: Of the micro-batch.

    Returns:
        float32 (samples, C).
    """
    coarsest = min(reversed(maps), key=lambda each: each.shape[2:].numel())
    each = coarsest.float().mean(dim=tuple(range(2, coarsest.ndim)))
    return each.unflatten(0, (samples, -1)).mean(dim=1)
