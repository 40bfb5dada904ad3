"""Start: the command over a sweep of which every run is finished, with the index and without."""

from __future__ import annotations

import contextlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vesselflow.bench.commands import spread
from vesselflow.errors import VesselflowError

if TYPE_CHECKING:
    from vesselflow.config.space import Space
    from vesselflow.runs.cells import Cell

WARM, COLD, WITHOUT = "with the index", "index is missing", "without an index"
RUNS = 10_000
#: Runs of the way without an index, whose seconds are multiplied: it reads each file of each run.
FEW = 500
EPOCHS, SEEDS, SOURCES = 5, 5, 20
#: What this bench holds the project to, for `RUNS` runs.
MOST_START_S, MOST_ANSWER_S, MOST_MIB = 10.0, 20.0, 1024.0
#: Seconds after which a peer that has not ended is given up.
LIMIT_S = 1200
#: Different files of scores for each domain, and different runs: a file has at most 65,000 names.
_KINDS = 64

_SPACE = """\
name: start
stores:
  a: synth:fundus?domain=a&sources={train}&seed=0&size_px=64
  b: synth:fundus?domain=b&sources={sources}&seed=0&size_px=64
data: {{train: a, ood: [b], working_size_px: 64}}
split: {{folds: 5, val_fraction: 0.25}}
folds: [0]
seeds: [{seeds}]
model: {{name: wnet}}
train: {{epochs: {epochs}, steps_per_epoch: 4, micro_batch_size: 2}}
score: {{epochs: {{every: 1}}}}
grid:
  loss.beta: [{betas}]
"""

#: What the command says when it knows what is left to do.
_DONE = re.compile(r"(?P<done>\d+) already done")

_SETTINGS = {
    "sweep": f"every run finished: {EPOCHS} epochs x 3 domains, {SOURCES} images each",
    "from": "the beginning of the process, imports included",
    "files": "in the page cache; equal ones are one file of many names",
}


def start(
    rounds: int = 3,
    progress: Callable[[str], None] | None = None,
    *,
    runs: int = RUNS,
    few: int = FEW,
) -> dict[str, Any]:
    """Measure the seconds from the command to its two answers, and the memory, over finished runs.

    The first answer is what is left to do (nothing); the second one, at the command's end, the
    tables, the answer table and the summary. The results folder is made up: files of the real
    format, in the system's temporary folder. The way without an index only reads every file of
    `few` runs; its seconds beyond imports are multiplied by ``runs / few`` and labelled so.

    Args:
        rounds: How often each is measured, at least 1; the making of the index is so once.
        progress: Called with a line of text as the bench goes on.
        runs: Finished runs, at least `SEEDS`.
        few: Runs of the way without an index, at most `runs`.

    Returns:
        As of `bench.overhead.overhead`; a peer for each way, answer and the memory.

    Raises:
        VesselflowError: A peer ended with an error, or the ways did not find the same.
    """
    say = progress or (lambda text: None)
    few = min(few, runs)
    found: dict[str, list[dict[str, float]]] = {WARM: [], COLD: [], WITHOUT: []}
    with tempfile.TemporaryDirectory(prefix="vf-bench-") as name:
        folder = Path(name)
        say(f"making {runs} finished runs up")
        fabricate(folder / "many", runs)
        fabricate(folder / "few", few)
        say("making the index")
        found[COLD].append(measure(COLD, folder / "many"))
        for number in range(1, rounds + 1):
            for peer in (WARM, WITHOUT):
                say(f"round {number} of {rounds}, {peer}")
                place = folder / ("few" if peer == WITHOUT else "many")
                found[peer].append(measure(peer, place))
    return summarise(found, runs, few)


