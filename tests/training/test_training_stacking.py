"""What a network is given of others: which of them predicts a sample, and that none changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import training_cases as cases
from torch import Tensor, nn

from vesselflow.augment.compose import compose
from vesselflow.feed.batches import Batch
from vesselflow.tasks.spec import TaskSpec
from vesselflow.tasks.task import build_task
from vesselflow.training.giving import Giver
from vesselflow.training.loop import build_model, load_weights
from vesselflow.training.stacking import Stack

TASK = build_task(TaskSpec())


class Planted(nn.Module):
    """Logits of one probability, whatever the image; a weight that is not to be trained."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(probability).logit())
        self.norm = nn.BatchNorm2d(1)
        self.seen: list[int] = []

    def forward(self, image: Tensor) -> Tensor:
        assert not self.training
        assert image.shape[1] == 3
        self.seen.append(len(image))
        return self.logit.expand(len(image), 1, *image.shape[2:])


def planted(*held: tuple[int, ...]) -> tuple[Stack, list[Planted]]:
    networks = [Planted(p) for p in (0.2, 0.5, 0.9)[: len(held)]]
    return Stack(networks, held, TASK, 3), networks


def test_a_sample_is_given_what_the_network_that_held_it_out_makes_of_it() -> None:
    stack, networks = planted((0, 3), (1,), (2, 4))
    image = torch.randn(4, 3, 8, 8)
    given = stack.held_out(image, np.array([4, 0, 2, 3], dtype=np.int32))
    assert torch.equal(given[:, :3], image)
    expected = torch.tensor([0.9, 0.2, 0.9, 0.2]).view(4, 1, 1, 1).expand(4, 1, 8, 8)
    torch.testing.assert_close(given[:, 3:], expected)
    # Each sample costs one forward pass, and a network without a sample none.
    assert [network.seen for network in networks] == [[2], [], [2]]
    # Nothing of them is to be trained, and nothing to be kept for gradients.
    assert not any(each.requires_grad for network in networks for each in network.parameters())
    networks[0].requires_grad_(True)
    assert not given.requires_grad
    assert not stack.held_out(image, np.array([0, 0, 3, 3])).requires_grad
    with pytest.raises(KeyError):
        stack.held_out(image[:1], np.array([9]))


def test_an_image_is_given_the_mean_of_all() -> None:
    stack, _ = planted((0,), (1,), (2,))
    image = torch.randn(1, 3, 8, 8)
    given = stack.mean(image)
    assert torch.equal(given[:, :3], image)
    torch.testing.assert_close(given[:, 3:], torch.full((1, 1, 8, 8), (0.2 + 0.5 + 0.9) / 3))


def test_no_source_is_held_out_twice() -> None:
    with pytest.raises(ValueError, match="by one network"):
        planted((0, 1), (1,))


def test_a_model_completes_images_before_it_places_their_pixels() -> None:
    experiment = cases.tiny_experiment(
        model={"name": "wnet", "filters": [4, 8], "coordinates": True}, train={"stack": "a/b"}
    )
    model = build_model(experiment, 3, 0).eval()
    stack, _ = planted((0,), (1,))
    stack.attach(model)
    seen = []
    # Behind the hooks of the model itself: what its first layer would get.
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    image = torch.randn(1, 3, 16, 16)
    completed = model(image)
    given = torch.cat([image, torch.full((1, 1, 16, 16), 0.35)], dim=1)
    torch.testing.assert_close(seen[0][:, :4], given)
    torch.testing.assert_close(seen[0][0, 4, :, 0], torch.linspace(-1, 1, 16))
    torch.testing.assert_close(model(given), completed)


def test_predictions_are_mixed_with_their_samples() -> None:
    experiment = cases.tiny_experiment(augment={"cutmix": {"p": 1.0}})
    stack, _ = planted((0,), (1,))
    giver = Giver(
        experiment,
        compose({"cutmix": experiment.augment["cutmix"]}),
        TASK,
        seed=0,
        device=torch.device("cpu"),
        stack=stack,
    )
    shape = (2, 1, 32, 32)
    image = np.zeros((2, 3, 32, 32), dtype=np.uint8)
    image[1] = 255
    batch = Batch(
        image=image,
        target=np.zeros(shape, dtype=np.uint8),
        fov=np.ones(shape, dtype=np.uint8),
        centre=np.zeros((2, 3), dtype=np.float32),
        scale=np.ones((2, 3), dtype=np.float32),
        source=np.array([0, 1], dtype=np.int32),
    )
    given = giver(0, 0, 0.0, batch).image
    assert given.shape == (2, 4, 32, 32)
    assert 0 < given[:, 0].mean() < 1
    black = given[:, 0] < given[:, 0].mean()
    assert len(torch.unique(black[0])) == 2
    torch.testing.assert_close(given[:, 3], torch.where(black, 0.2, 0.5))


def test_training_changes_nothing_of_the_networks_and_keeps_nothing_of_them() -> None:
    experiment = cases.tiny_experiment(
        train={"epochs": 1, "steps_per_epoch": 2, "ema": 0.9, "stack": "a/b"},
    )
    sources = range(cases.SAMPLES)
    stack, networks = planted(tuple(sources[::2]), tuple(sources[1::2]))
    before = [{k: v.clone() for k, v in network.state_dict().items()} for network in networks]
    trace = cases.run_tiny(experiment, stack=stack)
    for network, values in zip(networks, before, strict=True):
        assert network.logit.grad is None
        for name, value in network.state_dict().items():
            assert torch.equal(value, values[name])
    own = build_model(experiment, 3, cases.SEED).state_dict()
    kept = load_weights(trace.weights[1])
    assert {name: value.shape for name, value in kept.items()} == {
        name: value.shape for name, value in own.items()
    }
    assert own["first.down.0.chain.0.weight"].shape[1] == 4
    resumed = cases.run_tiny(
        experiment,
        stack=stack,
        resume=cases.run_tiny(experiment, stack=stack, stop_after=1).checkpoints[1],
    )
    assert resumed.weights == trace.weights
