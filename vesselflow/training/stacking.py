"""Probabilities of frozen networks as channels behind an image's own."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vesselflow.tasks.task import Task


class Stack:
    """Networks of which each source of the training part was held out by exactly one.

    A sample in training gets the probabilities of the network that held its source out; an image
    that is predicted gets the mean of all networks' probabilities, none of which has seen it. The
    networks stay as they are: no weight of theirs is trained, averaged or kept with the run's.

    Reference: Wolpert, Stacked generalization, Neural Networks 5, 1992,
        https://doi.org/10.1016/S0893-6080(05)80023-1. Deviates: in prediction the mean of the
        networks stands for one that was trained on everything.

    Args:
        networks: Each gives the logits (N, K, *S) of images (N, C, *S). They are frozen here.
        held: Source indices that each network held out; no source twice.
        task: What all of them, and the run, learn.
        channels: C, of the images.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        held: Sequence[Collection[int]],
        task: Task[Any],
        channels: int,
    ) -> None:
        self._networks = [network.eval().requires_grad_(False) for network in networks]
        self._task, self._channels = task, channels
        pairs = [(source, number) for number, part in enumerate(held) for source in part]
        self._by_source = dict(pairs)
        if len(self._networks) != len(held) or len(self._by_source) != len(pairs):
            raise ValueError("each source is held out by one network")

    def attach(self, model: nn.Module) -> None:
        """Have a model, which takes C + K channels, take images of C; it adds the mean by itself.

        What has all its channels is taken as it is: samples in training, see `held_out`.
        """
        # First of all hooks: places of pixels (`Placed`) stand behind all channels.
        model.register_forward_pre_hook(self._completed, prepend=True)

    def held_out(self, image: Tensor, source: np.ndarray) -> Tensor:
        """Samples with what the network that held each one's source out makes of it.

        Args:
            image: float32 (N, C, *S), as the networks were given images in their training.
            source: (N,), source indices.

        Returns:
            float32 (N, C + K, *S), probabilities last.

        Raises:
            KeyError: A source that no network held out.
        """
        numbers = [self._by_source[int(each)] for each in source]
        pieces: list[Tensor] = [image[:0]] * len(numbers)
        for number in sorted(set(numbers)):
            rows = [row for row, own in enumerate(numbers) if own == number]
            found = self._probabilities(self._networks[number], image[rows])
            for place, row in enumerate(rows):
                pieces[row] = found[place]
        return torch.cat([image, torch.stack(pieces)], dim=1)

    def mean(self, image: Tensor) -> Tensor:
        """Images (N, C, *S) with the mean of all networks' probabilities, (N, C + K, *S)."""
        total = self._probabilities(self._networks[0], image)
        for network in self._networks[1:]:
            total = total + self._probabilities(network, image)
        return torch.cat([image, total / len(self._networks)], dim=1)

    def _completed(self, module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        (image,) = inputs
        return (self.mean(image),) if image.shape[1] == self._channels else (image,)

    def _probabilities(self, network: nn.Module, image: Tensor) -> Tensor:
        with torch.no_grad():
            return self._task.activated(network(image)).float().sigmoid()
