"""What a slot reads: samples and whole images, resident in shared memory or streamed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from vesselflow.feed.batches import Samples, WholeImages
from vesselflow.feed.draws import Draws
from vesselflow.feed.ray_resident import Resident
from vesselflow.feed.ray_stream import StreamBatches, Streamed, StreamSamples
from vesselflow.feed.sources import BatchSource, Order
from vesselflow.feed.view import View, image_view

#: A kind of data, the name of a store, and how it is seen.
Needed = tuple[Literal["samples", "images"], str, View]
#: Handles of data that are resident, or read as they are used.
Handles = Mapping[Needed, Resident[Any] | Streamed]


class SlotData:
    """Samples and whole images, resident or streamed; each is opened once per process."""

    def __init__(self, handles: Handles) -> None:
        self._handles = handles
        self._opened: dict[Needed, Any] = {}

    def samples(self, store: str, view: View) -> Samples:
        """All samples of a store."""
        return self._open(("samples", store, view))

    def images(self, store: str, view: View) -> WholeImages:
        """All whole images of a store, at the geometry of a view (its patches do not matter)."""
        return self._open(("images", store, image_view(view)))

    def batches(self, samples: Samples, draws: Draws, order: Order) -> BatchSource:
        """Micro-batches gathered out of shared memory, or streamed: bit-equal."""
        if not isinstance(samples, StreamSamples):
            return order.gathered(samples, draws)
        return StreamBatches(
            samples,
            draws,
            steps=order.steps,
            steps_per_epoch=order.steps_per_epoch,
            micro_batch_size=order.micro_batch_size,
            micro_batches_per_step=order.micro_batches_per_step,
            workers=order.workers,
            rank=order.rank,
        )

    def _open(self, name: Needed) -> Any:
        if name not in self._opened:
            self._opened[name] = self._handles[name].open()
        return self._opened[name]
