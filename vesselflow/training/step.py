"""One optimizer step over a fixed number of micro-batches, on any number of workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vesselflow.augment.compose import Augmenter
from vesselflow.augment.inputs import DatasetStatistics, channels_last
from vesselflow.config.experiment import Experiment
from vesselflow.config.scalars import resolve
from vesselflow.feed.batches import Batch
from vesselflow.feed.order import key, share
from vesselflow.models.adversary import Adversary, domain_loss
from vesselflow.models.layers.handoff import mixed_behind_encoder
from vesselflow.models.presence import Presence, presence_loss
from vesselflow.tasks.spec import TaskSpec
from vesselflow.tasks.task import build_task
from vesselflow.training.giving import Giver
from vesselflow.training.group import Group, together
from vesselflow.training.health import Health
from vesselflow.training.parameters import unwrapped
from vesselflow.training.reduction import TreeSum, node_spans
from vesselflow.training.stacking import Stack


class BatchStatistics:
    """Running statistics of batch-norm that do not depend on which worker saw which micro-batch.

    During a step each layer runs with momentum 1, so that its buffers hold exactly the statistics
    of the one micro-batch it saw. The statistics of all micro-batches are then folded into the true
    running ones in the order of the micro-batches, with the layer's own momentum (0.1 for layers
    that have none), on every worker. Layers count all micro-batches of a step, not only a worker's.

    Args:
        model: Its layers with running statistics are found once; those that are frozen (in
            evaluation mode) keep what they have.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = [
            layer
            for layer in model.modules()
            if isinstance(layer, nn.modules.batchnorm._NormBase) and layer.track_running_stats
        ]
        self._momenta = [layer.momentum for layer in self._layers]
        self._buffers: list[Tensor] = []
        self._counters: list[Tensor] = []
        weights: list[Tensor] = []
        for layer in self._layers:
            momentum = 0.1 if layer.momentum is None else layer.momentum
            for buffer in (layer.running_mean, layer.running_var):
                assert buffer is not None  # it tracks running statistics
                self._buffers.append(buffer)
                weights.append(torch.full((buffer.numel(),), momentum, device=buffer.device))
            if layer.num_batches_tracked is not None:
                self._counters.append(layer.num_batches_tracked)
        self._sizes = [buffer.numel() for buffer in self._buffers]
        self._weight = torch.cat(weights) if weights else None
        self._counted: list[Tensor] = []
        first = next(model.parameters(), None)
        self._nothing = torch.zeros(0, device=None if first is None else first.device)
        self.size = sum(self._sizes)

    def read(self) -> Tensor:
        """All buffers as one float32 vector."""
        if not self._buffers:
            return self._nothing
        return torch.cat([buffer.reshape(-1) for buffer in self._buffers])

    def write(self, values: Tensor) -> None:
        """Put one vector back into the buffers."""
        if not self._buffers:
            return
        for buffer, part in zip(self._buffers, values.split(self._sizes), strict=True):
            buffer.copy_(part.view_as(buffer))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let layers normalise by what their buffers hold, and learn nothing, within the block."""
        training = [layer for layer in self._layers if layer.training]
        try:
            for layer in training:
                layer.training = False
            yield
        finally:
            for layer in training:
                layer.training = True

    def begin(self) -> Tensor:
        """Start a step: remember and return the true statistics, let layers overwrite theirs."""
        for layer in self._layers:
            layer.momentum = 1.0
        self._counted = [counter.clone() for counter in self._counters]
        return self.read()

    def finish(self, true: Tensor, seen: list[Tensor]) -> None:
        """End a step: fold what the micro-batches saw into the true statistics, in their order."""
        for layer, momentum in zip(self._layers, self._momenta, strict=True):
            layer.momentum = momentum
        for counter, before in zip(self._counters, self._counted, strict=True):
            # A worker's layers counted its own micro-batches only; frozen ones counted none.
            counter.copy_(torch.where(counter > before, before + len(seen), before))
        if self._weight is None:
            return
        for statistics in seen:
            if bool(torch.isfinite(statistics).all()):
                true = true + self._weight * (statistics - true)
        self.write(true)


@dataclass
class StepResult:
    """What one step did; equal on every worker.

    Attributes:
        losses: Name -> mean over the step's micro-batches; "loss" is the total.
        grad_norm: 2-norm of the gradient before clipping.
        applied: False when the gradient was not finite and the step was skipped.
        stop: Some worker asked to stop after this step.
        save: Some worker asked for a checkpoint after this step.
        sample_losses: float64 (micro-batches x samples,), in their order; None unless asked for.
        health: Numbers of the gradient, by their names in a curve; empty unless asked for.
    """

    losses: dict[str, float]
    grad_norm: float
    applied: bool
    stop: bool = False
    save: bool = False
    sample_losses: np.ndarray | None = None
    health: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Share:
    """What one worker's micro-batches of a step gave.

    Attributes:
        true: The running statistics from before the step.
        tree: The worker's part of the gradient's tree.
        seen: The statistics that each micro-batch saw.
        values: The losses of each.
        message: All of it, for the others.
    """

    true: Tensor
    tree: TreeSum[Tensor]
    seen: list[Tensor]
    values: list[Tensor]
    message: Tensor


class Stepper:
    """Runs optimizer steps of one run.

    Args:
        experiment: The run's experiment.
        model: In training mode; the step may replace gradients and batch-norm buffers.
        loss: Called as ``loss(logits, target, fov, progress=...)``.
        optimizer: Its parameters are the model's.
        augmenter: None trains on the samples as they are.
        group: The workers; each takes a contiguous share of whole micro-batches.
        seed: Seed of the run; keys every random draw.
        device: Where the model lives.
        dataset_statistics: Centre and scale (C,) for ``normalise.scope: dataset``.
        task: What is learnt; None: one mask.
        per_sample: Give the loss of each sample, too.
        factors: On the probabilities of augmentation, of each source of the store; none: 1.
        stack: Networks whose probabilities are channels.
        adversary: Learns to tell micro-batches from the unlabelled ones that come with them, and
            teaches the model to prevent it; its parameters are the optimizer's, too.
    """

    def __init__(
        self,
        experiment: Experiment,
        model: nn.Module,
        loss: Any,
        optimizer: torch.optim.Optimizer,
        augmenter: Augmenter | None,
        *,
        group: Group,
        seed: int,
        device: torch.device,
        dataset_statistics: DatasetStatistics | None = None,
        task: TaskSpec | None = None,
        per_sample: bool = False,
        factors: Sequence[float] = (),
        stack: Stack | None = None,
        adversary: Adversary | None = None,
    ) -> None:
        self._of_samples = experiment.train.micro_batch_size if per_sample else 0
        self._task = build_task(task)
        self._experiment, self._model, self._loss = experiment, model, loss
        self._optimizer, self._group = optimizer, group
        self._seed, self._device = seed, device
        self._give = Giver(
            experiment,
            augmenter,
            self._task,
            seed=seed,
            device=device,
            dataset_statistics=dataset_statistics,
            factors=factors,
            stack=stack,
        )
        self._adversary = adversary
        #: Clipped each by itself: a head that is far off is not to slow the model down.
        self._parts = [[p for p in model.parameters() if p.requires_grad]]
        if adversary is not None:
            self._parts.append(list(adversary.parameters()))
        self._of_model = sum(p.numel() for p in self._parts[0])
        self._parameters = [p for part in self._parts for p in part]
        self._sizes = [p.numel() for p in self._parameters]
        self._statistics = BatchStatistics(model)
        self._health = Health(model) if experiment.train.log_health else None
        self._auxiliary_weight = float(getattr(model, "auxiliary_weight", 0.0))
        presence = getattr(unwrapped(model), "presence", None)
        self._presence = presence if isinstance(presence, Presence) else None
        self._terms: list[str] = []
        self._error: Exception | None = None
        micro_batches = experiment.train.micro_batches_per_step
        if group.size > micro_batches:
            raise ValueError(f"{group.size} workers cannot share {micro_batches} micro-batches")
        self._shares = [share(micro_batches, group.size, rank) for rank in range(group.size)]
        self._spans = [node_spans(part.start, part.stop) for part in self._shares]
        #: One micro-batch, so one worker: gradients stay where they are, in the layout of their
        #: weights. Two layouts, and copies of all gradients, cost a step of a large model more
        #: than the rest of what is done beside PyTorch's own.
        self._in_place = micro_batches == 1

    def run(
        self,
        step: int,
        progress: float,
        fetch: Callable[[int], Batch],
        *,
        stop: bool = False,
        save: bool = False,
    ) -> StepResult:
        """Run step number `step` on this worker's micro-batches.

        The result is the same on every worker, bit for bit, and does not depend on their number.

        Args:
            step: From 0.
            progress: Of training, in [0, 1].
            fetch: Gives the micro-batch of an index.
            stop: This worker asks to stop after the step.
            save: This worker asks for a checkpoint after the step.

        Raises:
            PeerError: Another worker failed in its part; here, it raises its own error.
        """
        own: _Share | None = None
        try:
            self.check()
            own = self._own(step, progress, fetch)
        except Exception as error:
            if self._group.size == 1:
                raise
            self._error = error
        stop, save = self._agree(stop, save)
        assert own is not None  # else all have raised
        gradient, seen, values = (
            (None, own.seen, own.values) if self._in_place else self._exchange(own)
        )
        try:
            return self._finish(own.true, gradient, seen, values, stop, save)
        except Exception as error:
            if self._group.size == 1:
                raise
            # The others have gone on: told at the next meeting.
            self._error = error
            return StepResult({}, float("nan"), True, stop, save)

    def check(self) -> None:
        """Raise what this worker met after its last exchange with the others, if it met anything.

        To be called in whatever the workers do `together` next; `run` does.
        """
        if self._error is not None:
            raise self._error

    def _own(self, step: int, progress: float, fetch: Callable[[int], Batch]) -> _Share:
        true = self._statistics.begin()
        tree: TreeSum[Tensor] = TreeSum(torch.add)
        seen, values = [], []
        for index in self._shares[self._group.rank]:
            batch = fetch(index)
            # 0 * NaN is NaN: what a bad micro-batch left in the buffers would spoil the next one's
            # statistics, and which one is next depends on the number of workers.
            self._statistics.write(true)
            terms = self._backward(step, index, progress, batch)
            if not self._in_place:
                tree.push(index, 1, self._take_gradient())
            seen.append(self._statistics.read())
            values.append(terms)
        return _Share(true, tree, seen, values, self._message(tree, seen, values))

    def _message(self, tree: TreeSum[Tensor], seen: list[Tensor], values: list[Tensor]) -> Tensor:
        """What the other workers are to know: nodes of the tree, then statistics and losses."""
        if self._group.size == 1:
            return torch.zeros(0)
        nodes, micro_batches, width, row = self._layout()
        message = torch.zeros(nodes * width + micro_batches * row, device=self._device)
        for slot, node in enumerate(tree.nodes):
            message[slot * width : (slot + 1) * width] = node.value
        offset = nodes * width
        for slot, (buffers, value) in enumerate(zip(seen, values, strict=True)):
            message[offset + slot * row : offset + slot * row + row] = torch.cat([buffers, value])
        return message

    def _layout(self) -> tuple[int, int, int, int]:
        """Nodes and micro-batches of the largest share, and the length of one of each."""
        nodes = max(len(spans) for spans in self._spans)
        micro_batches = max(len(part) for part in self._shares)
        row = self._statistics.size + len(self._terms) + self._of_samples
        return nodes, micro_batches, sum(self._sizes), row

    def _agree(self, stop: bool, save: bool) -> tuple[bool, bool]:
        """Whether any worker asks to stop, or for a checkpoint; raises if any has failed."""
        if self._group.size == 1:
            return stop, save
        own = torch.tensor([stop, save, self._error is not None], dtype=torch.float32)
        any_stop, any_save, any_error = (
            torch.stack(self._group.gather(own.to(self._device))).amax(0).bool().tolist()
        )
        if any_error:
            together(self._group, self.check)
        return any_stop, any_save

    def _finish(
        self,
        true: Tensor,
        gradient: Tensor | None,
        seen: list[Tensor],
        values: list[Tensor],
        stop: bool,
        save: bool,
    ) -> StepResult:
        self._statistics.finish(true, seen)
        health = self._health
        clipped = self._experiment.train.clip_norm is not None
        if gradient is not None:
            self._put_gradient(gradient := gradient / len(values))
        elif clipped or health is not None:
            gradient = self._flat_gradient()
        norms = self._norms(gradient)
        applied = bool(np.isfinite(norms).all())
        if applied:
            if health is not None:
                health.begin()
            self._apply(norms)
        for parameter in self._parameters:
            parameter.grad = None
        seen_health = {}
        if health is not None and gradient is not None:
            seen_health = health.values(gradient[: self._of_model])
        table = np.stack([value.cpu().numpy() for value in values]).astype(np.float64)
        terms, samples = np.split(table, [len(self._terms)], axis=1)
        losses = dict(zip(self._terms, terms.mean(axis=0).tolist(), strict=True))
        single = samples.reshape(-1) if self._of_samples else None
        return StepResult(losses, norms[0], applied, stop, save, single, seen_health)

    def _backward(self, step: int, index: int, progress: float, batch: Batch) -> Tensor:
        given = self._give(step, index, progress, batch)
        image, target, fov_out = self._laid_out(given.image), given.target, given.counted
        # Dropout and the like draw from the global generator: key it per micro-batch.
        torch.manual_seed(key(self._seed, "forward", step, index))
        presence, adversary = self._presence, self._adversary
        # The backward pass is in it, too: blocks may be computed again there.
        with mixed_behind_encoder(self._model, given.behind_encoder):
            with self._narrow(), _listening(presence) as maps, _listening(adversary) as features:
                outputs = self._model(image)
            each = outputs if isinstance(outputs, tuple) else (outputs,)
            main, *auxiliary = map(self._task.activated, each)
            total, terms = self._loss(main, target, fov_out, progress=progress)
            objective = total
            for logits in auxiliary:
                extra, _ = self._loss(logits, target, fov_out, progress=progress)
                objective = objective + self._auxiliary_weight * extra
            if presence is not None:
                extra = presence_loss(presence(maps, len(image)), target, fov_out)
                objective = objective + presence.loss_weight * extra
                terms["presence"] = extra.detach()
            if adversary is not None:
                weight = resolve(self._experiment.train.domain_weight, progress)
                extra, right = domain_loss(adversary(features, len(image), weight), False)
                objective = objective + 0.5 * extra
                terms["domain"] = extra.detach()
            objective.backward()
        others: dict[str, Tensor] = {}
        if adversary is not None:
            told, told_right = self._unlabelled(adversary, step, index, progress, batch)
            terms["domain"] = 0.5 * (terms["domain"] + told)
            others["domain_accuracy"] = 0.5 * (right + told_right)
        named = {"loss": total.detach(), **{f"term/{n}": t for n, t in terms.items()}, **others}
        every = self._experiment.train.log_gradient_shares
        if every is not None and step % every == 0:
            shares = self._loss.gradient_shares(main, target, fov_out, progress=progress)
            named |= {f"share/{name}": value for name, value in shares.items()}
        self._terms = list(named)
        values = list(named.values())
        if self._of_samples:
            values += self._single(main.detach(), target, fov_out, progress)
        return torch.stack([value.float().reshape(()) for value in values])

    def _unlabelled(
        self, adversary: Adversary, step: int, index: int, progress: float, batch: Batch
    ) -> tuple[Tensor, Tensor]:
        """Add the gradient of the unlabelled samples; their loss, and the share told right.

        Batch-norms take the statistics of the labelled micro-batch, as prediction normalises every
        image by those of labelled ones. By statistics of its own each domain would look like the
        other to the head, which then had nothing to teach. None is learnt from unlabelled images.
        """
        assert batch.unlabelled is not None
        image = self._laid_out(self._give.unlabelled(step, index, progress, batch.unlabelled))
        torch.manual_seed(key(self._seed, "forward unlabelled", step, index))
        weight = resolve(self._experiment.train.domain_weight, progress)
        # The backward pass is in it, too: blocks may be computed again there.
        with self._statistics.held():
            with torch.set_grad_enabled(weight != 0), self._narrow(), adversary.listening() as maps:
                self._model(image)
            loss, right = domain_loss(adversary(maps, len(image), weight), True)
            (0.5 * loss).backward()
        return loss.detach(), right

    def _laid_out(self, image: Tensor) -> Tensor:
        """Images in the memory layout of the weights."""
        if not self._experiment.train.channels_last:
            return image
        return image.contiguous(memory_format=channels_last(image.ndim - 2))

    def _narrow(self) -> torch.autocast:
        """Mixed precision, where it is asked for."""
        narrow = self._experiment.train.amp == "bf16"
        return torch.autocast(self._device.type, torch.bfloat16, enabled=narrow)

    def _single(self, logits: Tensor, target: Tensor, fov: Tensor, progress: float) -> list[Tensor]:
        """The loss of each sample as if it were alone, whatever the loss pools."""
        with torch.no_grad():
            return [
                self._loss(*(each[i : i + 1] for each in (logits, target, fov)), progress=progress)[
                    0
                ]
                for i in range(len(logits))
            ]

    def _take_gradient(self) -> Tensor:
        """The gradient of all parameters as one vector, which is all that is left of it."""
        taken = self._flat_gradient()
        for parameter in self._parameters:
            parameter.grad = None
        return taken

    def _flat_gradient(self) -> Tensor:
        return torch.cat([self._own_gradient(p).reshape(-1).float() for p in self._parameters])

    def _own_gradient(self, parameter: nn.Parameter) -> Tensor:
        """Zeros where the loss did not reach it, so that its weights decay like all others."""
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        return parameter.grad

    def _norms(self, gradient: Tensor | None) -> list[float]:
        """2-norm of the gradient of the model, then of the adversary where there is one.

        Args:
            gradient: Of all parameters; None: looked at where it is, without a copy.
        """
        if gradient is not None:
            pieces = gradient.tensor_split([self._of_model])[: len(self._parts)]
            return [float(torch.linalg.vector_norm(piece)) for piece in pieces]
        found = []
        for part in self._parts:
            norms = [
                torch.linalg.vector_norm(self._own_gradient(p), dtype=torch.float32) for p in part
            ]
            found.append(float(torch.linalg.vector_norm(torch.stack(norms))))
        return found

    def _put_gradient(self, gradient: Tensor) -> None:
        for parameter, part in zip(self._parameters, gradient.split(self._sizes), strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.dtype)

    def _apply(self, norms: Sequence[float]) -> None:
        limit = self._experiment.train.clip_norm
        for part, norm in zip(self._parts, norms, strict=True):
            if limit is None or norm <= limit:
                continue
            for parameter in part:
                # Not in place: who looks at the step's health wants it as it was.
                parameter.grad = self._own_gradient(parameter) * (limit / norm)
        self._optimizer.step()

    def _exchange(self, own: _Share) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Gather the tree's nodes, statistics and losses of all workers; complete the tree."""
        if self._group.size == 1:
            return own.tree.total(), own.seen, own.values
        nodes, _, width, row = self._layout()
        offset, statistics = nodes * width, self._statistics.size
        whole: TreeSum[Tensor] = TreeSum(torch.add)
        all_seen, all_values = [], []
        for rank, vector in enumerate(self._group.gather(own.message)):
            for slot, (start, size) in enumerate(self._spans[rank]):
                whole.push(start, size, vector[slot * width : (slot + 1) * width])
            for slot in range(len(self._shares[rank])):
                part = vector[offset + slot * row : offset + (slot + 1) * row]
                all_seen.append(part[:statistics])
                all_values.append(part[statistics:])
        return whole.total(), all_seen, all_values


def _listening(head: Presence | Adversary | None) -> AbstractContextManager[list[Tensor]]:
    """What a head hears of a forward pass; nothing without one."""
    return nullcontext([]) if head is None else head.listening()
