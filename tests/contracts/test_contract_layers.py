"""Layers beside plain numpy, and beside the libraries that have them too."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import timm.layers
import torch
from contract_parts import made_up, maps_example, pyramid_example
from scipy import ndimage
from segmentation_models_pytorch.base.modules import SCSEModule
from torch import nn
from torch.nn import functional

from vesselflow.config.registry import Registry
from vesselflow.errors import UserError
from vesselflow.models import MODELS
from vesselflow.models.layers import (
    ACTIVATIONS,
    CONVOLUTIONS,
    EXCITATIONS,
    FUSIONS,
    NORMS,
    SKIP_GATES,
    WINDOW_FUSIONS,
)
from vesselflow.models.layers.excitations import bottleneck
from vesselflow.models.layers.fusions import Parallel

torch.set_num_threads(1)

SIDES = [(3, 4), (2, 3, 4)]
MODELS_WITH_SE = [part.name for part in MODELS if "se" in part.arguments.model_fields]


def excitation(name: str, axes: int, channels: int = 16, **arguments: object) -> nn.Module:
    return made_up(EXCITATIONS.build({"name": name, **arguments}, channels=channels, axes=axes))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def arrays(module: nn.Module) -> dict[str, np.ndarray]:
    """The weights; kernels of size 1 as matrices."""
    found = {}
    for name, value in module.state_dict().items():
        array = value.numpy()
        found[name] = array.reshape(array.shape[:2]) if array.ndim > 3 else array
    return found


def cse(x: np.ndarray, w: dict[str, np.ndarray], prefix: str = "") -> np.ndarray:
    means = x.reshape(*x.shape[:2], -1).mean(-1)
    hidden = np.maximum(means @ w[f"{prefix}squeeze.weight"].T + w[f"{prefix}squeeze.bias"], 0)
    gates = sigmoid(hidden @ w[f"{prefix}excite.weight"].T + w[f"{prefix}excite.bias"])
    return x * gates.reshape(*gates.shape, *[1] * (x.ndim - 2))


def sse(x: np.ndarray, w: dict[str, np.ndarray], prefix: str = "") -> np.ndarray:
    total = np.einsum("nc...,oc->no...", x, w[f"{prefix}excite.weight"])
    return x * sigmoid(total + w[f"{prefix}excite.bias"][0])


def scse(x: np.ndarray, w: dict[str, np.ndarray]) -> np.ndarray:
    return cse(x, w, "channel.") + sse(x, w, "spatial.")


def ese(x: np.ndarray, w: dict[str, np.ndarray]) -> np.ndarray:
    means = x.reshape(*x.shape[:2], -1).mean(-1)
    gates = np.clip(means @ w["excite.weight"].T + w["excite.bias"] + 3, 0, 6) / 6
    return x * gates.reshape(*gates.shape, *[1] * (x.ndim - 2))


def eca(x: np.ndarray, w: dict[str, np.ndarray]) -> np.ndarray:
    means = x.reshape(*x.shape[:2], -1).mean(-1)
    kernel = w["excite.weight"].reshape(-1)
    padded = np.pad(means, ((0, 0), (len(kernel) // 2,) * 2))
    gates = sigmoid(np.stack([np.correlate(row, kernel, "valid") for row in padded]))
    return x * gates.reshape(*gates.shape, *[1] * (x.ndim - 2))


def project_excite(x: np.ndarray, w: dict[str, np.ndarray]) -> np.ndarray:
    total = np.zeros_like(x)
    for axis in range(2, x.ndim):
        others = tuple(other for other in range(2, x.ndim) if other != axis)
        total += x.mean(axis=others, keepdims=True)

    def column(bias: np.ndarray) -> np.ndarray:
        return bias.reshape(-1, *[1] * (x.ndim - 2))

    hidden = np.einsum("nc...,oc->no...", total, w["squeeze.weight"]) + column(w["squeeze.bias"])
    gates = np.einsum("nc...,oc->no...", np.maximum(hidden, 0), w["excite.weight"])
    return x * sigmoid(gates + column(w["excite.bias"]))


FORMULAS: dict[str, Callable[..., np.ndarray]] = {
    "cse": cse,
    "sse": sse,
    "scse": scse,
    "ese": ese,
    "eca": eca,
    "project_excite": project_excite,
}


def test_every_excitation_has_its_formula() -> None:
    assert list(FORMULAS) == EXCITATIONS.names()


@pytest.mark.parametrize("sides", SIDES, ids=len)
@pytest.mark.parametrize("name", FORMULAS)
def test_an_excitation_is_its_formula(name: str, sides: tuple[int, ...]) -> None:
    layer, x = excitation(name, len(sides)), maps_example(16, *sides)
    with torch.no_grad():
        found = layer(x).numpy()
    np.testing.assert_allclose(found, FORMULAS[name](x.numpy(), arrays(layer)), atol=1e-12)
    assert not np.allclose(found, x.numpy())


@pytest.mark.parametrize("sides", SIDES, ids=len)
@pytest.mark.parametrize("name", FORMULAS)
def test_an_excitation_starts_with_half_open_gates(name: str, sides: tuple[int, ...]) -> None:
    torch.manual_seed(3)
    layer = EXCITATIONS.build({"name": name}, channels=32, axes=len(sides))
    x = torch.rand(2, 32, *sides, generator=torch.Generator().manual_seed(1)) + 0.1
    gates = layer(x) / x / (2 if name == "scse" else 1)
    assert gates.min() > 0.35
    assert gates.max() < 0.65
    layer(x).square().mean().backward()
    assert all(p.grad.abs().sum() > 0 for p in layer.parameters())


def test_excitations_are_those_of_the_libraries() -> None:
    x = maps_example(64, 3, 4)
    ours = excitation("scse", 2, 64)
    theirs = SCSEModule(64).double()
    with torch.no_grad():
        for mine, other in (
            (ours.channel.squeeze, theirs.cSE[1]),
            (ours.channel.excite, theirs.cSE[3]),
            (ours.spatial.excite, theirs.sSE[0]),
        ):
            other.weight.copy_(mine.weight.reshape(other.weight.shape))
            other.bias.copy_(mine.bias)
        torch.testing.assert_close(ours(x), theirs(x))

        ours = excitation("ese", 2, 64)
        theirs = timm.layers.EffectiveSEModule(64).double()
        theirs.fc.weight.copy_(ours.excite.weight[:, :, None, None])
        theirs.fc.bias.copy_(ours.excite.bias)
        torch.testing.assert_close(ours(x), theirs(x))

        for channels in (16, 64, 256, 512):
            x = maps_example(channels, 3, 4)
            ours = excitation("eca", 2, channels)
            theirs = timm.layers.EcaModule(channels).double()
            theirs.conv.weight.copy_(ours.excite.weight)
            torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize(
    ("channels", "reduction", "narrow"),
    [(64, 16, 4), (256, 16, 16), (32, 16, 4), (3, 16, 3), (8, 1, 8), (1, 2, 1)],
)
def test_a_bottleneck_has_four_channels_at_least(
    channels: int, reduction: int, narrow: int
) -> None:
    assert bottleneck(channels, reduction) == narrow
    layer = EXCITATIONS.build({"name": "cse", "reduction": reduction}, channels=channels, axes=2)
    assert layer.squeeze.weight.shape == (narrow, channels)


@pytest.mark.parametrize("axes", [2, 3])
def test_norms_are_their_formulas(axes: int) -> None:
    x = maps_example(16, *SIDES[axes - 2]) + torch.arange(16.0).view(16, *[1] * axes)
    places = tuple(range(2, 2 + axes))
    pooled = {
        "batch": x.numpy(),
        "instance": x.numpy(),
        "group": x.numpy().reshape(2, 8, 2, *x.shape[2:]),
        "layer": x.numpy().reshape(2, 1, 16, *x.shape[2:]),
    }
    over = {
        "batch": (0, *places),
        "instance": places,
        "group": tuple(range(2, 3 + axes)),
        "layer": tuple(range(2, 3 + axes)),
    }
    assert list(pooled) == NORMS.names()
    for name, values in pooled.items():
        layer = made_up(NORMS.build({"name": name}, width=16, axes=axes))
        mean = values.mean(axis=over[name], keepdims=True)
        var = values.var(axis=over[name], keepdims=True)
        plain = ((values - mean) / np.sqrt(var + 1e-5)).reshape(x.shape)
        weight, bias = (
            each.detach().numpy().reshape(16, *[1] * axes) for each in (layer.weight, layer.bias)
        )
        np.testing.assert_allclose(
            layer(x).detach().numpy(), plain * weight + bias, rtol=1e-9, atol=1e-12
        )


def test_channels_that_groups_do_not_divide_are_one_group() -> None:
    assert NORMS.build({"name": "group"}, width=12, axes=2).num_groups == 1
    assert NORMS.build({"name": "group"}, width=24, axes=3).num_groups == 8


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("relu", lambda x: max(x, 0.0)),
        ("leaky_relu", lambda x: x if x > 0 else 0.01 * x),
        ("elu", lambda x: x if x > 0 else math.exp(x) - 1),
        ("gelu", lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2),
        ("silu", lambda x: x / (1 + math.exp(-x))),
        ("mish", lambda x: x * math.tanh(math.log(1 + math.exp(x)))),
    ],
)
def test_activations_are_their_formulas(name: str, formula: Callable[[float], float]) -> None:
    values = [-3.0, -0.5, 0.0, 2.0]
    found = ACTIVATIONS.build({"name": name})(torch.tensor(values, dtype=torch.float64))
    assert found.tolist() == pytest.approx([formula(x) for x in values], abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ACTIVATIONS.names())
def test_every_activation_keeps_shape_and_type_and_has_a_gradient(name, dtype) -> None:
    values = torch.linspace(-4, 4, 60, dtype=dtype).reshape(1, 3, 4, 5)
    layer = ACTIVATIONS.build({"name": name})
    assert list(layer.parameters()) == []
    given = values.clone().requires_grad_()
    found = layer(given * 1)  # some work in place, and no leaf may be written to
    assert (found.shape, found.dtype) == (values.shape, dtype)
    assert torch.isfinite(found).all()
    found.float().sum().backward()
    assert torch.isfinite(given.grad).all()
    assert (given.grad[values > 3] > 0).all()
    # No activation is a straight line, and each is made anew.
    low, high = (
        found.detach().float()[values < -3].mean(),
        found.detach().float()[values > 3].mean(),
    )
    assert high > 3 > abs(low) + 1
    assert ACTIVATIONS.build({"name": name}) is not layer


# -- skip gates ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("factor", "sides"), [((2, 2), (3, 4)), ((1, 2, 2), (2, 3, 4))])
def test_attention_is_its_formula(factor: tuple[int, ...], sides: tuple[int, ...]) -> None:
    fine = [side * part for side, part in zip(sides, factor, strict=True)]
    skip, signal = maps_example(8, *fine), maps_example(6, *sides)
    layer = made_up(SKIP_GATES.build({"name": "attention"}, skip=8, signal=6, factor=factor))
    found = layer(skip, signal).detach().numpy()
    w, x = {key: value.numpy() for key, value in layer.state_dict().items()}, skip.numpy()

    def column(bias: np.ndarray) -> np.ndarray:
        return bias.reshape(-1, *[1] * len(sides))

    hidden = np.einsum("nc...,oc->no...", signal.numpy(), w["phi.weight"].reshape(4, 6))
    hidden = hidden + column(w["phi.bias"])
    for offset in np.ndindex(*factor):  # theta: each place of a cell has a matrix of its own
        steps = zip(offset, factor, strict=True)
        part = x[(..., *(slice(start, None, step) for start, step in steps))]
        matrix = w["theta.weight"][(slice(None), slice(None), *offset)]
        hidden = hidden + np.einsum("nc...,oc->no...", part, matrix)
    total = np.einsum("nc...,oc->no...", np.maximum(hidden, 0), w["psi.weight"].reshape(1, 4))
    gates = sigmoid(total + column(w["psi.bias"]))
    for axis, (step, side) in enumerate(zip(factor, sides, strict=True), start=2):
        if step == 2:  # coarse pixel i lies between the fine 2 i and 2 i + 1; held at the ends
            at = np.clip((np.arange(2 * side) + 0.5) / 2 - 0.5, 0, side - 1)
            low = np.floor(at).astype(int)
            high = np.minimum(low + 1, side - 1)
            share = (at - low).reshape(-1, *[1] * (gates.ndim - 1 - axis))
            gates = gates.take(low, axis) * (1 - share) + gates.take(high, axis) * share
    np.testing.assert_allclose(found, x * gates, atol=1e-12)


def test_attention_starts_half_open() -> None:
    torch.manual_seed(3)
    layer = SKIP_GATES.build({"name": "attention"}, skip=32, signal=64, factor=(2, 2))
    generator = torch.Generator().manual_seed(1)
    skip, signal = torch.rand(2, 32, 8, 8, generator=generator) + 0.1, torch.rand(2, 64, 4, 4)
    gates = layer(skip, signal) / skip
    assert gates.min() > 0.2
    assert gates.max() < 0.8


# -- fusions ---------------------------------------------------------------------------------------


def by_hand(name: str, axes: int) -> torch.Tensor:
    """A fusion again, out of torch's functions and the weights by their names."""
    maps, pyramid = pyramid_example(axes)
    layer = made_up(FUSIONS.build({"name": name}, maps=maps))
    weights = layer.state_dict()
    convolve = functional.conv2d if axes == 2 else functional.conv3d

    def block(x: torch.Tensor, at: str) -> torch.Tensor:
        x = convolve(x, weights[f"{at}.0.weight"], padding=1)
        x = functional.group_norm(x, 1, weights[f"{at}.1.weight"], weights[f"{at}.1.bias"])
        return functional.relu(x)

    def up(x: torch.Tensor) -> torch.Tensor:
        mode = {2: "bilinear", 3: "trilinear"}[axes]
        return functional.interpolate(x, scale_factor=2, mode=mode, align_corners=False)

    def parallel(at: str) -> torch.Tensor:
        fine, middle, coarse = pyramid
        total = block(fine, f"{at}0.steps.0") + up(block(middle, f"{at}1.steps.0"))
        return total + up(block(up(block(coarse, f"{at}2.steps.0")), f"{at}2.steps.1"))

    def cascade(at: str) -> torch.Tensor:
        x = block(pyramid[2], f"{at}refine.2")
        for level in (1, 0):
            weight, bias = (weights[f"{at}reduce.{level}.{kind}"] for kind in ("weight", "bias"))
            x = block(up(x) + convolve(pyramid[level], weight, bias), f"{at}refine.{level}")
        return x

    if name == "parallel":
        expected = parallel("")
    elif name == "cascade":
        expected = cascade("")
    else:
        share = 1 / (1 + torch.exp(-weights["balance"]))
        expected = cascade("cascade.") + share * (parallel("parallel.") - cascade("cascade."))
    with torch.no_grad():
        torch.testing.assert_close(layer(pyramid), expected)
    return expected


