"""Overhead: what a run costs beyond its steps, in warm slots and in stock Tune + TorchTrainer."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vesselflow.bench.commands import spread
from vesselflow.errors import VesselflowError
from vesselflow.records.atomic import read_json, write_json

if TYPE_CHECKING:
    from vesselflow.config.space import Space

OURS, FIRST, STOCK = "warm slots", "warm slots, first run", "Tune + TorchTrainer"
#: Runs of a round: ours are cheap, and the first of them is reported by itself.
OUR_RUNS = 9
STOCK_RUNS = 2
#: What this bench holds the project to.
MOST_S = 0.5
LEAST_RATIO = 20.0
#: Seconds after which a peer that has not ended is given up.
LIMIT_S = 600

#: A small space whose points differ in the loss alone; every run is a point of its own, so that
#: each passes through broker, relay trial and study.
_SPACE = """\
name: overhead
stores:
  a: synth:fundus?domain=a&sources=8&seed=0
data: {{train: a, working_size_px: 64}}
split: {{folds: 4, val_fraction: 0.25}}
folds: [0]
seeds: [0]
augment: {{hflip: {{}}, vflip: {{}}, affine: {{}}, color_jitter: {{}}}}
model: {{name: wnet}}
train: {{epochs: 3, steps_per_epoch: 4, micro_batch_size: 2}}
score: {{epochs: {{every: 3}}}}
grid:
  loss.beta: [{betas}]
