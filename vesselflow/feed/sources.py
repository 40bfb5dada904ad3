"""Where the micro-batches of a run come from: keyed draws out of memory, in a fixed order."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, cast

import numpy as np

from vesselflow.feed.batches import Batch, Samples, WholeImages
from vesselflow.feed.draws import Draws
from vesselflow.feed.order import key
from vesselflow.feed.sampling import SAMPLING
from vesselflow.feed.view import View


class BatchSource(Protocol):
    """Gives the micro-batches of a step: a pure function of (seed, step, index)."""

    def batch(self, step: int, index: int) -> Batch:
        """Micro-batch `index` of step `step`."""


class KeyedBatches:
    """Micro-batches out of samples that can be gathered at random (in memory, or resident).

    Args:
        samples: All samples of the training store.
        draws: Which of them comes where.
        micro_batch_size: Samples of one micro-batch.
        micro_batches_per_step: Micro-batches of one step.
    """

    def __init__(
        self,
        samples: Samples,
        draws: Draws,
        *,
        micro_batch_size: int,
        micro_batches_per_step: int,
    ) -> None:
        self._samples, self._draws = samples, draws
        self._size, self._count = micro_batch_size, micro_batches_per_step

    def indices(self, step: int, index: int) -> np.ndarray:
        """Sample numbers of one micro-batch."""
        return self._draws.at((step * self._count + index) * self._size, self._size)

    def batch(self, step: int, index: int) -> Batch:
        """Gather one micro-batch."""
        return self._samples.gather(self.indices(step, index))


@dataclass(frozen=True)
class Order:
    """In which order samples come: all that micro-batches are a function of.

    Attributes:
        seed: Seed of the run.
        steps: Optimizer steps of the whole run.
        steps_per_epoch: Those of one epoch: what is read ahead ends with it.
        micro_batch_size: Samples of one micro-batch.
        micro_batches_per_step: Micro-batches of one step, over all workers.
        workers: How many share a step.
        rank: Which of them asks.
        sampling: How samples are drawn: a part of `SAMPLING` and its arguments.
        window: Samples of the windows in which they are shuffled; None: all of them at once.
    """

    seed: int
    steps: int
    steps_per_epoch: int
    micro_batch_size: int
    micro_batches_per_step: int
    workers: int
    rank: int
    sampling: Mapping[str, Any] = field(default_factory=lambda: {"name": "uniform"})
    window: int | None = None

    def draws(self, samples: Samples, rows: np.ndarray) -> Draws:
        """Which of `rows` comes where.

        Raises:
            UserError: None of them is of the kind that is to be drawn.
        """
        drawn = SAMPLING.build(
            self.sampling, table=samples.table, rows=rows, seed=self.seed, window=self.window
        )
        return cast(Draws, drawn)

    def of_unlabelled(self) -> Order:
        """That of the unlabelled samples beside these: draws of their own, each equally often."""
        seed = key(self.seed, "unlabelled")
        return replace(self, seed=seed, sampling={"name": "uniform"})

    def gathered(self, samples: Samples, draws: Draws) -> BatchSource:
        """Micro-batches of samples that can be gathered at random."""
        return KeyedBatches(
            samples,
            draws,
            micro_batch_size=self.micro_batch_size,
            micro_batches_per_step=self.micro_batches_per_step,
        )


class Data(Protocol):
    """Where a worker gets samples and whole images from."""

    def samples(self, store: str, view: View) -> Samples:
        """All samples of a store."""

    def images(self, store: str, view: View) -> WholeImages:
        """All whole images of a store."""

    def batches(self, samples: Samples, draws: Draws, order: Order) -> BatchSource:
        """The keyed micro-batches of what `samples` gave."""


class WithUnlabelled:
    """Micro-batches, each with one of another store beside it.

    Args:
        labelled: Where they come from.
        unlabelled: Where those beside them come from.
    """

    def __init__(self, labelled: BatchSource, unlabelled: BatchSource) -> None:
        self._labelled, self._unlabelled = labelled, unlabelled

    def batch(self, step: int, index: int) -> Batch:
        """Micro-batch `index` of step `step`."""
        own, beside = (each.batch(step, index) for each in (self._labelled, self._unlabelled))
        return replace(own, unlabelled=beside)


class StepClock:
    """Hands micro-batches on and measures the seconds inside optimizer steps, and those alone.

    A step lasts from the moment at which its first micro-batch is asked for until `stop`, which
    is to be called after it; scoring, checkpoints and building the model are left out.

    Args:
        source: Where the micro-batches come from.

    Attributes:
        seconds: Of all steps so far.
    """

    def __init__(self, source: BatchSource) -> None:
        self._source = source
        self._began: float | None = None
        self.seconds = 0.0

    def batch(self, step: int, index: int) -> Batch:
        """Micro-batch `index` of step `step`."""
        if self._began is None:
            self._began = time.perf_counter()
        return self._source.batch(step, index)

    def stop(self) -> None:
        """A step has ended."""
        if self._began is not None:
            self.seconds += time.perf_counter() - self._began
            self._began = None
