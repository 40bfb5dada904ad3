"""What a network costs and sees: parameters, multiplications, memory, receptive field."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vesselflow.models import strided
from vesselflow.models.ends import Difference
from vesselflow.models.recompute import blocks

#: What a receptive field is looked at without: they see all pixels of what they normalise, change
#: no pixel's reach, or drop some at random.
_LEFT_OUT = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.ReLU,
    nn.LeakyReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.modules.dropout._DropoutNd,
)
_CONVOLUTIONS = (nn.modules.conv._ConvNd, nn.Linear)


@dataclass(frozen=True)
class ModelFacts:
    """Facts of one network for samples of one size.

    Attributes:
        parameters: Numbers that are learnt, all of them.
        macs: Multiplications with additions of a prediction of one sample: those of convolutions,
            linear layers and attention.
        saved_bytes: What a forward pass of a micro-batch in float32 keeps for the backward pass.
        recomputed_bytes: What it keeps where blocks are computed again (`train.recompute`), with
            the inside of the block that needs most.
        receptive_px: Pixels along each axis, of which the logit in the middle of a sample depends;
            a whole side means that side or more. Normalisation is left out: batch-norm in training,
            and the others always, see all pixels.
    """

    parameters: int
    macs: int
    saved_bytes: int
    recomputed_bytes: int
    receptive_px: tuple[int, ...]

    @property
    def training_bytes(self) -> int:
        """Of a step in float32: weights, gradients, two moments, and what is kept."""
        return self._weights_bytes + self.saved_bytes

    @property
    def recomputing_bytes(self) -> int:
        """The same with `train.recompute`."""
        return self._weights_bytes + self.recomputed_bytes

    @property
    def _weights_bytes(self) -> int:
        return 4 * 4 * self.parameters


def facts_of(
    spec: Mapping[str, Any],
    *,
    channels: int,
    classes: int,
    stride: int | tuple[int, ...],
    sample: Sequence[int],
    micro_batch_size: int,
) -> ModelFacts:
    """Facts of a model; weights are not loaded.

    Args:
        spec: Name and arguments with all defaults filled in.
        channels: Of the images.
        classes: Of the logits.
        stride: Of the logits.
        sample: Sides of a training sample, in px.
        micro_batch_size: Samples of one forward pass.

    Raises:
        UserError: An argument that the model does not take.
    """
    built = {key: value for key, value in spec.items() if key != "weights"}
    if "weights" in spec:
        built["weights"] = None
    model = strided.build(built, in_channels=channels, classes=classes, stride=stride)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reached = receptive_px(model, channels, sample)
        model = model.to("meta")
        return ModelFacts(
            sum(parameter.numel() for parameter in model.parameters()),
            _macs(model, channels, sample),
            *saved_bytes(model, channels, sample, micro_batch_size),
            reached,
        )


def _macs(model: nn.Module, channels: int, sample: Sequence[int]) -> int:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model.eval()(torch.empty(1, channels, *sample, device="meta"))
    return int(counter.get_total_flops()) // 2


def saved_bytes(
    model: nn.Module, channels: int, sample: Sequence[int], count: int
) -> tuple[int, int]:
    """What a forward pass keeps for the backward pass, and what it keeps with `recompute_blocks`.

    Args:
        model: On torch's meta device; put into training mode.
        channels: Of its images.
        sample: Sides of a sample.
        count: Samples.

    Returns:
        Bytes, without the weights; the second number has the inside of the largest block too.
    """
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    outside: dict[int, int] = {}
    inside: list[dict[int, int]] = []
    entering: dict[int, int] = {}
    held: list[Tensor] = []  # so that no storage comes back under another's address
    current = outside

    def note(tensor: Tensor, where: dict[int, int]) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            where[storage._cdata] = storage.nbytes()

    def keep(tensor: Tensor) -> Tensor:
        note(tensor, current)
        return tensor

    def enter(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        nonlocal current
        for each in (*given, *named.values()):
            for tensor in each if isinstance(each, list | tuple) else [each]:
                if isinstance(tensor, Tensor):
                    held.append(tensor)
                    note(tensor, entering)
        inside.append({})
        current = inside[-1]

    def leave(*_: Any) -> None:
        nonlocal current
        current = outside

    hooks = []
    for block in blocks(model):
        hooks += [
            block.register_forward_pre_hook(enter, with_kwargs=True),
            block.register_forward_hook(leave, prepend=True),
        ]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        answer = model.train()(torch.empty(count, channels, *sample, device="meta"))
    for hook in hooks:
        hook.remove()
    plain = outside.copy()
    for part in inside:
        plain |= part
    kept = outside | entering
    largest = max(
        (sum(part[key] for key in part.keys() - kept.keys()) for part in inside), default=0
    )
    del answer
    return sum(plain.values()), sum(kept.values()) + largest


def receptive_px(model: nn.Module, channels: int, sample: Sequence[int]) -> tuple[int, ...]:
    """Extent, along each axis, of the pixels that reach the logits in the middle of a sample.

    Found by the gradient of a copy whose weights are all positive and whose pooling averages, so
    that no path is closed or cancelled; see `ModelFacts` for what is left out.

    Args:
        model: Any; stays as it is.
        channels: Of its images.
        sample: Sides of the sample, multiples of what the model asks for.
    """
    model = _opened(copy.deepcopy(model).eval()).double()
    image = torch.ones(1, channels, *sample, dtype=torch.float64, requires_grad=True)
    logits = model(image)
    middle = tuple(side // 2 for side in logits.shape[2:])
    logits[(0, slice(None), *middle)].sum().backward()
    assert image.grad is not None
    reached = image.grad[0].abs().sum(dim=0) > 0
    extents = []
    for axis in range(reached.ndim):
        others = [other for other in range(reached.ndim) if other != axis]
        places = reached.amax(dim=others).nonzero()
        extents.append(int(places.max() - places.min()) + 1)
    return tuple(extents)


def _opened(module: nn.Module) -> nn.Module:
    """A network whose every path is open, in place."""
    for key, hook in list(module._forward_hooks.items()):
        if isinstance(hook, Difference):  # of two equal weights nothing would be left
            del module._forward_hooks[key]
    for name, child in module.named_children():
        if isinstance(child, _LEFT_OUT):
            setattr(module, name, nn.Identity())
        elif isinstance(child, nn.MaxPool2d | nn.MaxPool3d):
            pool: Any = nn.AvgPool2d if isinstance(child, nn.MaxPool2d) else nn.AvgPool3d
            mean = pool(child.kernel_size, child.stride, child.padding, child.ceil_mode)
            setattr(module, name, mean)
        else:
            _opened(child)
    if isinstance(module, _CONVOLUTIONS):
        with torch.no_grad():
            fan = module.weight[0].numel()
            module.weight.fill_(1.0 / fan)
            if module.bias is not None:
                module.bias.zero_()
    return module