resources: {{slots: 1, threads: 1}}
"""

_STOCK_SETTINGS = {
    "trials": "one Tuner, one trial at a time, reuse_actors=True",
    "trial": "TorchTrainer, one worker, gloo, TuneReportCallback",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "data": "samples in the object store, read without a copy",
    "left out": "checkpoints, scoring, dashboard",
}
_OUR_SETTINGS = {
    "path": "run_sweep, one slot of one worker, every run a point of its own",
    "kept": "checkpoints, weights, curves, scores, previews, study",
    "left out": "dashboard",
}


def overhead(
    rounds: int = 3,
    progress: Callable[[str], None] | None = None,
    *,
    our_runs: int = OUR_RUNS,
    stock_runs: int = STOCK_RUNS,
) -> dict[str, Any]:
    """Measure the seconds of a run beyond its training steps and its scoring.

    Of both peers: the time from the end of the run before to the end of this one, less the seconds
    inside optimizer steps and inside scoring (previews are scoring; building the model, writing
    checkpoints, tables and talking to the cluster are not). A peer's first run counts from the
    moment at which it is told to begin, with Ray's start (ours) or without it (stock). Both train
    the same model for the same steps on the same samples, by `vesselflow.training.loop.train`, in
    one worker with one thread. Each peer runs in a process of its own with a Ray of its own, first
    ours and then stock, `rounds` times.

    Args:
        rounds: Interleaved rounds, at least 1.
        progress: Called with a line of text as the bench goes on.
        our_runs: Runs of a round in our slot, at least 2: the first, which pays for the slot, is a
            row of its own.
        stock_runs: Trials of a round of the stock peer, at least 1.

    Returns:
        ``{"name", "peers": {peer: {"median", "low", "high", "n", "unit", "settings"}}, "ratios":
        {"stock / ours": {"median", "low", "high"}}, "targets": [{"what", "value", "target",
        "met"}]}``; seconds over all runs of all rounds, ratios of the medians of the same round.

    Raises:
        VesselflowError: A peer ended with an error, or the peers did not train alike.
    """
    say = progress or (lambda text: None)
    found: dict[str, list[list[dict[str, float]]]] = {"ours": [], "stock": []}
    with tempfile.TemporaryDirectory(prefix="vf-bench-") as name:
        for number in range(1, rounds + 1):
            for peer, runs in (("ours", our_runs), ("stock", stock_runs)):
                say(f"round {number} of {rounds}, {peer}: {runs} runs")
                folder = Path(name) / f"{peer}-{number}"
                folder.mkdir()
                found[peer].append(_measure(peer, folder, runs))
    return summarise(found["ours"], found["stock"])


def summarise(
    ours: Sequence[Sequence[Mapping[str, float]]], stock: Sequence[Sequence[Mapping[str, float]]]
) -> dict[str, Any]:
    """Turn rounds of runs (``{"since_s", "steps_s", "scoring_s", "steps"}``) into the result.

    Raises:
        VesselflowError: Some runs took other numbers of steps than others.
    """
    steps = sorted({run["steps"] for rounds in (ours, stock) for runs in rounds for run in runs})
    if len(steps) != 1:
        raise VesselflowError(f"the peers did not train alike: runs of {steps} steps")
    warm = [[beyond(run) for run in runs[1:]] for runs in ours]
    theirs = [[beyond(run) for run in runs] for runs in stock]
    rows = {
        OURS: ([value for runs in warm for value in runs], _OUR_SETTINGS),
        FIRST: ([beyond(runs[0]) for runs in ours], _OUR_SETTINGS),
        STOCK: ([value for runs in theirs for value in runs], _STOCK_SETTINGS),
    }
    ratios = [
        statistics.median(slow) / statistics.median(quick)
        for quick, slow in zip(warm, theirs, strict=True)
    ]
    peers = {
        name: {**spread(values), "n": len(values), "unit": "s", "settings": settings}
        for name, (values, settings) in rows.items()
    }
    median, ratio = statistics.median(rows[OURS][0]), statistics.median(ratios)
    return {
        "name": "overhead",
        "peers": peers,
        "ratios": {f"{STOCK} / {OURS}": spread(ratios)},
        "targets": [
            {
                "what": f"{OURS}, median s",
                "value": median,
                "target": f"<= {MOST_S:g}",
                "met": median <= MOST_S,
            },
            {
                "what": f"{STOCK} / {OURS}",
                "value": ratio,
                "target": f">= {LEAST_RATIO:g}",
                "met": ratio >= LEAST_RATIO,
            },
        ],
        "runs": {"ours": ours, "stock": stock},
    }


def beyond(run: Mapping[str, float]) -> float:
    """Seconds of a run beyond its steps and its scoring."""
    return run["since_s"] - run["steps_s"] - run["scoring_s"]


def _measure(peer: str, folder: Path, runs: int) -> list[dict[str, float]]:
    """Run a peer in a process of its own; what it printed is shown only when it fails."""
    log, out = folder / "log.txt", folder / "runs.json"
    environment = {
        **os.environ,
        "VESSELFLOW_DASHBOARD": "0",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    }
    with log.open("wb") as sink:
        try:
            code = subprocess.run(
                [sys.executable, "-m", __name__, peer, str(folder), str(runs)],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=environment,
                timeout=LIMIT_S,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            raise VesselflowError(f"the peer {peer} did not end within {LIMIT_S} s") from None
    if code or not out.exists():
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise VesselflowError(f"the peer {peer} ended with code {code}: {' | '.join(lines[-3:])}")
    found: list[dict[str, float]] = read_json(out)
    if len(found) != runs:
        raise VesselflowError(f"the peer {peer} brought {len(found)} of {runs} runs to their end")
    return found


def load(folder: Path, runs: int) -> Space:
    """Write the bench's space into a folder and load it."""
    from vesselflow.config.loading import load_space
    from vesselflow.runs.registries import REGISTRIES

    file = folder / "overhead.yaml"
    betas = ", ".join(f"{number / (runs + 1):.4f}" for number in range(1, runs + 1))
    file.write_text(_SPACE.format(betas=betas), encoding="utf-8")
    return load_space(file, registries=REGISTRIES)


def run_ours(folder: Path, runs: int) -> list[dict[str, float]]:
    """The shipped path, as `vesselflow sweep` takes it."""
    from vesselflow.orchestration.driver import run_sweep
    from vesselflow.sweeps.events import Finished, Happening
    from vesselflow.sweeps.outcome import Watch
    from vesselflow.sweeps.planning import prepare

    space = load(folder, runs)
    prepared = prepare(space, folder / "results")
    events: list[Happening] = []
    began = time.monotonic()
    run_sweep(prepared, Watch(event=events.append))
    found = []
    for event in events:
        if isinstance(event, Finished):
            cost = event.cost
            found.append(
                {
                    "since_s": event.at - began,
                    "steps_s": cost["train_s"],
                    "scoring_s": cost["evaluate_s"],
                    "steps": cost["steps"],
                }
            )
            began = event.at
    return found


