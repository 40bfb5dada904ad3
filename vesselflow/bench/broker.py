"""The broker under load: many simulated slots that claim, beat and finish, and train nothing."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import ray

from vesselflow.bench.commands import row, target
from vesselflow.orchestration.broker import Broker
from vesselflow.records.drivers import Driver
from vesselflow.sweeps.book import Entry, Place

#: Slots and runs of the bench, and seconds for which it is measured.
SLOTS, RUNS, SECONDS = 1000, 100_000, 30.0
#: Seconds that a simulated run takes: uniform between these.
RUN_S = (5.0, 15.0)
#: Bytes of a run's payload: what a shipped space's job takes, compressed.
PAYLOAD_B = 2500
#: Processes that the simulated slots share.
CLIENTS = 2
MOST_CLAIM_S, MOST_BYTES = 0.05, 2**30


def broker(
    rounds: int = 1,
    progress: Callable[[str], None] | None = None,
    *,
    slots: int = SLOTS,
    runs: int = RUNS,
    seconds: float = SECONDS,
) -> dict[str, Any]:
    """Measure how long a claim waits for its answer, and what the broker holds in memory.

    The broker is the shipped actor, with real leases in a temporary results folder. Each simulated
    slot arrives, claims, beats as often as it is told to, and finishes after 5 to 15 seconds; all
    slots of a client share a process and talk to the broker as slots do. A claim is counted when
    there was a run to give: from the call to its answer in the client.

    Args:
        rounds: How often, at least 1.
        progress: Called with a line of text as the bench goes on.
        slots: Simulated slots.
        runs: Runs in the queue.
        seconds: How long each round lasts, after all slots have their first run.

    Returns:
        As `overhead`: ``peers`` with the claims' p50 and p99, the seconds to queue all runs and the
        broker's memory; ``targets``.
    """
    say = progress or (lambda text: None)
    found = [_measure(slots, runs, seconds, say) for _ in range(rounds)]

    settings = {"slots": slots, "runs": runs, "seconds": seconds}

    def row_of(name: str, unit: str) -> dict[str, Any]:
        return row([entry[name] for entry in found], unit, settings)

    claim, memory = row_of("claim_p99_s", "s"), row_of("memory_bytes", "bytes")
    return {
        "name": "broker",
        "peers": {
            "claim, p50": row_of("claim_p50_s", "s"),
            "claim, p99": claim,
            "claims": row_of("claims", "calls"),
            "beats": row_of("beats", "calls"),
            f"{runs} runs queued": row_of("submit_s", "s"),
            "memory of the broker": memory,
        },
        "ratios": {},
        "targets": [
            target(f"claim, p99 with {slots} slots", claim["median"], MOST_CLAIM_S, " s"),
            target(f"memory with {runs} runs", memory["median"], MOST_BYTES, " bytes"),
        ],
    }


class _Client:
    """Some simulated slots in one process."""

    async def serve(
        self, broker: Any, numbers: list[int], warm: float, seconds: float
    ) -> dict[str, Any]:
        self._claims: list[float] = []
        self._beats = 0
        self._from = time.monotonic() + warm
        end = self._from + seconds
        await asyncio.gather(*(self._slot(broker, f"slot-{number}", end) for number in numbers))
        return {"claims": self._claims, "beats": self._beats}

    async def _slot(self, broker: Any, name: str, end: float) -> None:
        chance = random.Random(name)
        # Not all in the same moment: processes start one after another.
        await asyncio.sleep(chance.uniform(0, 5))
        arrival = await broker.arrive.remote(name, (Place("node", 1, "bench"),))
        while time.monotonic() < end:
            began = time.monotonic()
            order = await broker.claim.remote(name, arrival)
            if order.grant is None:
                continue
            if began > self._from:
                self._claims.append(time.monotonic() - began)
            grant = order.grant
            over, step = time.monotonic() + chance.uniform(*RUN_S), 0
            while time.monotonic() < min(over, end):
                step += 1
                place = ("training", 1, step, 1000)
                _, wait = await broker.beat.remote(name, arrival, grant.number, place)
                self._beats += time.monotonic() > self._from
                await asyncio.sleep(wait)
            await broker.finish.remote(name, grant.number, grant.run_id, {"p": 0.5}, {})


def _measure(slots: int, runs: int, seconds: float, say: Callable[[str], None]) -> dict[str, float]:
    ray.init(
        address="local",
        num_cpus=len(os.sched_getaffinity(0)),
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    try:
        with tempfile.TemporaryDirectory(prefix="vf-bench-", ignore_cleanup_errors=True) as name:
            (Path(name) / "runs").mkdir()
            return _load(Path(name), slots, runs, seconds, say)
    finally:
        ray.shutdown()


def _load(
    results: Path, slots: int, runs: int, seconds: float, say: Callable[[str], None]
) -> dict[str, float]:
    process = psutil.Process()
    owner = {"pid": process.pid, "started": process.create_time()}
    driver = Driver.begin(results, {"host": socket.gethostname(), **owner})
    actor = (
        ray.remote(Broker)
        .options(num_cpus=0, max_concurrency=100_000)
        .remote(str(results), driver, 2, "val/x")
    )
    noise = random.Random(0)
    payload = zlib.compress(noise.randbytes(PAYLOAD_B))
    say(f"queueing {runs} runs")
    began = time.perf_counter()
    for first in range(0, runs, 1000):
        entries = [
            Entry(
                f"{number:020x}",
                f"point {number // 10} fold 0 seed {number % 10}",
                bytes(payload) + number.to_bytes(4, "big"),
                (f"point {number // 10}",),
                5,
                1000,
            )
            for number in range(first, min(runs, first + 1000))
        ]
        ray.get(actor.submit.remote(entries, {}))
    submitted = time.perf_counter() - began
    say(f"{slots} slots at work for {seconds:g} s")
    clients = [
        ray.remote(_Client).options(num_cpus=0, max_concurrency=4).remote() for _ in range(CLIENTS)
    ]
    warm = 10.0
    found = ray.get(
        [
            client.serve.remote(actor, list(range(number, slots, CLIENTS)), warm, seconds)
            for number, client in enumerate(clients)
        ]
    )
    claims = sorted(value for entry in found for value in entry["claims"])
    memory = ray.get(actor.memory.remote())
    return {
        "claim_p50_s": claims[len(claims) // 2],
        "claim_p99_s": claims[int(len(claims) * 0.99)],
        "claims": float(len(claims)),
        "beats": float(sum(entry["beats"] for entry in found)),
        "submit_s": submitted,
        "memory_bytes": float(memory),
    }
