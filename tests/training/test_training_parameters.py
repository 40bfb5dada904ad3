"""Which parameters are trained, at which rates, and which decay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import training_cases as cases
from torch import nn

from vesselflow.config.experiment import Train
from vesselflow.errors import UserError
from vesselflow.models import MODELS, strided
from vesselflow.optimizers import OPTIMIZERS
from vesselflow.training.loop import build_model
from vesselflow.training.parameters import (
    blocks,
    freeze,
    parameter_groups,
    rate,
    training_mode,
)

torch.set_num_threads(1)

#: A model with an encoder and batch-norms, on volumes.
FPN = {"name": "fpn3d", "filters": [4, 8], "pyramid_channels": 4, "norm": "batch"}


def named(groups: Any, model: nn.Module) -> list[set[str]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [{names[id(parameter)] for parameter in group["params"]} for group in groups]


def fpn() -> nn.Module:
    model: nn.Module = MODELS.build(FPN, in_channels=1, classes=1)
    return model


def test_without_options_an_optimizer_gets_all_parameters_in_one_group() -> None:
    model = fpn()
    assert [id(p) for p in parameter_groups(model, Train())] == [id(p) for p in model.parameters()]


def test_the_encoder_has_a_rate_and_norms_no_decay() -> None:
    model = fpn()
    train = Train(encoder_lr_factor=0.1, no_decay_on_norms=True)
    groups = parameter_groups(model, train)
    assert isinstance(groups, list)
    found = named(groups, model)
    assert sorted(set().union(*found)) == sorted(name for name, _ in model.named_parameters())
    assert sum(map(len, found)) == len(list(model.parameters()))
    for group, names in zip(groups, found, strict=True):
        encoder = {name.startswith("encoder.") for name in names}
        assert encoder == {group["lr_factor"] == 0.1}
        assert rate(group, 0.5) == (0.05 if True in encoder else 0.5)
    plain = {
        f"{path}.{name}"
        for path, module in model.named_modules()
        for name, _ in module.named_parameters(recurse=False)
        if name == "bias" or isinstance(module, nn.BatchNorm3d)
    }
    undecayed = [set(), *(n for g, n in zip(groups, found, strict=True) if "weight_decay" in g)]
    assert set().union(*undecayed) == plain
    optimizer = OPTIMIZERS.build({"name": "adamw", "weight_decay": 0.3}, parameters=groups)
    assert sorted(group["weight_decay"] for group in optimizer.param_groups) == [0, 0, 0.3, 0.3]


def test_only_norms_and_biases_have_one_dimension() -> None:
    """What `no_decay_on_norms` goes by, of the models of segmentation-models-pytorch, too."""
    for name in ("unet", "segformer", "wnet", "unet3d"):
        spec = {"name": name} | ({"encoder": "mit_b0"} if name in ("unet", "segformer") else {})
        model = MODELS.build(spec, in_channels=3, classes=1)
        norms = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
        for module in model.modules():
            for key, parameter in module.named_parameters(recurse=False):
                plain = key.endswith("bias") or isinstance(module, norms)
                assert (parameter.ndim < 2) == plain, (name, type(module), key)


def test_a_frozen_module_keeps_weights_and_statistics() -> None:
    model = fpn()
    freeze(model, ("encoder.0", "head.bias"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = OPTIMIZERS.build({"name": "sgd"}, parameters=parameter_groups(model, Train()))
    training_mode(model, ("encoder.0", "head.bias"))
    model(torch.rand(2, 1, 8, 16, 16)).square().sum().backward()
    optimizer.step()
    moved = {n for n, value in model.state_dict().items() if not torch.equal(value, before[n])}
    frozen = {n for n in before if n.startswith("encoder.0.") or n == "head.bias"}
    assert len(frozen) > 5
    assert not moved & frozen
    assert {n for n in before if n.startswith("encoder.1.")} <= moved
    assert "head.weight" in moved
    # Names are whole: encoder.1 does not stand for encoder.10, nor enc for encoder.
    with pytest.raises(UserError):
        freeze(model, ("enc",))


def test_names_are_the_models_own_where_its_answer_is_averaged() -> None:
    spec = {"name": "fpn", "encoder": "resnet18"}
    model = strided.build(spec, in_channels=3, classes=1, stride=4)
    assert type(model) is strided.Averaged
    assert blocks(model) == ["encoder", "decoder", "segmentation_head"]
    freeze(model, ("encoder",))
    training_mode(model, ("encoder",))
    assert not any(p.requires_grad for p in model.model.encoder.parameters())
    assert not model.model.encoder.bn1.training
    assert model.model.decoder.training


@pytest.mark.parametrize(
    ("model", "settings", "said"),
    [
        (
            {"name": "wnet"},
            {"freeze": ["encoder"]},
            "train.freeze: the model has no parameter below 'encoder'; allowed: first, second, "
            "or names below these",
        ),
        (
            FPN,
            {"freeze": ["encoder", "pyramid", "raise_", "head"]},
            "train.freeze: no parameter is left to train; allowed: some of encoder, pyramid, "
            "raise_, head, or names below these",
        ),
        (
            {"name": "wnet"},
            {"encoder_lr_factor": 0.1},
            "train.encoder_lr_factor: the encoder of the model is none: it has first, second; "
            "allowed: null",
        ),
        (
            FPN,
            {"encoder_lr_factor": 0.1, "freeze": ["encoder"]},
            "train.encoder_lr_factor: the encoder of the model is frozen; allowed: null",
        ),
    ],
)
def test_what_fits_no_model_is_refused(
    model: dict[str, Any], settings: dict[str, Any], said: str
) -> None:
    built = MODELS.build(model, in_channels=1, classes=1)
    train = Train(**settings)

    def prepared() -> None:
        freeze(built, train.freeze)
        parameter_groups(built, train)

    with pytest.raises(UserError) as caught:
        prepared()
    assert str(caught.value) == said


def test_a_run_with_a_frozen_encoder_stops_and_goes_on_bit_equal() -> None:
    whole = cases.whole(cases.OPTIONS)
    start = build_model(cases.OPTIONS, 1, cases.SEED).state_dict()
    end = whole.model
    for name, value in start.items():
        assert torch.equal(value, end[name]) == name.startswith("encoder.0."), name
    before = cases.run_tiny(cases.OPTIONS, stop_after=4)
    after = cases.run_tiny(cases.OPTIONS, resume=before.checkpoints[4])
    assert cases.differences(after.last, whole.last) == []
    # Scoring between the epochs leaves the frozen statistics alone, and the kept mean has them.
    assert whole.weights == before.weights | after.weights
