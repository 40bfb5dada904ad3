"""Trying a model on the sizes it will see, without memory or arithmetic: on torch's meta device.

For encoders of timm nothing else can tell whether an architecture takes them, and at which sizes.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from vesselflow.errors import UserError
from vesselflow.models import strided

Size = tuple[int, ...]

_AXES = {2: "height, width", 3: "depth, height, width"}


def try_model(
    spec: Mapping[str, Any],
    *,
    channels: int,
    sample: Size,
    micro_batch_size: int,
    images: Sequence[Size] = (),
) -> None:
    """Build a model and send shapes through it, as training and scoring will.

    Args:
        spec: Name and arguments; no weights are loaded.
        channels: Of the images.
        sample: Sides of the training samples.
        micro_batch_size: Samples of one forward pass.
        images: Sides of whole images.

    Raises:
        UserError: It cannot be built, or does not take these sizes; the key is in `where`.
    """
    model = build_meta({**spec, "weights": None}, channels)
    for mode, size, count in (
        (True, sample, micro_batch_size),
        *((False, size, 1) for size in dict.fromkeys(images)),
    ):
        model.train(mode)
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                answer = model(torch.zeros(count, channels, *size, device="meta"))
            logits = answer[0] if isinstance(answer, tuple) else answer
            fault = "" if tuple(logits.shape[2:]) == size else f"answers {tuple(logits.shape[2:])}"
        except (RuntimeError, ValueError, AssertionError, IndexError, TypeError) as error:
            fault = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        if fault:
            what = "train on" if mode else "score"
            raise UserError(
                f"{spec['name']} with encoder '{spec['encoder']}' cannot {what} {count} x "
                f"{channels} x {' x '.join(map(str, size))} "
                f"(samples, channels, {_AXES[len(size)]}: {fault})",
                where="model.encoder",
                hint="choose another encoder, or another data.working_size_px or data.patch",
            )


def build_meta(
    spec: Mapping[str, Any],
    channels: int,
    *,
    classes: int = 1,
    stride: int | tuple[int, ...] = 1,
) -> nn.Module:
    """The model with weights that have shapes and no values.

    Args:
        spec: Name and arguments.
        channels: Of the images.
        classes: Of the logits.
        stride: Of the logits.

    Raises:
        UserError: It cannot be built.
    """

    def build() -> nn.Module:
        return strided.build(spec, in_channels=channels, classes=classes, stride=stride)

    try:
        with torch.device("meta"):
            return build()
    except UserError:
        # Some look at values while they are built, which only a real device has.
        return build().to("meta")


def parameters_of(
    spec: Mapping[str, Any],
    *,
    channels: int,
    classes: int,
    stride: int | tuple[int, ...],
) -> int:
    """How many numbers a model learns; weights are not loaded, see `build_meta`."""
    bare = {**spec, "weights": None} if "weights" in spec else spec
    model = build_meta(bare, channels, classes=classes, stride=stride)
    return sum(parameter.numel() for parameter in model.parameters())