def summarise(
    found: Mapping[str, Sequence[Mapping[str, float]]], runs: int, few: int
) -> dict[str, Any]:
    """Turn each way's measurements (see `measure`) into the result.

    Raises:
        VesselflowError: A way did not find every run finished.
    """
    for peer, rounds in found.items():
        wanted = few if peer == WITHOUT else runs
        if any(row["runs"] != wanted for row in rounds):
            raise VesselflowError(f"{peer}: not all of {wanted} runs were found finished")
    times = runs / few
    without = f"{WITHOUT} (x {times:g})" if times > 1 else WITHOUT
    rows = {**found, without: [_multiplied(row, times) for row in found[WITHOUT]]}
    if without != WITHOUT:
        del rows[WITHOUT]
    peers, ratios = {}, {}
    for label, rounds in rows.items():
        for what, key in (("start", "start_s"), ("answer", "answer_s"), ("memory", "mib")):
            if label == without and what == "memory":
                continue  # it was measured over fewer runs
            values = [row[key] for row in rounds]
            peers[f"{what}, {label}"] = {
                **spread(values),
                "n": len(values),
                "unit": "MiB" if what == "memory" else "s",
                "settings": {"runs": runs, **_SETTINGS},
            }
    for what in ("start_s", "answer_s"):
        pairs = zip(rows[WARM], rows[without], strict=True)
        name = f"{what.removesuffix('_s')}, {without} / {WARM}"
        ratios[name] = spread([slow[what] / quick[what] for quick, slow in pairs])
    warm = {key: statistics.median(row[key] for row in found[WARM]) for key in found[WARM][0]}
    limits = (("start_s", MOST_START_S), ("answer_s", MOST_ANSWER_S), ("mib", MOST_MIB))
    return {
        "name": "start",
        "peers": peers,
        "ratios": ratios,
        "targets": [
            {
                "what": f"{key} over {runs} runs, {WARM}",
                "value": warm[key],
                "target": f"< {most:g}",
                "met": warm[key] < most,
            }
            for key, most in limits
        ],
        "runs": {peer: list(rounds) for peer, rounds in found.items()},
    }


def _multiplied(row: Mapping[str, float], times: float) -> dict[str, float]:
    """A measurement over `times` as many runs: what comes after the imports grows with them."""
    begun = row["begun_s"]
    grown = {key: begun + times * (row[key] - begun) for key in ("start_s", "answer_s")}
    return {**row, **grown}


def load(folder: Path) -> Space:
    """The bench's space in a folder that `fabricate` made."""
    from vesselflow.config.loading import load_space
    from vesselflow.runs.registries import REGISTRIES

    return load_space(folder / "start.yaml", registries=REGISTRIES)


def fabricate(folder: Path, runs: int, *, sources: int = SOURCES, epochs: int = EPOCHS) -> None:
    """Make a results folder in which every run of the bench's space is finished and scored.

    Files are written by the records' own code, `_KINDS` of each sort, and linked under the names of
    all others.

    Args:
        folder: Made; holds ``start.yaml`` and ``results``.
        runs: How many; rounded down to a multiple of `SEEDS`.
        sources: Images of each domain.
        epochs: Scored epochs.
    """
    from vesselflow.sweeps.planning import prepare

    folder.mkdir(parents=True)
    points = runs // SEEDS
    (folder / "start.yaml").write_text(
        _SPACE.format(
            train=5 * sources,
            sources=sources,
            epochs=epochs,
            seeds=", ".join(map(str, range(SEEDS))),
            betas=", ".join(f"{number / (points + 1):.8f}" for number in range(1, points + 1)),
        ),
        encoding="utf-8",
    )
    prepared = prepare(load(folder), folder / "results")
    results = prepared.results
    assert isinstance(results, Path)
    facts = {
        name: [source.id for source in store.sources] for name, store in prepared.stores.items()
    }
    _make_runs(folder / "kinds", results, prepared.cells, epochs)
    _make_evaluations(folder / "kinds", results, prepared.cells, facts)


def _make_runs(kinds: Path, results: Path, cells: Sequence[Cell], epochs: int) -> None:
    from vesselflow.records.runs import RunRecord

    random = np.random.default_rng(0)
    for number in range(_KINDS):
        record = RunRecord(kinds, str(number))
        record.create("made: up\n", {"made": "up"})
        attempt = record.begin_attempt()
        for epoch in range(1, epochs + 1):
            values = dict(zip(("loss", "rate", "val/x", "val/y"), random.random(4), strict=True))
            attempt.write_rows(4 * epoch, [{"epoch": epoch, "step": 4 * epoch, **values}])
            record.keep_weights(epoch, b"made up")
        record.finish(attempt, {"steps": 4 * epochs, "skipped_steps": 0})
        attempt.write_cost({"wall_s": random.random(), "host": "made-up", "slot": "slot-1"})
    trees = [
        [(path, path.relative_to(record)) for path in sorted(record.rglob("*"))]
        for record in (kinds / "runs" / str(number) for number in range(_KINDS))
    ]
    for place, run_id in enumerate(dict.fromkeys(cell.run.run_id for cell in cells)):
        target = str(results / "runs" / run_id)
        os.makedirs(target)
        for path, name in trees[place % _KINDS]:
            if path.is_dir():
                os.mkdir(f"{target}/{name}")
            else:
                os.link(path, f"{target}/{name}")


