"""The training loop: short, resumable at any step, and blind to who started it."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from vesselflow.augment.compose import compose
from vesselflow.augment.inputs import DatasetStatistics, channels_last
from vesselflow.config.experiment import Experiment
from vesselflow.errors import Interrupted, UserError, VesselflowError
from vesselflow.feed.hard import Hard
from vesselflow.feed.order import key
from vesselflow.feed.sources import BatchSource
from vesselflow.losses import LOSSES
from vesselflow.models import strided
from vesselflow.models.adversary import Adversary
from vesselflow.models.averages import Average
from vesselflow.models.ema import Ema
from vesselflow.models.last_means import LastMeans
from vesselflow.models.recompute import recompute_blocks
from vesselflow.models.swa import Swa
from vesselflow.optimizers import OPTIMIZERS
from vesselflow.optimizers.learning_rates import LEARNING_RATES
from vesselflow.runs.stacked import stacked_channels
from vesselflow.tasks.spec import TaskSpec
from vesselflow.training import packing
from vesselflow.training.group import Group, Solo, together
from vesselflow.training.interval import NOTHING_SEEN, Due, Survival
from vesselflow.training.parameters import (
    freeze,
    parameter_groups,
    rate,
    training_mode,
    unwrapped,
)
from vesselflow.training.saving import Saver, Write
from vesselflow.training.stacking import Stack
from vesselflow.training.step import Stepper
from vesselflow.training.stopping import Patience


class Diverged(VesselflowError):
    """More gradients in a row than `train.nan_tolerance` were not finite."""

    def __init__(self, message: str) -> None:
        super().__init__(message)


@dataclass
class Hooks:
    """What the loop does at its edges; every default does nothing.

    Attributes:
        save: ``(step) -> write``: a checkpoint of this step was copied (called on rank 0 alone).
            ``write(payload)`` keeps it; called in a thread, while the training goes on, and never
            while another write is under way.
        waiting: The training begins to wait for a write (rank 0 alone).
        epoch: ``(epoch, step, values)``: the epoch's curve values (rank 0 alone).
        keep_weights: ``(epoch, step, payload)``: keep the weights of a scored epoch (rank 0).
        score: ``(model, epoch, step) -> values``: scores on validation data (rank 0 alone; the
            model is in evaluation mode and holds the weights that are evaluated).
            It, and those above, may raise `Interrupted`: all workers stop there.
        interval: Told before the first step and after each, before `progress`, the seconds between
            two checkpoints as they stand then (rank 0 alone).
        progress: ``(epoch, step)`` after each step (rank 0 alone).
        should_stop: Asked on every rank after each step; one yes stops all at that step.
        clock: Monotonic seconds, for the timed checkpoints only.
    """

    save: Callable[[int], Write] = lambda step: lambda payload: None
    waiting: Callable[[], None] = lambda: None
    epoch: Callable[[int, int, dict[str, float]], None] = lambda epoch, step, values: None
    keep_weights: Callable[[int, int, bytes], None] = lambda epoch, step, payload: None
    score: Callable[[nn.Module, int, int], dict[str, float]] = lambda model, epoch, step: {}
    interval: Callable[[float], None] | None = None
    progress: Callable[[int, int], None] = lambda epoch, step: None
    should_stop: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = time.monotonic


@dataclass(frozen=True)
class Trained:
    """How training ended.

    Attributes:
        finished: False when it was stopped on request.
        step: Steps that were done.
        steps: Steps that were planned.
        skipped_steps: Those whose gradient was not finite.
        stopped_epoch: The epoch after which `train.stop` ended it; None where it did not.
    """

    finished: bool
    step: int
    steps: int
    skipped_steps: int
    stopped_epoch: int | None = None


@dataclass
class _EpochMeans:
    """Means over the steps of an epoch; of a skipped step only what is finite counts."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            finite = math.isfinite(value)
            self.sums[name] = self.sums.get(name, 0.0) + (value if finite else 0.0)
            self.counts[name] = self.counts.get(name, 0) + finite

    def means(self) -> dict[str, float]:
        """NaN where no step had a finite value."""
        return {
            name: value / self.counts[name] if self.counts[name] else math.nan
            for name, value in self.sums.items()
        }


