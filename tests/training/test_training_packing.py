"""Packed state comes back as it was, whatever it is made of."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vesselflow.training import packing
from vesselflow.training.packing import dump, load

TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
LAYOUTS = ("plain", "transposed", "channels last", "part", "expanded")


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    draws = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    kind, layout = draw(st.sampled_from(TYPES)), draw(st.sampled_from(LAYOUTS))
    tensor = (torch.randn(shape, generator=draws) * 50).to(kind)
    if layout == "transposed" and len(shape) > 1:
        return tensor.transpose(0, 1)
    if layout == "channels last" and len(shape) == 4:
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "part" and shape and shape[-1]:
        return tensor[..., ::2]
    if layout == "expanded":
        return tensor.unsqueeze(0).expand(3, *shape)
    return tensor


STATES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | tensors(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=12,
)


def assert_same(found: Any, given: Any) -> None:
    assert type(found) is type(given)
    if isinstance(given, torch.Tensor):
        assert (found.dtype, found.shape) == (given.dtype, given.shape)
        assert torch.equal(found, given)
    elif isinstance(given, dict):
        assert list(found) == list(given)
        for key, entry in given.items():
            assert_same(found[key], entry)
    elif isinstance(given, list | tuple):
        assert len(found) == len(given)
        for one, other in zip(found, given, strict=True):
            assert_same(one, other)
    elif isinstance(given, float) and math.isnan(given):
        assert math.isnan(found)
    else:
        assert found == given


@given(STATES)
def test_whatever_is_packed_comes_back(state: Any) -> None:
    assert_same(load(dump(state)), state)


@pytest.mark.parametrize("size", [packing.SMALL, packing.SMALL + 1])
def test_large_tensors_are_kept_as_they_are(size: int) -> None:
    tensor = torch.arange(size)
    assert torch.equal(load(dump([tensor, torch.ones(2)]))[0], tensor)


def test_layouts_are_kept() -> None:
    image = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    found = load(dump(image))
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, image)


def test_values_are_exact() -> None:
    weights = torch.tensor([math.nan, math.inf, -0.0, 1e-45, 0.1])
    found = load(dump({"w": weights, "x": [0.1, 1e300, -0.0, math.inf, 2**70]}))
    assert torch.equal(found["w"].view(torch.int32), weights.view(torch.int32))
    assert found["x"] == [0.1, 1e300, -0.0, math.inf, 2**70]
    assert math.copysign(1, found["x"][2]) == -1


def test_what_is_loaded_is_its_own() -> None:
    one, other = load(dump([torch.zeros(2), torch.zeros(2)]))
    one += 1
    assert other.tolist() == [0, 0]


@given(STATES)
def test_whatever_is_packed_on_a_gpu_comes_back(state: Any) -> None:
    # Without one: the way that its tensors take, large ones by themselves, the others joined.
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(packing, "_on_gpu", lambda tensor: True)
        patched.setattr(packing, "_settle", lambda: None)
        patched.setattr(packing, "SMALL", 6)
        payload = dump(state)
    assert_same(load(payload), state)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_state_on_a_gpu_comes_back_on_the_cpu() -> None:
    draws = torch.Generator().manual_seed(0)
    state = {
        "large": torch.randn(packing.SMALL + 1, generator=draws),
        "small": [torch.randn(3, 4, 2, 2, generator=draws) for _ in range(20)],
        "step": torch.tensor(3.0),
    }
    moved = {
        "large": state["large"].cuda(),
        "small": [part.cuda().to(memory_format=torch.channels_last) for part in state["small"]],
        "step": state["step"],
    }
    assert_same(load(dump(moved)), state)
