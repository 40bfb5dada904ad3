"""What runs read: small stores early, the others resident or streamed; no Ray here."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from vesselflow.config.loading import load_space
from vesselflow.feed.ray_stream import NodeRoom
from vesselflow.orchestration import reading
from vesselflow.runs.registries import REGISTRIES
from vesselflow.sweeps.planning import Prepared, prepare

SPACE = """
stores:
  a: synth:fundus?domain=a&sources=6&seed=0&size_px=64
  b: synth:fundus?domain=b&sources=2&seed=1&size_px=64
data: {train: a, ood: [b], working_size_px: 64}
split: {folds: 3, val_fraction: 0.3}
folds: [0]
model: {name: wnet}
train: {epochs: 1, steps_per_epoch: 1}
grid: {loss.beta: [0.25, 0.75]}
"""
LARGE = [NodeRoom(object_store=10**9, memory=10**9)]
#: Samples of the training store, whole images of both; once each, whatever the number of runs.
NEEDED = [("samples", "a"), ("images", "a"), ("images", "b")]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("reading")
    (folder / "space.yaml").write_text(SPACE)
    return prepare(load_space(folder / "space.yaml", registries=REGISTRIES), folder / "results")


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """What Ray was asked for: how, kind, name of the store."""
    asked: list[tuple[str, str, str]] = []

    def name(path: Path) -> str:
        return path.stem.split("-")[1]

    def held(table, kind):
        asked.append(("held", kind, ""))
        return SimpleNamespace(nbytes=table.nbytes)

    def by_tasks(path, view, kind):
        asked.append(("by tasks", kind, name(path)))
        return SimpleNamespace(nbytes=1)

    def streamed(path, view, kind):
        asked.append(("streamed", kind, name(path)))
        return "stream"

    monkeypatch.setattr(reading, "hold", held)
    monkeypatch.setattr(reading, "materialise", by_tasks)
    monkeypatch.setattr(reading, "streamed", streamed)
    return asked


def _reading(prepared: Prepared, said: list[str]) -> reading.Reading:
    return reading.Reading(prepared, prepared.jobs(), said.append)


def test_small_stores_are_read_early_and_held(prepared, done) -> None:
    said: list[str] = []
    read = _reading(prepared, said)
    read.read_small(threading.Event())
    assert said == ["reading small stores"]
    assert done == []
    handles = read.handles(LARGE, {})
    assert [(kind, name) for kind, name, _ in handles] == NEEDED
    assert [how for how, *_ in done] == ["held"] * 3


def test_what_is_not_small_is_read_by_tasks(prepared, done, monkeypatch) -> None:
    # Small in all, not each: after the first two nothing is left.
    early = _reading(prepared, [])
    early.read_small(threading.Event())
    first_two = [early._small[needed].nbytes for needed in early._needed[:2]]
    monkeypatch.setattr(reading, "SMALL_BYTES", sum(first_two) + 1)
    read = _reading(prepared, [])
    read.read_small(threading.Event())
    read.handles(LARGE, {})
    assert done == [("held", "samples", ""), ("held", "images", ""), ("by tasks", "images", "b")]


def test_a_stop_ends_the_reading_and_nothing_is_lost(prepared, done) -> None:
    stop = threading.Event()
    stop.set()
    read = _reading(prepared, [])
    read.read_small(stop)
    read.handles(LARGE, {})
    assert [how for how, *_ in done] == ["by tasks"] * 3


def test_what_fits_on_no_node_is_streamed_though_it_was_read(prepared, done) -> None:
    said: list[str] = []
    read = _reading(prepared, said)
    read.read_small(threading.Event())
    assert set(read.handles([NodeRoom(object_store=1, memory=1)], {}).values()) == {"stream"}
    assert [(kind, name) for _, kind, name in done] == NEEDED
    assert said[1].startswith("store 'a' (samples) is streamed: ")


def test_a_space_that_streams_reads_nothing_early(prepared, done, monkeypatch) -> None:
    read = _reading(prepared, said := [])
    monkeypatch.setattr(read, "_way", "stream")
    read.read_small(threading.Event())
    assert said == []
    read.handles(LARGE, {})
    assert [how for how, *_ in done] == ["streamed"] * 3