def run_stock(folder: Path, runs: int) -> list[dict[str, float]]:
    """Ray's own pattern: a Tune trial drives a TorchTrainer of its own."""
    import ray
    from ray import tune

    from vesselflow.feed.batches import load_samples
    from vesselflow.runs.specs import view_of
    from vesselflow.sweeps.planning import prepare

    space = load(folder, runs)
    prepared = prepare(space, folder / "results")
    spec = prepared.cells[0].run
    store = prepared.stores[spec.experiment.data.train].path
    ray.init(
        num_cpus=len(os.sched_getaffinity(0)),
        resources={"trial_driver": 1},
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    samples = ray.put(load_samples(store, view_of(spec.experiment)))
    ends: list[tuple[float, dict[str, Any]]] = []

    class Ends(tune.Callback):
        def on_trial_complete(
            self, iteration: int, trials: list[Any], trial: Any, **_: Any
        ) -> None:
            ends.append((time.monotonic(), dict(trial.last_result)))

    tuner = tune.Tuner(
        tune.with_resources(
            # In a tuple: a bare reference would be resolved, and travel by value from then on.
            tune.with_parameters(_stock_trial, samples=(samples,), storage=str(folder)),
            {"trial_driver": 1},
        ),
        param_space={"spec": tune.grid_search([cell.run for cell in prepared.cells])},
        tune_config=tune.TuneConfig(max_concurrent_trials=1, reuse_actors=True),
        run_config=tune.RunConfig(
            name="tune", storage_path=str(folder), callbacks=[Ends()], verbose=0
        ),
    )
    began = time.monotonic()
    tuner.fit()
    found = []
    for at, result in ends:
        found.append(
            {
                "since_s": at - began,
                "steps_s": result["steps_s"],
                "scoring_s": 0.0,
                "steps": float(result["steps"]),
            }
        )
        began = at
    ray.shutdown()
    return found


def _stock_trial(config: dict[str, Any], samples: tuple[Any], storage: str) -> None:
    """A trial of the stock peer: its own trainer, under its own name."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    spec = config["spec"]
    TorchTrainer(
        _stock_worker,
        train_loop_config={"spec": spec, "samples": samples[0]},
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1.0}),
        run_config=RunConfig(
            name=f"train-{spec.run_id}", storage_path=storage, callbacks=[TuneReportCallback()]
        ),
    ).fit()


def _stock_worker(config: dict[str, Any]) -> None:
    """The training function of the stock peer: our loop, reported epoch by epoch."""
    import numpy as np
    import ray

    from vesselflow.feed.draws import Uniform
    from vesselflow.feed.sources import KeyedBatches, StepClock
    from vesselflow.training.loop import Hooks, train
    from vesselflow.training.process import settle_process

    settle_process(1)
    spec, samples = config["spec"], ray.get(config["samples"])
    rows = np.flatnonzero(np.isin(samples.source, np.asarray(spec.train)))
    settings = spec.experiment.train
    clock = StepClock(
        KeyedBatches(
            samples,
            Uniform(table=None, rows=rows, seed=spec.seed),
            micro_batch_size=settings.micro_batch_size,
            micro_batches_per_step=settings.micro_batches_per_step,
        )
    )
    train(
        spec.experiment,
        clock,
        channels=int(samples.gather(rows[:1]).image.shape[1]),
        train_samples=len(rows),
        seed=spec.seed,
        hooks=Hooks(
            epoch=lambda epoch, step, values: ray.train.report(
                {**values, "steps_s": clock.seconds, "steps": step}
            ),
            progress=lambda epoch, step: clock.stop(),
        ),
    )


PEERS = {"ours": run_ours, "stock": run_stock}


def main(arguments: Sequence[str]) -> None:
    """A peer's process: name, folder, number of runs; leaves runs.json in the folder."""
    peer, folder, runs = arguments
    write_json(Path(folder) / "runs.json", PEERS[peer](Path(folder), int(runs)))


if __name__ == "__main__":
    main(sys.argv[1:])
