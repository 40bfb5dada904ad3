from __future__ import annotations

import pytest

from vesselflow.bench.feed import feed


@pytest.mark.bench
def test_the_bench_compares_ours_with_three_loaders(ray_cluster: None) -> None:
    lines: list[str] = []
    found = feed(rounds=1, samples=150, progress=lines.append)
    assert found["name"] == "feed"
    assert list(found["peers"]) == [
        "resident",
        "DataLoader, 0 workers",
        "DataLoader, 1 worker",
        "DataLoader, 2 workers",
    ]
    for peer in found["peers"].values():
        assert 0 < peer["low"] <= peer["median"] <= peer["high"]
        assert peer["unit"] == "MB/s"
        assert peer["settings"]
    assert len(found["ratios"]) == 3
    assert lines[0] == "writing 200 patches"
    assert len(lines) == 1 + 2 * 4
