"""Widths that are scaled to a number of parameters, beside every other way to scale them."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vesselflow.errors import UserError
from vesselflow.models import MODELS
from vesselflow.models.arguments import GROUPS
from vesselflow.models.trial import parameters_of
from vesselflow.models.widths import MOST, Ladder, match

torch.set_num_threads(1)

SPECS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["wnet", "fpn3d"]),
        "filters": st.lists(st.integers(1, 40), min_size=2, max_size=4),
        "norm": st.sampled_from(["batch", "group"]),
    }
)


def chain(spec) -> int:
    """Weights of 3 x 3 convolutions, one after the other: a model that costs nothing to count."""
    widths = [1, *spec["filters"], spec.get("pyramid_channels", 1)]
    return 9 * sum(one * other for one, other in pairwise(widths))


def flat(spec, keys) -> list[int]:
    return [width for key in keys for width in torch.tensor(spec[key]).flatten().tolist()]


@settings(max_examples=30, deadline=None)
@given(SPECS, st.sampled_from([0.3, 0.5, 0.77, 1.0, 1.3, 2.0, 3.1, MOST]))
def test_a_factor_rounds_each_width_and_a_rung_widens_one(spec, factor) -> None:
    if spec["name"] == "fpn3d":
        spec["finest_level"] = 0
    ladder = Ladder(spec)
    full = MODELS.validate(spec)
    assert ladder[ladder.at(1)] == full
    before, here = ladder[max(ladder.at(factor) - 1, 0)], ladder[ladder.at(factor)]
    steps = [b - a for a, b in zip(flat(before, ladder.keys), flat(here, ladder.keys), strict=True)]
    assert sorted(steps)[:-1] == [0] * (len(steps) - 1)
    for key in ladder.keys:
        pairs = zip(flat(full, [key]), flat(here, [key]), strict=True)
        for width, scaled in pairs:
            if spec["norm"] == "batch" or key == "pyramid_channels":
                rounded = min(max(math.floor(factor * width + 0.5), 1), MOST * width)
                assert scaled == rounded
            else:  # as many groups as before
                assert (width % GROUPS == 0) == (scaled % GROUPS == 0)
                assert abs(scaled - factor * width) <= GROUPS
    others = set(full) - set(ladder.keys)
    assert {key: here[key] for key in others} == {key: full[key] for key in others}


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=3),
    st.sampled_from(["batch", "group"]),
    st.integers(1, 20_000),
)
def test_no_rung_is_nearer_than_the_one_that_is_taken(filters, norm, wanted) -> None:
    spec = {"name": "wnet", "filters": filters, "norm": norm}
    ladder = Ladder(spec)
    counts = [chain(ladder[rung]) for rung in range(len(ladder))]
    assert counts == sorted(counts)
    model, parameters = match(spec, wanted, chain)
    assert chain(model) == parameters
    assert abs(parameters - wanted) == min(abs(count - wanted) for count in counts)


@settings(max_examples=25, deadline=None)
@given(SPECS)
def test_what_has_the_number_stays_as_it_is(spec) -> None:
    if spec["name"] == "fpn3d":
        spec["finest_level"] = 0
    full = MODELS.validate(spec)
    assert match(spec, chain(full), chain) == (full, chain(full))


def count(spec, shape) -> int:
    return parameters_of(spec, **shape)


FLAT = {"channels": 3, "classes": 1, "stride": 1}
DEEP = {"channels": 1, "classes": 2, "stride": 1}


@pytest.mark.parametrize(
    ("reference", "arm", "shape", "off"),
    [
        ({"name": "wnet"}, {"se": "scse", "se_at": ["encoder", "skip", "decoder"]}, FLAT, 0.02),
        ({"name": "wnet"}, {"name": "fpn2d", "encoder": "resnet18"}, FLAT, None),
        ({"name": "wnet"}, {"convolutions": 4}, FLAT, 0.03),
        ({"name": "unet3d"}, {"convolution": "separated"}, DEEP, 0.03),
        ({"name": "unet3d"}, {"flat_levels": 1, "norm": "group"}, {**DEEP, "stride": 2}, 0.05),
        ({"name": "unet25d"}, {"name": "unet3d"}, DEEP, 0.03),
        ({"name": "unet25d"}, {"stem": "conv3d", "stem_filters": [16]}, DEEP, 0.03),
        ({"name": "fpn3d"}, {"fusion": "parallel_cascade"}, DEEP, 0.05),
        ({"name": "fpn3d"}, {"fusion": "cascade"}, DEEP, 0.03),
        ({"name": "fpn2d", "encoder": "resnet18"}, {"fusion": "cascade"}, FLAT, 0.01),
        ({"name": "unet", "encoder": "resnet18"}, {"name": "unetplusplus"}, FLAT, 0.01),
        ({"name": "unet", "encoder": "resnet18"}, {"attention": "scse"}, FLAT, 0.01),
        ({"name": "unet", "encoder": "resnet18"}, {"name": "linknet"}, FLAT, None),
    ],
)
def test_arms_get_the_parameters_of_the_reference(reference, arm, shape, off) -> None:
    """None: what is given alone has more, or there is nothing to scale."""
    wanted, given = count(reference, shape), {**reference, **arm}
    before = count(given, shape)
    model, parameters = match(given, wanted, lambda spec: count(spec, shape))
    assert abs(parameters - wanted) <= abs(before - wanted)
    assert (abs(parameters / wanted - 1) <= 0.05) == (off is not None)
    assert off is None or abs(parameters / wanted - 1) <= off
    built = MODELS.build(model, in_channels=shape["channels"], classes=shape["classes"])
    if shape["stride"] == 1:  # beside the model itself, with memory
        assert sum(p.numel() for p in built.parameters()) == parameters


def test_attention_of_the_library_keeps_a_channel() -> None:
    spec = {"name": "unet", "encoder": "resnet18", "attention": "scse"}
    assert Ladder(spec)[0]["decoder_channels"] == [16] * 5
    with pytest.raises(UserError, match=r"fewer than 16 channels; allowed: 16 or more each"):
        MODELS.validate({**spec, "decoder_channels": [64, 32, 16, 16, 8]}, where="model")
    assert Ladder({**spec, "attention": None})[0]["decoder_channels"] == [1] * 5


def test_a_group_norm_keeps_its_groups() -> None:
    spec = {"name": "wnet", "filters": [8, 16, 12], "norm": "group"}
    ladder = Ladder(spec)
    assert ladder[0]["filters"] == [8, 8, 1]
    assert ladder[ladder.at(1.5)]["filters"] == [16, 24, 18]
    # 16 would have eight groups in place of one: of 15 and 17, it is rounded up.
    assert ladder[ladder.at(4 / 3)]["filters"] == [8, 24, 17]


def test_widths_without_effect_stay_as_they_are() -> None:
    spec = MODELS.validate({"name": "wnet"})
    assert match(spec, 7, lambda _: 5) == (spec, 5)
    assert match(spec, 3, lambda _: 5) == (spec, 5)
