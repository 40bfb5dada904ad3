"""Bucket: results in a bucket beside results in a folder: a start over finished runs, and a run."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from vesselflow.bench.bucket_proxy import BucketProxy
from vesselflow.bench.commands import spread
from vesselflow.bench.start import fabricate, measure
from vesselflow.errors import UserError, VesselflowError
from vesselflow.records.paths import BucketPath, any_path

#: Finished runs of the start, and runs of the sweep that is trained.
RUNS, TRAINED = 1000, 24
#: Seconds that each request takes longer than the service on this machine needs.
LATENCY_S = 0.005
#: What this bench holds the project to.
MOST_START_S, MOST_RUN_S = 20.0, 1.0
#: Seconds until the service must answer, and until a sweep must have ended.
SERVICE_S, SWEEP_S = 60.0, 600.0
_UPLOADS = 32
_SLOTS = 2

_SPACE = """\
name: small
stores:
  a: synth:fundus?domain=a&sources=6&seed=0&size_px=64
data: {{train: a, working_size_px: 64}}
split: {{folds: 3, val_fraction: 0.3}}
folds: [0]
seeds: [{seeds}]
model: {{name: wnet}}
train: {{epochs: 2, steps_per_epoch: 2, micro_batch_size: 2}}
resources: {{slots: {slots}, threads: 1}}
"""


def bucket(
    rounds: int = 3,
    progress: Callable[[str], None] | None = None,
    *,
    runs: int = RUNS,
    trained: int = TRAINED,
) -> dict[str, Any]:
    """Measure what a bucket costs: a second start over finished runs, and a run that is trained.

    The bucket is that of moto's server on this machine, behind a proxy that makes each request
    `LATENCY_S` later; its own time is part of what is measured. Two starts: with what the first one
    left in this machine's cache, and on a machine without a cache. A run's seconds are those of a
    whole sweep by the number of its runs and slots; those of a folder are taken away.

    Args:
        rounds: How often each is measured, at least 1.
        progress: Called with a line of text as the bench goes on.
        runs: Finished runs of the start.
        trained: Runs of the sweep that is trained.

    Returns:
        As of `bench.overhead.overhead`.

    Raises:
        UserError: moto is not installed.
        VesselflowError: A command ended with an error.
    """
    say = progress or (lambda text: None)
    cached, bare = "start, this machine's cache", "start, an empty cache"
    folder_run, bucket_run = "seconds per run, folder", "seconds per run, bucket"
    found: dict[str, list[float]] = {cached: [], bare: [], folder_run: [], bucket_run: []}
    with (
        tempfile.TemporaryDirectory(prefix="vf-bench-") as name,
        _service() as server,
        BucketProxy(server, LATENCY_S) as proxy,
    ):
        base = Path(name)
        os.environ |= {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}
        say(f"making {runs} finished runs up")
        fabricate(base / "many", runs)
        root = _make_bucket(server)
        upload(base / "many" / "results", root / "results", say)
        address = str(root / "results").replace(server, proxy.address)
        with _cache(base / "cache"):
            # Its stores, which a finished sweep opens too.
            shutil.copytree(base / "many" / "results" / "stores", base / "cache" / "stores")
            say("making the index")
            measure("first start", base / "many", address)
        for number in range(1, rounds + 1):
            say(f"round {number} of {rounds}, starts")
            with _cache(base / "cache"):
                found[cached].append(_start(base / "many", address, runs))
            with _cache(base / f"cache-{number}"):
                stores = base / "many" / "results" / "stores"
                shutil.copytree(stores, base / f"cache-{number}" / "stores")
                found[bare].append(_start(base / "many", address, runs))
            for label, results in (
                (folder_run, str(base / f"local-{number}")),
                (bucket_run, str(any_path(address).parent / f"trained-{number}")),
            ):
                say(f"round {number} of {rounds}, {label}")
                with _cache(base / "cache"):
                    found[label].append(_sweep(base, results, trained))
    return summarise(found, runs, trained)


def summarise(found: dict[str, list[float]], runs: int, trained: int) -> dict[str, Any]:
    """Turn seconds by peer (see `bucket`) into the result."""
    names = list(found)
    settings = {
        "runs": runs,
        "trained": f"{trained} of 2 epochs on {_SLOTS} slots",
        "bucket": f"moto on this machine, {1000 * LATENCY_S:g} ms later",
    }
    more = [slow - quick for quick, slow in zip(found[names[2]], found[names[3]], strict=True)]
    ratios = [slow / quick for quick, slow in zip(found[names[2]], found[names[3]], strict=True)]
    figures = (
        (f"seconds of a second start over {runs} finished runs", found[names[0]], MOST_START_S),
        ("seconds of a run in a bucket above a folder", more, MOST_RUN_S),
    )
    return {
        "name": "bucket",
        "peers": {
            name: {**spread(values), "n": len(values), "unit": "s", "settings": settings}
            for name, values in found.items()
        },
        "ratios": {"a run in a bucket / in a folder": spread(ratios)},
        "targets": [
            {
                "what": what,
                "value": statistics.median(values),
                "target": f"< {most:g}",
                "met": statistics.median(values) < most,
            }
            for what, values, most in figures
        ],
        "runs": {name: list(values) for name, values in found.items()},
    }


def upload(folder: Path, to: BucketPath, say: Callable[[str], None]) -> None:
    """Put a folder into a bucket, many files at once."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    say(f"putting {len(files)} files into the bucket")

    def put(path: Path) -> None:
        key = (to / path.relative_to(folder).as_posix()).key
        to.bucket.put(key, path.read_bytes())

    with ThreadPoolExecutor(_UPLOADS) as pool:
        for _ in pool.map(put, files):
            pass