@pytest.mark.parametrize("axes", [2, 3])
def test_fusions_by_hand(axes: int) -> None:
    answers = [by_hand(name, axes) for name in FUSIONS.names()]
    assert all(answer.shape == (2, 4, *[8] * axes) for answer in answers)
    assert not any(torch.allclose(a, b) for a, b in pairwise(answers))


def test_fusions_have_blocks_of_one_width() -> None:
    maps, _ = pyramid_example(2)

    def blocks(name: str) -> list[tuple[int, ...]]:
        layer = FUSIONS.build({"name": name}, maps=maps)
        kernels = [
            m for m in layer.modules() if isinstance(m, nn.Conv2d) and m.kernel_size > (1, 1)
        ]
        return sorted((m.in_channels, m.out_channels) for m in kernels)

    assert blocks("parallel") == [(4, 4), (5, 4), (5, 4), (5, 4)]
    assert blocks("cascade") == [(4, 4), (4, 4), (5, 4)]
    assert blocks("parallel_cascade") == sorted(blocks("parallel") + blocks("cascade"))


def test_both_fusions_start_with_equal_shares() -> None:
    maps, pyramid = pyramid_example(2)
    torch.manual_seed(0)
    both = FUSIONS.build({"name": "parallel_cascade"}, maps=maps).double()
    with torch.no_grad():
        mean = (both.parallel(pyramid) + both.cascade(pyramid)) / 2
        torch.testing.assert_close(both(pyramid), mean)
    assert isinstance(both.parallel, Parallel)


