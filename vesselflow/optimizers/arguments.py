"""What the arguments of every optimizer have in common; imports no torch."""

from __future__ import annotations

from pydantic import Field

from vesselflow.config.registry import Arguments


class OptimizerArguments(Arguments):
    """Base of the arguments of all optimizers; a schedule gives the factor on `lr`."""

    lr: float = Field(gt=0, le=10, description="Highest learning rate")


class Moments(OptimizerArguments):
    """Base of the arguments of optimizers with the moments of Adam."""

    lr: float = Field(0.003, gt=0, le=10, description="Highest learning rate")
    beta1: float = Field(0.9, ge=0, lt=1, description="Decay of the mean gradient")
    beta2: float = Field(0.999, ge=0, lt=1, description="Decay of the mean squared gradient")


class LionArguments(OptimizerArguments):
    """Arguments of `lion`, whose file imports torch.

    Its authors take a third to a tenth of AdamW's rate, and as many times its decay.
    """

    lr: float = Field(0.0003, gt=0, le=10, description="Highest learning rate")
    weight_decay: float = Field(0.1, ge=0, le=1, description="Decoupled weight decay")
    beta1: float = Field(0.9, ge=0, lt=1, description="Weight of the mean gradient in a step")
    beta2: float = Field(0.99, ge=0, lt=1, description="Decay of the mean gradient")
