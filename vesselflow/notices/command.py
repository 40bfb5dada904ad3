"""``python -m vesselflow.notices watch``: what is watched, and which node is drained."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from vesselflow.errors import UserError
from vesselflow.notices.company import Company
from vesselflow.notices.draining import Command, Draining
from vesselflow.notices.plain_http import Endpoint
from vesselflow.notices.sources import AWS, GCP, AwsMetadata, GcpMetadata, Notice, Source, WallTime
from vesselflow.notices.watcher import EVERY_S, Watcher

#: Seconds before a queue's limit from which on it counts as a notice, and those that a SIGTERM
#: leaves (Slurm, Google Cloud and most services kill 30 s after it).
LEAD_S, GRACE_S = 120.0, 30.0
#: Where the clouds' own tools are told of another metadata service.
ENDPOINTS = {"aws": "AWS_EC2_METADATA_SERVICE_ENDPOINT", "gcp": "GCE_METADATA_HOST"}
#: What drains a node.
DRAIN = (sys.executable, "-m", "vesselflow.notices.ray_drain")
#: Where Slurm says when a job ends, in Unix time.
SLURM_END = "SLURM_JOB_END_TIME"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message.removeprefix("argument "), hint=f"see '{self.prog} --help'")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = _Parser(
        prog="python -m vesselflow.notices watch",
        description="Drain this machine's Ray node when the machine is to go.",
        epilog="SIGTERM is a notice, too; Ctrl-C (SIGINT) and SIGHUP end the watcher alone.",
    )
    made.add_argument("action", choices=["watch"])
    made.add_argument("--cloud", choices=["aws", "gcp", "none"], required=True)
    made.add_argument("--endpoint", metavar="URL", help="another metadata service")
    made.add_argument("--deadline", metavar="UNIX_TIME", type=float, help="the machine goes then")
    made.add_argument(
        "--lead",
        metavar="SECONDS",
        type=float,
        default=LEAD_S,
        help=f"drain so long before the deadline (default: {LEAD_S:g})",
    )
    made.add_argument(
        "--grace",
        metavar="SECONDS",
        type=float,
        default=GRACE_S,
        help=f"how long the machine lives on after SIGTERM (default: {GRACE_S:g})",
    )
    made.add_argument(
        "--rebalance",
        choices=["log", "drain"],
        default="log",
        help="what a forecast of AWS does: only a line (default), or a drain without a deadline",
    )
    made.add_argument(
        "--leave-with-ray",
        action="store_true",
        help="end when Ray has left this machine: for one that outlives its cluster",
    )
    which = made.add_mutually_exclusive_group()
    which.add_argument("--node-id", metavar="HEX", help="Ray's id of the node")
    which.add_argument("--node-ip", metavar="IP", help="its address; default: of this machine")
    made.add_argument("--address", metavar="HOST:PORT", help="of the cluster; default: found here")
    made.add_argument(
        "--every", metavar="SECONDS", type=float, default=EVERY_S, help="between two questions"
    )
    return made


def main(words: Sequence[str]) -> int:
    """Watch until a signal; 0 then.

    Raises:
        UserError: An option is wrong.
    """
    given = parser().parse_args(words)
    for name in ("lead", "grace", "every"):
        if not 0 < getattr(given, name) < 1e6:
            raise UserError(f"'{getattr(given, name):g}' is no time", where=f"--{name}")
    command = [*DRAIN]
    for name in ("address", "node_id", "node_ip"):
        if value := getattr(given, name):
            command += [f"--{name.replace('_', '-')}", value]
    draining = Draining(Command(command), say)
    watcher = Watcher(
        sources(given, os.environ),
        draining,
        say,
        rebalance=given.rebalance == "drain",
        every_s=given.every,
    )
    return _loop(watcher, draining, given.grace, Company() if given.leave_with_ray else None)


def sources(given: argparse.Namespace, environment: Mapping[str, str]) -> list[Source]:
    """Who is asked, by the options and the environment.

    Raises:
        UserError: An address or a time is none.
    """
    found: list[Source] = []
    if given.cloud == "none" and given.endpoint:
        raise UserError("there is nobody to ask", where="--endpoint", hint="name a --cloud")
    if given.cloud == "aws":
        found.append(AwsMetadata(_endpoint(given, environment, AWS)))
    if given.cloud == "gcp":
        found.append(GcpMetadata(_endpoint(given, environment, GCP)))
    if given.deadline is not None:
        if not 0 < given.deadline - time.time() < 1e8:
            raise UserError(
                f"'{given.deadline:.0f}' is not in the future",
                where="--deadline",
                allowed="seconds since 1970",
            )
        found.append(WallTime(given.deadline, given.lead))
    elif SLURM_END in environment:
        text = environment[SLURM_END]
        if text.isdecimal() and 0 < int(text) - time.time() < 1e8:
            found.append(WallTime(float(text), given.lead))
        else:
            say(f"{SLURM_END}={text} is no time to come: no wall-time limit is watched")
    return found


def say(text: str) -> None:
    """One event, one line, with its time."""
    line = " ".join(text.split())
    print(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {line}", flush=True)


def _endpoint(
    given: argparse.Namespace, environment: Mapping[str, str], usual: Endpoint
) -> Endpoint:
    variable = ENDPOINTS[given.cloud]
    text, where = given.endpoint, "--endpoint"
    if not text:
        text, where = environment.get(variable), variable
    if not text:
        return usual
    try:
        return Endpoint.parse(text)
    except ValueError as error:
        raise UserError(
            f"'{text}' is no address: {error}", where=where, allowed="http://HOST[:PORT]"
        ) from None


def _loop(watcher: Watcher, draining: Draining, grace_s: float, company: Company | None) -> int:
    """Turn after turn until a signal, or until the company has left."""
    import threading

    heard: list[int] = []
    news = threading.Event()

    def hear(number: int, frame: Any) -> None:
        heard.append(number)
        news.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, hear)
    say(f"watching, process {os.getpid()}")
    ends: float | None = None
    while True:
        wait = watcher.turn()
        over = draining.done or draining.absent
        if ends is not None and (over or time.monotonic() > ends):
            break
        news.wait(min(wait, 0.2) if ends is not None else wait)
        news.clear()
        if any(number != signal.SIGTERM for number in heard):
            break
        if company is not None and company.gone():
            say("Ray has left this machine")
            break
        if heard and ends is None:
            ends = time.monotonic() + grace_s
            watcher.take(Notice("sigterm", "SIGTERM", grace_s))
        heard.clear()
    draining.end()
    say("ended" if draining.done or ends is None else "ended; the node is not drained")
    return 0
