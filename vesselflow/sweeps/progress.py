"""What a sweep says about itself while it runs: plain values, read by the live view."""

from __future__ import annotations

from dataclasses import dataclass

#: Seconds of stepping before the pace says anything.
PACE_S = 2.0
#: What a slot can be doing.
PHASES = (
    "starting",
    "training",
    "saving",
    "evaluating",
    "waiting",
    "leaving",
    "idle",
    "silent",
    "restarting",
)


@dataclass(frozen=True)
class SlotView:
    """One slot, as a person sees it.

    Attributes:
        name: Name of the slot, as in Ray's dashboard.
        run: Label of the run that it holds ("beta=0.5 fold 0 seed 1"), "" when it holds none.
        phase: One of `PHASES`.
        epoch: Epoch in work, 1-based; 0 before the first.
        epochs: Epochs of the run; 0 while unknown.
        step: Optimizer steps done in the whole run.
        steps: Optimizer steps of the whole run; 0 while unknown.
        seconds: Seconds since the slot took the run (or since the phase began, without a run).

    Raises:
        ValueError: `phase` is none of `PHASES`.
    """

    name: str
    run: str
    phase: str
    epoch: int
    epochs: int
    step: int
    steps: int
    seconds: float

    def __post_init__(self) -> None:
        if self.phase not in PHASES:
            raise ValueError(f"phase {self.phase!r} is none of {', '.join(PHASES)}")


@dataclass(frozen=True)
class Best:
    """The point that leads on validation so far.

    Attributes:
        point: Name of the point.
        value: The objective over its runs.
        std: Standard deviation over runs (ddof = 1); NaN with a single run.
        n: Runs that went into the mean.
        metric: The objective, as it is printed: "val IoU".
    """

    point: str
    value: float
    std: float
    n: int
    metric: str


@dataclass(frozen=True)
class Progress:
    """A sweep at one moment.

    Attributes:
        sweep: Name of the sweep.
        points_total: Points of the space.
        points_done: Points all of whose runs have ended.
        runs_total: Runs of the space.
        runs_done: Runs with a result, those reused from earlier sweeps included.
        runs_running: Runs held by a slot.
        runs_failed: Runs that ended without a result; not part of `runs_done`.
        runs_reused: Runs whose result was there before this sweep began.
        steps_done: Optimizer steps done, over all runs that this sweep trains.
        steps_total: Optimizer steps of all runs that this sweep trains.
        elapsed_s: Seconds since the sweep began.
        eta_s: Seconds that are left, or None while nothing can be said.
        best: The leading point, or None before the first result.
        slots: The slots, in a fixed order.
        messages: The latest messages, oldest first.
        stopping: Whether a clean stop was asked for.
        trouble: What keeps runs from being written, and for how many seconds.
        waiting: What is waited for because no machine can take a run, and for how many seconds.
    """

    sweep: str
    points_total: int
    points_done: int
    runs_total: int
    runs_done: int
    runs_running: int
    runs_failed: int
    runs_reused: int
    steps_done: int
    steps_total: int
    elapsed_s: float
    eta_s: float | None = None
    best: Best | None = None
    slots: tuple[SlotView, ...] = ()
    messages: tuple[str, ...] = ()
    stopping: bool = False
    trouble: tuple[str, float] | None = None
    waiting: tuple[str, float] | None = None


def eta(done: int, total: int, elapsed_s: float) -> float | None:
    """Seconds that are left at the pace so far.

    Args:
        done: Steps done since the clock began.
        total: Steps to do in all since then, as far as is known.
        elapsed_s: Seconds since the first step.

    Returns:
        0.0 when nothing is left, or when more was done than was expected; never below. None
        while no pace is known: nothing done or expected yet, or less than `PACE_S` seconds.
    """
    if done <= 0 or total <= 0:
        return None
    if done >= total:
        return 0.0
    return elapsed_s / done * (total - done) if elapsed_s > PACE_S else None
