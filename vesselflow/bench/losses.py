"""Losses: ms of each, forward and backward, and its share of a step of a U-Net."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from vesselflow.bench.commands import row, spread, target
from vesselflow.losses import LOSSES
from vesselflow.losses.loss import Loss
from vesselflow.models import MODELS

#: Micro-batch: four images of 256 x 256.
SHAPE = (4, 1, 256, 256)
#: Terms of the sum that stands for `compose`, which has no defaults.
TERMS: dict[str, Any] = {"bce": {}, "jaccard": {}}
#: Largest share of a step that a loss may take.
MOST = 0.10
#: Losses that follow centre lines have no target: pooling and thinning are their nature.
LINES = ("cldice", "skeleton_recall")
STEP = "resnet34 U-Net, a step without its loss"
#: Evaluations of a loss whose mean is a round's figure.
EACH = 3


def losses(rounds: int = 5, progress: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Time every registered loss with its defaults beside a step of a U-Net, interleaved.

    A loss: forward and backward to the logits of a batch of (4, 1, 256, 256), float32, with vessels
    and a round fov. The step: forward, backward and AdamW of a U-Net with resnet34 on images of the
    same batch, the gradient of the logits given. Everything takes its turn in each round, in an
    order that rotates; one round warms up and is not counted. On the CPU, with torch's own number
    of threads.

    Args:
        rounds: Counted rounds, at least 1.
        progress: Called with a line of text as the bench goes on.

    Returns:
        As of `feed`, with ``targets``; times in ms, shares of the step of the same round.
    """
    say = progress or (lambda text: None)
    logits, target_, fov = example()
    peers: dict[str, Callable[[], float]] = {STEP: _step(logits)}
    for name in LOSSES.names():
        peers[name] = _timed(built(name), logits, target_, fov)
    times: dict[str, list[float]] = {name: [] for name in peers}
    names = list(peers)
    for number in range(rounds + 1):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            took = peers[name]()
            if number:
                times[name].append(took)
        say(f"round {number} of {rounds}: a step {times[STEP][-1] if number else 0:.0f} ms")
    return summarise(times)


def summarise(times: Mapping[str, list[float]]) -> dict[str, Any]:
    """The result of the bench from ms by round, `STEP` among them."""
    found = [name for name in times if name != STEP]
    shares = {
        name: spread([a / b for a, b in zip(times[name], times[STEP], strict=True)])
        for name in found
    }
    how = f"{SHAPE}, float32, {torch.get_num_threads()} threads"
    return {
        "name": "losses",
        "peers": {name: row(values, "ms", {"how": how}) for name, values in times.items()},
        "ratios": {f"{name} / step": shares[name] for name in found},
        "targets": [
            target(f"{name}, share of a step", shares[name]["median"], MOST)
            for name in found
            if name not in LINES
        ],
    }


def built(name: str) -> Loss:
    """A loss with its defaults; `compose` with a sum of two."""
    required = [
        key
        for key, field in LOSSES.part(name).arguments.model_fields.items()
        if field.is_required()
    ]
    loss: Loss = LOSSES.build({"name": name, **{key: TERMS for key in required}})
    return loss


def example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, target and fov: curved vessels on 14 % of the pixels in a round fov."""
    generator = torch.Generator().manual_seed(0)
    images, _, height, width = SHAPE
    y = torch.linspace(-1, 1, height).view(1, 1, -1, 1)
    x = torch.linspace(-1, 1, width).view(1, 1, 1, -1)
    phase = torch.arange(images).view(-1, 1, 1, 1)
    vessels = (torch.sin(9 * x + 3 * y * y + phase) * torch.cos(7 * y - 2 * x * x)).abs() < 0.07
    logits = torch.randn(SHAPE, generator=generator) + 2.0 * vessels - 1.0
    fov = (x * x + y * y < 1).expand(images, 1, -1, -1)
    return logits, vessels.float(), fov


def _timed(
    loss: Loss, logits: torch.Tensor, target_: torch.Tensor, fov: torch.Tensor
) -> Callable[[], float]:
    def once() -> float:
        began = time.perf_counter()
        for _ in range(EACH):
            x = logits.clone().requires_grad_()
            loss(x, target_, fov, progress=0.5)[0].backward()
        return (time.perf_counter() - began) * 1e3 / EACH

    return once


def _step(logits: torch.Tensor) -> Callable[[], float]:
    torch.manual_seed(0)
    spec = {"name": "unet", "encoder": "resnet34"}
    model = MODELS.build(spec, in_channels=3, classes=1).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters())
    image = torch.randn(SHAPE[0], 3, *SHAPE[2:]).contiguous(memory_format=torch.channels_last)
    gradient = torch.randn_like(logits) / logits.numel()

    def once() -> float:
        began = time.perf_counter()
        model(image).backward(gradient)
        optimizer.step()
        optimizer.zero_grad()
        return (time.perf_counter() - began) * 1e3

    return once