# -- convolutions ----------------------------------------------------------------------------------


def correlated(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Of (C, D, H, W) with a kernel of as many places: zeros beyond the borders."""
    pairs = zip(x, kernel, strict=True)
    return sum(ndimage.correlate(a, b, mode="constant") for a, b in pairs)


def convolved(name: str, x: np.ndarray, weights: list[np.ndarray]) -> np.ndarray:
    """A convolution again, in numpy and scipy, of x (N, C, D, H, W)."""
    if name == "separated":
        points, kernels = weights
        mixed = np.einsum("nczyx,oc->nozyx", x, points[..., 0, 0, 0])
        pairs = [zip(each[:, None], kernels, strict=True) for each in mixed]
        return np.stack([[correlated(*pair) for pair in each] for each in pairs])
    (kernels,) = weights
    if name == "shifted":  # of 16 channels 2 each way
        x = x.copy()
        behind, before = x[:, :2].copy(), x[:, 2:4].copy()
        x[:, :4] = 0
        x[:, :2, :-1], x[:, 2:4, 1:] = behind[:, :, 1:], before[:, :, :-1]
    return np.stack([[correlated(each, kernel) for kernel in kernels] for each in x])


@pytest.mark.parametrize(
    ("name", "weights"), [("full", 27 * 16 * 6), ("separated", (16 + 27) * 6), ("shifted", 864)]
)
def test_a_convolution_is_its_formula(name: str, weights: int) -> None:
    layer = CONVOLUTIONS.build({"name": name}, inputs=16, outputs=6, kernel=(3, 3, 3))
    layer, x = made_up(layer), maps_example(16, 3, 4, 5)
    assert sum(p.numel() for p in layer.parameters()) == weights
    arrays_ = [p.detach().numpy() for p in layer.parameters()]
    with torch.no_grad():
        np.testing.assert_allclose(
            layer(x).numpy(), convolved(name, x.numpy(), arrays_), atol=1e-12
        )


@pytest.mark.parametrize("name", CONVOLUTIONS.names())
def test_a_convolution_keeps_the_size_and_sees_what_its_kernel_has(name: str) -> None:
    torch.manual_seed(0)
    for kernel, slices in (((3, 3, 3), [1, 2, 3]), ((1, 3, 3), [2])):
        layer = CONVOLUTIONS.build({"name": name}, inputs=4, outputs=3, kernel=kernel)
        volume = torch.randn(1, 4, 5, 4, 6, requires_grad=True)
        answer = layer(volume)
        assert answer.shape == (1, 3, 5, 4, 6)
        answer[:, :, 2].square().sum().backward()
        assert volume.grad.abs().sum(dim=(0, 1, 3, 4)).nonzero().flatten().tolist() == slices
        assert layer(volume[:, :, :1]).shape == (1, 3, 1, 4, 6)


@pytest.mark.parametrize(("channels", "moved"), [(1, 0), (3, 0), (4, 1), (15, 1), (32, 4)])
def test_an_eighth_of_the_channels_is_shifted_each_way(channels: int, moved: int) -> None:
    layer = CONVOLUTIONS.build({"name": "shifted"}, inputs=channels, outputs=1, kernel=(3, 1, 1))
    with torch.no_grad():
        layer.convolution.weight.fill_(1.0)
    volume = torch.zeros(1, channels, 3, 1, 1)
    volume[:, :, 1] = 1.0
    counts = layer(volume).flatten().tolist()
    assert counts == [moved, channels - 2 * moved, moved]


# -- fusions of windows ----------------------------------------------------------------------------


def over_windows(name: str, x: np.ndarray, w: dict[str, np.ndarray]) -> np.ndarray:
    """A fusion again, in numpy, of x (B, windows, C, H, W)."""
    if name == "attention":
        scores = np.einsum("bnchw,c->bnhw", x, w["weight"][:, 0]) + w["bias"][:, None, None]
        shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        return np.einsum("bnchw,bnhw->bchw", x, shares)
    if name == "conv3d":
        return np.einsum("bnchw,ocn->bohw", x, w["convolution.weight"][..., 0, 0])
    return {"mean": np.mean, "max": np.max}[name](x, axis=1)


@pytest.mark.parametrize("name", WINDOW_FUSIONS.names())
def test_a_fusion_of_windows_is_its_formula(name: str) -> None:
    layer = WINDOW_FUSIONS.build({"name": name}, channels=4, windows=3).double()
    x = maps_example(12, 2, 5).unflatten(1, (3, 4))
    with torch.no_grad():
        if name != "max":  # arms of an ablation begin alike
            np.testing.assert_allclose(layer(x).numpy(), x.numpy().mean(axis=1), atol=1e-12)
        layer = made_up(layer)
        weights = {key: value.numpy() for key, value in layer.state_dict().items()}
        expected = over_windows(name, x.numpy(), weights)
        np.testing.assert_allclose(layer(x).numpy(), expected, atol=1e-12)


#: Models with an encoder of our own.
OWN = ("wnet", "unet3d", "unet25d", "fpn3d")


# -- in models -------------------------------------------------------------------------------------


def small(name: str, **arguments: object) -> nn.Module:
    """A model of one class; the state of the generator afterwards is that of its weights."""
    spec = {"name": name, **({"encoder": "resnet18"} if name not in OWN else {}), **arguments}
    torch.manual_seed(0)
    return MODELS.build(spec, in_channels=1, classes=1)


def sample(model: nn.Module) -> torch.Tensor:
    divisor = model.divisor
    sides = (64, 64) if isinstance(divisor, int) else tuple(2 * side for side in divisor)
    return torch.rand(2, 1, *sides, generator=torch.Generator().manual_seed(1))


def places_of(name: str) -> list[str]:
    """All of its decoder's, and the encoder."""
    nested = name == "unetplusplus"
    return ["encoder", "skip"] if nested else ["encoder", "skip", "decoder"]


@pytest.mark.parametrize(
    ("name", "place"), [(name, place) for name in MODELS_WITH_SE for place in places_of(name)]
)
def test_gates_stand_where_they_are_asked_for_and_change_nothing_else(
    name: str, place: str
) -> None:
    plain, gated = small(name), small(name, se="eca", se_at=place)
    image = sample(plain)
    # Arms of an ablation start from the same weights but for the gates' own.
    shared = plain.state_dict()
    found = gated.state_dict()
    own = set(found) - set(shared)
    assert own
    assert all(torch.equal(found[key], value) for key, value in shared.items())
    plain.train()
    gated.train()
    answers = [first(model(image)) for model in (plain, gated)]
    assert not torch.equal(*answers)
    answers[1].square().mean().backward()
    silent = [key for key, p in gated.named_parameters() if key in own and not p.grad.any()]
    assert not silent
    with torch.no_grad():  # gates of 1/2 everywhere: they were built and are used
        for key, parameter in gated.named_parameters():
            if key in own:
                parameter.zero_()
    assert torch.isfinite(first(gated(image))).all()


@pytest.mark.parametrize("name", MODELS_WITH_SE)
def test_a_copy_has_gates_of_its_own(name: str) -> None:
    model = small(name, se="sse", se_at=places_of(name)).eval()
    image = sample(model)
    before = model(image).detach()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for key, parameter in twin.named_parameters():
            if "gates." in key:
                parameter.add_(1.0)
    assert torch.equal(model(image), before)
    assert not torch.equal(twin(image), before)


@pytest.mark.parametrize("name", sorted({*MODELS_WITH_SE} - {*OWN}))
def test_an_encoder_without_ends_of_its_levels_takes_no_gates(name: str) -> None:
    spec: dict[str, object] = {"name": name, "encoder": "dpn68", "se": "cse", "se_at": "encoder"}
    with pytest.raises(UserError) as caught:
        MODELS.validate(spec, where="model")
    assert str(caught.value) == (
        "model.se_at: encoder 'dpn68' has no modules that end its levels; allowed: skip, decoder "
        "beside encoders dpn*, mit_b*"
    )
    MODELS.validate({**spec, "se_at": "skip"})
    MODELS.validate({**spec, "se": None, "se_at": "encoder"})


def first(answer: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    return answer[0] if isinstance(answer, tuple) else answer


@pytest.mark.parametrize("name", MODELS_WITH_SE)
def test_places_add_up(name: str) -> None:
    def gates(place: object) -> int:
        return sum(p.numel() for p in small(name, se="sse", se_at=place).parameters())

    none = sum(p.numel() for p in small(name).parameters())
    alone = [gates(place) - none for place in places_of(name)]
    assert min(alone) > 0
    assert gates(places_of(name)) - none == sum(alone)


MODELS_WITH_SKIPS = [part.name for part in MODELS if "skip_gate" in part.arguments.model_fields]


@pytest.mark.parametrize("name", MODELS_WITH_SKIPS)
@pytest.mark.parametrize("gate", SKIP_GATES.names())
def test_gates_of_skips_change_nothing_else_and_belong_to_one_model(name: str, gate: str) -> None:
    plain, gated = small(name), small(name, skip_gate=gate)
    shared, found = plain.state_dict(), gated.state_dict()
    assert all(torch.equal(found[key], value) for key, value in shared.items())
    own = {key for key, _ in gated.named_parameters()} - set(shared)
    # One gate of four tensors and a bias for each skip, in each U-Net.
    assert len(own) == 5 * {"wnet": 4, "unet3d": 2}.get(name, 4)
    image = sample(plain)
    answers = [first(model.train()(image)) for model in (plain, gated)]
    assert not torch.equal(*answers)
    answers[1].square().mean().backward()
    assert not [key for key, p in gated.named_parameters() if key in own and not p.grad.any()]

    before = gated.eval()(image).detach()
    twin = copy.deepcopy(gated)
    with torch.no_grad():
        for key, parameter in twin.named_parameters():
            if key.endswith("psi.bias") and key in own:  # shut
                parameter.fill_(-1e4)
    assert torch.equal(gated(image), before)
    assert not torch.equal(twin(image), before)
    assert torch.isfinite(twin(image)).all()


@pytest.mark.parametrize("name", MODELS_WITH_SKIPS)
def test_a_shut_gate_leaves_only_the_decoder(name: str) -> None:
    """Then what a skip's excitation does makes no difference: the gate stands behind it."""
    answers = []
    for bias in (0.0, 3.0):
        model = small(name, skip_gate="attention", se="sse", se_at="skip").eval()
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if key.endswith("psi.bias"):
                    parameter.fill_(-1e4)
                elif "gates.skip" in key and key.endswith("bias"):
                    parameter.fill_(bias)
            answers.append(model(sample(model)))
    assert torch.equal(*answers)


def test_an_encoder_without_a_map_at_stride_2_has_no_gate_there() -> None:
    torch.manual_seed(0)
    spec = {"name": "unet", "encoder": "mit_b0", "skip_gate": "attention"}
    model = MODELS.build(spec, in_channels=3, classes=1).eval()
    assert list(model.skip_gates) == ["4", "3", "2"]
    assert torch.isfinite(model(torch.rand(1, 3, 64, 64))).all()


@pytest.mark.parametrize(
    "registry", [CONVOLUTIONS, NORMS, ACTIVATIONS, FUSIONS], ids=lambda r: r.kind
)
@pytest.mark.parametrize("name", [part.name for part in MODELS])
def test_models_take_every_layer_that_they_name(name: str, registry: Registry) -> None:
    kind = registry.kind
    if kind not in MODELS.part(name).arguments.model_fields:
        return
    answers = []
    for layer in registry.names():
        model = small(name, **{kind: layer}).eval()
        with torch.no_grad():
            answers.append(model(sample(model)))
    assert all(torch.isfinite(answer).all() for answer in answers)
    assert len({float(answer.sum()) for answer in answers}) == len(answers)


def canonical(name: str, **arguments: object) -> dict[str, object]:
    return MODELS.canonical(MODELS.validate({"name": name, **arguments}))


def test_what_says_nothing_names_no_run() -> None:
    plain = canonical("wnet")
    assert plain == {"name": "wnet", "version": 1}
    assert canonical("wnet", se_at="skip", se_reduction=4) == plain
    assert canonical("wnet", se="eca", se_reduction=4) == canonical("wnet", se="eca")
    assert canonical("wnet", se="cse", se_reduction=4) == {**plain, "se": "cse", "se_reduction": 4}
    listed = canonical("wnet", se="cse", se_at=["skip", "encoder", "skip"])
    assert listed == canonical("wnet", se="cse", se_at=["encoder", "skip"])
    assert canonical("wnet", se="cse", se_at=["encoder"]) == canonical("wnet", se="cse")


def test_shifted_convolutions_that_shift_nothing_name_no_run() -> None:
    for name, levels in (("unet3d", 3), ("fpn3d", 4)):
        flat = canonical(name, flat_levels=levels)
        assert canonical(name, convolution="full") == {"name": name, "version": 1}
        assert canonical(name, flat_levels=levels, convolution="shifted") == flat
        beside = {**flat, "flat_levels": levels - 1, "convolution": "shifted"}
        assert canonical(name, flat_levels=levels - 1, convolution="shifted") == beside
        models = [small(name, flat_levels=5, convolution=each) for each in ("full", "shifted")]
        pairs = zip(*(model.state_dict().items() for model in models), strict=True)
        assert all(a == b and torch.equal(one, other) for (a, one), (b, other) in pairs)


@pytest.mark.parametrize("name", ["unet3d", "fpn3d"])
def test_cheaper_convolutions_have_fewer_weights(name: str) -> None:
    counts = {
        each: sum(p.numel() for p in small(name, convolution=each).parameters())
        for each in CONVOLUTIONS.names()
    }
    assert counts["separated"] < counts["shifted"] < counts["full"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"se": "csse"}, "model.se: 'csse' is not allowed; allowed: cse, sse, scse"),
        ({"se": "cse", "se_at": "bridge"}, "model.se_at"),
        ({"se": "cse", "se_at": []}, "model.se_at"),
        (
            {"se_reduction": 0},
            "model.se_reduction: 0 is not allowed; allowed: a whole number, 1 or more",
        ),
        ({"norm": "bacth"}, "did you mean 'batch'?"),
        ({"activation": "tanh"}, "model.activation: 'tanh' is not allowed; allowed: relu"),
    ],
)
def test_bad_layers_are_refused_in_a_line(arguments: dict[str, object], line: str) -> None:
    with pytest.raises(UserError) as caught:
        MODELS.validate({"name": "wnet", **arguments}, where="model")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_branches_are_put_side_by_side() -> None:
    with pytest.raises(UserError, match="the fusion cascade has nothing to put side by side"):
        MODELS.validate({"name": "fpn3d", "fusion": "cascade", "merge": "cat"}, where="model")
