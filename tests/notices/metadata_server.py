"""A metadata service on loopback that speaks as those of AWS (IMDSv2) and Google Cloud do.

Also a command: ``python tests/notices/metadata_server.py [--port N]`` prints its address and takes
lines such as ``spot 120`` (a notice of 120 s), ``rebalance``, ``preempted TRUE``, ``fault hang``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import secrets
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: The longest life of a token that AWS gives.
LONGEST_TTL_S = 21600
TOKEN = "X-aws-ec2-metadata-token"
TTL = "X-aws-ec2-metadata-token-ttl-seconds"
FAULTS = ("rubbish", "error", "hang", "dribble", "drop", "long", "elsewhere")


class MetadataServer:
    """The service; use it as a context manager.

    Args:
        port: Where it listens; 0 for a free one.

    Attributes:
        spot: The JSON object of ``spot/instance-action``; None for 404. A text is sent as it is.
        rebalance: That of the rebalance recommendation.
        preempted, maintenance: What Google says.
        proves_itself: Whether answers have the header that Google's have.
        fault: One of `FAULTS`; None when it works.
        ttl_s: Tokens live no longer than so, whatever was asked.
        asked: (method, path, status) of every request.
    """

    def __init__(self, port: int = 0) -> None:
        self.spot: Any = None
        self.rebalance: Any = None
        self.preempted, self.maintenance = "FALSE", "NONE"
        self.proves_itself = True
        self.fault: str | None = None
        self.ttl_s: float = LONGEST_TTL_S
        self.asked: list[tuple[str, str, int]] = []
        self._tokens: dict[str, float] = {}
        self._released = threading.Event()
        self._server = self._listen(port)
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> MetadataServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self.refuse()

    def refuse(self) -> None:
        """Listen no more; `return_` undoes it."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def return_(self) -> None:
        """Listen again, at the same port."""
        self._server = self._listen(self.port)

    def give_spot_notice(self, seconds: float = 120.0, action: str = "terminate") -> None:
        """What AWS says so long before it takes a spot instance."""
        self.spot = {"action": action, "time": utc(time.time() + seconds)}

    def new_token(self, asked_s: float) -> str:
        token = secrets.token_urlsafe(40) + "=="
        self._tokens[token] = time.monotonic() + min(asked_s, self.ttl_s)
        return token

    def knows(self, token: str | None) -> bool:
        return token is not None and self._tokens.get(token, 0.0) > time.monotonic()

    def hold(self) -> None:
        """Wait until the test is over."""
        self._released.wait(60)

    def _listen(self, port: int) -> ThreadingHTTPServer:
        server = _Server(("127.0.0.1", port), _Handler)
        server.service = self
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    service: MetadataServer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def service(self) -> MetadataServer:
        return self.server.service  # type: ignore[attr-defined]

    def log_message(self, *_: object) -> None:
        pass

    def do_PUT(self) -> None:
        if self._faulty():
            return
        asked = self.headers.get(TTL, "")
        if self.path != "/latest/api/token":
            self._send(404, "no such thing")
        elif not asked.isdecimal() or not 1 <= int(asked) <= LONGEST_TTL_S:
            self._send(400, "a ttl is wanted")
        elif self.headers.get("X-Forwarded-For"):
            self._send(403, "not through a proxy")
        else:
            ttl = min(float(asked), self.service.ttl_s)
            self._send(200, self.service.new_token(ttl), {TTL: str(int(ttl))})

    def do_GET(self) -> None:
        if self._faulty():
            return
        if self.path.startswith("/computeMetadata/v1/"):
            self._google(self.path.removeprefix("/computeMetadata/v1/"))
        elif not self.service.knows(self.headers.get(TOKEN)):
            self._send(401, "<html>401 - Unauthorized</html>")
        elif self.path == "/latest/meta-data/spot/instance-action":
            self._perhaps(self.service.spot)
        elif self.path == "/latest/meta-data/events/recommendations/rebalance":
            self._perhaps(self.service.rebalance)
        else:
            self._send(404, "no such thing")

    def _google(self, path: str) -> None:
        flavor = {"Metadata-Flavor": "Google"} if self.service.proves_itself else {}
        values = {
            "instance/preempted": self.service.preempted,
            "instance/maintenance-event": self.service.maintenance,
        }
        if self.headers.get("Metadata-Flavor") != "Google":
            self._send(403, "Metadata-Flavor is missing")
        elif path in values:
            self._send(200, values[path], flavor)
        else:
            self._send(404, "no such thing", flavor)

    def _perhaps(self, value: Any) -> None:
        if value is None:
            self._send(404, "<html>404 - Not Found</html>")
        else:
            self._send(200, value if isinstance(value, str) else json.dumps(value))

    def _send(self, status: int, body: str, headers: dict[str, str] | None = None) -> None:
        self.service.asked.append((self.command, self.path, status))
        data = body.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _faulty(self) -> bool:
        fault, raw = self.service.fault, self.connection
        if fault is None:
            return False
        self.service.asked.append((self.command, self.path, 0))
        self.close_connection = True
        if fault == "error":
            self._send(500, "<html>500</html>")
        elif fault == "rubbish":
            raw.sendall(b"\x00\xff\x13SSH-2.0-not-http\r\n\r\n\xfe")
        elif fault == "hang":
            self.service.hold()
        elif fault == "dribble":
            raw.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            for _ in range(300):
                try:
                    raw.sendall(b"a")
                except OSError:
                    break
                time.sleep(0.1)
        elif fault == "drop":
            raw.shutdown(socket.SHUT_RDWR)
        elif fault == "long":
            raw.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"a" * 200_000)
        elif fault == "elsewhere":
            # A captive portal, or a proxy: everything is there, and means nothing.
            self._send(200, "<html><title>Welcome</title>Please log in</html>")
        return True


def utc(when: float) -> str:
    return f"{datetime.datetime.fromtimestamp(when, datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    with MetadataServer(parser.parse_args().port) as server:
        print(server.url, flush=True)
        for line in sys.stdin:
            word, _, value = line.strip().partition(" ")
            if word == "spot":
                server.give_spot_notice(float(value or 120))
            elif word == "rebalance":
                server.rebalance = {"noticeTime": utc(time.time())}
            elif word in ("preempted", "maintenance"):
                setattr(server, word, value)
            elif word == "fault":
                server.fault = value or None


if __name__ == "__main__":
    main()
