"""A sweep whose results are in a bucket: killed, cut off, taken up again; the same tables."""

from __future__ import annotations

import time
from pathlib import Path

import fault_cases as cases
import pytest

from vesselflow.bench.bucket_proxy import BucketProxy
from vesselflow.records.paths import AnyPath, BucketPath, any_path

pytestmark = pytest.mark.ray


def _checkpoints(results: AnyPath) -> int:
    assert isinstance(results, BucketPath)
    keys = [entry.key for entry in results.bucket.below(f"{results.key}/runs")]
    return sum(key.endswith(".ckpt") for key in keys)


def test_a_bucket_that_goes_away_and_two_kills_change_no_table(
    undisturbed: tuple[Path, Path, dict[str, bytes | None]], bucket: str, s3_server: str
) -> None:
    space, _, tables = undisturbed
    # Looked at past the proxy.
    results = any_path(bucket.replace("?", "/results?"))
    with BucketProxy(s3_server, latency_s=0.005) as proxy:
        address = str(results).replace(s3_server, proxy.address)
        driver = cases.start(space, address)
        cases.wait_until(lambda: _checkpoints(results) > 0, driver, 150)
        proxy.leave()
        said = cases.lines_until(driver, "does not answer")
        assert "Traceback" not in "".join(said)
        time.sleep(5)
        proxy.come_back()
        before = _checkpoints(results)
        cases.wait_until(lambda: _checkpoints(results) != before, driver, 150)
        cases.kill_slot_worker(driver)
        time.sleep(1)
        cases.kill_driver(driver)
        output = cases.finish(cases.start(space, address))
    assert "Traceback" not in output
    assert cases.tables(results) == tables
    # What had a checkpoint was taken up there.
    begun = [
        results.bucket.get(entry.key)
        for entry in results.bucket.below(f"{results.key}/runs")
        if entry.key.endswith("attempt.json")
    ]
    assert any(b'"resumed_from": {' in content for content in begun)
