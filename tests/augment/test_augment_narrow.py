"""Keypoints on a device without float64, as torch pretends to have it: types, no numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vesselflow.augment import mirrors
from vesselflow.augment.mirrors import move_reflected
from vesselflow.augment.moving import moved
from vesselflow.targets.keypoints import Keypoints, exact_device

MPS = torch.device("mps", 0)


class NoDoubles(TorchDispatchMode):
    """Refuses float64 on a Mac's device, as that device does."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for each in tree_leaves(found):
            if isinstance(each, torch.Tensor) and each.device.type == "mps":
                assert each.dtype != torch.float64, func
        return found


@pytest.fixture
def mac() -> Iterator[None]:
    with NoDoubles(), FakeTensorMode():
        yield


def points(device: torch.device) -> Keypoints:
    return Keypoints(
        torch.zeros(5, 3, device=device),
        torch.zeros(5, dtype=torch.int64, device=device),
        torch.zeros(5, dtype=torch.int64, device=device),
        torch.zeros(5, 3, 3, device=device),
    )


@pytest.mark.usefixtures("mac")
def test_maps_are_computed_on_the_cpu() -> None:
    held = points(MPS)
    for matrix in (torch.zeros(3, 4, dtype=torch.float64), torch.zeros(5, 3, 4, device=MPS)):
        there = held.transformed(matrix)
        assert there.covariance is not None
        assert there.coordinates.device == there.covariance.device == MPS
        assert there.coordinates.dtype == there.covariance.dtype == torch.float32
    there = moved(held, [0, 2], torch.zeros(2, 3, 4, dtype=torch.float64), 3)
    assert there.coordinates.device == MPS


@pytest.mark.usefixtures("mac")
def test_the_pretence_would_be_seen_through() -> None:
    with pytest.raises(AssertionError, match="_to_copy"):
        points(MPS).coordinates.double()


def test_mirrors_are_computed_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    here = points(torch.device("cpu"))
    arguments = ((8, 8, 8), [0], torch.tensor([[[-3.0] * 3, [10.0] * 3]]).double(), 1, lambda p: p)
    expected = move_reflected(here, *arguments)
    asked: list[torch.device] = []

    def nowhere(device: torch.device) -> torch.device:
        """The first time another device, which is the same one."""
        asked.append(device)
        return torch.device("cpu", 0) if len(asked) == 1 else device

    monkeypatch.setattr(mirrors, "exact_device", nowhere)
    found = move_reflected(here, *arguments)
    assert len(asked) == 2
    assert len(found) == len(expected) > len(here)
    assert torch.equal(found.coordinates, expected.coordinates)


def test_only_such_devices_are_left() -> None:
    assert exact_device(MPS) == torch.device("cpu")
    for name in ("cpu", "cuda", "meta"):
        assert exact_device(torch.device(name)) == torch.device(name)
