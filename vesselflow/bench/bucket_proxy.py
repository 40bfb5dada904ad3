"""A bucket whose service is slow, or away for a while: a proxy on loopback in front of it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from types import TracebackType
from urllib.parse import urlsplit


class BucketProxy:
    """Passes bytes on to a server; a context manager.

    Args:
        server: Address of the server, ``http://host:port``.
        latency_s: Seconds by which each piece of a request is late.

    Attributes:
        address: To be named instead of the server's.
        away: While it is set, connections are refused, and those that are open break.
        requests: Pieces of requests that were passed on.
    """

    def __init__(self, server: str, latency_s: float = 0.0) -> None:
        parts = urlsplit(server)
        assert parts.hostname is not None
        assert parts.port is not None
        self._target = (parts.hostname, parts.port)
        self.latency_s = latency_s
        self.away = threading.Event()
        self.requests = 0
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> BucketProxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.close()
        self.leave()

    def leave(self) -> None:
        """Go away: nothing that is under way is answered."""
        self.away.set()
        for each in list(self._open):
            _close(each)

    def come_back(self) -> None:
        """Answer again."""
        self.away.clear()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.away.is_set():
                    _close(client)
                    continue
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), socket.create_connection(self._target) as server:
            self._open |= {client, server}
            back = threading.Thread(target=_pass_on, args=(server, client), daemon=True)
            back.start()
            while piece := client.recv(1 << 16):
                self.requests += 1
                time.sleep(self.latency_s)
                server.sendall(piece)
        self._open -= {client}
        _close(client)


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(1 << 16):
            target.sendall(piece)
    _close(target)


def _close(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError):
        end.close()
