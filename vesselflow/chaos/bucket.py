"""A bucket on loopback that can go away and be slow: moto's server behind `BucketProxy`."""

from __future__ import annotations

import logging
import os
import time
from types import TracebackType

from vesselflow.bench.bucket_proxy import BucketProxy
from vesselflow.chaos.stage import Storage
from vesselflow.errors import UserError

NAME = "chaos"
#: By how much each piece of a request is late while the bucket is slow; quick, 1 ms.
SLOW_S, QUICK_S = 0.3, 0.001


class LocalBucket(Storage):
    """An empty bucket; a context manager, at whose end all that was in it is gone.

    Attributes:
        env: What whoever reaches it is to export.
    """

    def __init__(self) -> None:
        try:
            from moto.server import ThreadedMotoServer
        except ImportError:
            raise UserError(
                "moto is not installed, which plays the bucket",
                where="--bucket",
                hint="pip install 'moto[s3,server]'",
            ) from None
        import obstore
        from obstore.store import HTTPStore

        # A line for each request would bury the timeline.
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self._direct = f"http://{host}:{port}"
        self._proxy = BucketProxy(self._direct, latency_s=QUICK_S)
        # A PUT without content makes a bucket.
        store = HTTPStore.from_url(self._direct, client_options={"allow_http": True})
        obstore.put(store, NAME, b"")
        self.env = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        os.environ.update(self.env)

    def __enter__(self) -> LocalBucket:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._proxy.__exit__(kind, error, trace)
        self._server.stop()

    def address(self, prefix: str, *, proxied: bool) -> str:
        """Of a prefix: as the sweep reaches it, or past all trouble."""
        server = self._proxy.address if proxied else self._direct
        return f"s3://{NAME}/{prefix}?endpoint_override={server}"

    def cut(self, seconds: float) -> None:
        """Refuse and break all connections for a while."""
        self._proxy.leave()
        try:
            time.sleep(seconds)
        finally:
            self._proxy.come_back()

    def slow(self, seconds: float) -> None:
        """Be late with everything for a while."""
        self._proxy.latency_s = SLOW_S
        try:
            time.sleep(seconds)
        finally:
            self._proxy.latency_s = QUICK_S
