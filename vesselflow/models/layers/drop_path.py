"""Stochastic depth: branches of residual blocks are left out at random, per sample."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from vesselflow.errors import UserError

#: File and class of a residual block of the encoders' libraries -> what its branch ends in, for
#: those that have no place for stochastic depth.
_ENDS = {
    "resnet.BasicBlock": "bn2",
    "resnet.Bottleneck": "bn3",
    "_senet.SEBottleneck": "se_module",
    "_senet.SEResNetBottleneck": "se_module",
    "_senet.SEResNeXtBottleneck": "se_module",
    "_efficientnet.MBConvBlock": "_bn2",
    "mobilenetv2.InvertedResidual": "conv",
    "_xception.Block": "rep",
    "_inceptionresnetv2.Block35": "conv2d",
    "_inceptionresnetv2.Block17": "conv2d",
    "_inceptionresnetv2.Block8": "conv2d",
}
#: Attributes by which blocks say whether they have a shortcut at all.
_FLAGS = ("has_skip", "use_res_connect", "_has_drop_connect")
#: Attributes of blocks that have a place for it, as timm calls them.
_PLACE = re.compile(r"drop_path\d*")


class DropPath(nn.Module):
    """Leaves a branch out with probability `p` in training, of each sample by itself.

    What is kept is divided by 1 - p, so that the mean over draws is the branch itself, as it is in
    evaluation. Draws are from torch's global generator.

    Args:
        p: In [0, 1).

    Reference: Huang et al., Deep networks with stochastic depth, ECCV 2016,
        https://arxiv.org/abs/1603.09382, section 3. Deviates: samples of a batch are drawn by
        themselves, and kept branches are divided in training, where the paper multiplies in tests.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) to the same shape; zeros where a sample's branch is left out."""
        if not self.training or self.p == 0.0:
            return x
        kept = x.new_empty((len(x), *[1] * (x.ndim - 1))).bernoulli_(1.0 - self.p)
        return x / (1.0 - self.p) * kept

    def extra_repr(self) -> str:
        """What `print` says of it."""
        return f"p={self.p:g}"


def rates(p: float, blocks: int) -> list[float]:
    """Probabilities of residual blocks: from 0 of the first to `p` of the last, evenly.

    Block l of L, from 0 on, has p l / (L - 1), as in timm and ConvNeXt; the paper's rule, p l / L
    with l from 1 on, may leave out the first one, too. A single block has `p`.
    """
    if blocks == 1:
        return [p]
    return [p * block / (blocks - 1) for block in range(blocks)]


@dataclass(frozen=True)
class _Dropped:
    """A forward hook behind the end of a branch; copied and pickled with its network."""

    drop: DropPath

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        """What is left of the branch."""
        left: Tensor = self.drop(output)
        return left


def drop_paths(encoder: Any, p: float, name: str) -> None:
    """Give all residual blocks of an encoder stochastic depth, in place of what it has of that.

    Counted are the blocks that the encoder has, those that a smaller depth does not use included.
    A transformer's block has two branches of one probability. Names of weights stay.

    Args:
        encoder: Of segmentation-models-pytorch or timm.
        p: Of the last block, see `rates`; 0 leaves none out.
        name: Of the encoder, for the error.

    Raises:
        UserError: `p` is above 0, and no block is one that is known to be residual.
    """
    blocks = [(block, places) for block in encoder.modules() if (places := list(_places(block)))]
    if p > 0.0 and not blocks:
        raise UserError(
            f"encoder '{name}' has no residual blocks whose branches could be left out",
            where="model.drop_path",
            allowed="0, or null",
        )
    if hasattr(encoder, "_drop_connect_rate"):  # efficientnet-b*: a function of its own
        encoder._drop_connect_rate = 0.0
    for (block, places), rate in zip(blocks, rates(p, len(blocks)), strict=True):
        for place in places:
            setattr(block, place, DropPath(rate))
        end = _ENDS.get(_kind(block))
        if end is not None:
            getattr(block, end).register_forward_hook(_Dropped(block.drop_path))


def _places(block: nn.Module) -> Iterator[str]:
    """Attributes of a residual block that take its stochastic depth; none of any other module."""
    if not all(getattr(block, flag, True) for flag in _FLAGS):
        return
    if _kind(block) in _ENDS:
        yield "drop_path"
        return
    # None and Identity stand where timm was asked for none. Its own kind is called as ours is.
    kinds = ("NoneType", "Identity", "DropPath")
    for name, value in {**vars(block), **block._modules}.items():
        if _PLACE.fullmatch(name) and type(value).__name__ in kinds:
            yield name


def _kind(block: nn.Module) -> str:
    kind = type(block)
    if kind.__module__.startswith("timm."):
        return ""
    return f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}"
