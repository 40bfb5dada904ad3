"""Who gives notice: the metadata services of AWS and Google Cloud, and a queue's clock.

A source is asked again and again. It answers with the notices that stand, or raises `Trouble`; a
doubtful answer is trouble and never a notice, because a node that was drained by mistake does no
work until its machine is restarted.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from vesselflow.notices.plain_http import Endpoint, Reply, Trouble, ask

#: Where the services listen on every machine of these clouds.
AWS = Endpoint("169.254.169.254")
GCP = Endpoint("169.254.169.254")
#: Seconds for one question; the real services answer within milliseconds.
LIMIT_S = 2.0
#: Seconds for which a token is asked (the most that AWS gives), and the share of them that is used.
TOKEN_TTL_S, TOKEN_USED = 21600, 0.5
#: Seconds that the clouds promise between a notice and the end; what they say later is believed
#: only up to here, so that a wrong clock does no harm.
AWS_LEAD_S, GCP_LEAD_S = 120.0, 30.0
#: Google tells of maintenance that ends a machine an hour before.
GCP_MAINTENANCE_LEAD_S = 3600.0


@dataclass(frozen=True)
class Notice:
    """A machine is to go.

    Attributes:
        kind: Who says so, in a word: "spot", "rebalance", "preemption", "maintenance",
            "wall-time", "sigterm".
        text: What was said, for people.
        left_s: Seconds until the machine goes; None when nobody knows.
        firm: False for a mere forecast.
    """

    kind: str
    text: str
    left_s: float | None
    firm: bool = True


class Source(Protocol):
    """Somebody who may give notice."""

    @property
    def name(self) -> str:
        """What it is called in the log."""

    def look(self) -> list[Notice]:
        """The notices that stand.

        Raises:
            Trouble: It does not answer, or what it says means nothing.
        """


class AwsMetadata:
    """The instance metadata service of AWS, version 2 (with tokens).

    Args:
        endpoint: Where it listens.
        now: Unix time of this machine.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        endpoint: Endpoint = AWS,
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._endpoint, self._now, self._clock = endpoint, now, clock
        self._token, self._renew_at = "", 0.0
        self.name = f"the metadata service at {endpoint}"

    def look(self) -> list[Notice]:
        """See `Source`."""
        found = []
        action = self._get("/latest/meta-data/spot/instance-action")
        if action is not None:
            found.append(self._interruption(action))
        advice = self._get("/latest/meta-data/events/recommendations/rebalance")
        if advice is not None:
            when = _time(_fields(advice, "noticeTime")["noticeTime"])
            text = f"rebalance recommendation of {_utc(when)}"
            found.append(Notice("rebalance", text, None, firm=False))
        return found

    def _interruption(self, body: str) -> Notice:
        fields = _fields(body, "action", "time")
        action, when = fields["action"], _time(fields["time"])
        if action not in ("terminate", "stop", "hibernate"):
            raise Trouble(f"an unknown action '{action[:20]}' in the spot notice")
        left = when - self._now()
        text = f"spot notice: {action} at {_utc(when)}"
        if not 0 <= left <= 2 * AWS_LEAD_S:
            # No instance outlives its time by much: it is a clock that is off.
            text += ", which this machine's clock does not fit"
            left = AWS_LEAD_S
        return Notice("spot", text, left)

    def _get(self, path: str) -> str | None:
        """What stands there; None for nothing (404)."""
        for fresh in (False, True):
            reply = ask(
                self._endpoint,
                "GET",
                path,
                {"X-aws-ec2-metadata-token": self._valid_token(fresh=fresh)},
                LIMIT_S,
            )
            if reply.status != 401:
                break
        return _found(reply)

    def _valid_token(self, *, fresh: bool) -> str:
        if fresh or not self._token or self._clock() >= self._renew_at:
            reply = ask(
                self._endpoint,
                "PUT",
                "/latest/api/token",
                {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_TTL_S)},
                LIMIT_S,
            )
            token = reply.body.strip()
            if reply.status != 200:
                raise Trouble(f"status {reply.status} when a token was asked for")
            if not token or not all(33 <= ord(letter) < 127 for letter in token):
                raise Trouble("what it gives as a token is none")
            given = reply.headers.get("x-aws-ec2-metadata-token-ttl-seconds", "")
            ttl = int(given) if given.isdecimal() else TOKEN_TTL_S
            self._token, self._renew_at = token, self._clock() + TOKEN_USED * ttl
        return self._token


