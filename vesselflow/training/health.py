"""How healthy gradients are: numbers of each top-level module, and words where they are bad."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from vesselflow.training.parameters import unwrapped

_NORM, _RATIO, SKIPPED = "health/grad_norm/", "health/update_ratio/", "health/skipped"
#: Share of the length of a block's weights that a step may move, as the mean of an epoch.
MOST = 0.1


class Health:
    """Norms of gradients and of updates, block by block; looks, and changes nothing.

    Args:
        model: Its top-level modules are the blocks; frozen parameters count nowhere.
    """

    def __init__(self, model: nn.Module) -> None:
        # Parameters come module by module, so that each block is one piece of a gradient.
        self._parameters: list[nn.Parameter] = []
        self._sizes: dict[str, int] = {}
        for name, parameter in unwrapped(model).named_parameters():
            if parameter.requires_grad:
                block = name.split(".")[0]
                self._parameters.append(parameter)
                self._sizes[block] = self._sizes.get(block, 0) + parameter.numel()
        self._before: Tensor | None = None

    def begin(self) -> None:
        """The weights are about to be moved."""
        self._before = self._weights()

    def values(self, gradient: Tensor) -> dict[str, float]:
        """Numbers of a step, by the names that they have in a curve.

        Args:
            gradient: Of all trained parameters, one after the other, before it is clipped.

        Returns:
            ``health/grad_norm/BLOCK``: 2-norm of the block's gradient; where the weights were moved
            since `begin`, ``health/update_ratio/BLOCK``: 2-norm of the move by that of the weights
            before it, NaN for a block of zeros; ``health/skipped``: 1 for a step that was skipped.
        """
        rows = [self._norms(gradient)]
        if self._before is not None:
            move = self._weights() - self._before
            rows.append(self._norms(move) / self._norms(self._before))
        numbers = torch.stack(rows).tolist()  # one wait for the device
        found = {SKIPPED: float(self._before is None)}
        self._before = None
        for prefix, row in zip((_NORM, _RATIO), numbers, strict=False):
            found |= {
                f"{prefix}{block}": each for block, each in zip(self._sizes, row, strict=True)
            }
        return found

    def _weights(self) -> Tensor:
        return torch.cat([parameter.detach().reshape(-1) for parameter in self._parameters])

    def _norms(self, vector: Tensor) -> Tensor:
        """The 2-norm of each block's part of a vector, in their order."""
        parts = vector.split(list(self._sizes.values()))
        return torch.stack([torch.linalg.vector_norm(part) for part in parts])


def warnings(values: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """What is wrong in an epoch: (which number, a line that says what to do).

    Args:
        values: Of the epoch's curve, means over its steps.
    """
    for name, value in values.items():
        if name.startswith(_NORM) and value == 0:
            block = name.removeprefix(_NORM)
            yield (
                name,
                f"the gradient of '{block}' was 0 for a whole epoch: it learns nothing; look at "
                "the loss, at empty targets and at activations that died",
            )
        elif name.startswith(_RATIO) and value > MOST:
            block = name.removeprefix(_RATIO)
            yield (
                name,
                f"each step moved the weights of '{block}' by {value:.2g} of their length, more "
                f"than {MOST:g}: lower optimizer.lr, or set train.clip_norm or a warm-up",
            )
