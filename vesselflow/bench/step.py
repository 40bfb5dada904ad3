"""A training step: the shipped loop against a bare one in PyTorch, on the same tensors."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vesselflow.bench.commands import row, spread, target
from vesselflow.config.loading import load_space
from vesselflow.errors import VesselflowError
from vesselflow.feed.local import LocalData
from vesselflow.runs.cells import Cell, Job
from vesselflow.runs.registries import REGISTRIES
from vesselflow.sweeps.context import Context, Reports
from vesselflow.sweeps.execution import execute
from vesselflow.sweeps.machine import cpus_here
from vesselflow.sweeps.planning import SweepPlan, prepare
from vesselflow.sweeps.training_job import order_of, training_rows
from vesselflow.tasks.task import build_task
from vesselflow.training.giving import Giver
from vesselflow.training.group import Solo
from vesselflow.training.loop import build_model
from vesselflow.training.process import settle_process

OURS, BARE = "vesselflow", "bare PyTorch"
#: Most that a step through our loop may take of a bare one.
MOST = 1.03
#: Steps that warm up and are not counted, steps of an epoch, and epochs of a training: so many that
#: the larger model's lasts longer than the first interval between checkpoints.
WARM, STEPS, EPOCHS = 8, 30, 4

#: The shipped defaults but for the model and the augmentation.
_SPACE = """\
name: step
stores:
  a: synth:fundus?domain=a&sources=6&seed=0
data: {{train: a, working_size_px: 256, patch: 128, stride: 64}}
split: {{folds: 3, val_fraction: 0.3}}
folds: [0]
seeds: [0]
augment: null
train: {{epochs: {epochs}, steps_per_epoch: {steps}, micro_batch_size: 4}}
grid:
  network:
    settings:
      - {{label: wnet, set: {{model.name: wnet}}}}
      - {{label: unet-resnet34, set: {{model.name: unet, model.encoder: resnet34}}}}
"""


def step(
    rounds: int = 5,
    progress: Callable[[str], None] | None = None,
    *,
    steps: int = STEPS,
    epochs: int = EPOCHS,
) -> dict[str, Any]:
    """Measure a step of the shipped loop, and of a bare one on the same tensors.

    Ours is a run as a slot does it, but for Ray: patches of a synthetic store gathered out of
    memory, normalised, forward, loss, backward, optimizer, the curve's numbers, an attempt with a
    row of the curve after each epoch and checkpoints as they are due, all flushed to the disk;
    defaults but for the augmentation, which is off. The bare loop has the normalised batches of the
    same steps ready as tensors: forward, loss, backward, AdamW, and the loss as a number. Models,
    first weights, memory layout and loss (combined: cross-entropy and soft Dice, of both answers of
    `wnet`) are the same. The two take turns, in an order that changes; the first steps of each are
    not counted. On all CPUs of this machine, or on its GPU.

    Args:
        rounds: Interleaved rounds, at least 1.
        progress: Called with a line of text as the bench goes on.
        steps: Of an epoch.
        epochs: At least 2, so that an edge between two is counted.

    Returns:
        As `overhead`; ms of a step, and ratios within a round.

    Raises:
        VesselflowError: A training did not end well.
    """
    say = progress or (lambda text: None)
    warm = min(WARM, steps)
    settle_process(cpus_here())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    times: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory(prefix="vf-bench-") as name:
        folder = Path(name)
        say("making the images")
        plan = _plan(folder, steps, epochs)
        data = LocalData({name: Path(str(each.path)) for name, each in plan.stores.items()})
        for cell in plan.cells:
            batches = _batches(plan, cell, data, device)
            ways: dict[str, Callable[[Path], float]] = {
                OURS: partial(_ours, plan, cell, data, device, warm),
                BARE: partial(_bare, cell, batches, device, warm),
            }
            found: dict[str, list[float]] = {way: [] for way in ways}
            for number in range(rounds):
                for way in list(ways)[:: 1 if number % 2 else -1]:
                    say(f"{cell.point}, round {number + 1} of {rounds}: {way}")
                    results = folder / f"results-{cell.index}-{number}"
                    found[way].append(1e3 * ways[way](results))
            times[cell.point] = found
    how = torch.cuda.get_device_name() if device == "cuda" else f"{cpus_here()} threads"
    return summarise(times, {"on": how, "steps": f"{rounds} x {steps * epochs - warm}"})


def summarise(times: dict[str, dict[str, list[float]]], settings: dict[str, Any]) -> dict[str, Any]:
    """The result of the bench from ms of a step, by model, way and round."""
    ratios = {
        model: [a / b for a, b in zip(found[OURS], found[BARE], strict=True)]
        for model, found in times.items()
    }
    return {
        "name": "step",
        "peers": {
            f"{model}, {way}": row(values, "ms", settings)
            for model, found in times.items()
            for way, values in found.items()
        },
        "ratios": {f"{model}: {OURS} / {BARE}": spread(ratios[model]) for model in times},
        "targets": [
            target(f"{model}: {OURS} / {BARE}", statistics.median(ratios[model]), MOST)
            for model in times
        ],
    }


def _plan(folder: Path, steps: int, epochs: int) -> SweepPlan:
    file = folder / "step.yaml"
    file.write_text(_SPACE.format(steps=steps, epochs=epochs), encoding="utf-8")
    return prepare(load_space(file, registries=REGISTRIES), folder / "results")


def _batches(
    plan: SweepPlan, cell: Cell, data: LocalData, device: str
) -> list[tuple[Tensor, Tensor]]:
    """Normalised images and targets of a run's steps, in their order."""
    run, job = cell.run, Job((cell,), plan.objective)
    context = Context(job, plan.results, data, Solo(), Reports(), device, "bench")
    samples = data.samples(run.experiment.data.train, context.view)
    rows = training_rows(context, samples)
    order = order_of(context, len(samples.table.of_grid(rows)))
    source = order.gathered(samples, order.draws(samples, rows))
    give = Giver(
        run.experiment, None, build_task(run.task), seed=run.seed, device=torch.device(device)
    )
    ready = []
    for number in range(order.steps):
        given = give(number, 0, 0.0, source.batch(number, 0))
        ready.append((given.image.contiguous(memory_format=torch.channels_last), given.target))
    return ready


