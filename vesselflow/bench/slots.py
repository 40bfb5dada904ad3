"""Slots: what they cost beside their workers, in processes and in memory."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from vesselflow.bench.commands import row, target

SLOTS = 16
MOST_PROCESSES, MOST_BYTES = 1.2, 150e6


def slots(
    rounds: int = 1,
    progress: Callable[[str], None] | None = None,
    *,
    count: int = SLOTS,
) -> dict[str, Any]:
    """Measure processes and private memory of one against many slots of one worker.

    The shipped slots are started on a Ray that is told of `count` CPUs; they idle, with all
    imported that a run needs. The cost of a slot is the difference between `count` slots and one,
    without the workers themselves, divided by `count` - 1.

    Args:
        rounds: How often, at least 1.
        progress: Called with a line of text as the bench goes on.
        count: Slots, at least 2.

    Returns:
        As `overhead`; memory is what processes hold by themselves (USS).
    """
    say = progress or (lambda text: None)
    processes, memory, workers = [], [], []
    for _ in range(rounds):
        say(f"1 slot, then {count}")
        few, many = _measure([1, count])
        processes.append((many["processes"] - few["processes"]) / (count - 1))
        memory.append((many["bytes"] - few["bytes"]) / (count - 1))
        workers.append(many["worker_bytes"])
    settings = {"slots": count, "workers per slot": 1}
    rows = {
        "processes of a slot beside its worker": row(processes, "processes", settings),
        "memory of a slot beside its worker": row(memory, "bytes", settings),
        "memory of a worker": row(workers, "bytes", settings),
    }
    return {
        "name": "slots",
        "peers": rows,
        "ratios": {},
        "targets": [
            target(
                "processes of a slot beyond its worker",
                rows["processes of a slot beside its worker"]["median"],
                MOST_PROCESSES,
            ),
            target(
                "memory of a slot beyond its worker",
                rows["memory of a slot beside its worker"]["median"],
                MOST_BYTES,
                " bytes",
            ),
        ],
    }


def _measure(counts: list[int]) -> list[dict[str, float]]:
    """Start ever more slots on one Ray and weigh all processes each time."""
    import ray

    from vesselflow.orchestration.broker import Broker
    from vesselflow.orchestration.serving import SlotConfig
    from vesselflow.orchestration.slots import Slots, starter
    from vesselflow.records.drivers import Driver
    from vesselflow.sweeps.capacity import Node, make_plan

    most = max(counts)
    ray.init(
        address="local",
        num_cpus=most,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        namespace="bench",
    )
    found = []
    try:
        with tempfile.TemporaryDirectory(prefix="vf-bench-") as name:
            process = psutil.Process()
            driver = Driver.begin(name, {"pid": process.pid, "started": process.create_time()})
            actor = (
                ray.remote(Broker)
                .options(name="broker", num_cpus=0, max_concurrency=1000)
                .remote(name, driver, 2, "val/x")
            )
            ray.get(actor.provide.remote({}))
            plan = make_plan(
                [Node(float(most))],
                slots=(most, most),
                workers=1,
                threads=1,
                gpu=0.0,
                runs=most,
                runs_per_point=1,
                micro_batches_per_step=1,
            )
            config = SlotConfig("", "broker", "bench", name, 1, 0.0, driver.token)
            kept = Slots(
                start=starter(plan, config, Path(name) / "train"),
                lose=lambda slot, gone: None,
                starting=lambda slot, note: None,
                say=lambda text: None,
            )
            for count in counts:
                kept.reconcile(count)
                _until_idle(actor, count)
                found.append(_weigh(process))
    finally:
        ray.shutdown()
    return found


def _until_idle(actor: Any, count: int) -> None:
    import ray

    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        views = ray.get(actor.look.remote(0)).slots
        if sum(view.phase == "idle" for view in views) >= count:
            time.sleep(10)  # What was started besides has settled down.
            return
        time.sleep(0.5)
    raise TimeoutError(f"{count} slots did not come up")


def _weigh(process: psutil.Process) -> dict[str, float]:
    """Processes and private bytes of all but the workers, and of one worker."""
    held, workers, count = 0.0, [], 0
    for child in [process, *process.children(recursive=True)]:
        try:
            title = " ".join(child.cmdline())
            own = float(child.memory_full_info().uss)
        except psutil.Error:
            continue
        if "SlotWorker" in title:
            workers.append(own)
        elif "ray::IDLE" not in title and child.pid != os.getpid():
            # Idle workers are Ray's reserve, which it lets go by itself.
            held += own
            count += 1
    return {
        "processes": float(count),
        "bytes": held,
        "worker_bytes": max(workers, default=0.0),
    }
