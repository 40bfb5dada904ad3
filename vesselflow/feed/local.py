"""Stores read into one process, without Ray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vesselflow.feed.batches import Samples, WholeImages, load_images, load_samples
from vesselflow.feed.draws import Draws
from vesselflow.feed.sources import BatchSource, Order
from vesselflow.feed.view import View


class LocalData:
    """Stores read into this process: for tests, notebooks and a bare machine."""

    def __init__(self, paths: dict[str, Path]) -> None:
        self._paths = paths
        self._kept: dict[tuple[str, str, View], Any] = {}

    def samples(self, store: str, view: View) -> Samples:
        """All samples of a store."""
        return self._get("samples", store, view, load_samples)

    def images(self, store: str, view: View) -> WholeImages:
        """All whole images of a store."""
        return self._get("images", store, view, load_images)

    def batches(self, samples: Samples, draws: Draws, order: Order) -> BatchSource:
        """Micro-batches gathered out of memory."""
        return order.gathered(samples, draws)

    def _get(self, kind: str, store: str, view: View, read: Callable[..., Any]) -> Any:
        name = (kind, store, view)
        if name not in self._kept:
            self._kept[name] = read(self._paths[store], view)
        return self._kept[name]
