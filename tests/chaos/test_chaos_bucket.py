"""The bucket of chaos: one content behind two addresses, one of which can be in trouble."""

from __future__ import annotations

import threading
import time

import pytest

from vesselflow.bench.bucket_proxy import BucketProxy
from vesselflow.chaos import bucket as chaos
from vesselflow.records.paths import any_path


def test_what_is_written_by_one_address_is_read_by_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "")
    with chaos.LocalBucket() as bucket:
        proxied, direct = (any_path(bucket.address("a", proxied=flag)) for flag in (True, False))
        assert str(proxied) != str(direct)
        (proxied / "file").touch()
        assert (direct / "file").exists()
        # While it is away for the sweep, the records are read past it.
        away = threading.Thread(target=bucket.cut, args=(1.0,))
        away.start()
        assert (direct / "file").exists()
        away.join()
        (proxied / "other").touch()
        assert sorted(path.name for path in direct.iterdir()) == ["file", "other"]


def test_trouble_ends_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with BucketProxy("http://127.0.0.1:9") as proxy:
        bucket = chaos.LocalBucket.__new__(chaos.LocalBucket)
        bucket._proxy = proxy
        seen: list[tuple[bool, float]] = []
        monkeypatch.setattr(
            time, "sleep", lambda s: seen.append((proxy.away.is_set(), proxy.latency_s))
        )
        bucket.cut(3.0)
        bucket.slow(3.0)
        assert seen == [(True, 0.0), (False, chaos.SLOW_S)]
        assert not proxy.away.is_set()
        assert proxy.latency_s == chaos.QUICK_S
