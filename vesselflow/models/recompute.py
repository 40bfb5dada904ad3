"""Activation checkpointing: what a block computed inside is computed again, not kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

_LAYERS = (nn.modules.conv._ConvNd, nn.Linear)


def recompute_blocks(model: nn.Module) -> nn.Module:
    """Let each block of a model keep its inputs alone, and compute the rest again when needed.

    Outputs, gradients, running statistics and random draws are those of the model without: the
    second forward pass of a block draws from the generators as they stood before the first, and
    what it writes into buffers goes into copies of them. Names of weights stay. Without gradients
    (evaluation) nothing is done twice.

    Args:
        model: Changed in place; a copy of it by `deepcopy` would call the original's layers.

    Returns:
        The model.

    Reference: Chen et al., Training deep nets with sublinear memory cost, 2016,
        https://arxiv.org/abs/1604.06174. Deviates: blocks are modules, not cuts of a chain.
    """
    for block in blocks(model):
        # An attribute of the instance: hooks stay around it, and names of weights as they are.
        block.forward = _Recomputed(block)
    return model


def blocks(model: nn.Module) -> list[nn.Module]:
    """The modules that are computed again, none inside another.

    The largest with at most sqrt(n) of a model's n convolutions and linear layers, as in a chain of
    n layers that balances what is kept between blocks and inside one; a module whose layers are all
    its own, too. Lists and dictionaries of modules are looked into, single layers left alone.
    """
    return list(_blocks(model, math.sqrt(_layers(model)), top=True))


def _blocks(module: nn.Module, most: float, *, top: bool = False) -> Iterator[nn.Module]:
    count = _layers(module)
    if not count or isinstance(module, _LAYERS):
        return
    called = type(module).forward is not nn.Module.forward
    own = sum(isinstance(child, _LAYERS) for child in module.children())
    if called and not top and (count <= most or count == own):
        yield module
        return
    for child in module.children():
        yield from _blocks(child, most)


def _layers(module: nn.Module) -> int:
    return sum(isinstance(each, _LAYERS) for each in module.modules())


class _Recomputed:
    """The forward pass of a block.

    Args:
        block: Its own forward pass is taken as it is now.
    """

    def __init__(self, block: nn.Module) -> None:
        self._block = block
        self._forward: Callable[..., Any] = block.forward

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """What the block's own gives."""
        if not torch.is_grad_enabled():
            return self._forward(*inputs, **named)
        return checkpoint(
            self._forward, *inputs, use_reentrant=False, context_fn=self._contexts, **named
        )

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _copied_buffers(self._block)


@contextmanager
def _copied_buffers(block: nn.Module) -> Iterator[None]:
    """Within, the block has copies of its buffers; afterwards its own, as they were.

    Batch statistics are counted once so. A layer that is called twice would else end with those of
    its first call: blocks are computed again from the last to the first.
    """
    own = [(module, dict(module._buffers)) for module in block.modules() if module._buffers]
    for module, buffers in own:
        for name, buffer in buffers.items():
            module._buffers[name] = None if buffer is None else buffer.clone()
    try:
        yield
    finally:
        for module, buffers in own:
            module._buffers.update(buffers)
