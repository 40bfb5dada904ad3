"""A step mixes what the network and the loss are given, alike, and on any number of workers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import training_cases as cases
from torch import Tensor, nn

from vesselflow.augment.compose import Mix, compose
from vesselflow.config.experiment import load_experiment
from vesselflow.feed.batches import Batch
from vesselflow.losses import LOSSES
from vesselflow.models.layers.handoff import Handoff
from vesselflow.runs.registries import REGISTRIES
from vesselflow.training.giving import Given
from vesselflow.training.group import Solo
from vesselflow.training.step import Stepper


class Recorder(nn.Module):
    """Remembers what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))
        self.image = torch.zeros(0)

    def forward(self, image: Tensor) -> Tensor:
        self.image = image.detach().clone()
        return image * self.factor


@pytest.mark.parametrize("way", ["mixup", "cutmix", "cutmixup"])
def test_network_and_loss_are_given_the_same_mix(way: str) -> None:
    sections = {
        "data": {"train": "a"},
        "augment": {way: {"p": 1, "alpha": 1}},
        "normalise": {"scope": "none"},
        "train": {"micro_batch_size": 4},
    }
    experiment = load_experiment(sections, registries=REGISTRIES)
    values = np.random.default_rng(0).integers(0, 256, (4, 1, 16, 16), dtype=np.uint8)
    fov = (np.random.default_rng(1).random((4, 1, 16, 16)) < 0.9).astype(np.uint8)
    ones = np.ones((4, 1), np.float32)
    # The image is its own target: so it is when mixed, if both are mixed alike.
    batch = Batch(
        image=values * fov,
        target=values * fov,
        fov=fov,
        centre=0 * ones,
        scale=ones,
        source=np.arange(4, dtype=np.int32),
    )
    model, given = Recorder(), []

    def loss(logits: Tensor, target: Tensor, inside: Tensor, *, progress: float):
        given.append((target, inside))
        return (logits * target).mean(), {}

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    stepper = Stepper(
        experiment,
        model,
        loss,
        optimizer,
        compose(experiment.augment),
        group=Solo(),
        seed=0,
        device=torch.device("cpu"),
    )
    stepper.run(0, 0.0, lambda index: batch)
    ((target, inside),) = given
    image = model.image
    assert torch.allclose(image, target * inside, atol=1e-6)
    alone = torch.from_numpy(batch.image / 255).float()
    assert all(not torch.allclose(a, b) for a, b in zip(image, alone, strict=True))
    assert (image[inside == 0] == 0).all()
    # Another step mixes otherwise.
    stepper.run(1, 0.0, lambda index: batch)
    assert not torch.equal(model.image, image)


@pytest.mark.parametrize(
    ("way", "arguments"), [("cutmix", {}), ("manifold_mixup", {"at": "encoder"})]
)
def test_mixing_is_the_same_in_every_run_and_changes_it(
    way: str, arguments: dict[str, str]
) -> None:
    mixed = [
        cases.run_tiny(cases.tiny_experiment(augment={way: {"p": 1, **arguments}}), stop_after=3)
        for _ in range(2)
    ]
    assert cases.differences(mixed[0].last, mixed[1].last) == []
    off = cases.tiny_experiment(augment={way: {"p": 0, **arguments}})
    plain = cases.run_tiny(off, stop_after=3)
    assert cases.differences(mixed[0].last, plain.last) != []


def test_behind_the_encoder_maps_are_mixed_as_the_target_is() -> None:
    drawn = [None, Mix("manifold_mixup", 0, torch.full((2, 2), 0.25), hidden=True)]
    image = torch.zeros(2, 1, 2, 2)
    given = Given(image, image, image, image, None, drawn)
    mix = given.behind_encoder
    assert mix is not None
    assert (mix.share.tolist(), mix.other.tolist()) == ([1.0, 0.25], [0, 0])
    assert Given(image, image, image, image, None, [None, None]).behind_encoder is None
    assert Given(image, image, image, image, None).behind_encoder is None


def test_maps_are_mixed_until_the_backward_pass_is_done() -> None:
    """What is computed again there has to be what it was."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.handoff, self.layer = Handoff(), nn.Conv2d(1, 1, 1)

        def forward(self, image: Tensor) -> Tensor:
            maps = self.layer(image)
            maps.register_hook(lambda gradient: mixed.append(self.handoff.mix is not None))
            return self.handoff(maps)

    mixed: list[bool] = []
    sections = {
        "data": {"train": "a"},
        "augment": {"manifold_mixup": {"p": 1, "at": "encoder"}},
        "normalise": {"scope": "none"},
        "train": {"micro_batch_size": 4},
    }
    experiment = load_experiment(sections, registries=REGISTRIES)
    ones = np.ones((4, 1), np.float32)
    values = np.random.default_rng(0).integers(0, 256, (4, 1, 8, 8), dtype=np.uint8)
    inside = np.ones((4, 1, 8, 8), np.uint8)
    batch = Batch(values, values, inside, 0 * ones, ones, np.arange(4, dtype=np.int32))
    model = Network()
    stepper = Stepper(
        experiment,
        model,
        LOSSES.build(experiment.loss),
        torch.optim.SGD(model.parameters(), lr=0.1),
        compose(experiment.augment),
        group=Solo(),
        seed=0,
        device=torch.device("cpu"),
    )
    stepper.run(0, 0.0, lambda index: batch)
    assert mixed == [True]
    assert model.handoff.mix is None
