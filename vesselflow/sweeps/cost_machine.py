"""What a machine is to whoever pays for it: its kind, its market, a slot's share of it.

The cluster files set `VARIABLE` on each machine. Where it is not set, the metadata service of the
cloud that the machine says it is in is asked once. A machine of nobody's cloud is "local".
"""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

#: ``cloud:type:market``, such as ``aws:m5.2xlarge:spot``.
VARIABLE = "VESSELFLOW_MACHINE"
MARKETS = ("spot", "on-demand", "own")
LOCAL = "local"
#: Where a machine says who made it.
DMI = Path("/sys/class/dmi/id")
#: Seconds that one answer of a metadata service may take.
ANSWER_S = 1.0
#: Variables that name another metadata service, as the clouds' own libraries read them.
AWS_ENDPOINT, GCP_ENDPOINT = "AWS_EC2_METADATA_SERVICE_ENDPOINT", "GCE_METADATA_HOST"


@dataclass(frozen=True)
class MachineKind:
    """What is paid for.

    Attributes:
        name: ``cloud:type``, "local", or whatever `VARIABLE` says.
        market: One of `MARKETS`.
    """

    name: str
    market: str

    def __str__(self) -> str:
        return self.name if self.market == "own" else f"{self.name}:{self.market}"

    @classmethod
    def read(cls, text: str) -> MachineKind:
        """Read `VARIABLE`; what has no market is one's own.

        A text that is none of ours is kept as a name: it has no price, and the cost says so.
        """
        name, _, market = text.strip().rpartition(":")
        if name and market in MARKETS:
            return cls(name, market)
        return cls(text.strip() or LOCAL, "own")


@dataclass(frozen=True)
class Seat:
    """Where a slot sits.

    Attributes:
        machine: Of which kind its machine is.
        share: Its part of that machine: of the CPUs, or of the GPUs where that is more; above 1
            where its workers fill several machines of the kind.
    """

    machine: MachineKind = MachineKind(LOCAL, "own")
    share: float = 1.0

    def plain(self) -> dict[str, str | float]:
        """As it stands with the cost of an attempt."""
        return {
            "machine": self.machine.name,
            "market": self.machine.market,
            "share": self.share,
        }


def share_of(
    workers: int, threads: int, gpu: float, *, machine_cpus: float, machine_gpus: float
) -> float:
    """A slot's part of its machine.

    Args:
        workers: Of the slot.
        threads: CPUs that each of them owns.
        gpu: GPUs that each of them owns.
        machine_cpus: Of one machine.
        machine_gpus: Of one machine; 0 where nobody asks for any.
    """
    by_cpu = workers * threads / machine_cpus if machine_cpus > 0 else 1.0
    by_gpu = workers * gpu / machine_gpus if machine_gpus > 0 else 0.0
    return max(by_cpu, by_gpu)


#: (method, url, headers) -> the answer's text; OSError or ValueError without one.
Ask = Callable[[str, str, Mapping[str, str]], str]


def machine_kind(
    environ: Mapping[str, str] = os.environ, *, dmi: Path = DMI, ask: Ask | None = None
) -> MachineKind:
    """What this machine is.

    A metadata service that answers nothing or rubbish makes it "local": it then has no price, and
    the cost says so.

    Args:
        environ: Where `VARIABLE` and the endpoints are looked up.
        dmi: Where the machine says who made it.
        ask: Asks a metadata service.
    """
    if text := environ.get(VARIABLE, "").strip():
        return MachineKind.read(text)
    ask = ask or _ask
    maker = f"{_word(dmi / 'sys_vendor')} {_word(dmi / 'product_name')}"
    for hint, endpoint, look in (
        ("Amazon", environ.get(AWS_ENDPOINT), _aws),
        ("Google", environ.get(GCP_ENDPOINT), _gcp),
    ):
        if endpoint or hint in maker:
            try:
                return look(endpoint or "", ask)
            except (OSError, ValueError):
                continue
    return MachineKind(LOCAL, "own")


def _aws(endpoint: str, ask: Ask) -> MachineKind:
    base = (endpoint or "http://169.254.169.254").rstrip("/")
    lasts = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    token = {"X-aws-ec2-metadata-token": ask("PUT", f"{base}/latest/api/token", lasts)}
    kind = _plain(ask("GET", f"{base}/latest/meta-data/instance-type", token))
    life = _plain(ask("GET", f"{base}/latest/meta-data/instance-life-cycle", token))
    return MachineKind(f"aws:{kind}", "spot" if life == "spot" else "on-demand")


def _gcp(endpoint: str, ask: Ask) -> MachineKind:
    base = f"http://{endpoint or 'metadata.google.internal'}/computeMetadata/v1/instance"
    flavour = {"Metadata-Flavor": "Google"}
    kind = _plain(ask("GET", f"{base}/machine-type", flavour)).rpartition("/")[2]
    spot = json.loads(ask("GET", f"{base}/scheduling/preemptible", flavour).lower())
    return MachineKind(f"gcp:{_plain(kind)}", "spot" if spot is True else "on-demand")


def _plain(text: str) -> str:
    """One short word, as a type of machine is; ValueError for what a proxy may say instead."""
    word = text.strip()
    if not word or len(word) > 80 or not all(c.isalnum() or c in ".-_/" for c in word):
        raise ValueError(f"{text[:40]!r} is no type of machine")
    return word


def _ask(method: str, url: str, headers: Mapping[str, str]) -> str:
    request = urllib.request.Request(url, method=method, headers=dict(headers))
    # No proxy knows this machine's own address.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=ANSWER_S) as answer:
        return str(answer.read(4096).decode("ascii", errors="replace"))


def _word(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
