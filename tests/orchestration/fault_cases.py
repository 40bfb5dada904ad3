"""A tiny real sweep as a subprocess, to be killed in the middle."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil
import pytest

from vesselflow.evaluation.answer import read_answer
from vesselflow.records.paths import AnyPath

SPACE = """
name: tiny
question: Does the sweep survive?
stores:
  a: synth:fundus?domain=a&sources=6&seed=0&size_px=96
  b: synth:fundus?domain=b&sources=2&seed=1&size_px=96
data: {train: a, ood: [b], working_size_px: 96}
split: {folds: 3, val_fraction: 0.3}
folds: [0]
seeds: [0, 1]
augment: {hflip: {}, affine: {}, color_jitter: {}}
model: {name: wnet, dropout: 0.1}
schedule: {name: cosine}
train:
  epochs: 3
  steps_per_epoch: 10
  micro_batch_size: 2
  micro_batches_per_step: 2
  ema: 0.9
  checkpoint_every_s: 0.3
score: {epochs: all}
grid: {loss.beta: [0.25, 0.75]}
"""


def write_space(folder: Path) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(SPACE)
    return path


def start(
    space: Path,
    results: Path | str,
    *more: str,
    env: Mapping[str, str] | None = None,
    python: Sequence[str] = ("-m", "vesselflow"),
) -> subprocess.Popen[str]:
    command = [sys.executable, *python, "sweep", str(space), "--results", str(results)]
    return subprocess.Popen(
        [*command, "--no-figures", *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "VESSELFLOW_DASHBOARD": "0", **(env or {})},
    )


def finish(driver: subprocess.Popen[str], timeout_s: float = 240) -> str:
    """The driver's output; its exit code must be 0."""
    output, _ = driver.communicate(timeout=timeout_s)
    assert driver.returncode == 0, output
    return output


def lines_until(driver: subprocess.Popen[str], word: str) -> list[str]:
    """The driver's lines, up to one that has a word in it."""
    assert driver.stdout is not None
    found: list[str] = []
    for line in driver.stdout:
        found.append(line)
        if word in line:
            return found
    raise AssertionError("".join(found))


def wait_for_checkpoint(
    results: Path, driver: subprocess.Popen[str], timeout_s: float = 150
) -> None:
    """Until some run has a checkpoint: from here on there is something to lose."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if any(results.glob("runs/*/attempts/*/checkpoints/*")):
            return
        assert driver.poll() is None, driver.communicate()[0]
        time.sleep(0.05)
    raise AssertionError("no checkpoint was written")


def kill_driver(driver: subprocess.Popen[str]) -> None:
    driver.kill()
    driver.communicate()


def slot_workers(driver: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes in which slots train, by their numbers."""
    found = []
    for process in psutil.Process(driver.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            title = " ".join(process.cmdline())
            if "SlotWorker" in title or "RayTrainWorker" in title:
                found.append(process)
    return sorted(found, key=lambda process: process.pid)


def kill_slot_worker(driver: subprocess.Popen[str], which: int = 0) -> None:
    """SIGKILL one process in which a slot trains."""
    slot_workers(driver)[which].kill()


def attempts(results: Path) -> dict[str, int]:
    """Run -> how many attempts it took."""
    # A run that was only just claimed has no attempt yet.
    return {
        folder.parent.name: len(list(folder.iterdir()))
        for folder in sorted((results / "runs").glob("[!.]*/attempts"))
    }


def wait_until(true: Callable[[], bool], driver: subprocess.Popen[str], timeout_s: float) -> float:
    """Seconds until something holds; fails when the driver ends, or the time is over."""
    began = time.monotonic()
    while not true():
        assert driver.poll() is None, driver.communicate()[0]
        assert time.monotonic() - began < timeout_s
        time.sleep(0.05)
    return time.monotonic() - began


def tables(results: AnyPath) -> dict[str, bytes | None]:
    found = read_answer(results / "tiny")
    assert None not in found.values(), found
    return found


def breakable_disk(folder: Path, below: Path, flag: Path, code: int) -> dict[str, str]:
    """Environment in which writing below a folder fails with an error while a file is there."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to make a disk that fails")
    library = folder / "broken_disk.so"
    source = Path(__file__).with_name("broken_disk.c")
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True)
    return {
        "LD_PRELOAD": str(library),
        "BROKEN_DISK": str(below),
        "BROKEN_DISK_FLAG": str(flag),
        "BROKEN_DISK_ERRNO": str(code),
    }


_ACTORS = """
import json, ray, sys
ray.init(address=sys.argv[1], log_to_driver=False)
nodes = {entry["NodeID"]: sorted(entry["Resources"]) for entry in ray.nodes()}
places = {}
for actor in ray._private.state.actors().values():
    places.setdefault(actor["ActorClassName"], []).append(actor["Address"]["NodeID"])
print(json.dumps([nodes, places]))
"""


def where_actors_are(address: str) -> tuple[dict[str, list[str]], dict[str, set[str]]]:
    """A cluster's nodes with their resources, and the nodes of its actors by class.

    Asked in a process of its own: this one may be connected to another Ray.
    """
    done = subprocess.run(
        [sys.executable, "-c", _ACTORS, address], capture_output=True, text=True, check=True
    )
    nodes, places = json.loads(done.stdout.splitlines()[-1])
    return nodes, {name: set(where) for name, where in places.items()}
