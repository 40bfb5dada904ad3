"""Learning-rate schedules as pure functions of progress."""

from __future__ import annotations

import math
from collections.abc import Callable

from vesselflow.config.experiment import Schedule


def _constant(config: Schedule, step: int, steps: int) -> float:
    return 1.0


def _cosine(config: Schedule, step: int, steps: int) -> float:
    # The last step has the floor. At a rate of 0 it would be lost: such a floor comes after it.
    last = steps - 1 if config.floor > 0 else steps
    progress = step / last if last else 0.0
    return config.floor + (1 - config.floor) * 0.5 * (1 + math.cos(math.pi * progress))


def _cyclic(config: Schedule, step: int, steps: int) -> float:
    # In whole numbers: in floats a restart may come out as the end of the cycle before it.
    cycle = step * config.cycles // steps
    start, end = (-(-number * steps // config.cycles) for number in (cycle, cycle + 1))
    return _cosine(config, step - start, end - start)


_SHAPES: dict[str, Callable[[Schedule, int, int], float]] = {
    "constant": _constant,
    "cosine": _cosine,
    "cyclic": _cyclic,
}


def lr_factor(config: Schedule, step: int, steps: int) -> float:
    """Factor on the learning rate for one optimizer step.

    A linear warm-up over the first ``warmup`` share of the steps (never all of them), then the
    named shape over the rest: ``constant``; ``cosine`` from 1 to ``floor``; ``cyclic``: ``cycles``
    cosines with warm restarts, as nearly equal in length as whole steps allow (Loshchilov and
    Hutter, SGDR, ICLR 2017, https://arxiv.org/abs/1608.03983, eq. 5). The last step of a cosine
    has the floor; one of 0 would come one step later.

    Args:
        config: The schedule section.
        step: 0-based index of the step.
        steps: Number of steps of the whole run.

    Returns:
        A factor in (0, 1]: never 0, so that no step is without effect.
    """
    warm = min(round(config.warmup * steps), steps - 1)
    if step < warm:
        return (step + 1) / (warm + 1)
    return _SHAPES[config.name](config, step - warm, steps - warm)