class GcpMetadata:
    """The metadata server of Google Cloud.

    Args:
        endpoint: Where it listens.
    """

    def __init__(self, endpoint: Endpoint = GCP) -> None:
        self._endpoint = endpoint
        self.name = f"the metadata service at {endpoint}"

    def look(self) -> list[Notice]:
        """See `Source`."""
        found = []
        if self._one_of("preempted", {"TRUE", "FALSE"}) == "TRUE":
            found.append(Notice("preemption", "this machine was preempted", GCP_LEAD_S))
        event = self._one_of(
            "maintenance-event",
            {"NONE", "MIGRATE_ON_HOST_MAINTENANCE", "TERMINATE_ON_HOST_MAINTENANCE"},
        )
        if event.startswith("TERMINATE"):
            text = "host maintenance ends this machine"
            found.append(Notice("maintenance", text, GCP_MAINTENANCE_LEAD_S))
        return found

    def _one_of(self, name: str, words: set[str]) -> str:
        path = f"/computeMetadata/v1/instance/{name}"
        reply = ask(self._endpoint, "GET", path, {"Metadata-Flavor": "Google"}, LIMIT_S)
        # Google's own proof that no captive portal answers.
        if reply.headers.get("metadata-flavor") != "Google":
            raise Trouble("what answers is no metadata service of Google Cloud")
        body = (_found(reply) or "").strip()
        if body not in words:
            raise Trouble(f"an unknown answer '{body[:20]}' to '{name}'")
        return body


class WallTime:
    """The end that a queue has set; a notice once it is near.

    Args:
        deadline: Unix time of the end.
        lead_s: From how many seconds before it on it counts as a notice.
        now: Unix time of this machine.
        clock: Monotonic seconds: a clock that is set meanwhile does no harm.
    """

    def __init__(
        self,
        deadline: float,
        lead_s: float,
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._end, self._lead_s, self._clock = clock() + deadline - now(), lead_s, clock
        self._text = f"wall-time limit at {_utc(deadline)}"
        self.name = f"the {self._text}"

    def look(self) -> list[Notice]:
        """See `Source`."""
        left = self._end - self._clock()
        if left > self._lead_s:
            return []
        return [Notice("wall-time", self._text, max(0.0, left))]


def _found(reply: Reply) -> str | None:
    if reply.status == 404:
        return None
    if reply.status != 200:
        raise Trouble(f"status {reply.status}")
    return reply.body


def _fields(body: str, *names: str) -> Mapping[str, str]:
    """Texts of a JSON object."""
    import json  # In the hour of a notice only.

    try:
        content = json.loads(body)
    except ValueError:
        content = None
    values = content if isinstance(content, dict) else {}
    if not all(isinstance(values.get(name), str) for name in names):
        raise Trouble(f"a notice that is none: {body[:40]!r}")
    return values


def _time(text: str) -> float:
    """Unix time of "2026-11-22T03:34:28Z"."""
    try:
        when = datetime.datetime.fromisoformat(text)
        if when.tzinfo is None:
            raise ValueError
        return when.timestamp()
    except (ValueError, OverflowError):
        raise Trouble(f"a notice whose time is none: '{text[:40]}'") from None


def _utc(when: float) -> str:
    return f"{datetime.datetime.fromtimestamp(when, datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"
