"""Losses and their schedules, by name.

``loss = LOSSES.build({"name": "combined", "beta": 0.3})`` gives a `vesselflow.losses.loss.Loss`;
``total, terms = loss(logits, target, fov, progress=0.25)``.
"""

from vesselflow.config.registry import Registry
from vesselflow.losses import arguments

LOSSES = Registry("loss")
LOSSES.add("bce", target="vesselflow.losses.bce:Bce", arguments=arguments.BceArguments)
LOSSES.add("dice", target="vesselflow.losses.dice:Dice", arguments=arguments.DiceArguments)
LOSSES.add(
    "combined",
    target="vesselflow.losses.combined:Combined",
    arguments=arguments.CombinedArguments,
)
LOSSES.add("fuzzy", target="vesselflow.losses.fuzzy:Fuzzy", arguments=arguments.TverskyArguments)
LOSSES.add(
    "tversky", target="vesselflow.losses.tversky:Tversky", arguments=arguments.TverskyArguments
)
LOSSES.add("focal", target="vesselflow.losses.focal:Focal", arguments=arguments.FocalArguments)
