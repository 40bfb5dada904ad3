"""One question over plain HTTP with one limit for all of it, in a few kB.

`http.client` takes 5 MB beside the 15 of this process, and its time limit starts anew with every
byte: a service that dribbles would hold the watcher for ever.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

#: Longest answer that is read; those of a metadata service have some hundred bytes.
LONGEST = 65536


class Trouble(Exception):
    """No answer, or one that means nothing; the text says what, in a few words."""


@dataclass(frozen=True)
class Endpoint:
    """Where a service listens.

    Attributes:
        host: Name or address, without brackets.
        port: 1 to 65535.
        prefix: What stands before every path; "" or "/...".
    """

    host: str
    port: int = 80
    prefix: str = ""

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """``http://HOST[:PORT][/PREFIX]``; the scheme may be left away.

        Raises:
            ValueError: It is none; the message says why.
        """
        scheme, found, rest = text.strip().rpartition("://")
        if found and scheme.lower() != "http":
            raise ValueError(f"{scheme}:// is not spoken by metadata services")
        place, slash, prefix = rest.partition("/")
        host, _, port = place.rpartition(":") if _has_port(place) else (place, "", "80")
        host = host.removeprefix("[").removesuffix("]")
        if not host or any(c.isspace() or c in "@?#" for c in place):
            raise ValueError("it names no host")
        if not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError(f"'{port}' is no port")
        return cls(host, int(port), (slash + prefix).rstrip("/"))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}{self.prefix}"


@dataclass(frozen=True)
class Reply:
    """What came back.

    Attributes:
        status: Of HTTP, 100 to 599.
        headers: By name in lower case.
        body: As text.
    """

    status: int
    headers: Mapping[str, str]
    body: str


def ask(
    endpoint: Endpoint, method: str, path: str, headers: Mapping[str, str], limit_s: float
) -> Reply:
    """Ask, and read the whole answer, within a time.

    Raises:
        Trouble: Nobody answers, not in time, or not in HTTP.
    """
    deadline = time.monotonic() + limit_s
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    lines = [
        f"{method} {endpoint.prefix}{path} HTTP/1.1",
        f"Host: {host}:{endpoint.port}",
        "Accept: */*",
        "Connection: close",
        "Content-Length: 0",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    try:
        with socket.create_connection((endpoint.host, endpoint.port), limit_s) as connection:
            connection.settimeout(_left(deadline))
            connection.sendall("\r\n".join([*lines, "", ""]).encode("ascii"))
            return _parse(_read(connection, deadline))
    except TimeoutError:
        raise Trouble(f"no answer within {limit_s:g} s") from None
    except OSError as error:
        raise Trouble(error.strerror or str(error) or type(error).__name__) from None


def _has_port(place: str) -> bool:
    return ":" in place.rpartition("]")[2] and (place.count(":") == 1 or place.startswith("["))


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _read(connection: socket.socket, deadline: float) -> bytes:
    """All that is sent until the other side closes, or its message is whole."""
    data = b""
    while True:
        connection.settimeout(_left(deadline))
        piece = connection.recv(4096)
        if not piece:
            return data
        data += piece
        if len(data) > LONGEST:
            raise Trouble(f"more than {LONGEST} bytes came back")
        if _whole(data):
            return data


def _whole(data: bytes) -> bool:
    """Whether a message that says how long it is has come to its end."""
    head, found, body = data.partition(b"\r\n\r\n")
    if not found:
        return False
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length" and value.strip().isdigit():
            return len(body) >= int(value)
    return False


def _parse(data: bytes) -> Reply:
    if not data:
        raise Trouble("the connection was closed without an answer")
    head, found, body = data.partition(b"\r\n\r\n")
    try:
        first, *rest = head.decode("ascii").split("\r\n")
        protocol, status, *_ = first.split(" ")
        if not found or not protocol.startswith("HTTP/1.") or not 100 <= int(status) <= 599:
            raise ValueError
        pairs = [line.partition(":") for line in rest]
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = _joined(body)
        elif len(body) != int(headers.get("content-length", len(body))):
            raise ValueError
        return Reply(int(status), headers, body.decode("utf-8"))
    except ValueError:
        raise Trouble(f"it does not answer in HTTP: {data[:40]!r}") from None


def _joined(body: bytes) -> bytes:
    """The content of a chunked body.

    Raises:
        ValueError: It is none, or it was cut off.
    """
    parts: list[bytes] = []
    while True:
        size, found, rest = body.partition(b"\r\n")
        length = int(size.partition(b";")[0], 16)
        if not found or len(rest) < length + 2 or length < 0:
            raise ValueError("cut off")
        if length == 0:
            return b"".join(parts)
        parts.append(rest[:length])
        body = rest[length + 2 :]
