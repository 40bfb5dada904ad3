"""The keypoints bench: its sums, that its peers agree, and what it counts as bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vesselflow.bench import keypoints as bench


def found(slow: float, dense: float) -> dict[str, list[float]]:
    return {
        "batch, max": [slow, slow],
        "batch, sum": [slow / 2, slow / 2],
        bench.NUMPY: [1.0, 1.0],
        bench.FILTER: [dense, 2 * dense],
        bench.ANALYTIC: [dense, dense],
    }


STORED = {"dense, float16": 4e6, "coarse grid, float32": 2e3, "keypoints": 1e3}


def test_the_slower_of_ours_counts() -> None:
    result = bench.summarise(found(0.04, 60.0), STORED)
    assert result["ratios"][f"{bench.FILTER} / ours"]["median"] == pytest.approx(2250)
    assert result["ratios"]["stored, dense, float16 / keypoints"]["median"] == 4000
    assert [row["met"] for row in result["targets"]] == [True, True, True]
    assert result["targets"][0]["value"] == 0.04


def test_missed_targets_are_called_missed() -> None:
    result = bench.summarise(found(0.06, 30.0), {**STORED, "keypoints": 1e5})
    assert [row["met"] for row in result["targets"]] == [False] * 3


def test_all_peers_render_the_same() -> None:
    bench.check()


def test_bytes_are_counted_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "STORED", 1)
    stored = bench.stored_bytes(tmp_path / "a.h5")
    assert stored["dense, float16"] == 2 * bench.SIDE**3
    assert stored["coarse grid, float32"] == 4 * 8**3
    # Coordinates, classes, and two numbers that say where the patch's begin.
    assert stored["keypoints"] == bench.KEYPOINTS * (3 * 8 + 2) + 2 * 8
    assert stored["dense, float16, gzip"] < stored["dense, float16"]


def test_patches_differ_and_are_drawn_again() -> None:
    assert np.array_equal(bench.drawn(3), bench.drawn(3))
    assert not np.array_equal(bench.drawn(3), bench.drawn(4))


@pytest.mark.bench
def test_the_bench_runs() -> None:
    lines: list[str] = []
    result = bench.keypoints(rounds=1, progress=lines.append)
    assert len(lines) == 2 + 2 * 5
    assert [row["what"] for row in result["targets"]] == [
        "rendering of a patch",
        "rendering, ours / scipy's",
        "stored bytes, keypoints / dense",
    ]