def _make_evaluations(
    kinds: Path, results: Path, cells: Sequence[Cell], sources: Mapping[str, Sequence[str]]
) -> None:
    from vesselflow.evaluation.evaluated import POOLED, Evaluated, evaluation_path, write_evaluated
    from vesselflow.metrics import METRICS

    random = np.random.default_rng(1)
    files: dict[str, list[str]] = {}
    for domain in cells[0].domains:
        files[domain.digest] = []
        ids = [sources[domain.store][index] for index in domain.sources]
        names = [(source, metric) for source in (*ids, POOLED) for metric in METRICS.names()]
        for number in range(_KINDS):
            values = random.random(len(names)).tolist()
            rows = tuple((*name, value) for name, value in zip(names, values, strict=True))
            path = kinds / f"{domain.role}-{domain.name}-{number}.parquet"
            write_evaluated(path, Evaluated(float(random.random()), rows))
            files[domain.digest].append(str(path))
    (results / "evaluations").mkdir(exist_ok=True)
    place = 0
    for cell in cells:
        for evaluation in cell.evaluations():
            place += 1
            kind = files[evaluation.domain.digest][place % _KINDS]
            # Points that share an evaluation name it twice.
            with contextlib.suppress(FileExistsError):
                os.link(kind, str(evaluation_path(results, evaluation)))


# -- peers -----------------------------------------------------------------------------------------


def measure(peer: str, folder: Path, results: str = "") -> dict[str, float]:
    """Run a way in a process of its own; what it printed is shown only when it fails.

    Args:
        peer: Its name.
        folder: As `fabricate` made it.
        results: Where the results are; the folder's own unless given.

    Returns:
        ``begun_s`` until it is loaded, ``start_s`` until it says what is left to do, ``answer_s``
        until its end, its peak ``mib``, and ``runs`` that it found finished.
    """
    if peer == WITHOUT:
        command = [sys.executable, "-m", __name__, str(folder)]
    else:
        command = [
            *(sys.executable, "-m", "vesselflow", "sweep", str(folder / "start.yaml")),
            *("--results", results or str(folder / "results"), "--no-figures"),
        ]
    log = folder / "log.txt"
    lines: list[str] = []
    begun = started = 0.0
    began = time.monotonic()
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=sink, text=True
        )
        assert process.stdout is not None
        limit = threading.Timer(LIMIT_S, process.kill)
        limit.start()
        try:
            for line in process.stdout:
                lines.append(line)
                begun = begun or time.monotonic() - began
                if not started and _DONE.search(line):
                    started = time.monotonic() - began
            # Waited for by hand: it tells the memory of this process alone.
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            limit.cancel()
            process.stdout.close()
    answered = time.monotonic() - began
    found = next((match for match in map(_DONE.search, lines) if match), None)
    if process.returncode or found is None:
        told = [*log.read_text(encoding="utf-8", errors="replace").splitlines(), *lines]
        raise VesselflowError(
            f"{peer}: it ended with code {process.returncode}: {' | '.join(told[-3:])}"
        )
    # ru_maxrss is in KiB here, in bytes on macOS.
    mib = used.ru_maxrss / (1024 if sys.platform.startswith("linux") else 2**20)
    return {
        "begun_s": begun,
        "start_s": started,
        "answer_s": answered,
        "mib": mib,
        "runs": float(found["done"]),
    }


def read_all(folder: Path) -> None:
    """Without an index: every file of every run is opened, for what is left and for the tables."""
    from vesselflow.evaluation.evaluated import evaluation_path, read_evaluated
    from vesselflow.records.runs import RunRecord
    from vesselflow.records.status import RunState
    from vesselflow.runs.cells import make_cells
    from vesselflow.sweeps.planning import check_space
    from vesselflow.sweeps.stores_made import known_stores

    space = load(folder)
    results = folder / "results"
    stores = known_stores(space, space.file, results)
    print("reading", flush=True)
    done = 0
    cells = make_cells(space, check_space(space, space.file, stores), stores)
    for cell in cells:
        state = RunRecord(results, cell.run.run_id).status().state
        scores = [read_evaluated(evaluation_path(results, each)) for each in cell.evaluations()]
        names = cell.protocol.metrics.names()
        whole = all(each is not None and not each.missing(names) for each in scores)
        done += state is RunState.FINISHED and whole
    print(f"{len(cells)} runs, {done} already done", flush=True)
    for cell in cells:
        record = RunRecord(results, cell.run.run_id)
        record.rows()
        record.costs()


if __name__ == "__main__":
    read_all(Path(sys.argv[1]))
