"""Stochastic depth: the layer by its law, and the branches that it leaves out."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vesselflow.errors import UserError
from vesselflow.models import MODELS
from vesselflow.models.encoders import ENCODERS, check_drop_path, drops_paths
from vesselflow.models.layers.drop_path import DropPath, rates
from vesselflow.models.trial import build_meta, try_model

torch.set_num_threads(1)


def built(spec: dict, channels: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return MODELS.build(spec, in_channels=channels, classes=1)


def drops(model: nn.Module) -> list[DropPath]:
    return [module for module in model.modules() if isinstance(module, DropPath)]


@given(p=st.floats(0.0, 0.9), shape=st.sampled_from([(), (3,), (2, 4, 4), (2, 2, 3, 3)]))
@settings(max_examples=20, deadline=None)
def test_a_sample_is_kept_whole_or_left_out(p: float, shape: tuple[int, ...]) -> None:
    x = torch.rand(64, *shape, dtype=torch.float64) + 1.0
    drop = DropPath(p)
    flat = drop.train()(x).flatten(1) if shape else drop.train()(x)[:, None]
    whole = x.flatten(1) if shape else x[:, None]
    kept = (flat != 0).all(dim=1)
    torch.testing.assert_close(flat[kept], whole[kept] / (1.0 - p))
    assert (flat[~kept] == 0).all()
    assert torch.equal(drop.eval()(x), x)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_the_mean_over_draws_is_the_branch(p: float) -> None:
    torch.manual_seed(3)
    draws = 20_000
    branch = nn.Linear(4, 3).double()
    x = torch.randn(1, 4, dtype=torch.float64)
    drop = DropPath(p).train()
    with torch.no_grad():
        answers = drop(branch(x).expand(draws, 3))
        expected = drop.eval()(branch(x))[0]
        # Six standard errors of a draw that is 0 or 1 / (1 - p) of it.
        error = 6.0 * (p / (1.0 - p) / draws) ** 0.5 * expected.abs()
        assert ((answers.mean(dim=0) - expected).abs() < error).all()
        kept = (answers[:, 0] != 0).double().mean()
    assert abs(float(kept) - (1.0 - p)) < 6.0 * (p * (1.0 - p) / draws) ** 0.5


def test_draws_are_those_of_the_seed_of_a_micro_batch() -> None:
    drop, x = DropPath(0.5).train(), torch.ones(32, 2)
    answers = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        answers.append(drop(x))
    assert torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[0], answers[2])


def test_rates_rise_evenly_to_the_last_block() -> None:
    assert rates(0.3, 4) == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert rates(0.3, 1) == [0.3]
    assert rates(0.0, 2) == [0.0, 0.0]


@pytest.mark.parametrize(
    ("spec", "blocks"),
    [
        ({"name": "wnet", "filters": [4, 4, 4], "auxiliary_weight": 0.0}, 10),
        ({"name": "fpn3d", "filters": [4, 4, 8], "norm": "batch"}, 3),
    ],
)
def test_own_models_drop_in_the_order_in_which_they_compute(spec: dict, blocks: int) -> None:
    plain, model = built(spec), built({**spec, "drop_path": 0.4})
    assert list(plain.state_dict()) == list(model.state_dict())
    assert all(
        torch.equal(a, b) for a, b in zip(plain.parameters(), model.parameters(), strict=True)
    )
    image = torch.rand(2, 3, *(16,) * (3 if spec["name"] == "fpn3d" else 2))
    seen = []
    for drop in drops(model):
        drop.register_forward_hook(lambda module, inputs, output: seen.append(module.p))
    answers = [each.eval()(image) for each in (plain, model)]
    assert torch.equal(*answers)
    assert seen == pytest.approx(rates(0.4, blocks))
    # With all branches left out, none learns, and the shortcuts do.
    for drop in drops(model):
        drop.p = 1.0 - 1e-12
    model.train()(image).square().sum().backward()
    gradients = {name: float(p.grad.abs().sum()) for name, p in model.named_parameters()}
    assert all(value == 0.0 for name, value in gradients.items() if ".chain." in name)
    assert any(value > 0.0 for name, value in gradients.items() if ".shortcut." in name)


#: Encoders of each library's kind of block -> how many residual blocks they have.
FAMILIES = {
    "resnet18": 8,
    "se_resnet50": 16,
    "mobilenet_v2": 10,
    "efficientnet-b0": 9,
    "timm-efficientnet-b0": 9,
    "timm-skresnet18": 8,
    "mit_b0": 8,
    "xception": 12,
    "inceptionresnetv2": 40,
    "tu-resnet10t": 4,
    "tu-convnext_atto": 12,
    "tu-mobilenetv3_small_050": 7,
}


@pytest.mark.parametrize("encoder", FAMILIES)
def test_encoders_drop_all_their_residual_branches(encoder: str) -> None:
    architecture = "fpn" if encoder == "mit_b0" else "linknet"
    spec = {"name": architecture, "encoder": encoder, "drop_path": 0.3}
    model = build_meta(spec, 3)
    names = set(build_meta({**spec, "drop_path": None}, 3).state_dict())
    assert set(model.state_dict()) == names
    found = [drop.p for drop in drops(model.encoder)]
    assert found == pytest.approx(rates(0.3, FAMILIES[encoder]))
    none = [drop.p for drop in drops(build_meta({**spec, "drop_path": 0}, 3).encoder)]
    assert none == [0.0] * len(found)
    left = [m for m in model.modules() if type(m).__name__ == "DropPath" and m not in drops(model)]
    # What is left of the library's belongs to blocks without a shortcut, which never call it.
    calls = []
    for module in left:
        module.register_forward_hook(lambda *given: calls.append(given))
    used = []
    for drop in drops(model):
        drop.register_forward_hook(lambda module, *given: used.append(module))
    model.encoder.train()(torch.zeros(2, 3, 128, 128, device="meta"))
    assert set(map(id, used)) == set(map(id, drops(model.encoder)))
    assert not calls
    assert getattr(model.encoder, "_drop_connect_rate", 0.0) == 0.0


@pytest.mark.parametrize("encoder", ["resnet18", "mobilenet_v2", "efficientnet-b0", "mit_b0"])
def test_a_dropped_branch_of_an_encoder_learns_nothing(encoder: str) -> None:
    spec = {"name": "fpn", "encoder": encoder, "drop_path": 0.5}
    model = pickle.loads(pickle.dumps(copy.deepcopy(built(spec).encoder))).train()
    blocks = [m for m in model.modules() if isinstance(getattr(m, "drop_path", None), DropPath)]
    ends = {"bn2", "_bn2", "conv", "mlp"}
    for p, learns in ((0.0, True), (1.0 - 1e-12, False)):
        model.zero_grad()
        for drop in drops(model):
            drop.p = p
        sum(each.square().sum() for each in model(torch.rand(2, 3, 64, 64))[1:]).backward()
        for block in blocks:
            (end,) = ends & set(block._modules) - ({"conv"} if "bn2" in block._modules else set())
            total = sum(float(q.grad.abs().sum()) for q in getattr(block, end).parameters())
            assert (total > 0.0) == learns


def test_encoders_without_residual_blocks_are_refused_in_a_line() -> None:
    said = (
        r"^model\.drop_path: encoder '{}' has no residual blocks [^\n]*; allowed: 0 or null [^\n]*$"
    )
    for encoder in ("vgg11", "densenet121", "dpn68", "inceptionv4", "mobileone_s0"):
        with pytest.raises(UserError, match=said.format(encoder)):
            MODELS.validate({"name": "unet", "encoder": encoder, "drop_path": 0.1}, where="model")
        MODELS.validate({"name": "unet", "encoder": encoder, "drop_path": 0}, where="model")
    # One of timm's is tried before anything starts.
    spec = {"name": "unet", "encoder": "tu-vgg11", "drop_path": 0.1}
    with pytest.raises(UserError, match=r"^model\.drop_path: encoder 'tu-vgg11' has no residual"):
        try_model(MODELS.validate(spec), channels=3, sample=(64, 64), micro_batch_size=2)


def test_the_other_encoders_of_the_library_are_of_these_families() -> None:
    refused = set()
    for encoder in ENCODERS:
        try:
            check_drop_path(encoder, 0.1)
        except UserError:
            refused.add(encoder)
    starts = ("resn", "se", "mob", "eff", "timm-", "mit_b", "xception", "inceptionresnetv2")
    assert all(encoder.startswith(starts) for encoder in set(ENCODERS) - refused)
    assert not refused & set(FAMILIES)


def test_to_drop_nothing_is_silent_where_nothing_would_be_dropped() -> None:
    for encoder in ("resnet18", "mit_b0", "efficientnet-b0", "tu-swin_tiny_patch4_window7_224"):
        spec = {"name": "fpn", "encoder": encoder}
        same = MODELS.canonical({**spec, "drop_path": 0}) == MODELS.canonical(spec)
        assert same is not drops_paths(encoder)
    assert MODELS.canonical({"name": "wnet", "drop_path": 0.0}) == MODELS.canonical(
        {"name": "wnet"}
    )


@pytest.mark.parametrize(
    "values",
    [
        {"name": "wnet", "drop_path": 0.1, "shortcut": False},
        {"name": "wnet", "drop_path": 1.0},
        {"name": "fpn3d", "drop_path": -0.1},
        {"name": "fpn3d", "drop_path": None},
        {"name": "unet", "drop_path": 1.2},
        {"name": "unet3d", "drop_path": 0.1},
    ],
)
def test_bad_values_are_refused_in_a_line(values: dict) -> None:
    with pytest.raises(UserError, match=r"^model\.drop_path: [^\n]*; allowed: [^\n]*$"):
        MODELS.validate(values, where="model")