def _start(folder: Path, address: str, runs: int) -> float:
    row = measure("start", folder, address)
    if row["runs"] != runs:
        raise VesselflowError(f"only {row['runs']:g} of {runs} runs were found finished")
    return row["answer_s"]


def _sweep(base: Path, results: str, trained: int) -> float:
    """Seconds of a slot for each run of a sweep, its beginning and its end left out."""
    space = base / "small.yaml"
    seeds = ", ".join(map(str, range(trained)))
    space.write_text(_SPACE.format(seeds=seeds, slots=_SLOTS), encoding="utf-8")
    code = (
        "import sys, time; from vesselflow import load_space, plan_sweep, run_sweep;"
        "from vesselflow.sweeps.events import Finished;"
        "from vesselflow.sweeps.outcome import Watch;"
        "ends = [];"
        "watch = Watch(event=lambda e: isinstance(e, Finished) and ends.append(time.monotonic()));"
        "outcome = run_sweep(plan_sweep(load_space(sys.argv[1]), sys.argv[2]), watch=watch);"
        "assert not outcome.failures, outcome.failures;"
        "print('seconds', ends[-1] - ends[0], len(ends), flush=True)"
    )
    command = [sys.executable, "-c", code, str(space), results]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=SWEEP_S,
        env={**os.environ, "VESSELFLOW_DASHBOARD": "0"},
    )
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("seconds ")]
    if done.returncode or not lines:
        raise VesselflowError(f"a sweep ended with {done.returncode}: {done.stderr[-300:]}")
    _, seconds, ended = lines[-1]
    # The first of them ended when the clock began.
    return float(seconds) * _SLOTS / (int(ended) - 1)


@contextlib.contextmanager
def _cache(folder: Path) -> Iterator[None]:
    before = os.environ.get("VESSELFLOW_CACHE")
    os.environ["VESSELFLOW_CACHE"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("VESSELFLOW_CACHE")
        if before is not None:
            os.environ["VESSELFLOW_CACHE"] = before


def _make_bucket(server: str) -> BucketPath:
    name = f"vessels-{secrets.token_hex(4)}"
    request = urllib.request.Request(f"{server}/{name}", method="PUT")
    with urllib.request.urlopen(request, timeout=SERVICE_S):
        pass
    root = any_path(f"s3://{name}?endpoint_override={server}")
    assert isinstance(root, BucketPath)
    return root


@contextlib.contextmanager
def _service() -> Iterator[str]:
    """Moto's server in a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + SERVICE_S
    try:
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(address, timeout=1).close()
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise UserError(
                    "moto's server does not start",
                    where="vesselflow bench bucket",
                    hint="install it: pip install 'moto[s3]' flask flask-cors",
                )
            time.sleep(0.2)
        yield address
    finally:
        process.kill()
        process.wait()
