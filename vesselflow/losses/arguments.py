"""Arguments of every loss with their defaults; imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from vesselflow.config.registry import Arguments
from vesselflow.losses.schedules import Positive, Range, Schedule, Share


class BceArguments(Arguments):
    """Arguments of `bce`.

    Attributes:
        pos_weight: Weight of the positive part, above 0, or ``balanced``.
        label_smoothing: Share of every target that is replaced by 1/2.
    """

    pos_weight: Annotated[
        float | Schedule | Literal["balanced"], Range(0.0, open_low=True, others=("balanced",))
    ] = 1.0
    label_smoothing: Share = 0.0


class DiceArguments(Arguments):
    """Arguments of `dice`.

    Attributes:
        smooth: Pixels added above and below the line. Above 0: without it, the gradient on an
            empty target is zero.
        per: Sums are taken per ``image`` and averaged, or over the whole micro-``batch``.
    """

    smooth: Positive = 1.0
    per: Literal["image", "batch"] = "image"


class CombinedArguments(BceArguments, DiceArguments):
    """Arguments of `combined`: those of `bce` and of `dice`, and the mix.

    Attributes:
        beta: Share of `dice`: 0 is `bce` exactly, 1 is `dice` exactly.
    """

    beta: Share = 0.5


class TverskyArguments(Arguments):
    """Arguments of `fuzzy` and `tversky`.

    Attributes:
        beta: Weight of what was missed; 1 - beta is that of false alarms. Above 0.5 recall counts
            more.
        smooth: Pixels added above and below the line.
    """

    beta: Share = 0.5
    smooth: Positive = 1.0


class FocalArguments(Arguments):
    """Arguments of `focal`.

    Attributes:
        gamma: Exponent that turns down well-classified pixels; 0 turns nothing down.
        alpha: Weight of positives (negatives weigh 1 - alpha); null weighs both by 1.
    """

    gamma: Annotated[float | Schedule, Range(0.0, 10.0)] = 2.0
    alpha: Annotated[float | Schedule | None, Range(0.0, 1.0, others=(None,))] = None
