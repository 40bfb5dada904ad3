"""What every model may have before its first layer and behind its last; imports torch when built.

A model is built for other numbers of channels than it shows, and hooks on it make up the
difference. So no architecture knows of it, weights keep their names, and whatever calls the model
(losses, metrics, prediction, averages over cells) sees images and one logit of each class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vesselflow.config.registry import Registry
from vesselflow.models.arguments import Ends
from vesselflow.models.layers import NORMS
from vesselflow.models.needs import axes_of

if TYPE_CHECKING:
    from torch import Tensor, nn


class Models(Registry):
    """A registry of models whose arguments may be `Ends`; these the models themselves never see."""

    def build(self, spec: Mapping[str, Any], **runtime: Any) -> Any:
        """Build a model with its ends.

        Args:
            spec: Name and flat arguments.
            runtime: `in_channels` of the images, `classes` of the logits, and what else the model
                is called with.
        """
        given = {key: value for key, value in spec.items() if key != "name"}
        arguments = self.arguments(spec.get("name"), given)
        values = {name: getattr(arguments, name) for name in type(arguments).model_fields}
        assert isinstance(arguments, Ends)
        ours = [name for name in Ends.model_fields if name not in arguments.own_ends]
        ends = Ends(**{name: values.pop(name) for name in ours})
        values = {name: value for name, value in values.items() if name not in arguments.applied}
        classes = runtime["classes"]
        runtime["classes"] = classes * channels_per_class(ends.head)
        images = runtime["in_channels"]
        if ends.coordinates:
            runtime["in_channels"] += axes_of(spec)
        model = self.part(spec.get("name")).load()(**values, **runtime)
        arguments.apply(model)
        if ends.padding != "zeros":
            from vesselflow.models.layers.convolutions import pad

            pad(model, ends.padding)
        if ends.input_norm:  # it sees no coordinates: they are added behind it
            model.input_norm = NORMS.build({"name": "batch"}, width=images, axes=axes_of(spec))
            model.register_forward_pre_hook(Normalised())
        if ends.coordinates:
            model.register_forward_pre_hook(Placed())
        if ends.head == "softmax":
            model.register_forward_hook(Difference(classes))
        if ends.presence is not None:
            from vesselflow.models.presence import Presence

            # The last to draw its weights; the others are as without it.
            model.presence = Presence(model, classes, ends.presence)
        return model


def channels_per_class(head: str) -> int:
    """Channels that a model has for each class before they become one logit."""
    return 2 if head == "softmax" else 1


@dataclass(frozen=True)
class Normalised:
    """A forward hook that gives an image to a module's `input_norm` first.

    It is a module among the others, with weights of its own, so that all that looks for batch-norms
    finds it: its statistics are shared between workers, frozen and averaged like theirs.
    """

    def __call__(self, module: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
        """(N, C, *S) to the same shape."""
        (image,) = inputs
        return (module.input_norm(image),)


@dataclass(frozen=True)
class Placed:
    """A forward hook that puts the coordinates of its pixels behind the channels of an image.

    One channel for each axis, first axis first: -1 at the first pixel, 1 at the last, evenly
    between; 0 on an axis of one pixel. They are those of the window that the network sees, padding
    included: a patch in training, a tile or the whole image in prediction.

    Reference: Liu et al., An intriguing failing of convolutional neural networks and the CoordConv
        solution, NeurIPS 2018, https://arxiv.org/abs/1807.03247. Deviates: only the first layer
        sees them.
    """

    def __call__(self, module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        """(N, C, *S) to (N, C + axes, *S)."""
        import torch

        (image,) = inputs
        channels = [image]
        for axis, side in enumerate(image.shape[2:], start=2):
            places = torch.arange(1 - side, side, 2, device=image.device, dtype=image.dtype)
            shape = [1] * image.ndim
            shape[axis] = side
            ramp = (places / max(side - 1, 1)).view(shape)
            channels.append(ramp.expand(len(image), 1, *image.shape[2:]))
        return (torch.cat(channels, dim=1),)


@dataclass(frozen=True)
class Difference:
    """A forward hook behind a head of two channels per class: foreground minus background.

    The sigmoid of the difference is the softmax's foreground, so that all losses of logits are
    those of a softmax. It is taken in float32 at least: of two large numbers little may be left.

    Attributes:
        classes: Channels of the logits; those of the background come first in what it gets.
    """

    classes: int

    def __call__(
        self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor | tuple[Tensor, ...]
    ) -> Tensor | tuple[Tensor, ...]:
        """(N, 2 classes, *S) to (N, classes, *S), of auxiliary answers, too."""
        if isinstance(output, tuple):
            return tuple(self.of(each) for each in output)
        return self.of(output)

    def of(self, channels: Tensor) -> Tensor:
        """Logits of one answer."""
        import torch

        wide = channels.to(torch.promote_types(channels.dtype, torch.float32))
        return wide[:, self.classes :] - wide[:, : self.classes]
