"""Learning-rate schedules as pure functions of progress."""

from __future__ import annotations

import math
from collections.abc import Callable

from vesselflow.config.experiment import Schedule


def _constant(config: Schedule, progress: float) -> float:
    return 1.0


def _cosine(config: Schedule, progress: float) -> float:
    return config.floor + (1 - config.floor) * 0.5 * (1 + math.cos(math.pi * progress))


def _cyclic(config: Schedule, progress: float) -> float:
    # Progress 1 belongs to the end of the last cycle, not to the start of one more.
    phase = progress * config.cycles
    within = 1.0 if progress >= 1 else phase - math.floor(phase)
    return _cosine(config, within)


_SHAPES: dict[str, Callable[[Schedule, float], float]] = {
    "constant": _constant,
    "cosine": _cosine,
    "cyclic": _cyclic,
}


def lr_factor(config: Schedule, step: int, steps: int) -> float:
    """Factor on the learning rate for one optimizer step.

    A linear warm-up over the first ``warmup`` share of the steps, then the named shape over the
    rest: ``constant``; ``cosine`` from 1 to ``floor``; ``cyclic``: ``cycles`` cosines with warm
    restarts (Loshchilov and Hutter, SGDR, ICLR 2017, https://arxiv.org/abs/1608.03983, eq. 5).

    Args:
        config: The schedule section.
        step: 0-based index of the step.
        steps: Number of steps of the whole run.

    Returns:
        A factor in (0, 1]: never 0 before the last step, so that no step is without effect.
    """
    warm = round(config.warmup * steps)
    if step < warm:
        return (step + 1) / (warm + 1)
    return _SHAPES[config.name](config, (step - warm) / max(1, steps - warm))
