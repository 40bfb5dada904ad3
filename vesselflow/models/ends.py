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
        ends = Ends(**{name: values.pop(name) for name in Ends.model_fields if name in values})
        classes = runtime["classes"]
        runtime["classes"] = classes * channels_per_class(ends.head)
        model = self.part(spec.get("name")).load()(**values, **runtime)
        if ends.head == "softmax":
            model.register_forward_hook(Difference(classes))
        return model


def channels_per_class(head: str) -> int:
    """Channels that a model has for each class before they become one logit."""
    return 2 if head == "softmax" else 1


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