def _ours(
    plan: SweepPlan, cell: Cell, data: LocalData, device: str, warm: int, results: Path
) -> float:
    """Seconds of a step of the shipped loop."""
    at: dict[int, float] = {}

    def phase(name: str, epoch: int, number: int, total: int) -> None:
        if name == "training" and number not in at:
            _settle(device)
            at[number] = time.perf_counter()

    # The first that is told of a step is its end; edges of epochs lie between two of them.
    job = Job((cell,), plan.objective)
    outcome = execute(job, results, data, reports=Reports(phase=phase), device=device)
    if outcome.state != "finished":
        raise VesselflowError(f"a training ended as {outcome.state}: {outcome.message}")
    last = max(at)
    return (at[last] - at[warm]) / (last - warm)


def _bare(
    cell: Cell, batches: Sequence[tuple[Tensor, Tensor]], device: str, warm: int, results: Path
) -> float:
    """Seconds of a step of a loop as it stands in tutorials."""
    experiment = cell.run.experiment
    model = build_model(experiment, batches[0][0].shape[1], cell.run.seed, cell.run.task)
    model = model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=experiment.optimizer["lr"], fused=True)
    began, total = 0.0, 0.0
    for number, (image, truth) in enumerate(batches):
        if number == warm:
            _settle(device)
            began = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        outputs = model(image)
        loss = sum(
            plain_loss(logits, truth)
            for logits in (outputs if isinstance(outputs, tuple) else (outputs,))
        )
        assert isinstance(loss, Tensor)
        loss.backward()
        optimizer.step()
        total += loss.item()
    _settle(device)
    return (time.perf_counter() - began) / (len(batches) - warm)


def plain_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Half cross-entropy and half soft Dice of each image, as anyone would write it."""
    probability = logits.sigmoid()
    both = (probability * truth).sum((1, 2, 3))
    dice = 1 - (2 * both + 1) / (probability.sum((1, 2, 3)) + truth.sum((1, 2, 3)) + 1)
    return 0.5 * functional.binary_cross_entropy_with_logits(logits, truth) + 0.5 * dice.mean()


def _settle(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
