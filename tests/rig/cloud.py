"""The rig's cloud: moto's EC2, IAM and S3, capacity that runs out, IMDSv2 for each machine.

moto knows instances but runs none, gives every launch a machine, and its own metadata service tells
of no interruption. So here a launch can be refused, and each instance is answered by its address.
"""

from __future__ import annotations

import datetime
import json
import logging
import secrets
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: Where moto listens, and where every machine of AWS finds its metadata service.
SERVICE, METADATA = "10.77.255.254", "169.254.169.254"
ENDPOINT = f"http://{SERVICE}"
REGION, ACCOUNT = "us-east-1", "123456789012"
TOKEN = "X-aws-ec2-metadata-token"
LONGEST_TTL_S = 21600


class Cloud:
    """EC2 and what belongs to it.

    Args:
        say: Gets events, as they happen.

    Attributes:
        short: What cannot be had: (instance type or "*", market: "spot" or "on-demand").
        notices: Instance -> (action, Unix time of its end).
    """

    def __init__(self, say: Callable[..., None]) -> None:
        from moto.ec2.exceptions import EC2ClientError
        from moto.ec2.models import EC2Backend, ec2_backends
        from moto.server import ThreadedMotoServer

        self._say = say
        self.short: set[tuple[str, str]] = set()
        self.notices: dict[str, tuple[str, float]] = {}
        self._launch = EC2Backend.run_instances
        logging.getLogger("werkzeug").setLevel(logging.ERROR)

        def run_instances(backend: Any, *args: Any, **kwargs: Any) -> Any:
            kind = kwargs["instance_type"]
            # moto takes the market type out of its options.
            market = kwargs.get("instance_market_options") or "on-demand"
            say("asked", kind=kind, market=market)
            if {(kind, market), ("*", market)} & self.short:
                text = f"We currently do not have sufficient {kind} capacity in this zone."
                raise EC2ClientError("InsufficientInstanceCapacity", text)
            return self._launch(backend, *args, **kwargs)

        EC2Backend.run_instances = run_instances  # type: ignore[method-assign]
        self._ec2 = ec2_backends[ACCOUNT][REGION]
        ThreadedMotoServer(SERVICE, 80, verbose=False).start()
        metadata = ThreadingHTTPServer((METADATA, 80), _Metadata)
        metadata.daemon_threads = True
        metadata.cloud = self  # type: ignore[attr-defined]
        threading.Thread(target=metadata.serve_forever, daemon=True).start()

    def instances(self) -> list[Any]:
        """All instances that there ever were, as moto keeps them."""
        return [each for group in list(self._ec2.reservations.values()) for each in group.instances]

    def public_key(self, name: str) -> str:
        """What a machine started with this key pair lets in."""
        return str(self._ec2.describe_key_pairs([name])[0].public_key)

    def give_notice(self, instance: str, seconds: float) -> None:
        """As AWS does before it takes a spot instance; it goes when the time is over."""
        self.notices[instance] = ("terminate", time.time() + seconds)

    def end(self, instance: str) -> None:
        """Terminate an instance."""
        self._ec2.terminate_instances([instance])

    def take_back(self) -> None:
        """Terminate those whose notice is over."""
        for instance, (_, end) in list(self.notices.items()):
            if time.time() >= end:
                del self.notices[instance]
                self._say("interrupted", instance=instance)
                self.end(instance)

    def at(self, address: str) -> Any:
        """The instance that speaks by a private address; None for nobody's."""
        for each in self.instances():
            if each.private_ip == address and each.state == "running":
                return each
        return None


class _Metadata(BaseHTTPRequestHandler):
    """IMDSv2: no answer without a token, which is good for one machine."""

    protocol_version = "HTTP/1.1"
    _tokens: dict[str, tuple[str, float]] = {}  # noqa: RUF012

    def log_message(self, *_: object) -> None:
        pass

    def do_PUT(self) -> None:
        asked = self.headers.get(f"{TOKEN}-ttl-seconds", "")
        if self.path != "/latest/api/token":
            self._send(404)
        elif not asked.isdecimal() or not 1 <= int(asked) <= LONGEST_TTL_S:
            self._send(400)
        else:
            token = secrets.token_urlsafe(40)
            self._tokens[token] = (self.client_address[0], time.monotonic() + int(asked))
            self._send(200, token, {f"{TOKEN}-ttl-seconds": asked})

    def do_GET(self) -> None:
        cloud: Cloud = self.server.cloud  # type: ignore[attr-defined]
        whose, until = self._tokens.get(self.headers.get(TOKEN, ""), ("", 0.0))
        instance = cloud.at(self.client_address[0])
        if whose != self.client_address[0] or time.monotonic() > until:
            self._send(401)
        elif instance is None:
            self._send(404)
        else:
            path = self.path.removeprefix("/latest/").rstrip("/")
            text = self._found(cloud, instance, path)
            self._send(404 if text is None else 200, text or "")

    def _found(self, cloud: Cloud, instance: Any, path: str) -> str | None:
        profile = (instance.iam_instance_profile or {}).get("Arn", "").rpartition("/")[2]
        if path == "meta-data/spot/instance-action" and instance.id in cloud.notices:
            action, end = cloud.notices[instance.id]
            return json.dumps({"action": action, "time": utc(end)})
        if path == f"meta-data/iam/security-credentials/{profile}":
            return json.dumps(
                {
                    "Code": "Success",
                    "Type": "AWS-HMAC",
                    "LastUpdated": utc(time.time()),
                    "AccessKeyId": f"ASIA{instance.id[2:].upper()[:16]}",
                    "SecretAccessKey": "of-the-role",
                    "Token": "of-the-role",
                    "Expiration": utc(time.time() + 6 * 3600),
                }
            )
        zone = f"{instance.placement}"
        return {
            "meta-data/iam/security-credentials": profile,
            "meta-data/instance-id": instance.id,
            "meta-data/instance-type": instance.instance_type,
            "meta-data/instance-life-cycle": instance.lifecycle or "on-demand",
            "meta-data/local-ipv4": instance.private_ip,
            "meta-data/placement/availability-zone": zone,
            "meta-data/placement/region": REGION,
        }.get(path) or None

    def _send(self, status: int, text: str = "", headers: dict[str, str] | None = None) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def utc(when: float) -> str:
    """As the metadata service writes a time."""
    return f"{datetime.datetime.fromtimestamp(when, datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"