def steps_per_epoch(experiment: Experiment, samples: int) -> int:
    """Optimizer steps of an epoch: as configured, or once through `samples` rounded up."""
    train = experiment.train
    if train.steps_per_epoch is not None:
        return train.steps_per_epoch
    return -(-samples // (train.micro_batch_size * train.micro_batches_per_step))


def build_model(
    experiment: Experiment, channels: int, seed: int, task: TaskSpec | None = None
) -> nn.Module:
    """The model with its initial weights: a pure function of the arguments.

    Args:
        experiment: The run's.
        channels: Of the image.
        seed: Of the run.
        task: What is learnt; None: one mask.
    """
    torch.manual_seed(key(seed, "initial weights"))
    task = task or TaskSpec()
    model = strided.build(
        experiment.model,
        in_channels=channels + stacked_channels(experiment, len(task.classes)),
        classes=len(task.classes),
        stride=task.stride,
        rare=task.sparse,
    )
    if experiment.train.channels_last:
        # Each by its axes: torch's own `to` refuses kernels of images beside those of volumes.
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.ndim in (4, 5):
                tensor.data = tensor.data.to(memory_format=channels_last(tensor.ndim - 2))
    return model


def dump_weights(model: nn.Module) -> bytes:
    """The weights of a model, as `torch.load` reads them anywhere."""
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.getvalue()


def load_weights(payload: bytes) -> dict[str, torch.Tensor]:
    """Read what `dump_weights` wrote (weights only: nothing in it is executed)."""
    weights: dict[str, torch.Tensor] = torch.load(
        io.BytesIO(payload), map_location="cpu", weights_only=True
    )
    return weights


def first_weights(payload: bytes, name: str = "the file") -> dict[str, torch.Tensor]:
    """The weights that a training begins with: of `dump_weights`, or of somebody else's file.

    Args:
        payload: What `torch.save` wrote of a state_dict, also as the entry `state_dict`,
            `model_state_dict` or `model` of a mapping; "module." before all names is left out.
        name: Of the file, for errors.

    Raises:
        UserError: It is nothing of the kind, or could not be read without running code in it.
    """
    try:
        weights: Any = load_weights(payload)
    except Exception as error:  # of many types, by what the file is
        reason = str(error).strip().partition("\n")[0]
        raise _no_weights(name, f" ({reason[:120]})" if reason else "") from None
    for entry in ("state_dict", "model_state_dict", "model"):
        if isinstance(weights, Mapping) and isinstance(weights.get(entry), Mapping):
            weights = weights[entry]
    if not isinstance(weights, Mapping) or not weights:
        raise _no_weights(name)
    if not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise _no_weights(name)
    wrapped = "module."
    if all(each.startswith(wrapped) for each in weights):
        weights = {each.removeprefix(wrapped): value for each, value in weights.items()}
    return dict(weights)


def _no_weights(name: str, reason: str = "") -> UserError:
    return UserError(
        f"{name} holds no weights{reason}",
        where="train.init_from",
        allowed="what torch.save writes of a model's state_dict()",
    )


def trained_model(
    experiment: Experiment, channels: int, seed: int, task: TaskSpec | None, payload: bytes
) -> nn.Module:
    """The model of `build_model` with weights that `dump_weights` wrote, in evaluation mode."""
    model = build_model(experiment, channels, seed, task)
    model.load_state_dict(load_weights(payload))
    return model.eval()


def train(
    experiment: Experiment,
    batches: BatchSource,
    *,
    channels: int,
    train_samples: int,
    seed: int,
    group: Group | None = None,
    hooks: Hooks | None = None,
    resume: bytes | None = None,
    device: torch.device | str = "cpu",
    dataset_statistics: DatasetStatistics | None = None,
    survival: Survival = NOTHING_SEEN,
    saver: Callable[[Callable[[int], Write], Callable[[], None]], Saver] = Saver,
    task: TaskSpec | None = None,
    memory: Hard | None = None,
    initial: bytes | None = None,
    factors: Sequence[float] = (),
    stack: Stack | None = None,
) -> Trained:
    """Train one run from its start, or from a checkpoint, to its end or to a stop.

    The weights after any step are a pure function of the experiment, the training samples and the
    seed: bit-equal with and without interruptions, and for any number of workers, on CPUs of one
    kind with the same number of threads per worker.

    Args:
        experiment: The resolved experiment.
        batches: Micro-batches by (step, index), each with unlabelled samples where the experiment
            learns from such.
        channels: Channels of the images.
        train_samples: Number of samples of the training part (one epoch, unless configured).
        seed: Seed of the run.
        group: The workers; a plain process when None.
        hooks: What happens at the edges.
        resume: A checkpoint's payload, as what `Hooks.save` returned got it.
        device: Where to train.
        dataset_statistics: Centre and scale (C,) for ``normalise.scope: dataset``.
        survival: What was seen of failures, for the time between two checkpoints.
        saver: Makes what keeps the state, of `Hooks.save` and `Hooks.waiting`.
        task: What is learnt; None: one mask.
        memory: The draws of `batches`, where they learn from the losses of the samples.
        initial: Weights to begin with, as `first_weights` reads them; None: those of the seed.
        factors: On the probabilities of augmentation, of each source of the store; none: 1.
        stack: Networks whose probabilities are channels, where `train.stack` has them.

    Raises:
        Diverged: Too many gradients in a row were not finite.
    """
    group, hooks, device = group or Solo(), hooks or Hooks(), torch.device(device)
    settings = experiment.train
    per_epoch = steps_per_epoch(experiment, train_samples)
    steps = settings.epochs * per_epoch
    scored = set(experiment.score.at(settings.epochs))
    model = build_model(experiment, channels, seed, task).to(device)
    if initial is not None and resume is None:
        model.load_state_dict(first_weights(initial))
    if stack is not None:
        stack.attach(model)
    freeze(model, settings.freeze)
    adversary = None
    if experiment.unlabelled is not None:
        torch.manual_seed(key(seed, "initial weights of the adversary"))
        adversary = Adversary(unwrapped(model)).to(device)
    if settings.recompute:
        recompute_blocks(model)
    optimizer = OPTIMIZERS.build(experiment.optimizer, parameters=parameter_groups(model, settings))
    if adversary is not None:
        optimizer.add_param_group({"params": list(adversary.parameters())})
    schedule = LEARNING_RATES.build(experiment.schedule)
    loss = LOSSES.build(experiment.loss)
    ema = Ema(model, settings.ema) if settings.ema is not None else None
    swa, first_averaged = None, 0
    if settings.swa is not None:
        swa, first_averaged = Swa(model), settings.swa.first(settings.epochs)
    last_means = None
    if settings.average_last is not None:
        last_means = LastMeans(settings.average_last, scored)
    augmenter = compose(experiment.augment) if experiment.augment else None
    stepper = Stepper(
        experiment,
        model,
        loss,
        optimizer,
        augmenter,
        group=group,
        seed=seed,
        device=device,
        dataset_statistics=dataset_statistics,
        task=task,
        per_sample=memory is not None,
        factors=factors,
        stack=stack,
        adversary=adversary,
    )
    step, skipped, in_a_row, means = 0, 0, 0, _EpochMeans()
    ended = False
    losses: list[float] = []  # the mean of each epoch that is done
    patience = None if settings.stop is None else Patience.of(settings.stop, task or TaskSpec())
    # Of an epoch whose steps are done: its training means, until its curve is written.
    pending: dict[str, float] | None = None
    if resume is not None:
        # On the CPU: each state_dict is copied to where it belongs, and AdamW's step counts belong
        # there whatever the device.
        state = packing.load(resume)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if adversary is not None:
            adversary.load_state_dict(state["adversary"])
        if ema is not None:
            ema.load_state_dict(state["ema"])
        if swa is not None:
            swa.load_state_dict(state["swa"])
        if last_means is not None:
            last_means.load_state_dict(state["last"], model)
        step, skipped, in_a_row = state["step"], state["skipped"], state["in_a_row"]
        means = _EpochMeans(state["means"], state["means_counts"])
        pending = state["pending"]
        losses = list(state.get("losses", ()))  # there were none before schedules looked at them
        if patience is not None:
            patience.scores = list(state["scores"])
        if memory is not None:
            memory.load({name: values.numpy() for name, values in state["memory"].items()})

    def save() -> None:
        began = hooks.clock()
        state = {
            "step": step,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "ema": ema.state_dict(copy=False) if ema is not None else None,
            "skipped": skipped,
            "in_a_row": in_a_row,
            "means": means.sums,
            "means_counts": means.counts,
            "pending": pending,
            "losses": losses,
        }
        if adversary is not None:
            state["adversary"] = adversary.state_dict()
        if swa is not None:
            state["swa"] = swa.state_dict(copy=False)
        if last_means is not None:
            state["last"] = last_means.state_dict()
        if patience is not None:
            state["scores"] = list(patience.scores)
        if memory is not None:
            learnt = memory.state().items()
            state["memory"] = {name: torch.from_numpy(values) for name, values in learnt}
        saving.save(step, state)
        due.saved(began)

    def close_epoch() -> None:
        """Keep and score the weights of the epoch whose last step is done; write its curve."""
        assert pending is not None
        epoch, values = step // per_epoch, dict(pending)
        if epoch in scored:
            # There is no mean of the last epochs before the first of them.
            average = swa if swa is not None and swa.updates else ema
            if last_means is not None:
                average = last_means.of(epoch)
            with _evaluated(model, average, settings.freeze):
                weights = dump_weights(model)
                hooks.keep_weights(epoch, step, weights)
                values.update(hooks.score(model, epoch, step))
            if patience is not None and patience.over(values):
                # Those that are left have them too: an answer has all its epochs.
                for later in sorted(each for each in scored if each > epoch):
                    hooks.keep_weights(later, step, weights)
        hooks.epoch(epoch, step, values)

    def edge(*actions: Callable[[], None]) -> bool:
        """Do what rank 0 does while the others wait; False, on all, when it was interrupted."""
        nonlocal ended

        def act() -> tuple[bool, bool]:
            stepper.check()
            if group.rank:
                return True, False
            try:
                for action in actions:
                    action()
            except Interrupted:
                return False, False
            return True, patience is not None and patience.ended

        answers = together(group, act)
        ended = any(enough for _, enough in answers)
        return all(done for done, _ in answers)

    def result(finished: bool) -> Trained:
        stopped = step // per_epoch if ended and step < steps else None
        return Trained(finished, step, steps, skipped, stopped)

    def tell_interval() -> None:
        if hooks.interval is not None and group.rank == 0:
            hooks.interval(due.interval_s(saving.write_s))

    saving = saver(hooks.save, hooks.waiting)
    if pending is not None:
        if not edge(close_epoch):
            return result(False)
        if ended:
            return result(True)
        pending = None
    due = Due(settings.checkpoint_every_s, survival, hooks.clock)
    tell_interval()
    training_mode(model, settings.freeze)
    with saving:
        while step < steps:
            progress = step / max(1, steps - 1)
            lr = experiment.optimizer["lr"] * schedule(step, steps, losses)
            for parameters in optimizer.param_groups:
                parameters["lr"] = rate(parameters, lr)
            began, writing = hooks.clock(), saving.busy
            did = stepper.run(
                step,
                progress,
                partial(batches.batch, step),
                stop=hooks.should_stop(),
                save=saving.failed or (not writing and group.rank == 0 and due.now(saving.write_s)),
            )
            due.step(hooks.clock() - began, writing or saving.busy)
            if memory is not None and did.sample_losses is not None:
                memory.learn(step * len(did.sample_losses), did.sample_losses)
            step += 1
            if did.applied:
                in_a_row = 0
                if ema is not None:
                    ema.update(model)
            else:
                skipped, in_a_row = skipped + 1, in_a_row + 1
                if in_a_row > settings.nan_tolerance:
                    raise Diverged(
                        f"{in_a_row} gradients in a row were not finite, the last at step {step}; "
                        f"losses there: {did.losses}; lower optimizer.lr, or set "
                        "train.clip_norm"
                    )
            scalars = {f"loss.{name}": value for name, value in loss.scalars(progress).items()}
            means.add({**did.losses, "lr": lr, "grad_norm": did.grad_norm, **scalars} | did.health)
            ends_epoch = step % per_epoch == 0
            tell_interval()
            if group.rank == 0:
                hooks.progress((step - 1) // per_epoch + 1, step)
            if ends_epoch:
                pending = {
                    name if name.startswith("health/") else f"train/{name}": value
                    for name, value in means.means().items()
                }
                losses.append(pending["train/loss"])
                means = _EpochMeans()
                if swa is not None and step // per_epoch >= first_averaged:
                    swa.update(model)
                if last_means is not None:
                    last_means.update(model, step // per_epoch)
                if memory is not None:
                    memory.end_epoch()
            if ends_epoch or did.save or did.stop:
                # Before the epoch is scored: whoever is stopped while it is repeats no step. Of an
                # epoch that is not scored only the curve is written, so that short ones cost no
                # more than the interval allows.
                over = step == steps
                kept = did.save or did.stop or over or step // per_epoch in scored
                actions = [save] if kept else []
                if did.stop:
                    actions.append(saving.wait)
                elif ends_epoch:
                    actions += [close_epoch, saving.wait] if over else [close_epoch]
                done = edge(*actions)
                if did.stop or not done:
                    return result(False)
                if ended:
                    return result(edge(saving.wait))
                pending = None
    return result(True)


@contextmanager
def _evaluated(
    model: nn.Module, average: Average | None, frozen: tuple[str, ...]
) -> Iterator[None]:
    """Put the model into evaluation mode, with the averaged weights where there are any."""
    with average.applied(model) if average is not None else nullcontext():
        model.eval()
        try:
            yield
        finally:
            training_mode(model, frozen)
