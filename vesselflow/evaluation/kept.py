"""Many evaluations at once: read from the index where it holds, else from their files.

A sweep of 10,000 runs has 150,000 files of scores. What was read of one is kept in the index as a
row of numbers and the name of its layout, which thousands share; in memory stay its threshold and
its pooled scores, and the rest is fetched when a table is written.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa

from vesselflow.errors import VesselflowError
from vesselflow.evaluation.evaluated import (
    POOLED,
    Columns,
    ordered,
    read_scores,
    sigmoid,
    thresholds_of,
)
from vesselflow.metrics import ALL_METRICS
from vesselflow.metrics.registry import base_of
from vesselflow.records.bucket import BucketTrouble
from vesselflow.records.index import Index, Stamp, stamp_of
from vesselflow.records.paths import AnyPath, BucketPath, Looks, at_once
from vesselflow.runs.evaluations import Evaluation

#: Of the entries' content.
_VERSION = 1
#: A layout's entry depends on no file: its name says what is in it.
_ALWAYS = Stamp(bytes(16), 0)
_LAYOUT_DIGITS = 20
_F8 = struct.Struct("<d")


class Layout:
    """Which scores stand in an evaluation, in order: (source id, metric, version of the metric).

    Attributes:
        own: Places of the values that are of a registered metric in its registered version, in the
            order of `Evaluated.rows`.
        sources: Source ids of these, as Arrow strings.
        metrics: Metrics of these, as Arrow strings.
        pooled_places: Those of `own` that are pooled.
        pooled: Metric -> its rank among `pooled_places`.
    """

    def __init__(self, places: list[tuple[str, str, int]]) -> None:
        versions = ALL_METRICS.versions()
        own = ordered(
            (source, metric, at)
            for at, (source, metric, version) in enumerate(places)
            if versions.get(base_of(metric)) == version
        )
        pooled = [(metric, at) for source, metric, at in own if source == POOLED]
        self.own = np.array([at for _, _, at in own], dtype=np.int64)
        self.sources = pa.array([source for source, _, _ in own], pa.string())
        self.metrics = pa.array([metric for _, metric, _ in own], pa.string())
        self.pooled_places = np.array([at for _, at in pooled], dtype=np.int64)
        self.pooled = {metric: rank for rank, (metric, _) in enumerate(pooled)}
        self._there = {base_of(metric) for _, metric, _ in own}

    def missing(self, names: Sequence[str]) -> list[str]:
        """As of `Evaluated`."""
        return [name for name in names if name not in self._there]

    @cached_property
    def places(self) -> dict[tuple[str, str], int]:
        """(source id, metric) -> place among its own values."""
        pairs = zip(self.sources.to_pylist(), self.metrics.to_pylist(), strict=True)
        return {pair: at for at, pair in enumerate(pairs)}


class Kept:
    """What one evaluation came to; as `Evaluated`, but its rows are fetched when asked for.

    Attributes:
        layout: Which scores there are.
        threshold_logit: As of `Evaluated`.
        fingerprint: Equal for the same content of the same file; None where that cannot be told.
    """

    __slots__ = (
        "_held",
        "_keeper",
        "_name",
        "_pooled",
        "_stamp",
        "fingerprint",
        "layout",
        "threshold_logit",
    )

    def __init__(
        self, keeper: KeptEvaluations, name: str, stamp: Stamp, payload: bytes, kept: bool
    ) -> None:
        self._keeper, self._name, self._stamp = keeper, name, stamp
        # What the index does not keep must be kept here: its file may change.
        self._held = None if kept else payload
        self.fingerprint = stamp.digest if kept else None
        self.layout, self.threshold_logit, values = keeper.unpacked(payload)
        self._pooled = values[self.layout.pooled_places].tobytes()

    @property
    def threshold(self) -> float:
        """As of `Evaluated`."""
        return sigmoid(self.threshold_logit)

    @property
    def thresholds(self) -> tuple[float, ...]:
        """As of `Scores`."""
        return thresholds_of(self.pooled, self.threshold_logit)

    def missing(self, names: Sequence[str]) -> list[str]:
        """As of `Evaluated`."""
        return self.layout.missing(names)

    @property
    def sources(self) -> pa.StringArray:
        """As of `Scores`."""
        return self.layout.sources

    @property
    def metrics(self) -> pa.StringArray:
        """As of `Scores`."""
        return self.layout.metrics

    @property
    def pooled(self) -> dict[str, float]:
        """Metric -> its value over all pixels of the domain, in the order of the file."""
        return dict(zip(self.layout.pooled, np.frombuffer(self._pooled).tolist(), strict=True))

    def value(self, source_id: str, metric: str) -> float:
        """One score; KeyError when it is not there."""
        if source_id == POOLED:
            at = self.layout.pooled[metric]
            return float(_F8.unpack_from(self._pooled, _F8.size * at)[0])
        return float(self.values()[self.layout.places[source_id, metric]])

    def values(self) -> np.ndarray:
        """All its values, float64, in the order of the layout's `sources` and `metrics`.

        Raises:
            VesselflowError: They are gone from the index, and the file is no longer what it was.
        """
        payload = self._held or self._keeper.again(self._name, self._stamp)
        return self._keeper.unpacked(payload)[2][self.layout.own]

    @property
    def rows(self) -> tuple[tuple[str, str, float], ...]:
        """As of `Evaluated`."""
        columns = (
            self.layout.sources.to_pylist(),
            self.layout.metrics.to_pylist(),
            self.values().tolist(),
        )
        return tuple(zip(*columns, strict=True))


class KeptEvaluations:
    """The evaluations of a results folder.

    Args:
        results: The results folder.
        keep: Whether the index is written; without, nothing in the folder changes.

    Attributes:
        index: To be flushed by whoever reads much.
    """

    def __init__(self, results: AnyPath, *, keep: bool = True) -> None:
        self._folder = results / "evaluations"
        self._looks = Looks(self._folder)
        self.index = Index(results, "evaluations", _VERSION, exists=self._exists, keep=keep)
        self._layouts: dict[bytes, Layout] = {}

    def fetch(self, names: Iterable[str]) -> None:
        """Read what the index lacks of some evaluations of a bucket, many at once."""
        if not isinstance(self._folder, BucketPath):
            return
        stamps = {name: self._stamp(name) for name in dict.fromkeys(names)}
        missing = {
            name: stamp
            for name, stamp in stamps.items()
            if stamp is not None and self.index.get(name, stamp) is None
        }
        found = at_once(lambda name: read_scores(self._folder / _file(name)), missing)
        for (name, stamp), scores in zip(missing.items(), found, strict=True):
            if scores is not None:
                self.index.put(name, stamp, self._packed(scores))

    def get(self, evaluation: Evaluation) -> Kept | None:
        """What an evaluation came to; None when nothing is there, or it is not whole."""
        name = evaluation.name
        stamp = self._stamp(name)
        if stamp is None:
            return None
        payload = self.index.get(name, stamp)
        if payload is not None and self._layout(payload[:_LAYOUT_DIGITS]) is not None:
            return Kept(self, name, stamp, payload, True)
        payload = self._read(name)
        if payload is None:
            return None
        return Kept(self, name, stamp, payload, self.index.put(name, stamp, payload))

    def again(self, name: str, stamp: Stamp) -> bytes:
        """The payload of an evaluation that was got before."""
        payload = self.index.get(name, stamp)
        if payload is None:
            now = self._stamp(name)
            if now is not None and now.digest == stamp.digest:
                payload = self._read(name)
        if payload is None:
            raise VesselflowError(
                f"{self._folder / _file(name)} changed while the tables were written; "
                "give the command again"
            )
        return payload

    def unpacked(self, payload: bytes) -> tuple[Layout, float, np.ndarray]:
        """Layout, threshold as a logit, and all values in the order of the file."""
        layout = self._layout(payload[:_LAYOUT_DIGITS])
        assert layout is not None
        threshold = _F8.unpack_from(payload, _LAYOUT_DIGITS)[0]
        return layout, threshold, np.frombuffer(payload, "<f8", -1, _LAYOUT_DIGITS + _F8.size)

    def refresh(self) -> None:
        """Look anew at what may have changed."""
        self._looks.refresh()

    def _stamp(self, name: str) -> Stamp | None:
        """What an evaluation's file looks like; None without one, or where nobody can tell."""
        try:
            mark = self._looks.mark(_file(name))
        except BucketTrouble:
            raise  # Whatever is there must not be made again for it.
        except OSError:
            return None
        return None if mark is None else stamp_of([mark])

    def _exists(self, name: str) -> bool:
        return name.startswith("layout ") or self._looks.mark(_file(name)) is not None

    def _layout(self, name: bytes) -> Layout | None:
        if name not in self._layouts:
            content = self.index.get(f"layout {name.decode()}", _ALWAYS)
            if content is None:
                return None
            self._layouts[name] = Layout(list(zip(*json.loads(content), strict=True)))
        return self._layouts[name]

    def _read(self, name: str) -> bytes | None:
        found = read_scores(self._folder / _file(name))
        return None if found is None else self._packed(found)

    def _packed(self, scores: tuple[float, Columns]) -> bytes:
        threshold_logit, columns = scores
        sources, metrics, versions, values = columns
        content = json.dumps([sources, metrics, versions]).encode("ascii")
        layout = hashlib.blake2b(content, digest_size=_LAYOUT_DIGITS // 2).hexdigest().encode()
        if layout not in self._layouts:
            self._layouts[layout] = Layout(list(zip(sources, metrics, versions, strict=True)))
            self.index.put(f"layout {layout.decode()}", _ALWAYS, content)
        return b"".join((layout, _F8.pack(threshold_logit), np.array(values, "<f8").tobytes()))


def _file(name: str) -> str:
    return f"{name}.parquet"
