"""What holds for every registered model."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from contract_parts import model_sides, model_spec
from torch import nn

from vesselflow.errors import UserError
from vesselflow.models import MODELS, strided
from vesselflow.models.ends import Placed
from vesselflow.models.needs import divisor_of
from vesselflow.models.trial import parameters_of
from vesselflow.models.widths import Ladder

torch.set_num_threads(1)

#: Parameters without influence on the logits, by prefix.
UNUSED = {
    # Its default depth of 3 leaves out the encoder's last stages.
    "pspnet": ("encoder.layer3.", "encoder.layer4."),
    # The transformer's own classifier and its norm.
    "dpt": ("encoder.model.norm.", "encoder.model.head."),
}


@pytest.fixture(scope="module", params=MODELS.names())
def built(request):
    name = request.param
    spec = model_spec(name)
    torch.manual_seed(0)
    model = MODELS.build(spec, in_channels=3, classes=1)
    image = torch.rand(2, 3, *model_sides(name), generator=torch.Generator().manual_seed(1))
    return name, spec, model, image


def test_attributes(built):
    _, spec, model, _ = built
    # The feed pads to multiples of what `divisor_of` says.
    padded = divisor_of(MODELS.validate(spec))
    assert (np.mod(padded, model.divisor) == 0).all()
    assert model.auxiliary_weight >= 0


def before_batch_norm(model: nn.Module) -> set[str]:
    """Biases that a batch-norm takes out again: their gradient is 0 but for rounding.

    Those of blocks that call their parts so (`ConvBnRelu` of segmentation-models-pytorch).
    """
    return {
        f"{path}.conv.bias"
        for path, block in model.named_modules()
        if isinstance(getattr(block, "conv", None), nn.Conv2d)
        and isinstance(getattr(block, "bn", None), nn.BatchNorm2d)
    }


def test_evaluation_is_deterministic_finite_and_of_one_shape(built):
    _, _, model, image = built
    model.eval()
    with torch.inference_mode():
        first, second = model(image), model(image)
    assert first.shape == (2, 1, *image.shape[2:])
    assert first.dtype == torch.float32
    assert torch.isfinite(first).all()
    assert torch.equal(first, second)


def test_state_dict_brings_the_same_answer_to_another_model(built):
    _, spec, model, image = built
    model.eval()
    torch.manual_seed(99)
    other = MODELS.build(spec, in_channels=3, classes=1).eval()
    other.load_state_dict(model.state_dict())
    with torch.inference_mode():
        assert torch.equal(other(image), model(image))


def test_an_output_stride_gives_that_grid_and_several_classes(built):
    _, spec, model, image = built
    coarse = strided.build(spec, in_channels=3, classes=2, stride=8).eval()
    padded = divisor_of(MODELS.validate(spec), 8)
    assert (np.mod(padded, coarse.divisor) == 0).all()
    assert coarse.auxiliary_weight == model.auxiliary_weight
    logits = coarse(image)
    assert logits.shape == (2, 2, *(side // 8 for side in image.shape[2:]))
    assert torch.isfinite(logits).all()
    # What rare foreground makes of the head's bias reaches each logit as it is.
    logits[:, 1].sum().backward()
    rare = [p for p in coarse.parameters() if p.shape == (2,) and (p < -4).all()]
    assert logits[:, 1].numel() in [round(p.grad[1].item()) for p in rare]


def test_initial_weights_are_of_the_global_generator_and_the_same_at_an_output_stride_of_one(built):
    _, spec, model, _ = built
    torch.manual_seed(0)
    same = strided.build(spec, in_channels=3, classes=1, stride=1)
    assert type(same) is type(model)
    assert list(same.state_dict()) == list(model.state_dict())
    # Parameters only: other tests may have moved running statistics.
    pairs = zip(same.parameters(), model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_two_channels_of_a_class_become_the_logit_of_their_softmax(built):
    _, spec, _, image = built
    model = MODELS.build({**spec, "head": "softmax"}, in_channels=3, classes=2)
    channels = []  # hooks are called in the order of their registration
    model._forward_hooks.move_to_end(
        model.register_forward_hook(lambda module, inputs, out: channels.append(out)).id, last=False
    )
    for mode in (True, False):
        answers = each(model.train(mode)(image))
        for wide, logits in zip(each(channels.pop()), answers, strict=True):
            assert wide.shape == (2, 4, *image.shape[2:])
            foreground = wide.unflatten(1, (2, 2)).double().softmax(dim=1)[:, 1]
            torch.testing.assert_close(torch.sigmoid(logits.double()), foreground)


def test_coordinates_are_further_channels_of_the_first_layer(built):
    name, spec, model, image = built
    placed = {**spec, "coordinates": True}
    if name == "segformer":  # its encoder takes three channels
        with pytest.raises(UserError, match=r"^model\.coordinates: encoder 'mit_b0' takes three"):
            MODELS.validate(placed, where="model")
        return
    other = MODELS.build(placed, in_channels=3, classes=1).eval()
    axes = image.ndim - 2
    shapes = [
        (p.shape, q.shape) for p, q in zip(model.parameters(), other.parameters(), strict=True)
    ]
    wider = [(a, b) for a, b in shapes if a != b]
    assert wider  # a U-Net that is given the image twice has several
    # A 2.5-D network has those of each slice that it sees.
    more = axes * spec.get("slices", MODELS.validate(spec, where="model").get("slices", 1))
    assert all(b[1] - a[1] == more and a[2:] == b[2:] for a, b in wider)
    seen = []
    hook = other.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    answer = other(image)
    hook.remove()
    assert answer.shape == (2, 1, *image.shape[2:])
    assert torch.equal(seen[0][:, :3], image)
    for axis, side in enumerate(image.shape[2:]):
        ramp = torch.linspace(-1, 1, side)
        shape = [side if each == axis else 1 for each in range(axes)]
        expected = ramp.view(shape).expand(image.shape[2:])
        for channel in seen[0][:, 3 + axis]:
            torch.testing.assert_close(channel, expected)
    assert MODELS.canonical(placed) == {**MODELS.canonical(spec), "coordinates": True}


class Stop(Exception):
    """Ends a forward pass once its input was seen."""


def seen_by(model: nn.Module, image: torch.Tensor) -> torch.Tensor:
    """What the architecture is given of an image, without what it makes of it."""
    found = []

    def keep(module, inputs):
        found.append(inputs[0])
        raise Stop

    hook = model.register_forward_pre_hook(keep)
    with pytest.raises(Stop):
        model(image)
    hook.remove()
    return found[0]


def test_a_batch_norm_of_the_input_changes_nothing_else(built):
    name, spec, model, image = built
    normed = {**spec, "input_norm": True}
    torch.manual_seed(0)
    other = MODELS.build(normed, in_channels=3, classes=1)
    added = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    names = {f"input_norm.{tensor}" for tensor in added}
    assert set(other.state_dict()) == {*model.state_dict(), *names}
    drawn = dict(other.named_parameters())
    assert all(torch.equal(drawn[n], p) for n, p in model.named_parameters())
    assert MODELS.canonical(normed) == {**MODELS.canonical(spec), "input_norm": True}
    image = 3.0 * image + torch.tensor([0.0, 10.0, -5.0]).view(3, *[1] * (image.ndim - 2))
    flat = image.double().transpose(0, 1).flatten(1).numpy()
    expected = (flat - flat.mean(1, keepdims=True)) / np.sqrt(flat.var(1, keepdims=True) + 1e-5)
    if name == "wnet":  # it has its own, before which it looks at sizes
        seen = other.train().input_norm(image)
    else:
        seen = seen_by(other.train(), image)
        assert torch.equal(seen_by(model, image), image)
    np.testing.assert_allclose(
        seen.detach().transpose(0, 1).flatten(1), expected, rtol=1e-4, atol=1e-4
    )
    moved = 0.1 * flat.mean(1)
    np.testing.assert_allclose(other.input_norm.running_mean, moved, rtol=1e-4, atol=1e-5)


def test_coordinates_stand_behind_the_norm_of_an_image():
    spec = {"name": "unet3d", "input_norm": True, "coordinates": True}
    model = MODELS.build(spec, in_channels=2, classes=1).eval()
    assert model.input_norm.num_features == 2
    model.input_norm.running_mean.fill_(7.0)
    volume = torch.rand(1, 2, 4, 4, 8)
    seen = seen_by(model, volume)
    torch.testing.assert_close(seen[:, :2], (volume - 7.0) / (1.0 + 1e-5) ** 0.5)
    torch.testing.assert_close(seen[0, 4, 0, 0], torch.linspace(-1, 1, 8))
    copied = copy.deepcopy(model)
    copied.input_norm.running_mean.zero_()
    assert not torch.equal(seen_by(copied, volume), seen)
    assert torch.equal(seen_by(model, volume), seen)


def test_an_axis_of_one_pixel_has_its_middle_at_zero():
    (seen,) = Placed()(nn.Identity(), (torch.rand(1, 1, 1, 3),))
    assert seen[0, 1:].tolist() == [[[0.0, 0.0, 0.0]], [[-1.0, 0.0, 1.0]]]


@pytest.mark.parametrize(
    "values", [{"head": "sofmax"}, {"head": None}, {"coordinates": 1}, {"input_norm": 1}]
)
def test_bad_ends_are_refused_in_a_line(values):
    with pytest.raises(
        UserError, match=r"^model\.(head|coordinates|input_norm): [^\n]*; allowed: [^\n]*$"
    ):
        MODELS.validate({"name": "unet3d", **values}, where="model")


def test_first_layers_of_colours_take_no_coordinates():
    spec = {"name": "unet", "weights": "imagenet", "coordinates": True}
    with pytest.raises(UserError, match=r"^model\.coordinates: weights 'imagenet' are those of"):
        MODELS.validate(spec, where="model")


def each(answer):
    return answer if isinstance(answer, tuple) else (answer,)


def test_heads_of_softmax_start_from_rare_foreground_and_name_their_runs(built):
    _, spec, _, _ = built
    softmax = {**spec, "head": "softmax"}
    model = strided.build(softmax, in_channels=3, classes=1, stride=2)
    biases = [p.tolist() for p in model.parameters() if p.shape == (2,) and (p < -4).any()]
    assert biases
    assert all(bias == [0.0, pytest.approx(-4.59512)] for bias in biases)
    assert MODELS.canonical(softmax) == {**MODELS.canonical(spec), "head": "softmax"}
    assert MODELS.canonical({**spec, "head": "sigmoid"}) == MODELS.canonical(spec)


def test_a_head_of_presence_hears_the_coarsest_map_and_changes_nothing_else(built):
    _, spec, model, image = built
    torch.manual_seed(0)
    told = MODELS.build({**spec, "presence": 0.5}, in_channels=3, classes=1)
    own, shared = dict(told.named_parameters()), dict(model.named_parameters())
    assert own.keys() - shared.keys() == {"presence.linear.weight", "presence.linear.bias"}
    assert all(torch.equal(own[key], value) for key, value in shared.items())
    torch.manual_seed(1)
    with told.presence.listening() as heard:
        answers = each(told.train()(image))
    torch.manual_seed(1)
    for answer, plain in zip(answers, each(model.train()(image)), strict=True):
        assert torch.equal(answer, plain)
    # As coarse as what sides must be multiples of.
    sides = tuple(np.divide(image.shape[2:], told.divisor)[-2:])
    *_, coarsest = (maps for maps in heard if maps.shape[-2:] == sides)
    assert coarsest.shape[1] == told.presence.linear.in_features
    told.presence(heard, len(image)).sum().backward()
    assert all(p.grad.any() for p in told.presence.parameters())
    assert any(p.grad is not None for key, p in own.items() if not key.startswith("presence."))
    assert told.auxiliary_weight == model.auxiliary_weight
    assert MODELS.canonical({**spec, "presence": None}) == MODELS.canonical(spec)


def test_a_pass_reaches_all_parameters_and_changes_only_the_statistics_of_batch_norms(built):
    """Without a step of an optimizer; whatever else moves would move at another pace by workers."""
    name_, _, model, image = built
    model.zero_grad()
    own = {
        f"{path}.{name}".lstrip(".")
        for path, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._NormBase)
        for name, _ in module.named_buffers(recurse=False)
    }
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    for training in (True, False):
        model.train(training)
        outputs = each(model(image))
        assert all(o.shape == (2, 1, *image.shape[2:]) for o in outputs)
        weights = torch.randn(outputs[0].shape, generator=torch.Generator().manual_seed(2))
        sum((one * weights).sum() for one in outputs).backward()
        moved = {n for n, value in model.state_dict().items() if not torch.equal(value, before[n])}
        others = sorted(moved - own)
        assert not others, f"beside the batch-norms ({len(own)} statistics) moved: {others}"
        if training:
            still = {n for n in own - moved if not n.startswith(UNUSED.get(name_, ("none",)))}
            assert not still, f"statistics that no pass moves: {sorted(still)}"
            silent = {
                n
                for n, p in model.named_parameters()
                if (p.grad is None or not p.grad.abs().sum() > 0)
                and not n.startswith(UNUSED.get(name_, ("none",)))
            }
            assert silent <= before_batch_norm(model)
            before = {name: value.clone() for name, value in model.state_dict().items()}
        else:
            assert not moved, f"an evaluation moved {sorted(moved)}"
    model.zero_grad()
    for module, mode in zip(model.modules(), modes, strict=True):
        module.training = mode


def test_wider_models_have_more_parameters(built):
    _, spec, model, _ = built
    ladder = Ladder(spec)
    given = sum(parameter.numel() for parameter in model.parameters())
    counts = [
        parameters_of(ladder[ladder.at(factor)], channels=3, classes=1, stride=1)
        for factor in ((0.5, 2) if ladder.keys else ())
    ]
    assert sorted({*counts, given}) == [*counts[:1], given, *counts[1:]]
